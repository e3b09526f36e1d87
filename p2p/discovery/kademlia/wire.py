"""Kademlia's messages as libp2p writes them: the protobuf of kad-dht, framed by a varint. Bytes only.

What this node does not use (providers, signed records of contacts) is skipped when read and never written; what
breaks a bound is refused or, where foreign peers are generous, cut. Source: libp2p/specs kad-dht.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING

import msgspec

from p2p import base58, multiaddr
from p2p.discovery.kademlia.contact import MAX_ADDRESSES, Contact
from p2p.protobuf import LENGTH, WireError, encode_bytes, encode_number, frame, read_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_REQUEST_BYTES = 16 * 1024
MAX_ANSWER_BYTES = 128 * 1024
"""Foreign peers list many addresses for each of their 20 contacts."""
MAX_KEY_BYTES = 128
MAX_PEER_ID_BYTES = 64
MAX_CONTACTS = 20
"""Contacts read of one message."""
MAX_READ_ADDRESSES = 32
"""Addresses of one contact that are looked at, until `MAX_ADDRESSES` are found that can be read."""

_CONTACTS_CACHED = 2048
"""Contacts whose bytes are kept: neighbours tell of the same ones again and again."""


class Kind(enum.IntEnum):
    """What a message asks for."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


class Message(msgspec.Struct, frozen=True):
    """A request or its answer."""

    kind: Kind
    key: bytes = b""
    """A record's key, or the PeerId that is looked for."""
    record: bytes | None = None
    """The value of the record under `key`."""
    closer: tuple[Contact, ...] = ()
    """Contacts nearer to the key."""


_KIND, _KEY, _RECORD, _CLOSER = 1 << 3, 2 << 3 | LENGTH, 3 << 3 | LENGTH, 8 << 3 | LENGTH
_RECORD_KEY, _RECORD_VALUE = 1 << 3 | LENGTH, 2 << 3 | LENGTH
_PEER_ID, _PEER_ADDRESS, _PEER_CONNECTION = 1 << 3 | LENGTH, 2 << 3 | LENGTH, 3 << 3
_CAN_CONNECT = 2


def encode_message(message: Message) -> bytes:
    """Return the frame of a message."""
    body = encode_number(_KIND, message.kind) + (encode_bytes(_KEY, message.key) if message.key else b"")
    if message.record is not None:
        body += encode_bytes(
            _RECORD, encode_bytes(_RECORD_KEY, message.key) + encode_bytes(_RECORD_VALUE, message.record)
        )
    return frame(body + b"".join(encode_bytes(_CLOSER, _encode_contact(c)) for c in message.closer))


def decode_message(data: bytes) -> Message:
    """Read a message without its length.

    Raises:
        WireError: not a message of Kademlia, or beyond its bounds.
    """
    kind, key, record = 0, b"", None
    closer: list[Contact] = []
    for tag, number, value in read_fields(data):
        if tag == _KIND:
            kind = number
        elif tag == _KEY:
            key = value
        elif tag == _RECORD:
            record = value
        elif tag == _CLOSER and len(closer) < MAX_CONTACTS:
            closer.append(_decode_contact(value))
    if kind not in _KINDS or len(key) > MAX_KEY_BYTES:
        raise WireError(f"a message of kind {kind} with a key of {len(key)} bytes is not Kademlia's")
    return Message(Kind(kind), key, None if record is None else _decode_record(record, key), tuple(closer))


def _decode_record(data: bytes, expected: bytes) -> bytes | None:
    key, found = b"", None
    for tag, _, value in read_fields(data):
        if tag == _RECORD_KEY:
            key = value
        elif tag == _RECORD_VALUE:
            found = value
    if found is not None and expected and key != expected:
        raise WireError("a record is of another key than the message around it")
    return found


@functools.lru_cache(_CONTACTS_CACHED)
def _encode_contact(contact: Contact) -> bytes:
    suffix = f"/p2p/{base58.encode(contact.peer_id)}"
    out = encode_bytes(_PEER_ID, contact.peer_id)
    for text in contact.addresses:
        try:
            out += encode_bytes(_PEER_ADDRESS, multiaddr.parse(text.removesuffix(suffix)).encode())
        except multiaddr.InvalidMultiaddr:
            continue  # of a kind that only this program knows
    return out + encode_number(_PEER_CONNECTION, _CAN_CONNECT)


@functools.lru_cache(_CONTACTS_CACHED)
def _decode_contact(data: bytes) -> Contact:
    """Read a contact. Its addresses may be of transports that cannot be dialled here."""
    peer_id = b""
    raw: list[bytes] = []
    for tag, _, value in read_fields(data):
        if tag == _PEER_ID:
            peer_id = value
        elif tag == _PEER_ADDRESS and len(raw) < MAX_READ_ADDRESSES:
            raw.append(value)
    if not 2 < len(peer_id) <= MAX_PEER_ID_BYTES:
        raise WireError(f"a contact's peer id has {len(peer_id)} bytes")
    return Contact.of(
        peer_id, tuple(_texts(multiaddr.decode_all(raw), base58.encode(peer_id)))[:MAX_ADDRESSES]
    )


def _texts(addresses: Iterable[multiaddr.Multiaddr], peer_id: str) -> Iterable[str]:
    for address in addresses:
        if address.names[-1] != "p2p":
            yield f"{address}/p2p/{peer_id}"
        elif address.value_of("p2p") == peer_id:
            yield str(address)


_KINDS = frozenset(Kind)
