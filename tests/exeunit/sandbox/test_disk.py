"""What counts as disk in use."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from exeunit.sandbox import disk

if TYPE_CHECKING:
    from pathlib import Path


def test_counts_length_blocks_and_inodes(tmp_path: Path) -> None:
    assert disk.usage([str(tmp_path)]) == 0
    (tmp_path / "a").write_bytes(bytes(10_000))
    assert 10_000 + disk.INODE_BYTES <= disk.usage([str(tmp_path)]) <= 16_384 + disk.INODE_BYTES


def test_a_hole_counts_as_if_it_were_filled(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    assert disk.usage([str(tmp_path)]) > 1 << 40


def test_hard_links_count_once_and_symlinks_are_not_followed(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "file").write_bytes(bytes(1 << 20))
    alone = disk.usage([str(one), str(two)])
    os.link(one / "file", two / "file")
    (two / "link").symlink_to(one)
    assert disk.usage([str(one), str(two)]) - alone <= 2 * (disk.INODE_BYTES + disk.BLOCK_BYTES)


def test_deep_trees_are_walked(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 50)
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(bytes(1 << 20))
    assert disk.usage([str(tmp_path)]) > 1 << 20


def test_what_is_missing_counts_nothing(tmp_path: Path) -> None:
    assert disk.usage([str(tmp_path / "nowhere")]) == 0


def test_unlinked_files_count_while_they_are_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        file.write(bytes(1 << 20))
        file.flush()
        before = disk.unlinked_usage(file.fileno() + 1)
        path.unlink()
        assert disk.unlinked_usage(file.fileno() + 1) - before > 1 << 20
