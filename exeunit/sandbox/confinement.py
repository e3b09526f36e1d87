"""Confine this process for foreign work, and prove on this very machine what that confinement is worth.

`confine` applies whatever the kernel offers and reports, measure by measure, whether it took. `probe` goes further:
for each measure it forks a child that applies it and then tries what must now fail. A runtime's `test` command prints
the verdicts and the provider states the isolation in its offer by them.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

from exeunit.sandbox import landlock, process, seccomp

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_PROBE_TIMEOUT_S: Final = 10


class Verdict(NamedTuple):
    """Whether one measure holds here."""

    measure: str
    """Its name, such as `landlock`."""
    holds: bool
    detail: str
    """What was seen: the version, or why not."""


def python_paths() -> list[str]:
    """Return what a Python of ours still reads while it runs: its own files, zone data, and random devices."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    fixed = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
    devices = ["/dev/null", "/dev/urandom", "/sys/devices/system/cpu"]
    own = [sys.prefix, sys.base_prefix, os.path.join(package, "exeunit"), os.path.join(package, "p2p")]
    return [path for path in (*fixed, *devices, *own) if path not in ("", "/")]


def confine(readable: Sequence[str], writable: Sequence[str]) -> list[Verdict]:
    """Give up everything but these paths, threads and arithmetic; return what took and what did not.

    To be called while the process has a single thread, since Landlock and seccomp bind a thread and those that
    it starts later.
    """
    verdicts = [_apply("no-new-privileges", process.no_new_privileges)]
    verdicts.append(_apply("landlock", lambda: f"ABI {landlock.restrict(readable, writable)}"))
    verdicts.append(_apply("seccomp", seccomp.deny_dangerous_calls))
    return verdicts


def _apply(measure: str, action: Callable[[], str | None]) -> Verdict:
    try:
        detail = action()
    except OSError as error:
        return Verdict(measure, False, error.strerror or str(error))
    return Verdict(measure, True, detail or "applied")


def probe(directory: str) -> list[Verdict]:
    """Try each measure in a child process and see that it holds.

    Args:
        directory: an existing directory to which the children confine themselves.
    """
    return [
        _in_child("landlock-files", lambda: _landlock_holds_files(directory)),
        _in_child("landlock-tcp", lambda: _landlock_holds_tcp(directory)),
        _in_child("seccomp", _seccomp_holds),
        _in_child("parent-death-signal", _dies_with_parent),
    ]


def _in_child(measure: str, attempt: Callable[[], str]) -> Verdict:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _report(writer, attempt)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as answers:
            answer = answers.read(4096).decode("utf-8", "replace")
    finally:
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Verdict(measure, False, f"the probe was killed by {signal.Signals(os.WTERMSIG(status)).name}")
    return Verdict(measure, os.WEXITSTATUS(status) == 0, answer or "the probe said nothing")


def _report(writer: int, attempt: Callable[[], str]) -> NoReturn:
    signal.alarm(_PROBE_TIMEOUT_S)
    try:
        answer, code = attempt(), 0
    except Exception as error:  # a probe may fail in any way, and all of them mean "does not hold"
        answer, code = str(error) or repr(error), 1
    os.write(writer, answer.encode("utf-8", "replace")[:4096])
    os._exit(code)


def _must_fail(what: str, action: Callable[[], object]) -> None:
    try:
        action()
    except PermissionError:
        return
    raise RuntimeError(f"{what} was not refused")


def _landlock_holds_files(directory: str) -> str:
    process.no_new_privileges()
    abi = landlock.restrict([], [directory])
    inside = os.path.join(directory, f".probe-{os.getpid()}")
    with open(inside, "wb") as file:
        file.write(b"x")
    os.unlink(inside)
    _must_fail("reading /etc/passwd", lambda: os.open("/etc/passwd", os.O_RDONLY))
    _must_fail("listing /", lambda: os.listdir("/"))
    return f"ABI {abi}: files outside are refused"


def _landlock_holds_tcp(directory: str) -> str:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    process.no_new_privileges()
    abi = landlock.restrict([], [directory])
    with socket.socket() as client:
        _must_fail("a TCP connection", lambda: client.connect(listener.getsockname()))
    return f"ABI {abi}: TCP is refused"


def _seccomp_holds() -> str:
    process.no_new_privileges()
    seccomp.deny_dangerous_calls()
    _must_fail("a socket", socket.socket)
    _must_fail("a program", lambda: os.execv("/bin/true", ["true"]))  # noqa: S606 - is refused
    _must_fail("a new process", os.fork)
    return "sockets, programs and new processes are refused"


def _dies_with_parent() -> str:
    # The child starts a grandchild and dies; the grandchild's end of the pipe must then close by itself.
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        _become_parent_and_die(writer)
    os.close(writer)
    os.waitpid(middle, 0)
    said = b"".join(iter(lambda: os.read(reader, 64), b""))  # ends only when the last writer is gone
    if said != b"ready":
        raise RuntimeError("the child of a dead parent was not killed")
    return "a process ends with its parent"


def _become_parent_and_die(writer: int) -> NoReturn:
    parent = os.getpid()
    ready_reader, ready_writer = os.pipe()
    if os.fork() == 0:
        process.die_with_parent(parent)
        os.write(writer, b"ready")
        os.close(ready_writer)
        signal.alarm(_PROBE_TIMEOUT_S // 2)  # far sooner than the probe's own alarm: then it says "late"
        signal.signal(signal.SIGALRM, lambda *_: (os.write(writer, b"late"), os._exit(0)))
        while True:
            signal.pause()
    os.close(ready_writer)
    os.read(ready_reader, 1)  # closed once the grandchild has asked for the signal
    os._exit(0)
