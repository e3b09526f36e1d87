"""`container:` places, with a guest that plants traps in its volume."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import pytest

from exeunit.transfer.container import ContainerScheme, Volume
from exeunit.transfer.errors import BadLocation, NoRoom, TransferError
from exeunit.transfer.file import FileScheme
from exeunit.transfer.location import parse_location
from exeunit.transfer.transfer import Transfers

if TYPE_CHECKING:
    from pathlib import Path

numbers = itertools.count()


def unique() -> str:
    return str(next(numbers))


class Box:
    """A work directory with two volumes, one inside the other's path, and a secret beside them."""

    def __init__(self, directory: Path) -> None:
        self.outer, self.inner = directory / "vol-1", directory / "vol-2"
        self.secret = directory / "secret"
        self.source = directory / "source"
        self.out = directory / "out"
        for path in (self.outer, self.inner):
            path.mkdir()
        self.secret.write_bytes(b"secret")
        self.source.write_bytes(b"content")
        self.room = 1 << 20
        volumes = [Volume("/golem", str(self.outer)), Volume("/golem/work", str(self.inner))]
        self.transfers = Transfers(
            {
                "container": ContainerScheme(lambda: volumes, lambda: self.room, unique),
                "file": FileScheme(unique),
            }
        )

    async def copy(self, source: str, target: str) -> int:
        return await self.transfers.transfer(
            parse_location(source, "container"), parse_location(target, "container")
        )

    async def put(self, target: str) -> int:
        return await self.copy(f"file:{self.source}", target)

    async def get(self, source: str) -> bytes:
        await self.copy(source, f"file:{self.out}")
        return self.out.read_bytes()


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_the_longest_prefix_wins(box: Box) -> None:
    assert await box.put("container:/golem/work/x") == 7
    assert (box.inner / "x").read_bytes() == b"content"
    await box.put("/golem/workshop/x")
    assert (box.outer / "workshop" / "x").read_bytes() == b"content"
    assert await box.get("container:/golem/work/x") == b"content"


async def test_an_old_file_is_replaced_whole(box: Box) -> None:
    (box.inner / "x").write_bytes(b"something much longer than the new content")
    await box.put("/golem/work/x")
    assert (box.inner / "x").read_bytes() == b"content"
    assert [path.name for path in box.inner.iterdir()] == ["x"]


@pytest.mark.parametrize("url", ["/other/x", "/golemx/y", "/"])
async def test_places_outside_of_volumes(box: Box, url: str) -> None:
    with pytest.raises(BadLocation):
        await box.put(url)
    with pytest.raises(BadLocation):
        await box.get(url)


async def test_a_volume_itself_is_no_file(box: Box) -> None:
    with pytest.raises(BadLocation, match="is a volume"):
        await box.put("/golem/work")
    with pytest.raises(BadLocation, match="not a file"):
        await box.get("/golem/work")


async def test_planted_symlinks_are_not_followed(box: Box, tmp_path: Path) -> None:
    (box.inner / "leak").symlink_to(box.secret)
    (box.inner / "up").symlink_to("..")
    (box.inner / "abs").symlink_to("/")
    for url in ("/golem/work/leak", "/golem/work/up/secret", f"/golem/work/abs{box.secret}"):
        with pytest.raises(BadLocation, match="symlink"):
            await box.get(url)
    for url in ("/golem/work/up/new", "/golem/work/abs/tmp/new", "/golem/work/up/deep/new"):
        with pytest.raises(TransferError):
            await box.put(url)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "deep").exists()
    # The place of a symlink is taken; what it points to is left alone.
    await box.put("/golem/work/leak")
    assert box.secret.read_bytes() == b"secret"
    assert (box.inner / "leak").read_bytes() == b"content"


async def test_encoded_slashes_and_dots_do_not_climb(box: Box) -> None:
    for url in ("container:/golem/work/..%2f..%2fsecret", "container:/golem/work/%2e%2e/%2e%2e/secret"):
        with pytest.raises(BadLocation, match="not a plain path"):
            await box.get(url)
        with pytest.raises(BadLocation, match="not a plain path"):
            await box.put(url)


async def test_special_files_are_not_read(box: Box) -> None:
    os.mkfifo(box.inner / "pipe")
    with pytest.raises(BadLocation, match="not a file"):
        await box.get("/golem/work/pipe")


async def test_the_storage_quota_holds_for_transfers(box: Box) -> None:
    box.room = 6
    with pytest.raises(NoRoom, match="7 bytes do not fit into the 6 that are left"):
        await box.put("/golem/work/x")
    assert list(box.inner.iterdir()) == []


async def test_a_missing_file_is_told(box: Box) -> None:
    with pytest.raises(BadLocation, match="No such file"):
        await box.get("/golem/work/nothing")
