"""Small guests in WebAssembly text, made into modules when a test needs them."""

from __future__ import annotations

import functools

import wasmtime

WASI = "wasi_snapshot_preview1"

_SIGNATURES = {
    "args_sizes_get": "i32 i32",
    "args_get": "i32 i32",
    "environ_sizes_get": "i32 i32",
    "environ_get": "i32 i32",
    "fd_write": "i32 i32 i32 i32",
    "fd_read": "i32 i32 i32 i32",
    "fd_pwrite": "i32 i32 i32 i64 i32",
    "fd_seek": "i32 i64 i32 i32",
    "fd_close": "i32",
    "fd_fdstat_set_flags": "i32 i32",
    "fd_allocate": "i32 i64 i64",
    "fd_filestat_set_size": "i32 i64",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_create_directory": "i32 i32 i32",
    "path_symlink": "i32 i32 i32 i32 i32",
    "path_link": "i32 i32 i32 i32 i32 i32 i32",
    "path_rename": "i32 i32 i32 i32 i32 i32",
    "path_unlink_file": "i32 i32 i32",
    "poll_oneoff": "i32 i32 i32 i32",
}


@functools.cache
def build(body: str, *, pages: int = 4, limits: str = "") -> bytes:
    """Make a module around `body`, with all of WASI that tests use and these helpers:

    `$name` writes a fresh eight-letter name to address 64; `$open dir oflags fdflags` opens that name;
    `$write fd bytes` writes so many bytes from address 65536; each returns what WASI returned, `$open` a descriptor
    or the negated errno. `$exit code` ends the guest.
    """
    imports = "".join(
        f'(import "{WASI}" "{name}" (func ${name} (param {types}) (result i32)))\n'
        for name, types in _SIGNATURES.items()
    )
    text = f"""
(module
  {imports}
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") {limits or pages})
  (global $count (mut i32) (i32.const 0))
  (func $name (local $i i32) (local $n i32)
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (local.set $n (global.get $count))
    (loop $next
      (i32.store8 offset=64 (local.get $i)
        (i32.add (i32.const 97) (i32.and (local.get $n) (i32.const 15))))
      (local.set $n (i32.shr_u (local.get $n) (i32.const 4)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 8)))))
  (func $open (param $dir i32) (param $oflags i32) (param $fdflags i32) (result i32) (local $errno i32)
    (local.set $errno (call $path_open (local.get $dir) (i32.const 0) (i32.const 64) (i32.const 8)
      (local.get $oflags) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (local.get $fdflags) (i32.const 32)))
    (if (local.get $errno) (then (return (i32.sub (i32.const 0) (local.get $errno)))))
    (i32.load (i32.const 32)))
  (func $write (param $fd i32) (param $bytes i32) (result i32)
    (i32.store (i32.const 16) (i32.const 65536))
    (i32.store (i32.const 20) (local.get $bytes))
    (call $fd_write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 24)))
  {body})
"""
    return bytes(wasmtime.wat2wasm(text))


def until_refused(step: str, prepare: str = "", limit: int = 1_000_000) -> bytes:
    """Make a guest that repeats `step`, which leaves an errno, until it is not 0, and exits with it.

    `prepare` runs first and may set the local `$fd`. After `limit` rounds the guest gives up with exit code 200.
    """
    return build(f"""
  (func (export "_start") (local $fd i32) (local $errno i32) (local $i i32)
    {prepare}
    (loop $again
      (local.set $errno {step})
      (if (local.get $errno) (then (call $exit (local.get $errno))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const {limit}))))
    (call $exit (i32.const 200)))""")


def made_file(directory: int = 3, fdflags: int = 0) -> str:
    """Text that leaves `$fd` with a new file, or ends the guest with the errno."""
    return (
        f"(call $name) (local.set $fd (call $open (i32.const {directory}) (i32.const 1) (i32.const {fdflags})))"
        " (if (i32.lt_s (local.get $fd) (i32.const 0))"
        " (then (call $exit (i32.sub (i32.const 0) (local.get $fd)))))"
    )


ECHO = build("""
  (func (export "_start")
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 65536)))
    (drop (call $write (i32.const 1) (i32.load (i32.const 4)))))""")
"""Writes its arguments to stdout, each followed by a zero byte."""

ENVIRONMENT = build("""
  (func (export "_start")
    (drop (call $environ_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $environ_get (i32.const 1024) (i32.const 65536)))
    (drop (call $write (i32.const 1) (i32.load (i32.const 4)))))""")
"""Writes its environment to stdout, each entry followed by a zero byte."""

COPY = build("""
  (data (i32.const 128) "in")
  (data (i32.const 132) "out")
  (func $path (param $at i32) (param $length i32) (param $oflags i32) (result i32) (local $errno i32)
    (local.set $errno (call $path_open (i32.const 3) (i32.const 0) (local.get $at) (local.get $length)
      (local.get $oflags) (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 32)))
    (if (local.get $errno) (then (call $exit (local.get $errno))))
    (i32.load (i32.const 32)))
  (func (export "_start") (local $in i32) (local $out i32)
    (local.set $in (call $path (i32.const 128) (i32.const 2) (i32.const 0)))
    (local.set $out (call $path (i32.const 132) (i32.const 3) (i32.const 9)))
    (loop $next
      (i32.store (i32.const 16) (i32.const 65536))
      (i32.store (i32.const 20) (i32.const 65536))
      (if (call $fd_read (local.get $in) (i32.const 16) (i32.const 1) (i32.const 24))
        (then (call $exit (i32.const 1))))
      (if (i32.load (i32.const 24)) (then
        (if (call $write (local.get $out) (i32.load (i32.const 24))) (then (call $exit (i32.const 2))))
        (br $next)))))""")
"""Copies the file `in` of its first directory to `out`."""

EXIT_300 = build('(func (export "_start") (call $exit (i32.const 300)))')
EXIT_42 = build('(func (export "_start") (call $exit (i32.const 42)))')
LOOP = build('(func (export "_start") (loop $ever (br $ever)))')
SLEEP = build("""
  (func (export "_start")
    (i32.store (i32.const 1040) (i32.const 1))
    (i64.store (i32.const 1048) (i64.const 3600000000000))
    (drop (call $poll_oneoff (i32.const 1024) (i32.const 2048) (i32.const 1) (i32.const 3000))))""")
"""Sleeps for an hour inside WASI."""

HOG = build("""
  (func (export "_start")
    (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (unreachable))""")
"""Grows its memory by 1 MiB until it gets no more, and traps."""

OVERFLOW = build('(func $down (call $down)) (func (export "_start") (call $down))')
BIG_AT_START = build('(func (export "_start"))', limits="4096")
"""Wants 256 MiB before it begins."""

WRITE_ERROR = build("""
  (func (export "_start") (local $fd i32)
    (call $name)
    (local.set $fd (call $open (i32.const 3) (i32.const 1) (i32.const 0)))
    (if (i32.lt_s (local.get $fd) (i32.const 0))
      (then (call $exit (i32.sub (i32.const 0) (local.get $fd))))))""")
"""Makes a file in its first directory and exits with the errno."""
