"""Multiaddrs: libp2p's addresses, as text and as bytes. Pure; without libp2p.

    parse("/ip4/192.0.2.1/tcp/4001/p2p/16Uiu2H...")     decode(data)

Reads what other libp2p nodes tell of themselves, also of transports that this node does not speak; which
addresses it can dial is `p2p.host`'s affair. PeerIds are kept in base58; CIDv1 is read too.
Sources: https://github.com/multiformats/multiaddr (protocols.csv), libp2p/specs addressing and peer-ids.

Errors:
    InvalidMultiaddr    text or bytes that are no multiaddr, or use a protocol that is not known here
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from p2p import base58
from p2p.protobuf import encode_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 512
"""Longest multiaddr in either form."""
MAX_PARTS = 16

_CID_LIBP2P_KEY = b"\x01\x72"
"""CIDv1 with the codec of libp2p keys; the PeerId's multihash follows."""
_MAX_PEER_ID_BYTES = 64


class InvalidMultiaddr(ValueError):
    """Not a multiaddr; the message says why."""


class Part(msgspec.Struct, frozen=True):
    """One component."""

    name: str
    """The protocol, such as `tcp`."""
    value: str = ""
    """Its argument, canonical; empty for those that have none."""


class Multiaddr(msgspec.Struct, frozen=True):
    """An address: components from the outside inwards."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return "".join(f"/{part.name}/{part.value}" if part.value else f"/{part.name}" for part in self.parts)

    def encode(self) -> bytes:
        """Return the binary form."""
        out = bytearray()
        for part in self.parts:
            code, codec = _BY_NAME[part.name]
            out += encode_varint(code)
            if codec is not None:
                value = codec.to_bytes(part.value)
                out += value if codec.size else encode_varint(len(value)) + value
        return bytes(out)

    def value_of(self, name: str) -> str | None:
        """Return the argument of the last component called `name`; None if there is none."""
        return next((part.value for part in reversed(self.parts) if part.name == name), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the protocols in order, such as `("ip4", "tcp", "p2p")`."""
        return tuple(part.name for part in self.parts)


def parse(text: str) -> Multiaddr:
    """Read a multiaddr in text form. Raises InvalidMultiaddr."""
    shown = repr(text[:128])
    pieces = text.split("/")
    if len(text) > MAX_BYTES or len(pieces) < 2 or pieces[0]:
        raise InvalidMultiaddr(f"{shown} is not a multiaddr: expected something like /ip4/192.0.2.1/tcp/4001")
    words, parts = iter(pieces[1:]), list[Part]()
    for name in words:
        if name not in _BY_NAME or len(parts) >= MAX_PARTS:
            raise InvalidMultiaddr(f"{shown} is not a multiaddr: {name[:32]!r} is not a protocol known here")
        codec = _BY_NAME[name][1]
        try:
            parts.append(Part(name, "" if codec is None else codec.canonical(next(words))))
        except StopIteration:
            raise InvalidMultiaddr(f"{shown} ends after {name!r}, which needs a value") from None
        except ValueError as error:
            raise InvalidMultiaddr(f"{shown}: {error}") from error
    return Multiaddr(tuple(parts))


def decode(data: bytes) -> Multiaddr:
    """Read a multiaddr in binary form. Raises InvalidMultiaddr."""
    if not 0 < len(data) <= MAX_BYTES:
        raise InvalidMultiaddr(f"a multiaddr has 1 to {MAX_BYTES} bytes, not {len(data)}")
    parts: list[Part] = []
    at = 0
    while at < len(data):
        code, at = _varint(data, at)
        name = _NAMES.get(code)
        if name is None or len(parts) >= MAX_PARTS:
            raise InvalidMultiaddr(f"a multiaddr uses protocol {code}, which is not known here")
        codec = _BY_NAME[name][1]
        value = ""
        if codec is not None:
            size = codec.size
            if not size:
                size, at = _varint(data, at)
            if size > len(data) - at:
                raise InvalidMultiaddr(f"a multiaddr is cut off within its {name}")
            try:
                value = codec.canonical(codec.from_bytes(data[at : at + size]))
            except ValueError as error:
                raise InvalidMultiaddr(f"a multiaddr has an invalid {name}: {error}") from error
            at += size
        parts.append(Part(name, value))
    return Multiaddr(tuple(parts))


