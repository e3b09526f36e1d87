"""Run one guest to its end, within its limits.

The memory limit is wasmtime's own; the time limit is a thread that ends the process, because that also ends a guest
that sleeps inside WASI or a compiler that does not come back, and costs the guest nothing; the disk quota is `gate`.
Called by `cli` in a process that does nothing else.

Errors: `Trapped`, `MemoryLimit`, `QuotaFull`, `BadImage`.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Final, NoReturn

import wasmtime

from exeunit.runtimes.wasm.errors import BadImage, Exit, Fault, MemoryLimit, QuotaFull, Trapped
from exeunit.runtimes.wasm.gate import DiskQuota, link_guest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exeunit.runtimes.wasm.deployment import Volume
    from exeunit.runtimes.wasm.modules import ModuleCache

PAGE_BYTES: Final = 65536
_MAX_EXIT_CODE: Final = 255
_NEARLY_FULL: Final = 0.75
"""A guest that fails with so much of its memory in use has most likely run out: allocators grow by halves."""
_TABLE_ELEMENTS: Final = 1_000_000
_TABLES: Final = 16
_INSTANCES: Final = 8


class _Exited(BaseException):
    """The guest called `proc_exit`. Not an `Exception`: nothing on the way may take it for a failure."""

    def __init__(self, code: int) -> None:
        self.code = code


def _proc_exit(code: int) -> NoReturn:
    raise _Exited(code & 0xFFFFFFFF)


def say(text: str) -> None:
    """Write the runtime's own line to stderr, marked so that it cannot be taken for the guest's by accident."""
    line = " ".join(text.split())
    os.write(2, f"golem-p2p-wasm: {line}\n".encode("utf-8", "replace"))


def end_after(seconds: float) -> None:
    """End this process, with a line on stderr and `Exit.TIME_LIMIT`, when `seconds` have gone by."""

    def watch() -> None:
        threading.Event().wait(seconds)
        say(f"the time limit of {seconds:g} s is over")
        os._exit(Exit.TIME_LIMIT)

    threading.Thread(target=watch, name="time limit", daemon=True).start()


def run_guest(
    cache: ModuleCache,
    module: wasmtime.Module,
    *,
    argv: Sequence[str],
    environment: Mapping[str, str],
    volumes: Sequence[tuple[str, Volume]],
    memory_bytes: int | None,
    quota: DiskQuota | None,
) -> int:
    """Run the module's `_start` with this process's standard streams and return its exit code.

    Args:
        cache: for the gate's modules; its engine has compiled `module`.
        module: checked by `modules.check_imports`.
        argv: the guest's arguments, its own name first.
        environment: the guest's whole environment.
        volumes: directories on the host, and where and how the guest sees them.
        memory_bytes: most that the guest's memory may grow to; none for no limit.
        quota: counts the bytes that the volumes hold together; none for no limit.

    Raises:
        Fault: anything but an exit of the guest's own.
    """
    store = wasmtime.Store(cache.engine)
    store.set_limits(
        memory_size=-1 if memory_bytes is None else memory_bytes,
        table_elements=_TABLE_ELEMENTS,
        tables=_TABLES,
        instances=_INSTANCES,
    )
    store.set_wasi(_wasi_config(argv, environment, volumes))
    exit_type = wasmtime.FuncType([wasmtime.ValType.i32()], [])
    guest: wasmtime.Instance | None = None
    try:
        guest = link_guest(store, cache, module, quota, {"proc_exit": (exit_type, _proc_exit)})
        start = guest.exports(store)["_start"]
        if not isinstance(start, wasmtime.Func):
            raise BadImage("the module's '_start' is not a function")
        start(store)
        code = 0
    except _Exited as exited:
        # Some code above 255 must not come out as success.
        code = min(exited.code, _MAX_EXIT_CODE)
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        if guest is None:
            raise _why_not_started(error, memory_bytes) from error
        raise _why_ended(error, _memory_in_use(store, guest), memory_bytes, quota) from error
    if code != 0:
        _hint(_memory_in_use(store, guest), memory_bytes, quota)
    return code


def _wasi_config(
    argv: Sequence[str], environment: Mapping[str, str], volumes: Sequence[tuple[str, Volume]]
) -> wasmtime.WasiConfig:
    config = wasmtime.WasiConfig()
    config.argv = list(argv)
    config.env = list(environment.items())
    config.inherit_stdin()
    config.inherit_stdout()
    config.inherit_stderr()
    for directory, volume in volumes:
        config.preopen_dir(directory, volume.path, fs_mutable=volume.access != "ro")
    return config


def _memory_in_use(store: wasmtime.Store, guest: wasmtime.Instance | None) -> int:
    if guest is None:
        return 0
    memory = guest.exports(store)["memory"]
    return memory.size(store) * PAGE_BYTES if isinstance(memory, wasmtime.Memory) else 0


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _reason(error: Exception) -> str:
    """Return what happened in one line: wasmtime's messages have a backtrace around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    chosen = next((line for line in lines if "wasm trap" in line), lines[-1] if lines else "unknown")
    return chosen.partition("wasm trap:")[2].strip()[:200] or chosen[:200]


def _why_ended(error: Exception, used: int, limit: int | None, quota: DiskQuota | None) -> Fault:
    reason = _reason(error)
    if quota is not None and quota.refused:
        return QuotaFull(f"the guest trapped ({reason}) after its disk quota of {_mib(quota.limit)} was full")
    if limit is not None and used >= limit * _NEARLY_FULL:
        return MemoryLimit(
            f"the guest trapped ({reason}) with {_mib(used)} of its {_mib(limit)} of memory in use:"
            " most likely it ran out of memory"
        )
    return Trapped(f"the guest trapped: {reason}")


def _why_not_started(error: Exception, limit: int | None) -> Fault:
    reason = " ".join(str(error).split())[:300]
    if limit is not None and "memory minimum size" in reason:
        return MemoryLimit(
            f"the module needs more memory at its start than its limit of {_mib(limit)}: {reason}"
        )
    return BadImage(f"the module cannot be started: {reason}")


def _hint(used: int, limit: int | None, quota: DiskQuota | None) -> None:
    if quota is not None and quota.refused:
        say(f"the disk quota of {_mib(quota.limit)} was full while this command ran")
    if limit is not None and used >= limit * _NEARLY_FULL:
        say(f"the command had {_mib(used)} of its {_mib(limit)} of memory in use when it failed")


def flush_and_exit(code: int) -> NoReturn:
    """End the process with `code`, without the interpreter's own slow farewell."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
