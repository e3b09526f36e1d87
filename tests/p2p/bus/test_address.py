"""The form of addresses, and what lies below what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.bus import address
from p2p.bus.api import BusError, NoEndpoint

OWN, PEER = "0x" + "1" * 40, "0x" + "ab" * 20


@pytest.mark.parametrize(
    ("given_", "canonical"),
    [
        ("/local/a/M", "/local/a/M"),
        ("/public/a/b/c/M", "/public/a/b/c/M"),
        (f"/net/{OWN}/a/M", "/public/a/M"),
        (f"/net/{OWN.upper().replace('X', 'x')}/a/M", "/public/a/M"),
        (f"/net/{PEER}/a/M", f"/net/{PEER}/a/M"),
        ("/net/0x" + "AB" * 20 + "/a/M", f"/net/{PEER}/a/M"),
        (f"/net/{OWN}/local/a/M", "/public/local/a/M"),
    ],
)
def test_canonical_form(given_: str, canonical: str) -> None:
    assert address.canonical(given_, OWN) == canonical


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "/",
        "public/a/M",
        "/public",
        "/public/M",
        "/public/",
        "/public//M",
        "/public/a/",
        "/public/a/M\n",
        "/public/a b/M",
        "/public/é/M",
        "/other/a/M",
        "/net/0x12/a/M",
        f"/net/{PEER}/M",
        f"/net/{PEER}",
        "/net/" + "1" * 42 + "/a/M",
        "/public/" + "a/" * 16 + "M",
        "/public/a/" + "M" * 512,
    ],
)
def test_malformed_addresses_are_served_by_nobody(malformed: str) -> None:
    with pytest.raises(NoEndpoint, match="endpoint address not found"):
        address.canonical(malformed, OWN)


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        canonical = address.canonical(text, OWN)
    except NoEndpoint:
        return
    assert address.canonical(canonical, OWN) == canonical


def test_split_net() -> None:
    assert address.split_net(f"/net/{PEER}/a/b/M") == (PEER, "/public/a/b/M")


def test_below_goes_by_whole_segments() -> None:
    assert address.below("/public/a/M", "/public/a")
    assert address.below("/public/a", "/public/a")
    assert not address.below("/public/ab/M", "/public/a")
    assert not address.below("/public", "/public/a")


@pytest.mark.parametrize("prefix", ["/public/a", "/local/a", "/public/exeunit/0123"])
def test_good_prefixes(prefix: str) -> None:
    address.check_prefix(prefix)


@pytest.mark.parametrize(
    "prefix", ["", "/", "/public", "/public/", "/net/a", "public/a", "/public/a/", "/public/" + "a" * 600]
)
def test_bad_prefixes(prefix: str) -> None:
    with pytest.raises(BusError, match="cannot serve"):
        address.check_prefix(prefix)
