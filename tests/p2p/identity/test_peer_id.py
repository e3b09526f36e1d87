"""PeerId and NodeId against libp2p's own code."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair as new_ed25519
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.identity import PrivateKey
from p2p.identity.peer_id import InvalidPeerId, node_id_of_peer, peer_id_of

secrets = st.binary(min_size=32, max_size=32).filter(lambda b: 0 < int.from_bytes(b, "big") < 2**255)


@given(secrets)
@settings(max_examples=30)
def test_both_names_of_a_key_agree_with_libp2p(secret: bytes) -> None:
    key = PrivateKey(secret)
    theirs = str(ID.from_pubkey(create_new_key_pair(secret).public_key))
    assert peer_id_of(key.public_key) == theirs
    assert node_id_of_peer(theirs) == key.node_id


@pytest.mark.parametrize(
    "text",
    ["", "1", "16Uiu2H", "0x" + "a" * 40, "l" * 53, "16Uiu2HAm" + "z" * 44, "z" * 10_000, "Qm" + "a" * 44],
)
def test_what_is_no_peer_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        node_id_of_peer(text)


def test_a_key_of_another_type_makes_no_node() -> None:
    with pytest.raises(InvalidPeerId, match="secp256k1"):
        node_id_of_peer(str(ID.from_pubkey(new_ed25519().public_key)))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(InvalidPeerId):
        node_id_of_peer(text)