def decode_all(many: Iterable[bytes]) -> Iterator[Multiaddr]:
    """Yield those of `many` that can be read: peers tell of transports that are not known here."""
    for data in many:
        try:
            yield decode(data)
        except InvalidMultiaddr:
            continue


def multihash_of(text: str) -> bytes:
    """Return the multihash of a PeerId in base58 or as a CIDv1. Raises ValueError."""
    if text.startswith("b"):  # multibase: base32, lower case, without padding
        body = text[1:].upper()
        try:
            cid = base64.b32decode(body + "=" * (-len(body) % 8))
        except binascii.Error as error:
            raise ValueError(f"{text[:64]!r} is neither base58 nor a CID") from error
        if not cid.startswith(_CID_LIBP2P_KEY):
            raise ValueError(f"{text[:64]!r} is a CID, but not of a libp2p key")
        raw = cid[len(_CID_LIBP2P_KEY) :]
    else:
        raw = base58.decode(text)
    # A multihash: identity (0x00) for short keys, SHA-256 (0x12) of long ones; then the length of what follows.
    if not 2 < len(raw) <= _MAX_PEER_ID_BYTES or raw[0] not in (0x00, 0x12) or raw[1] != len(raw) - 2:
        raise ValueError(f"{text[:64]!r} is not a peer id")
    return raw


# The forms of arguments.


class _Codec(msgspec.Struct, frozen=True):
    size: int
    """Bytes; 0 where a varint says."""
    to_bytes: Callable[[str], bytes]
    from_bytes: Callable[[bytes], str]

    def canonical(self, text: str) -> str:
        """Return the one form of a value. Raises ValueError."""
        return self.from_bytes(self.to_bytes(text))


def _port(text: str) -> bytes:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65536):
        raise ValueError(f"{text[:16]!r} is not a port")
    return int(text).to_bytes(2, "big")


def _name(text: str) -> bytes:
    if not 0 < len(text) <= 253 or not text.isascii() or not set(text.lower()) <= _HOST_SYMBOLS:
        raise ValueError(f"{text[:64]!r} is not a host name")
    return text.encode()


def _text(data: bytes) -> str:
    return data.decode("ascii")


def _certhash(text: str) -> bytes:
    if not text.startswith("u"):
        raise ValueError(f"{text[:64]!r} is not a certificate hash")
    return base64.urlsafe_b64decode(text[1:] + "=" * (-(len(text) - 1) % 4))


_HOST_SYMBOLS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")
_PORT = _Codec(2, _port, lambda data: str(int.from_bytes(data, "big")))
_HOST = _Codec(0, _name, _text)
_PEER = _Codec(0, multihash_of, base58.encode)
_IP4 = _Codec(
    4, lambda text: ipaddress.IPv4Address(text).packed, lambda data: str(ipaddress.IPv4Address(data))
)
_IP6 = _Codec(
    16, lambda text: ipaddress.IPv6Address(text).packed, lambda data: str(ipaddress.IPv6Address(data))
)
_HASH = _Codec(0, _certhash, lambda data: "u" + base64.urlsafe_b64encode(data).decode().rstrip("="))

_BY_NAME: dict[str, tuple[int, _Codec | None]] = {
    "ip4": (4, _IP4),
    "tcp": (6, _PORT),
    "ip6": (41, _IP6),
    "ip6zone": (42, _HOST),
    "dns": (53, _HOST),
    "dns4": (54, _HOST),
    "dns6": (55, _HOST),
    "dnsaddr": (56, _HOST),
    "udp": (273, _PORT),
    "webrtc-direct": (280, None),
    "webrtc": (281, None),
    "p2p-circuit": (290, None),
    "p2p": (421, _PEER),
    "tls": (448, None),
    "sni": (449, _HOST),
    "noise": (454, None),
    "quic": (460, None),
    "quic-v1": (461, None),
    "webtransport": (465, None),
    "certhash": (466, _HASH),
    "ws": (477, None),
    "wss": (478, None),
}
_NAMES = {code: name for name, (code, _) in _BY_NAME.items()}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 35:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise InvalidMultiaddr("a multiaddr is cut off within a number")
