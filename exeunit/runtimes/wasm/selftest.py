"""The runtime's `test` command: does a guest run here, is it held, and what is the confinement worth.

Uses the real command line in child processes, so that it proves what an activity will get. It fails only when guests
do not run or the quota does not hold; measures that this kernel lacks are reported, and the offer says what there is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Final

import wasmtime

from exeunit.runtimes.wasm.modules import WASI, engine_version
from exeunit.sandbox import confinement

_QUOTA_GIB: Final = 1 / 1024
_TIMEOUT_S: Final = 60

GUEST: Final = f"""
(module
  (import "{WASI}" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "{WASI}" "fd_filestat_set_size" (func $resize (param i32 i64) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "big")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 16) (i32.const 3) (i32.const 1)
                    (i64.const 0x1fffffff) (i64.const 0x1fffffff) (i32.const 0) (i32.const 0))
      (then (call $exit (i32.const 1))))
    (call $exit (call $resize (i32.load (i32.const 0)) (i64.const 2097152)))))
"""
"""Makes a file of 2 MiB in its first directory and exits with the errno that it gets."""
_ENOSPC: Final = 51


def run() -> int:
    """Print one line for each measure and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="golem-p2p-wasm-") as directory:
        verdicts = [_guest_runs(directory), *confinement.probe(directory)]
    for measure, holds, detail in verdicts:
        sys.stdout.write(f"{'ok  ' if holds else 'FAIL'} {measure}: {detail}\n")
    sys.stdout.flush()
    return 0 if verdicts[0].holds else 1


def _guest_runs(directory: str) -> confinement.Verdict:
    package = os.path.join(directory, "test.wasm")
    with open(package, "wb") as file:
        file.write(wasmtime.wat2wasm(GUEST))
    command = [
        sys.executable,
        "-P",
        "-m",
        "exeunit.runtimes.wasm",
        "--workdir",
        directory,
        "--task-package",
        package,
    ]
    command += ["--storage-gib", str(_QUOTA_GIB), "--mem-gib", "0.0625", "--time-limit", "30"]
    deploy = _call([*command, "deploy"])
    if deploy.returncode != 0:
        return confinement.Verdict(
            "guest", False, f"deploy: {deploy.stderr.decode('utf-8', 'replace').strip()}"
        )
    done = _call([*command, "run", "--entrypoint", "main", "--"])
    if done.returncode != _ENOSPC:
        said = done.stderr.decode("utf-8", "replace").strip()
        return confinement.Verdict(
            "guest", False, f"exit code {done.returncode} instead of {_ENOSPC}: {said}"
        )
    return confinement.Verdict("guest", True, f"{engine_version()}; its disk quota holds")


def _call(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    # Our own interpreter and module, and arguments made above.
    return subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
