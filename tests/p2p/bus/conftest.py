"""A node's bus, its door, and two nodes on a network in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from p2p.bus.door import Door
from p2p.bus.router import LocalBus
from p2p.entropy import SeededEntropy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import trio

NODE = "0x" + "1" * 40


@pytest.fixture
def bus() -> LocalBus:
    return LocalBus(NODE)


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own tmp_path is longer than a unix socket's path may be on some machines.
    with tempfile.TemporaryDirectory(prefix="bus-") as name:
        yield Path(name)


@pytest.fixture
async def door(bus: LocalBus, folder: Path, nursery: trio.Nursery) -> AsyncIterator[Door]:
    door = Door(bus, folder / "bus.sock", entropy=SeededEntropy(1))
    async with door.running():
        yield door
