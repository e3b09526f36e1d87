"""Compile modules once, and keep the result for every later run.

A compiled module is native code that wasmtime trusts, so only what this file has written itself is ever loaded: the
cache directory is 0700, a file in it is named by the SHA-256 of module, wasmtime build and engine settings, made
under another name and renamed, and refused when it belongs to somebody else. Called by `cli` and `guest`.

Errors: `BadImage` for a module that does not compile or asks for more than WASI preview 1.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import stat
from typing import Final

import wasmtime

from exeunit.runtimes.wasm.errors import BadImage
from exeunit.transfer.budget import evict_oldest

WASI: Final = "wasi_snapshot_preview1"

_CACHE_BYTES: Final = 1 << 30
"""What compiled modules may fill together; the longest unused go first."""
_SETTINGS: Final = "1"
"""Changed by hand whenever `new_engine` changes: artifacts of other settings do not load."""


def new_engine() -> wasmtime.Engine:
    """Return an engine for hostile guests: stable features only, one thread, deterministic."""
    config = wasmtime.Config()
    # Threads would race with the quota's accounting; the others are young and unused by WASI preview 1 tool chains.
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_relaxed_simd_deterministic = True
    config.wasm_component_model = False
    config.wasm_exceptions = False
    config.wasm_gc = False
    config.wasm_function_references = False
    return wasmtime.Engine(config)


def check_imports(module: wasmtime.Module) -> None:
    """Refuse a module that cannot be linked, naming what it asks for."""
    for item in module.imports:
        if item.module != WASI or not isinstance(item.type, wasmtime.FuncType):
            wanted = f"{item.module}.{item.name}"[:96]
            raise BadImage(f"the module imports {wanted!r}; only functions of {WASI!r} are offered")
    exports = {item.name: item.type for item in module.exports}
    if not isinstance(exports.get("_start"), wasmtime.FuncType):
        raise BadImage("the module has no function '_start': it is a library, not a command")
    if not isinstance(exports.get("memory"), wasmtime.MemoryType):
        raise BadImage("the module does not export its 'memory', which WASI needs")


def engine_version() -> str:
    """Return the name and version of the engine, for people and offers."""
    # Imported here: it costs as much as all of wasmtime, and a run never asks.
    from importlib.metadata import version

    return f"wasmtime {version('wasmtime')}"


def _library_stamp() -> str:
    """Return what changes when another wasmtime is installed; wasmtime itself also refuses what is not its own."""
    newest = [0, 0]
    for found in glob.iglob(os.path.join(os.path.dirname(wasmtime.__file__), "*", "_libwasmtime.*")):
        status = os.stat(found)
        newest = max(newest, [status.st_mtime_ns, status.st_size])
    return f"{newest[0]}-{newest[1]}"


class ModuleCache:
    """Compiled modules in one directory."""

    def __init__(self, directory: str, engine: wasmtime.Engine) -> None:
        self._directory = directory
        self.engine = engine
        """The engine that compiles, and that every module from here must run on."""
        self._tag = f"{_library_stamp()}/{_SETTINGS}/".encode()

    def key(self, code: bytes | bytearray) -> str:
        """Return the name under which the compiled form of `code` is kept."""
        return hashlib.sha256(self._tag + hashlib.sha256(code).digest()).hexdigest()

    def add(self, code: bytes | bytearray) -> str:
        """Compile a guest's `code` unless that was done before, check that it can be linked, and return its key.

        Raises:
            BadImage: it does not compile, or asks for more than WASI.
        """
        check_imports(self.load_or_compile(code))
        return self.key(code)

    def load(self, key: str) -> wasmtime.Module | None:
        """Return the compiled module, or none if it is gone or was made for another machine."""
        path = self._path(key)
        try:
            status = os.lstat(path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return None
        try:
            with contextlib.suppress(OSError):
                os.utime(path)  # marks it as used; fails where the cache is read-only to this process
            return wasmtime.Module.deserialize_file(self.engine, path)
        except wasmtime.WasmtimeError:
            return None

    def load_or_compile(self, code: bytes | bytearray) -> wasmtime.Module:
        """Return the compiled form of `code`, from the cache if possible."""
        key = self.key(code)
        module = self.load(key)
        if module is None:
            module = self._compiled(code)
            self._store(key, module)
        return module

    def _compiled(self, code: bytes | bytearray) -> wasmtime.Module:
        try:
            return wasmtime.Module(self.engine, bytes(code))
        except wasmtime.WasmtimeError as error:
            reason = " ".join(str(error).split())
            raise BadImage(f"the module does not compile: {reason[:300]}") from error

    def _store(self, key: str, module: wasmtime.Module) -> None:
        partial = f"{self._path(key)}.{os.getpid()}"
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return  # `run` may not write here: then it costs time at the next run, and nothing else
        with os.fdopen(fd, "wb") as file:
            file.write(module.serialize())
        os.replace(partial, self._path(key))
        evict_oldest(self._directory, _CACHE_BYTES)

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, f"{key}.cwasm")
