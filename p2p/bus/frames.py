"""Frames: what crosses a byte stream between two ends of the bus. Sans-IO.

A frame is its length (4 bytes, big endian) and one message in canonical CBOR. The same messages serve the unix
door and peers: many calls on one connection or stream, told apart by `id`. Each end numbers its own requests, so
`id` means the sender's request in Request, Cancel, Credit, Register and the like, and the receiver's in Part,
Reply, Item, End, Failure and Event.

    request                 answered by
    Hello                   Welcome, or Failure
    Request                 any number of Part, then Reply; or Failure
    Request (streaming)     any number of Item, then End or Failure; paced by Credit
    Register, Subscribe     Reply with an empty body, or Failure
    Cancel                  nothing; the request is forgotten at both ends

Who calls is never what a caller writes: `Request.caller` is filled in by a node towards its own child process, and
ignored from anybody else; `Request.acting` only selects among the identities that the caller has proven.

Errors: `BadContent` for what is too long, not canonical CBOR, or no message of ours.
"""

from __future__ import annotations

import struct
from typing import Annotated, Final, Literal, cast

import cbor2
import msgspec
from msgspec import Meta

from p2p import codec
from p2p.bus.address import MAX_ADDRESS_CHARS
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

VERSION: Final = 1
"""Major version of this wire; an end that speaks another says so in its Failure."""

MAX_FRAME_BYTES: Final = MAX_BODY_BYTES + 4096
"""Largest frame: a full body, its address and what tells them apart."""
MAX_HELLO_BYTES: Final = 1024
"""Largest frame from somebody who has not proved anything yet."""
ITEM_COST: Final = 64
"""Bytes of credit that an item costs beyond its body, so that empty items are paced too."""
MAX_MESSAGE_CHARS: Final = 4000
"""Longest text of an error; longer ones are cut."""
MAX_KIND_CHARS: Final = 64
MAX_TOPIC_CHARS: Final = 256

_Id = Annotated[int, Meta(ge=0, lt=2**53)]
_Address = Annotated[str, Meta(max_length=MAX_ADDRESS_CHARS)]
_Topic = Annotated[str, Meta(min_length=1, max_length=MAX_TOPIC_CHARS)]
_Body = Annotated[bytes, Meta(max_length=MAX_BODY_BYTES)]


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    """What all messages share: their name is in the field `t`."""


class Hello(_Message, frozen=True, tag="hello"):
    """First frame through the door: who wants in."""

    token: Annotated[str, Meta(max_length=256)]
    """What the node issued."""
    version: int = VERSION


class Welcome(_Message, frozen=True, tag="welcome"):
    """The door's answer to a good token."""

    node_id: Annotated[str, Meta(max_length=64)]
    """Who the node is."""
    subject: Annotated[str, Meta(max_length=256)] = ""
    """Whom the token was issued to; empty for the owner."""


class Request(_Message, frozen=True, tag="call"):
    """A call."""

    id: _Id
    address: _Address
    body: _Body
    streaming: bool = False
    timeout_ms: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    """Milliseconds that the caller will wait from now; None as long as it lasts."""
    credit: Annotated[int, Meta(ge=0, le=2**30)] = 0
    """Bytes that may be under way unread, for streaming calls at the door. An item costs its body and
    `ITEM_COST`, and may be sent while any credit is left."""
    caller: Caller | None = None
    """Who calls, said by a node to its own child process."""
    acting: Annotated[str, Meta(max_length=64)] = ""
    """Which of the caller's identities calls: a NodeId that its session has proven to be an alias of it."""

    @property
    def timeout(self) -> float | None:
        """Return in how many seconds the caller gives up."""
        return None if self.timeout_ms is None else self.timeout_ms / 1000


class Part(_Message, frozen=True, tag="part"):
    """The next piece of an answer that is too long for one frame where many calls share a stream."""

    id: _Id
    body: _Body


class Reply(_Message, frozen=True, tag="reply"):
    """The answer to a call that does not stream, or the last piece of it; also to Register and to Subscribe."""

    id: _Id
    body: _Body = b""


