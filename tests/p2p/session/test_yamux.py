"""The yamux core, one end against frames made by hand."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest

from p2p.session import MemoryBudget, ProtocolError, SessionEnded, TooManyStreams
from p2p.session.frames import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE, frame
from p2p.session.records import RECORD_BYTES
from p2p.session.yamux import (
    FRAMES_AT_A_TIME,
    LEAST_QUEUE_BYTES,
    MAX_CREDIT_BYTES,
    QUEUE_BYTES,
    SESSION_QUEUE_BYTES,
    Yamux,
    YamuxSettings,
)

if TYPE_CHECKING:
    from p2p.session.flow import YamuxStream

WINDOW = 262_144
Frame = tuple[int, int, int, int, bytes]


def core(initiator: bool = True, budget: MemoryBudget | None = None, **settings: float) -> Yamux:
    made = Yamux(
        initiator=initiator,
        budget=budget or MemoryBudget(),
        now=0.0,
        settings=YamuxSettings(**settings),  # type: ignore[arg-type] # the tests name integers
    )
    made.tick(0.0)
    drain(made)
    return made


def drain(end: Yamux, limit: int = 10**9) -> list[Frame]:
    """Return the frames that `end` has to send."""
    pieces, size = end.data_to_send(limit)
    data = b"".join(pieces)
    assert len(data) == size
    frames: list[Frame] = []
    while data:
        _, kind, flags, stream_id, value = struct.unpack("!BBHII", data[:12])
        body = 12 + (value if kind == DATA else 0)
        frames.append((kind, flags, stream_id, value, data[12:body]))
        data = data[body:]
    return frames


def take_all(end: Yamux, said: bytes) -> None:
    while said:
        said = said[end.receive(said, 0.0) :]


def opened(end: Yamux) -> YamuxStream:
    """Return a stream of `end` whose peer has acknowledged it."""
    stream = end.open_stream(0.0)
    end.queue(stream, memoryview(b"x"))
    assert drain(end)[-1] == (DATA, SYN, stream.id, 1, b"x")
    end.receive(frame(WINDOW_UPDATE, ACK, stream.id, 0), 0.0)
    return stream


def data(stream_id: int, body: bytes, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream_id, len(body)) + body


@pytest.mark.parametrize("kind", [DATA, WINDOW_UPDATE])
@pytest.mark.parametrize("flags", [ACK | FIN, FIN])
def test_a_fin_counts_with_and_without_ack_on_both_kinds_of_frame(kind: int, flags: int) -> None:
    end = core()
    stream = end.open_stream(0.0)
    end.announce(stream)
    end.receive(frame(kind, flags, stream.id, 0), 0.0)
    assert stream.remote_finished
    assert stream.acknowledged == bool(flags & ACK)
    end.finish(stream)
    drain(end)
    assert stream.over
    assert stream.failure is None
    assert end.streams == {}
    assert end.unacknowledged == 0


@pytest.mark.parametrize("kind", [DATA, WINDOW_UPDATE])
@pytest.mark.parametrize("flags", [RST, ACK | RST, FIN | RST, ACK | FIN | RST])
def test_a_reset_counts_in_every_company(kind: int, flags: int) -> None:
    end = core()
    stream = end.open_stream(0.0)
    end.queue(stream, memoryview(b"queued"))
    end.receive(frame(kind, flags, stream.id, 0), 0.0)
    assert stream.failure == "the peer reset the stream"
    assert end.streams == {}
    assert end.queued == 0
    assert drain(end) == []


@pytest.mark.parametrize("flags", [SYN | FIN, SYN | ACK | FIN])
def test_a_stream_may_be_opened_and_finished_in_one_frame(flags: int) -> None:
    end = core()
    end.receive(data(2, b"all of it", flags), 0.0)
    stream = end.accepted.popleft()
    assert stream.remote_finished
    assert end.take(stream, 100, 0.0) == b"all of it"
    end.finish(stream)
    assert drain(end) == [(WINDOW_UPDATE, ACK, 2, 0, b""), (WINDOW_UPDATE, FIN, 2, 0, b"")]
    assert end.streams == {}


def test_a_stream_may_be_opened_and_reset_in_one_frame() -> None:
    end = core()
    end.receive(frame(WINDOW_UPDATE, SYN | RST, 2, 0), 0.0)
    assert end.accepted.popleft().failure is not None
    assert end.streams == {}


def test_the_first_frame_says_syn_and_the_first_answer_ack() -> None:
    near, far = core(), core(initiator=False)
    stream = near.open_stream(0.0)
    near.queue(stream, memoryview(b"ask"))
    far.receive(b"".join(near.data_to_send(1000)[0]), 0.0)
    answer = far.accepted.popleft()
    assert far.take(answer, 10, 0.0) == b"ask"
    far.queue(answer, memoryview(b"answer"))
    assert drain(far) == [(DATA, ACK, 1, 6, b"answer")]


def test_a_stream_that_is_reset_before_it_was_announced_is_never_told_of() -> None:
    end = core()
    stream = end.open_stream(0.0)
    end.queue(stream, memoryview(b"x"))
    end.reset(stream)
    assert drain(end) == []
    end.reset(opened(end))
    assert drain(end) == [(WINDOW_UPDATE, RST, 3, 0, b"")]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (data(1, bytes(WINDOW + 1)), "ignores windows"),
        (frame(DATA, 0, 1, 2**25 + 1), "announced a frame"),
        (frame(DATA, 0, 1, 0xFFFFFFFF), "announced a frame"),
        (b"\x01" + bytes(11), "does not speak yamux"),
        (frame(4, 0, 0, 0), "does not speak yamux"),
        (frame(DATA, 16, 1, 0), "does not speak yamux"),
        (frame(DATA, SYN, 0, 0), "stream 0"),
        (frame(WINDOW_UPDATE, SYN, 3, 0), "not its to use"),
        (frame(WINDOW_UPDATE, SYN, 2, 0) * 2, "not its to use"),
        (frame(WINDOW_UPDATE, 0, 5, 0), "never opened"),
        (frame(WINDOW_UPDATE, 0, 1, 0xFFFFFFFF), "beyond 2"),
        (frame(DATA, FIN, 1, 0) + data(1, b"x"), "had finished"),
        (frame(PING, SYN, 1, 0), "on a stream"),
        (frame(GO_AWAY, 0, 1, 0), "on a stream"),
        (frame(PING, SYN, 0, 7) * 6000, "answers a second"),
        (b"".join(frame(WINDOW_UPDATE, SYN, 2 * n, 0) for n in range(1, 7000)), "answers a second"),
    ],
)
def test_who_breaks_the_rules_is_cut_off(wrong: bytes, message: str) -> None:
    end = core()
    opened(end)
    with pytest.raises(ProtocolError, match=message):
        take_all(end, wrong)


def test_who_reads_no_answers_is_cut_off() -> None:
    end = core()
    pings = frame(PING, SYN, 0, 7) * FRAMES_AT_A_TIME
    for second in range(21):
        end.receive(pings, float(second))
    with pytest.raises(ProtocolError, match="faster than it reads"):
        end.receive(pings, 21.0)


def test_one_frame_may_fill_a_window_that_has_grown() -> None:
    end = core()
    stream = opened(end)
    end.receive(frame(PING, SYN, 0, 1), 0.0)
    stream.window = stream.receive_window = 4 * 2**20
    payload = bytes(range(256)) * 2**14
    wire = data(stream.id, payload)
    for at in range(0, len(wire), 65_519):
        end.receive(wire[at : at + 65_519], 0.0)
    assert end.take(stream, 8 * 2**20, 0.0) == payload


def test_a_window_is_enforced_over_many_frames_and_reopens_as_it_is_read() -> None:
    end = core()
    stream = opened(end)
    for _ in range(4):
        end.receive(data(1, bytes(WINDOW // 4)), 0.0)
    assert stream.buffered == WINDOW
    assert drain(end) == []
    read = len(end.take(stream, WINDOW // 2 - 1, 100.0))
    assert drain(end) == []
    while read < WINDOW // 2:
        read += len(end.take(stream, 1, 100.0))
    assert drain(end) == [(WINDOW_UPDATE, 0, 1, read, b"")]
    end.receive(data(1, bytes(read)), 100.0)
    with pytest.raises(ProtocolError, match="ignores windows"):
        end.receive(data(1, b"x"), 100.0)


def test_unread_bytes_are_counted_and_given_back() -> None:
    budget = MemoryBudget()
    end = core(budget=budget)
    stream = opened(end)
    end.receive(data(1, bytes(1000)), 0.0)
    assert budget.held == 1000
    end.take(stream, 400, 0.0)
    assert budget.held == 600
    end.reset(stream)
    assert budget.held == 0
    other = opened(end)
    end.receive(data(3, bytes(1000)), 0.0)
    end.end("gone")
    assert budget.held == 0
    assert end.take(other, 5000, 0.0) == bytes(1000)
    assert budget.held == 0


def pong(end: Yamux, now: float, rtt: float) -> None:
    """Let the peer answer a ping after `rtt`."""
    end.tick(now)
    sent = [f for f in drain(end) if f[0] == PING]
    assert len(sent) == 1
    assert sent[0][1] == SYN
    end.receive(frame(PING, ACK, 0, sent[0][3]), now + rtt)


def read_at(end: Yamux, stream: YamuxStream, now: float) -> list[Frame]:
    """Fill half the window and read it at `now`."""
    size = min(stream.window // 2, MAX_CREDIT_BYTES)
    while size:
        piece = min(size, 65_000)
        end.receive(data(stream.id, bytes(piece)), now)
        end.take(stream, piece, now)
        size -= piece
    return drain(end)


def test_a_window_grows_while_it_is_read_fast_and_not_beyond_its_limit() -> None:
    budget = MemoryBudget()
    end = Yamux(initiator=True, budget=budget, now=0.0, settings=YamuxSettings(max_window=2**20))
    pong(end, 0.0, rtt=0.1)
    assert end.rtt == pytest.approx(0.1)
    stream = opened(end)
    read_at(end, stream, 10.0)
    assert stream.window == WINDOW, "it was read slowly"
    credit = read_at(end, stream, 10.1)
    assert stream.window == 2 * WINDOW
    assert credit == [(WINDOW_UPDATE, 0, 1, WINDOW // 2 + WINDOW, b"")]
    read_at(end, stream, 10.2)
    read_at(end, stream, 10.3)
    read_at(end, stream, 10.4)
    assert stream.window == 2**20
    assert budget.reserved == 2**20 - WINDOW
    end.reset(stream)
    assert budget.reserved == 0


def test_a_window_never_grows_beyond_the_budget_and_shrinks_when_it_is_tight() -> None:
    budget = MemoryBudget(8 * WINDOW)
    end = core(budget=budget)
    pong(end, 30.0, rtt=0.1)
    one, two = opened(end), opened(end)
    for step in range(20):
        read_at(end, one, 40 + step * 0.01)
    assert one.window == 4 * WINDOW
    budget.held = 8 * WINDOW  # what other connections hold
    for _ in range(8):
        read_at(end, one, 50.0)
        read_at(end, two, 50.0)
    assert (one.window, two.window) == (WINDOW, WINDOW)
    assert budget.reserved == 0


def test_new_streams_are_refused_when_memory_is_exhausted() -> None:
    budget = MemoryBudget(1000)
    end = core(budget=budget)
    budget.held = 1000
    end.receive(data(2, b"hello", SYN), 0.0)
    assert not end.accepted
    assert drain(end) == [(WINDOW_UPDATE, RST, 2, 0, b"")]


def test_streams_beyond_the_limit_are_reset_and_their_data_is_dropped() -> None:
    end = core(max_inbound_streams=3)
    for n in range(1, 6):
        end.receive(data(2 * n, b"hello", SYN), 0.0)
    assert [s.id for s in end.accepted] == [2, 4, 6]
    assert drain(end) == [(WINDOW_UPDATE, RST, 8, 0, b""), (WINDOW_UPDATE, RST, 10, 0, b"")]
    end.receive(data(8, b"more", FIN), 0.0)
    stream = end.accepted.popleft()
    end.reset(stream)
    end.receive(data(12, b"hello", SYN), 0.0)
    assert [s.id for s in end.accepted] == [4, 6, 12]


def test_opening_and_resetting_at_once_does_not_pile_up() -> None:
    end = core(max_inbound_streams=10)
    for n in range(1, 200):
        end.receive(frame(WINDOW_UPDATE, SYN | RST, 2 * n, 0), 0.0)
    assert len(end.accepted) == 10


def test_this_end_has_a_limit_too() -> None:
    end = core(max_outbound_streams=2)
    end.open_stream(0.0)
    stream = end.open_stream(0.0)
    with pytest.raises(TooManyStreams, match="2 streams are open"):
        end.open_stream(0.0)
    end.reset(stream)
    end.open_stream(0.0)


def test_streams_take_turns_and_frames_end_with_their_record() -> None:
    end = core()
    streams = [opened(end) for _ in range(3)]
    for stream in streams:
        assert end.queue(stream, memoryview(bytes(200_000))) == 200_000
    frames = drain(end, 6 * RECORD_BYTES)
    assert [f[2] for f in frames] == [1, 3, 5, 1, 3, 5]
    assert {len(f[4]) + 12 for f in frames} == {RECORD_BYTES}
    small = opened_during(end)
    assert [f[2] for f in drain(end, 4 * RECORD_BYTES)][:4] == [1, 3, 5, small.id]


def test_urgent_streams_go_first_and_leave_one_frame_in_eight() -> None:
    end = core()
    bulk, more, urgent, other = (opened(end) for _ in range(4))
    for stream in (bulk, more):
        end.queue(stream, memoryview(bytes(QUEUE_BYTES)))
    end.set_urgent(urgent, True)
    end.queue(urgent, memoryview(b"call"))
    assert [f[2] for f in drain(end, 2 * RECORD_BYTES)] == [urgent.id, bulk.id, more.id]
    end.set_urgent(other, True)
    for stream in (urgent, other):
        end.queue(stream, memoryview(bytes(QUEUE_BYTES)))
    order = [f[2] for f in drain(end)]
    assert order == [5, 7, 5, 7, 5, 7, 5, 1, 7, 3, 1, 3, 1, 3, 1]
    assert not end.has_data()


def test_a_stream_may_become_urgent_while_it_waits_and_ends_like_any_other() -> None:
    end = core()
    bulk, late = opened(end), opened(end)
    for stream in (bulk, late):
        end.queue(stream, memoryview(bytes(QUEUE_BYTES)))
    end.set_urgent(late, True)
    end.set_urgent(late, True)
    assert [f[2] for f in drain(end, 2 * RECORD_BYTES)] == [late.id, late.id]
    end.set_urgent(late, False)
    assert [f[2] for f in drain(end, 2 * RECORD_BYTES)] == [bulk.id, late.id]
    end.set_urgent(late, True)
    end.reset(late)
    assert not any(f[2] == late.id for f in drain(end) if f[0] == DATA)
    gone = opened(end)
    end.set_urgent(gone, True)
    end.queue(gone, memoryview(b"x"))
    end.end("over")
    assert not end.has_data()


def opened_during(end: Yamux) -> YamuxStream:
    stream = end.open_stream(0.0)
    end.queue(stream, memoryview(b"small"))
    return stream


def test_a_frame_shares_its_record_with_what_goes_before() -> None:
    end = core()
    stream = opened(end)
    end.receive(frame(PING, SYN, 0, 9), 0.0)
    end.queue(stream, memoryview(bytes(200_000)))
    frames = drain(end)
    assert frames[0] == (PING, ACK, 0, 9, b"")
    assert len(frames[1][4]) == RECORD_BYTES - 24
    assert len(frames[2][4]) == RECORD_BYTES - 12


def test_what_is_queued_is_bounded_by_the_queue_and_by_the_window() -> None:
    end = core()
    stream = opened(end)
    assert end.queue(stream, memoryview(bytes(10**6))) == QUEUE_BYTES
    drain(end)
    assert end.queue(stream, memoryview(bytes(10**6))) == WINDOW - 1 - QUEUE_BYTES
    drain(end)
    assert end.queue(stream, memoryview(b"x")) == 0
    end.receive(frame(WINDOW_UPDATE, 0, 1, 10**7), 0.0)
    assert end.queue(stream, memoryview(bytes(10**7))) == QUEUE_BYTES


def test_pings_are_answered_and_measure_the_round_trip() -> None:
    end = core(ping_interval=30.0, ping_timeout=20.0)
    end.receive(frame(PING, SYN, 0, 1234), 0.0)
    assert drain(end) == [(PING, ACK, 0, 1234, b"")]
    end.receive(frame(PING, ACK, 0, 77), 5.0)
    assert end.rtt is None
    end.receive(frame(PING, ACK, 0, 1), 5.0)
    assert end.rtt == 5.0
    assert end.next_tick() == 30.0


def test_a_peer_that_is_silent_after_a_ping_is_dead_and_one_that_talks_is_not() -> None:
    end = core(ping_interval=30.0, ping_timeout=20.0)
    end.receive(frame(PING, ACK, 0, 1), 0.1)
    end.tick(30.0)
    assert end.next_tick() == 50.0
    end.receive(frame(WINDOW_UPDATE, 0, 2, 0), 49.0)
    end.tick(50.0)
    assert end.next_tick() == 60.0
    end.tick(69.0)
    assert drain(end)[-1][:2] == (PING, SYN)
    end.tick(88.0)
    with pytest.raises(SessionEnded, match="not answered for 20 s"):
        end.tick(89.0)


def test_going_away_lets_open_streams_finish_and_refuses_new_ones() -> None:
    end = core()
    stream = opened(end)
    end.receive(frame(GO_AWAY, 0, 0, 0), 0.0)
    with pytest.raises(SessionEnded, match="closing"):
        end.open_stream(0.0)
    end.receive(data(1, b"last words", FIN), 0.0)
    assert end.take(stream, 100, 0.0) == b"last words"
    other = core()
    other.go_away()
    assert drain(other) == [(GO_AWAY, 0, 0, 0, b"")]
    other.receive(frame(WINDOW_UPDATE, SYN, 2, 0), 0.0)
    assert drain(other) == [(WINDOW_UPDATE, RST, 2, 0, b"")]


def test_a_closed_stream_gives_credit_for_what_it_drops_and_is_reset_in_the_end() -> None:
    end = core(linger=60.0)
    stream = opened(end)
    end.receive(data(1, bytes(1000)), 0.0)
    end.close(stream, 0.0)
    assert stream.buffered == 0
    for _ in range(4):
        end.receive(data(1, bytes(WINDOW // 4)), 0.0)
    kinds = [(f[0], f[1]) for f in drain(end)]
    assert kinds.count((WINDOW_UPDATE, 0)) >= 1
    assert (WINDOW_UPDATE, FIN) in kinds
    end.tick(59.0)
    assert end.streams
    end.tick(60.0)
    assert end.streams == {}
    assert (WINDOW_UPDATE, RST, 1, 0, b"") in drain(end)


def test_single_bytes_do_not_cost_a_record_each() -> None:
    end = core()
    stream = opened(end)
    for _ in range(2000):
        end.receive(data(1, b"x") + data(98, bytes(100)) * 2, 0.0)
    assert len(stream.buffer) == 1
    assert end.take(stream, 5000, 0.0) == b"x" * 2000


def test_garbage_raises_protocol_errors_and_nothing_else() -> None:
    chance = random.Random(1)
    end, budget, cut_off = core(), MemoryBudget(), 0
    for _ in range(10_000):
        kind = chance.choice([0, 0, 1, 1, 2, 3, chance.randrange(256)])
        flags = chance.randrange(16) if chance.random() < 0.9 else chance.randrange(65536)
        stream_id = chance.choice([0, 1, 2, 3, 4, chance.randrange(2**32)])
        value = chance.choice([0, 1, chance.randrange(100), chance.randrange(2**32)])
        garbage = struct.pack("!BBHII", chance.choice([0] * 20 + [1]), kind, flags, stream_id, value)
        garbage += chance.randbytes(min(value, chance.randrange(200)))
        try:
            end.receive(garbage, 0.0)
            for stream in end.accepted:
                end.queue(stream, memoryview(b"answer"))
                end.close(stream, 0.0)
            end.accepted.clear()
        except ProtocolError:
            cut_off += 1
            end.end("cut off")
            end = core(budget=budget)
        drain(end)
    assert cut_off > 1000
    end.end("done")
    assert budget.held == budget.reserved == 0


def test_many_frames_are_taken_some_at_a_time() -> None:
    far = core(initiator=False)
    frames = frame(DATA, SYN, 1, 3) + b"abc"
    frames += b"".join(frame(DATA, 0, 1, 2) + b"de" for _ in range(FRAMES_AT_A_TIME))
    taken = far.receive(frames, 1.0)
    stream = far.accepted[0]
    assert (taken, stream.buffered) == (len(frames) - 14, 3 + 2 * (FRAMES_AT_A_TIME - 1))
    assert far.receive(memoryview(frames)[taken:], 1.0) == 14
    assert stream.buffered == 3 + 2 * FRAMES_AT_A_TIME
    rest = frame(DATA, 0, 1, 10)
    assert far.receive(rest[:5], 2.0) == 5
    assert far.receive(rest[5:] + b"0123", 2.0) == 11
    assert far.receive(b"456789", 2.0) == 6
    assert far.take(stream, 10**6, 3.0).endswith(b"de0123456789")


def test_what_streams_have_queued_together_is_bounded_and_each_gets_on() -> None:
    end = core()
    streams = [opened(end) for _ in range(100)]
    for stream in streams:
        end.queue(stream, memoryview(bytes(10**6)))
    assert end.queued < SESSION_QUEUE_BYTES + QUEUE_BYTES + len(streams) * LEAST_QUEUE_BYTES
    assert all(stream.queued for stream in streams)
    assert end.budget.queued == end.queued
    waiting = streams[-1]
    assert end.room(waiting) == 0
    waiting.waits = True
    end.news.clear()
    while waiting.queued:
        end.data_to_send(65_536)
    assert waiting in end.news
    assert end.room(waiting) >= LEAST_QUEUE_BYTES
    end.end("it is over")
    assert end.budget.queued == end.queued == 0


def test_when_all_sessions_have_much_to_send_each_stream_has_a_little_room() -> None:
    budget = MemoryBudget(2 * 2**20)
    ends = [core(budget=budget) for _ in range(5)]
    streams = [[opened(end) for _ in range(4)] for end in ends]
    for end, mine in zip(ends, streams, strict=True):
        for stream in mine:
            end.queue(stream, memoryview(bytes(10**6)))
    assert budget.queued < 2**20 + QUEUE_BYTES + 20 * LEAST_QUEUE_BYTES
    assert all(stream.queued >= LEAST_QUEUE_BYTES for mine in streams for stream in mine)
    assert not budget.exhausted, "streams of others are refused"
