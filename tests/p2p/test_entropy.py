"""Seeded randomness repeats; labels keep it apart; ids have their form."""

from __future__ import annotations

import uuid

from hypothesis import given
from hypothesis import strategies as st

from p2p.entropy import SeededEntropy, SystemEntropy, hex32, uuid4


@given(st.integers(0, 2**64), st.text(max_size=10), st.integers(0, 200))
def test_same_seed_and_label_same_bytes(seed: int, label: str, count: int) -> None:
    one, other = SeededEntropy(seed, label), SeededEntropy(seed, label)
    assert one.token_bytes(count) == other.token_bytes(count)
    assert len(one.token_bytes(count)) == count
    assert one.jitter.random() == other.jitter.random()


def test_labels_are_apart() -> None:
    assert SeededEntropy(1, "a").token_bytes(32) != SeededEntropy(1, "b").token_bytes(32)


def test_uuids_are_version_4() -> None:
    for entropy in (SystemEntropy(), SeededEntropy(7)):
        made = uuid.UUID(uuid4(entropy))
        assert (made.version, made.variant) == (4, uuid.RFC_4122)
    assert len(hex32(SystemEntropy())) == 32
