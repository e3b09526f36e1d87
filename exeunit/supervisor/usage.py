"""Count what an activity uses. Units are exact: seconds, and GiB of 2^30 bytes.

| counter                    | here |
|----------------------------|------|
| `golem.usage.duration_sec` | monotonic time since the supervisor began |
| `golem.usage.cpu_sec`      | processor time of the runtime's processes, finished ones from their rusage |
| `golem.usage.gib`          | peak resident memory of a runtime process |
| `golem.usage.storage_gib`  | peak of what the volumes hold |
| any other                  | 0: a custom counter that no runtime here has set |

No counter ever goes down, since debit notes are sums. The original counts whole seconds of the wall clock and mixes its
units; nothing of that is kept. Called by `exeunit`; reads /proc but decides nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB: Final = 1 << 30

DURATION: Final = "golem.usage.duration_sec"
CPU: Final = "golem.usage.cpu_sec"
MEMORY: Final = "golem.usage.gib"
STORAGE: Final = "golem.usage.storage_gib"

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Usage:
    """Counters of one activity."""

    def __init__(self, started: float) -> None:
        """Begin to count at `started`, monotonic seconds."""
        self._started = started
        self._finished_cpu_s = 0.0
        self._peak_cpu_s = 0.0
        self._peak_memory = 0
        self._peak_storage = 0

    def child_lives(self, cpu_s: float, resident_bytes: int) -> None:
        """Note what the running child has used so far."""
        self._peak_cpu_s = max(self._peak_cpu_s, self._finished_cpu_s + cpu_s)
        self._peak_memory = max(self._peak_memory, resident_bytes)

    def child_ended(self, cpu_s: float, resident_bytes: int) -> None:
        """Note what a child used in all."""
        self._finished_cpu_s += cpu_s
        self.child_lives(0.0, resident_bytes)

    def storage(self, held_bytes: int) -> None:
        """Note what the volumes hold."""
        self._peak_storage = max(self._peak_storage, held_bytes)

    @property
    def memory_gib(self) -> float:
        """Peak memory of a runtime process."""
        return self._peak_memory / GIB

    @property
    def storage_gib(self) -> float:
        """Peak of what the volumes held."""
        return self._peak_storage / GIB

    def vector(self, counters: Sequence[str], now: float) -> tuple[float, ...]:
        """Return the counters in the order of the agreement; `now` is monotonic seconds."""
        values = {
            DURATION: max(0.0, now - self._started),
            CPU: self._peak_cpu_s,
            MEMORY: self.memory_gib,
            STORAGE: self.storage_gib,
        }
        return tuple(values.get(counter, 0.0) for counter in counters)


def read_process(pid: int) -> tuple[float, int] | None:
    """Return a process's processor seconds (with those of children it waited for) and its peak resident bytes.

    None when there is no such process any more.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(4096)
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read(8192)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything; the numbers begin after the last one closes. See proc(5):
    # utime, stime, cutime and cstime are fields 14 to 17, of which the first two are gone with the name.
    fields = stat[stat.rindex(b")") + 2 :].split()
    cpu_s = sum(int(field) for field in fields[11:15]) / _TICKS_PER_SECOND
    peak = next((line for line in status.splitlines() if line.startswith(b"VmHWM:")), b"VmHWM: 0 kB")
    return cpu_s, int(peak.split()[1]) * 1024


def start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot: with the pid it names a process for good."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(4096)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat[stat.rindex(b")") + 2 :].split()[19])
