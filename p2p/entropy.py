"""The node's randomness: the only code that draws from the operating system.

Two kinds are kept apart: `token_bytes` for keys, nonces and ids (unpredictable in production), and `jitter`
for delays and choices that only need to be spread. A simulation gives each node a `SeededEntropy`.
"""

from __future__ import annotations

import hashlib
import os
import random
from typing import Protocol


class Entropy(Protocol):
    """A source of random bytes and of a random generator."""

    @property
    def jitter(self) -> random.Random:
        """Return the generator for delays and choices; never for secrets."""
        ...

    def token_bytes(self, count: int) -> bytes:
        """Return `count` random bytes, fit for keys."""
        ...


class SystemEntropy:
    """The operating system's randomness."""

    def __init__(self) -> None:
        self._jitter = random.Random(os.urandom(32))  # noqa: S311 - spreads delays, makes no secrets

    @property
    def jitter(self) -> random.Random:
        return self._jitter

    def token_bytes(self, count: int) -> bytes:
        return os.urandom(count)


class SeededEntropy:
    """Reproducible randomness: SHA-256 in counter mode over a seed and a label.

    Labels split one master seed (`"node/3"`, `"latency"`), so that drawing more in one place does not
    reshuffle the rest.
    """

    def __init__(self, seed: int | bytes, label: str = "") -> None:
        master = seed if isinstance(seed, bytes) else str(seed).encode()
        self._key = hashlib.sha256(master + b"\0" + label.encode()).digest()
        self._counter = 0
        self._jitter = random.Random(self._key)  # noqa: S311 - a simulation's delays

    @property
    def jitter(self) -> random.Random:
        return self._jitter

    def token_bytes(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            out += hashlib.sha256(self._key + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
        return bytes(out[:count])


def uuid4(entropy: Entropy) -> str:
    """Return a random UUID (RFC 9562 version 4) with dashes, lower case."""
    raw = bytearray(entropy.token_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    h = raw.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def hex32(entropy: Entropy) -> str:
    """Return a random UUID without dashes: 32 hexadecimal digits, the form of Golem's activity ids."""
    return uuid4(entropy).replace("-", "")
