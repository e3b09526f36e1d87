"""The rules of gftp without I/O: names, URLs, header frames, and checking content against its name.

Used by the node's handler and by exe-unit supervisors, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, TypeVar

from p2p import codec
from protocols.files.errors import BadUrl, TransferBroken
from protocols.files.messages import MAX_HEADER_BYTES, Header

if TYPE_CHECKING:
    from p2p.entropy import Entropy

T = TypeVar("T")

_URL = re.compile(r"gftp://(0x[0-9a-fA-F]{40})/([0-9A-Za-z]{1,128})\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SLOT_LENGTH = 65  # the length that the original's clients have seen


def format_url(node_id: str, name: str) -> str:
    """Return `gftp://<node id>/<name>`."""
    return f"gftp://{node_id}/{name}"


def parse_url(url: str) -> tuple[str, str]:
    """Return the node id (lower case) and the name.

    Raises:
        BadUrl: not a gftp URL.
    """
    match = _URL.match(url)
    if match is None:
        raise BadUrl(f"{url[:160]!r} is not a gftp URL: expected gftp://0x<40 hex digits>/<name>")
    return match[1].lower(), match[2]


def slot_name(entropy: Entropy) -> str:
    """Return a new unguessable name for an upload: 65 alphanumeric characters."""
    name = ""
    while len(name) < _SLOT_LENGTH:
        for byte in entropy.token_bytes(_SLOT_LENGTH):
            if byte < 248:  # 4 * 62: no character is likelier than another
                name += _ALPHANUMERIC[byte % 62]
    return name[:_SLOT_LENGTH]


class ContentCheck:
    """Checks content, as it passes, against the size announced and the digest in its name."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._seen = 0
        self._hash = hashlib.sha3_256()

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes. Raises TransferBroken when there are more than announced."""
        self._seen += len(chunk)
        if self._seen > self._size:
            raise TransferBroken(f"more than the announced {self._size} bytes arrived")
        self._hash.update(chunk)

    def finish(self) -> str:
        """Return the SHA3-256 of the whole, in hexadecimal.

        Raises:
            TransferBroken: bytes are missing, or the name is a digest and another one.
        """
        if self._seen != self._size:
            raise TransferBroken(f"the transfer ended after {self._seen} of {self._size} bytes")
        digest = self._hash.hexdigest()
        if _DIGEST.match(self._name) and digest != self._name:
            raise TransferBroken(f"the content has SHA3-256 {digest}, its name says {self._name}")
        return digest


def encode_header(header: Header) -> bytes:
    """Return a header as a frame."""
    body = codec.encode(header)
    return len(body).to_bytes(4, "big") + body


class HeaderReader:
    """Cuts one header frame off the front of a byte stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[Header, bytes] | None:
        """Take bytes; once the header is complete return it and what came after it.

        Raises:
            TransferBroken: too long, or not a header.
        """
        self._buffer += data
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "big")
        if length > MAX_HEADER_BYTES:
            raise TransferBroken(f"a header of {length} bytes is too long")
        if len(self._buffer) < 4 + length:
            return None
        try:
            header: Header = _decode(bytes(self._buffer[4 : 4 + length]))
        except codec.CodecError as error:
            raise TransferBroken(f"not a header: {error}") from error
        return header, bytes(self._buffer[4 + length :])


def _decode(body: bytes) -> Header:
    header: Header = codec.decode(body, Header)  # type: ignore[arg-type]  # a union is a type to msgspec only
    return header
