"""The bulk socket: how supervisors move files, over a real unix socket, to peers in memory."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio
import trio.testing

from p2p.overlay import Stream, protocol_id
from p2p.testing.nodes import memory_nodes
from protocols.files import bulk
from protocols.files.bulk import BulkSocket
from protocols.files.core import HeaderReader, encode_header, format_url, parse_url, transfer
from protocols.files.errors import Refused, TransferBroken
from protocols.files.handler import FilesProtocol
from protocols.files.messages import Found, Get, No, Open, Put

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from p2p.protocol import NodeContext

TOKEN = "t" * 64
CONTENT = os.urandom(1_500_000)


class House:
    """A node with a bulk socket, and a peer."""

    def __init__(self, here: NodeContext, there: NodeContext, folder: Path) -> None:
        self.here, self.there = here, there
        self.files, self.others = FilesProtocol(), FilesProtocol()
        self.bulk = BulkSocket(
            folder / "bulk.sock", here.overlay, structlog.get_logger("bulk"), self.files.serve
        )
        self.bulk.allow(TOKEN)

    async def connect(self, node_id: str, token: str = TOKEN) -> trio.SocketStream:
        stream = await trio.open_unix_socket(str(self.bulk.path))
        await stream.send_all(encode_header(Open(token, node_id)))
        return stream

    async def fetch(self, url: str, token: str = TOKEN) -> bytes:
        node_id, name = parse_url(url)
        data = b""
        async with (
            await self.connect(node_id, token) as stream,
            contextlib.aclosing(transfer.download(stream, name)) as chunks,
        ):
            async for chunk in chunks:
                data += chunk
        return data


@contextlib.asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    async with memory_nodes(2, seed=5) as (here, there):
        found = House(here, there, folder)
        async with found.files.running(here), found.others.running(there), found.bulk.running():
            yield found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


async def chunks_of(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def refusal(stream: trio.SocketStream) -> str:
    reader = HeaderReader()
    while (found := reader.feed(await stream.receive_some())) is None:
        pass
    assert isinstance(found[0], No)
    return found[0].message


@pytest.mark.parametrize("whose", ["there", "here"])
async def test_downloads(source: Path, tmp_path: Path, whose: str) -> None:
    async with house(tmp_path) as found:
        assert (tmp_path / "bulk.sock").stat().st_mode & 0o777 == 0o600
        owner = found.others if whose == "there" else found.files
        url = await owner.publish(source)
        assert await found.fetch(url) == CONTENT
        with pytest.raises(Refused):
            await found.fetch(format_url(parse_url(url)[0], "0" * 64))
    assert not (tmp_path / "bulk.sock").exists()


@pytest.mark.parametrize("whose", ["there", "here"])
async def test_uploads(tmp_path: Path, whose: str) -> None:
    async with house(tmp_path) as found:
        owner = found.others if whose == "there" else found.files
        node_id, name = parse_url(await owner.receive(tmp_path / "target"))
        async with await found.connect(node_id) as stream:
            await transfer.upload(stream, name, len(CONTENT), chunks_of(CONTENT))
        assert (tmp_path / "target").read_bytes() == CONTENT
        async with await found.connect(node_id) as stream:
            with pytest.raises(Refused):
                await transfer.upload(stream, name, len(CONTENT), chunks_of(CONTENT))


@pytest.mark.parametrize("token", ["", "wrong", "t" * 63, "é" * 32, "\x00"])
async def test_a_wrong_token(source: Path, tmp_path: Path, token: str) -> None:
    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        for node_id in (parse_url(url)[0], found.here.node_id):
            async with await found.connect(node_id, token) as stream:
                assert await refusal(stream) == "unknown token"
                assert await stream.receive_some() == b""
        assert await found.fetch(url) == CONTENT


async def test_a_token_that_was_taken_back(source: Path, tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        found.bulk.forbid(TOKEN)
        with pytest.raises(Refused, match="token"):
            await found.fetch(url)
        found.bulk.forbid("never given")


@pytest.mark.parametrize("node_id", ["", "nobody", "0x12", "0x" + "zz" * 20, "../..", "0x" + "ab" * 20])
async def test_a_node_that_is_none(source: Path, tmp_path: Path, node_id: str) -> None:
    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        async with await found.connect(node_id) as stream:
            assert await refusal(stream)
        assert await found.fetch(url) == CONTENT


@pytest.mark.parametrize(
    "garbage", [b"", b"\xff" * 20, b"\x00\x00\x00\x01x", encode_header(Get("x")), encode_header(No("no"))]
)
async def test_garbage_ends_its_own_connection_only(source: Path, tmp_path: Path, garbage: bytes) -> None:
    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        async with await trio.open_unix_socket(str(found.bulk.path)) as stream:
            await stream.send_all(garbage)
            await stream.send_eof()
            while await stream.receive_some():
                pass
        assert await found.fetch(url) == CONTENT


async def test_who_does_not_say_what_it_wants(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "_OPEN_TIMEOUT", 0.05)
    async with house(tmp_path) as found, await trio.open_unix_socket(str(found.bulk.path)) as stream:
        with trio.fail_after(5):
            assert await stream.receive_some() == b""


async def test_a_peer_that_breaks_off(source: Path, tmp_path: Path) -> None:
    """A transfer that breaks in either direction costs the node nothing but that transfer."""
    broken = trio.Event()

    async def break_off(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(encode_header(Found(10)) + b"12345")
        await broken.wait()
        stream.reset()

    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        protocol = protocol_id("devnet", "files", 1)
        found.there.overlay.serve(protocol, break_off)
        async with await found.connect(found.there.node_id) as stream:
            await stream.send_all(encode_header(Get("x")))
            assert await stream.receive_some()
            broken.set()
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass
        async with await found.connect(found.there.node_id) as stream:
            with pytest.raises((TransferBroken, Refused, trio.BrokenResourceError)):
                await transfer.upload(stream, "slot", len(CONTENT), chunks_of(CONTENT))
        found.there.overlay.serve(protocol, found.others.serve)
        assert await found.fetch(url) == CONTENT


@pytest.mark.parametrize("whose", ["there", "here"])
@pytest.mark.parametrize("what", ["get", "put"])
async def test_a_supervisor_that_dies(source: Path, tmp_path: Path, whose: str, what: str) -> None:
    (tmp_path / "large").write_bytes(bytes(10_000_000))
    async with house(tmp_path) as found:
        owner = found.others if whose == "there" else found.files
        url = await owner.publish(source)
        node_id, name = parse_url(await owner.publish(tmp_path / "large"))
        _, slot = parse_url(await owner.receive(tmp_path / "target"))
        stream = await found.connect(node_id)
        if what == "get":
            await stream.send_all(encode_header(Get(name)))
        else:
            await stream.send_all(encode_header(Put(slot, 1000)))
        assert await stream.receive_some(100)
        if what == "put":
            await stream.send_all(b"some")
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await stream.aclose()
        assert await found.fetch(url) == CONTENT
        for _ in range(1000):
            if not served(found):
                break
            await trio.sleep(0.01)
        assert not served(found), "the transfer is over at both ends"
    assert (tmp_path / "target").read_bytes() == b""


def served(found: House) -> int:
    both: Any = (found.files, found.others)
    total: int = sum(files._served.total() for files in both)
    return total


async def test_more_than_its_places_wait(source: Path, tmp_path: Path) -> None:
    async with house(tmp_path) as found:
        url = await found.others.publish(source)
        waiting = [await trio.open_unix_socket(str(found.bulk.path)) for _ in range(bulk.MAX_CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        got: list[bytes] = []

        async def fetch() -> None:
            got.append(await found.fetch(url))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not got
            for stream in waiting:
                await stream.aclose()
        assert got == [CONTENT]
