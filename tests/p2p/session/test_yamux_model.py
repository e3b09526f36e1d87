"""Two yamux cores that talk in arbitrary pieces, against a model: each stream is two byte strings."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from p2p.session import MemoryBudget
from p2p.session.yamux import QUEUE_BYTES, Yamux, YamuxSettings

if TYPE_CHECKING:
    from p2p.session.flow import YamuxStream

MAX_WINDOW = 2**20


class Way:
    """One direction of one stream, as it should be."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.read = 0
        self.finished = False
        self.dropped = False
        """Whether the reader has closed, so that nothing is promised."""


class Pipe:
    """A stream with both its ends, once both are known."""

    def __init__(self, opener: int, stream: YamuxStream) -> None:
        self.ends: dict[int, YamuxStream] = {opener: stream}
        self.ways = {0: Way(), 1: Way()}
        """By who sends."""
        self.reset = False


class TwoCores(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.budgets = [MemoryBudget(8 * MAX_WINDOW), MemoryBudget(8 * MAX_WINDOW)]
        options = YamuxSettings(
            max_inbound_streams=8, max_outbound_streams=8, max_window=MAX_WINDOW, linger=50.0
        )
        self.cores = [
            Yamux(initiator=i == 0, budget=self.budgets[i], now=0.0, settings=options) for i in (0, 1)
        ]
        self.wires: list[deque[bytes]] = [deque(), deque()]
        self.pipes: dict[int, Pipe] = {}
        self.counter = 0

    def pick(self, which: int, end: int) -> tuple[Pipe, YamuxStream] | None:
        """Return one of the pipes that `end` holds and that are not reset."""
        held = [p for p in self.pipes.values() if end in p.ends and not p.reset]
        if not held:
            return None
        pipe = held[which % len(held)]
        return pipe, pipe.ends[end]

    @rule(end=st.sampled_from([0, 1]))
    def open(self, end: int) -> None:
        core = self.cores[end]
        if sum(s.inbound is False for s in core.streams.values()) < 4:
            stream = core.open_stream(self.now)
            self.pipes[stream.id] = Pipe(end, stream)
            core.announce(stream)

    @rule(
        end=st.sampled_from([0, 1]), which=st.integers(0, 7), size=st.sampled_from([1, 100, 40_000, 300_000])
    )
    def write(self, end: int, which: int, size: int) -> None:
        found = self.pick(which, end)
        if found and not found[1].fin_wanted and not found[1].over:
            pipe, stream = found
            self.counter += 1
            data = self.counter.to_bytes(4, "big") * (size // 4 + 1)
            taken = self.cores[end].queue(stream, memoryview(data))
            pipe.ways[end].sent += data[:taken]

    @rule(
        end=st.sampled_from([0, 1]), which=st.integers(0, 7), most=st.sampled_from([1, 5000, 65_536, 10**6])
    )
    def read(self, end: int, which: int, most: int) -> None:
        found = self.pick(which, end)
        if found and found[1].buffered:
            pipe, stream = found
            way = pipe.ways[1 - end]
            data = self.cores[end].take(stream, most, self.now)
            assert 0 < len(data) <= most
            assert data == way.sent[way.read : way.read + len(data)]
            way.read += len(data)

    @rule(end=st.sampled_from([0, 1]), which=st.integers(0, 7))
    def finish(self, end: int, which: int) -> None:
        if found := self.pick(which, end):
            self.cores[end].finish(found[1])
            found[0].ways[end].finished = True

    @rule(end=st.sampled_from([0, 1]), which=st.integers(0, 7))
    def close(self, end: int, which: int) -> None:
        if found := self.pick(which, end):
            self.cores[end].close(found[1], self.now)
            found[0].ways[end].finished = True
            found[0].ways[1 - end].dropped = True

    @rule(end=st.sampled_from([0, 1]), which=st.integers(0, 7))
    def reset(self, end: int, which: int) -> None:
        if found := self.pick(which, end):
            self.cores[end].reset(found[1])
            found[0].reset = True

    @rule(end=st.sampled_from([0, 1]), limit=st.sampled_from([1, 70_000, 10**6]))
    def send(self, end: int, limit: int) -> None:
        pieces, size = self.cores[end].data_to_send(limit)
        data = b"".join(pieces)
        assert len(data) == size
        if data:
            self.wires[end].append(data)

    @rule(end=st.sampled_from([0, 1]), step=st.integers(1, 100_000))
    def carry(self, end: int, step: int) -> None:
        """Bring what `end` has sent to the other, in pieces of `step` bytes."""
        other = self.cores[1 - end]
        while self.wires[end]:
            data = self.wires[end].popleft()
            step = max(step, len(data) // 50)
            for at in range(0, len(data), step):
                other.receive(data[at : at + step], self.now)
            for stream in other.accepted:
                self.pipes[stream.id].ends[1 - end] = stream
            other.accepted.clear()
            other.news.clear()

    @rule(seconds=st.sampled_from([0.001, 0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass; nobody is silent for so long that it counts as dead."""
        for end in (0, 1):
            self.cores[end]._heard_at = self.now = max(self.now, self.cores[end]._heard_at)
        self.now += seconds
        for core in self.cores:
            core._heard_at = self.now
            core.tick(self.now)
        for pipe in self.pipes.values():  # a linger that ran out
            pipe.reset = pipe.reset or any(s.failure is not None for s in pipe.ends.values())

    @precondition(lambda self: self.pipes)
    @rule()
    def settle(self) -> None:
        """Carry and read everything; what was sent has arrived and what is finished is forgotten."""
        for _ in range(400):
            busy = False
            for end in (0, 1):
                self.send(end, 10**6)
                busy = busy or bool(self.wires[end])
                self.carry(end, 65_536)
                for which in range(len(self.pipes)):
                    self.read(end, which, 10**6)
            if not busy:
                break
        else:
            raise AssertionError("the cores never come to rest")
        for pipe in self.pipes.values():
            if pipe.reset:
                continue
            for end in (0, 1):
                way = pipe.ways[end]
                if not way.dropped:
                    assert way.read == len(way.sent)
                    assert pipe.ends[1 - end].remote_finished == way.finished
            if all(way.finished for way in pipe.ways.values()):
                assert all(stream.over for stream in pipe.ends.values())
        self.pipes = {
            number: pipe
            for number, pipe in self.pipes.items()
            if not pipe.reset and not all(stream.over for stream in pipe.ends.values())
        }

    @invariant()
    def everything_is_bounded_and_adds_up(self) -> None:
        for core, budget in zip(self.cores, self.budgets, strict=True):
            streams = core.streams.values()
            assert core.queued == sum(s.queued for s in streams)
            assert budget.held == sum(s.buffered for s in streams)
            assert budget.reserved == sum(s.window - 262_144 for s in streams)
            for stream in streams:
                assert stream.queued <= QUEUE_BYTES
                assert 0 <= stream.receive_window + stream.buffered <= MAX_WINDOW
                assert stream.send_window >= 0
            assert core.unacknowledged == sum(not s.acknowledged for s in streams)


TwoCores.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_two_cores = TwoCores.TestCase
