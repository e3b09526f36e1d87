"""Our sessions with those of py-libp2p, both ways round, over loopback."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.overlay import ProtocolRefused, StreamBroken
from p2p.session import HandshakeFailed, MuxedStream, Session
from tests.p2p.session.ends import ECHO, identity, serve_echo, sockets, upgraded
from tests.p2p.session.stock import StockPeer, propose, read_all, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LARGE = b"".join(hashlib.sha256(bytes([i % 251, i // 251])).digest() for i in range(4096)) * 32
"""4 MiB."""

dialled_by = pytest.mark.parametrize("ours_dials", [True, False], ids=["we-dial", "stock-dials"])


@asynccontextmanager
async def between(ours_dials: bool, kind: str = "secp256k1") -> AsyncIterator[tuple[Session, Any, Any]]:
    """Yield our session, stock's, and a channel of streams that stock has opened."""
    near, far = sockets()
    stock = StockPeer(kind)
    send, accepted = trio.open_memory_channel[MuxedStream](100)
    ready = trio.Event()
    done = trio.Event()
    theirs: list[Any] = []

    async def run_stock() -> None:
        expected = None if ours_dials else identity(1).public.peer_id
        async with stock.connected(far, initiator=not ours_dials, expected=expected) as muxed:
            theirs.append(muxed)
            ready.set()
            await done.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_stock)
        expected = str(stock.id) if ours_dials else None
        session = await upgraded(near, initiator=ours_dials, seed=1, expected=expected)
        assert session.peer_id == str(stock.id)
        nursery.start_soon(session.run, send.send_nowait)
        await ready.wait()
        yield session, theirs[0], accepted
        done.set()
        await session.aclose()


async def stock_echo(muxed: Any) -> None:
    stream = await muxed.accept_stream()
    await respond(stream, ECHO)
    await stream.write(await read_all(stream))
    await stream.close()


@dialled_by
@pytest.mark.parametrize("kind", ["secp256k1", "ed25519"])
async def test_each_proves_who_it_is(ours_dials: bool, kind: str) -> None:
    async with between(ours_dials, kind) as (_, muxed, _accepted):
        assert str(muxed.peer_id) == identity(1).public.peer_id


@dialled_by
async def test_stock_echoes_four_mebibytes_after_a_half_close(ours_dials: bool) -> None:
    async with between(ours_dials) as (session, muxed, _), trio.open_nursery() as nursery:
        nursery.start_soon(stock_echo, muxed)
        stream = await session.open_stream(ECHO)

        async def send() -> None:
            await stream.send_all(LARGE)
            await stream.send_eof()

        nursery.start_soon(send)
        received = bytearray()
        while data := await stream.receive_some():
            received += data
        assert received == LARGE
        await stream.aclose()


@dialled_by
async def test_we_echo_four_mebibytes_to_stock(ours_dials: bool) -> None:
    async with between(ours_dials) as (_session, muxed, accepted), trio.open_nursery() as nursery:
        stream = await muxed.open_stream()

        async def call() -> None:
            await propose(stream, ECHO)
            for at in range(0, len(LARGE), 65536):
                await stream.write(LARGE[at : at + 65536])
            await stream.close()
            assert await read_all(stream) == LARGE

        nursery.start_soon(call)
        ours = await accepted.receive()
        await ours.respond({ECHO})
        received = bytearray()
        while data := await ours.receive_some():
            received += data
        assert received == LARGE
        await ours.send_all(received)
        await ours.aclose()


@dialled_by
async def test_a_lazy_stream_carries_its_request_at_once(ours_dials: bool) -> None:
    async with between(ours_dials) as (session, muxed, _), trio.open_nursery() as nursery:
        nursery.start_soon(stock_echo, muxed)
        stream = await session.open_stream(ECHO, lazy=True)
        await stream.send_all(b"ping")
        await stream.send_eof()
        assert await stream.receive_some() == b"ping"
        assert await stream.receive_some() == b""
        await stream.aclose()


@dialled_by
async def test_resets_are_seen_by_the_other(ours_dials: bool) -> None:
    async with between(ours_dials) as (session, muxed, accepted):
        ours = await session.open_stream(ECHO, lazy=True)
        theirs = await muxed.accept_stream()
        await respond(theirs, ECHO)
        await ours.negotiated()
        await theirs.reset()
        with pytest.raises(StreamBroken, match="reset"):
            await ours.receive_some()
        theirs = await muxed.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(propose, theirs, ECHO)
            ours = await accepted.receive()
            await ours.respond({ECHO})
        ours.reset()
        with pytest.raises(MuxedStreamError):
            await theirs.read(1)
        assert session.ended is None


@dialled_by
async def test_a_protocol_that_stock_does_not_serve_is_refused(ours_dials: bool) -> None:
    async with between(ours_dials) as (session, muxed, _), trio.open_nursery() as nursery:

        async def refuse() -> None:
            stream = await muxed.accept_stream()
            with pytest.raises((MultiselectError, MuxedStreamError)):
                await respond(stream, "/other")

        nursery.start_soon(refuse)
        with pytest.raises(ProtocolRefused, match="does not serve /echo/1"):
            await session.open_stream(ECHO)


async def test_who_is_not_expected_is_not_talked_to() -> None:
    near, far = sockets()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(MultiselectError):  # it has seen this end hang up
                async with StockPeer().connected(far, initiator=False):
                    pass

        nursery.start_soon(serve)
        with pytest.raises(HandshakeFailed, match="was expected and"):
            await upgraded(near, initiator=True, expected=identity(3).public.peer_id)
        nursery.cancel_scope.cancel()


async def test_stocks_streams_at_once(nursery: trio.Nursery) -> None:
    async with between(True) as (_, muxed, accepted):

        async def serve() -> None:
            while True:
                nursery.start_soon(serve_echo, await accepted.receive())

        nursery.start_soon(serve)

        async def call(number: int) -> None:
            stream = await muxed.open_stream()
            await propose(stream, ECHO)
            await stream.write(b"%d" % number)
            assert await stream.read(100) == b"%d" % number
            await stream.close()

        async with trio.open_nursery() as calls:
            for number in range(50):
                calls.start_soon(call, number)
