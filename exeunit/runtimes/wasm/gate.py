"""The disk quota: a gate in front of the WASI functions that make files grow.

wasmtime has no quota of its own and a file system's quota needs root. So three tiny modules stand between the guest
and WASI, all in the guest's store:

    guest ──imports── switchboard ──table── gate ──imports── WASI
                                             └──imports── ledger ──imports── WASI, `refill` (Python)

* the **switchboard** exports the gated functions and calls them through a table, since the guest must be linked
  before the gate, which needs the guest's memory, can exist;
* the **gate** takes the guest's memory and exports it again, so that WASI finds it in its caller; it works out how far
  a call can make a file grow, asks the ledger, and answers ENOSPC (51) or passes the call on;
* the **ledger** has a memory of its own, in which it lets WASI tell it a file's length and position, and the budget:
  the bytes that may still be taken without another look at the disk.

When the budget runs out, `refill` measures the directories (`exeunit.sandbox.disk`) and hands out what is left, in
slices, so that what the gate does not model (extent blocks, a directory that grows) is caught within one slice. Growth
is by file length, rounded up to blocks, so a hole counts as if it were filled. A quota that is passed by less than
`SLACK_BYTES` is the contract; reads and everything else go to WASI directly and cost nothing.
"""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

import wasmtime

from exeunit.runtimes.wasm.modules import WASI, ModuleCache
from exeunit.sandbox import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SLACK_BYTES: Final = 1 << 20
"""By how much the directories may pass the quota in the worst case."""
SLICE_BYTES: Final = 64 << 20
"""Most that is handed out between two measurements, unless one call needs more."""

_NAME_BYTES: Final = 2 * disk.INODE_BYTES
"""Charged for a call that may make a name: the inode, and the directory's growth by an entry."""

_GATED: Final[dict[str, str]] = {
    "fd_write": "i32 i32 i32 i32",
    "fd_pwrite": "i32 i32 i32 i64 i32",
    "fd_allocate": "i32 i64 i64",
    "fd_filestat_set_size": "i32 i64",
    "fd_fdstat_set_flags": "i32 i32",
    "path_open": "i32 i32 i32 i32 i32 i64 i64 i32 i32",
    "path_create_directory": "i32 i32 i32",
    "path_symlink": "i32 i32 i32 i32 i32",
    "path_link": "i32 i32 i32 i32 i32 i32 i32",
    "path_rename": "i32 i32 i32 i32 i32 i32",
}
"""Gated functions and their parameters, in the order of the table. Each returns an errno (i32)."""


def _switchboard() -> str:
    functions = "".join(
        f'(func (export "{name}") (param {types}) (result i32)'
        f" {' '.join(f'(local.get {i})' for i in range(len(types.split())))}"
        f" (call_indirect (param {types}) (result i32) (i32.const {slot})))\n"
        for slot, (name, types) in enumerate(_GATED.items())
    )
    return f'(module (table (export "table") {len(_GATED)} funcref)\n{functions})'


_LEDGER: Final = f"""
(module
  (import "{WASI}" "fd_filestat_get" (func $fd_filestat_get (param i32 i32) (result i32)))
  (import "{WASI}" "fd_fdstat_get" (func $fd_fdstat_get (param i32 i32) (result i32)))
  (import "{WASI}" "fd_tell" (func $fd_tell (param i32 i32) (result i32)))
  (import "quota" "refill" (func $refill (param i64) (result i64)))
  (memory (export "memory") 1 1)
  (global $budget (mut i64) (i64.const 0))

  ;; Length of a regular file, or -1: what is not a regular file takes no disk.
  (func $size (export "size") (param $fd i32) (result i64)
    (if (call $fd_filestat_get (local.get $fd) (i32.const 0)) (then (return (i64.const -1))))
    (if (i32.ne (i32.load8_u offset=16 (i32.const 0)) (i32.const 4)) (then (return (i64.const -1))))
    (i64.load offset=32 (i32.const 0)))

  ;; Where the next write goes: the end for a file that appends. Asking for that is dear (18 us, where a
  ;; whole write takes 13), so it is only done when there may be such a file.
  (func (export "position") (param $fd i32) (param $size i64) (param $appending i32) (result i64)
    (if (local.get $appending) (then
      (if (i32.eqz (call $fd_fdstat_get (local.get $fd) (i32.const 0))) (then
        (if (i32.and (i32.load16_u offset=2 (i32.const 0)) (i32.const 1))
          (then (return (local.get $size))))))))
    (if (call $fd_tell (local.get $fd) (i32.const 0)) (then (return (local.get $size))))
    (i64.load (i32.const 0)))

  ;; 0, or ENOSPC if these bytes may not be taken.
  (func (export "admit") (param $bytes i64) (result i32)
    (if (i64.gt_s (local.get $bytes) (global.get $budget))
      (then
        (global.set $budget (call $refill (local.get $bytes)))
        (if (i64.gt_s (local.get $bytes) (global.get $budget)) (then (return (i32.const 51))))))
    (global.set $budget (i64.sub (global.get $budget) (local.get $bytes)))
    (i32.const 0))

  (func (export "give_back") (param $bytes i64)
    (global.set $budget (i64.add (global.get $budget) (local.get $bytes)))))
"""


