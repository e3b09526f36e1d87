"""The messages of circuit relay v2: hop (client to relay), stop (relay to target), vouchers. Sans-IO.

Source: libp2p/specs relay/circuit-v2. Messages are framed by their length; peers are PeerIds, addresses multiaddrs
in binary form on the wire and text here. What is not known is skipped, as protobuf has it; addresses that cannot be
read are left out.

Errors: `p2p.protobuf.WireError`, for whatever is not such a message.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import msgspec

from p2p import base58
from p2p.multiaddr import decode_all, multihash_of, parse
from p2p.protobuf import WireError, encode_bytes, encode_number, read_fields
from p2p.reach.envelope import InvalidEnvelope, seal, unseal

if TYPE_CHECKING:
    from p2p.session import IdentityKey

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MAX_MESSAGE_BYTES = 4096
MAX_ADDRESSES = 16
"""Addresses taken of one message."""

_VOUCHER_DOMAIN, _VOUCHER_TYPE = "libp2p-relay-rsvp", b"\x03\x02"
_MAX_PEER_ID_BYTES = 64


class Kind(enum.Enum):
    """What a message wants. Its number differs between hop and stop."""

    RESERVE = "reserve"
    CONNECT = "connect"
    STATUS = "status"


class Status(enum.IntEnum):
    """How a request went."""

    UNKNOWN = 0
    """None was given, or one that is not known here."""
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


class Limit(msgspec.Struct, frozen=True):
    """What a relayed connection may use; 0 for no limit."""

    duration: int = 0
    """Seconds."""
    data: int = 0
    """Bytes in each direction."""


class Reservation(msgspec.Struct, frozen=True):
    """A place at a relay."""

    expire: int
    """UTC seconds."""
    addresses: tuple[str, ...] = ()
    """Where the relay is reached, each ending in `/p2p/<relay>`."""
    voucher: bytes = b""
    """The relay's word for it: a signed envelope, see `read_voucher`."""


class HopMessage(msgspec.Struct, frozen=True):
    """Between a client and its relay."""

    kind: Kind
    peer: str | None = None
    """PeerId: whom to be connected to."""
    reservation: Reservation | None = None
    limit: Limit | None = None
    status: Status = Status.UNKNOWN


class StopMessage(msgspec.Struct, frozen=True):
    """Between a relay and the target of a connection."""

    kind: Kind
    peer: str | None = None
    """PeerId: who wants to be connected."""
    limit: Limit | None = None
    status: Status = Status.UNKNOWN


class Voucher(msgspec.Struct, frozen=True):
    """What a relay certifies: `relay` has a place for `peer` until `expire` (UTC seconds)."""

    relay: str
    peer: str
    expire: int


_HOP = {Kind.RESERVE: 0, Kind.CONNECT: 1, Kind.STATUS: 2}
_STOP = {Kind.CONNECT: 0, Kind.STATUS: 1}


def encode_hop(message: HopMessage) -> bytes:
    """Return a hop message, without its length."""
    out = encode_number(0x08, _HOP[message.kind])
    if message.peer is not None:
        out += encode_bytes(0x12, _encode_peer(message.peer))
    if message.reservation is not None:
        out += encode_bytes(0x1A, _encode_reservation(message.reservation))
    if message.limit is not None:
        out += encode_bytes(0x22, _encode_limit(message.limit))
    if message.status:
        out += encode_number(0x28, message.status)
    return out


def decode_hop(data: bytes) -> HopMessage:
    """Read a hop message. Raises WireError."""
    kind, peer, reservation, limit, status = None, None, None, None, Status.UNKNOWN
    for tag, number, value in _fields(data):
        match tag:
            case 0x08:
                kind = _kind(number, _HOP)
            case 0x12:
                peer = _decode_peer(value)
            case 0x1A:
                reservation = _decode_reservation(value)
            case 0x22:
                limit = _decode_limit(value)
            case 0x28:
                status = _status(number)
    if kind is None:
        raise WireError("a hop message does not say what it is")
    return HopMessage(kind, peer, reservation, limit, status)


