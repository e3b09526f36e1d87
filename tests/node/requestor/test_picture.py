"""Tiles make the picture, and the PNG carries every pixel."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.requestor.demo.picture import Picture, PictureError, assemble, encode_png, parse_ppm


def ppm(picture: Picture) -> bytes:
    return b"P6\n%d %d\n255\n" % (picture.width, picture.height) + picture.pixels


def decode_png(data: bytes) -> Picture:
    """The other direction, from the specification."""
    position, body = 8, b""
    width = height = 0
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        content = data[position + 8 : position + 8 + length]
        (crc,) = struct.unpack(">I", data[position + 8 + length : position + 12 + length])
        assert crc == zlib.crc32(kind + content)
        if kind == b"IHDR":
            width, height = struct.unpack(">II", content[:8])
        body += content if kind == b"IDAT" else b""
        position += 12 + length
    rows = zlib.decompress(body)
    stride = 1 + width * 3
    return Picture(width, height, b"".join(rows[y * stride + 1 : (y + 1) * stride] for y in range(height)))


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_cut_and_put_together(
    columns: int, rows: int, tile_width: int, tile_height: int, random: object
) -> None:
    width, height = columns * tile_width, rows * tile_height
    whole = Picture(width, height, random.randbytes(width * height * 3))  # type: ignore[attr-defined]
    tiles = []
    for row in range(rows):
        for column in range(columns):
            pixels = b"".join(
                whole.pixels[(y * width + column * tile_width) * 3 :][: tile_width * 3]
                for y in range(row * tile_height, (row + 1) * tile_height)
            )
            tiles.append(parse_ppm(ppm(Picture(tile_width, tile_height, pixels))))
    assert assemble(tiles, columns) == whole
    assert decode_png(encode_png(whole)) == whole


@pytest.mark.parametrize(
    "data", [b"", b"P6", b"P5\n1 1\n255\n\0", b"P6\n1 1\n255\n\0", b"P6\n-1 1\n255\n", b"P6\nx y\n255\n"]
)
def test_refuses_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(PictureError):
        parse_ppm(data)


def test_refuses_tiles_that_do_not_fit() -> None:
    one, two = Picture(1, 1, bytes(3)), Picture(2, 2, bytes(12))
    with pytest.raises(PictureError):
        assemble([one, two], 2)
    with pytest.raises(PictureError):
        assemble([one, one, one], 2)
