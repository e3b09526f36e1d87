"""Exe-units for tests: a runtime that is a shell script, a reporter that remembers, and the words to drive them."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from exeunit.supervisor.agreement import Agreement, Limits
from exeunit.supervisor.exeunit import ExeUnit, ReportFailed
from exeunit.supervisor.runtime import RuntimeCommand
from exeunit.transfer.file import FileScheme
from p2p.clock import SystemClock
from p2p.entropy import SeededEntropy
from protocols.activity.messages import (
    ActivityState,
    ActivityUsage,
    Exec,
    ExeScriptCommandResult,
    GetExecBatchResults,
    State,
    StreamedEvent,
    StreamExecBatchResults,
    decode_exe_script,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ACTIVITY = "a" * 32
COUNTERS = ("golem.usage.cpu_sec", "golem.usage.duration_sec", "golem.usage.gib", "golem.usage.storage_gib")

SHELL = """#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    deploy) mkdir -p vol-1; echo '{"vols": [{"name": "vol-1", "path": "/work"}]}'; exit 0;;
    deploy-fails) echo "no such image" >&2; exit 7;;
    blocking) echo '{"startMode": "blocking"}'; exit 0;;
    start) exit 0;;
    run) shift 4; cd vol-1; exec sh -c "$1";;
    test) echo tested; exit 0;;
    offer-template) echo 'noise'; echo '{"properties": {"golem.runtime.x": 1}, "constraints": "(a=1)"}'; exit 0;;
  esac
  shift
done
exit 99
"""
"""`run` with the entry point `sh` runs its argument as a shell command in the volume."""


def shell_runtime(directory: Path) -> str:
    path = directory / "runtime.sh"
    path.write_text(SHELL)
    path.chmod(0o755)
    return str(path)


class Reports:
    """A reporter that remembers, and can be told to fail."""

    def __init__(self) -> None:
        self.states: list[ActivityState] = []
        self.usages: list[ActivityUsage] = []
        self.fail = False

    async def state(self, state: ActivityState) -> None:
        await trio.lowlevel.checkpoint()
        if self.fail:
            raise ReportFailed("no such activity")
        self.states.append(state)

    async def usage(self, usage: ActivityUsage) -> None:
        await trio.lowlevel.checkpoint()
        if self.fail:
            raise ReportFailed("no such activity")
        self.usages.append(usage)


class Driver:
    """An exe-unit and what a requestor says to it."""

    def __init__(
        self, directory: Path, *, binary: str = "", extra: tuple[str, ...] = (), package: str | None = None,
        limits: Limits | None = None, kill_timeout: float = 30.0,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.workdir = directory / "work"
        self.workdir.mkdir()
        self.reports = Reports()
        limits = limits or Limits()
        entropy = SeededEntropy(1)
        runtime = RuntimeCommand(
            binary or shell_runtime(directory), extra, self.workdir, directory / "cache", limits
        )
        self.unit = ExeUnit(
            ACTIVITY, Agreement("agreement", COUNTERS, limits, package, "0xabc"), runtime,
            reporter=self.reports, schemes={"file": FileScheme(lambda: entropy.token_bytes(4).hex())},
            clock=SystemClock(), entropy=entropy, kill_timeout=kill_timeout,
        )  # fmt: skip
        self._batches = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Driver]:
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.unit.run)
                await trio.testing.wait_all_tasks_blocked()
                yield self
                self.unit.end("the test is over")
                await self.unit.wait_ended()

    async def exec(self, *commands: dict[str, Any]) -> str:
        self._batches += 1
        batch_id = f"batch-{self._batches}"
        await self.unit.exec(Exec(ACTIVITY, batch_id, decode_exe_script(json.dumps(commands))))
        return batch_id

    async def results(self, batch_id: str) -> tuple[ExeScriptCommandResult, ...]:
        poll = GetExecBatchResults(ACTIVITY, batch_id, timeout=45)
        return (await self.unit.get_exec_batch_results(poll)).results

    async def do(self, *commands: dict[str, Any]) -> tuple[ExeScriptCommandResult, ...]:
        return await self.results(await self.exec(*commands))

    async def shell(self, command: str, **more: Any) -> ExeScriptCommandResult:
        (result,) = await self.do(shell(command, **more))
        return result

    async def ready(self) -> None:
        results = await self.do({"deploy": {}}, {"start": {}})
        assert [result.message for result in results] == [None, None]

    async def events(self, batch_id: str) -> list[StreamedEvent]:
        request = StreamExecBatchResults(ACTIVITY, batch_id)
        return [event async for event in self.unit.stream_exec_batch_results(request)]

    @property
    def last_state(self) -> State:
        return self.reports.states[-1].state[0]


def shell(command: str, **more: Any) -> dict[str, Any]:
    capture: dict[str, Any] = {"stdout": {"stream": {}}, "stderr": {"stream": {}}}
    return {"run": {"entry_point": "sh", "args": [command], "capture": capture, **more}}
