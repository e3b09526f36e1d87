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
    match value:
        case None | bool() | str() | bytes():
            pass
        case int():
            if value not in _INTEGER_RANGE:
                raise CodecError("integer outside 64 bits")
        case float():
            if math.isnan(value):
                raise CodecError("NaN has no canonical form")
        case list():
            for item in value:
                _refuse_foreign(item)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise CodecError("map keys must be text")
                _refuse_foreign(item)
        case _:
            raise CodecError(f"{type(value).__name__} is not allowed on the wire")
