"""Keep of a command's output what the script asked for, and never more than is bounded. No I/O.

Modes as the original has them: nothing, everything, the first or last bytes, half from each end, or a stream. Where the
original keeps without a bound, the middle is left out beyond `limit`, and the result says so.
"""

from __future__ import annotations

import codecs
from typing import Final, Literal

import msgspec
from msgspec import UNSET

from protocols.activity.messages import CapturedOutput, CaptureMode, CapturePart

Keep = Literal["nothing", "head", "tail", "both ends"]


class CaptureSpec(msgspec.Struct, frozen=True):
    """What to do with one output stream."""

    keep: Keep
    limit: int | None = None
    """Bytes to keep at most, as the script says; none for as many as fit."""
    stream: bool = False
    """Whether events carry the output as it comes."""
    binary: bool = False
    """Whether output is given as numbers instead of text."""


NOTHING: Final = CaptureSpec("nothing")
EVERYTHING: Final = CaptureSpec("both ends", stream=True)
"""For every command but `run`."""


def capture_spec(mode: CaptureMode | None) -> CaptureSpec:
    """Return what a script's capture mode means.

    Raises:
        ValueError: neither or both of `atEnd` and `stream`, more than one part, or a negative limit.
    """
    if mode is None:
        return NOTHING
    if (mode.at_end is UNSET) == (mode.stream is UNSET):
        raise ValueError("a capture is either 'atEnd' or 'stream'")
    if isinstance(mode.stream, CapturePart):
        limit = _limit(mode.stream.limit)
        return CaptureSpec(
            "both ends" if limit is None else "head", limit, stream=True, binary=_binary(mode.stream)
        )
    assert isinstance(mode.at_end, CapturePart)
    part = mode.at_end
    parts: dict[Keep, int | None] = {"head": part.head, "tail": part.tail, "both ends": part.head_tail}
    given = [keep for keep, limit in parts.items() if limit is not None]
    if len(given) > 1:
        raise ValueError("a capture has only one of 'head', 'tail' and 'headTail'")
    keep: Keep = given[0] if given else "both ends"
    return CaptureSpec(keep, _limit(parts[keep]), binary=_binary(part))


def _limit(limit: int | None) -> int | None:
    if limit is not None and limit < 0:
        raise ValueError("a capture's limit cannot be negative")
    return limit


def _binary(part: CapturePart) -> bool:
    return part.format in ("bin", "binary")


class Capture:
    """The output of one stream of one command."""

    def __init__(self, spec: CaptureSpec, room: int) -> None:
        """Make it.

        Args:
            spec: what the script asked for.
            room: most bytes that may be kept, whatever was asked for.
        """
        self._spec = spec
        wanted = room if spec.limit is None else spec.limit
        limit = 0 if spec.keep == "nothing" else min(wanted, room)
        self._bounded = spec.keep != "nothing" and (spec.limit is None or spec.limit > room)
        self._head_limit = {"head": limit, "both ends": (limit + 1) // 2}.get(spec.keep, 0)
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._streamed_left = spec.limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._seen = 0

    def feed(self, data: bytes) -> str | tuple[int, ...] | None:
        """Take the next output; return what an event should carry of it, if anything."""
        self._seen += len(data)
        room = self._head_limit - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > self._tail_limit:
            del self._tail[: len(self._tail) - self._tail_limit]
        return self._event(data) if self._spec.stream else None

    def _event(self, data: bytes) -> str | tuple[int, ...] | None:
        if self._streamed_left is not None:
            data = data[: self._streamed_left]
            self._streamed_left -= len(data)
        if self._spec.binary:
            return tuple(data) or None
        # A character may be cut by the end of a piece: the rest of it comes with the next one.
        return self._decoder.decode(data) or None

    def last_event(self) -> str | None:
        """Return what is left of a character that never became whole."""
        if not self._spec.stream or self._spec.binary:
            return None
        return self._decoder.decode(b"", final=True) or None

    @property
    def kept(self) -> int:
        """Bytes that are kept."""
        return len(self._head) + len(self._tail)

    @property
    def cut(self) -> bool:
        """Whether bytes that the script asked for could not be kept."""
        return self._bounded and self._seen > self.kept

    def result(self) -> CapturedOutput:
        """Return what the batch's result carries; text that is not UTF-8 becomes one character a byte."""
        data = bytes(self._head + self._tail)
        if not data:
            return None
        if self._spec.binary:
            return tuple(data)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return data.decode("latin-1")
