"""Exe-units as models: what `node.provider.exeunits` is in production, without processes.

A model exe-unit has the supervisor's own core (states, batches, results, events) and speaks to the node as a
supervisor does: it serves `/public/exeunit/<id>`, reports states and, each second, usage to `/local/activity`,
and moves files through gftp. Only the runtime is invented: a program runs for some seconds that chance gives,
and its one result is a hash of all that it was given. The result is what any `container:` path holds that
nothing was copied to.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import msgspec
import trio

from exeunit.supervisor.core import SUPERVISOR_FAILURE, Core, Job, Refused
from exeunit.supervisor.script import check_script
from exeunit.transfer.location import container_path, parse_location
from p2p.bus import BusError, Caller, Service, ServiceError, ask
from p2p.overlay import OverlayError
from protocols.activity.messages import (
    REPORT_SERVICE,
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    BatchResults,
    Deploy,
    Done,
    Exec,
    ExeScriptCommand,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    Run,
    RunningCommands,
    ScriptError,
    SetActivityState,
    SetActivityUsage,
    Start,
    StreamedEvent,
    StreamExecBatchResults,
    Terminate,
    exeunit_service,
)
from protocols.files.errors import FilesError, RemoteFilesError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from p2p.bus import Bus
    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from protocols.files.handler import FilesProtocol
    from protocols.market.messages import AgreementView

BOOT_SECONDS: Final = (0.1, 0.4)
"""Least and most that a supervisor takes until it is there."""
START_SECONDS: Final = (0.5, 1.5)
RUN_SECONDS: Final = (2.0, 8.0)
CPU_SHARE: Final = 0.9
"""CPU seconds in each second of a running program."""
USAGE_INTERVAL: Final = 1.0
_LAST_REPORT: Final = 2.0
_MOST_WAIT: Final = 600.0

Request = TypeVar("Request")


class ModelLauncher:
    """Starts model exe-units as tasks; an `ExeUnitLauncher`.

    Args:
        bus: of the provider's node.
        files: moves the exe-units' files.
        folder: holds what they fetch.
        entropy: says how long things take.
        nursery: the exe-units live in it.
        note: told what happens in them.
    """

    def __init__(
        self,
        bus: Bus,
        files: FilesProtocol,
        folder: Path,
        *,
        clock: Clock,
        entropy: Entropy,
        nursery: trio.Nursery,
        note: Callable[[str], None],
    ) -> None:
        self.bus = bus
        self.files = files
        self.folder = folder
        self.clock = clock
        self.entropy = entropy
        self.note = note
        self._nursery = nursery

    async def launch(self, activity_id: str, agreement: AgreementView) -> ModelExeUnit:
        unit = ModelExeUnit(self, activity_id, agreement)
        self._nursery.start_soon(unit.run)
        await trio.lowlevel.checkpoint()
        return unit

    async def sweep(self) -> None:
        await trio.lowlevel.checkpoint()  # tasks leave nothing behind


class ModelExeUnit:
    """One activity; an `ExeUnit`."""

    def __init__(self, world: ModelLauncher, activity_id: str, agreement: AgreementView) -> None:
        offer, demand = (
            msgspec.json.decode(text) for text in (agreement.offer_properties, agreement.demand_properties)
        )
        self._world = world
        self._id = activity_id
        self._requestor = agreement.requestor_id
        self._counters: list[str] = offer["golem.com.usage.vector"]
        self._package: str | None = demand.get("golem.srv.comp.task_package")
        self._folder = world.folder / activity_id
        self._core = Core()
        self._inputs: dict[str, str] = {}
        """Digests of what was copied in, by name."""
        self._result = b""
        self._began = world.clock.monotonic()
        self._cpu = 0.0
        self._running_since: float | None = None
        self._changed, self._work = trio.Event(), trio.Event()
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    # --- what the provider's side calls -----------------------------------------------------------------

    async def wait(self) -> str:
        await self._gone.wait()
        return "the exe-unit ended"

    async def stop(self) -> None:
        self._end("stopped by the node")
        await self._gone.wait()

    async def run(self) -> None:
        """Live until ended or cancelled."""
        bus = self._world.bus
        registration = bus.register(exeunit_service(self._id), self._service())
        try:
            with self._scope:
                await self._spend(BOOT_SECONDS)
                self._core.initialized()
                await self._report_state()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._report_usage)
                    await self._work_through()
        finally:
            registration.close()
            self._core.terminating("the exe-unit was stopped")
            self._core.terminated(self._world.clock.utc_ns())
            self._notify()
            with trio.CancelScope(shield=True), trio.move_on_after(_LAST_REPORT):
                await self._report(SetActivityUsage(self._id, self._usage()))
                await self._report_state()
            self._world.note(f"exe-unit {self._id} is gone")
            self._gone.set()

    def _end(self, reason: str) -> None:
        self._core.terminating(reason)
        self._scope.cancel()

    # --- reports ----------------------------------------------------------------------------------------

    async def _report(self, report: SetActivityState | SetActivityUsage) -> None:
        try:
            await ask(self._world.bus, REPORT_SERVICE, report, Done)
        except BusError as error:
            self._end(f"the node is gone: {error}")

    async def _report_state(self) -> None:
        await self._report(SetActivityState(self._id, self._core.state))

    async def _report_usage(self) -> NoReturn:
        while True:
            await trio.sleep(USAGE_INTERVAL)
            await self._report(SetActivityUsage(self._id, self._usage()))

    def _usage(self) -> ActivityUsage:
        now = self._world.clock.monotonic()
        running = 0.0 if self._running_since is None else now - self._running_since
        figures = {
            "golem.usage.duration_sec": now - self._began,
            "golem.usage.cpu_sec": self._cpu + running * CPU_SHARE,
        }
        usage = tuple(figures.get(counter, 0.0) for counter in self._counters)
        return ActivityUsage(usage, self._world.clock.utc_ns() // 10**9)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- commands ---------------------------------------------------------------------------------------

    async def _work_through(self) -> NoReturn:
        clock = self._world.clock
        while True:
            self._work = trio.Event()
            job = self._core.begin(clock.utc_ns())
            self._notify()
            if job is None:
                await self._work.wait()
                continue
            code, message = await self._execute(job)
            self._core.finish(code, message, clock.utc_ns())
            what = " ".join((job.command.name, *job.command.params))
            self._world.note(f"exe-unit {self._id} ended with {code}: {what}")
            await self._report_state()
            self._notify()

    async def _execute(self, job: Job) -> tuple[int, str | None]:
        try:
            match job.command.source:
                case ExeScriptCommand(deploy=Deploy()):
                    if self._package is not None:
                        await self._fetch(self._package, "package")
                case ExeScriptCommand(start=Start()):
                    await self._spend(START_SECONDS)
                case ExeScriptCommand(run=Run() as run):
                    await self._compute(run)
                case _ if job.command.places is not None:
                    source, target = job.command.places
                    await self._transfer(source.url, target.url)
        except (FilesError, RemoteFilesError, OverlayError) as error:
            return SUPERVISOR_FAILURE, str(error)
        return 0, None

    async def _compute(self, run: Run) -> None:
        self._running_since = self._world.clock.monotonic()
        try:
            await self._spend(RUN_SECONDS)
        finally:
            self._cpu += (self._world.clock.monotonic() - self._running_since) * CPU_SHARE
            self._running_since = None
        self._result = result_of(self._inputs, run.args)
        self._core.output("stdout", self._result, self._world.clock.utc_ns())

    async def _transfer(self, source: str, target: str) -> None:
        """Copy in from gftp, or out to gftp."""
        if target.startswith("container:"):
            await self._fetch(source, "/".join(container_path(target)))
            return
        path = self._path("result")
        await trio.Path(path).write_bytes(self._result)
        await self._world.files.upload(target, path)

    async def _fetch(self, location: str, name: str) -> None:
        path = self._path(name)
        await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
        await self._world.files.download(parse_location(location, "gftp").url, path)
        self._inputs[name] = hashlib.sha256(await trio.Path(path).read_bytes()).hexdigest()

    def _path(self, name: str) -> Path:
        return self._folder / name.replace("/", "_")

    async def _spend(self, seconds: tuple[float, float]) -> None:
        await trio.sleep(self._world.entropy.jitter.uniform(*seconds))

    # --- requests ---------------------------------------------------------------------------------------

    def _service(self) -> Service:
        service = Service()

        def method(request: type[Request], handler: Callable[[Request], Awaitable[object]]) -> None:
            async def answer(caller: Caller, message: Request) -> object:
                self._check(caller)
                try:
                    return await handler(message)
                except Refused as refusal:
                    raise ServiceError(refusal.code.value, str(refusal)) from refusal

            service.method(request, answer)

        method(Exec, self._on_exec)
        method(GetExecBatchResults, self._on_results)
        method(GetRunningCommand, self._on_running)
        method(GetActivityState, self._on_state)
        method(GetActivityUsage, self._on_usage)
        method(Terminate, self._on_terminate)
        service.streaming(StreamExecBatchResults, self._on_stream)
        return service

    def _check(self, caller: Caller) -> None:
        if not caller.local and caller.node_id != self._requestor:
            raise ServiceError("forbidden", f"{caller.node_id} is not the requestor of this activity")

    async def _on_exec(self, request: Exec) -> BatchAccepted:
        try:
            commands = check_script(request.exe_script)
        except ScriptError as error:
            raise ServiceError("badRequest", str(error)) from error
        self._core.accept(request.batch_id, commands)
        self._work.set()
        await trio.lowlevel.checkpoint()
        return BatchAccepted(request.batch_id)

    async def _on_results(self, request: GetExecBatchResults) -> BatchResults:
        batch_id, index = request.batch_id, request.command_index
        with trio.move_on_after(min(_MOST_WAIT, request.timeout or 0.0)):
            while not self._core.results(batch_id, index)[1]:
                await self._changed.wait()
        results, complete = self._core.results(batch_id, index)
        if index is not None and not complete:
            raise ServiceError("timeout", "the command has not ended yet")
        return BatchResults(results)

    async def _on_stream(
        self, caller: Caller, request: StreamExecBatchResults
    ) -> AsyncIterator[StreamedEvent]:
        self._check(caller)
        last = -1 if request.after is None else request.after
        while True:
            changed = self._changed
            try:
                events, ended = self._core.events(request.batch_id, last)
            except Refused as refusal:
                raise ServiceError(refusal.code.value, str(refusal)) from refusal
            for event in events:
                yield event
                last = event.id
            if ended:
                return
            if not events:
                await changed.wait()

    async def _on_running(self, request: GetRunningCommand) -> RunningCommands:
        await trio.lowlevel.checkpoint()
        return RunningCommands(self._core.running())

    async def _on_state(self, request: GetActivityState) -> ActivityState:
        await trio.lowlevel.checkpoint()
        return self._core.state

    async def _on_usage(self, request: GetActivityUsage) -> ActivityUsage:
        await trio.lowlevel.checkpoint()
        return self._usage()

    async def _on_terminate(self, request: Terminate) -> Done:
        self._end(request.reason or "terminated by request")
        await trio.lowlevel.checkpoint()
        return Done()


def result_of(inputs: dict[str, str], args: tuple[str, ...]) -> bytes:
    """Return what a model program computes.

    Args:
        inputs: SHA-256 of the program (`package`) and of all that was copied in, in hexadecimal.
        args: of the run.
    """
    given = msgspec.json.encode([sorted(inputs.items()), args])
    return hashlib.sha256(given).hexdigest().encode()
