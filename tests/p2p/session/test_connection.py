"""Sessions over sockets and memory: streams as the overlay's, and what they survive."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from p2p.overlay import OverlayError, ProtocolRefused, StreamBroken
from p2p.session import HandshakeFailed, MemoryBudget, MuxedStream, Session, SessionEnded, TooManyStreams
from p2p.session.connection import WRITE_TIMEOUT
from p2p.session.frames import DATA, RST, WINDOW_UPDATE, frame
from p2p.session.records import sealed_size
from p2p.session.yamux import FRAMES_AT_A_TIME, YamuxSettings
from p2p.testing.conformance import eventually
from tests.p2p.session.ends import ECHO, Pair, identity, in_memory, pair, serve_echo, sockets, upgraded

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

BLOCK = bytes(range(256)) * 256
both_kinds = pytest.mark.parametrize("streams", [sockets, in_memory], ids=["sockets", "memory"])


async def read_all(stream: MuxedStream) -> bytes:
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


@both_kinds
async def test_a_megabyte_is_echoed_and_both_ends_finish(streams: Any, nursery: trio.Nursery) -> None:
    async with pair(streams=streams) as both:
        near = await both.near.open_stream(ECHO, lazy=True)
        nursery.start_soon(serve_echo, await both.accepted.receive())

        async def send() -> None:
            for _ in range(16):
                await near.send_all(BLOCK)
            await near.send_eof()

        nursery.start_soon(send)
        assert await read_all(near) == BLOCK * 16
        await near.aclose()
        await eventually(lambda: not both.near.stream_count and not both.far.stream_count)
        assert near.peer == both.near.peer == identity(2).public.node_id


@both_kinds
async def test_a_new_stream_costs_no_round_trip(streams: Any) -> None:
    async with pair(streams=streams) as both:
        near = await both.near.open_stream(ECHO, lazy=True)
        await near.send_all(b"request")
        await near.send_eof()
        far = await both.accepted.receive()
        await wait_all_tasks_blocked()  # header, protocol, request and end came with the stream
        assert far.core.buffered > len(b"request")
        assert far.core.remote_finished
        assert await far.respond({ECHO}) == ECHO
        assert await read_all(far) == b"request"
        far.reset()


async def test_an_answer_that_comes_at_once_goes_out_with_the_agreement() -> None:
    async with pair() as both:
        await eventually(lambda: both.near.rtt is not None and both.far.rtt is not None)
        sent: list[int] = []
        send_now = both.far._wire.send_now

        def count(data: Any) -> bool:
            sent.append(len(data))
            return send_now(data)

        near = await both.near.open_stream(ECHO, lazy=True)
        await near.send_all(b"question")
        far = await both.accepted.receive()
        both.far._wire.send_now = count  # type: ignore[method-assign]
        assert await far.respond({ECHO}) == ECHO
        assert await far.receive_some() == b"question"
        await far.send_all(b"answer")
        assert await near.receive_some() == b"answer"
        assert len(sent) == 1


async def test_an_agreement_goes_out_though_nothing_is_said() -> None:
    async with pair() as both:
        async with trio.open_nursery() as nursery:

            async def agree() -> None:
                await (await both.accepted.receive()).respond({ECHO})

            nursery.start_soon(agree)
            near = await both.near.open_stream(ECHO, lazy=False)
        assert near.protocol == ECHO


async def test_a_protocol_that_was_agreed_on_is_proposed_lazily_from_then_on(nursery: trio.Nursery) -> None:
    async with pair() as both:
        nursery.start_soon(lambda: answer_all(both))
        first = await both.near.open_stream(ECHO)
        assert both.near.confirmed == {ECHO}
        first.reset()
        with trio.CancelScope() as scope:
            scope.cancel()
            second = None
            with pytest.raises(trio.Cancelled):
                second = await both.near.open_stream("/unknown")
        assert second is None
        nursery.cancel_scope.cancel()


async def answer_all(both: Pair) -> None:
    async for stream in both.accepted:
        try:
            await stream.respond({ECHO})
        except OverlayError:
            stream.reset()


@pytest.mark.parametrize("lazy", [False, True])
async def test_a_protocol_that_is_not_served_is_refused(lazy: bool, nursery: trio.Nursery) -> None:
    async with pair() as both:
        nursery.start_soon(lambda: answer_all(both))
        if lazy:
            stream = await both.near.open_stream("/unknown", lazy=True)
            await stream.send_all(b"x")
            with pytest.raises(ProtocolRefused, match="does not serve /unknown"):
                await stream.receive_some()
            with pytest.raises(ProtocolRefused):
                await stream.send_all(b"x")
        else:
            with pytest.raises(ProtocolRefused, match="does not serve /unknown"):
                await both.near.open_stream("/unknown")
        await eventually(lambda: not both.near.stream_count)
        nursery.cancel_scope.cancel()


async def test_a_half_closed_stream_goes_on_the_other_way() -> None:
    async with pair() as both:
        near, far = await both.streams()
        await near.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"more")
        assert await far.receive_some() == b""
        await far.send_all(b"still here")
        await far.aclose()
        assert await read_all(near) == b"still here"


async def test_a_reset_breaks_both_ends_and_what_waits_there(nursery: trio.Nursery) -> None:
    async with pair() as both:
        near, far = await both.streams()

        async def wait() -> None:
            with pytest.raises(StreamBroken, match="reset"):
                await far.receive_some()

        async def fill() -> None:
            with pytest.raises(StreamBroken, match="reset"):
                await near.send_all(BLOCK * 100)

        async with trio.open_nursery() as inner:
            inner.start_soon(fill)
            await wait_all_tasks_blocked()
            await far.receive_some()
            far.reset()
            await wait()
        with pytest.raises(StreamBroken):
            await near.receive_some()
        await near.aclose()
        near.reset()


async def test_one_task_a_direction() -> None:
    async with pair() as both:
        near, _ = await both.streams()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await near.receive_some()
            nursery.cancel_scope.cancel()


async def test_closing_one_end_of_a_stream_wakes_its_reader() -> None:
    async with pair() as both:
        near, _ = await both.streams()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await near.receive_some()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")


@both_kinds
async def test_a_reader_that_stalls_for_30_s_holds_the_sender_and_resumes(
    streams: Any, autojump_clock: MockClock
) -> None:
    if streams is sockets:
        autojump_clock.autojump_threshold = 0.05
    budget = MemoryBudget()
    async with pair(streams=streams, budgets=(MemoryBudget(), budget)) as both:
        near, far = await both.streams()
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await near.send_all(BLOCK)
                sent += len(BLOCK)
            await near.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(30)
            assert sent <= 2 * 262_144
            assert far.core.buffered <= 262_144
            other, answer = await both.streams("/other")  # which is not held up
            await other.send_all(b"hello")
            assert await answer.receive_some() == b"hello"
            assert await read_all(far) == BLOCK * 100
        other.reset()
        far.reset()
    assert budget.held == 0


@both_kinds
async def test_what_is_sent_without_waiting_arrives_in_order(streams: Any) -> None:
    async with pair(streams=streams) as both:
        near = await both.near.open_stream(ECHO, lazy=True)
        sent = bytearray()
        for i in range(2000):
            piece = b"%d " % i * 50
            taken = near.send_now(piece)
            sent += piece[:taken]
            if taken < len(piece):  # the window is full, and stays so
                break
        assert len(sent) > 200_000
        assert near.send_now(b"more") == 0
        far = await both.accepted.receive()
        assert await far.respond({ECHO}) == ECHO
        received = bytearray()
        while len(received) < len(sent):
            received += await far.receive_some()
        assert received == sent
        await eventually(lambda: near.send_now(b"again") == 5)
        await near.send_eof()
        assert near.send_now(b"after the end") == 0
        assert await read_all(far) == b"again"
        far.reset()
        await eventually(lambda: near.core.over)
        assert near.send_now(b"broken") == 0


async def test_the_first_answer_goes_at_once_and_the_others_together() -> None:
    async with pair() as both:
        near = await both.near.open_stream(ECHO, lazy=True)
        far = await both.accepted.receive()
        await far.respond({ECHO})
        await wait_all_tasks_blocked()
        writes: list[int] = []
        wire = both.far._wire
        real = wire.send_now

        def send_now(data: memoryview | bytes) -> bool:
            writes.append(len(data))
            return real(data)

        wire.send_now = send_now  # type: ignore[method-assign]
        await near.send_all(b"?")
        assert await far.receive_some() == b"?"
        for _ in range(10):
            far.send_now(bytes(100))
            assert len(writes) == 1, "the first did not go at once, or others did not wait for each other"
        await wait_all_tasks_blocked()
        assert len(writes) == 2
        assert writes[1] > 900
        far.reset()


@both_kinds
async def test_cancelled_writes_leave_the_session_whole(streams: Any) -> None:
    async with pair(streams=streams) as both:
        near, far = await both.streams()
        given_up = 0
        for number in range(200):
            with trio.CancelScope() as scope:
                if number % 3:
                    scope.deadline = trio.current_time() + 0.0005
                else:
                    scope.cancel()
                await near.send_all(BLOCK)
            given_up += scope.cancelled_caught
            while far.core.buffered:
                await far.receive_some(10**6)
        assert given_up >= 67
        one, two = await both.streams("/other")
        await one.send_all(b"whole")
        assert await two.receive_some() == b"whole"
        assert both.near.ended is None
        assert both.far.ended is None


async def test_a_cancelled_write_has_sent_a_beginning_of_its_data() -> None:
    async with pair() as both:
        near, far = await both.streams()
        with trio.move_on_after(0.2) as scope:
            await near.send_all(BLOCK * 100)
        assert scope.cancelled_caught
        await near.send_eof()
        heard = await read_all(far)
        assert 0 < len(heard) < len(BLOCK) * 100
        assert (BLOCK * 100).startswith(heard)


async def test_a_small_call_is_not_delayed_by_bulk(nursery: trio.Nursery) -> None:
    async with pair() as both:
        near, far = await both.streams()
        rounds = 0

        async def fill() -> None:
            while True:
                await near.send_all(BLOCK * 16)

        async def empty() -> None:
            while True:
                await far.receive_some()

        nursery.start_soon(fill)
        nursery.start_soon(empty)
        for _ in range(20):
            one, two = await both.streams("/call")
            await one.send_all(b"ask")
            assert await two.receive_some() == b"ask"
            await two.send_all(b"answer")
            assert await one.receive_some() == b"answer"
            await one.aclose()
            await two.aclose()
            rounds += 1
        assert rounds == 20
        nursery.cancel_scope.cancel()


async def test_both_ends_know_what_is_urgent_by_its_protocol() -> None:
    async with pair() as both:
        for protocol, urgent in (("/golem-p2p/devnet/bus/1", True), ("/golem-p2p/devnet/files/1", False)):
            near = await both.near.open_stream(protocol, lazy=True)
            far = await both.accepted.receive()
            assert await far.respond({protocol}) == protocol
            assert near.core.urgent is far.core.urgent is urgent
            near.reset()
            far.reset()


# Peers that break the rules.


class Liar:
    """The near end of a pair, whose records hold what the test says."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def say(self, plain: bytes) -> None:
        out = memoryview(bytearray(sealed_size(len(plain))))
        self._session._sealer.seal([plain], out)
        await self._session._wire.stream.send_all(out)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (frame(DATA, 1, 1001, 300_000) + bytes(100), "ignores windows"),
        (bytes([9]) * 12, "does not speak yamux"),
        (frame(2, 1, 0, 1) * 6000, "answers a second"),
    ],
)
async def test_who_breaks_the_rules_loses_the_session_and_others_do_not(lie: bytes, reason: str) -> None:
    async with pair() as good, pair() as bad:
        near, _ = await bad.streams()
        await Liar(bad.near).say(lie)
        await eventually(lambda: bad.far.ended is not None and bad.near.ended is not None)
        assert reason in str(bad.far.ended)
        assert "code 1" in str(bad.near.ended)
        with pytest.raises(StreamBroken, match="the session is over"):
            await near.receive_some()
        with pytest.raises(StreamBroken, match="is over"):
            await bad.near.open_stream(ECHO)
        one, two = await good.streams()
        await one.send_all(b"fine")
        assert await two.receive_some() == b"fine"


