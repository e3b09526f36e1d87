"""multistream-select 1.0.0, sans-IO, both sides: agree on the protocol of a connection or of a stream.

`Proposal` is the side that began: its `hello` goes out together with the first data, unasked, so that a stream
costs no round trip of its own. `Answering` is the other: it answers a proposal with the same line or with `na`.
Both keep what follows the agreement. Lines, proposals and thus everything else are bounded; callers bound the time.

Source: https://github.com/multiformats/multistream-select
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.overlay import ProtocolRefused
from p2p.session.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Container

MAX_LINE_BYTES = 1024
MAX_PROPOSALS = 16
"""Protocols that a peer may try."""

_HEADER = "/multistream/1.0.0"
_NOT_AVAILABLE = "na"


class _Lines:
    """Cuts bytes into lines: a varint of the length, the text, and a newline that the length counts."""

    def __init__(self) -> None:
        self.unread = bytearray()

    def next(self) -> str | None:
        """Return the next line, or None when it has not come whole."""
        data = self.unread
        if not data:
            return None
        length, at = data[0], 1
        if length & 0x80:
            if len(data) < 2:
                return None
            length, at = length & 0x7F | data[1] << 7, 2
        if not 0 < length <= MAX_LINE_BYTES:
            raise ProtocolError(f"the peer announced a line of {length} bytes in its negotiation")
        if len(data) < at + length:
            return None
        line = bytes(data[at : at + length])
        del data[: at + length]
        if line[-1:] != b"\n":
            raise ProtocolError("the peer does not speak multistream-select")
        return line[:-1].decode("utf-8", "replace")

    def next_after_header(self, *, seen: bool) -> tuple[str | None, bool]:
        """Return the next line that is not the header, and whether the header has been seen."""
        if not seen:
            line = self.next()
            if line is None:
                return None, False
            if line != _HEADER:
                raise ProtocolError("the peer does not speak multistream-select")
        return self.next(), True


class Proposal:
    """The side that began, with one protocol to propose."""

    __slots__ = ("_lines", "_seen", "hello", "protocol")

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.hello = _line(_HEADER) + _line(protocol)
        """What to send first; data of the protocol may follow at once."""
        self._lines = _Lines()
        self._seen = False

    def receive(self, data: bytes) -> bytes | None:
        """Take what came; return what followed the agreement, or None while there is none yet.

        Raises:
            ProtocolRefused: the peer does not serve the protocol.
            ProtocolError: what came is not multistream-select.
        """
        self._lines.unread += data
        answer, self._seen = self._lines.next_after_header(seen=self._seen)
        if answer is None:
            return None
        if answer == _NOT_AVAILABLE:
            raise ProtocolRefused(f"the peer does not serve {self.protocol}")
        if answer != self.protocol:
            raise ProtocolError(f"the peer answered {answer[:64]!r} to {self.protocol}")
        return bytes(self._lines.unread)


class Answering:
    """The other side.

    Args:
        served: the protocols to agree to.
    """

    __slots__ = ("_lines", "_proposals", "_seen", "_served", "protocol")

    def __init__(self, served: Container[str]) -> None:
        self.protocol: str | None = None
        """What was agreed on."""
        self._served = served
        self._lines = _Lines()
        self._seen = False
        self._proposals = 0

    @property
    def unread(self) -> bytes:
        """Return what came after the agreement."""
        return bytes(self._lines.unread)

    def receive(self, data: bytes) -> bytes:
        """Take what came; return what to answer. Stops reading when `protocol` is agreed on.

        Raises:
            ProtocolRefused: the peer tried too many that are not served.
            ProtocolError: what came is not multistream-select.
        """
        self._lines.unread += data
        answer = b""
        while self.protocol is None:
            seen = self._seen
            proposal, self._seen = self._lines.next_after_header(seen=seen)
            if self._seen and not seen:
                answer += _line(_HEADER)
            if proposal is None:
                break
            if proposal in self._served:
                self.protocol = proposal
                return answer + _line(proposal)
            self._proposals += 1
            if self._proposals >= MAX_PROPOSALS:
                raise ProtocolRefused(f"the peer proposed {MAX_PROPOSALS} protocols that are not served")
            answer += _line(_NOT_AVAILABLE)
        return answer


def _line(text: str) -> bytes:
    body = text.encode() + b"\n"
    length = len(body)
    if length > MAX_LINE_BYTES:
        raise ValueError(f"a protocol id has at most {MAX_LINE_BYTES - 1} bytes, not {length - 1}")
    prefix = bytes((length,)) if length < 0x80 else bytes((length & 0x7F | 0x80, length >> 7))
    return prefix + body
