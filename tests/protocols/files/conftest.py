"""Files on virtual time: what a thread would do, trio's files included, happens at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2p.testing.determinism import threads_run_inline

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def inline_threads() -> Iterator[None]:
    with threads_run_inline():
        yield
