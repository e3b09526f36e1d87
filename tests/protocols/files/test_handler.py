"""gftp between nodes in memory, on virtual time."""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from p2p import codec
from p2p.bus import Caller, RemoteError, ask
from p2p.overlay import PeerUnreachable, Stream, StreamBroken, protocol_id
from p2p.testing.nodes import memory_nodes
from protocols.files import handler
from protocols.files.core import HeaderReader, encode_header, format_url, parse_url
from protocols.files.errors import BadUrl, LocalFileError, NotPublished, Refused, TransferBroken
from protocols.files.handler import FilesProtocol
from protocols.files.messages import (
    Close,
    Closed,
    Download,
    Found,
    Get,
    Moved,
    No,
    OpenSession,
    Publish,
    Published,
    Put,
    Receive,
    Session,
    Stored,
    Upload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

    from p2p.protocol import NodeContext

pytestmark = pytest.mark.usefixtures("inline_threads")

CONTENT = bytes(range(256)) * 3000
SERVICE = "/local/files"


class End:
    """A node with gftp."""

    def __init__(self, ctx: NodeContext) -> None:
        self.ctx = ctx
        self.files = FilesProtocol()

    @property
    def id(self) -> str:
        return self.ctx.node_id

    async def ask(self, request: Any, reply: Any) -> Any:
        return await ask(self.ctx.bus, SERVICE, request, reply)

    async def open(self, peer: End) -> Stream:
        protocol = protocol_id(self.ctx.overlay.network, "files", 1)
        return await self.ctx.overlay.open_stream(peer.ctx.node_id, protocol)


@contextlib.asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    async with memory_nodes(2, seed=3) as contexts:
        a, b = (End(ctx) for ctx in contexts)
        async with a.files.running(a.ctx), b.files.running(b.ctx):
            yield a, b


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


async def answer(stream: Stream) -> Any:
    reader = HeaderReader()
    while True:
        data = await stream.receive_some()
        assert data, "the stream ended without an answer"
        found = reader.feed(data)
        if found is not None:
            return found[0]


def rewrite(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.mkdir()


def alone(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- downloads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000])
async def test_a_download(tmp_path: Path, size: int, autojump_clock: MockClock) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    async with ends() as (a, b):
        url = await a.files.publish(tmp_path / "source")
        assert url == f"gftp://{a.id}/{hashlib.sha3_256(content).hexdigest()}"
        assert await b.files.download(url, tmp_path / "copy") == size
    assert (tmp_path / "copy").read_bytes() == content
    assert alone(tmp_path) == {"source", "copy"}


async def test_a_download_from_oneself(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, _):
        url = await a.files.publish(source)
        assert await a.files.download(url, tmp_path / "copy") == len(CONTENT)
        assert (tmp_path / "copy").read_bytes() == CONTENT
        rewrite(source, CONTENT + b"more")
        with pytest.raises(TransferBroken):
            await a.files.download(url, tmp_path / "copy")
        with pytest.raises(NotPublished):
            await a.files.download(format_url(a.id, "0" * 64), tmp_path / "other")
    assert (tmp_path / "copy").read_bytes() == CONTENT, "what was there stays"
    assert alone(tmp_path) == {"source", "copy"}


@pytest.mark.parametrize("change", [CONTENT[:-1], CONTENT + b"x", b"y" + CONTENT[1:], b""])
async def test_what_changed_since_is_noticed(
    source: Path, tmp_path: Path, change: bytes, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        rewrite(source, change)
        with pytest.raises(TransferBroken):
            await b.files.download(url, tmp_path / "copy")
    assert alone(tmp_path) == {"source"}


async def test_what_is_gone_is_refused_without_a_path(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        rewrite(source, None)
        with pytest.raises(Refused) as caught:
            await b.files.download(url, tmp_path / "copy")
        assert str(tmp_path) not in str(caught.value)
        make_folder(source)
        with pytest.raises(Refused) as caught:
            await b.files.download(url, tmp_path / "copy")
        assert str(tmp_path) not in str(caught.value)
        with pytest.raises(Refused):
            await b.files.download(format_url(a.id, "0" * 64), tmp_path / "copy")
        with pytest.raises(LocalFileError):
            await a.files.publish(source)
        with pytest.raises(LocalFileError):
            await a.files.publish(tmp_path / "nothing")
    assert alone(tmp_path) == {"source"}


async def test_where_nothing_can_be_written(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        for target in (tmp_path / "no" / "such" / "folder", tmp_path):
            with pytest.raises(LocalFileError):
                await b.files.download(url, target)
        with pytest.raises(LocalFileError):
            await b.files.receive(tmp_path / "no" / "such" / "folder")
    assert alone(tmp_path) == {"source"}


async def test_a_peer_that_is_not_there(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, _):
        for url in (format_url("0x" + "ab" * 20, "0" * 64),):
            with pytest.raises(PeerUnreachable):
                await a.files.download(url, tmp_path / "copy")
            with pytest.raises(PeerUnreachable):
                await a.files.upload(url, source)
        with pytest.raises(BadUrl):
            await a.files.download("http://example.org", tmp_path / "copy")
    assert alone(tmp_path) == {"source"}


async def test_a_download_that_breaks_off(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        overlay: Any = a.ctx.overlay
        async with trio.open_nursery() as nursery:

            async def download() -> None:
                with pytest.raises(StreamBroken):
                    await b.files.download(url, tmp_path / "copy")

            nursery.start_soon(download)
            await trio.sleep(0.07)  # the answer is on its way
            overlay._world.break_sessions(a.ctx.node_id, b.ctx.node_id)
        assert alone(tmp_path) == {"source"}
        assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)


async def test_from_the_middle(source: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        _, name = parse_url(await a.files.publish(source))
        for offset, rest in ((700_000, CONTENT[700_000:]), (-5, CONTENT), (10**12, b"")):
            stream = await b.open(a)
            await stream.send_all(encode_header(Get(name, offset)))
            reader = HeaderReader()
            while (found := reader.feed(await stream.receive_some())) is None:
                pass
            assert found[0] == Found(len(CONTENT))
            data = found[1]
            while chunk := await stream.receive_some():
                data += chunk
            assert data == rest


# --- publishing ---------------------------------------------------------------------------------------------


async def test_closed_is_closed(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        assert not a.files.close(url.replace(a.id, b.id)), "another node's name is none of ours"
        assert a.files.close(url)
        assert not a.files.close(url)
        with pytest.raises(Refused):
            await b.files.download(url, tmp_path / "copy")
        with pytest.raises(BadUrl):
            a.files.close("nonsense")


async def test_published_twice_is_closed_twice(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        assert await a.files.publish(source) == url
        assert a.files.close(url)
        assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)
        assert a.files.close(url)
        assert not a.files.close(url)


async def test_a_session_takes_back_its_own_and_nothing_else(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    other = tmp_path / "same"
    other.write_bytes(CONTENT)
    async with ends() as (a, b):
        first, second = Closing(a), Closing(a)
        async with second.session() as two:
            async with first.session() as one:
                url = (await a.ask(Publish(str(source), one), Published)).url
                slot = (await a.ask(Receive(str(tmp_path / "slot"), one), Published)).url
                assert (await a.ask(Publish(str(other), two), Published)).url == url
                assert (await b.ask(Download(url, str(tmp_path / "copy")), Moved)).size == len(CONTENT)
            await wait_all_tasks_blocked()
            assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)
            with pytest.raises(Refused):
                await b.files.upload(slot, source)
            assert (await a.ask(Close(url, two), Closed)).was_open
            assert not (await a.ask(Close(url, two), Closed)).was_open
        with pytest.raises(Refused):
            await b.files.download(url, tmp_path / "copy")


async def test_a_session_closes_no_other_sessions_urls(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b), Closing(a).session() as one, Closing(a).session() as two:
        url = (await a.ask(Publish(str(source), one), Published)).url
        assert not (await a.ask(Close(url, two), Closed)).was_open
        assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)


class Closing:
    """A local program's session, which ends with its call."""

    def __init__(self, end: End) -> None:
        self._end = end

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[str]:
        body = codec.encode(OpenSession())
        async with self._end.ctx.bus.stream(f"{SERVICE}/OpenSession", body) as items:
            yield codec.decode(await anext(items), Session).id


# --- uploads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
async def test_an_upload(tmp_path: Path, size: int, autojump_clock: MockClock) -> None:
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == b"", "made at once, for clients look"
        assert (await b.ask(Upload(url, str(tmp_path / "source")), Moved)).size == size
        assert (tmp_path / "target").read_bytes() == content
        with pytest.raises(Refused):
            await b.files.upload(url, tmp_path / "source")  # a slot takes one file
        assert not a.files.close(url)
    assert alone(tmp_path) == {"source", "target"}


async def test_an_upload_to_oneself(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, _):
        url = await a.files.receive(tmp_path / "target")
        assert await a.files.upload(url, source) == len(CONTENT)
        assert (tmp_path / "target").read_bytes() == CONTENT
        with pytest.raises(NotPublished):
            await a.files.upload(url, source)


async def test_uploads_that_cannot_be(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        with pytest.raises(LocalFileError):
            await b.files.upload(url, tmp_path / "nothing")
        with pytest.raises(Refused):
            await b.files.upload(format_url(a.id, "nosuchslot"), source)
        with pytest.raises(Refused):
            await b.files.upload(await a.files.publish(source), source)
        (tmp_path / "target").unlink()
        (tmp_path / "target").mkdir()
        with pytest.raises(Refused) as caught:
            await b.files.upload(url, source)
        assert str(tmp_path) not in str(caught.value)
        (tmp_path / "target").rmdir()
        assert await b.files.upload(url, source) == len(CONTENT), "a slot that took nothing is still open"


async def test_one_upload_at_a_time(source: Path, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        _, name = parse_url(url)
        slow = await b.open(a)
        await slow.send_all(encode_header(Put(name, 10)))
        assert await answer(slow) == Found(10)
        with pytest.raises(Refused):
            await b.files.upload(url, source)
        await slow.send_all(b"0123456789")
        await slow.send_eof()
        stored = await answer(slow)
        assert stored == Stored(10, hashlib.sha3_256(b"0123456789").hexdigest())
    assert (tmp_path / "target").read_bytes() == b"0123456789"
    assert alone(tmp_path) == {"source", "target"}


async def test_a_slot_that_is_closed_meanwhile_takes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        stream = await b.open(a)
        await stream.send_all(encode_header(Put(parse_url(url)[1], 4)))
        assert await answer(stream) == Found(4)
        assert a.files.close(url)
        await stream.send_all(b"late")
        await stream.send_eof()
        assert isinstance(await answer(stream), No)
        assert not a.files.close(url)
    assert (tmp_path / "target").read_bytes() == b""


@pytest.mark.parametrize(
    ("announced", "sent"), [(10, b"short"), (3, b"long"), (0, b"x"), (-1, b""), (2**62, b"")]
)
async def test_uploads_of_another_size(
    tmp_path: Path, announced: int, sent: bytes, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        stream = await b.open(a)
        await stream.send_all(encode_header(Put(parse_url(url)[1], announced)))
        await stream.send_all(sent)
        await stream.send_eof()
        found = await answer(stream)
        if isinstance(found, Found):
            found = await answer_after(stream)
        assert isinstance(found, No)
        assert str(tmp_path) not in found.message
        assert (tmp_path / "target").read_bytes() == b""
    assert alone(tmp_path) == {"target"}


async def everything(stream: Stream) -> bytes:
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
    return data


async def answer_after(stream: Stream) -> Any:
    try:
        return await answer(stream)
    except (StreamBroken, AssertionError):
        return No("broken off")


# --- hostile peers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x03abc",
        b"GET / HTTP/1.1\r\n\r\n",
        encode_header(Found(5)),
        encode_header(Stored(5, "")),
        encode_header(Get("x" * 3000)),
        encode_header(Put("", 1)),
    ],
)
async def test_garbage_is_answered_and_forgotten(
    source: Path, tmp_path: Path, garbage: bytes, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        stream = await b.open(a)
        await stream.send_all(garbage)
        found = await answer(stream)
        assert isinstance(found, No)
        assert len(found.message) <= 500
        assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)


async def test_who_says_nothing_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):
        stream = await b.open(a)
        await stream.send_all(b"\x00")
        with pytest.raises(StreamBroken):
            await stream.receive_some()
        assert trio.current_time() < 60


async def test_who_stops_in_the_middle_is_dropped(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.receive(tmp_path / "target")
        stalled = await b.open(a)
        await stalled.send_all(encode_header(Put(parse_url(url)[1], 10)) + b"12345")
        assert await answer(stalled) == Found(10)
        assert isinstance(await answer_after(stalled), No)
        assert handler.IDLE_SECONDS <= trio.current_time() < 2 * handler.IDLE_SECONDS
        assert await b.files.upload(url, source) == len(CONTENT), "the slot is free again"


async def test_who_does_not_read_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    (tmp_path / "source").write_bytes(bytes(2_000_000))
    async with ends() as (a, b):
        _, name = parse_url(await a.files.publish(tmp_path / "source"))
        stream = await b.open(a)
        await stream.send_all(encode_header(Get(name)))
        await trio.sleep(3 * handler.IDLE_SECONDS)
        with pytest.raises(StreamBroken):
            await everything(stream)


async def test_a_silent_provider_of_a_file_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, b):

        async def say_nothing(stream: Stream) -> None:
            await trio.sleep_forever()

        b.ctx.overlay.serve(protocol_id("devnet", "files", 1), say_nothing)
        url = format_url(b.id, "0" * 64)
        with pytest.raises(TransferBroken):
            await a.files.download(url, tmp_path / "copy")
        assert trio.current_time() < 2 * handler.IDLE_SECONDS


@pytest.mark.parametrize("size", [-1, 5, 2**62])
async def test_a_lying_provider_of_a_file(tmp_path: Path, size: int, autojump_clock: MockClock) -> None:
    async def lie(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(encode_header(Found(size)) + b"1234567")
        await stream.send_eof()

    async with ends() as (a, b):
        b.ctx.overlay.serve(protocol_id("devnet", "files", 1), lie)
        with pytest.raises(TransferBroken):
            await a.files.download(format_url(b.id, "0" * 64), tmp_path / "copy")
    assert alone(tmp_path) == set()


@pytest.mark.parametrize("reply", [Found(3), No("I do not like it"), Stored(3, "00")])
async def test_a_lying_taker_of_a_file(source: Path, reply: Any, autojump_clock: MockClock) -> None:
    async def lie(stream: Stream) -> None:
        await answer(stream)
        await stream.send_all(encode_header(Found(len(CONTENT))))
        while await stream.receive_some():
            pass
        await stream.send_all(encode_header(reply))
        await stream.send_eof()

    async with ends() as (a, b):
        b.ctx.overlay.serve(protocol_id("devnet", "files", 1), lie)
        with pytest.raises((TransferBroken, Refused)):
            await a.files.upload(format_url(b.id, "slot"), source)


async def test_one_peer_does_not_take_all_places(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, b):
        url = await a.files.publish(source)
        waiting = [await b.open(a) for _ in range(handler.MAX_SERVED_PER_PEER)]
        await wait_all_tasks_blocked()
        with pytest.raises(Refused, match="later"):
            await b.files.download(url, tmp_path / "copy")
        for stream in waiting:
            stream.reset()
        await trio.sleep(1)
        assert await b.files.download(url, tmp_path / "copy") == len(CONTENT)


# --- local programs -----------------------------------------------------------------------------------------


async def test_an_exe_unit_has_no_business_here(
    source: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with ends() as (a, _):
        bus: Any = a.ctx.bus
        child = Caller(a.id, local=True, child="an activity")
        for request in (
            Publish(str(source)),
            Receive(str(tmp_path / "target")),
            Close(format_url(a.id, "x")),
            Download(format_url(a.id, "x"), str(tmp_path / "target")),
            Upload(format_url(a.id, "x"), str(source)),
        ):
            address = f"{SERVICE}/{type(request).__name__}"
            with pytest.raises(RemoteError) as caught:
                await bus.call_as(child, address, codec.encode(request), timeout=5)
            assert caught.value.kind == "forbidden"
    assert alone(tmp_path) == {"source"}


async def test_errors_on_the_bus_say_what_happened(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with ends() as (a, _):
        for request, reply, words in (
            (Publish(str(tmp_path / "nothing")), Published, "No such file"),
            (Close("nonsense"), Closed, "not a gftp URL"),
            (Download("nonsense", str(tmp_path / "x")), Moved, "not a gftp URL"),
            (Upload(format_url("0x" + "ab" * 20, "x"), str(tmp_path / "nothing")), Moved, "cannot read"),
        ):
            with pytest.raises(RemoteError, match=words) as caught:
                await a.ask(request, reply)
            assert caught.value.kind == "transfer"
