"""What gossip peers say to each other: libp2p's pubsub RPC, from structs to bytes and back.

One RPC carries subscriptions, messages and control (have, want, graft, prune, don't-want), as protobuf behind
a varint length, on streams of `/meshsub/1.2.0` or `1.1.0`. The router decides what to say; nothing here does.
Every count and size is bounded while decoding; fields that we do not know are skipped, since 1.3 adds some.

Specification: https://github.com/libp2p/specs/tree/master/pubsub (README and gossipsub v1.0 to v1.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from p2p.protobuf import LENGTH, VARINT, WireError, encode_bytes, encode_varint, read_fields

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOL_12 = "/meshsub/1.2.0"
PROTOCOL_11 = "/meshsub/1.1.0"

MAX_FRAME_BYTES = 256 * 1024
"""Longest RPC read or written. An IHAVE of 5000 ids, which go-libp2p may send, takes 250 kB."""
MAX_MESSAGES = 1024
"""Messages in one RPC."""
MAX_CONTROLS = 256
"""Subscriptions, and entries of each kind of control, in one RPC."""
MAX_IDS = 5000
"""Message ids in one RPC, of all its IHAVE, IWANT and IDONTWANT together (go-libp2p's own bound of one)."""
MAX_ID_BYTES = 256
MAX_TOPIC_BYTES = 256
MAX_FIELD_BYTES = 1024
"""Author, sequence number, signature, key: the longest in use is an RSA key of 550 bytes."""
MAX_PEERS = 64
"""Peers offered with a prune; go-libp2p sends 16."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message on a topic, as its author made it."""

    author: bytes
    """The author's PeerId (`from`); not who forwarded it."""
    data: bytes
    seqno: bytes
    """8 bytes, big-endian; no two messages of an author have the same."""
    topic: str
    signature: bytes = b""
    key: bytes = b""
    """The author's public key, where the PeerId does not contain it."""

    @property
    def id(self) -> bytes:
        """Return libp2p's default message id: author and sequence number."""
        return self.author + self.seqno


class Subscription(msgspec.Struct, frozen=True):
    """The sender takes part in a topic, or no longer does."""

    topic: str
    subscribe: bool


class IHave(msgspec.Struct, frozen=True):
    """The sender has these messages of a topic."""

    topic: str
    ids: tuple[bytes, ...]


class PeerRecord(msgspec.Struct, frozen=True):
    """A peer that a prune offers instead."""

    peer_id: bytes
    signed_record: bytes = b""


class Prune(msgspec.Struct, frozen=True):
    """The receiver is no longer in the sender's mesh of a topic."""

    topic: str
    backoff: int = 0
    """Seconds to wait before grafting again; 0 when not said."""
    peers: tuple[PeerRecord, ...] = ()


class Rpc(msgspec.Struct, frozen=True):
    """Everything that goes to a peer in one frame."""

    subscriptions: tuple[Subscription, ...] = ()
    publish: tuple[Message, ...] = ()
    ihave: tuple[IHave, ...] = ()
    iwant: tuple[bytes, ...] = ()
    """Ids of messages that the sender asks for."""
    graft: tuple[str, ...] = ()
    """Topics in whose mesh the sender has put the receiver."""
    prune: tuple[Prune, ...] = ()
    idontwant: tuple[bytes, ...] = ()
    """Ids of messages that the sender has and need not be sent (1.2)."""

    @property
    def is_gossip(self) -> bool:
        """Return whether it holds nothing but have, want and don't-want: repaired by itself if lost."""
        return not (self.subscriptions or self.publish or self.graft or self.prune)


def _tag(number: int) -> int:
    return number << 3 | LENGTH


# Field numbers, as tags of length-delimited fields unless a name says otherwise.
_SUBSCRIPTIONS, _PUBLISH, _CONTROL = _tag(1), _tag(2), _tag(3)
_SUBSCRIBE_FLAG, _SUBSCRIBE_TOPIC = 1 << 3 | VARINT, _tag(2)
_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY = (_tag(number) for number in range(1, 7))
_IHAVE, _IWANT, _GRAFT, _PRUNE, _IDONTWANT = (_tag(number) for number in range(1, 6))
_CONTROL_TOPIC, _IHAVE_IDS, _WANT_IDS = _tag(1), _tag(2), _tag(1)
_PRUNE_PEERS, _PRUNE_BACKOFF = _tag(2), 3 << 3 | VARINT
_PEER_ID, _PEER_RECORD = _tag(1), _tag(2)


# Encoding: fields in ascending order, empty ones left out, as every protobuf library writes them.


def encode_frame(rpc: Rpc) -> bytes:
    """Return `rpc` behind its length. Raises ValueError when it is longer than a peer would read."""
    body = encode_rpc(rpc)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(
            f"an RPC of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}; send it in parts"
        )
    return encode_varint(len(body)) + body


def encode_rpc(rpc: Rpc) -> bytes:
    """Return `rpc` as protobuf, without a length."""
    parts = [
        encode_bytes(
            _SUBSCRIPTIONS,
            bytes((_SUBSCRIBE_FLAG, entry.subscribe)) + encode_bytes(_SUBSCRIBE_TOPIC, entry.topic.encode()),
        )
        for entry in rpc.subscriptions
    ]
    parts += [encode_bytes(_PUBLISH, encode_message(message)) for message in rpc.publish]
    if rpc.ihave or rpc.iwant or rpc.graft or rpc.prune or rpc.idontwant:
        parts.append(encode_bytes(_CONTROL, _encode_control(rpc)))
    return b"".join(parts)


def encode_message(message: Message) -> bytes:
    """Return `message` as protobuf."""
    parts = encode_unsigned(message)
    if message.signature:
        parts += encode_bytes(_SIGNATURE, message.signature)
    if message.key:
        parts += encode_bytes(_KEY, message.key)
    return parts


def encode_unsigned(message: Message) -> bytes:
    """Return `message` as protobuf without signature and key: what a signature covers."""
    parts = []
    if message.author:
        parts.append(encode_bytes(_FROM, message.author))
    if message.data:
        parts.append(encode_bytes(_DATA, message.data))
    if message.seqno:
        parts.append(encode_bytes(_SEQNO, message.seqno))
    parts.append(encode_bytes(_TOPIC, message.topic.encode()))
    return b"".join(parts)


def _encode_control(rpc: Rpc) -> bytes:
    parts = [
        encode_bytes(
            _IHAVE, encode_bytes(_CONTROL_TOPIC, entry.topic.encode()) + _encode_ids(_IHAVE_IDS, entry.ids)
        )
        for entry in rpc.ihave
    ]
    if rpc.iwant:
        parts.append(encode_bytes(_IWANT, _encode_ids(_WANT_IDS, rpc.iwant)))
    parts += [encode_bytes(_GRAFT, encode_bytes(_CONTROL_TOPIC, topic.encode())) for topic in rpc.graft]
    for prune in rpc.prune:
        body = encode_bytes(_CONTROL_TOPIC, prune.topic.encode())
        for peer in prune.peers:
            record = encode_bytes(_PEER_ID, peer.peer_id)
            if peer.signed_record:
                record += encode_bytes(_PEER_RECORD, peer.signed_record)
            body += encode_bytes(_PRUNE_PEERS, record)
        if prune.backoff:
            body += bytes((_PRUNE_BACKOFF,)) + encode_varint(prune.backoff)
        parts.append(encode_bytes(_PRUNE, body))
    if rpc.idontwant:
        parts.append(encode_bytes(_IDONTWANT, _encode_ids(_WANT_IDS, rpc.idontwant)))
    return b"".join(parts)


def _encode_ids(tag: int, ids: Iterable[bytes]) -> bytes:
    return b"".join([encode_bytes(tag, item) for item in ids])


# Decoding.

_T = TypeVar("_T")


_FEW_FIELDS = 64
"""Fields of what has few by its nature, unknown ones included: a frame could hold a hundred thousand else."""


def decode_rpc(data: bytes) -> Rpc:
    """Decode one RPC.

    Raises:
        WireError: not protobuf, a field twice that may stand once, or a bound exceeded.
    """
    subscriptions: list[Subscription] = []
    publish: list[Message] = []
    control: _Control | None = None
    for tag, _, value in read_fields(data):
        if tag == _PUBLISH:
            _add(publish, _decode_message(value), MAX_MESSAGES, "messages")
        elif tag == _SUBSCRIPTIONS:
            _add(subscriptions, _decode_subscription(value), MAX_CONTROLS, "subscriptions")
        elif tag == _CONTROL:
            if control is not None:
                raise WireError("an RPC has two control fields")
            control = _Control(value)
    if control is None:
        return Rpc(subscriptions=tuple(subscriptions), publish=tuple(publish))
    return Rpc(
        subscriptions=tuple(subscriptions),
        publish=tuple(publish),
        ihave=tuple(control.ihave),
        iwant=tuple(control.iwant),
        graft=tuple(control.graft),
        prune=tuple(control.prune),
        idontwant=tuple(control.idontwant),
    )


_MESSAGE_FIELDS = {_FROM: 0, _DATA: 1, _SEQNO: 2, _TOPIC: 3, _SIGNATURE: 4, _KEY: 5}
_MESSAGE_LIMITS = (
    MAX_FIELD_BYTES,
    MAX_FRAME_BYTES,
    MAX_FIELD_BYTES,
    MAX_TOPIC_BYTES,
    MAX_FIELD_BYTES,
    MAX_FIELD_BYTES,
)


def _decode_message(data: bytes) -> Message:
    found: list[bytes | None] = [None] * 6
    for tag, _, value in read_fields(data, _FEW_FIELDS):
        index = _MESSAGE_FIELDS.get(tag)
        if index is None:
            continue
        if found[index] is not None:
            raise WireError(f"a message has its field {index + 1} twice")
        if len(value) > _MESSAGE_LIMITS[index]:
            raise WireError(f"a message's field {index + 1} has {len(value)} bytes")
        found[index] = value
    author, body, seqno, topic, signature, key = (value or b"" for value in found)
    return Message(author, body, seqno, _text(topic), signature, key)


def _decode_subscription(data: bytes) -> Subscription:
    topic, subscribe = None, None
    for tag, number, value in read_fields(data, _FEW_FIELDS):
        if tag == _SUBSCRIBE_FLAG:
            subscribe = _once(subscribe, bool(number))
        elif tag == _SUBSCRIBE_TOPIC:
            topic = _once(topic, _text(value))
    return Subscription(topic or "", bool(subscribe))


class _Control:
    """The control part of one RPC while it is decoded; holds the count of ids, which is one for all kinds."""

    def __init__(self, data: bytes) -> None:
        self.ihave: list[IHave] = []
        self.iwant: list[bytes] = []
        self.graft: list[str] = []
        self.prune: list[Prune] = []
        self.idontwant: list[bytes] = []
        self._ids_left = MAX_IDS
        for entries, (tag, _, value) in enumerate(read_fields(data), 1):
            if entries > MAX_CONTROLS:
                raise WireError(f"an RPC has more than {MAX_CONTROLS} control entries")
            if tag == _IHAVE:
                self.ihave.append(IHave(_decode_topic(value), tuple(self._decode_ids(_IHAVE_IDS, value))))
            elif tag == _IWANT:
                self.iwant += self._decode_ids(_WANT_IDS, value)
            elif tag == _GRAFT:
                self.graft.append(_decode_topic(value))
            elif tag == _PRUNE:
                self.prune.append(_decode_prune(value))
            elif tag == _IDONTWANT:
                self.idontwant += self._decode_ids(_WANT_IDS, value)

    def _decode_ids(self, wanted: int, data: bytes) -> list[bytes]:
        ids: list[bytes] = []
        others = 0
        for tag, _, value in read_fields(data):
            if tag != wanted:
                others += 1
                if others > _FEW_FIELDS:
                    raise WireError(f"a control entry has more than {_FEW_FIELDS} fields beside its ids")
                continue
            if len(value) > MAX_ID_BYTES:
                raise WireError(f"a message id has {len(value)} bytes")
            _add(ids, value, self._ids_left, "message ids")
        self._ids_left -= len(ids)
        return ids


def _decode_topic(data: bytes) -> str:
    topic = None
    for tag, _, value in read_fields(data):
        if tag == _CONTROL_TOPIC:
            topic = _once(topic, _text(value))
    return topic or ""


def _decode_prune(data: bytes) -> Prune:
    topic, backoff = None, None
    peers: list[PeerRecord] = []
    for tag, number, value in read_fields(data, _FEW_FIELDS):
        if tag == _CONTROL_TOPIC:
            topic = _once(topic, _text(value))
        elif tag == _PRUNE_BACKOFF:
            backoff = _once(backoff, number)
        elif tag == _PRUNE_PEERS:
            _add(peers, _decode_peer(value), MAX_PEERS, "offered peers")
    return Prune(topic or "", backoff or 0, tuple(peers))


def _decode_peer(data: bytes) -> PeerRecord:
    peer_id, record = None, None
    for tag, _, value in read_fields(data, _FEW_FIELDS):
        if tag == _PEER_ID:
            peer_id = _once(peer_id, value)
        elif tag == _PEER_RECORD:
            record = _once(record, value)
    return PeerRecord(peer_id or b"", record or b"")


def _add(items: list[_T], item: _T, limit: int, what: str) -> None:
    if len(items) >= limit:
        raise WireError(f"an RPC has more {what} than the {limit} allowed")
    items.append(item)


def _once(found: _T | None, value: _T) -> _T:
    if found is not None:
        raise WireError("a field stands twice that may stand once")
    return value


def _text(value: bytes) -> str:
    if len(value) > MAX_TOPIC_BYTES:
        raise WireError(f"a topic has {len(value)} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError("a topic is not UTF-8") from error
