"""Calls between nodes: what a hostile or vanishing peer can do, and what the caller is told."""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from p2p.bus import bounds, frames, lone, peer
from p2p.bus.api import (
    BadContent,
    BusClosed,
    BusError,
    BusTimeout,
    Busy,
    Call,
    Caller,
    NoEndpoint,
    RemoteError,
    net_address,
)
from p2p.bus.frames import (
    Cancel,
    End,
    Failure,
    Frame,
    FrameReader,
    Item,
    Part,
    Register,
    Reply,
    Request,
    Welcome,
)
from p2p.bus.line import Line
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.bus.testing import Probe
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId
from p2p.overlay import StreamBroken, protocol_id
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from p2p.overlay import Stream, StreamHandler

A, B, C = (NodeId("0x" + digit * 40) for digit in "abc")
BUS = protocol_id("devnet", "bus", 1)
LONE = protocol_id("devnet", "bus/lone", 1)
BOTH = (BUS, LONE)
ADDRESS = net_address(B, "a")


class Net:
    """Node A calls, node B serves `/public/a`, and C is whatever a test makes of it."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.01))
        self.a, self.b, self.c = (self.network.overlay(node) for node in (A, B, C))
        self.here, self.there = LocalBus(A), LocalBus(B)
        self.probe = Probe()
        self.there.register("/public/a", self.probe)
        self.calling = PeerBus(self.a, self.here)
        self.serving = PeerBus(self.b, self.there)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Net]:
        overlays = self.a.running(), self.b.running(), self.c.running()
        async with overlays[0], overlays[1], overlays[2], self.calling.running(), self.serving.running():
            yield self

    async def raw(self, protocol: str = LONE) -> RawCall:
        return RawCall(await self.c.open_stream(B, protocol))

    def serve_raw(self, handler: StreamHandler) -> None:
        """Have C answer calls by `handler`, on streams of both kinds."""
        for protocol in BOTH:
            self.c.serve(protocol, handler)


class RawCall:
    """A stream on which a test says what it wants."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._reader = FrameReader()

    async def send(self, *messages: Frame) -> None:
        await self.stream.send_all(b"".join(frames.encode(message) for message in messages))

    async def receive(self) -> Frame | None:
        while (frame := self._reader.next_frame()) is None:
            data = await self.stream.receive_some()
            if not data:
                return None
            self._reader.feed(data)
        return frame


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with Net().running() as made:
        yield made


async def error_of(bus: LocalBus, address: str, timeout: float = 30) -> BusError:
    with pytest.raises(BusError) as caught:
        await bus.call(address, b"", timeout=timeout)
    return caught.value


# What the caller is told.


async def test_a_peer_that_is_not_there(autojump_clock: MockClock, net: Net) -> None:
    gone = net_address("0x" + "d" * 40, "a") + "/Echo"
    error = await error_of(net.here, gone)
    assert isinstance(error, NoEndpoint)
    assert str(error).startswith(f"GSB error: endpoint address not found: {gone} (the peer cannot be reached")
    assert error.address == gone
    with pytest.raises(NoEndpoint):
        async with net.here.stream(gone, b""):
            pass


async def test_a_peer_that_speaks_no_bus(autojump_clock: MockClock, net: Net) -> None:
    error = await error_of(net.here, net_address(C, "a") + "/Echo")
    assert isinstance(error, NoEndpoint)
    assert "speaks no bus" in str(error)


async def test_a_service_that_is_not_there(autojump_clock: MockClock, net: Net) -> None:
    error = await error_of(net.here, net_address(B, "none") + "/Echo")
    assert isinstance(error, NoEndpoint)
    assert str(error) == "GSB error: endpoint address not found: /public/none/Echo"


async def test_a_session_that_breaks_under_a_call(autojump_clock: MockClock, net: Net) -> None:
    async def call() -> None:
        assert isinstance(await error_of(net.here, ADDRESS + "/Hang"), BusClosed)

    async def follow() -> None:
        async with net.here.stream(ADDRESS + "/Hang", b"") as items:
            assert await anext(items) == b"first"
            with pytest.raises(BusClosed, match="broke before"):
                await anext(items)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        nursery.start_soon(follow)
        await net.probe.hanging.wait()
        await trio.sleep(1)
        net.network.break_sessions(A, B)
    await net.probe.stopped.wait()
    assert await net.here.call(ADDRESS + "/Echo", b"again") == b"again"


