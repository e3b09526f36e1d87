"""Frames go through any cutting unchanged, and nothing but BadContent comes of anything else."""

from __future__ import annotations

import random
import struct

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import codec
from p2p.bus import frames
from p2p.bus.api import (
    MAX_BODY_BYTES,
    AddressTaken,
    BadContent,
    BusClosed,
    BusError,
    BusTimeout,
    Busy,
    Caller,
    NoEndpoint,
    RemoteError,
)
from p2p.bus.frames import FrameReader

ids = st.integers(0, 2**53 - 1)
texts = st.text(max_size=40)
bodies = st.binary(max_size=200)
callers = st.builds(Caller, node_id=texts, local=st.booleans(), child=texts)
messages: st.SearchStrategy[frames.Frame] = st.one_of(
    st.builds(frames.Hello, token=texts),
    st.builds(frames.Welcome, node_id=texts, subject=texts),
    st.builds(
        frames.Request,
        id=ids,
        address=texts,
        body=bodies,
        streaming=st.booleans(),
        timeout_ms=st.none() | ids,
        credit=st.integers(0, 2**30),
        caller=st.none() | callers,
        acting=st.just("") | texts,
    ),
    st.builds(frames.Part, id=ids, body=bodies),
    st.builds(frames.Reply, id=ids, body=bodies),
    st.builds(frames.Item, id=ids, body=bodies),
    st.builds(frames.End, id=ids),
    st.builds(frames.Failure, id=ids, error=st.sampled_from(["service", "busy"]), message=texts, kind=texts),
    st.builds(frames.Cancel, id=ids),
    st.builds(frames.Credit, id=ids, size=st.integers(1, 2**30)),
    st.builds(frames.Register, id=ids, prefix=texts),
    st.builds(frames.Unregister, id=ids),
    st.builds(frames.Subscribe, id=ids, topic=st.text(min_size=1, max_size=40)),
    st.builds(frames.Unsubscribe, id=ids),
    st.builds(frames.Publish, topic=st.text(min_size=1, max_size=40), body=bodies),
    st.builds(frames.Event, id=ids, body=bodies),
)


def take_all(reader: FrameReader) -> list[frames.Frame]:
    taken = []
    while (frame := reader.next_frame()) is not None:
        taken.append(frame)
    return taken


def framed(message: bytes) -> bytes:
    return struct.pack(">I", len(message)) + message


@given(st.lists(messages, max_size=8), st.data())
def test_any_cutting_gives_the_same_frames(sent: list[frames.Frame], data: st.DataObject) -> None:
    stream = b"".join(frames.encode(frame) for frame in sent)
    reader, received = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        received += take_all(reader)
        stream = stream[size:]
    assert received == sent
    assert reader.announced is None


@given(messages)
def test_a_frame_is_canonical_whichever_way_it_is_encoded(frame: frames.Frame) -> None:
    assert frames.encode(frame) == framed(codec.encode(frame))


@given(st.builds(frames.Request, id=ids, address=texts, body=bodies, timeout_ms=ids), st.data())
def test_only_the_canonical_form_of_a_call_is_one(frame: frames.Request, data: st.DataObject) -> None:
    tree = codec.decode_tree(codec.encode(frame))
    items = data.draw(st.permutations(list(tree.items())))
    shuffled = cbor2.dumps(dict(items))
    if shuffled == codec.encode(frame):
        assert frames.decode(shuffled) == frame
    else:
        with pytest.raises(BadContent):
            frames.decode(shuffled)
    assert frames.decode(codec.encode(tree | {"new": 1})) == frame, "a later version may add fields"


def test_the_largest_body_fits() -> None:
    reader = FrameReader()
    address = "/public/" + "a" * 504
    caller = Caller("0x" + "1" * 40, local=False, child="c" * 256)
    largest = frames.Request(2**53 - 1, address, bytes(MAX_BODY_BYTES), True, 2**53 - 1, 2**30, caller)
    reader.feed(frames.encode(largest))
    assert reader.next_frame() == largest


def test_a_longest_error_fits() -> None:
    worst = RemoteError("é" * 100, "\N{DROMEDARY CAMEL}" * 10_000)
    reader = FrameReader()
    reader.feed(frames.encode(frames.failure(1, worst)))
    (failure,) = take_all(reader)
    assert isinstance(failure, frames.Failure)
    assert len(failure.message) == frames.MAX_MESSAGE_CHARS


