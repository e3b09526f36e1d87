"""Starts, stops and finds the embedded chain's process of a folder, for the CLI and for tests.

The process is detached: it outlives whoever starts it, in a session of its own, and writes to `chain.log`.
What it is stands in `process.json`. A pid there counts only while `/proc` says that it is still that process,
by its start time, so that a recycled pid is never taken for the chain, nor killed.

Synchronous: commands call it, not a running node. Imports neither the EVM nor trio.

    DevnetError         the chain would not start or stop; the text says why and where its log is
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from protocols.payment.networks import DEVNET_CHAIN_ID, DEVNET_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

RPC_FILE: Final = "rpc.json"
"""Written by the chain's process when it serves: a `ChainInfo` as JSON."""
_PROCESS_FILE: Final = "process.json"
_LOG_FILE: Final = "chain.log"
_LOCK_FILE: Final = "control.lock"
_DATA_FILES: Final = "chain.sqlite3*"
_START_PATIENCE_S: Final = 30.0
_STOP_PATIENCE_S: Final = 10.0
_POLL_S: Final = 0.02


class DevnetError(Exception):
    """The chain would not start or stop."""


class ChainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A running chain."""

    rpc_url: str
    pid: int
    chain_id: int

    @property
    def faucet_url(self) -> str:
        """Give the faucet's address, to which `/<address>` is appended."""
        return f"{self.rpc_url}/donate"


class _Process(msgspec.Struct, frozen=True, kw_only=True):
    """What `process.json` holds."""

    info: ChainInfo
    started: int
    """Clock ticks from boot to the process's start: with the pid, it names one process."""


def up(folder: Path, port: int | None = None) -> ChainInfo:
    """Start a folder's chain, or find it running, and return when it serves.

    Args:
        folder: where the chain lives; made when missing.
        port: where to serve; 0 for any free port. None: where it served before, else the usual port,
            else any free one.

    Raises:
        DevnetError: it did not come up.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        running = status(folder)
        if running is not None:
            return running
        chosen = _port(folder) if port is None else port
        (folder / RPC_FILE).unlink(missing_ok=True)
        pid = _spawn(folder, chosen)
        info = _await_service(folder, pid)
        started = start_time(pid)
        if started is None:
            raise DevnetError(f"the chain ended at once; see {folder / _LOG_FILE}")
        _write(folder, _Process(info=info, started=started))
        return info


def status(folder: Path) -> ChainInfo | None:
    """Find a folder's running chain; None when there is none."""
    process = _read(folder)
    if process is None or start_time(process.info.pid) != process.started:
        return None
    return process.info


def down(folder: Path) -> bool:
    """Stop a folder's chain; return whether it ran.

    Raises:
        DevnetError: it survived being killed.
    """
    if not folder.is_dir():
        return False
    with _locked(folder):
        process = _read(folder)
        if process is None or start_time(process.info.pid) != process.started:
            return False
        _stop(process)
        return True


def reset(folder: Path) -> None:
    """Stop a folder's chain and delete all that it holds; the next `up` makes a new one.

    Raises:
        DevnetError: as `down`.
    """
    down(folder)
    if not folder.is_dir():
        return
    with _locked(folder):
        for path in [*folder.glob(_DATA_FILES), folder / RPC_FILE, folder / _LOG_FILE]:
            path.unlink(missing_ok=True)


def _spawn(folder: Path, port: int) -> int:
    """Start the process detached and return its pid.

    By `posix_spawn`, not `subprocess`: the child is meant to outlive us, and a Popen object complains of
    that.
    """
    python = shutil.which(sys.executable) or sys.executable
    # -P: a folder called `node` where the user happens to stand must not be imported instead of ours.
    arguments = [python, "-P", "-m", "node.devnet.server", "--data", str(folder), "--port", str(port)]
    log = os.open(folder / _LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return os.posix_spawn(
            python,
            arguments,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)


def _await_service(folder: Path, pid: int) -> ChainInfo:
    deadline = time.monotonic() + _START_PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(FileNotFoundError, msgspec.DecodeError):
            info = msgspec.json.decode((folder / RPC_FILE).read_bytes(), type=ChainInfo)
            if info.pid == pid:
                return info
        if start_time(pid) is None:
            raise DevnetError(f"the chain ended at once: {_tail(folder)} (log: {folder / _LOG_FILE})")
        time.sleep(_POLL_S)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    raise DevnetError(f"the chain did not serve within {_START_PATIENCE_S:.0f} s; see {folder / _LOG_FILE}")


def _stop(process: _Process) -> None:
    pid = process.info.pid
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _STOP_PATIENCE_S
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        while time.monotonic() < deadline:
            if start_time(pid) != process.started:
                return
            time.sleep(_POLL_S)
    raise DevnetError(f"process {pid} of the chain does not end")


def start_time(pid: int) -> int | None:
    """Read when a process started, in clock ticks since boot; None when it runs no more.

    Pid and start time together name one process, which a pid alone does not. An ended child of ours is reaped.
    """
    with suppress(ChildProcessError):
        # A child that ended stays in /proc until its parent asks for it; that may be us.
        os.waitpid(pid, os.WNOHANG)
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command stands in parentheses and may hold anything, so fields are counted after the last one.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _port(folder: Path) -> int:
    """Choose the port: where it served before, else the usual one, else any."""
    previous = _read(folder)
    wanted = [int(previous.info.rpc_url.rpartition(":")[2])] if previous else []
    for port in (*wanted, DEVNET_PORT):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    return 0


def _read(folder: Path) -> _Process | None:
    try:
        process = msgspec.json.decode((folder / _PROCESS_FILE).read_bytes(), type=_Process)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return process if process.info.chain_id == DEVNET_CHAIN_ID else None


def _write(folder: Path, process: _Process) -> None:
    new = folder / f"{_PROCESS_FILE}.new"
    new.write_bytes(msgspec.json.encode(process))
    new.replace(folder / _PROCESS_FILE)


def _tail(folder: Path) -> str:
    with suppress(FileNotFoundError):
        lines = (folder / _LOG_FILE).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
    return "it said nothing"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one command at a time start or stop a folder's chain."""
    with (folder / _LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
