"""Each measure of the confinement, tried in child processes on this machine's kernel."""

from __future__ import annotations

import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from exeunit.sandbox import confinement, landlock, seccomp

needs_landlock = pytest.mark.skipif(landlock.abi_version() == 0, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(
    not Path("/proc/sys/kernel/seccomp").exists() or platform.machine() not in ("x86_64", "aarch64"),
    reason="this machine has no seccomp filters that are known here",
)


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=30, check=False
    )


def test_probe_tells_what_holds(tmp_path: Path) -> None:
    verdicts = {verdict.measure: verdict for verdict in confinement.probe(str(tmp_path))}
    assert set(verdicts) == {"landlock-files", "landlock-tcp", "seccomp", "parent-death-signal"}
    assert verdicts["parent-death-signal"].holds
    if landlock.abi_version() >= 4:
        assert verdicts["landlock-files"].holds
        assert verdicts["landlock-tcp"].holds
    assert list(tmp_path.iterdir()) == []


def test_probe_reports_a_measure_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi_version", lambda: 0)
    monkeypatch.setattr(seccomp, "deny_dangerous_calls", lambda: None)
    verdicts = {verdict.measure: verdict for verdict in confinement.probe(str(tmp_path))}
    assert verdicts["landlock-files"] == ("landlock-files", False, "[Errno 0] this kernel has no Landlock")
    assert not verdicts["seccomp"].holds
    assert verdicts["seccomp"].detail == "a socket was not refused"


@needs_landlock
def test_confined_process_keeps_its_directory_and_loses_the_rest(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "x").write_text("readable")
    (tmp_path / "other").write_text("secret")
    done = python(
        """
import sys, os, threading
from exeunit.sandbox import confinement
base = sys.argv[1]
verdicts = confinement.confine([*confinement.python_paths(), base + "/read"], [base + "/own"])
print(*(v.measure for v in verdicts if v.holds))
open(base + "/own/new", "w").close()
os.rename(base + "/own/new", base + "/own/newer")
print(open(base + "/read/x").read())
for attempt in (lambda: open(base + "/other"), lambda: open(base + "/read/y", "w"), lambda: os.listdir("/proc"),
                lambda: os.truncate(base + "/read/x", 0)):
    try:
        attempt()
    except PermissionError:
        print("refused")
thread = threading.Thread(target=print, args=("threads run",))
thread.start()
thread.join()
import decimal, sqlite3
print("imports work")
""",
        str(tmp_path),
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "no-new-privileges landlock seccomp", "readable", "refused", "refused", "refused", "refused",
        "threads run", "imports work",
    ]  # fmt: skip


@needs_seccomp
@pytest.mark.parametrize(
    "attempt",
    ["socket.socket()", "os.fork()", "os.execv('/bin/true', ['x'])", "os.kill(os.getppid(), 0)",
     "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.fork()", "os.posix_spawn('/bin/true', ['x'], {})"],
)  # fmt: skip
def test_dangerous_calls_are_refused(attempt: str) -> None:
    done = python(
        f"""
import os, socket
from exeunit.sandbox import process, seccomp
process.no_new_privileges()
seccomp.deny_dangerous_calls()
try:
    {attempt}
except PermissionError:
    print("refused")
"""
    )
    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_denies_every_listed_call(machine: str) -> None:
    code = seccomp.program(machine)
    instructions = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    column = ("x86_64", "aarch64").index(machine)
    for name, numbers in seccomp.DENIED.items():
        number = numbers[column]
        if number is not None:
            assert _run(instructions, machine, number) == 0x00050001, name
    assert _run(instructions, machine, 435) == 0x00050000 | 38
    assert _run(instructions, machine, (56, 220)[column]) == 0x00050001
    assert _run(instructions, machine, (56, 220)[column], flags=0x10000) == 0x7FFF0000
    assert _run(instructions, machine, 0) == 0x7FFF0000
    assert _run(instructions, "mips", 0) == 0x80000000


def _run(program: list[tuple[int, int, int, int]], machine: str, number: int, flags: int = 0) -> int:
    """Interpret the few kinds of BPF instruction that the filter uses."""
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(machine, 8)
    words = {0: number, 4: arch, 16: flags}
    at = register = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            register = words[value]
        elif code == 0x06:
            return value
        else:
            holds = {0x15: register == value, 0x35: register >= value, 0x45: bool(register & value)}[code]
            at += if_true if holds else if_false


def test_unknown_machines_are_refused() -> None:
    with pytest.raises(seccomp.Unsupported, match="riscv64"):
        seccomp.program("riscv64")


def test_limit_never_raises() -> None:
    done = python(
        "import resource\nfrom exeunit.sandbox import process\n"
        "process.limit(resource.RLIMIT_NOFILE, 100)\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "process.limit(resource.RLIMIT_NOFILE, 200)\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    assert done.stdout == "(100, 100)\n(100, 100)\n"
