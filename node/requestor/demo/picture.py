"""Pictures: binary PPM tiles in, one PNG out (ISO/IEC 15948), with nothing but zlib."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_PIXELS = 64 * 1024 * 1024


class PictureError(ValueError):
    """Bytes that are not the picture expected."""


class Picture(msgspec.Struct, frozen=True):
    """Pixels, three bytes each (red, green, blue), row by row from the top left."""

    width: int
    height: int
    pixels: bytes


def parse_ppm(data: bytes) -> Picture:
    """Read a binary PPM (P6) of depth 255 without comments. Raises PictureError."""
    parts = data.split(maxsplit=4)
    try:
        width, height, depth = int(parts[1]), int(parts[2]), int(parts[3])
    except (IndexError, ValueError) as error:
        raise PictureError("not a PPM picture") from error
    start = _body_start(data)
    if parts[0] != b"P6" or depth != 255 or not 0 < width * height <= MAX_PIXELS:
        raise PictureError("not a binary PPM picture of depth 255")
    if len(data) - start != width * height * 3:
        raise PictureError(f"{len(data) - start} bytes of pixels instead of {width * height * 3}")
    return Picture(width, height, data[start:])


def _body_start(data: bytes) -> int:
    """Return where the pixels begin: one blank after the fourth word of the header."""
    position = 0
    for _ in range(4):
        while data[position : position + 1].isspace():
            position += 1
        while position < len(data) and not data[position : position + 1].isspace():
            position += 1
    return position + 1


def assemble(tiles: Sequence[Picture], columns: int) -> Picture:
    """Put tiles together, row by row, `columns` in a row. Raises PictureError if they do not fit."""
    if not tiles or len(tiles) % columns:
        raise PictureError(f"{len(tiles)} tiles do not fill rows of {columns}")
    pixels = bytearray()
    width = sum(tile.width for tile in tiles[:columns])
    height = 0
    for start in range(0, len(tiles), columns):
        row = tiles[start : start + columns]
        if len({tile.height for tile in row}) != 1 or sum(tile.width for tile in row) != width:
            raise PictureError("the tiles of a row do not fit together")
        height += row[0].height
        for y in range(row[0].height):
            for tile in row:
                pixels += tile.pixels[y * tile.width * 3 : (y + 1) * tile.width * 3]
    return Picture(width, height, bytes(pixels))


def encode_png(picture: Picture) -> bytes:
    """Return the picture as PNG: true colour, eight bits, no filter."""
    stride = picture.width * 3
    rows = b"".join(
        b"\0" + picture.pixels[start : start + stride] for start in range(0, len(picture.pixels), stride)
    )
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(rows, 9))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
