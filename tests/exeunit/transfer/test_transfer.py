"""Retries, resuming and checksums, against sources that misbehave."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from exeunit.transfer.errors import BadLocation, RemoteFailure, Transient, WrongHash
from exeunit.transfer.file import FileScheme
from exeunit.transfer.gftp import GftpScheme
from exeunit.transfer.location import Location, parse_location
from exeunit.transfer.scheme import Download
from exeunit.transfer.transfer import IDLE_TIMEOUT_S, Transfers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

CONTENT = bytes(range(256)) * 40
numbers = itertools.count()


class Flaky:
    """A source that breaks off after so many bytes, once for each entry of `breaks`, and can resume or not."""

    def __init__(self, breaks: list[int], *, resumes: bool = True, content: bytes = CONTENT) -> None:
        self.breaks = breaks
        self.resumes = resumes
        self.content = content
        self.offsets: list[int] = []
        self.uploaded: list[bytes] = []

    @contextlib.asynccontextmanager
    async def download(self, url: str, offset: int, validator: str | None) -> AsyncIterator[Download]:
        self.offsets.append(offset)
        offset = offset if self.resumes else 0
        stop = self.breaks.pop(0) if self.breaks else None

        async def chunks() -> AsyncGenerator[bytes, None]:
            for at in range(offset, len(self.content), 1000):
                if stop is not None and at - offset >= stop:
                    raise Transient("broke off")
                await trio.lowlevel.checkpoint()
                yield self.content[at : at + 1000]

        async with contextlib.aclosing(chunks()) as pieces:
            yield Download(pieces, size=len(self.content), offset=offset, validator="v")

    async def upload(self, url: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        assert size == len(self.content)
        received = b"".join([chunk async for chunk in chunks])
        if self.breaks and self.breaks.pop(0):
            raise Transient("try again")
        self.uploaded.append(received)


class World:
    def __init__(self, directory: Path, flaky: Flaky) -> None:
        self.target = directory / "target"
        self.slept: list[float] = []
        self.notes: list[str] = []
        self.flaky = flaky
        self.transfers = Transfers(
            {"flaky": flaky, "file": FileScheme(lambda: str(next(numbers)))},
            sleep=self._sleep, note=self.notes.append,
        )  # fmt: skip

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def fetch(self, digest: str = "") -> int:
        prefix = f"hash:sha3:{digest}:" if digest else ""
        return await self.transfers.transfer(
            parse_location(f"{prefix}flaky:x", "file"), parse_location(f"file:{self.target}", "file")
        )


async def test_a_broken_download_is_continued(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([3000, 2000]))
    assert await world.fetch(hashlib.sha3_256(CONTENT).hexdigest()) == len(CONTENT)
    assert world.target.read_bytes() == CONTENT
    assert world.flaky.offsets == [0, 3000, 5000]
    assert world.slept == [2.0, 4.0]
    assert world.notes == ["trying again in 2 s: broke off", "trying again in 4 s: broke off"]


async def test_a_source_that_cannot_resume_is_read_again_from_the_start(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([3000], resumes=False))
    await world.fetch(hashlib.sha3_512(CONTENT).hexdigest())
    assert world.target.read_bytes() == CONTENT


async def test_the_third_failure_is_final_and_leaves_the_target_alone(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([1000, 1000, 1000]))
    world.target.write_bytes(b"old")
    with pytest.raises(Transient, match="broke off"):
        await world.fetch()
    assert world.target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["target"]


async def test_the_first_try_never_continues_an_old_file(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([]))
    world.target.write_bytes(bytes(5000))
    await world.fetch()
    assert world.target.read_bytes() == CONTENT


async def test_a_wrong_hash_removes_the_file(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([]))
    with pytest.raises(WrongHash, match="promised was sha3:0000"):
        await world.fetch("00" * 28)
    assert os.listdir(tmp_path) == []
    assert world.slept == []


async def test_uploads_are_retried_whole_and_checked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    world = World(tmp_path, Flaky([1]))
    target = parse_location("flaky:x", "file")
    digest = hashlib.sha3_224(CONTENT).hexdigest()
    await world.transfers.transfer(parse_location(f"hash:sha3:{digest}:file:{source}", "file"), target)
    assert world.flaky.uploaded == [CONTENT]
    with pytest.raises(WrongHash):
        await world.transfers.transfer(parse_location(f"hash:sha3:{'11' * 32}:file:{source}", "file"), target)
    assert world.flaky.uploaded == [CONTENT]


async def test_progress_is_told(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([]))
    seen: list[tuple[int, int | None]] = []
    await world.transfers.transfer(
        parse_location("flaky:x", "file"), parse_location(f"file:{world.target}", "file"),
        lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


async def test_schemes_that_are_not_offered(tmp_path: Path) -> None:
    world = World(tmp_path, Flaky([]))
    with pytest.raises(BadLocation, match="'ftp' is not one of file, flaky"):
        await world.transfers.transfer(Location("ftp", "ftp:x", None), Location("file", "file:/x", None))
    with pytest.raises(BadLocation, match="cannot write to"):
        await world.transfers.transfer(Location("flaky", "flaky:x", None), Location("ftp", "ftp:/x", None))


async def test_silence_is_given_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    @contextlib.asynccontextmanager
    async def silent(node_id: str, name: str, offset: int) -> AsyncIterator[Download]:
        async def chunks() -> AsyncGenerator[bytes, None]:
            yield b"a"
            await trio.sleep_forever()

        async with contextlib.aclosing(chunks()) as pieces:
            yield Download(pieces, size=2, offset=offset)

    async def no_upload(node_id: str, name: str, size: int | None, chunks: AsyncIterator[bytes]) -> None:
        raise RemoteFailure("no")

    transfers = Transfers(
        {"gftp": GftpScheme(silent, no_upload), "file": FileScheme(lambda: str(next(numbers)))}
    )
    start = trio.current_time()
    url = parse_location(f"gftp://0x{'1' * 40}/name", "file")
    with pytest.raises(Transient, match="nothing arrived for 90 s"):
        await transfers.transfer(url, parse_location(f"file:{tmp_path}/x", "file"))
    assert trio.current_time() - start >= 3 * IDLE_TIMEOUT_S + 6


@given(breaks=st.lists(st.integers(0, 11_000), max_size=2), resumes=st.booleans())
async def test_whatever_breaks_the_content_is_whole(breaks: list[int], resumes: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), Flaky(list(breaks), resumes=resumes))
        await world.fetch(hashlib.sha3_384(CONTENT).hexdigest())
        assert world.target.read_bytes() == CONTENT