def encode_stop(message: StopMessage) -> bytes:
    """Return a stop message, without its length."""
    out = encode_number(0x08, _STOP[message.kind])
    if message.peer is not None:
        out += encode_bytes(0x12, _encode_peer(message.peer))
    if message.limit is not None:
        out += encode_bytes(0x1A, _encode_limit(message.limit))
    if message.status:
        out += encode_number(0x20, message.status)
    return out


def decode_stop(data: bytes) -> StopMessage:
    """Read a stop message. Raises WireError."""
    kind, peer, limit, status = None, None, None, Status.UNKNOWN
    for tag, number, value in _fields(data):
        match tag:
            case 0x08:
                kind = _kind(number, _STOP)
            case 0x12:
                peer = _decode_peer(value)
            case 0x1A:
                limit = _decode_limit(value)
            case 0x20:
                status = _status(number)
    if kind is None:
        raise WireError("a stop message does not say what it is")
    return StopMessage(kind, peer, limit, status)


def sign_voucher(voucher: Voucher, key: IdentityKey) -> bytes:
    """Return a voucher in the envelope that the relay signs."""
    payload = (
        encode_bytes(0x0A, multihash_of(voucher.relay))
        + encode_bytes(0x12, multihash_of(voucher.peer))
        + encode_number(0x18, voucher.expire)
    )
    return seal(_VOUCHER_DOMAIN, _VOUCHER_TYPE, payload, key)


def read_voucher(data: bytes) -> Voucher:
    """Return what a voucher certifies, signed by the relay that it names. Raises WireError."""
    try:
        signer, payload = unseal(_VOUCHER_DOMAIN, _VOUCHER_TYPE, data)
    except InvalidEnvelope as error:
        raise WireError(f"a voucher proves nothing: {error}") from error
    fields = {tag: (number, value) for tag, number, value in read_fields(payload)}
    relay, peer = (_peer_id(fields.get(tag, (0, b""))[1]) for tag in (0x0A, 0x12))
    if relay != signer.peer_id:
        raise WireError("a voucher is signed by another than the relay that it names")
    return Voucher(relay, peer, fields.get(0x18, (0, b""))[0])


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(f"a relay message of {len(data)} bytes is over the limit of {MAX_MESSAGE_BYTES}")
    return list(read_fields(data))


def _kind(number: int, numbers: dict[Kind, int]) -> Kind:
    for kind, known in numbers.items():
        if known == number:
            return kind
    raise WireError(f"a relay message of type {number} is not known")


def _status(number: int) -> Status:
    try:
        return Status(number)
    except ValueError:
        return Status.UNKNOWN


def _peer_id(raw: bytes) -> str:
    text = base58.encode(raw) if 0 < len(raw) <= _MAX_PEER_ID_BYTES else ""
    try:
        multihash_of(text)
    except ValueError as error:
        raise WireError("a relay message names a peer that is none") from error
    return text


def _encode_peer(peer: str) -> bytes:
    return encode_bytes(0x0A, multihash_of(peer))


def _decode_peer(data: bytes) -> str:
    # The peer's addresses (field 2) are for relays that dial by themselves, which the specification deprecates.
    return _peer_id(next((value for tag, _, value in read_fields(data) if tag == 0x0A), b""))


def _encode_reservation(reservation: Reservation) -> bytes:
    out = encode_number(0x08, reservation.expire)
    out += b"".join(encode_bytes(0x12, parse(address).encode()) for address in reservation.addresses)
    if reservation.voucher:
        out += encode_bytes(0x1A, reservation.voucher)
    return out


def _decode_reservation(data: bytes) -> Reservation:
    expire, voucher, addresses = 0, b"", list[bytes]()
    for tag, number, value in read_fields(data):
        if tag == 0x08:
            expire = number
        elif tag == 0x12:
            addresses.append(value)
        elif tag == 0x1A:
            voucher = value
    known = decode_all(addresses[:MAX_ADDRESSES])
    return Reservation(expire, tuple(str(address) for address in known), voucher)


def _encode_limit(limit: Limit) -> bytes:
    out = encode_number(0x08, limit.duration) if limit.duration else b""
    return out + (encode_number(0x10, limit.data) if limit.data else b"")


def _decode_limit(data: bytes) -> Limit:
    numbers = {tag: number for tag, number, _ in read_fields(data)}
    return Limit(numbers.get(0x08, 0), numbers.get(0x10, 0))