def _call(name: str) -> str:
    """Pass the gate's own parameters on to WASI."""
    count = len(_GATED[name].split())
    return f"(call $wasi_{name} {' '.join(f'(local.get {i})' for i in range(count))})"


def _write(name: str, position: str) -> str:
    """Admit a write that ends at `position` plus the vectors' length; give back what a short write left over."""
    written = len(_GATED[name].split()) - 1
    return f"""
  (func ${name} (param {_GATED[name]}) (result i32)
    (local $size i64) (local $length i64) (local $bytes i64) (local $errno i32)
    (local.set $size (call $size (local.get 0)))
    (if (i64.lt_s (local.get $size) (i64.const 0)) (then (return {_call(name)})))
    (local.set $length (call $length (local.get 1) (local.get 2)))
    (local.set $bytes (call $growth (local.get $size) (call $end {position} (local.get $length))))
    (if (local.tee $errno (call $admit (local.get $bytes))) (then (return (local.get $errno))))
    (if (i32.eqz (local.tee $errno {_call(name)})) (then
      (if (i64.eq (i64.load32_u (local.get {written})) (local.get $length)) (then (return (i32.const 0))))))
    (call $give_back (i64.sub (local.get $bytes)
      (call $growth (local.get $size) (call $size (local.get 0)))))
    (local.get $errno))"""


def _resize(name: str, end: str) -> str:
    """Admit a call after which the file is `end` bytes long."""
    return f"""
  (func ${name} (param {_GATED[name]}) (result i32) (local $size i64) (local $errno i32)
    (local.set $size (call $size (local.get 0)))
    (if (i64.lt_s (local.get $size) (i64.const 0)) (then (return {_call(name)})))
    (if (local.tee $errno (call $admit (call $growth (local.get $size) {end})))
      (then (return (local.get $errno))))
    {_call(name)})"""


def _name(name: str, extra: str = "(i64.const 0)", unless: str = "(i32.const 0)", first: str = "") -> str:
    """Admit a call that may make a name and `extra` bytes, `unless` a condition holds."""
    return f"""
  (func ${name} (param {_GATED[name]}) (result i32) (local $errno i32)
    {first}
    (if (i32.eqz {unless}) (then
      (if (local.tee $errno (call $admit (i64.add (i64.const {_NAME_BYTES}) {extra})))
        (then (return (local.get $errno))))))
    {_call(name)})"""


def _gate() -> str:
    imports = "".join(
        f'(import "{WASI}" "{name}" (func $wasi_{name} (param {types}) (result i32)))\n'
        for name, types in _GATED.items()
    )
    end_of_write = "(call $position (local.get 0) (local.get $size) (global.get $appending))"
    # A directory has a block from the start, and so has a symlink that is too long for its inode.
    one_block = f"(i64.const {disk.BLOCK_BYTES})"
    no_create = "(i32.eqz (i32.and (local.get 4) (i32.const 1)))"
    # With append set, Linux ignores the offset of a positioned write; the later of the two ends covers both.
    end_of_pwrite = f"(call $later (local.get 3) {end_of_write})"
    return f"""(module
  {imports}
  (memory (export "memory") (import "guest" "memory") 0)
  (import "switchboard" "table" (table {len(_GATED)} funcref))
  (import "ledger" "size" (func $size (param i32) (result i64)))
  (import "ledger" "position" (func $position (param i32 i64 i32) (result i64)))
  (import "ledger" "admit" (func $admit (param i64) (result i32)))
  (import "ledger" "give_back" (func $give_back (param i64)))
  (elem (i32.const 0) func {" ".join("$" + name for name in _GATED)})

  ;; Whether the guest has ever asked for a file that appends (the flag APPEND is bit 0).
  (global $appending (mut i32) (i32.const 0))
  (func $note_append (param $flags i32)
    (global.set $appending (i32.or (global.get $appending) (i32.and (local.get $flags) (i32.const 1)))))

  (func $later (param i64 i64) (result i64)
    (select (local.get 0) (local.get 1) (i64.gt_u (local.get 0) (local.get 1))))

  ;; Sum of two offsets, held at 2^62: no quota is that large, and nothing later overflows.
  (func $end (param $start i64) (param $length i64) (result i64)
    (if (i64.gt_u (call $later (local.get $start) (local.get $length)) (i64.const 0x2000000000000000))
      (then (return (i64.const 0x4000000000000000))))
    (i64.add (local.get $start) (local.get $length)))

  (func $blocks (param i64) (result i64)
    (i64.and (i64.add (local.get 0) (i64.const {disk.BLOCK_BYTES - 1})) (i64.const {-disk.BLOCK_BYTES})))

  ;; Bytes on disk that a file takes more when its length goes from one to the other.
  (func $growth (param $from i64) (param $to i64) (result i64)
    (if (i64.le_u (local.get $to) (local.get $from)) (then (return (i64.const 0))))
    (i64.sub (call $blocks (local.get $to)) (call $blocks (local.get $from))))

  ;; Bytes in a list of vectors (pointer, length).
  (func $length (param $vectors i32) (param $count i32) (result i64) (local $sum i64)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $count)))
        (local.set $sum (i64.add (local.get $sum) (i64.load32_u offset=4 (local.get $vectors))))
        (local.set $vectors (i32.add (local.get $vectors) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (local.get $sum))
  {_write("fd_write", end_of_write)}
  {_write("fd_pwrite", end_of_pwrite)}
  {_resize("fd_allocate", "(call $end (local.get 1) (local.get 2))")}
  {_resize("fd_filestat_set_size", "(call $end (local.get 1) (i64.const 0))")}
  (func $fd_fdstat_set_flags (param {_GATED["fd_fdstat_set_flags"]}) (result i32)
    (call $note_append (local.get 1))
    {_call("fd_fdstat_set_flags")})
  {_name("path_open", unless=no_create, first="(call $note_append (local.get 7))")}
  {_name("path_create_directory", extra=one_block)}
  {_name("path_symlink", extra=one_block)}
  {_name("path_link")}
  {_name("path_rename")}
)"""  # noqa: S608 - `select` is a WebAssembly instruction here


