"""The exchange that repairs what gossip missed: one conversation over one stream, then both hold the same.

Whoever opened the stream asks, the other answers; the asker alone decides how to find the differences, so
that a better way needs no new version. `Compare` tells fingerprints of ranges and `Differ` which of them are
not the same: for equal sets that is all. `List` and `Listing` give keys and sequence numbers of a range, a
page at a time; `Get` and `Records` bring what the asker lacks, `Put` and `Taken` give what the other lacks.
Records are judged by the topic's owner as those of gossip are. Frames: 4 bytes of length, canonical CBOR.

Errors:
    SyncError
    ├── SyncViolation       the peer said what the protocol does not allow; it is blamed
    └── SyncStopped         the peer hung up, is too slow, or became one that we ignore
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import msgspec
import trio

from p2p import codec
from p2p.broadcast.api import MAX_RECORD_BYTES, Verdict
from p2p.broadcast.ranges import (
    EVERYTHING,
    FINGERPRINT_BYTES,
    LEAF,
    MAX_KEY_CHARS,
    MAX_SEQ,
    Holding,
    KeyRange,
    differences,
)
from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from p2p.broadcast.api import Topic
    from p2p.identity import NodeId
    from p2p.overlay import Stream

PROTOCOL_NAME = "sync"
PROTOCOL_MAJOR = 1

MAX_FRAME_BYTES = 1024 * 1024
"""A full `Compare` of the longest names takes 800 kB; in practice a frame of records is the longest, 270 kB."""
MAX_RANGES = 256
"""Ranges in one `Compare`."""
MAX_PAGE = 512
"""Items in one `Listing`."""
MAX_BATCH = 128
"""Records in one `Get` or `Put`."""
BATCH_BYTES = 256 * 1024
"""Bytes of records in one frame, at most, beyond the first record."""
MAX_LISTED = 200_000
"""Items that one exchange takes from a peer; more is not a market but a flood."""
MAX_REQUESTS = 10_000
"""Requests answered on one stream."""
ANSWER_TIMEOUT = 90.0
"""Seconds that an answer, or a next request, is waited for: a batch that an owner judges slowly takes 80."""
JUDGES = 16
"""Records of one batch that are judged at once."""


class SyncError(Exception):
    """An exchange did not come to its end."""


class SyncViolation(SyncError):
    """The peer said what the protocol does not allow."""


class SyncStopped(SyncError):
    """The peer hung up, is too slow, or became one that we ignore."""


_Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY_CHARS)]
_Bound = Annotated[str, msgspec.Meta(max_length=MAX_KEY_CHARS)]
_TopicName = Annotated[str, msgspec.Meta(max_length=256)]
_Seq = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQ)]
_Record = Annotated[bytes, msgspec.Meta(max_length=MAX_RECORD_BYTES)]


class RangePrint(msgspec.Struct, frozen=True):
    """A range of a topic's keys, and its fingerprint at the asker's."""

    topic: _TopicName
    fingerprint: Annotated[bytes, msgspec.Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]
    after: _Bound = ""
    upto: _Bound = ""


class Compare(msgspec.Struct, frozen=True, tag="compare"):
    """Asks which ranges are not the same at the other's."""

    ranges: Annotated[list[RangePrint], msgspec.Meta(max_length=MAX_RANGES)]


class Differ(msgspec.Struct, frozen=True, tag="differ"):
    """Says which, by their place in `Compare`; ranges of topics that it has not joined are not among them."""

    ranges: Annotated[list[_Seq], msgspec.Meta(max_length=MAX_RANGES)]


class List(msgspec.Struct, frozen=True, tag="list"):
    """Asks what is held in a range."""

    topic: _TopicName
    after: _Bound = ""
    upto: _Bound = ""


class Listing(msgspec.Struct, frozen=True, tag="listing"):
    """Says (key, sequence number) in order; `more` when the range goes on after the last."""

    items: Annotated[list[tuple[_Key, _Seq]], msgspec.Meta(max_length=MAX_PAGE)]
    more: bool = False


