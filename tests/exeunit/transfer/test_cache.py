"""The image cache, and the byte budget that it shares with compiled modules."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
from typing import TYPE_CHECKING

import pytest

from exeunit.transfer.budget import evict_oldest
from exeunit.transfer.cache import ImageCache
from exeunit.transfer.errors import BadLocation, NoRoom, WrongHash
from exeunit.transfer.file import FileScheme
from exeunit.transfer.location import Location, parse_location
from exeunit.transfer.transfer import Transfers

if TYPE_CHECKING:
    from pathlib import Path

numbers = itertools.count()


def unique() -> str:
    return str(next(numbers))


class World:
    def __init__(self, directory: Path, budget: int = 1000, max_image: int = 600) -> None:
        self.directory = directory
        self.images = directory / "cache" / "images"
        self.cache = ImageCache(directory / "cache", unique, budget=budget, max_image=max_image)
        self.transfers = Transfers({"file": FileScheme(unique)})

    def image(self, content: bytes, digest: str | None = None) -> Location:
        path = self.directory / hashlib.sha256(content).hexdigest()[:8]
        path.write_bytes(content)
        digest = digest or hashlib.sha3_224(content).hexdigest()
        return parse_location(f"hash:sha3:{digest}:file:{path}", "file")

    async def get(self, location: Location) -> tuple[Path, bool]:
        return await self.cache.get(self.transfers, location)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_the_second_time_it_is_there(world: World) -> None:
    location = world.image(b"image")
    path, cached = await world.get(location)
    assert (path.read_bytes(), cached) == (b"image", False)
    os.unlink(location.url.removeprefix("file:"))
    assert await world.get(location) == (path, True)


async def test_an_image_needs_a_hash(world: World) -> None:
    with pytest.raises(BadLocation, match="with its hash"):
        await world.get(parse_location("file:/x", "file"))


async def test_a_wrong_image_is_not_kept(world: World) -> None:
    with pytest.raises(WrongHash):
        await world.get(world.image(b"image", "ab" * 28))
    assert list(world.images.iterdir()) == []


async def test_an_image_that_is_too_large_is_refused(world: World) -> None:
    with pytest.raises(NoRoom):
        await world.get(world.image(bytes(601)))
    assert list(world.images.iterdir()) == []


async def test_the_longest_unused_goes_first(world: World) -> None:
    first, second, third = (world.image(bytes([number]) * 400) for number in range(3))
    for age, location in ((100, first), (200, second)):
        path, _ = await world.get(location)
        os.utime(path, (age, age))
    path, cached = await world.get(first)
    assert cached
    assert path.stat().st_mtime > 200
    await world.get(third)
    assert (await world.get(first))[1]
    assert not (await world.get(second))[1]


async def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_is_not(world: World) -> None:
    await world.get(world.image(b"x"))
    (world.images / "dead.1.part").write_bytes(b"left over")
    living = world.images / "living.2.part"
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        await world.get(world.image(b"y"))
        assert living.exists()
    assert not (world.images / "dead.1.part").exists()


def test_evict_keeps_to_the_budget(tmp_path: Path) -> None:
    for age, name in enumerate("abc"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (age, age))
    (tmp_path / "directory").mkdir()
    assert evict_oldest(str(tmp_path), 30) == []
    assert evict_oldest(str(tmp_path), 15, keep=frozenset("a")) == ["b", "c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "directory"]
    assert evict_oldest(str(tmp_path / "nowhere"), 0) == []
