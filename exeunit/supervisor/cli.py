"""The supervisor's command line, in the form that provider agents call.

    -b RUNTIME [-r ARG]... [--runtime-managed-hardware] [--runtime-managed-image] [--allow-private-addresses]
        service-bus SERVICE_ID REPORT_URL -a AGREEMENT -w WORKDIR -c CACHEDIR
        from-file [--service-id ID] [--report-url URL] INPUT -a AGREEMENT -w WORKDIR -c CACHEDIR
        offer-template
        test
    sweep FOLDER

RUNTIME is a program's path, or `module:NAME` for a Python module. `service-bus` finds the node by GSB_URL and
GOLEM_P2P_BUS_TOKEN, and its bulk socket by GOLEM_P2P_BULK and GOLEM_P2P_BULK_TOKEN. PROCESS_KILL_TIMEOUT_SECONDS
(5, at least 1) is how long a command may take to end by itself. `from-file` runs a list of commands without a node and
prints their results. Exit code 0, or 1 when something failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
import trio

from exeunit.supervisor import journal
from exeunit.supervisor.agreement import Agreement, BadAgreement, Limits, read_agreement
from exeunit.supervisor.child import CannotStart
from exeunit.supervisor.core import Refused
from exeunit.supervisor.exeunit import ExeUnit, Reporter
from exeunit.supervisor.runtime import RuntimeCommand, child_environment, offer_template
from exeunit.supervisor.usage import CPU, DURATION, MEMORY, STORAGE
from exeunit.transfer.bulk import BulkSocket
from exeunit.transfer.file import FileScheme
from exeunit.transfer.gftp import GftpScheme
from p2p.bus.api import BusError
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from protocols.activity.messages import (
    ActivityState,
    ActivityUsage,
    CommandResult,
    ErrorCode,
    Exec,
    ExeScriptCommand,
    ExeScriptCommandResult,
    GetExecBatchResults,
    ScriptError,
    decode_exe_script,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BULK_VARIABLE: Final = "GOLEM_P2P_BULK"
BULK_TOKEN_VARIABLE: Final = "GOLEM_P2P_BULK_TOKEN"  # noqa: S105 - the name of a variable
KILL_TIMEOUT_VARIABLE: Final = "PROCESS_KILL_TIMEOUT_SECONDS"
_TEMPLATE_TIMEOUT_S: Final = 30
_SELF_TEST_TIMEOUT_S: Final = 120
_POLL_S: Final = 600.0
_BATCH: Final = "0"
"""Name of the one batch of `from-file`."""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT)

_log = structlog.get_logger("exeunit.supervisor")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="exe-unit", description="Supervises one activity.")
    parser.add_argument("-b", "--binary", help="the runtime: a path, or module:NAME")
    parser.add_argument("-r", "--runtime-arg", action="append", default=[], metavar="ARG")
    parser.add_argument("--runtime-managed-hardware", "--cap-handoff", action="store_true")
    parser.add_argument("--runtime-managed-image", action="store_true")
    parser.add_argument("--allow-private-addresses", action="store_true", help="let http reach this network")
    commands = parser.add_subparsers(dest="command", required=True)
    bus = commands.add_parser("service-bus", help="serve an activity to a node")
    bus.add_argument("service_id")
    bus.add_argument("report_url")
    file = commands.add_parser("from-file", help="run a list of commands without a node")
    file.add_argument("input")
    file.add_argument("--service-id", default="0" * 32)
    file.add_argument("--report-url", help="taken for compatibility: there is no node to report to")
    for command in (bus, file):
        command.add_argument("-a", "--agreement", required=True, type=Path)
        command.add_argument("-w", "--work-dir", required=True, type=Path)
        command.add_argument("-c", "--cache-dir", required=True, type=Path)
    commands.add_parser("offer-template", help="print what the offer should say")
    commands.add_parser("test", help="run the runtime's self test")
    sweep = commands.add_parser("sweep", help="end and remove what dead supervisors left below a folder")
    sweep.add_argument("folder", type=Path)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command of the command line and return its exit code."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    parser = _parser()
    arguments = parser.parse_args(_with_runtime_arguments(argv))
    if arguments.command == "sweep":
        for line in journal.sweep(arguments.folder):
            sys.stdout.write(f"{line}\n")
        return 0
    if not arguments.binary:
        parser.error("-b/--binary is missing")
    try:
        match arguments.command:
            case "service-bus":
                return trio.run(_serve, arguments)
            case "from-file":
                return trio.run(_run_file, arguments)
            case "offer-template":
                return _print_template(arguments)
            case _:
                return _self_test(arguments)
    except (BadAgreement, BusError, CannotStart, ScriptError, OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"exe-unit: {error}\n")
        return 1


def _with_runtime_arguments(argv: Sequence[str]) -> list[str]:
    """Join `-r` with what follows it: an argument for the runtime mostly begins with a dash, and argparse balks."""
    joined: list[str] = []
    rest = iter(argv)
    for argument in rest:
        following = next(rest, None) if argument in ("-r", "--runtime-arg") else None
        joined.append(argument if following is None else f"--runtime-arg={following}")
    return joined


def _runtime(arguments: argparse.Namespace, agreement: Agreement) -> RuntimeCommand:
    arguments.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    arguments.cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return RuntimeCommand(
        binary=arguments.binary,
        extra=tuple(arguments.runtime_arg),
        workdir=arguments.work_dir.resolve(),
        cache=arguments.cache_dir.resolve(),
        limits=agreement.limits,
        managed_hardware=arguments.runtime_managed_hardware,
    )


def _schemes(arguments: argparse.Namespace) -> dict[str, object]:
    # Imported here: httpx costs as much as all the rest, and most activities never use it.
    from exeunit.transfer.http import HttpScheme

    http = HttpScheme(private=arguments.allow_private_addresses)
    schemes: dict[str, object] = {"http": http, "https": http}
    path, token = os.environ.get(BULK_VARIABLE), os.environ.get(BULK_TOKEN_VARIABLE)
    if path and token:
        bulk = BulkSocket(path, token)
        schemes["gftp"] = GftpScheme(bulk.download, bulk.upload)
    return schemes


def _unit(
    arguments: argparse.Namespace, agreement: Agreement, reporter: Reporter, schemes: dict[str, object]
) -> ExeUnit:
    if arguments.runtime_managed_image:
        agreement = msgspec.structs.replace(agreement, task_package=None)
    return ExeUnit(
        arguments.service_id,
        agreement,
        _runtime(arguments, agreement),
        reporter=reporter,
        schemes=schemes,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        kill_timeout=_kill_timeout(),
    )


def _kill_timeout() -> float:
    try:
        return max(1.0, float(os.environ.get(KILL_TIMEOUT_VARIABLE, "5")))
    except ValueError:
        return 5.0


async def _end_on_signal(unit: ExeUnit, signals: AsyncIterator[int]) -> None:
    async for number in signals:
        unit.end(f"the supervisor was told to end by {signal.Signals(number).name}")


async def _serve(arguments: argparse.Namespace) -> int:
    from exeunit.supervisor.service import BusReporter, serve
    from p2p.bus.client import connect_env

    agreement = read_agreement(arguments.agreement)
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        async with connect_env(os.environ) as bus:
            reporter = BusReporter(bus, arguments.report_url, arguments.service_id)
            unit = _unit(arguments, agreement, reporter, _schemes(arguments))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, unit, signals)
                await serve(unit, bus, bus.closed, agreement.requestor)
                nursery.cancel_scope.cancel()
    return 0


class _LogReporter:
    """Where there is no node, the log is told."""

    async def state(self, state: ActivityState) -> None:
        _log.info("state", state=[half.value if half else None for half in state.state], reason=state.reason)
        await trio.lowlevel.checkpoint()

    async def usage(self, usage: ActivityUsage) -> None:
        _log.info("usage", usage=usage.current_usage)
        await trio.lowlevel.checkpoint()


async def _run_file(arguments: argparse.Namespace) -> int:
    agreement = read_agreement(arguments.agreement)
    script = decode_exe_script(await trio.Path(arguments.input).read_bytes())
    schemes = _schemes(arguments)
    schemes["file"] = FileScheme(lambda: SystemEntropy().token_bytes(8).hex())
    unit = _unit(arguments, agreement, _LogReporter(), schemes)
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_on_signal, unit, signals)
            nursery.start_soon(unit.run)
            await trio.lowlevel.checkpoint()
            succeeded = await _print_results(unit, script)
            unit.end("the commands are done")
            await unit.wait_ended()
            nursery.cancel_scope.cancel()
    return 0 if succeeded else 1


async def _print_results(unit: ExeUnit, script: Sequence[ExeScriptCommand]) -> bool:
    """Run a script, print each result as it comes, and return whether all is well."""
    try:
        await unit.exec(Exec(unit.activity_id, _BATCH, tuple(script)))
    except Refused as refusal:
        sys.stderr.write(f"exe-unit: {refusal}\n")
        return False
    for index in range(len(script)):
        result = await _result(unit, index)
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.flush()
        if result.result is CommandResult.ERROR:
            return False
    return True


async def _result(unit: ExeUnit, index: int) -> ExeScriptCommandResult:
    """Wait for a command, however long it takes."""
    while True:
        try:
            poll = GetExecBatchResults(unit.activity_id, _BATCH, timeout=_POLL_S, command_index=index)
            return (await unit.get_exec_batch_results(poll)).results[-1]
        except Refused as refusal:
            if refusal.code is not ErrorCode.TIMEOUT:
                raise


def _print_template(arguments: argparse.Namespace) -> int:
    done = _call(arguments, "offer-template", _TEMPLATE_TIMEOUT_S)
    stdout = done.stdout if done.returncode == 0 else b""
    template = offer_template(stdout, (DURATION, CPU, MEMORY, STORAGE))
    sys.stdout.buffer.write(msgspec.json.encode(template) + b"\n")
    sys.stdout.flush()
    return 0


def _self_test(arguments: argparse.Namespace) -> int:
    done = _call(arguments, "test", _SELF_TEST_TIMEOUT_S)
    sys.stdout.buffer.write(done.stdout)
    sys.stderr.buffer.write(done.stderr)
    sys.stdout.flush()
    return 0 if done.returncode == 0 else 1


def _call(arguments: argparse.Namespace, name: str, timeout: int) -> subprocess.CompletedProcess[bytes]:
    here = Path.cwd()
    runtime = RuntimeCommand(arguments.binary, tuple(arguments.runtime_arg), here, here, Limits())
    try:
        return subprocess.run(  # noqa: S603 - the runtime is the provider's own choice
            runtime.subcommand(name),
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            env=child_environment("none"),
        )
    except OSError as error:
        raise CannotStart(f"cannot start the runtime {arguments.binary}: {error.strerror}") from error
