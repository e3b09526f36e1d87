"""Records between a `Sealer` and an `Opener`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.session import ProtocolError
from p2p.session.records import RECORD_BYTES, Opener, Sealer, sealed_size

KEY = bytes(range(32))


def sealed(sealer: Sealer, *pieces: bytes) -> bytes:
    out = bytearray(sealed_size(sum(map(len, pieces))))
    assert sealer.seal(pieces, memoryview(out)) == len(out)
    return bytes(out)


@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), max_size=6),
    st.integers(1, 60),
    st.booleans(),
)
def test_what_is_sealed_comes_out_however_it_is_cut(
    batches: list[list[bytes]], step: int, large: bool
) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    if large:
        batches = [*batches, [b"x" * (RECORD_BYTES - 3), b"yyyyy"]]
        step *= 997
    stream = b"".join(sealed(sealer, *batch) for batch in batches)
    heard, kept = b"", b""
    for at in range(0, len(stream), step):
        kept += stream[at : at + step]
        plains, used = opener.open(memoryview(kept))
        heard += b"".join(plains)
        kept = kept[used:]
    assert heard == b"".join(piece for batch in batches for piece in batch)
    assert kept == b""


def test_full_records_have_the_largest_size_there_is() -> None:
    out = sealed(Sealer(KEY), bytes(2 * RECORD_BYTES + 1))
    assert out[:2] == b"\xff\xff"
    assert len(out) == 2 * 65_537 + 19


@pytest.mark.parametrize("fault", ["altered", "swapped", "lost", "short"])
def test_records_that_were_tampered_with_are_refused(fault: str) -> None:
    sealer = Sealer(KEY)
    one, two = sealed(sealer, b"one"), sealed(sealer, b"two")
    data = {
        "altered": one[:-1] + bytes([one[-1] ^ 1]),
        "swapped": two + one,
        "lost": two,
        "short": b"\x00\x0f" + bytes(15),
    }[fault]
    with pytest.raises(ProtocolError, match="does not decrypt"):
        Opener(KEY).open(memoryview(data))
