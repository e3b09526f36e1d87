"""JSON as the property language reads and writes it: strict reading, one canonical text.

Reading is stricter than Python's own: no NaN, no lone surrogates, no number beyond a 64-bit float, bounded depth
and size. Writing is compact, with keys sorted bytewise and floats in their shortest form with a plain exponent
(`1e-9`, `1e16`, `0.00001`). Used by `properties` and `property_set`; it knows nothing of properties.
"""

from __future__ import annotations

import json
import math
import sys
from json.encoder import encode_basestring
from typing import Any, NoReturn, TypeAlias

from protocols.market.language.errors import PropertyError
from protocols.market.language.limits import MAX_DEPTH, MAX_TEXT_BYTES, exceeds_text_limit

_LARGEST = int(sys.float_info.max)

Json: TypeAlias = Any
"""None, bool, int, float, str, list of Json, or dict of str to Json."""


def decode(text: str) -> Json:
    """Return the value that the JSON `text` holds. A repeated key keeps its last value.

    Raises:
        PropertyError: not JSON, or beyond the limits.
    """
    if exceeds_text_limit(text):
        raise PropertyError(
            f"the properties take more than {MAX_TEXT_BYTES} bytes; send fewer or shorter ones"
        )
    try:
        value = json.loads(text, parse_int=_integer, parse_float=_real, parse_constant=_refuse)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise PropertyError(f"the properties are not JSON: {error}") from error
    check(value)
    return value


def check(value: Json) -> None:
    """Check that `value` is JSON within the depth limit.

    Raises:
        PropertyError: deeper than MAX_DEPTH, or something that JSON cannot hold.
    """
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    _check_text(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _check_text(item)
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise PropertyError(f"{item} is not a JSON number")
            elif isinstance(item, int):
                if abs(item) > _LARGEST:
                    raise PropertyError("an integer is too large for a 64-bit float")
            elif item is not None:
                raise PropertyError(f"a {type(item).__name__} is not a JSON value")
        if not below:
            return
        level = below
    raise _too_deep()


def encode(value: Json) -> str:
    """Return the canonical text of a value that `check` accepts."""
    if isinstance(value, str):
        return str(encode_basestring(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if -(2**63) <= value < 2**64 else _float_text(float(value))
    if isinstance(value, float):
        return _float_text(value)
    if value is None:
        return "null"
    if isinstance(value, list):
        return "[" + ",".join([encode(item) for item in value]) + "]"
    return "{" + ",".join([f"{encode_basestring(key)}:{encode(value[key])}" for key in sorted(value)]) + "}"


def _float_text(value: float) -> str:
    # As Rust's serde_json (ryu) writes it, since the text is hashed: Python pads the exponent and signs it,
    # and goes over to an exponent one decimal place earlier.
    text = repr(value)
    mantissa, has_exponent, exponent = text.partition("e")
    if not has_exponent:
        return text
    if exponent == "-05":
        sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
        return f"{sign}0.0000{digits.replace('.', '')}"
    return f"{mantissa}e{int(exponent)}"


def _integer(text: str) -> int | float:
    # Integers beyond 64 bits, and minus zero, are floats to a reader with fixed-size numbers.
    if len(text) > 20 or text == "-0":
        return _real(text)
    value = int(text)
    return value if -(2**63) <= value < 2**64 else _real(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise PropertyError(f"the number {text[:32]} is too large for a 64-bit float")
    return value


def _refuse(name: str) -> NoReturn:
    raise PropertyError(f"{name} is not a JSON number")


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise PropertyError(f"a {type(text).__name__} cannot be a JSON key")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise PropertyError("the properties hold half of a surrogate pair, which no text may") from None


def _too_deep() -> PropertyError:
    return PropertyError(f"the properties are nested deeper than {MAX_DEPTH} levels")
