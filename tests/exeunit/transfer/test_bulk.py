"""gftp over a bulk socket that is played by the test (socket tests)."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
import trio

from exeunit.transfer.bulk import BulkSocket
from exeunit.transfer.errors import BadLocation, LocalFailure, RemoteFailure, Transient, WrongHash
from exeunit.transfer.file import FileScheme
from exeunit.transfer.gftp import GftpScheme
from exeunit.transfer.location import parse_location
from exeunit.transfer.transfer import Transfers
from protocols.files.core import HeaderReader, encode_header
from protocols.files.messages import Found, Get, Header, No, Open, Put, Stored

if TYPE_CHECKING:
    from pathlib import Path

NODE = "0x" + "ab" * 20
CONTENT = bytes(range(256)) * 3000
NAME = hashlib.sha3_256(CONTENT).hexdigest()
numbers = itertools.count()

Play = Callable[[trio.SocketStream, Header, bytes], Awaitable[None]]


async def _headers(stream: trio.SocketStream) -> tuple[Open, Header, bytes]:
    reader, rest = HeaderReader(), b""
    found: list[Header] = []
    while len(found) < 2:
        feed = rest or await stream.receive_some()
        rest = b""
        result = reader.feed(feed)
        if result is not None:
            header, rest = result
            found.append(header)
            reader = HeaderReader()
    assert isinstance(found[0], Open)
    return found[0], found[1], rest


@contextlib.asynccontextmanager
async def node(directory: Path, *plays: Play) -> AsyncIterator[Transfers]:
    remaining = list(plays)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            opened, header, rest = await _headers(stream)
            assert opened == Open("secret", NODE)
            await remaining.pop(0)(stream, header, rest)

    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(str(directory / "bulk"))
    listening.listen(4)

    async def no_wait(seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    bulk = BulkSocket(str(directory / "bulk"), "secret")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listening)])
        yield Transfers(
            {"gftp": GftpScheme(bulk.download, bulk.upload), "file": FileScheme(lambda: str(next(numbers)))},
            sleep=no_wait,
        )
        nursery.cancel_scope.cancel()
    assert remaining == []


async def fetch(transfers: Transfers, directory: Path, name: str = NAME) -> bytes:
    target = directory / "target"
    await transfers.transfer(
        parse_location(f"gftp://{NODE}/{name}", "file"), parse_location(f"file:{target}", "file")
    )
    return target.read_bytes()


async def test_download_and_resume(tmp_path: Path) -> None:
    async def first(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        assert header == Get(NAME, 0)
        await stream.send_all(encode_header(Found(len(CONTENT))) + CONTENT[:1000])

    async def second(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        assert header == Get(NAME, 1000)
        await stream.send_all(encode_header(Found(len(CONTENT))) + CONTENT[1000:])

    async with node(tmp_path, first, second) as transfers:
        assert await fetch(transfers, tmp_path) == CONTENT


async def test_content_must_be_what_its_name_says(tmp_path: Path) -> None:
    async def lie(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        await stream.send_all(encode_header(Found(4)) + b"fake")

    async with node(tmp_path, lie) as transfers:
        with pytest.raises(WrongHash):
            await fetch(transfers, tmp_path)
    assert not (tmp_path / "target").exists()


async def test_refusals_are_final_and_breaks_are_not(tmp_path: Path) -> None:
    async def refuse(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        await stream.send_all(encode_header(No("no such file")))

    async def break_off(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        await stream.send_all(b"")

    async with node(tmp_path, refuse) as transfers:
        with pytest.raises(RemoteFailure, match="refused: no such file"):
            await fetch(transfers, tmp_path)
    (tmp_path / "bulk").unlink()
    async with node(tmp_path, break_off, break_off, break_off) as transfers:
        with pytest.raises(Transient, match="broke off"):
            await fetch(transfers, tmp_path)


async def test_upload(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    received = bytearray()

    async def take(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        assert header == Put("slot", len(CONTENT))
        await stream.send_all(encode_header(Found(len(CONTENT))))
        received.extend(rest)
        async for chunk in stream:
            received.extend(chunk)
        stored = Stored(len(received), hashlib.sha3_256(received).hexdigest())
        await stream.send_all(encode_header(stored))

    async def spoil(stream: trio.SocketStream, header: Header, rest: bytes) -> None:
        await stream.send_all(encode_header(Found(len(CONTENT))))
        async for _ in stream:
            pass
        await stream.send_all(encode_header(Stored(len(CONTENT), "00")))

    target = parse_location(f"gftp://{NODE.upper().replace('0X', '0x')}/slot", "file")
    async with node(tmp_path, spoil, take) as transfers:
        await transfers.transfer(parse_location(f"file:{source}", "file"), target)
    assert received == CONTENT


async def test_no_node_and_no_url(tmp_path: Path) -> None:
    bulk = BulkSocket(str(tmp_path / "nowhere"), "secret")
    transfers = Transfers(
        {"gftp": GftpScheme(bulk.download, bulk.upload), "file": FileScheme(lambda: str(next(numbers)))}
    )
    with pytest.raises(LocalFailure, match="bulk socket"):
        await fetch(transfers, tmp_path)
    with pytest.raises(BadLocation, match="40 hex digits"):
        await transfers.transfer(
            parse_location("gftp://0x12/x", "file"), parse_location(f"file:{tmp_path}/x", "file")
        )