async def test_a_record_that_was_altered_ends_the_session() -> None:
    async with pair() as both:
        assert both.near._wire.send_now(b"\x00\x20" + bytes(32))
        await eventually(lambda: both.far.ended is not None)
        assert "does not decrypt" in str(both.far.ended)


async def test_a_flood_of_streams_is_reset_beyond_the_limit() -> None:
    async with pair(far=YamuxSettings(max_inbound_streams=10)) as both:
        streams = [await both.near.open_stream(ECHO, lazy=True) for _ in range(50)]
        await eventually(lambda: sum(s.core.failure is None for s in streams) == 10)
        assert both.far.stream_count == 10
        with pytest.raises(StreamBroken, match="reset"):
            await streams[-1].receive_some()


async def test_opening_waits_for_the_peer_to_acknowledge_and_has_a_limit() -> None:
    async with pair(near=YamuxSettings(max_outbound_streams=300)) as both:
        streams = [await both.near.open_stream(ECHO, lazy=True) for _ in range(256)]
        with trio.move_on_after(0.1) as scope:
            await both.near.open_stream(ECHO, lazy=True)
        assert scope.cancelled_caught
        streams[0].reset()
        streams.append(await both.near.open_stream(ECHO, lazy=True))
    async with pair(near=YamuxSettings(max_outbound_streams=2)) as both:
        for _ in range(2):
            await both.near.open_stream(ECHO, lazy=True)
        with pytest.raises(TooManyStreams):
            await both.near.open_stream(ECHO, lazy=True)