class DiskQuota:
    """Bytes that the directories of a deployment may hold together."""

    def __init__(self, limit: int, directories: Sequence[str], highest_descriptor: int | None = None) -> None:
        self._limit = limit
        self._directories = directories
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._highest_descriptor = highest_descriptor or soft
        self.refused = False
        """Whether the guest was ever told that the disk is full."""

    @property
    def limit(self) -> int:
        """The quota in bytes."""
        return self._limit

    def refill(self, wanted: int) -> int:
        """Measure, and return how many bytes may be taken until the next call: less than `wanted` if it is full."""
        used = disk.usage(self._directories) + disk.unlinked_usage(self._highest_descriptor)
        left = self._limit - used
        if wanted > left:
            self.refused = True
        return max(0, min(left, max(wanted, SLICE_BYTES)))


def compile_gate(cache: ModuleCache) -> None:
    """Compile the gate's modules into the cache, which a confined `run` cannot write to."""
    for text in (_switchboard(), _LEDGER, _gate()):
        cache.load_or_compile(wasmtime.wat2wasm(text))


def link_guest(
    store: wasmtime.Store,
    cache: ModuleCache,
    module: wasmtime.Module,
    quota: DiskQuota | None,
    shadows: dict[str, tuple[wasmtime.FuncType, Callable[..., None]]],
) -> wasmtime.Instance:
    """Instantiate `module` on WASI, with the gate between the two when there is a quota.

    Args:
        store: has its WASI configuration and its limits already.
        cache: where the gate's own modules are kept compiled.
        module: its imports have been checked to be WASI's.
        quota: none leaves every function to WASI.
        shadows: WASI functions to be served by Python instead.
    """
    wasi = wasmtime.Linker(store.engine)
    wasi.define_wasi()
    linker = wasmtime.Linker(store.engine)
    linker.allow_shadowing = True
    linker.define_wasi()
    for name, (type_, function) in shadows.items():
        linker.define_func(WASI, name, type_, function)
    if quota is None:
        return linker.instantiate(store, module)

    wasi.define_func(
        "quota", "refill", wasmtime.FuncType([wasmtime.ValType.i64()], [wasmtime.ValType.i64()]), quota.refill
    )
    switchboard = linker.instantiate(store, cache.load_or_compile(wasmtime.wat2wasm(_switchboard())))
    exports = switchboard.exports(store)
    for name in _GATED:
        linker.define(store, WASI, name, exports[name])
    guest = linker.instantiate(store, module)
    ledger = wasi.instantiate(store, cache.load_or_compile(wasmtime.wat2wasm(_LEDGER)))
    wasi.define_instance(store, "switchboard", switchboard)
    wasi.define_instance(store, "ledger", ledger)
    wasi.define(store, "guest", "memory", guest.exports(store)["memory"])
    wasi.instantiate(store, cache.load_or_compile(wasmtime.wat2wasm(_gate())))
    return guest
