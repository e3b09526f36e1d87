"""Run one process of the runtime: its output as it comes, its end, and nothing of it left over.

The child leads a process group of its own; when it is over, or is to be over, the whole group is killed before the
child is reaped (until then its number cannot be given to anybody else). The kernel kills it when the supervisor dies.
The end of the child counts, not the end of its output: a daemon that it leaves behind may hold the pipes for ever.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import msgspec
import trio

from exeunit.sandbox.process import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_CHUNK_BYTES: Final = 64 * 1024
_LAST_OUTPUT_S: Final = 1.0
"""How long to wait, after a child has ended, for the rest of what it wrote."""
_REAP_S: Final = 5.0
"""A process that SIGKILL does not end in this time is stuck in the kernel; it is left to init."""


class CannotStart(Exception):
    """The program could not be started; the message says why."""


class Ended(msgspec.Struct, frozen=True):
    """How a process ended."""

    code: int
    """Exit code; the negated signal number if it was killed."""
    cpu_s: float
    """Processor time of the process and the children it waited for."""
    peak_bytes: int
    """Peak resident memory."""


class Watcher(Protocol):
    """Is told of the process while it runs."""

    def child_started(self, pid: int) -> None:
        """Note the process."""
        ...

    def child_ended(self, pid: int, ended: Ended) -> None:
        """Note that nothing of its group is left, and what it used; also when it was killed."""
        ...


async def run_child(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    on_output: Callable[[str, bytes], None],
    watcher: Watcher,
    kill_timeout: float,
) -> Ended:
    """Run a program to its end.

    Cancelled, it is told to end (SIGTERM to its group), killed after `kill_timeout` seconds, and waited for.

    Args:
        command: program and arguments.
        cwd: its working directory.
        environment: its whole environment.
        on_output: told `stdout` or `stderr` and some bytes; must return at once.
        watcher: told when the process is there, and when nothing of it is left.
        kill_timeout: seconds between SIGTERM and SIGKILL.

    Raises:
        CannotStart: there is no such program, or it cannot be run.
    """
    process, outputs = _start(command, cwd, environment)
    watcher.child_started(process.pid)
    try:
        pidfd = os.pidfd_open(process.pid)
        try:
            async with trio.open_nursery() as nursery:
                for name, fd in outputs.items():
                    nursery.start_soon(_read, name, fd, on_output)
                try:
                    await trio.lowlevel.wait_readable(pidfd)
                finally:
                    with trio.CancelScope(shield=True):
                        await _end_group(process.pid, pidfd, kill_timeout)
                # Nothing of the group writes any more; what the pipes still hold is read, but not waited for.
                nursery.cancel_scope.deadline = trio.current_time() + _LAST_OUTPUT_S
        finally:
            os.close(pidfd)
    finally:
        ended = _reap(process)
        watcher.child_ended(process.pid, ended)
    return ended


def _start(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    # From this very thread: the death signal is tied to the thread that forks, and trio's own way to start
    # processes uses a worker thread, which ends after some idle seconds and would take the child with it.
    stdout_read, stdout_write = os.pipe()
    stderr_read, stderr_write = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - the runtime is the provider's own choice
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout_write,
            stderr=stderr_write,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(stdout_read)
        os.close(stderr_read)
        if isinstance(error, OSError) and error.errno == errno.E2BIG:
            raise CannotStart("the arguments and the environment are too long for one process") from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotStart(f"cannot start {command[0]}: {reason}") from error
    finally:
        os.close(stdout_write)
        os.close(stderr_write)
    return process, {"stdout": stdout_read, "stderr": stderr_read}


async def _read(name: str, fd: int, on_output: Callable[[str, bytes], None]) -> None:
    async with trio.lowlevel.FdStream(fd) as stream:
        while data := await stream.receive_some(_CHUNK_BYTES):
            on_output(name, data)


async def _end_group(pid: int, pidfd: int, kill_timeout: float) -> None:
    """See that neither the process nor any of its group is alive; its leader stays unreaped."""
    if not _ended(pid):
        _signal_group(pid, signal.SIGTERM)
        with trio.move_on_after(kill_timeout):
            await trio.lowlevel.wait_readable(pidfd)
    _signal_group(pid, signal.SIGKILL)
    with trio.move_on_after(_REAP_S):
        await trio.lowlevel.wait_readable(pidfd)


def _ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _reap(process: subprocess.Popen[bytes]) -> Ended:
    pid, status, usage = os.wait4(process.pid, os.WNOHANG)
    # Popen is told, so that it does not look for the child again.
    if pid == 0:
        process.returncode = -signal.SIGKILL
        return Ended(process.returncode, 0.0, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
