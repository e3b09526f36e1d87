"""The forms in which a script names a place: `[hash:sha3:HEX:]URL`.

Only syntax; what a scheme makes of the rest is its own affair. Called by the supervisor for scripts and for the task
package.

Errors: `BadLocation`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from exeunit.transfer.errors import BadLocation

MAX_URL: Final = 8192

_HASH: Final = re.compile(r"hash:(?://)?([^:]*):(?:0x)?([^:]*):(.*)", re.IGNORECASE | re.DOTALL)
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_ALGORITHMS: Final = {28: "sha3_224", 32: "sha3_256", 48: "sha3_384", 64: "sha3_512"}
"""SHA3 by the bytes of its digest."""


class Digest(NamedTuple):
    """A SHA3 digest that content must have."""

    hex: str
    """Lower case."""

    def new(self) -> Any:
        """Return an empty hash of the algorithm that this digest's length tells."""
        return hashlib.new(_ALGORITHMS[len(self.hex) // 2])


class Location(NamedTuple):
    """A place to copy from or to."""

    scheme: str
    """Lower case, such as `gftp`."""
    url: str
    """The whole URL without its hash."""
    digest: Digest | None
    """What the content must hash to."""

    def __str__(self) -> str:
        """Return the URL as it may be shown: without a password."""
        return re.sub(r"//[^/@]*@", "//", self.url)[:256]


def parse_digest(algorithm: str, digits: str) -> Digest:
    """Return the digest, checked.

    Raises:
        BadLocation: not SHA3, not hexadecimal, or of no length that SHA3 has.
    """
    if algorithm.lower() != "sha3":
        raise BadLocation(f"the hash algorithm {algorithm[:32]!r} is not known; only sha3 is")
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raise BadLocation("the hash is not hexadecimal") from None
    if len(raw) not in _ALGORITHMS or len(digits) != 2 * len(raw):
        raise BadLocation(f"a sha3 hash has 28, 32, 48 or 64 bytes, not {len(raw)}")
    return Digest(raw.hex())


def parse_location(text: str, default_scheme: str) -> Location:
    """Read a place as a script gives it.

    Args:
        text: `URL`, or `hash:sha3:HEX:URL`; `hash:` may be written `hash://`, HEX may start with 0x.
        default_scheme: of a URL without one: `container` in a script.

    Raises:
        BadLocation: too long, or a hash that makes no sense.
    """
    if len(text) > MAX_URL:
        raise BadLocation(f"the URL has {len(text)} characters, at most {MAX_URL} are taken")
    digest = None
    if text[:5].lower() == "hash:":
        match = _HASH.fullmatch(text)
        if match is None:
            raise BadLocation("a hash is given as hash:sha3:HEX:URL")
        digest = parse_digest(match[1], match[2])
        text = match[3]
    match = _SCHEME.fullmatch(text)
    if match is None:
        return Location(default_scheme, f"{default_scheme}:{text}", digest)
    return Location(match[1].lower(), text, digest)


def container_path(url: str) -> tuple[str, ...]:
    """Return the parts of the path in a `container:` URL, decoded.

    Decoding comes first and checking second, so that `..%2f` is seen for what it is.

    Raises:
        BadLocation: empty, not absolute, a doubled slash, `.` or `..`, a zero byte, or not UTF-8.
    """
    _, _, path = url.partition(":")
    try:
        decoded = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise BadLocation(f"{url[:256]!r}: the path is not UTF-8") from None
    if not decoded.startswith("/"):
        decoded = f"/{decoded}"
    parts = decoded[1:].split("/")
    if parts and parts[-1] == "":
        parts.pop()
    if not parts:
        raise BadLocation(f"{url[:256]!r} names no path in the container")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part:
            raise BadLocation(
                f"{url[:256]!r} is not a plain path: it has an empty part, '.', '..' or a zero byte"
            )
    return tuple(parts)