def test_an_oversized_frame_is_refused_by_its_length_alone() -> None:
    reader = FrameReader()
    reader.feed(struct.pack(">I", frames.MAX_FRAME_BYTES + 1))
    with pytest.raises(BadContent, match="is announced"):
        reader.next_frame()


def test_what_arrives_is_announced_before_it_is_there() -> None:
    reader = FrameReader()
    announced = []
    for part in (b"\0\0", b"\x10\0"):
        reader.feed(part)
        announced.append(reader.announced)
    assert announced == [None, 0x1000]
    assert reader.next_frame() is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x00",
        codec.encode([]),
        codec.encode({}),
        codec.encode({"t": "no such message"}),
        codec.encode({"t": ["call"]}),
        codec.encode({"t": {"t": "call"}}),
        codec.encode({"t": 1}),
        codec.encode({"t": "call"}),
        codec.encode({"t": "call", "id": -1, "address": "/public/a/b", "body": b""}),
        codec.encode({"t": "call", "id": 2**53, "address": "/public/a/b", "body": b""}),
        codec.encode({"t": "call", "id": 1.0, "address": "/public/a/b", "body": b""}),
        codec.encode({"t": "call", "id": 1, "address": "/public/a/b", "body": "text"}),
        codec.encode({"t": "call", "id": 1, "address": "a" * 513, "body": b""}),
        codec.encode({"t": "call", "id": 1, "address": "/public/a/b", "body": b"", "timeout_ms": -1}),
        codec.encode({"t": "call", "id": 1, "address": "/public/a/b", "body": b"", "credit": 2**31}),
        codec.encode({"t": "credit", "id": 1, "size": 0}),
        codec.encode({"t": "error", "id": 1, "error": "no such error"}),
        codec.encode({"t": "error", "id": 1, "error": "service", "message": "m" * 4001}),
        codec.encode({"t": "hello", "token": "t" * 257}),
        codec.encode({"t": "reply", "id": 1, "body": bytes(MAX_BODY_BYTES + 1)}),
        cbor2.dumps({"id": 1, "t": "end"}),  # not in canonical order
        codec.encode({"t": "end", "id": 1}) + b"\0",
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(BadContent):
        frames.decode(message)


def test_a_later_version_may_add_fields() -> None:
    assert frames.decode(codec.encode({"t": "end", "id": 7, "note": "new"})) == frames.End(7)


def test_ten_thousand_garbage_frames_give_bad_content_and_nothing_else() -> None:
    chance = random.Random(1)
    good = [codec.encode(m) for m in (frames.Request(1, "/public/a/b", b"x" * 30), frames.Reply(1, b"y"))]
    refused = 0
    for i in range(10_000):
        if i % 2:
            message = bytearray(chance.choice(good))
            for _ in range(chance.randint(1, 4)):
                message[chance.randrange(len(message))] = chance.randrange(256)
        else:
            message = bytearray(chance.randbytes(chance.randrange(64)))
        reader = FrameReader()
        reader.feed(framed(bytes(message)))
        try:
            take_all(reader)
        except BadContent:
            refused += 1
    assert refused > 9_000


def test_garbage_without_lengths_ends_in_bad_content() -> None:
    chance = random.Random(2)
    for _ in range(500):
        reader = FrameReader()
        with pytest.raises(BadContent):  # noqa: PT012 - sooner or later
            while True:
                reader.feed(chance.randbytes(4096))
                take_all(reader)


@given(st.binary(max_size=300))
def test_any_bytes_decode_or_are_refused(message: bytes) -> None:
    try:
        frame = frames.decode(message)
    except BadContent:
        return
    assert codec.encode(frame)


@pytest.mark.parametrize(
    "error",
    [
        NoEndpoint("/public/a/b"),
        NoEndpoint("/public/a/b", "the peer cannot be reached"),
        BusTimeout("too slow"),
        BusClosed("gone"),
        BadContent("what"),
        Busy("later"),
        AddressTaken("mine"),
        RemoteError("notFound", "no such thing"),
        BusError("otherwise"),
    ],
)
def test_errors_keep_their_class_and_words(error: BusError) -> None:
    back = frames.error_of(frames.failure(3, error))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_a_service_cannot_forge_an_error_of_the_bus() -> None:
    back = frames.error_of(frames.failure(3, RemoteError("busy", "my own word")))
    assert type(back) is RemoteError
