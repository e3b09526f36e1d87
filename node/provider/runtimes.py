"""The runtimes of this machine: how their supervisor is started, and what they say of themselves in offers."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from node.provider.presets import CPU, DURATION

if TYPE_CHECKING:
    import subprocess

SELF_TEST_TIMEOUT = 120.0
"""Seconds; a loaded machine compiles slowly."""


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
    """Further properties of its offers; its own template is added when it is examined."""

    def command(self, *arguments: str) -> list[str]:
        """Return the supervisor's command line for a subcommand."""
        return [*self.supervisor_program, *self.supervisor_arguments, *arguments]


class Unfit(Exception):
    """A runtime that must not be offered; the message says why."""


async def examine(runtime: RuntimeDescriptor) -> RuntimeDescriptor:
    """Run a runtime's self test, and return it with the properties that it says its offers should have.

    What the offer says of isolation is what the self test has just proved.

    Raises:
        Unfit: the test failed, or the runtime could not be run.
    """
    with trio.move_on_after(SELF_TEST_TIMEOUT):
        test = await _call(runtime, "test")
        if test.returncode != 0:
            raise Unfit(f"its self test failed: {_last_line(test)}")
        template = await _call(runtime, "offer-template")
        try:
            properties = dict(msgspec.json.decode(template.stdout)["properties"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise Unfit(f"its offer template cannot be read: {error}") from error
        properties.pop("golem.com.usage.vector", None)  # the preset decides what is priced
        return msgspec.structs.replace(runtime, properties={**properties, **runtime.properties})
    raise Unfit(f"its self test did not end within {SELF_TEST_TIMEOUT:.0f} s")


async def _call(runtime: RuntimeDescriptor, verb: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return await trio.run_process(
            runtime.command(verb), capture_stdout=True, capture_stderr=True, check=False
        )
    except OSError as error:
        raise Unfit(f"it cannot be started: {error.strerror}") from error


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {done.returncode}"


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
        supervisor_program=(sys.executable, "-P", "-m", "exeunit.supervisor"),
        supervisor_arguments=(*allowed, "-b", "module:exeunit.runtimes.wasm"),
        counters=(DURATION, CPU),
        properties={
            "golem.runtime.wasm.wasi.version@v": "0.1.0",
        },
    )
    return {wasm.name: wasm}
