"""The contract ABI: how calls and their results are laid out in bytes.

A small, complete encoder for the types that our contracts use (uintN, address, bool, bytesN, bytes, string,
tuples, and arrays of all these), and a strict decoder for what chains answer. Which functions there are
stands in `contracts`. Pure.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from p2p.identity.node_id import keccak256
from protocols.payment.drivers.erc20.transaction import address_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORD = 32
_ARRAY = re.compile(r"(.*)\[(\d*)\]\Z", re.DOTALL)
_LENGTH_LIMIT = 1 << 20


class AbiError(ValueError):
    """A value does not fit its type, or bytes are not what the type says."""


def call(signature: str, *values: Any) -> bytes:
    """Encode a call, e.g. `call("transfer(address,uint256)", payee, amount)`.

    Raises:
        AbiError: a value does not fit its type.
    """
    name_end = signature.index("(")
    return selector(signature) + encode(_split(signature[name_end + 1 : -1]), values)


@cache
def selector(signature: str) -> bytes:
    """Give a function's first four bytes, by which contracts tell functions apart."""
    return keccak256(signature.encode())[:4]


@cache
def topic(signature: str) -> str:
    """Give an event's first topic as `0x` text."""
    return "0x" + keccak256(signature.encode()).hex()


def encode(types: Sequence[str], values: Sequence[Any]) -> bytes:
    """Encode values one after another, as a tuple is encoded.

    Raises:
        AbiError: a value does not fit its type.
    """
    if len(types) != len(values):
        raise AbiError(f"{len(types)} values are needed and {len(values)} given")
    head_size = sum(_static_size(t) or _WORD for t in types)
    head, tail = b"", b""
    for kind, value in zip(types, values, strict=True):
        encoded = _encode(kind, value)
        if _static_size(kind):
            head += encoded
        else:
            head += (head_size + len(tail)).to_bytes(_WORD, "big")
            tail += encoded
    return head + tail


def decode(types: Sequence[str], data: bytes) -> tuple[Any, ...]:
    """Decode what a call returned; tuples come as tuples, arrays as lists.

    Raises:
        AbiError: the bytes are not of these types. Bytes that follow are ignored, as contracts may add
        values.
    """
    return _decode_sequence(types, data, 0)


def _decode_sequence(types: Sequence[str], data: bytes, base: int) -> tuple[Any, ...]:
    values: list[Any] = []
    at = base
    for kind in types:
        size = _static_size(kind)
        values.append(_decode(kind, data, at if size else base + _offset(data, at)))
        at += size or _WORD
    return tuple(values)


@cache
def _split(inner: str) -> tuple[str, ...]:
    """Split a list of types at its commas, but not within parentheses."""
    parts: list[str] = []
    depth = start = 0
    for i, char in enumerate(inner):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(inner[start:i])
            start = i + 1
    if inner:
        parts.append(inner[start:])
    return tuple(parts)


@cache
def _static_size(kind: str) -> int:
    """Give how many bytes a type takes in place; 0 if it stands elsewhere and only its offset is in place."""
    if array := _ARRAY.match(kind):
        return int(array[2]) * _static_size(array[1]) if array[2] else 0
    if kind.startswith("("):
        sizes = [_static_size(part) for part in _split(kind[1:-1])]
        return sum(sizes) if all(sizes) else 0
    return 0 if kind in ("bytes", "string") else _WORD


def _encode(kind: str, value: Any) -> bytes:
    if array := _ARRAY.match(kind):
        if array[2] and len(value) != int(array[2]):
            raise AbiError(f"{kind} takes {array[2]} values, not {len(value)}")
        count = b"" if array[2] else len(value).to_bytes(_WORD, "big")
        return count + encode([array[1]] * len(value), value)
    if kind.startswith("("):
        return encode(_split(kind[1:-1]), value)
    if kind in ("bytes", "string"):
        raw = value.encode() if kind == "string" else bytes(value)
        return len(raw).to_bytes(_WORD, "big") + raw + b"\0" * (-len(raw) % _WORD)
    if kind.startswith("bytes"):
        if len(value) != int(kind[5:]):
            raise AbiError(f"{kind} takes {kind[5:]} bytes, not {len(value)}")
        return bytes(value).ljust(_WORD, b"\0")
    if kind == "address":
        try:
            return address_bytes(value).rjust(_WORD, b"\0")
        except ValueError as error:
            raise AbiError(str(error)) from error
    bits = _bits(kind)
    if not 0 <= int(value) < 1 << bits:
        raise AbiError(f"{value} does not fit {kind}")
    return int(value).to_bytes(_WORD, "big")


def _decode(kind: str, data: bytes, at: int) -> Any:
    if array := _ARRAY.match(kind):
        if array[2]:
            return list(_decode_sequence([array[1]] * int(array[2]), data, at))
        count = _offset(data, at)
        if count * _WORD > len(data):
            raise AbiError("array is longer than the data")
        return list(_decode_sequence([array[1]] * count, data, at + _WORD))
    if kind.startswith("("):
        return _decode_sequence(_split(kind[1:-1]), data, at)
    if kind in ("bytes", "string"):
        raw = _slice(data, at + _WORD, _offset(data, at))
        return raw.decode(errors="replace") if kind == "string" else raw
    word = _slice(data, at, _WORD)
    if kind.startswith("bytes"):
        return word[: int(kind[5:])]
    number = int.from_bytes(word, "big")
    if number >> (160 if kind == "address" else _bits(kind)):
        raise AbiError(f"{number} is out of the range of {kind}")
    if kind == "address":
        return "0x" + word[12:].hex()
    return bool(number) if kind == "bool" else number


def _bits(kind: str) -> int:
    if kind == "bool":
        return 1
    if not kind.startswith("uint"):
        raise AbiError(f"type {kind!r} is not supported")
    return int(kind[4:])


def _offset(data: bytes, at: int) -> int:
    number = int.from_bytes(_slice(data, at, _WORD), "big")
    if number > _LENGTH_LIMIT:
        raise AbiError("an offset or length is out of range")
    return number


def _slice(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise AbiError(f"data ends after {len(data)} bytes, {at + size} are needed")
    return data[at : at + size]
