"""The messages of AutoNAT v2: having a peer dial an address, to see whether somebody gets in. Sans-IO.

On `dial-request` every message is wrapped in one that says which it is; on `dial-back` there is one question and one
answer, bare. Source: libp2p/specs autonat/autonat-v2. Errors: `p2p.protobuf.WireError`.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, TypeVar

import msgspec

from p2p.multiaddr import InvalidMultiaddr, parse
from p2p.multiaddr import decode as decode_address
from p2p.protobuf import WireError, encode_bytes, encode_number, read_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

DIAL_REQUEST = "/libp2p/autonat/2/dial-request"
DIAL_BACK = "/libp2p/autonat/2/dial-back"
MAX_MESSAGE_BYTES = 8192
MAX_DATA_BYTES = 4096
"""Of one `DialData`."""
MAX_ADDRESSES = 50

_NONCE_LIMIT = 2**64
E = TypeVar("E", bound=enum.IntEnum)


class Answer(enum.IntEnum):
    """What became of a request."""

    INTERNAL_ERROR = 0
    REJECTED = 100
    """The server is busy, or asked too often by this peer."""
    DIAL_REFUSED = 101
    """It dials none of the addresses."""
    OK = 200


class Dialled(enum.IntEnum):
    """How the dial went."""

    UNUSED = 0
    DIAL_ERROR = 100
    """Nobody answered."""
    DIAL_BACK_ERROR = 101
    """Connected, but the nonce was not taken."""
    OK = 200


class DialRequest(msgspec.Struct, frozen=True):
    """Please dial the first of these that you can."""

    addresses: tuple[str | None, ...]
    """Multiaddrs, likeliest first; None stands for one that cannot be read, so that indices fit."""
    nonce: int
    """To be brought by who comes in."""


class DialDataRequest(msgspec.Struct, frozen=True):
    """First send me as much as a dial costs its target."""

    index: int
    """Of the address that would be dialled."""
    count: int
    """Bytes."""


class DialData(msgspec.Struct, frozen=True):
    """A part of that."""

    data: bytes


class DialResponse(msgspec.Struct, frozen=True):
    """How it went."""

    answer: Answer
    index: int = 0
    """Of the address that was dialled."""
    dialled: Dialled = Dialled.UNUSED


Message = DialRequest | DialDataRequest | DialData | DialResponse


def encode(message: Message) -> bytes:
    """Return a message of `dial-request`, without its length."""
    match message:
        case DialRequest():
            body = b"".join(encode_bytes(0x0A, parse(a or "").encode()) for a in message.addresses)
            return encode_bytes(0x0A, body + _nonce(0x11, message.nonce))
        case DialResponse():
            body = encode_number(0x08, message.answer) + encode_number(0x10, message.index)
            return encode_bytes(0x12, body + encode_number(0x18, message.dialled))
        case DialDataRequest():
            body = encode_number(0x08, message.index) + encode_number(0x10, message.count)
            return encode_bytes(0x1A, body)
        case DialData():
            return encode_bytes(0x22, encode_bytes(0x0A, message.data))


def decode(data: bytes) -> Message:
    """Read a message of `dial-request`. Raises WireError."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    found: Message | None = None
    for tag, _, value in read_fields(data):  # of a oneof, the last counts
        match tag:
            case 0x0A:
                found = _decode_request(value)
            case 0x12:
                numbers = _numbers(value)
                found = DialResponse(
                    _known(Answer, numbers.get(0x08, 0)),
                    numbers.get(0x10, 0),
                    _known(Dialled, numbers.get(0x18, 0)),
                )
            case 0x1A:
                numbers = _numbers(value)
                found = DialDataRequest(numbers.get(0x08, 0), numbers.get(0x10, 0))
            case 0x22:
                found = DialData(next((v for t, _, v in read_fields(value) if t == 0x0A), b""))
    if found is None:
        raise WireError("a message says nothing")
    return found


def encode_dial_back(nonce: int) -> bytes:
    """Return what the server says when it got in."""
    return _nonce(0x09, nonce)


def decode_dial_back(data: bytes) -> int:
    """Return the nonce that somebody brought. Raises WireError."""
    for tag, _, value in read_fields(data):
        if tag == 0x09:
            return int.from_bytes(value, "little")
    return 0  # as proto3 leaves out zeros


DIAL_BACK_TAKEN = encode_number(0x08, 0)
"""The answer to that: its only status is zero, which other implementations may leave out."""


def _nonce(tag: int, nonce: int) -> bytes:
    return bytes((tag,)) + (nonce % _NONCE_LIMIT).to_bytes(8, "little")


def _decode_request(data: bytes) -> DialRequest:
    raw: list[bytes] = []
    nonce = 0
    for tag, _, value in read_fields(data):
        if tag == 0x0A:
            raw.append(value)
        elif tag == 0x11:
            nonce = int.from_bytes(value, "little")
    return DialRequest(tuple(_addresses(raw[:MAX_ADDRESSES])), nonce)


def _addresses(raw: Sequence[bytes]) -> list[str | None]:
    found: list[str | None] = []
    for data in raw:
        try:
            found.append(str(decode_address(data)))
        except InvalidMultiaddr:
            found.append(None)
    return found


def _numbers(data: bytes) -> dict[int, int]:
    return {tag: number for tag, number, _ in read_fields(data)}


def _known(kind: type[E], number: int) -> E:
    try:
        return kind(number)
    except ValueError as error:
        raise WireError(f"status {number} is not known") from error
