"""What a node holds of a topic, sorted, and how two nodes find where theirs differ. Pure.

Range-based reconciliation: compare the fingerprint of a range of keys; where it differs, split the range and
compare the parts; where little is left, list it. Equal sets cost one fingerprint, d differences among n
records about d·log n. The fingerprint is a hash over the sorted (key, sequence number) pairs, and no sum of
hashes, which somebody who chooses keys could make collide.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SPLIT = 16
"""Parts into which a range that differs is split."""
LEAF = 32
"""Records up to which a range is listed instead."""
FINGERPRINT_BYTES = 16
MAX_SEQ = 2**63 - 1
"""Largest sequence number; what the codec's bounds can say, and 292 years of nanoseconds."""
MAX_KEY_CHARS = 256


class KeyRange(msgspec.Struct, frozen=True):
    """The keys above `after` up to and including `upto`, in order of their characters' code points."""

    after: str = ""
    """Empty: from the first."""
    upto: str = ""
    """Empty: to the last."""

    def __contains__(self, key: str) -> bool:
        return key > self.after and (not self.upto or key <= self.upto)


EVERYTHING = KeyRange()


class Holding:
    """A picture of what is held at one moment.

    Args:
        held: key → sequence number, as `Topic.held` gives it.

    Raises:
        ValueError: a key or number that cannot travel, which is the topic owner's mistake.
    """

    def __init__(self, held: Mapping[str, int]) -> None:
        self._keys = sorted(held)
        self._seqs = dict(held)
        for key, seq in held.items():
            if not 0 < len(key) <= MAX_KEY_CHARS or not 0 <= seq <= MAX_SEQ:
                raise ValueError(
                    f"{key[:64]!r} with sequence number {seq} cannot be synced: keys have 1 to "
                    f"{MAX_KEY_CHARS} characters, numbers 63 bits"
                )

    def __len__(self) -> int:
        return len(self._keys)

    def seq(self, key: str) -> int:
        """Return the sequence number under `key`; -1 when there is nothing."""
        return self._seqs.get(key, -1)

    def keys(self, span: KeyRange) -> Sequence[str]:
        """Return the keys in a range, sorted."""
        first = bisect_right(self._keys, span.after) if span.after else 0
        last = bisect_right(self._keys, span.upto) if span.upto else len(self._keys)
        return self._keys[first:last]

    def fingerprint(self, span: KeyRange) -> bytes:
        """Return what two holdings share if, and in practice only if, they are equal in the range."""
        digest = hashlib.sha256()
        for key in self.keys(span):
            name = key.encode()
            digest.update(len(name).to_bytes(4, "big") + name + self._seqs[key].to_bytes(8, "big"))
        return digest.digest()[:FINGERPRINT_BYTES]

    def split(self, span: KeyRange) -> list[KeyRange]:
        """Return parts that cover a range, each with about as many of our keys."""
        keys = self.keys(span)
        parts = min(SPLIT, len(keys))
        bounds = [keys[len(keys) * part // parts - 1] for part in range(1, parts)]
        return [
            KeyRange(after, upto)
            for after, upto in zip([span.after, *bounds], [*bounds, span.upto], strict=True)
        ]


def differences(holding: Holding, span: KeyRange, theirs: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Compare a range with all that the other side has in it.

    Returns:
        the keys that we lack or have older, and those that they lack or have older.
    """
    wanted = [key for key, seq in theirs.items() if seq > holding.seq(key)]
    offered = [key for key in holding.keys(span) if holding.seq(key) > theirs.get(key, -1)]
    return wanted, offered
