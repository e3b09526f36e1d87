"""URL forms of scripts."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunit.transfer.errors import BadLocation
from exeunit.transfer.location import Digest, Location, container_path, parse_location

HEX = hashlib.sha3_224(b"x").hexdigest()


@pytest.mark.parametrize(
    "text",
    [f"hash:sha3:{HEX}:http://h/x", f"hash://sha3:{HEX}:http://h/x", f"HASH:SHA3:0x{HEX.upper()}:http://h/x"],
)
def test_hash_forms(text: str) -> None:
    location = parse_location(text, "container")
    assert location == Location("http", "http://h/x", Digest(HEX))
    assert location.digest is not None
    digest = location.digest.new()
    digest.update(b"x")
    assert digest.hexdigest() == HEX


def test_default_scheme_and_case() -> None:
    assert parse_location("/golem/x", "container") == ("container", "container:/golem/x", None)
    assert parse_location("HTTP://h/x", "container").scheme == "http"
    assert parse_location("gftp://0x1/2", "file").scheme == "gftp"


@pytest.mark.parametrize("size", [224, 256, 384, 512])
def test_every_length_of_sha3(size: int) -> None:
    digits = hashlib.new(f"sha3_{size}", b"data").hexdigest()
    location = parse_location(f"hash:sha3:{digits}:file:/x", "file")
    assert location.digest is not None
    digest = location.digest.new()
    digest.update(b"data")
    assert digest.hexdigest() == digits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hash:md5:00:http://h/", "only sha3"),
        ("hash:sha3:zz:http://h/", "not hexadecimal"),
        ("hash:sha3:00:http://h/", "28, 32, 48 or 64 bytes"),
        (f"hash:sha3:{HEX}", "hash:sha3:HEX:URL"),
        ("hash:sha3:" + "00 " * 28 + ":http://h/", "bytes"),
        ("x" * 9000, "9000 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, says: str) -> None:
    with pytest.raises(BadLocation, match=says):
        parse_location(text, "container")


def test_passwords_are_not_shown() -> None:
    assert str(parse_location("http://user:secret@host/x", "file")) == "http://host/x"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("container:/golem/work/in.txt", ("golem", "work", "in.txt")),
        ("container:golem/x", ("golem", "x")),
        ("container:/a%20b/%e2%82%ac", ("a b", "€")),
        ("container:/dir/", ("dir",)),
        ("container:/100%", ("100%",)),
    ],
)
def test_container_paths(url: str, parts: tuple[str, ...]) -> None:
    assert container_path(url) == parts


@pytest.mark.parametrize(
    "url",
    ["container:", "container:/", "container://golem/x",
      "container:/golem/../x", "container:/golem/..%2f..%2fetc/passwd",
     "container:/golem/%2e%2e/x", "container:/golem//x", "container:/golem/./x", "container:/a%00b", "container:/%ff",
     "container:/%2F%2Fetc"],
)  # fmt: skip
def test_paths_that_could_leave_are_refused(url: str) -> None:
    with pytest.raises(BadLocation):
        container_path(url)


@given(st.text(alphabet="/.%2fF5e\\:a\0", max_size=30))
def test_no_path_has_a_dangerous_part(path: str) -> None:
    try:
        parts = container_path("container:" + path)
    except BadLocation:
        return
    assert parts
    assert not any(part in ("", ".", "..") or "/" in part or "\0" in part for part in parts)
