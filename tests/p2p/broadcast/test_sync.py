"""One exchange over a stream: what it brings, what it costs, what a bad peer gets. Virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from p2p import codec
from p2p.broadcast import MAX_RECORD_BYTES, Verdict
from p2p.broadcast import sync as s
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork
from tests.p2p.broadcast.world import NAME, Store, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import msgspec
    from trio.testing import MockClock

    from p2p.overlay import Stream

PROTOCOL = "/golem-p2p/devnet/sync/1"


class _Holder:
    """A node as far as an exchange sees it."""

    def __init__(self, *stores: Store) -> None:
        self.topics = {store.name: store for store in stores}
        self.rejected = 0

    async def judge(self, topic: str, data: bytes, source: NodeId) -> Verdict:
        verdict = await self.topics[topic].receive(data, source)
        self.rejected += verdict is Verdict.REJECT
        return verdict

    def ignores(self, peer: NodeId) -> bool:
        return self.rejected >= 3


@asynccontextmanager
async def _stream(answer: Callable[[Stream], Awaitable[None]]) -> AsyncIterator[Stream]:
    """Yield a stream whose other end `answer` serves."""
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), Link(latency=0.01))
    here, there = (network.overlay(PrivateKey(bytes((i,)) * 32)) for i in (1, 2))
    async with here.running(), there.running():
        there.serve(PROTOCOL, answer)
        await here.connect(there.listen_addresses()[0])
        yield await here.open_stream(there.node_id, PROTOCOL)


def _answering(holder: _Holder) -> Callable[[Stream], Awaitable[None]]:
    async def answer(stream: Stream) -> None:
        with suppress(s.SyncStopped):  # when the test is over
            await s.Answerer(stream, holder).run()

    return answer


async def _exchange(ours: _Holder, theirs: _Holder) -> tuple[s.Asker, s.Answerer]:
    answerers: list[s.Answerer] = []
    over = trio.Event()

    async def answer(stream: Stream) -> None:
        answerers.append(s.Answerer(stream, theirs))
        await answerers[0].run()
        over.set()

    async with _stream(answer) as stream:
        asker = s.Asker(stream, ours, set())
        await asker.run()
        await stream.aclose()
        await over.wait()
    return asker, answerers[0]


def _store(*records: bytes, name: str = NAME) -> Store:
    store = Store(name)
    for data in records:
        store.keep(data)
    return store


async def test_both_then_hold_the_newest_of_everything(autojump_clock: MockClock) -> None:
    ours = _store(record("same"), record("ours"), record("newer", 5), record("older", 1))
    theirs = _store(record("same"), record("theirs"), record("newer", 4), record("older", 3))
    asker, answerer = await _exchange(_Holder(ours), _Holder(theirs))
    assert ours.held() == theirs.held() == {"same": 1, "ours": 1, "theirs": 1, "newer": 5, "older": 3}
    assert (asker.pulled, asker.pushed, answerer.pulled) == (2, 2, 2)
    assert record("same") not in ours.asked + theirs.asked


async def test_thousands_come_in_pages(autojump_clock: MockClock) -> None:
    theirs = _store(*(record(f"{i:05}", size=300) for i in range(2000)))
    ours = _store(record("00500", 7))
    asker, answerer = await _exchange(_Holder(ours), _Holder(theirs))
    assert ours.held() == theirs.held()
    assert (asker.pulled, answerer.pulled) == (1999, 1)


async def test_large_records_are_split_over_frames(autojump_clock: MockClock) -> None:
    ours = _store(*(record(f"ours {i:03}", size=MAX_RECORD_BYTES) for i in range(100)))
    theirs = _store(*(record(f"theirs {i:03}", size=MAX_RECORD_BYTES) for i in range(100)))
    await _exchange(_Holder(ours), _Holder(theirs))
    assert len(ours.kept) == 200
    assert ours.held() == theirs.held()


async def test_few_differences_among_many_cost_little(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    send = s.Conversation.send

    async def counted(self: s.Conversation, message: msgspec.Struct) -> None:
        sent.append(len(codec.encode(message)))
        await send(self, message)

    monkeypatch.setattr(s.Conversation, "send", counted)
    many = [record(f"{i:05}") for i in range(5000)]
    ours, theirs = _store(*many), _store(*many)
    await _exchange(_Holder(ours), _Holder(theirs))
    assert len(sent) == 2
    assert sum(sent) < 150
    sent.clear()
    ours.keep(record("02500", 2))
    theirs.keep(record("new"))
    await _exchange(_Holder(ours), _Holder(theirs))
    assert ours.held() == theirs.held()
    assert len(sent) < 20
    assert sum(sent) < 15_000


async def test_topics_that_only_one_has_joined_are_left_alone(autojump_clock: MockClock) -> None:
    ours = _Holder(_store(record("a")), _store(record("b"), name="only ours"))
    theirs = _Holder(_store(record("c")), _store(record("d"), name="only theirs"))
    asker, _ = await _exchange(ours, theirs)
    assert (asker.pulled, asker.pushed) == (1, 1)
    assert theirs.topics["only theirs"].held() == {"d": 1}


async def test_what_vanished_meanwhile_or_is_too_large_is_passed_over(autojump_clock: MockClock) -> None:
    class Leaky(Store):
        def record(self, key: str) -> bytes | None:
            return None if key == "gone" else super().record(key)

    ours, theirs = Leaky(), Leaky()
    for store in (ours, theirs):
        store.keep(record("gone", 1 + (store is ours)))
    theirs.keep(record("there"))
    theirs.keep(record("large", size=MAX_RECORD_BYTES + 1))
    asker, _ = await _exchange(_Holder(ours), _Holder(theirs))
    assert (asker.pulled, asker.pushed) == (1, 0)


async def test_what_another_exchange_is_fetching_is_left_to_it(autojump_clock: MockClock) -> None:
    theirs, claimed = _Holder(_store(record("a"), record("b"))), {(NAME, "a", 1)}
    async with _stream(_answering(theirs)) as stream:
        ours = _Holder(Store())
        await s.Asker(stream, ours, claimed).run()
        assert ours.topics[NAME].held() == {"b": 1}
        assert claimed == {(NAME, "a", 1)}


async def test_a_peer_whose_records_are_bad_is_not_listened_to_for_long(autojump_clock: MockClock) -> None:
    theirs = _store()
    theirs.kept = {f"{i:04}": (1, b"bad") for i in range(500)}
    ours = _Holder(Store())
    async with _stream(_answering(_Holder(theirs))) as stream:
        with pytest.raises(s.SyncStopped, match="ignored"):
            await s.Asker(stream, ours, set()).run()
    assert 3 <= ours.rejected <= 3 + s.JUDGES


# Askers that meet a bad answerer.


def _listing(*keys: str, more: bool = False) -> s.Listing:
    return s.Listing([(key, 1) for key in keys], more)


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ([s.Differ([1])], "not asked for"),
        ([s.Differ([0]), _listing("b", "a")], "not sorted"),
        ([s.Differ([0]), _listing("a", "a")], "not sorted"),
        ([s.Differ([0]), _listing("a", more=True), s.Records([None]), _listing("a")], "beyond the range"),
        ([s.Differ([0]), _listing(more=True)], "does not end"),
        ([s.Differ([0]), _listing("a"), s.Records([b"a|1|", b"b|1|"])], "more records"),
        ([s.Listing([])], "unexpected"),
        ([s.Differ([0]), _listing("a"), s.Records([])], "unexpected"),
        ([s.Differ([0]), _listing("a"), s.Records([b"x" * (MAX_RECORD_BYTES + 1)])], "unexpected"),
        ([{"type": "unheard of"}], "unexpected"),
        ([b"\xff" * 10], "unexpected"),
    ],
)
async def test_a_bad_answer_ends_the_exchange(
    autojump_clock: MockClock, answers: list[msgspec.Struct | bytes], what: str
) -> None:
    async def answer(stream: Stream) -> None:
        conversation = s.Conversation(stream)
        for item in answers:
            await conversation.next_request()
            body = item if isinstance(item, bytes) else codec.encode(item)
            await stream.send_all(len(body).to_bytes(4, "big") + body)
        with suppress(s.SyncStopped):
            await conversation.next_request()

    async with _stream(answer) as stream:
        with pytest.raises(s.SyncViolation, match=what):
            await s.Asker(stream, _Holder(Store()), set()).run()


async def test_a_listing_without_end_is_cut_off(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s, "MAX_LISTED", 1000)

    async def answer(stream: Stream) -> None:
        conversation, count = s.Conversation(stream), 0
        while request := await conversation.next_request():
            match request:
                case s.Compare():
                    await conversation.send(s.Differ([0]))
                case s.List():
                    await conversation.send(_listing(*(f"{count + i:09}" for i in range(100)), more=True))
                    count += 100
                case s.Get(_, keys):
                    await conversation.send(s.Records([None] * len(keys)))

    async with _stream(answer) as stream:
        with pytest.raises(s.SyncViolation, match="after 1100 items"):
            await s.Asker(stream, _Holder(Store()), set()).run()


async def test_a_silent_answerer_is_waited_for_so_long(autojump_clock: MockClock) -> None:
    async def answer(_: Stream) -> None:
        await trio.sleep_forever()

    async with _stream(answer) as stream:
        with pytest.raises(s.SyncStopped, match="within 90 s"):
            await s.Asker(stream, _Holder(Store()), set()).run()
    assert trio.current_time() < 91


@pytest.mark.parametrize("start", [b"", b"\0\0", b"\0\0\0\x09abc"])
async def test_an_answerer_that_hangs_up_stops_it(autojump_clock: MockClock, start: bytes) -> None:
    async with _stream(lambda stream: stream.send_all(start)) as stream:
        with pytest.raises(s.SyncStopped, match="hung up"):
            await s.Asker(stream, _Holder(Store()), set()).run()


async def test_a_stream_that_breaks_stops_it(autojump_clock: MockClock) -> None:
    async def answer(stream: Stream) -> None:
        stream.reset()

    async with _stream(answer) as stream:
        with pytest.raises(s.SyncStopped):
            await s.Asker(stream, _Holder(Store()), set()).run()


# Answerers that meet a bad asker.


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param((s.MAX_FRAME_BYTES + 1).to_bytes(4, "big"), id="too long"),
        pytest.param(b"\0\0\0\x03abc", id="not CBOR"),
        pytest.param(b"\0\0\0\0", id="empty"),
        pytest.param(codec.encode(s.Differ([])), id="an answer"),
        pytest.param(codec.encode(s.Get(NAME, ["k"] * 129)), id="too many keys"),
        pytest.param(codec.encode(s.Get(NAME, ["k" * 257])), id="too long a key"),
        pytest.param(codec.encode(s.Put(NAME, [])), id="nothing put"),
        pytest.param(codec.encode(s.Compare([s.RangePrint(NAME, b"short")])), id="no fingerprint"),
    ],
)
async def test_a_bad_request_ends_the_exchange(autojump_clock: MockClock, frame: bytes) -> None:
    caught: list[s.SyncViolation] = []

    async def answer(stream: Stream) -> None:
        try:
            await s.Answerer(stream, _Holder(Store())).run()
        except s.SyncViolation as error:
            caught.append(error)

    async with _stream(answer) as stream:
        whole = frame if frame[:2] == b"\0\0" or len(frame) == 4 else len(frame).to_bytes(4, "big") + frame
        await stream.send_all(whole)
        assert await stream.receive_some() == b""
    assert len(caught) == 1


async def test_requests_of_one_stream_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s, "MAX_REQUESTS", 3)
    caught: list[s.SyncViolation] = []

    async def answer(stream: Stream) -> None:
        try:
            await s.Answerer(stream, _Holder(Store())).run()
        except s.SyncViolation as error:
            caught.append(error)

    async with _stream(answer) as stream:
        conversation = s.Conversation(stream)
        for _ in range(3):
            await conversation.ask(s.List(NAME), s.Listing)
        assert await stream.receive_some() == b""
    assert len(caught) == 1


async def test_requests_for_topics_that_were_not_joined_get_nothing(autojump_clock: MockClock) -> None:
    async with _stream(_answering(_Holder(Store()))) as stream:
        conversation = s.Conversation(stream)
        print_ = s.RangePrint("other", b"\0" * 16)
        assert await conversation.ask(s.Compare([print_]), s.Differ) == s.Differ([])
        assert await conversation.ask(s.List("other"), s.Listing) == s.Listing([])
        assert await conversation.ask(s.Get("other", ["k", "l"]), s.Records) == s.Records([None, None])
        assert await conversation.ask(s.Put("other", [b"x"]), s.Taken) == s.Taken(0)
        await stream.aclose()