class Item(_Message, frozen=True, tag="item"):
    """One item of a streaming call."""

    id: _Id
    body: _Body


class End(_Message, frozen=True, tag="end"):
    """A streaming call has no more items."""

    id: _Id


class Failure(_Message, frozen=True, tag="error"):
    """The request failed; nothing more will come."""

    id: _Id
    error: Literal["service", "noEndpoint", "timeout", "closed", "badContent", "busy", "taken", "bus"]
    """Which class of the bus's errors; `service` for an error of the service's own."""
    message: Annotated[str, Meta(max_length=MAX_MESSAGE_CHARS)] = ""
    kind: Annotated[str, Meta(max_length=MAX_KIND_CHARS)] = ""
    """The service's own word for it."""
    address: _Address = ""
    """Which address nobody serves; the message is then the reason."""


class Cancel(_Message, frozen=True, tag="cancel"):
    """The caller no longer wants the answer."""

    id: _Id


class Credit(_Message, frozen=True, tag="credit"):
    """The caller has room for more items."""

    id: _Id
    size: Annotated[int, Meta(gt=0, le=2**30)]
    """Bytes, on top of what is left."""


class Register(_Message, frozen=True, tag="register"):
    """Send me every call below a prefix."""

    id: _Id
    prefix: _Address


class Unregister(_Message, frozen=True, tag="unregister"):
    """Send me no more of them; those in flight are finished."""

    id: _Id
    """The id of the Register."""


class Subscribe(_Message, frozen=True, tag="subscribe"):
    """Send me what is published on a topic."""

    id: _Id
    topic: _Topic


class Unsubscribe(_Message, frozen=True, tag="unsubscribe"):
    """Send me no more of it."""

    id: _Id
    """The id of the Subscribe."""


class Publish(_Message, frozen=True, tag="publish"):
    """Give this to every subscriber of a topic. Not answered."""

    topic: _Topic
    body: _Body


class Event(_Message, frozen=True, tag="event"):
    """Something was published on a topic that the receiver listens to."""

    id: _Id
    """The id of the Subscribe."""
    body: _Body


Frame = (
    Hello
    | Welcome
    | Request
    | Part
    | Reply
    | Item
    | End
    | Failure
    | Cancel
    | Credit
    | Register
    | Unregister
    | Subscribe
    | Unsubscribe
    | Publish
    | Event
)

# By its tag, since msgspec analyses a union anew at every conversion, which costs more than the conversion.
_BY_TAG: dict[str, type[_Message]] = {
    str(message.__struct_config__.tag): message for message in _Message.__subclasses__()
}
_USUAL: dict[str, type[_Message]] = {"call": Request, "reply": Reply, "item": Item}
_LENGTH = struct.Struct(">I")


def encode(frame: Frame) -> bytes:
    """Return a message as it crosses the stream, length included."""
    message = _encode_usual(frame) or codec.encode(frame)
    return _LENGTH.pack(len(message)) + message


def decode(message: bytes) -> Frame:
    """Return the message in a frame, without its length. Raises BadContent."""
    frame = _decode_usual(message)
    if frame is not None:
        return frame
    try:
        tree = codec.decode_tree(message)
        tag = tree.get("t") if isinstance(tree, dict) else None
        kind = _BY_TAG.get(tag) if isinstance(tag, str) else None
        if kind is None:
            raise BadContent("not a frame of the bus: no message of that name is known")
        return cast("Frame", msgspec.convert(tree, kind, builtin_types=(bytes,)))
    except (codec.CodecError, msgspec.ValidationError) as error:
        raise BadContent(f"not a frame of the bus: {error}") from error


# The codec sorts keys in Python, and finds out whether bytes are canonical by encoding what they say again: 7 us for
# each, and a call does it four times. What calls are made of is encoded here with its keys in canonical order already,
# in 1.5 us, which serves the check as well; any other message, and any that is not canonical, goes the codec's way.


