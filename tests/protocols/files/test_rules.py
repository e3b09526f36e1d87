"""Names, URLs, header frames, and content against its name."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.entropy import SeededEntropy
from protocols.files.core import ContentCheck, HeaderReader, encode_header, format_url, parse_url, slot_name
from protocols.files.errors import BadUrl, TransferBroken
from protocols.files.messages import MAX_HEADER_BYTES, Found, Get, No, Open, Put, Stored

NODE = "0x" + "aB" * 20

names = st.text(max_size=100)
sizes = st.integers(0, 2**63)
headers = st.one_of(
    st.builds(Get, name=names, offset=sizes),
    st.builds(Put, name=names, size=sizes),
    st.builds(Found, size=sizes),
    st.builds(No, message=names),
    st.builds(Stored, size=sizes, sha3=names),
    st.builds(Open, token=names, node_id=names),
)


def test_urls() -> None:
    digest = hashlib.sha3_256(b"").hexdigest()
    assert parse_url(format_url(NODE, digest)) == (NODE.lower(), digest)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "gftp://",
        f"http://{NODE}/x",
        f"gftp://{NODE}",
        f"gftp://{NODE}/",
        f"gftp://{NODE}/a/b",
        f"gftp://{NODE}/..",
        f"gftp://{NODE}/a\n",
        f"gftp://{NODE[:-1]}/a",
        f"gftp://{NODE}/" + "a" * 129,
        "gftp://" + "x" * 100_000,
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(BadUrl) as caught:
        parse_url(url)
    assert len(str(caught.value)) < 300


def test_slot_names_are_long_and_their_own() -> None:
    entropy = SeededEntropy(1, "slots")
    made = [slot_name(entropy) for _ in range(100)]
    assert len(set(made)) == 100
    assert all(len(name) == 65 and name.isascii() and name.isalnum() for name in made)
    assert set("".join(made)) == set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


@given(headers, st.binary(max_size=50), st.data())
def test_a_header_comes_out_whole_however_it_is_cut(header: Get, after: bytes, data: st.DataObject) -> None:
    frame = encode_header(header)
    reader, rest, found = HeaderReader(), frame + after, None
    while found is None:
        size = data.draw(st.integers(1, len(rest)))
        found = reader.feed(rest[:size])
        rest = rest[size:]
    assert found[0] == header
    assert found[1] + rest == after


@given(st.binary(min_size=4, max_size=200))
def test_garbage_is_refused_or_waited_for(garbage: bytes) -> None:
    reader = HeaderReader()
    try:
        found = reader.feed(garbage)
    except TransferBroken:
        return
    length = int.from_bytes(garbage[:4], "big")
    assert found is not None or len(garbage) < 4 + length <= 4 + MAX_HEADER_BYTES


def test_content_that_fits() -> None:
    digest = hashlib.sha3_256(b"hello").hexdigest()
    for name in (digest, "slot"):
        check = ContentCheck(name, 5)
        check.feed(b"hel")
        check.feed(memoryview(b"lo"))
        assert check.finish() == digest


@pytest.mark.parametrize(
    ("name", "size", "content"),
    [("slot", 5, b"hell"), ("slot", 4, b"hello"), (hashlib.sha3_256(b"hello").hexdigest(), 5, b"hallo")],
)
def test_content_that_does_not(name: str, size: int, content: bytes) -> None:
    with pytest.raises(TransferBroken):
        _checked(name, size, content)


def _checked(name: str, size: int, content: bytes) -> str:
    check = ContentCheck(name, size)
    check.feed(content)
    return check.finish()
