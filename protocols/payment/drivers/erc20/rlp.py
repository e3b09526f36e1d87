"""Recursive length prefix, the encoding of Ethereum transactions (yellow paper, appendix B).

Pure functions over bytes and lists of them. Only `transaction` calls them.
"""

from __future__ import annotations

from typing import TypeAlias

Item: TypeAlias = "bytes | list[Item]"

_DEPTH_LIMIT = 16


class RlpError(ValueError):
    """The bytes are no canonical RLP."""


def encode(item: Item) -> bytes:
    """Encode a byte string or a list."""
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(0x80, len(item)) + item
    body = b"".join(encode(part) for part in item)
    return _prefix(0xC0, len(body)) + body


def encode_int(number: int) -> bytes:
    """Give a number's shortest big-endian bytes; zero is the empty string."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def decode_int(item: Item) -> int:
    """Read a number, at most 256 bits, without leading zeros."""
    if not isinstance(item, bytes) or len(item) > 32 or item[:1] == b"\0":
        raise RlpError("a number must be at most 32 bytes without leading zeros")
    return int.from_bytes(item, "big")


def decode(data: bytes) -> Item:
    """Decode one item that takes up all of `data`.

    Raises:
        RlpError: the bytes are not the canonical encoding of anything.
    """
    item, end = _decode(data, 0, len(data), 0)
    if end != len(data):
        raise RlpError(f"{len(data) - end} bytes follow the item")
    return item


def _prefix(offset: int, length: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = encode_int(length)
    return bytes([offset + 55 + len(size)]) + size


def _decode(data: bytes, start: int, limit: int, depth: int) -> tuple[Item, int]:
    if start >= limit:
        raise RlpError("data ends early")
    if depth > _DEPTH_LIMIT:
        raise RlpError("nested too deeply")
    first = data[start]
    if first < 0x80:
        return data[start : start + 1], start + 1
    base = 0x80 if first < 0xC0 else 0xC0
    body, end = _extent(data, start, limit, first - base)
    if base == 0x80:
        value = data[body:end]
        if len(value) == 1 and value[0] < 0x80:
            raise RlpError("a small byte must stand for itself")
        return value, end
    items: list[Item] = []
    while body < end:
        item, body = _decode(data, body, end, depth + 1)
        items.append(item)
    return items, end


def _extent(data: bytes, start: int, limit: int, code: int) -> tuple[int, int]:
    """Give where an item's body starts and ends; `code` is its first byte less the kind's offset."""
    body = start + 1
    length = code
    if code > 55:
        size = data[body : body + code - 55]
        if len(size) != code - 55 or size[:1] == b"\0" or (length := int.from_bytes(size, "big")) < 56:
            raise RlpError("length is not in its shortest form")
        body += code - 55
    if body + length > limit:
        raise RlpError("data ends early")
    return body, body + length