async def test_accepting_that_raises_ends_its_stream_only(logs: list[Any]) -> None:
    async with pair() as both:
        both.refusing = True
        stream = await both.near.open_stream(ECHO, lazy=True)
        with pytest.raises(StreamBroken, match="reset"):
            await stream.receive_some()
        both.refusing = False
        assert [line["event"] for line in logs] == ["a stream could not be accepted"]
        one, two = await both.streams()
        await one.send_all(b"fine")
        assert await two.receive_some() == b"fine"


async def test_a_peer_that_is_gone_is_noticed(autojump_clock: MockClock) -> None:
    async with pair(streams=in_memory) as both:
        near, _ = await both.streams()
        await eventually(lambda: both.near.rtt is not None)
        await trio.sleep(300)
        assert both.near.ended is None
        cut(both.far)
        began = trio.current_time()
        with pytest.raises(StreamBroken, match="not answered for 20 s"):
            await near.receive_some()
        assert trio.current_time() - began <= 51


def cut(session: Session) -> None:
    """Let nothing that a session has to say arrive any more."""

    async def lose(data: Any) -> None:
        await trio.lowlevel.checkpoint()

    session._wire.send = lose  # type: ignore[method-assign, assignment]


async def test_a_peer_that_takes_nothing_off_the_wire_is_given_up(autojump_clock: MockClock) -> None:
    async with pair(streams=in_memory, far=YamuxSettings(ping_interval=1000)) as both:
        near, _ = await both.streams()

        async def stuck(data: Any) -> None:
            await trio.sleep_forever()

        both.near._wire.send = stuck  # type: ignore[method-assign, assignment]
        began = trio.current_time()
        with pytest.raises(StreamBroken, match="off the wire"):
            await near.send_all(BLOCK * 100)
        assert trio.current_time() - began == pytest.approx(WRITE_TIMEOUT, abs=1)


