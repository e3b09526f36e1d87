"""What an activity owns outside of its supervisor's memory, written down before it is made.

One JSON object a line in `journal.jsonl` of the work directory. A supervisor that ends in good order removes the file;
one that was killed leaves it, and `sweep` (run by the node when it starts, `python -m exeunit.supervisor sweep`) kills
the processes in it and removes the paths. A process is named by pid, start time and boot, so that a pid that was given
to somebody else meanwhile is left alone; one that was about to be started is found by the token in its environment.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from exeunit.supervisor.usage import start_time

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE_NAME: Final = "journal.jsonl"
TOKEN_VARIABLE: Final = "GOLEM_P2P_ACTIVITY"  # noqa: S105 - the name of a variable
"""In the environment of every process that an activity starts."""
_MAX_BYTES: Final = 4 << 20
_COMPACT_BYTES: Final = 256 << 10


class Process(msgspec.Struct, frozen=True, tag="process"):
    """A process that runs; its group is its pid."""

    pid: int
    start: int
    """Clock ticks since boot."""


class Supervisor(msgspec.Struct, frozen=True, tag="supervisor"):
    """The supervisor itself, and what its children can be told by."""

    pid: int
    start: int
    boot: str
    token: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A process of an earlier line is gone."""

    pid: int


class Owned(msgspec.Struct, frozen=True, tag="path"):
    """A file or directory that goes with the activity."""

    path: str


Entry = Process | Supervisor | Ended | Owned


class Journal:
    """The journal of a living supervisor."""

    def __init__(self, workdir: Path, token: str) -> None:
        """Begin the journal of this process.

        Args:
            workdir: the activity's directory.
            token: goes into the environment of every child as `TOKEN_VARIABLE`.
        """
        self._path = workdir / FILE_NAME
        self.token = token
        pid = os.getpid()
        self._supervisor = Supervisor(pid, start_time(pid) or 0, boot_id(), token)
        self._living: dict[int, Process] = {}
        self._owned: list[Owned] = []
        self._file = self._path.open("wb", buffering=0)
        self._size = 0
        self._write(self._supervisor)

    def started(self, pid: int) -> None:
        """Note a child. (That one may come was noted with the token, before the first.)"""
        process = Process(pid, start_time(pid) or 0)
        self._living[pid] = process
        self._write(process)

    def ended(self, pid: int) -> None:
        """Note that a child and its whole group are gone."""
        self._living.pop(pid, None)
        self._write(Ended(pid))
        if self._size > _COMPACT_BYTES:
            self._compact()

    def owns(self, path: Path) -> None:
        """Note a file or directory before it is made."""
        owned = Owned(str(path))
        self._owned.append(owned)
        self._write(owned)

    def close(self) -> None:
        """Remove the journal: nothing is owned any more."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _write(self, entry: Entry) -> None:
        self._size += self._file.write(msgspec.json.encode(entry) + b"\n")

    def _compact(self) -> None:
        """Write anew only what still holds; an activity may run many thousand commands."""
        fresh = self._path.with_suffix(".new")
        file = fresh.open("wb", buffering=0)
        old, self._file, self._size = self._file, file, 0
        self._write(self._supervisor)
        for owned in self._owned:
            self._write(owned)
        for process in self._living.values():
            self._write(process)
        fresh.replace(self._path)
        old.close()


def boot_id() -> str:
    """Return what tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def sweep(folder: Path) -> list[str]:
    """End and remove what dead supervisors left behind anywhere below `folder`; return it in words.

    A journal whose supervisor still lives is left alone.
    """
    swept: list[str] = []
    for path in sorted(folder.rglob(FILE_NAME)):
        with contextlib.suppress(OSError):
            swept += _sweep_one(path)
    return swept


def _sweep_one(path: Path) -> list[str]:
    entries = list(_read(path))
    supervisor = next((entry for entry in entries if isinstance(entry, Supervisor)), None)
    if supervisor is None:
        path.unlink()
        return []
    this_boot = supervisor.boot == boot_id()
    if this_boot and start_time(supervisor.pid) == supervisor.start:
        return []
    swept = []
    if this_boot:
        ended = {entry.pid for entry in entries if isinstance(entry, Ended)}
        noted = {entry.pid: entry for entry in entries if isinstance(entry, Process)}
        living = {pid for pid, entry in noted.items() if pid not in ended and start_time(pid) == entry.start}
        for pid in sorted(living | _by_token(supervisor.token)):
            _kill(pid)
            swept.append(f"killed process {pid} of {path.parent.name}")
    for entry in entries:
        if isinstance(entry, Owned) and os.path.lexists(entry.path):
            _remove(Path(entry.path))
            swept.append(f"removed {entry.path}")
    path.unlink()
    return swept


def _read(path: Path) -> Iterator[Entry]:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES)
    for line in data.splitlines():
        # The last line may be half written: its resource was then not made.
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=Entry)


def _by_token(token: str) -> set[int]:
    """Return the processes that carry the token: also those that left their group, or were noted too late."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read(1 << 20).split(b"\0"):
                    found.add(int(name))
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    # Its own group only: killing the group of somebody else's leader would take the wrong ones.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
