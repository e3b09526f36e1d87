"""Multiaddrs as text and as bytes, with multiaddr (py-multiaddr) as the oracle."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiaddr import Multiaddr as Oracle

from p2p import base58
from p2p.multiaddr import InvalidMultiaddr, decode, decode_all, multihash_of, parse

ED = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


def peer(text: str) -> str:
    """A PeerId that is one, made from a text."""
    return base58.encode(b"\x00\x25\x08\x02\x12\x21" + (text * 33).encode()[:33])


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/4001",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{ED}",
        "/ip6/2001:db8::1/tcp/1",
        f"/dns4/node.example.org/tcp/65535/p2p/{peer('a')}",
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        f"/ip4/192.0.2.1/tcp/4001/p2p/{peer('a')}/p2p-circuit/p2p/{peer('b')}",
        "/dns/example.org/tcp/443/tls/ws",
        "/dns6/x/tcp/0",
    ],
)
def test_both_forms_are_those_of_others(text: str) -> None:
    address = parse(text)
    assert str(address) == text
    assert address.encode() == Oracle(text).to_bytes()
    assert decode(Oracle(text).to_bytes()) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "ip4/1.2.3.4", "/ip4", "/ip4/1.2.3", "/ip4/1.2.3.4/tcp", "/ip4/1.2.3.4/tcp/65536", "/tcp/-1",
        "/tcp/\u0661", "/dns4//tcp/1", "/dns4/a b/tcp/1", "/carrier-pigeon/1", "/p2p/0OIl", "/p2p/abc",
        "/ip4/1.2.3.4/tcp/1/", "/p2p-circuit" * 17, "/dns4/" + "a" * 600, "/p2p/" + "1" * 500,
    ],
)  # fmt: skip
def test_what_is_no_multiaddr_is_refused(text: str) -> None:
    with pytest.raises(InvalidMultiaddr):
        parse(text)


def test_a_cid_is_the_same_peer() -> None:
    raw = multihash_of(ED)
    cid = "b" + base64.b32encode(b"\x01\x72" + raw).decode().rstrip("=").lower()
    assert parse(f"/p2p/{cid}") == parse(f"/p2p/{ED}")


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        address = decode(data)
    except InvalidMultiaddr:
        return
    assert decode(address.encode()) == address
    assert parse(str(address)) == address


def test_what_others_speak_is_left_out() -> None:
    known = parse("/ip4/192.0.2.1/tcp/1")
    assert list(decode_all((b"\xff\xff\x7f", known.encode(), b""))) == [known]


def test_parts_can_be_asked_for() -> None:
    address = parse(f"/ip4/192.0.2.1/tcp/4001/p2p/{peer('a')}/p2p-circuit/p2p/{peer('b')}")
    assert address.names == ("ip4", "tcp", "p2p", "p2p-circuit", "p2p")
    assert address.value_of("p2p") == peer("b")
    assert address.value_of("udp") is None