# The end.


@both_kinds
async def test_closing_sends_what_is_queued_and_takes_no_time(streams: Any) -> None:
    async with pair(streams=streams) as both:
        near, far = await both.streams()
        await near.send_all(BLOCK * 3)
        await near.aclose()
        with trio.fail_after(5):
            await both.near.aclose()
        assert both.near.ended == "this end closed it"
        assert await read_all(far) == BLOCK * 3
        await eventually(lambda: both.far.ended is not None)
        assert "closed" in str(both.far.ended)


async def test_draining_waits_for_streams_as_long_as_it_may(autojump_clock: MockClock) -> None:
    async with pair(streams=in_memory) as both:
        near, far = await both.streams()
        began = trio.current_time()

        async def finish() -> None:
            await trio.sleep(5)
            await far.aclose()
            await near.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish)
            await both.far.aclose(drain=30)
        assert 5 <= trio.current_time() - began < 7
    async with pair(streams=in_memory) as both:
        await both.streams()
        began = trio.current_time()
        await both.far.aclose(drain=30)
        assert 30 <= trio.current_time() - began < 32


async def test_a_session_closed_before_it_ran_is_over() -> None:
    one, two = sockets()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: upgraded(two, initiator=False))
        session = await upgraded(one, initiator=True)
        await session.aclose()
        await session.run(MuxedStream.reset)
        assert session.ended == "this end closed it"
    await two.aclose()


