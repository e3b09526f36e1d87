"""Just enough of protobuf's wire format for libp2p's messages: varints, fields, frames. Bytes only.

No schema and no generated code; the `wire` module of each protocol says what the fields mean. Strict where a
lenient reader would let a peer play: groups are refused, and so are varints above 64 bits and field number zero.
Lengths are checked against what is there before anything is cut out.
Format: https://protobuf.dev/programming-guides/encoding/

Errors:
    WireError       bytes from outside that are not what they should be
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types: what a field's tag says of how its value is written."""

MAX_FIELDS = 10_000
"""Fields of one message, unknown ones included: each costs a microsecond, however small it is."""
_MAX_VARINT_BYTES = 10
_MAX_TAG = 2**32
_MAX_LENGTH_PREFIX_BYTES = 5


class WireError(ValueError):
    """Bytes from a peer that are not a frame of this protocol."""


def encode_varint(value: int) -> bytes:
    """Return `value` (not negative, below 2^64) in base 128, least significant group first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_bytes(tag: int, value: bytes) -> bytes:
    """Return a length-delimited field; `tag` is `number << 3 | LENGTH` and below 128."""
    length = len(value)
    if length < 0x80:
        return bytes((tag, length)) + value
    return bytes((tag,)) + encode_varint(length) + value


def encode_number(tag: int, value: int) -> bytes:
    """Return a varint field; `tag` is `number << 3 | VARINT` and below 128, `value` not negative."""
    return bytes((tag,)) + encode_varint(value)


def frame(message: bytes) -> bytes:
    """Return `message` after its length, as `FrameReader` takes it apart."""
    return encode_varint(len(message)) + message


def read_fields(data: bytes, most: int = MAX_FIELDS) -> Iterator[tuple[int, int, bytes]]:
    """Yield (tag, number, bytes) of each field: the number for varints, the bytes for all else.

    Args:
        most: fields that the message may have.

    Raises:
        WireError: the data ends inside a field, or has what no encoder writes.
    """
    position, end, fields = 0, len(data), 0
    while position < end:
        fields += 1
        if fields > most:
            raise WireError(f"a message has more than {most} fields")
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _read_varint(data, position - 1)
        kind = tag & 7
        if tag < 8 or tag >= _MAX_TAG:
            raise WireError(f"field number {tag >> 3} does not exist")
        if kind == LENGTH:
            if position < end and data[position] < 0x80:
                length = data[position]
                position += 1
            else:
                length, position = _read_varint(data, position)
            if length > end - position:
                raise WireError(
                    f"a field of {length} bytes does not fit into the {end - position} that follow"
                )
            yield tag, 0, data[position : position + length]
            position += length
        elif kind == VARINT:
            value, position = _read_varint(data, position)
            yield tag, value, b""
        elif kind in (FIXED64, FIXED32):
            width = 8 if kind == FIXED64 else 4
            if width > end - position:
                raise WireError("the data ends inside a number")
            yield tag, 0, data[position : position + width]
            position += width
        else:
            raise WireError(f"wire type {kind} is not used by this protocol")


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 2**64:
                raise WireError("a varint is above 64 bits")
            return value, position + index + 1
    raise WireError("a varint does not end")


def take_frame(buffer: bytearray, max_bytes: int) -> bytes | None:
    """Cut the first frame off `buffer`: a varint of the length, then that many bytes. None while it is not all there.

    Args:
        max_bytes: longest frame accepted; a longer one is refused as soon as its length is known.

    Raises:
        WireError: a length that is too great, or no length at all.
    """
    length, start = 0, 0
    for start, byte in enumerate(buffer[:_MAX_LENGTH_PREFIX_BYTES], 1):
        length |= (byte & 0x7F) << (7 * (start - 1))
        if byte < 0x80:
            break
    else:
        if start == _MAX_LENGTH_PREFIX_BYTES:
            raise WireError("a frame's length does not end")
        return None
    if length > max_bytes:
        raise WireError(f"a frame of {length} bytes is over the limit of {max_bytes}")
    if len(buffer) - start < length:
        return None
    frame = bytes(buffer[start : start + length])
    del buffer[: start + length]
    return frame


class FrameReader:
    """Cuts a byte stream into frames, of which no more than one and one read is ever kept.

    Args:
        max_bytes: longest frame accepted.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that `data` completes. Take them all before the next `feed`.

        Raises:
            WireError: a length that is too great, or no length at all.
        """
        self._buffer += data
        while (frame := take_frame(self._buffer, self._max_bytes)) is not None:
            yield frame
