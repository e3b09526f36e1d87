"""Who wrote a gossip message: libp2p's StrictSign over secp256k1.

The signature is ECDSA (DER) over SHA-256 of `libp2p-pubsub:` and the message without signature and key. The
`from` field is a PeerId that contains the key itself, so that from → public key → NodeId is a pure function.
Authors with other kinds of keys exist among foreign peers; they cannot be told genuine here, hence `IGNORE`.
That a *record* is good is another matter, which its topic's owner judges.

Specification: libp2p pubsub (message signing); PeerIds are `p2p.identity.peer_id`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import coincurve
import msgspec

from p2p.broadcast.api import Verdict
from p2p.broadcast.wire import Message, encode_unsigned
from p2p.identity import node_id_of
from p2p.identity.peer_id import key_in_peer_id, peer_id_bytes

if TYPE_CHECKING:
    from p2p.identity import NodeId, PrivateKey

SIGNING_PREFIX = b"libp2p-pubsub:"

SEQNO_BYTES = 8
_KEYS_CACHED = 2048
"""Parsed public keys kept: parsing costs half as much as verifying, and authors repeat."""


class Seal(Protocol):
    """How the router signs its own messages and checks the others'. A simulation may give one without keys."""

    @property
    def author(self) -> bytes:
        """Return what goes into `from` of our own messages."""
        ...

    def sign(self, message: Message) -> Message:
        """Return `message`, whose author is ours, with its signature."""
        ...

    def check(self, message: Message) -> Verdict:
        """Say whether its author wrote `message`: REJECT blames who forwarded it, IGNORE does not."""
        ...


def node_id_of_author(peer_id: bytes) -> NodeId | None:
    """Return the NodeId of a message's author, or None if its key is not secp256k1. Raises ValueError if forged."""
    key = key_in_peer_id(peer_id)
    return None if key is None else node_id_of(key.format(compressed=False))


class StrictSign:
    """Signs with the node's key, verifies by the key inside the author's PeerId; a `Seal`."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = coincurve.PrivateKey(key.secret)
        self._author = peer_id_bytes(key.public_key)
        self._keys: dict[bytes, coincurve.PublicKey] = {}

    @property
    def author(self) -> bytes:
        return self._author

    def sign(self, message: Message) -> Message:
        signature = self._key.sign(SIGNING_PREFIX + encode_unsigned(message))
        return msgspec.structs.replace(message, signature=signature)

    def check(self, message: Message) -> Verdict:
        if not message.signature or len(message.seqno) != SEQNO_BYTES:
            return Verdict.REJECT
        try:
            key = self._keys.get(message.author) or self._remember(message.author)
            if key is None:
                return Verdict.IGNORE
            if message.key and message.key != message.author[2:]:  # a PeerId is the key behind two bytes
                return Verdict.REJECT
            # libsecp256k1 takes no s above half the order, so that nobody can make a second valid signature.
            genuine = key.verify(message.signature, SIGNING_PREFIX + encode_unsigned(message))
        except ValueError:  # not a point, or not DER
            return Verdict.REJECT
        return Verdict.ACCEPT if genuine else Verdict.REJECT

    def _remember(self, author: bytes) -> coincurve.PublicKey | None:
        key = key_in_peer_id(author)
        if key is not None:
            if len(self._keys) >= _KEYS_CACHED:
                del self._keys[next(iter(self._keys))]
            self._keys[author] = key
        return key