def _encode_usual(frame: Frame) -> bytes | None:
    """Return what `codec.encode` would, or None for a message that is not of the usual kinds."""
    kind = type(frame)
    if kind is Reply:
        reply = cast("Reply", frame)
        tree: dict[str, object] = {"t": "reply", "id": reply.id}
        if reply.body:
            tree["body"] = reply.body
        return cbor2.dumps(tree)
    elif kind is Request:
        request = cast("Request", frame)
        if request.timeout_ms is not None and not (
            request.caller or request.streaming or request.credit or request.acting
        ):
            return cbor2.dumps(
                {
                    "t": "call",
                    "id": request.id,
                    "body": request.body,
                    "address": request.address,
                    "timeout_ms": request.timeout_ms,
                }
            )
    elif kind is Item:
        item = cast("Item", frame)
        return cbor2.dumps({"t": "item", "id": item.id, "body": item.body})
    return None


def _decode_usual(message: bytes) -> Frame | None:
    """Return the message if it is one that `_encode_usual` makes, byte for byte."""
    try:
        tree = cbor2.loads(message, max_depth=codec.MAX_DEPTH, allow_indefinite=False)
        frame = cast("Frame", msgspec.convert(tree, _USUAL[tree["t"]], builtin_types=(bytes,)))
    except Exception:  # whatever it is, the codec will say
        return None
    return frame if _encode_usual(frame) == message else None


class FrameReader:
    """Cuts a byte stream into frames.

    Feed it what arrives, then take frames until there is none. It holds at most one frame and what was fed
    last: an announced length beyond `max_bytes` raises BadContent before any more need be read.
    """

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Take what arrived. The caller takes all frames before it feeds more."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """Return the next message, or None until more arrives. Raises BadContent; the stream is lost then."""
        begin = self._start + _LENGTH.size
        if len(self._buffer) < begin:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer, self._start)
        if size > self.max_bytes:
            raise BadContent(f"a frame of {size} bytes is announced; at most {self.max_bytes} are taken")
        if len(self._buffer) < begin + size:
            return None
        self._start = begin + size
        return decode(bytes(memoryview(self._buffer)[begin : self._start]))

    @property
    def announced(self) -> int | None:
        """Return how long the frame that is arriving will be; None until that is known."""
        if len(self._buffer) - self._start < _LENGTH.size:
            return None
        size: int = _LENGTH.unpack_from(self._buffer, self._start)[0]
        return size


def failure(request_id: int, error: BusError) -> Failure:
    """Return `error` as it crosses the stream."""
    match error:
        case RemoteError():
            kind = error.kind[:MAX_KIND_CHARS]
            return Failure(request_id, "service", error.message[:MAX_MESSAGE_CHARS], kind)
        case NoEndpoint():
            reason = error.reason[:MAX_MESSAGE_CHARS]
            return Failure(request_id, "noEndpoint", reason, address=error.address[:MAX_ADDRESS_CHARS])
        case BusTimeout():
            return Failure(request_id, "timeout", str(error)[:MAX_MESSAGE_CHARS])
        case BusClosed():
            return Failure(request_id, "closed", str(error)[:MAX_MESSAGE_CHARS])
        case BadContent():
            return Failure(request_id, "badContent", str(error)[:MAX_MESSAGE_CHARS])
        case Busy():
            return Failure(request_id, "busy", str(error)[:MAX_MESSAGE_CHARS])
        case AddressTaken():
            return Failure(request_id, "taken", str(error)[:MAX_MESSAGE_CHARS])
        case _:
            return Failure(request_id, "bus", str(error)[:MAX_MESSAGE_CHARS])


def error_of(frame: Failure) -> BusError:
    """Return the error that a Failure tells of, as the caller shall see it."""
    match frame.error:
        case "service":
            return RemoteError(frame.kind, frame.message)
        case "noEndpoint":
            return NoEndpoint(frame.address, frame.message)
        case "timeout":
            return BusTimeout(frame.message)
        case "closed":
            return BusClosed(frame.message)
        case "badContent":
            return BadContent(frame.message)
        case "busy":
            return Busy(frame.message)
        case "taken":
            return AddressTaken(frame.message)
        case "bus":
            return BusError(frame.message)