class Get(msgspec.Struct, frozen=True, tag="get"):
    """Asks for the records under some keys."""

    topic: _TopicName
    keys: Annotated[list[_Key], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Records(msgspec.Struct, frozen=True, tag="records"):
    """Gives them, in that order; None for what is gone. Fewer than asked when the frame was full."""

    records: Annotated[list[_Record | None], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Gives records that the other lacks."""

    topic: _TopicName
    records: Annotated[list[_Record], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """Says how many of them were new and good."""

    accepted: _Seq


Request = Compare | List | Get | Put
_Answer = TypeVar("_Answer")


class Holder(Protocol):
    """What an exchange needs of the node: the driver is one."""

    @property
    def topics(self) -> Mapping[str, Topic]:
        """Return the topics that we have joined, by name."""
        ...

    async def judge(self, topic: str, data: bytes, source: NodeId) -> Verdict:
        """Have the topic's owner judge a record; blame `source` if it is rejected."""
        ...

    def ignores(self, peer: NodeId) -> bool:
        """Return whether a peer's faults have made it one that we ignore."""
        ...


class Conversation:
    """Messages over a stream, each within a time. Every failure on the way is a SyncError."""

    def __init__(self, stream: Stream) -> None:
        self.peer = stream.peer
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, message: msgspec.Struct) -> None:
        """Send a message of ours."""
        body = codec.encode(message)
        with _patience():
            await self._stream.send_all(len(body).to_bytes(4, "big") + body)

    async def next_request(self) -> Request | None:
        """Return what the asker says next; None when it has finished."""
        frame = await self._next_frame()
        return None if frame is None else _decode(frame, Request)

    async def ask(self, request: Request, answer: type[_Answer]) -> _Answer:
        """Send a request and return its answer."""
        await self.send(request)
        frame = await self._next_frame()
        if frame is None:
            raise SyncStopped("the peer hung up before its answer")
        message: _Answer = _decode(frame, answer)
        return message

    async def _next_frame(self) -> bytes | None:
        with _patience():
            header = await self._take(4)
            if not header:
                return None
            length = int.from_bytes(header, "big")
            if length > MAX_FRAME_BYTES:
                raise SyncViolation(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            return await self._take(length)

    async def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some()
            if not data and (self._buffer or count != 4):
                raise SyncStopped("the peer hung up inside a frame")
            if not data:
                return b""
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


@contextmanager
def _patience() -> Iterator[None]:
    try:
        with trio.fail_after(ANSWER_TIMEOUT):
            yield
    except trio.TooSlowError as error:
        raise SyncStopped(f"the peer did not answer within {ANSWER_TIMEOUT:g} s") from error
    except StreamBroken as error:
        raise SyncStopped(str(error)) from error


def _decode(frame: bytes, expected: Any) -> Any:
    try:
        return codec.decode(frame, expected)
    except codec.CodecError as error:
        raise SyncViolation(f"unexpected in a sync: {error}") from error


class Asker:
    """The side that opened the stream: finds the differences, and settles them both ways.

    Args:
        claimed: (topic, key, seq) that some exchange of this node is fetching, so that exchanges with several
            peers at once fetch each record once. What a failed one leaves behind, the next round brings.
    """

    def __init__(self, stream: Stream, holder: Holder, claimed: set[tuple[str, str, int]]) -> None:
        self._conversation = Conversation(stream)
        self._holder = holder
        self._claimed = claimed
        self._listed = 0
        self.pulled = 0
        """Records so far that were new to us."""
        self.pushed = 0
        """Records so far that were new to the peer."""

    async def run(self) -> None:
        """Make both sides hold the same. Raises SyncError; what was settled until then stays."""
        holdings = {name: Holding(topic.held()) for name, topic in self._holder.topics.items()}
        waiting = [(name, EVERYTHING) for name in holdings]
        while waiting:
            batch, waiting = waiting[:MAX_RANGES], waiting[MAX_RANGES:]
            prints = [
                RangePrint(name, holdings[name].fingerprint(span), span.after, span.upto)
                for name, span in batch
            ]
            answer = await self._conversation.ask(Compare(prints), Differ)
            for index in answer.ranges:
                if index >= len(batch):
                    raise SyncViolation(f"range {index} was not asked for")
                name, span = batch[index]
                if len(holdings[name].keys(span)) <= LEAF:
                    await self._settle(name, holdings[name], span)
                else:
                    waiting += [(name, part) for part in holdings[name].split(span)]

    async def _settle(self, topic: str, holding: Holding, span: KeyRange) -> None:
        more = True
        while more:
            listing = await self._conversation.ask(List(topic, span.after, span.upto), Listing)
            theirs = dict(listing.items)
            keys = [key for key, _ in listing.items]
            self._listed += len(keys)
            if keys != sorted(theirs) or not all(key in span for key in keys):
                raise SyncViolation("a listing is not sorted, or goes beyond the range asked for")
            if self._listed > MAX_LISTED or (listing.more and not keys):
                raise SyncViolation(f"a listing does not end (after {self._listed} items)")
            more = listing.more
            page = KeyRange(span.after, keys[-1]) if more else span
            wanted, offered = differences(holding, page, theirs)
            await self._pull(topic, {key: theirs[key] for key in wanted})
            await self._push(topic, offered)
            if more:
                span = KeyRange(keys[-1], span.upto)

    async def _pull(self, topic: str, wanted: Mapping[str, int]) -> None:
        claims = {(topic, key, seq) for key, seq in wanted.items()} - self._claimed
        keys = [key for key, seq in wanted.items() if (topic, key, seq) in claims]
        self._claimed |= claims
        try:
            while keys:
                answer = await self._conversation.ask(Get(topic, keys[:MAX_BATCH]), Records)
                if len(answer.records) > len(keys[:MAX_BATCH]):
                    raise SyncViolation("more records than were asked for")
                keys = keys[len(answer.records) :]
                records = [record for record in answer.records if record is not None]
                self.pulled += await _judge_all(self._holder, topic, records, self._conversation.peer)
        finally:
            self._claimed -= claims

    async def _push(self, topic: str, keys: Sequence[str]) -> None:
        while keys:
            records = _records(self._holder, topic, keys[:MAX_BATCH])
            keys = keys[len(records) :]
            given = [record for record in records if record is not None]
            if given:
                self.pushed += (await self._conversation.ask(Put(topic, given), Taken)).accepted


class Answerer:
    """The other side: answers until the asker has finished."""

    def __init__(self, stream: Stream, holder: Holder) -> None:
        self._conversation = Conversation(stream)
        self._holder = holder
        self._holdings: dict[str, Holding] = {}
        """One picture a topic for the whole exchange, so that what is compared and listed is the same."""
        self.pulled = 0
        """Records so far that were new to us."""

    async def run(self) -> None:
        """Answer. Raises SyncError."""
        for _ in range(MAX_REQUESTS):
            request = await self._conversation.next_request()
            if request is None:
                return
            await self._conversation.send(await self._answer(request))
        raise SyncViolation(f"more than {MAX_REQUESTS} requests in one exchange")

    async def _answer(self, request: Request) -> Differ | Listing | Records | Taken:
        match request:
            case Compare(ranges):
                return Differ([i for i, asked in enumerate(ranges) if self._differs(asked)])
            case List(topic, after, upto):
                holding = self._holding(topic) or Holding({})
                keys = holding.keys(KeyRange(after, upto))
                page = [(key, holding.seq(key)) for key in keys[:MAX_PAGE]]
                return Listing(page, more=len(keys) > MAX_PAGE)
            case Get(topic, keys):
                if topic not in self._holder.topics:
                    return Records([None] * len(keys))
                return Records(_records(self._holder, topic, keys))
            case Put(topic, records):
                if topic not in self._holder.topics:
                    return Taken(0)
                accepted = await _judge_all(self._holder, topic, records, self._conversation.peer)
                self.pulled += accepted
                return Taken(accepted)

    def _holding(self, topic: str) -> Holding | None:
        if topic not in self._holdings and topic in self._holder.topics:
            self._holdings[topic] = Holding(self._holder.topics[topic].held())
        return self._holdings.get(topic)

    def _differs(self, asked: RangePrint) -> bool:
        holding = self._holding(asked.topic)
        span = KeyRange(asked.after, asked.upto)
        return holding is not None and holding.fingerprint(span) != asked.fingerprint


def _records(holder: Holder, topic: str, keys: Sequence[str]) -> list[bytes | None]:
    """Return records under the first of `keys`, as many as fit into a frame; at least one, or None for it."""
    owner = holder.topics[topic]
    records: list[bytes | None] = []
    size = 0
    for key in keys:
        record = owner.record(key)
        if record is not None and len(record) > MAX_RECORD_BYTES:
            record = None  # it cannot travel, here as in gossip
        size += len(record or b"")
        if records and size > BATCH_BYTES:
            break
        records.append(record)
    return records


async def _judge_all(holder: Holder, topic: str, records: Sequence[bytes], source: NodeId) -> int:
    """Have records judged, some at once; return how many were accepted. Raises SyncStopped."""
    accepted = 0
    rest = list(reversed(records))

    async def judge_some() -> None:
        nonlocal accepted
        while rest and not holder.ignores(source):
            verdict = await holder.judge(topic, rest.pop(), source)
            accepted += verdict is Verdict.ACCEPT  # not in one line: `+=` would read before it waits

    async with trio.open_nursery() as nursery:
        for _ in range(min(JUDGES, len(records))):
            nursery.start_soon(judge_some)
    if holder.ignores(source):
        raise SyncStopped("the peer is ignored for its faults")
    return accepted
