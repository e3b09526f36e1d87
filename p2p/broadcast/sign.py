"""Who wrote a gossip message: libp2p's StrictSign over secp256k1, and over Ed25519 for messages of foreign peers.

The signature is ECDSA (DER) over SHA-256 of `libp2p-pubsub:` and the message without signature and key. The
`from` field is a PeerId that contains the key itself, so that from → public key → NodeId is a pure function.
Ed25519 keys are in their PeerIds too, and sign the same bytes. Authors with yet other keys cannot be told genuine
here, hence `IGNORE`.
That a *record* is good is another matter, which its topic's owner judges.

Specification: libp2p pubsub (message signing); PeerIds are `p2p.identity.peer_id`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import coincurve
import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2p.broadcast.api import Verdict
from p2p.broadcast.wire import Message, encode_unsigned
from p2p.identity.peer_id import key_in_peer_id, peer_id_bytes

if TYPE_CHECKING:
    from p2p.identity import PrivateKey

SIGNING_PREFIX = b"libp2p-pubsub:"

SEQNO_BYTES = 8
_KEYS_CACHED = 2048
"""Parsed public keys kept: parsing costs half as much as verifying, and authors repeat."""


_ED25519_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])
"""Multihash code identity, 36 bytes; field 1 (type) = 1, Ed25519; field 2 (data), 32 bytes."""
_Verify = Callable[[bytes, bytes], bool]
"""`(signature, message)`: whether it is genuine."""


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


class StrictSign:
    """Signs with the node's key, verifies by the key inside the author's PeerId; a `Seal`."""

    def __init__(self, key: PrivateKey) -> None:
        self._key = coincurve.PrivateKey(key.secret)
        self._author = peer_id_bytes(key.public_key)
        self._keys: dict[bytes, _Verify] = {}

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
            verify = self._keys.get(message.author) or self._remember(message.author)
            if verify is None:
                return Verdict.IGNORE
            if message.key and message.key != message.author[2:]:  # a PeerId is the key behind two bytes
                return Verdict.REJECT
            # libsecp256k1 takes no s above half the order, so that nobody can make a second valid signature.
            genuine = verify(message.signature, SIGNING_PREFIX + encode_unsigned(message))
        except ValueError:  # not a point, or not DER
            return Verdict.REJECT
        return Verdict.ACCEPT if genuine else Verdict.REJECT

    def _remember(self, author: bytes) -> _Verify | None:
        key = key_in_peer_id(author)
        verify = key.verify if key is not None else _ed25519(author)
        if verify is not None:
            if len(self._keys) >= _KEYS_CACHED:
                del self._keys[next(iter(self._keys))]
            self._keys[author] = verify
        return verify


def _ed25519(author: bytes) -> _Verify | None:
    """Return how to verify messages of a PeerId that holds an Ed25519 key; None if it holds none."""
    raw = author[len(_ED25519_PREFIX) :]
    if not author.startswith(_ED25519_PREFIX) or len(raw) != 32:
        return None
    key = Ed25519PublicKey.from_public_bytes(raw)

    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify
