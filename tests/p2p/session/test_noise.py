"""The handshake between two ends in memory, and with ends that lie."""

from __future__ import annotations

import contextlib
import random
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.session import Ed25519Identity, HandshakeFailed, NoiseIdentity, ProtocolError, Secp256k1Identity
from p2p.session.identity import PeerKey, decode_key
from p2p.session.noise import Handshake
from tests.p2p.session.ends import identity


def both(expected: str | None = None) -> tuple[Handshake, Handshake]:
    near = Handshake(identity(1), initiator=True, entropy=SeededEntropy(1), expected=expected)
    return near, Handshake(identity(2), initiator=False, entropy=SeededEntropy(2))


def shake(near: Handshake, far: Handshake, cuts: list[int] | None = None) -> None:
    """Carry everything across, in pieces that end at `cuts`."""

    def across(data: bytes, to: Handshake) -> bytes:
        edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or ())})
        return b"".join(to.receive(data[a:b]) for a, b in pairwise(edges))

    across(across(across(near.start(), far), near), far)


@given(st.lists(st.integers(0, 1000), max_size=12))
def test_both_learn_who_is_there_however_the_bytes_are_cut(cuts: list[int]) -> None:
    near, far = both(expected=identity(2).public.peer_id)
    shake(near, far, cuts)
    assert near.peer == identity(2).public
    assert far.peer == identity(1).public
    assert near.keys
    assert far.keys
    sealed = bytearray(64)
    size = near.keys[0].seal([b"hello"], memoryview(sealed))
    assert far.keys[1].open(memoryview(sealed)[:size]) == ([b"hello"], size)


def test_what_follows_the_handshake_is_kept() -> None:
    near, far = both()
    last = near.receive(far.receive(near.start()))
    far.receive(last + b"\x00\x20records")
    assert far.done
    assert far.unread == b"\x00\x20records"


def test_the_peer_has_to_be_the_one_expected() -> None:
    near, far = both(expected=identity(3).public.peer_id)
    with pytest.raises(HandshakeFailed, match="was expected and 16Uiu2H"):
        shake(near, far)


def test_an_identity_without_its_key_is_refused() -> None:
    liar = identity(2)
    liar.payload = liar.payload.replace(liar.public.data, identity(3).public.data)
    near = Handshake(identity(1), initiator=True, entropy=SeededEntropy(1))
    with pytest.raises(HandshakeFailed, match="cannot prove it"):
        shake(near, Handshake(liar, initiator=False, entropy=SeededEntropy(2)))


@pytest.mark.parametrize("message", [1, 2])
def test_an_altered_handshake_is_refused(message: int) -> None:
    near, far = both()
    second = far.receive(near.start())
    if message == 1:
        with pytest.raises(HandshakeFailed, match="does not decrypt"):
            near.receive(second[:-1] + bytes([second[-1] ^ 1]))
    else:
        third = near.receive(second)
        with pytest.raises(HandshakeFailed, match="does not decrypt"):
            far.receive(third[:-1] + bytes([third[-1] ^ 1]))


def test_a_key_of_small_order_is_refused() -> None:
    _, far = both()
    with pytest.raises(HandshakeFailed, match="agrees on nothing"):
        far.receive(b"\x00\x20" + bytes(32))


def test_a_message_that_is_too_long_is_refused_at_once() -> None:
    _, far = both()
    with pytest.raises(HandshakeFailed, match="65535 bytes"):
        far.receive(b"\xff\xff")


def test_garbage_fails_and_does_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(10_000):
        near, far = GARBAGE_ENDS
        end = Handshake(
            near if chance.random() < 0.5 else far, initiator=chance.random() < 0.5, entropy=SEEDED
        )
        body = chance.randbytes(chance.randrange(0, 150))
        with contextlib.suppress(ProtocolError):
            end.receive(len(body).to_bytes(2, "big") + body)
        assert not end.done


SEEDED = SeededEntropy(5)
GARBAGE_ENDS = identity(1), identity(2)


def test_a_secp256k1_identity_is_the_nodes() -> None:
    key = PrivateKey(bytes([9]) * 32)
    public = Secp256k1Identity(key.secret).public
    assert public.node_id == key.node_id
    assert public.peer_id.startswith("16Uiu2H")
    assert decode_key(public.encode()) == public


def test_an_ed25519_identity_is_no_nodes() -> None:
    public = Ed25519Identity(bytes([9]) * 32).public
    assert public.node_id is None
    assert public.peer_id.startswith("12D3KooW")
    assert decode_key(public.encode()) == public
    assert not public.verify(b"x" * 64, b"message")
    assert not public.verify(b"x" * 1000, b"message")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00\x12\x00",
        b"\x08\x02\x12\x21" + bytes(33),
        b"\x08\x02\x12\xff",
        b"\x0b\x00",
        b"\xff" * 9,
    ],
)
def test_what_is_no_key_is_refused(data: bytes) -> None:
    with pytest.raises(HandshakeFailed):
        decode_key(data)


def test_the_same_entropy_makes_the_same_bytes() -> None:
    one, two = both(), both()
    assert one[1].receive(one[0].start()) == two[1].receive(two[0].start())
    fresh = NoiseIdentity(Secp256k1Identity(bytes([1]) * 32), SeededEntropy(99))
    assert fresh.static_public != identity(1).static_public
    assert isinstance(fresh.static, X25519PrivateKey)
    assert isinstance(fresh.public, PeerKey)