async def test_a_partition_is_a_timeout_and_then_not_found(autojump_clock: MockClock, net: Net) -> None:
    await net.here.call(ADDRESS + "/Echo", b"")
    net.network.stall(A, B, 3600)
    assert isinstance(await error_of(net.here, ADDRESS + "/Echo", timeout=5), BusTimeout)
    net.network.isolate(B)
    await wait_all_tasks_blocked()
    error = await error_of(net.here, ADDRESS + "/Echo")
    assert isinstance(error, NoEndpoint)
    error = await error_of(net.here, ADDRESS + "/Echo", timeout=1)  # less than a dial takes
    assert isinstance(error, BusTimeout)
    with pytest.raises(BusTimeout):
        async with net.here.stream(ADDRESS + "/Count", b"1", timeout=1):
            pass


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (frames.encode(Cancel(0)), BadContent),
        (b"\xff\xff\xff\xff", BadContent),
        (b"\0\0\0\x03abc", BadContent),
        (b"\0\0", BusClosed),
        (b"", BusClosed),
    ],
)
async def test_a_peer_that_answers_nonsense(
    autojump_clock: MockClock, net: Net, streaming: bool, answer: bytes, expected: type[BusError]
) -> None:
    async def nonsense(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    net.serve_raw(nonsense)
    address = net_address(C, "a") + "/M"
    if streaming:
        async with net.here.stream(address, b"") as items:
            with pytest.raises(expected):
                await anext(items)
    else:
        with pytest.raises(expected):
            await net.here.call(address, b"")


async def test_the_wrong_kind_of_answer(autojump_clock: MockClock, net: Net) -> None:
    async def contrary(stream: Stream) -> None:
        raw = RawCall(stream)
        request = await raw.receive()
        assert isinstance(request, Request)
        await raw.send(Reply(0) if request.streaming else End(0))

    net.serve_raw(contrary)
    address = net_address(C, "a") + "/M"
    with pytest.raises(BadContent, match="a End is no answer"):
        await net.here.call(address, b"")
    with pytest.raises(BadContent, match="with a Reply"):
        async with net.here.stream(address, b"") as items:
            await anext(items)


# What a caller that is not ours can do.


async def test_the_caller_is_whom_the_session_proved(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Echo", b"x", caller=Caller(B, local=True)))
    assert await raw.receive() == Reply(0, b"x")
    assert net.probe.callers == {Caller(C, local=False)}
    assert await raw.receive() is None


@pytest.mark.parametrize("address", ["/local/a/Echo", f"/net/{B}/a/Echo", f"/net/{A}/a/Echo", "/public", ""])
async def test_local_is_refused_to_peers(autojump_clock: MockClock, net: Net, address: str) -> None:
    local = Probe()
    net.there.register("/local/a", local)
    for streaming in (False, True):
        raw = await net.raw()
        await raw.send(Request(0, address, b"", streaming=streaming))
        refusal = await raw.receive()
        assert isinstance(refusal, Failure)
        assert isinstance(frames.error_of(refusal), NoEndpoint)
    assert not local.callers


async def test_allow_knows_the_peer(autojump_clock: MockClock, net: Net) -> None:
    net.there.register("/public/mine", Probe(), allow=lambda caller: caller.node_id == A)
    assert await net.here.call(net_address(B, "mine") + "/Echo", b"x") == b"x"
    raw = await net.raw()
    await raw.send(Request(0, "/public/mine/Echo", b"x"))
    refusal = await raw.receive()
    assert isinstance(refusal, Failure)
    assert (refusal.error, refusal.kind) == ("service", "forbidden")


async def test_the_far_end_keeps_the_deadline_by_itself(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Hang", b"", timeout_ms=2000))
    answer = await raw.receive()
    assert isinstance(answer, Failure)
    assert isinstance(frames.error_of(answer), BusTimeout)
    assert net.probe.stopped.is_set()
    assert 2 <= trio.current_time() < 3


async def test_a_call_without_a_deadline_ends_some_day(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Hang", b""))
    answer = await raw.receive()
    assert isinstance(answer, Failure)
    assert answer.error == "timeout"
    assert lone.MAX_CALL_SECONDS <= trio.current_time() < lone.MAX_CALL_SECONDS + 1


async def test_the_deadline_is_told(autojump_clock: MockClock, net: Net) -> None:
    seen: list[Frame | None] = []

    async def look(stream: Stream) -> None:
        raw = RawCall(stream)
        seen.append(await raw.receive())
        await raw.send(Reply(0))

    net.serve_raw(look)
    with trio.move_on_after(7):
        await net.here.call(net_address(C, "a") + "/M", b"", timeout=60)
    (request,) = seen
    assert isinstance(request, Request)
    assert request.timeout_ms is not None
    assert 6900 <= request.timeout_ms <= 7000, "the nearer of timeout and cancel scope"


@pytest.mark.parametrize("how", ["reset", "end", "more"])
async def test_a_caller_that_breaks_off_cancels_the_handler(
    autojump_clock: MockClock, net: Net, how: str
) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Hang", b""))
    await net.probe.hanging.wait()
    match how:
        case "reset":
            raw.stream.reset()
        case "end":
            await raw.stream.aclose()
        case "more":
            await raw.send(Cancel(0))
            with pytest.raises(StreamBroken):
                await raw.receive()
    await net.probe.stopped.wait()


async def test_each_peer_has_its_bound(autojump_clock: MockClock, net: Net) -> None:
    for _ in range(peer.MAX_CALLS_PER_PEER):
        await (await net.raw()).send(Request(0, "/public/a/Hang", b""))
    await trio.sleep(1)
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Echo", b""))
    refusal = await raw.receive()
    assert isinstance(refusal, Failure)
    assert refusal.error == "busy"
    assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x", "one peer's calls are another's trouble"
    net.network.break_sessions(B, C)
    await trio.sleep(1)
    assert set(net.serving._callers) == {A}, "bounds are not given back"
    assert net.serving._work.calls == net.serving._work.bytes == 0
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Echo", b"x"))
    assert await raw.receive() == Reply(0, b"x")


async def test_busy_is_said_to_a_caller_of_ours(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net.serving._work, "max_calls", 0)
    monkeypatch.setattr(bounds, "CALLS_OF_RIGHT", 0)
    error = await error_of(net.here, ADDRESS + "/Echo")
    assert isinstance(error, Busy)
    with pytest.raises(Busy):
        await net.here.call(ADDRESS + "/Echo", bytes(4_000_000))  # more than the window: it is let finish


async def test_bytes_are_counted_before_they_are_read(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "MAX_BYTES_PER_PEER", 1_000_000)
    raw = await net.raw()
    await raw.stream.send_all((900_000).to_bytes(4, "big"))
    await trio.sleep(1)
    assert net.serving._work.bytes == 900_000
    second = await net.raw()
    await second.stream.send_all((900_000).to_bytes(4, "big"))
    refusal = await second.receive()
    assert isinstance(refusal, Failure)
    assert refusal.error == "busy"
    raw.stream.reset()
    second.stream.reset()
    await trio.sleep(1)
    assert net.serving._work.bytes == 0


async def test_a_request_must_come_in_time(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.stream.send_all(b"\0")
    with capture_logs(), pytest.raises(StreamBroken):
        await raw.receive()
    assert lone.REQUEST_TIMEOUT <= trio.current_time() < lone.REQUEST_TIMEOUT + 1


async def test_an_answer_must_be_taken_in_time(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Echo", bytes(2_000_000)))
    await trio.sleep(lone.ANSWER_TIMEOUT + 1)
    assert net.serving._work.calls == 0


async def test_items_that_nobody_takes_are_counted(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "MAX_BYTES_PER_PEER", 300_000)
    request = Request(0, "/public/a/Flood", b"", streaming=True)
    stuck = [await net.raw() for _ in range(20)]
    for raw in stuck:
        await raw.send(request)
    await trio.sleep(10)
    assert 0 < net.serving._work.bytes <= 300_000
    answers = set()
    for raw in stuck:
        while isinstance(answer := await raw.receive(), Item):
            answers.add("item")
            if len(answers) == 2:
                break
        if isinstance(answer, Failure):
            answers.add(answer.error)
    assert answers == {"item", "busy"}
    for raw in stuck:
        raw.stream.reset()
    await trio.sleep(1)
    assert (net.serving._work.bytes, net.serving._work.calls) == (0, 0)


async def test_an_oversized_request_is_cut_off(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.stream.send_all((frames.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
    with capture_logs(), pytest.raises(StreamBroken):
        await raw.receive()
    assert net.serving._work.bytes == 0


async def test_garbage_costs_its_stream_and_nothing_else(autojump_clock: MockClock, net: Net) -> None:
    chance = random.Random(1)
    good = frames.encode(Request(0, "/public/a/Echo", b"x" * 30))
    with capture_logs() as log:
        for i in range(500):
            garbage = bytearray(good)
            for _ in range(chance.randint(1, 5)):
                garbage[chance.randrange(4, len(garbage))] = chance.randrange(256)
            if i % 2:
                garbage = bytearray(chance.randbytes(chance.randrange(1, 100)))
            raw = await net.raw()
            await raw.stream.send_all(bytes(garbage))
            await raw.stream.send_eof()
        raw = await net.raw()
        await raw.send(Reply(0))
        with pytest.raises(StreamBroken):
            await raw.receive()
        assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"
        await trio.sleep(60)
    assert all(entry["log_level"] == "debug" for entry in log), "a peer can fill our log"
    assert net.serving._work.calls == 0


async def test_a_bug_in_a_service_is_no_peers_business(autojump_clock: MockClock, net: Net) -> None:
    with capture_logs() as log:
        error = await error_of(net.here, ADDRESS + "/Crash")
    assert isinstance(error, RemoteError)
    assert error.kind == "service"
    assert len(log) == 1
    assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"


async def test_a_slow_reader_of_items_stalls_nothing_else(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw()
    await raw.send(Request(0, "/public/a/Flood", b"", streaming=True))
    await trio.sleep(100)
    produced = net.probe.produced
    assert produced < 20
    assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"
    assert isinstance(await raw.receive(), Item)
    await wait_all_tasks_blocked()
    raw.stream.reset()
    await net.probe.stopped.wait()


async def test_a_stream_that_does_not_close_is_broken_off(autojump_clock: MockClock) -> None:
    class Sticky:
        peer = C
        was_reset = False

        async def aclose(self) -> None:
            await trio.sleep_forever()

        def reset(self) -> None:
            self.was_reset = True

    sticky = Sticky()
    await lone.finish(sticky, ended=True)  # type: ignore[arg-type]
    assert sticky.was_reset
    assert trio.current_time() == pytest.approx(lone.CLOSE_TIMEOUT)


# The control stream.


class Counted:
    """Counts the streams that a node opens, and lets a test break those to come."""

    def __init__(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[str] = []
        self._real = net.a.open_stream
        monkeypatch.setattr(net.a, "open_stream", self._open)

    async def _open(self, node: str, protocol: str) -> Stream:
        self.opened.append(protocol)
        return await self._real(node, protocol)


async def test_small_calls_share_one_stream(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(net, monkeypatch)

    async def call(i: int) -> None:
        assert await net.here.call(ADDRESS + "/Echo", b"%d" % i) == b"%d" % i

    async with trio.open_nursery() as nursery:
        for i in range(100):
            nursery.start_soon(call, i)
    await call(100)
    assert counted.opened == [BUS]


async def test_large_bodies_and_streaming_calls_have_their_own(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(net, monkeypatch)
    body = bytes(peer.LARGE_BYTES + 1)
    assert await net.here.call(ADDRESS + "/Echo", body) == body
    async with net.here.stream(ADDRESS + "/Count", b"3") as items:
        assert [item async for item in items] == [b"0", b"1", b"2"]
    assert counted.opened == [LONE, LONE]


async def test_a_large_answer_lets_small_ones_pass(autojump_clock: MockClock, net: Net) -> None:
    """On a link of 1 MB/s, 4 MB take 4 s: who asks for little meanwhile does not wait for them."""

    class Library:
        async def call(self, call: Call) -> bytes:
            return bytes(4_000_000) if call.method == "Book" else b"card"

    net.network.links.set(A, B, Link(latency=0.01, bandwidth=1e6))
    net.there.register("/public/library", Library())  # type: ignore[arg-type]
    took: list[float] = []

    async def read() -> None:
        began = trio.current_time()
        assert await net.here.call(net_address(B, "library") + "/Book", b"") == bytes(4_000_000)
        took.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(1)
        began = trio.current_time()
        for _ in range(3):
            assert await net.here.call(net_address(B, "library") + "/Card", b"") == b"card"
        assert not took
        assert trio.current_time() - began < 2.5
    assert took[0] >= 4


async def test_an_answer_in_parts_has_an_end(autojump_clock: MockClock, net: Net) -> None:
    async def endless(stream: Stream) -> None:
        raw = RawCall(stream)
        request = await raw.receive()
        assert isinstance(request, Request)
        while True:
            await raw.send(Part(request.id, bytes(60_000)))

    net.serve_raw(endless)
    error = await error_of(net.here, net_address(C, "a") + "/M")
    assert isinstance(error, BadContent)
    assert "longer than any may be" in str(error)


async def test_an_answer_in_parts_of_nothing_is_none(autojump_clock: MockClock, net: Net) -> None:
    async def endless(stream: Stream) -> None:
        raw = RawCall(stream)
        request = await raw.receive()
        assert isinstance(request, Request)
        while True:
            await raw.send(Part(request.id, b""))

    net.serve_raw(endless)
    assert isinstance(await error_of(net.here, net_address(C, "a") + "/M"), BadContent)


async def test_a_control_stream_is_closed_when_idle(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(net, monkeypatch)
    for pause in (1, peer.IDLE_SECONDS * 0.9, peer.IDLE_SECONDS * 0.9):
        await net.here.call(ADDRESS + "/Echo", b"")
        await trio.sleep(pause)
    assert counted.opened == [BUS]
    await trio.sleep(2 * peer.IDLE_SECONDS)
    assert not net.calling._lines
    assert not net.serving._callers, "the far end holds what nobody uses"
    with trio.move_on_after(3 * peer.IDLE_SECONDS):  # a call that takes long is no idleness
        await net.here.call(ADDRESS + "/Hang", b"", timeout=3600)
    assert counted.opened == [BUS, BUS]
    await net.here.call(ADDRESS + "/Echo", b"")
    assert counted.opened == [BUS, BUS]


async def test_a_broken_control_stream_is_opened_anew(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(net, monkeypatch)
    for _ in range(3):
        assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"
        net.network.break_sessions(A, B)
        await wait_all_tasks_blocked()
    assert counted.opened == [BUS] * 3
    assert not net.calling._lines


async def test_only_what_was_not_sent_is_tried_again(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    real = Line.call

    async def call(self: Line, address: str, body: bytes, **rest: object) -> bytes:
        nonlocal calls
        calls += 1
        if calls <= ends:
            self.drop()
        return await real(self, address, body, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Line, "call", call)
    for ends, expected in ((1, 2), (2, 2)):
        calls = 0
        if ends == 1:
            assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"
        else:
            assert isinstance(await error_of(net.here, ADDRESS + "/Echo"), BusClosed)
        assert calls == expected
    calls, ends = 0, 0

    async def hang() -> None:
        assert isinstance(await error_of(net.here, ADDRESS + "/Hang"), BusClosed)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hang)
        await net.probe.hanging.wait()
        net.network.break_sessions(A, B)
    assert calls == 1, "a call that may have been carried out was made again"


async def test_the_node_shuts_down_under_a_call(autojump_clock: MockClock) -> None:
    net = Net()
    async with net.a.running(), net.b.running(), net.serving.running(), trio.open_nursery() as nursery:

        async def hang() -> None:
            assert isinstance(await error_of(net.here, ADDRESS + "/Hang"), BusClosed)

        async with net.calling.running():
            nursery.start_soon(hang)
            await net.probe.hanging.wait()
        await net.probe.stopped.wait()
        error = await error_of(net.here, ADDRESS + "/Echo")
        assert isinstance(error, NoEndpoint)
        assert "shutting down" in str(error)


async def test_a_peer_has_few_control_streams(autojump_clock: MockClock, net: Net) -> None:
    lines = [await net.raw(BUS) for _ in range(peer.MAX_LINES_PER_PEER)]
    for line in lines:
        await line.send(Request(0, "/public/a/Echo", b"x"))
        assert await line.receive() == Reply(0, b"x")
    one_more = await net.raw(BUS)
    with pytest.raises(StreamBroken):
        await one_more.receive()
    lines[0].stream.reset()
    await trio.sleep(1)
    again = await net.raw(BUS)
    await again.send(Request(0, "/public/a/Echo", b"x"))
    assert await again.receive() == Reply(0, b"x")


async def test_calls_on_all_streams_count_together(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "MAX_CALLS_PER_PEER", 3)
    first, second, alone = await net.raw(BUS), await net.raw(BUS), await net.raw()
    for line in (first, second, alone):
        await line.send(Request(0, "/public/a/Hang", b""))
        await trio.sleep(1)
    for line, request_id in ((first, 1), (await net.raw(), 0)):
        await line.send(Request(request_id, "/public/a/Echo", b""))
        refusal = await line.receive()
        assert isinstance(refusal, Failure)
        assert refusal.error == "busy"
    await first.send(Cancel(0))
    await trio.sleep(1)
    await first.send(Request(2, "/public/a/Echo", b"x"))
    assert await first.receive() == Reply(2, b"x")
    for line in (first, second, alone):
        line.stream.reset()
    await trio.sleep(1)
    assert net.serving._work.calls == net.serving._work.bytes == 0


@pytest.mark.parametrize(
    "offence",
    [
        frames.encode(Reply(5)),
        frames.encode(Welcome("0x")),
        frames.encode(Register(0, "/public/mine")),
        (peer.MAX_CONTROL_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\x03abc",
    ],
)
async def test_offences_on_a_control_stream(autojump_clock: MockClock, net: Net, offence: bytes) -> None:
    raw = await net.raw(BUS)
    await raw.send(Request(0, "/public/a/Hang", b""))
    await net.probe.hanging.wait()
    with capture_logs() as log:
        await raw.stream.send_all(offence)
        with pytest.raises(StreamBroken):
            await raw.receive()
    assert net.probe.stopped.is_set()
    assert all(entry["log_level"] == "debug" for entry in log), "a peer can fill our log"
    assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"


async def test_a_streaming_call_has_no_place_on_a_control_stream(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw(BUS)
    await raw.send(Request(0, "/public/a/Flood", b"", streaming=True, credit=2**30))
    refusal = await raw.receive()
    assert isinstance(refusal, Failure)
    assert refusal.error == "badContent"


async def test_answers_on_a_control_stream_must_be_taken(autojump_clock: MockClock, net: Net) -> None:
    raw = await net.raw(BUS)
    for i in range(100):
        await raw.send(Request(i, "/public/a/Echo", bytes(30_000)))
    await trio.sleep(lone.ANSWER_TIMEOUT - 5)
    assert 0 < net.serving._work.calls < 100, "an answer that waits is no work, or none was taken"
    with capture_logs():
        await trio.sleep(10)
    assert net.serving._work.calls == net.serving._work.bytes == 0
    assert not net.serving._callers


async def test_answers_that_wait_are_counted(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        async def call(self, call: Call) -> bytes:
            if call.method == "Later":
                await trio.sleep(1)
            return bytes(400_000)

    monkeypatch.setattr(peer, "MAX_BYTES_PER_PEER", 1_000_000)
    net.there.register("/public/library", Library())  # type: ignore[arg-type]
    for method, taken in (("Now", 3), ("Later", 2)):  # an answer at once may be the one that goes beyond
        raw = await net.raw(BUS)
        for i in range(5):
            await raw.send(Request(i, f"/public/library/{method}", b""))
        await trio.sleep(2)
        assert net.serving._work.bytes == taken * 400_000
        ended: dict[int, Frame] = {}
        while len(ended) < 5:
            frame = await raw.receive()
            assert isinstance(frame, Part | Reply | Failure)
            if not isinstance(frame, Part):
                ended[frame.id] = frame
        refused = [frame for frame in ended.values() if isinstance(frame, Failure)]
        assert [frame.error for frame in refused] == ["busy"] * (5 - taken)
        await wait_all_tasks_blocked()
        assert net.serving._work.bytes == net.serving._work.calls == 0


async def test_a_peer_that_calls_on_our_control_stream(autojump_clock: MockClock, net: Net) -> None:
    async def contrary(stream: Stream) -> None:
        raw = RawCall(stream)
        await raw.receive()
        await raw.send(Request(0, "/public/a/Echo", b""))

    net.serve_raw(contrary)
    error = await error_of(net.here, net_address(C, "a") + "/M")
    assert isinstance(error, BadContent)
    assert "a Request where only answers are awaited" in str(error)


@pytest.mark.parametrize("dead", [1, 2])
async def test_a_session_that_died_unnoticed_is_tried_once_more(
    autojump_clock: MockClock, net: Net, monkeypatch: pytest.MonkeyPatch, dead: int
) -> None:
    opened = 0
    real = net.a.open_stream

    async def open_stream(node: str, protocol: str) -> Stream:
        nonlocal opened
        opened += 1
        if opened <= dead:
            raise StreamBroken("the session was dead already")
        return await real(node, protocol)

    monkeypatch.setattr(net.a, "open_stream", open_stream)
    if dead == 1:
        assert await net.here.call(ADDRESS + "/Echo", b"x") == b"x"
    else:
        assert isinstance(await error_of(net.here, ADDRESS + "/Echo"), BusClosed)
    assert opened == 2
