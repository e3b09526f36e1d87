"""The runtimes of this machine: how their supervisor is started, and what they say of themselves in offers."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any

import msgspec

from node.provider.presets import CPU, DURATION


class RuntimeDescriptor(msgspec.Struct, frozen=True):
    """A runtime and its supervisor."""

    name: str
    """As `golem.runtime.name` has it."""
    version: str
    supervisor_program: tuple[str, ...]
    """Command that starts its kind of supervisor."""
    supervisor_arguments: tuple[str, ...]
    """What follows, up to the subcommand."""
    counters: tuple[str, ...]
    """Usage counters that it reports, in the order of the offer's usage vector."""
    properties: dict[str, Any]
    """Further properties of its offers."""

    def command(self, *arguments: str) -> list[str]:
        """Return the supervisor's command line for a subcommand."""
        return [*self.supervisor_program, *self.supervisor_arguments, *arguments]


def builtin_runtimes(*, private_addresses: bool) -> dict[str, RuntimeDescriptor]:
    """Return the runtimes that come with the node, by name.

    Args:
        private_addresses: whether payloads may be fetched by HTTP from this machine and its network; only
            where all of the market is on it.
    """
    allowed = ("--allow-private-addresses",) if private_addresses else ()
    wasm = RuntimeDescriptor(
        name="wasmtime",
        version=version("golem-p2p"),
        supervisor_program=(sys.executable, "-m", "exeunit.supervisor"),
        supervisor_arguments=(*allowed, "-b", "module:exeunit.runtimes.wasm"),
        counters=(DURATION, CPU),
        properties={
            "golem.runtime.capabilities": [],
            "golem.runtime.wasm.wasi.version@v": "0.1.0",
            "golem.activity.caps.transfer.protocol": ["http", "https", "gftp"],
            "golem.activity.caps.transfer.report-progress": True,
            "golem.activity.caps.deploy.report-progress": True,
        },
    )
    return {wasm.name: wasm}
