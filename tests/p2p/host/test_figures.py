"""What an overlay counts: bytes by class of stream, dials by outcome, who is there."""

from __future__ import annotations

import contextlib

import trio

from p2p.events import HandshakeFailed, NetEvent
from p2p.host.limits import HostLimits
from p2p.identity import PrivateKey
from p2p.overlay import PeerUnreachable, protocol_id
from p2p.testing.conformance import ask, connect, echo, eventually
from tests.p2p.host.nodes import make, pair, place_of

SYNC = protocol_id("devnet", "sync", 1)
MINE = protocol_id("devnet", "of-a-plug-in", 1)


async def test_bytes_are_counted_with_their_class_at_both_ends() -> None:
    async with pair() as (a, b):
        b.serve(SYNC, echo)
        b.serve(MINE, echo)
        await connect(a, b)
        await ask(await a.open_stream(b.node_id, SYNC), b"x" * 100_000)
        await ask(await a.open_stream(b.node_id, SYNC), b"x" * 50_000)
        await ask(await a.open_stream(b.node_id, MINE), b"x" * 777)

        def settled() -> bool:
            return all(overlay.figures().streams == 0 for overlay in (a, b))

        await eventually(settled)
        ours, theirs = a.figures().traffic, b.figures().traffic
        assert ours["sync"].sent == theirs["sync"].received == theirs["sync"].sent == 150_000
        assert 150_000 <= ours["sync"].received < 150_100, (
            "and what agrees to the protocol, where it was not awaited"
        )
        assert 777 <= ours["other"].sent < 1200, "the proposals of all protocols too"
        assert (ours["sync"].opened, ours["sync"].accepted) == (2, 0)
        assert (theirs["sync"].opened, theirs["sync"].accepted) == (0, 2)
        assert ours["hello"].sent > 0
        assert ours["gossip"].sent == ours["files"].received == 0
        assert a.figures().memory_held == 0
        assert a.figures().connections == b.figures().connections == 1
    assert a.figures().connections == 0


async def test_open_streams_and_what_they_hold_are_seen() -> None:
    async with pair() as (a, b):
        waiting = trio.Event()

        async def never_reads(stream: object) -> None:
            await waiting.wait()

        b.serve(SYNC, never_reads)
        await connect(a, b)
        stream = await a.open_stream(b.node_id, SYNC)
        await stream.send_all(b"x" * 10_000)
        await eventually(lambda: b.figures().memory_held == 10_000)
        assert b.figures().streams == 1
        stream.reset()
        waiting.set()


async def test_dials_are_counted_by_what_became_of_them() -> None:
    async with pair() as (a, b):
        await connect(a, b)
        host, port = place_of(b)
        elsewhere = make(key=PrivateKey(bytes([7] * 32)))
        peer = elsewhere._peer_id
        for address, outcome in (
            (f"/ip4/{host}/tcp/{port}/p2p/{peer}", "handshake"),
            (f"/ip4/127.0.0.1/tcp/1/p2p/{peer}", "refused"),
        ):
            with contextlib.suppress(PeerUnreachable):
                await a.connect(address)
            assert a.figures().dials[outcome] == 1, a.figures().dials
        assert a.figures().dials["ok"] == 1


async def test_connections_that_come_to_nothing_are_told_with_why() -> None:
    events: list[NetEvent] = []
    overlay = make(report=events.append, limits=HostLimits(deny=("127.0.0.2",)))
    async with overlay.running():
        host, port = place_of(overlay)
        async with await trio.open_tcp_stream(host, port) as garbage:
            await garbage.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 100)
            await eventually(lambda: len(events) == 1)
        await (await trio.open_tcp_stream(host, port)).aclose()
        await eventually(lambda: len(events) == 2)
        async with await trio.open_tcp_stream(host, port, local_address="127.0.0.2"):
            await eventually(lambda: len(events) == 3)
    assert [e.why for e in events if isinstance(e, HandshakeFailed)] == ["protocol", "lost", "limit"]
    assert "deny-list" in events[2].reason  # type: ignore[attr-defined]
    assert events[2].address.startswith("/ip4/127.0.0.2/tcp/")  # type: ignore[attr-defined]