async def test_a_cancelled_run_breaks_its_streams_and_closes_the_socket() -> None:
    async with pair() as both:
        near, _ = await both.streams()
        assert both.near._scope is not None
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(StreamBroken, match="is over"):
                    await near.receive_some()

            nursery.start_soon(wait)
            await wait_all_tasks_blocked()
            both.near._scope.cancel()
        await eventually(lambda: both.far.ended is not None)


# Upgrading.


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, b"\x13/multistream/1.0.0\n\x03na\n"]
)
@pytest.mark.parametrize("initiator", [True, False])
async def test_who_speaks_something_else_is_hung_up_on(garbage: bytes, initiator: bool) -> None:
    one, two = sockets()
    await two.send_all(garbage)
    await two.send_eof()
    with pytest.raises((HandshakeFailed, SessionEnded)):
        await upgraded(one, initiator=initiator)
    assert one.socket.fileno() == -1
    await two.aclose()


async def test_who_says_nothing_is_the_callers_to_time(autojump_clock: MockClock) -> None:
    one, _two = memory_stream_pair()
    with trio.move_on_after(10) as scope:
        await upgraded(one, initiator=True)
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"x")


# What it costs.


async def test_an_idle_session_holds_no_buffers_and_two_tasks() -> None:
    async with pair() as both:
        near, far = await both.streams()
        for _ in range(64):
            await near.send_all(BLOCK)
            left = len(BLOCK)
            while left:
                left -= len(await far.receive_some(left))
        far.reset()
        await eventually(lambda: not both.near.stream_count)
        await wait_all_tasks_blocked()
        for session in (both.near, both.far):
            assert len(session._wire._kept) + len(session._wire._unsent) == 0
            assert not session._streams


@pytest.mark.slow
async def test_a_thousand_sessions_come_and_go_without_a_trace() -> None:
    def files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def once() -> None:
        async with pair() as both:
            near, far = await both.streams()
            await near.send_all(b"hello")
            assert await far.receive_some() == b"hello"
            await near.aclose()
            await both.near.aclose()

    def held_by_sessions() -> int:
        """Bytes that code of this package has allocated; what trio keeps of past deadlines is its own affair."""
        gc.collect()
        ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/p2p/*")
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)

    for _ in range(20):
        await once()
    gc.collect()  # descriptors that earlier tests left to it would be gone at some time, and be missed
    before = files(), trio.lowlevel.current_statistics().tasks_living
    tracemalloc.start()
    try:
        for _ in range(1000):
            await once()
        stay = held_by_sessions()
    finally:
        tracemalloc.stop()
    assert (files(), trio.lowlevel.current_statistics().tasks_living) == before
    assert stay < 20_000, f"{stay} bytes stay of 1000 sessions"


async def test_garbage_frames_from_a_proven_peer_end_at_most_its_session() -> None:
    async with pair() as both:
        await both.streams()
        await Liar(both.near).say(
            frame(WINDOW_UPDATE, RST, 4001, 0) * 1000 + frame(DATA, 0, 4001, 50) + bytes(50)
        )
        one, two = await both.streams("/other")
        await one.send_all(b"fine")
        assert await two.receive_some() == b"fine"


@pytest.mark.parametrize("records_of", [1, 5_000])
@pytest.mark.parametrize("streams", [sockets, memory_stream_pair])
async def test_a_peer_that_sends_nothing_but_frames_leaves_others_their_turn(
    records_of: int, streams: Callable[[], tuple[Any, Any]], nursery: trio.Nursery
) -> None:
    turns, frames = 0, 10_000

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with pair(streams=streams) as both:
        _, far = await both.streams()
        near = both.near
        await eventually(lambda: near.rtt is not None and both.far.rtt is not None)
        await wait_all_tasks_blocked()  # from here on, nothing is said on the wire but this
        few = frame(WINDOW_UPDATE, 0, far.core.id, 1) * records_of
        sealed = b""
        for _ in range(frames // records_of):
            record = memoryview(bytearray(sealed_size(len(few))))
            near._sealer.seal([few], record)
            sealed += bytes(record)
        nursery.start_soon(others)
        window = far.core.send_window
        nursery.start_soon(near._wire.send, sealed)
        turns = 0
        longest = 0
        while far.core.send_window < window + frames:
            before = far.core.send_window
            await trio.lowlevel.checkpoint()
            longest = max(longest, far.core.send_window - before)
        assert longest <= 2 * FRAMES_AT_A_TIME
        assert turns >= frames // (2 * FRAMES_AT_A_TIME)
        nursery.cancel_scope.cancel()
