"""base58 (Bitcoin's alphabet), as PeerIds are written. Pure; bounded by its callers' lengths."""

from __future__ import annotations

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = {symbol: digit for digit, symbol in enumerate(_ALPHABET)}
MAX_TEXT = 128
"""Longest text that is decoded: a PeerId has at most 52 symbols, and the work grows with the square."""


def encode(data: bytes) -> str:
    """Return `data` as text; leading zero bytes become leading `1`s."""
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def decode(text: str) -> bytes:
    """Return the bytes that `text` stands for.

    Raises:
        ValueError: not base58, or longer than `MAX_TEXT`.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"{text[:64]!r} is too long: base58 is read up to {MAX_TEXT} symbols")
    number = 0
    for symbol in text:
        if symbol not in _DIGITS:
            raise ValueError(f"{text!r} is not base58")
        number = number * 58 + _DIGITS[symbol]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
