from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.node.devnet.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    # Imported here: it takes half a second, and most tests of this folder do without the EVM.
    from tests.node.devnet.world import World

    made = World(tmp_path / "chain.sqlite3")
    yield made
    made.storage.close()
