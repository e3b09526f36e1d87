"""Multiaddrs that can be dialled, and which of those that a peer told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.addresses import InvalidAddress, is_acceptable, parse_address
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_of

KEY = PrivateKey(b"\1" * 32)
PEER = peer_id_of(KEY.public_key)


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/127.0.0.1/tcp/4001",
        f"/ip4/1.2.3.4/tcp/1/p2p/{PEER}",
        f"/ip6/2001:db8::1/tcp/65535/p2p/{PEER}",
        f"/dns4/node-1.example.org/tcp/4001/p2p/{PEER}",
        "/dns/localhost/tcp/0",
    ],
)
def test_addresses_are_read_and_written(text: str) -> None:
    address = parse_address(text)
    assert str(address) == text
    assert address.node_id == (KEY.node_id if PEER in text else None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "1.2.3.4:4001",
        "/ip4/1.2.3.4",
        "/ip4/1.2.3/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/1.2.3.4/tcp/1",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/-1",
        "/ip4/1.2.3.4/tcp/१",
        "/ip4/1.2.3.4/udp/1/quic-v1",
        "/ip4/1.2.3.4/tcp/1/ws",
        "/ip4/1.2.3.4/tcp/1/p2p/Qmfoo",
        "/ip4/1.2.3.4/tcp/1/p2p-circuit/x",
        "/unix/x/tcp/1",
        "/dns/a b/tcp/1",
        "/dns//tcp/1",
        "/memory/0x" + "a" * 40,
        "/dns/" + "a" * 300 + "/tcp/1",
    ],
)
def test_what_cannot_be_dialled_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        parse_address(text)
    assert text[:100] in str(refused.value) or not text


@given(
    st.one_of(
        st.text(), st.lists(st.sampled_from(["", "ip4", "dns", "tcp", "1", "p2p", "::", PEER])).map("/".join)
    )
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        address = parse_address(text)
    except InvalidAddress:
        assert not is_acceptable(text, allow_private=True)
    else:
        assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("place", "anywhere", "devnet"),
    [
        ("/ip4/8.8.8.8/tcp/1", True, True),
        ("/ip6/2606:4700::1/tcp/1", True, True),
        ("/dns4/example.org/tcp/1", True, True),
        ("/ip4/127.0.0.1/tcp/1", False, True),
        ("/ip4/10.1.2.3/tcp/1", False, True),
        ("/ip4/192.168.1.1/tcp/22", False, True),
        ("/ip4/169.254.169.254/tcp/80", False, True),
        ("/ip6/::1/tcp/1", False, True),
        ("/ip6/fe80::1/tcp/1", False, True),
        ("/dns4/localhost/tcp/1", False, True),
        ("/ip6/::ffff:8.8.8.8/tcp/1", True, True),
        ("/ip6/::ffff:10.0.0.1/tcp/1", False, True),
        ("/ip6/64:ff9b::10.0.0.1/tcp/1", False, True),
        ("/ip6/2002:a00:1::1/tcp/1", False, True),
        ("/ip6/::127.0.0.1/tcp/1", False, True),
        ("/ip6/fec0::1/tcp/1", False, True),
        ("/ip4/0.0.0.0/tcp/1", False, False),
        ("/ip4/224.0.0.1/tcp/1", False, False),
        ("/ip4/8.8.8.8/tcp/0", False, False),
    ],
)
def test_told_addresses_stay_out_of_private_networks(place: str, anywhere: bool, devnet: bool) -> None:
    told = f"{place}/p2p/{PEER}"
    assert is_acceptable(told, allow_private=False) is anywhere
    assert is_acceptable(told, allow_private=True) is devnet
    assert not is_acceptable(place, allow_private=True)
