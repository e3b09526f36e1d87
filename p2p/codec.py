"""The wire's encoding: msgspec structs as deterministic CBOR (RFC 8949 §4.2.3, length-first map keys).

One value has one encoding, so bytes can be hashed and signed. The decoder is strict: what `encode` would not
have produced is refused (`CodecError`), as are tags, NaN, big integers and nesting deeper than 16. Sizes are
bounded by whoever reads the frame, before this module sees it.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cbor2
import msgspec

T = TypeVar("T")

MAX_DEPTH = 16
"""Containers within containers that a message may have."""

_INTEGER_RANGE = range(-(2**63), 2**64)
_PLAIN = frozenset((str, bytes, bool, type(None)))


class CodecError(ValueError):
    """Bytes from outside that are not a message of ours, or a value that cannot be one."""


def encode(message: Any) -> bytes:
    """Encode a struct, or a tree of builtins, as canonical CBOR."""
    tree = msgspec.to_builtins(message, builtin_types=(bytes,))
    return cbor2.dumps(tree, canonical=True)


def decode(data: bytes, message_type: type[T]) -> T:
    """Decode canonical CBOR into `message_type`.

    Unknown fields are ignored, so that a later version may add some.

    Raises:
        CodecError: not canonical CBOR, or not of that shape.
    """
    tree = decode_tree(data)
    try:
        return msgspec.convert(tree, message_type, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise CodecError(f"not a {getattr(message_type, '__name__', message_type)}: {error}") from error


def decode_tree(data: bytes) -> Any:
    """Decode canonical CBOR into builtins: dict, list, str, bytes, int, float, bool, None."""
    try:
        tree = cbor2.loads(data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False)
        _refuse_foreign(tree)
        canonical = cbor2.dumps(tree, canonical=True)
    except CodecError:
        raise
    except Exception as error:  # cbor2 maps most failures to its own error, but not all (tags, hashing)
        raise CodecError(f"not CBOR: {error}") from error
    if canonical != data:
        raise CodecError("CBOR is not in its canonical form")
    return tree


def _refuse_foreign(value: object) -> None:
    """Refuse what the wire has no place for. By exact types, as cbor2 makes them: strangers send many small items."""
    kind = type(value)
    if kind is list:
        for item in value:  # type: ignore[attr-defined] # it is a list
            if type(item) not in _PLAIN:
                _refuse_foreign(item)
    elif kind is dict:
        for key, item in value.items():  # type: ignore[attr-defined] # it is a dict
            if type(key) is not str:
                raise CodecError("map keys must be text")
            if type(item) not in _PLAIN:
                _refuse_foreign(item)
    elif kind is int:
        if value not in _INTEGER_RANGE:
            raise CodecError("integer outside 64 bits")
    elif kind is float:
        if math.isnan(value):  # type: ignore[arg-type] # it is a float
            raise CodecError("NaN has no canonical form")
    elif kind not in _PLAIN:
        raise CodecError(f"{kind.__name__} is not allowed on the wire")
