"""Capture modes against a model that keeps everything and cuts at the end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunit.supervisor.capture import EVERYTHING, NOTHING, Capture, CaptureSpec, Keep, capture_spec
from protocols.activity.messages import CaptureMode

ROOM = 40

pieces = st.lists(st.binary(max_size=15), max_size=8)


def model(keep: Keep, limit: int | None, data: bytes) -> bytes:
    limit = ROOM if limit is None else min(limit, ROOM)
    match keep:
        case "nothing":
            return b""
        case "head":
            return data[:limit]
        case "tail":
            return data[len(data) - limit :] if limit < len(data) else data
        case "both ends":
            head = (limit + 1) // 2
            rest = data[head:]
            tail = limit - head
            return data[:head] + (rest[len(rest) - tail :] if tail < len(rest) else rest)


@given(pieces, st.sampled_from(["nothing", "head", "tail", "both ends"]), st.none() | st.integers(0, 60))
def test_keeps_what_the_model_keeps(data: list[bytes], keep: Keep, limit: int | None) -> None:
    capture = Capture(CaptureSpec(keep, limit, binary=True), ROOM)
    for piece in data:
        assert capture.feed(piece) is None
    expected = model(keep, limit, b"".join(data))
    assert capture.result() == (tuple(expected) or None)
    assert capture.kept == len(expected)


@given(pieces, st.none() | st.integers(0, 60))
def test_streams_the_first_bytes(data: list[bytes], limit: int | None) -> None:
    capture = Capture(CaptureSpec("head", limit, stream=True, binary=True), ROOM)
    streamed = [piece for part in data if isinstance(piece := capture.feed(part), tuple)]
    whole = b"".join(data)
    assert bytes(sum(streamed, ())) == (whole if limit is None else whole[:limit])


@given(st.text(max_size=30), st.integers(1, 4))
def test_text_is_not_torn_between_events(text: str, size: int) -> None:
    capture = Capture(EVERYTHING, 1000)
    data = text.encode("utf-8", "ignore")
    events = [capture.feed(data[at : at + size]) for at in range(0, len(data), size)]
    events.append(capture.last_event())
    assert "".join(str(event) for event in events if event is not None) == data.decode()
    assert capture.result() == (data.decode() or None)


def test_invalid_text() -> None:
    capture = Capture(EVERYTHING, 100)
    assert capture.feed(b"a\xff\xe2\x82") == "a\ufffd"
    assert capture.last_event() == "\ufffd"
    assert capture.result() == "a\xff\xe2\x82"


def test_says_when_something_asked_for_was_cut() -> None:
    asked = Capture(CaptureSpec("head", 10), ROOM)
    asked.feed(bytes(20))
    assert not asked.cut
    unbounded = Capture(CaptureSpec("both ends"), ROOM)
    unbounded.feed(bytes(ROOM))
    assert not unbounded.cut
    unbounded.feed(b"x")
    assert unbounded.cut


@pytest.mark.parametrize(
    ("json", "spec"),
    [
        ('{"atEnd": {}}', CaptureSpec("both ends")),
        ('{"atEnd": {"head": 5, "format": "bin"}}', CaptureSpec("head", 5, binary=True)),
        ('{"atEnd": {"tail": 5}}', CaptureSpec("tail", 5)),
        ('{"atEnd": {"headTail": 5, "format": "string"}}', CaptureSpec("both ends", 5)),
        ('{"stream": {}}', CaptureSpec("both ends", stream=True)),
        ('{"stream": {"limit": 7, "format": "binary"}}', CaptureSpec("head", 7, stream=True, binary=True)),
    ],
)
def test_modes_of_scripts(json: str, spec: CaptureSpec) -> None:
    assert capture_spec(msgspec.json.decode(json, type=CaptureMode)) == spec


@pytest.mark.parametrize(
    "json",
    ["{}", '{"atEnd": {}, "stream": {}}', '{"atEnd": {"head": 1, "tail": 1}}', '{"stream": {"limit": -1}}'],
)
def test_modes_that_make_no_sense(json: str) -> None:
    with pytest.raises(ValueError, match="capture"):
        capture_spec(msgspec.json.decode(json, type=CaptureMode))


def test_absent_means_nothing() -> None:
    assert capture_spec(None) is NOTHING
