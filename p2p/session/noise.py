"""The Noise XX handshake as libp2p speaks it (`/noise`), sans-IO: bytes in, bytes out.

Noise_XX_25519_ChaChaPoly_SHA256 with an empty prologue; each message is preceded by its length in two bytes. The
second and third carry a `NoiseHandshakePayload` in which an identity key signs the static key. What follows the
handshake is the business of `records`. Driven by `upgrade`; draws its ephemeral key from the given `Entropy`.

Sources: The Noise Protocol Framework, revision 34, sections 5 and 7.5; libp2p/specs noise.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2p.session.errors import BothSpokeFirst, HandshakeFailed
from p2p.session.identity import PeerKey, decode_key, read_fields
from p2p.session.records import Opener, Sealer

if TYPE_CHECKING:
    from p2p.entropy import Entropy
    from p2p.session.identity import IdentityKey

NOISE_PROTOCOL = "/noise"

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_KEY_BYTES, _TAG_BYTES = 32, 16
_MAX_MESSAGE_BYTES = 4096
"""Ours take 250 bytes; extensions of others (certificate hashes, muxers) some hundreds. The spec allows 65,535."""


class NoiseIdentity:
    """A node's keys for handshakes: one static Noise key for its life, signed once by its identity.

    Args:
        key: the identity.
        entropy: where the static key is drawn from.
    """

    def __init__(self, key: IdentityKey, entropy: Entropy) -> None:
        self.public = key.public
        self.static = X25519PrivateKey.from_private_bytes(entropy.token_bytes(_KEY_BYTES))
        self.static_public = self.static.public_key().public_bytes_raw()
        signature = key.sign(_SIGNED_PREFIX + self.static_public)
        self.payload = _field(1, key.public.encode()) + _field(2, signature)


class Handshake:
    """One end of a handshake.

    Args:
        identity: who we are.
        initiator: whether this end speaks first.
        entropy: where the ephemeral key is drawn from.
        expected: the PeerId that has to be at the other end; None takes whoever proves to be someone.
    """

    def __init__(
        self, identity: NoiseIdentity, *, initiator: bool, entropy: Entropy, expected: str | None = None
    ) -> None:
        self._identity = identity
        self._initiator = initiator
        self._expected = expected
        self._ephemeral = X25519PrivateKey.from_private_bytes(entropy.token_bytes(_KEY_BYTES))
        self._hash = self._chain = _NAME  # of exactly 32 bytes, so that it is its own hash (section 5.2)
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self._mix_hash(b"")
        self._unread = bytearray()
        self._their_ephemeral: X25519PublicKey | None = None
        self._steps = 0
        self.peer: PeerKey | None = None
        """Who is at the other end, once proven."""
        self.keys: tuple[Sealer, Opener] | None = None
        """The record layer, once the handshake is complete."""

    @property
    def done(self) -> bool:
        """Return whether this end has nothing more to say or hear."""
        return self.keys is not None

    def start(self) -> bytes:
        """Return what this end says unasked: the first message, or nothing."""
        if not self._initiator:
            return b""
        return self._framed(self._ephemeral_token() + self._seal(b""))

    def receive(self, data: bytes) -> bytes:
        """Take what came; return what to answer. What follows the handshake stays in `unread`.

        Raises:
            HandshakeFailed: the other end does not speak Noise, is not who it should be, or proves nothing.
        """
        self._unread += data
        answer = b""
        while not self.done and len(self._unread) >= 2:
            length = int.from_bytes(self._unread[:2], "big")
            if length > _MAX_MESSAGE_BYTES:
                raise HandshakeFailed(f"the peer announced a handshake message of {length} bytes")
            if len(self._unread) < 2 + length:
                break
            message = bytes(self._unread[2 : 2 + length])
            del self._unread[: 2 + length]
            answer += self._message(message)
        return answer

    @property
    def unread(self) -> bytes:
        """Return what came after the handshake: the beginning of the records."""
        return bytes(self._unread)

    def _message(self, message: bytes) -> bytes:
        if self._initiator:
            if len(message) == _KEY_BYTES:  # a first message: a second one says who it is from, too
                raise BothSpokeFirst("both ends speak first: they dialled each other in the same moment")
            self._read_second(message)
            answer = self._framed(self._third())
            self._split()
            return answer
        self._steps += 1
        if self._steps == 1:
            self._read_ephemeral(message)
            self._open(message[_KEY_BYTES:])
            return self._framed(self._second())
        self._read_identity(message)
        self._split()
        return b""

    def _second(self) -> bytes:
        """Say `e, ee, s, es` and who we are."""
        ephemeral = self._ephemeral_token()
        self._mix_dh(self._ephemeral, self._their_ephemeral)
        static = self._seal(self._identity.static_public)
        self._mix_dh(self._identity.static, self._their_ephemeral)
        return ephemeral + static + self._seal(self._identity.payload)

    def _read_second(self, message: bytes) -> None:
        self._read_ephemeral(message)
        self._mix_dh(self._ephemeral, self._their_ephemeral)
        self._read_identity(message[_KEY_BYTES:])

    def _third(self) -> bytes:
        """Say `s, se` and who we are."""
        static = self._seal(self._identity.static_public)
        self._mix_dh(self._identity.static, self._their_ephemeral)
        return static + self._seal(self._identity.payload)

    def _read_identity(self, message: bytes) -> None:
        """Read `s`, the key agreement with it, and the payload that it comes with."""
        cut = _KEY_BYTES + _TAG_BYTES
        static = self._open(message[:cut])
        if len(static) != _KEY_BYTES:
            raise HandshakeFailed("the peer's handshake is cut off")
        self._mix_dh(self._ephemeral, X25519PublicKey.from_public_bytes(static))
        fields = read_fields(self._open(message[cut:]))
        key, signature = fields.get(1), fields.get(2)
        if not isinstance(key, bytes) or not isinstance(signature, bytes):
            raise HandshakeFailed("the peer did not say who it is")
        peer = decode_key(key)
        if not peer.verify(signature, _SIGNED_PREFIX + static):
            raise HandshakeFailed(f"the peer claims to be {peer.peer_id} and cannot prove it")
        if self._expected is not None and peer.peer_id != self._expected:
            raise HandshakeFailed(f"{self._expected} was expected and {peer.peer_id} is there")
        self.peer = peer

    def _ephemeral_token(self) -> bytes:
        public = self._ephemeral.public_key().public_bytes_raw()
        self._mix_hash(public)
        return public

    def _read_ephemeral(self, message: bytes) -> None:
        public = message[:_KEY_BYTES]
        if len(public) != _KEY_BYTES:
            raise HandshakeFailed("the peer does not speak Noise, or hung up in the middle of it")
        self._mix_hash(public)
        self._their_ephemeral = X25519PublicKey.from_public_bytes(public)

    # The symmetric state of the Noise framework (section 5.2).

    def _mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def _mix_dh(self, private: X25519PrivateKey, public: X25519PublicKey | None) -> None:
        assert public is not None
        try:
            secret = private.exchange(public)
        except ValueError as error:  # all zeros: a point of small order
            raise HandshakeFailed("the peer sent a key that agrees on nothing") from error
        self._chain, key = _hkdf(self._chain, secret)
        self._cipher, self._nonce = ChaCha20Poly1305(key), 0

    def _seal(self, plain: bytes) -> bytes:
        if self._cipher is None:
            sealed = plain
        else:
            sealed = self._cipher.encrypt(_nonce(self._nonce), plain, self._hash)
            self._nonce += 1
        self._mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        plain = sealed
        if self._cipher is not None:
            try:
                plain = self._cipher.decrypt(_nonce(self._nonce), sealed, self._hash)
            except InvalidTag as error:
                raise HandshakeFailed(
                    "the peer's handshake does not decrypt: not Noise XX, or altered"
                ) from error
            self._nonce += 1
        self._mix_hash(sealed)
        return plain

    def _split(self) -> None:
        first, second = _hkdf(self._chain, b"")
        sending, receiving = (first, second) if self._initiator else (second, first)
        self.keys = Sealer(sending), Opener(receiving)

    @staticmethod
    def _framed(message: bytes) -> bytes:
        return len(message).to_bytes(2, "big") + message


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")


def _hkdf(chain: bytes, secret: bytes) -> tuple[bytes, bytes]:
    master = hmac.digest(chain, secret, "sha256")
    first = hmac.digest(master, b"\x01", "sha256")
    return first, hmac.digest(master, first + b"\x02", "sha256")


def _field(number: int, data: bytes) -> bytes:
    """Return a protobuf field of fewer than 128 bytes."""
    return bytes((number << 3 | 2, len(data))) + data
