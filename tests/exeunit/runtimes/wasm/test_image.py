"""Task packages from strangers: what is taken, and what is refused before it costs anything."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunit.runtimes.wasm.errors import BadImage
from exeunit.runtimes.wasm.image import MAX_MODULE_BYTES, Mount, guest_path, read_image, read_module

if TYPE_CHECKING:
    from pathlib import Path

MODULE = b"\0asm\1\0\0\0"
GOOD: dict[str, Any] = {
    "id": "golem/tool",
    "name": "tool",
    "entry-points": [{"id": "a", "wasm-path": "a.wasm"}, {"id": "b", "wasm-path": "b.wasm"}],
    "mount-points": [{"ro": "in"}, {"rw": "/out/put"}, {"private": "tmp"}, {"wo": "logs"}],
}


def packed(path: Path, manifest: Any, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in members.items():
            archive.writestr(f"{name}.wasm", data)
    return str(path)


def test_an_archive(tmp_path: Path) -> None:
    path = packed(tmp_path / "x.ywasi", GOOD, a=MODULE, b=b"text")
    image = read_image(path)
    assert [entry_point.id for entry_point in image.entry_points] == ["a", "b"]
    assert image.mounts == (
        Mount("/in", "ro"), Mount("/out/put", "rw"), Mount("/tmp", "private"), Mount("/logs", "wo"),
    )  # fmt: skip
    assert read_module(path, image, image.entry_points[0]) == MODULE
    with pytest.raises(BadImage, match="not a WebAssembly module"):
        read_module(path, image, image.entry_points[1])


def test_a_plain_module(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(MODULE)
    image = read_image(str(tmp_path / "x"))
    assert image.mounts == (Mount("/work", "rw"),)
    assert read_module(str(tmp_path / "x"), image, image.entry_points[0]) == MODULE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"entry-points": []}, "0 entry points"),
        ({"entry-points": GOOD["entry-points"] * 20}, "40 entry points"),
        ({"entry-points": [GOOD["entry-points"][0]] * 2}, "entry point twice"),
        ({"entry-points": [{"id": "a"}]}, "wasm-path"),
        ({"mount-points": [{"rx": "a"}]}, "one of ro, rw, wo and private"),
        ({"mount-points": [{"ro": "a", "rw": "b"}]}, "one key"),
        ({"mount-points": [{"ro": "a"}, {"rw": "/a"}]}, "mount twice"),
        ({"mount-points": [{"ro": f"m{i}"} for i in range(1000)]}, "more than 32 mounts"),
        ({"mount-points": [{"ro": "../../etc"}]}, "cannot be a mount point"),
        ({"mount-points": [{"ro": "/"}]}, "cannot be a mount point"),
        ({"runtime": "aswasm"}, "only 'wasi'"),
        ({"id": 3}, "Expected `str`"),
    ],
)
def test_manifests_are_checked(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = packed(tmp_path / "x", {**GOOD, **change})
    with pytest.raises(BadImage, match=says):
        read_image(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "x", GOOD, a=MODULE + bytes(MAX_MODULE_BYTES), b=MODULE)
    image = read_image(path)
    with pytest.raises(BadImage, match="longer than"):
        read_module(path, image, image.entry_points[0])
    bomb = tmp_path / "bomb"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (50 << 20) + b"{}")
    tracemalloc.start()
    try:
        with pytest.raises(BadImage, match=r"manifest.json is longer than 65536 bytes"):
            read_image(str(bomb))
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


def test_a_lying_size_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    packed(path, GOOD, a=MODULE + bytes(1000))
    data = bytearray(path.read_bytes())
    # The uncompressed size in the central directory: claim 8 bytes for what unpacks to a thousand.
    at = data.rfind(b"PK\1\2", 0, data.rfind(b"PK\1\2") + 4)
    struct.pack_into("<L", data, at + 24, 8)
    path.write_bytes(data)
    image = read_image(str(path))
    with pytest.raises(BadImage, match="damaged archive"):
        read_module(str(path), image, image.entry_points[0])


def test_too_many_members_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(6000):
            archive.writestr(f"{number}", b"")
    with pytest.raises(BadImage, match="too many members"):
        read_image(str(path))


def test_doubled_missing_and_oddly_packed_members(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(GOOD))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.json", json.dumps(GOOD))
    with pytest.raises(BadImage, match="twice"):
        read_image(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(BadImage, match="not at all"):
        read_image(str(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", json.dumps(GOOD))
    with pytest.raises(BadImage, match="otherwise than by deflate"):
        read_image(str(path))


@given(st.data())
def test_damaged_archives_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(GOOD))
        archive.writestr("a.wasm", MODULE + bytes(50))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    with contextlib.suppress(BadImage):
        image = read_image(str(path))
        read_module(str(path), image, image.entry_points[0])


@pytest.mark.parametrize("path", ["", "/", "a//b", ".", "a/../b", "a\\b", "a\0b", "x" * 300])
def test_odd_mount_points(path: str) -> None:
    with pytest.raises(BadImage):
        guest_path(path)
