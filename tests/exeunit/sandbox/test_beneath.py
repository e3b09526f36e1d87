"""Paths named by a stranger stay inside their directory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from exeunit.sandbox.beneath import Escape, make_directories_beneath, open_beneath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "volume"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "file").write_text("fine")
    (inside / "leak").symlink_to(tmp_path / "secret")
    (inside / "up").symlink_to("..")
    (inside / "here").symlink_to("deep")
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_opens_what_is_inside(volume: int) -> None:
    with os.fdopen(open_beneath(volume, "deep/file", os.O_RDONLY)) as file:
        assert file.read() == "fine"
    with os.fdopen(open_beneath(volume, "deep/../deep/./file", os.O_RDONLY)) as file:
        assert file.read() == "fine"


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "deep/../../secret",
        "/etc/passwd",
        "leak",
        "up/secret",
        "here/file",
        "deep/file\0",
        "/proc/self/exe",
    ],
)
def test_refuses_what_leaves(volume: int, path: str) -> None:
    with pytest.raises(Escape):
        open_beneath(volume, path, os.O_RDONLY)
    with pytest.raises(Escape):
        open_beneath(volume, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def test_other_errors_are_the_kernels(volume: int) -> None:
    with pytest.raises(FileNotFoundError):
        open_beneath(volume, "nowhere", os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        open_beneath(volume, "deep", os.O_WRONLY)


def test_makes_missing_directories(volume: int, tmp_path: Path) -> None:
    os.close(make_directories_beneath(volume, "deep/er/still"))
    assert (tmp_path / "volume" / "deep" / "er" / "still").is_dir()
    os.close(make_directories_beneath(volume, "./deep//er"))


@pytest.mark.parametrize("path", ["../out", "up/out", "leak/out", "here/out", "deep/../../out"])
def test_makes_no_directory_outside(volume: int, tmp_path: Path, path: str) -> None:
    with pytest.raises((Escape, NotADirectoryError)):
        make_directories_beneath(volume, path)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "volume" / "deep" / "out").exists()
