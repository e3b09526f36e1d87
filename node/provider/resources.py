"""What this machine can give: the hardware profile, and the ledger of what is given away already."""

from __future__ import annotations

import os
import platform
import shutil
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from node.config import Config

GIB = 1024**3
LEAST = (1, 0.1, 0.1)
"""Smallest profile that is offered: threads, GiB of memory, GiB of disk."""


class Resources(msgspec.Struct, frozen=True):
    """An amount of machine."""

    threads: int
    mem_gib: float
    storage_gib: float

    def covers(self, other: Resources) -> bool:
        """Return whether `other` fits into this."""
        return (
            other.threads <= self.threads
            and other.mem_gib <= self.mem_gib
            and other.storage_gib <= self.storage_gib
        )

    def minus(self, other: Resources) -> Resources:
        """Return what is left after `other`."""
        return Resources(
            self.threads - other.threads,
            self.mem_gib - other.mem_gib,
            self.storage_gib - other.storage_gib,
        )


class Machine(msgspec.Struct, frozen=True):
    """A machine on offer."""

    resources: Resources
    cpu: dict[str, object]
    """What offers say about the processor."""


class ResourceLedger:
    """Who holds how much of the machine. An agreement reserves when it is approved, and releases at its end."""

    def __init__(self, total: Resources) -> None:
        self.total = total
        self._held: dict[str, Resources] = {}

    @property
    def free(self) -> Resources:
        """Return what nobody holds."""
        left = self.total
        for held in self._held.values():
            left = left.minus(held)
        return left

    def fits(self, share: Resources) -> int:
        """Return how many more holders of `share` fit."""
        free = self.free
        return max(
            0,
            min(
                free.threads // share.threads,
                int(free.mem_gib / share.mem_gib + 1e-9),
                int(free.storage_gib / share.storage_gib + 1e-9),
            ),
        )

    def reserve(self, holder: str, share: Resources) -> bool:
        """Give `share` to `holder` if it fits; repeating it changes nothing."""
        if holder in self._held:
            return True
        if not self.fits(share):
            return False
        self._held[holder] = share
        return True

    def release(self, holder: str) -> bool:
        """Take back what `holder` has; return whether it had any."""
        return self._held.pop(holder, None) is not None


def this_machine(config: Config, data_dir: Path) -> Machine:
    """Return what this machine offers; looks at it, so nothing that simulates may call it."""
    return Machine(hardware(config, data_dir), cpu_properties())


def hardware(config: Config, data_dir: Path) -> Resources:
    """Return the profile to offer: what is configured, else most of the machine, as Golem's agent has it."""
    disk = shutil.disk_usage(data_dir).free / GIB
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return Resources(
        threads=config["provider.threads"] or max(LEAST[0], (os.cpu_count() or 1) - 1),
        mem_gib=config["provider.mem-gib"] or max(LEAST[1], round(memory * 0.7, 3)),
        storage_gib=config["provider.storage-gib"] or max(LEAST[2], round(disk * 0.8, 3)),
    )


def cpu_properties() -> dict[str, object]:
    """Return what the offer says about the processor, from /proc/cpuinfo where there is one."""
    properties: dict[str, object] = {"golem.inf.cpu.architecture": platform.machine()}
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        return properties
    if "vendor_id" in fields:
        properties["golem.inf.cpu.vendor"] = fields["vendor_id"]
    if "model name" in fields:
        properties["golem.inf.cpu.brand"] = fields["model name"]
    if fields.get("flags"):
        properties["golem.inf.cpu.capabilities"] = sorted(fields["flags"].split())[:256]
    return properties
