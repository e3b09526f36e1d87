"""Ping: round trips over a stream, and peers that answer late, wrongly, or not at all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from p2p import ping
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.overlay import ProtocolRefused, StreamBroken
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from p2p.overlay import Stream


class Pair:
    """Two connected nodes; a round trip between them takes 80 ms."""

    def __init__(self, world: MemoryNetwork, here: MemoryOverlay, there: MemoryOverlay) -> None:
        self.world, self.here, self.there = world, here, there

    async def ping(self, count: int = 3, interval: float = 1.0, timeout: float = 5.0) -> ping.PingReport:
        return await ping.ping(
            self.here,
            self.there.node_id,
            count=count,
            interval=interval,
            timeout=timeout,
            clock=self.world.clock,
            entropy=SeededEntropy(3, "payloads"),
        )


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    world = MemoryNetwork(VirtualClock(), SeededEntropy(1, "network"), Link(latency=0.04))
    here, there = (world.overlay(PrivateKey.generate(SeededEntropy(n))) for n in (1, 2))
    async with here.running(), there.running():
        await here.connect(there.listen_addresses()[0])
        yield Pair(world, here, there)


async def test_round_trips_are_measured(autojump_clock: MockClock) -> None:
    async with pair() as p:
        p.there.serve(ping.PROTOCOL, ping.answer)
        began = trio.current_time()
        report = await p.ping(count=3, interval=2.0)
        assert report.problem == ""
        assert report.answered == pytest.approx([0.08] * 3)
        assert 4.0 < trio.current_time() - began < 6.0, "two intervals between three pings"


async def test_a_peer_that_answers_no_pings(autojump_clock: MockClock) -> None:
    async with pair() as p:
        with pytest.raises(ProtocolRefused):
            await p.ping()


async def test_a_late_answer_is_lost_and_is_not_taken_for_the_next(autojump_clock: MockClock) -> None:
    async def slow_at_first(stream: Stream) -> None:
        first = await stream.receive_some(32)
        await trio.sleep(3)
        await stream.send_all(first)
        await ping.answer(stream)

    async with pair() as p:
        p.there.serve(ping.PROTOCOL, slow_at_first)
        report = await p.ping(count=4, interval=1.0, timeout=2.0)
        assert report.rtts[0] is None
        assert report.rtts[1] == pytest.approx(1.08), "its answer waits behind the late one"
        assert report.rtts[2:] == (pytest.approx(0.08), pytest.approx(0.08))


async def test_silence_is_loss(autojump_clock: MockClock) -> None:
    async def hear(stream: Stream) -> None:
        await trio.sleep_forever()

    async with pair() as p:
        p.there.serve(ping.PROTOCOL, hear)
        report = await p.ping(count=3, timeout=1.0)
        assert report.rtts == (None, None, None)
        assert report.answered == ()


async def test_a_liar_is_found_out(autojump_clock: MockClock) -> None:
    async def lie(stream: Stream) -> None:
        await stream.receive_some(32)
        await stream.send_all(b"x" * 32)
        await trio.sleep_forever()

    async with pair() as p:
        p.there.serve(ping.PROTOCOL, lie)
        report = await p.ping()
        assert report.rtts == (None,)
        assert "other bytes" in report.problem


async def test_a_session_that_dies_ends_it_with_a_reason(autojump_clock: MockClock) -> None:
    async with pair() as p, trio.open_nursery() as nursery:
        p.there.serve(ping.PROTOCOL, ping.answer)

        async def break_off() -> None:
            await trio.sleep(1.5)
            p.world.break_sessions(p.here.node_id, p.there.node_id)

        nursery.start_soon(break_off)
        report = await p.ping(count=10, interval=1.0)
        assert len(report.answered) == 2
        assert report.rtts[-1] is None
        assert report.problem


async def test_answering_is_bounded_in_time_and_in_bytes(autojump_clock: MockClock) -> None:
    async with pair() as p:
        p.there.serve(ping.PROTOCOL, ping.answer)
        idle = await p.here.open_stream(p.there.node_id, ping.PROTOCOL)
        began = trio.current_time()
        assert await idle.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(ping.IDLE_TIMEOUT, abs=1)

        greedy = await p.here.open_stream(p.there.node_id, ping.PROTOCOL)
        sent = received = 0
        with contextlib.suppress(StreamBroken):
            while sent < 2 * ping.MAX_ANSWERED_BYTES:
                await greedy.send_all(b"." * 65_536)
                sent += 65_536
                while received < min(sent, ping.MAX_ANSWERED_BYTES) and (data := await greedy.receive_some()):
                    received += len(data)
            while data := await greedy.receive_some():
                received += len(data)
        assert received == ping.MAX_ANSWERED_BYTES
