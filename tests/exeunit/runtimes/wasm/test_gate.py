"""The disk quota against guests that try to get around it. Every one of them must be told ENOSPC in the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from exeunit.runtimes.wasm.gate import SLACK_BYTES, DiskQuota
from exeunit.sandbox import disk
from tests.exeunit.runtimes.wasm import guests
from tests.exeunit.runtimes.wasm.test_run import Runtime

if TYPE_CHECKING:
    from pathlib import Path

ENOSPC = 51
QUOTA = 4 << 20

NEW_FILE = guests.made_file()
SMALL_FILE = f"""(block (result i32) {NEW_FILE}
  (local.set $errno (call $write (local.get $fd) (i32.const 1)))
  (drop (call $fd_close (local.get $fd)))
  (local.get $errno))"""

ATTACKS = {
    "one large file": guests.until_refused("(call $write (local.get $fd) (i32.const 65536))", NEW_FILE),
    "small writes": guests.until_refused("(call $write (local.get $fd) (i32.const 1000))", NEW_FILE),
    "appending": guests.until_refused(
        "(call $write (local.get $fd) (i32.const 65536))", guests.made_file(fdflags=1)
    ),
    "positioned": guests.until_refused(
        "(block (result i32) (i32.store (i32.const 16) (i32.const 65536)) (i32.store (i32.const 20)"
        " (i32.const 65536)) (call $fd_pwrite (local.get $fd) (i32.const 16) (i32.const 1)"
        " (i64.mul (i64.extend_i32_u (local.get $i)) (i64.const 65536)) (i32.const 24)))",
        NEW_FILE,
    ),
    "positioned but appending": guests.until_refused(
        "(block (result i32) (i32.store (i32.const 16) (i32.const 65536)) (i32.store (i32.const 20)"
        " (i32.const 65536)) (call $fd_pwrite (local.get $fd) (i32.const 16) (i32.const 1)"
        " (i64.const 0) (i32.const 24)))",
        guests.made_file(fdflags=1),
        limit=200,
    ),
    "appending after all": guests.until_refused(
        "(block (result i32) (drop (call $fd_seek (local.get $fd) (i64.const 0) (i32.const 0) (i32.const 40)))"
        " (call $write (local.get $fd) (i32.const 65536)))",
        f"{NEW_FILE} (drop (call $fd_fdstat_set_flags (local.get $fd) (i32.const 1)))",
        limit=200,
    ),
    "many vectors": guests.until_refused(
        "(block (result i32) (i32.store (i32.const 100) (i32.const 65536)) (i32.store (i32.const 104)"
        " (i32.const 3000)) (i32.store (i32.const 108) (i32.const 65536)) (i32.store (i32.const 112)"
        " (i32.const 60000)) (call $fd_write (local.get $fd) (i32.const 100) (i32.const 2) (i32.const 24)))",
        NEW_FILE,
        limit=5000,
    ),
    "many small files": guests.until_refused(SMALL_FILE),
    "sparse by seeking": guests.until_refused(
        "(block (result i32) (drop (call $fd_seek (local.get $fd) (i64.const 0x10000000000) (i32.const 1)"
        " (i32.const 40))) (call $write (local.get $fd) (i32.const 1)))",
        NEW_FILE,
    ),
    "sparse by length": guests.until_refused(
        "(call $fd_filestat_set_size (local.get $fd) (i64.const 0x10000000000))", NEW_FILE
    ),
    "huge offset": guests.until_refused(
        "(block (result i32) (i32.store (i32.const 16) (i32.const 65536)) (i32.store (i32.const 20)"
        " (i32.const 1)) (call $fd_pwrite (local.get $fd) (i32.const 16) (i32.const 1)"
        " (i64.const 0x7fffffffffffffff) (i32.const 24)))",
        NEW_FILE,
    ),
    "directories": guests.until_refused(
        "(block (result i32) (call $name)"
        " (call $path_create_directory (i32.const 3) (i32.const 64) (i32.const 8)))"
    ),
    "symlinks": guests.until_refused(
        "(block (result i32) (call $name)"
        " (call $path_symlink (i32.const 65536) (i32.const 500) (i32.const 3) (i32.const 64) (i32.const 8)))",
        "(memory.fill (i32.const 65536) (i32.const 97) (i32.const 600))",
    ),
    "two directories": guests.until_refused(
        f"(block (result i32) {guests.made_file(3)} (local.set $errno (call $write (local.get $fd) (i32.const 65536)))"
        f" (if (i32.eqz (local.get $errno)) (then {guests.made_file(4)}"
        " (local.set $errno (call $write (local.get $fd) (i32.const 65536))))) (local.get $errno))"
    ),
    "deleted but open": guests.until_refused(
        f"(block (result i32) {NEW_FILE} (local.set $errno (call $write (local.get $fd) (i32.const 65536)))"
        " (drop (call $path_unlink_file (i32.const 3) (i32.const 64) (i32.const 8))) (local.get $errno))"
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_way_to_fill_the_disk_ends_in_enospc(tmp_path: Path, attack: str) -> None:
    runtime = Runtime(tmp_path, "--storage-gib", str(QUOTA / (1 << 30)))
    volumes = runtime.deploy(ATTACKS[attack], {"rw": "one"}, {"rw": "two"})
    done = runtime.run()
    assert done.returncode == ENOSPC, done
    assert done.stderr == b"golem-p2p-wasm: the disk quota of 4.0 MiB was full while this command ran\n"
    assert disk.usage([str(volume) for volume in volumes]) <= QUOTA + SLACK_BYTES


def test_the_quota_is_used_to_the_full(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, "--storage-gib", str(QUOTA / (1 << 30)))
    (volume,) = runtime.deploy(ATTACKS["one large file"])
    runtime.run()
    assert disk.usage([str(volume)]) > QUOTA - SLACK_BYTES


def test_files_that_were_there_before_count(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path, "--storage-gib", str(QUOTA / (1 << 30)))
    (volume,) = runtime.deploy(guests.COPY)
    (volume / "in").write_bytes(bytes(QUOTA - 100_000))
    assert runtime.run().returncode == 2
    assert disk.usage([str(volume)]) <= QUOTA + SLACK_BYTES


def test_rewriting_takes_no_more(tmp_path: Path) -> None:
    """Far more bytes than the quota go through one file that is truncated again and again."""
    rewrite = guests.until_refused(
        "(block (result i32) (drop (call $fd_filestat_set_size (local.get $fd) (i64.const 0)))"
        " (drop (call $fd_seek (local.get $fd) (i64.const 0) (i32.const 0) (i32.const 40)))"
        " (call $write (local.get $fd) (i32.const 131072)))",
        NEW_FILE,
        limit=2000,
    )
    runtime = Runtime(tmp_path, "--storage-gib", str(QUOTA / (1 << 30)))
    runtime.deploy(rewrite)
    done = runtime.run()
    assert done.returncode == 200
    assert done.stderr == b""


def test_without_a_quota_nothing_is_refused(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path)
    runtime.deploy(
        guests.until_refused("(call $write (local.get $fd) (i32.const 65536))", NEW_FILE, limit=200)
    )
    assert runtime.run().returncode == 200


def test_refill_hands_out_slices_and_what_is_left(tmp_path: Path) -> None:
    quota = DiskQuota(100 << 20, [str(tmp_path)], highest_descriptor=3)
    assert quota.refill(1) == 64 << 20
    assert quota.refill(80 << 20) == 80 << 20
    assert not quota.refused
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    left = quota.refill(100 << 20)
    assert 98 << 20 < left < 99 << 20
    assert quota.refused
