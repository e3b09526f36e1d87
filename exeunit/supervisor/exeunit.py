"""`ExeUnit`: one activity, alive. Drives the core: runs its commands, moves its files, counts, reports, cleans up.

Has one async method for each request of the bus, so that `service` only has to bind them; nothing here knows of a bus.
One command runs at a time. The end comes in one way only: `terminate` (from whoever: a request, a signal, a limit, a
node that is gone) marks it, and `run` kills what runs, removes what is owned, reports `Terminated` and returns.

Errors towards callers: `core.Refused`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog
import trio

from exeunit.sandbox import disk
from exeunit.supervisor.child import CannotStart, Ended, run_child
from exeunit.supervisor.core import SUPERVISOR_FAILURE, Core, Job, Refused
from exeunit.supervisor.journal import Journal
from exeunit.supervisor.meter import Meter
from exeunit.supervisor.runtime import (
    MAX_ANSWER_BYTES,
    BadAnswer,
    RuntimeCommand,
    child_environment,
    deploy_answer,
)
from exeunit.supervisor.script import Command, check_script
from exeunit.supervisor.usage import GIB, Usage, read_process
from exeunit.transfer.cache import ImageCache
from exeunit.transfer.container import ContainerScheme, Volume
from exeunit.transfer.errors import TransferError
from exeunit.transfer.location import parse_location
from exeunit.transfer.transfer import Transfers
from protocols.activity.messages import (
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    BatchResults,
    Deploy,
    Done,
    ErrorCode,
    Exec,
    ExeScriptCommand,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    Run,
    RunningCommands,
    ScriptError,
    Start,
    StreamedEvent,
    StreamExecBatchResults,
    Terminate,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from exeunit.supervisor.agreement import Agreement
    from p2p.clock import Clock
    from p2p.entropy import Entropy

USAGE_INTERVAL_S: Final = 1.0
STORAGE_INTERVAL_S: Final = 30.0
"""A walk over the volumes costs the provider. It is also made after commands, at the most once a second."""
_MIN_STORAGE_INTERVAL_S: Final = 1.0
REPORT_TIMEOUT_S: Final = 5.0
_LAST_REPORT_S: Final = 2.0
_MAX_POLL_S: Final = 600.0
_MAX_MESSAGE: Final = 500
_LIMIT_SLACK_GIB: Final = 0.25
"""A runtime's own memory (interpreter, emulator) beside the guest's, which the limit does not mean."""

_log = structlog.get_logger("exeunit.supervisor")


class ReportFailed(Exception):
    """The node cannot be told any more: it is gone, or knows nothing of this activity."""


class Reporter(Protocol):
    """Tells the node."""

    async def state(self, state: ActivityState) -> None:
        """Report a state. Raises ReportFailed."""
        ...

    async def usage(self, usage: ActivityUsage) -> None:
        """Report usage. Raises ReportFailed, but not because the node is slow."""
        ...


class ExeUnit:
    """One activity."""

    def __init__(
        self,
        activity_id: str,
        agreement: Agreement,
        runtime: RuntimeCommand,
        *,
        reporter: Reporter,
        schemes: Mapping[str, object],
        clock: Clock,
        entropy: Entropy,
        kill_timeout: float = 5.0,
    ) -> None:
        """Make it; `run` brings it to life.

        Args:
            activity_id: 32 hex digits.
            agreement: its counters, limits and task package.
            runtime: how to call the runtime; its work directory exists.
            reporter: tells the node.
            schemes: what scripts may transfer from and to, beside `container`.
            clock: for time stamps, durations and the usage's seconds.
            entropy: for names of partial files.
            kill_timeout: seconds between asking a command to end and ending it.
        """
        self.activity_id = activity_id
        self._agreement = agreement
        self._runtime = runtime
        self._reporter = reporter
        self._clock = clock
        self._kill_timeout = kill_timeout
        self._core = Core()
        self._usage = Usage(clock.monotonic())
        self._changed = trio.Event()
        self._work = trio.Event()
        self._ending = trio.Event()
        self._ended = trio.Event()
        self._child: int | None = None
        self._counted = clock.monotonic()
        self._volumes: tuple[Volume, ...] = ()
        self._environment: dict[str, str] = {}
        self._package: Path | None = None
        self._journal = Journal(runtime.workdir, entropy.token_bytes(16).hex())
        self._deploy_schemes = dict(schemes)
        unique = lambda: entropy.token_bytes(8).hex()  # noqa: E731
        self._images = ImageCache(runtime.cache, unique)
        container = ContainerScheme(lambda: self._volumes, self._room, unique)
        self._schemes = {**schemes, "container": container}

    # --- requests -------------------------------------------------------------------------------------------

    async def exec(self, request: Exec) -> BatchAccepted:
        """Queue a batch. Raises Refused."""
        self._check_id(request.activity_id)
        try:
            commands = check_script(request.exe_script)
        except ScriptError as error:
            raise Refused(ErrorCode.BAD_REQUEST, str(error)) from error
        self._core.accept(request.batch_id, commands)
        self._work.set()
        await trio.lowlevel.checkpoint()
        return BatchAccepted(request.batch_id)

    async def get_exec_batch_results(self, request: GetExecBatchResults) -> BatchResults:
        """Wait for results.

        Without an index it returns in time with what there is; with one, it fails when the command has not ended.

        Raises:
            Refused: no such batch or command, or `timeout`.
        """
        self._check_id(request.activity_id)
        batch_id, index = request.batch_id, request.command_index
        with trio.move_on_after(_poll_seconds(request.timeout)):
            while not self._core.results(batch_id, index)[1]:
                await self._changed.wait()
        results, complete = self._core.results(batch_id, index)
        if index is not None and not complete:
            raise Refused(ErrorCode.TIMEOUT, "the command has not ended yet")
        return BatchResults(results)

    async def stream_exec_batch_results(
        self, request: StreamExecBatchResults
    ) -> AsyncIterator[StreamedEvent]:
        """Yield the events of a batch, from its beginning or after one that is known, to its end. Raises Refused."""
        self._check_id(request.activity_id)
        last = -1 if request.after is None else request.after
        while True:
            changed = self._changed
            events, ended = self._core.events(request.batch_id, last)
            for event in events:
                yield event
                last = event.id
            if ended:
                return
            if not events:
                await changed.wait()

    async def get_running_command(self, request: GetRunningCommand) -> RunningCommands:
        """Return what runs or waits. Raises Refused."""
        self._check_id(request.activity_id)
        await trio.lowlevel.checkpoint()
        return RunningCommands(self._core.running())

    async def get_activity_state(self, request: GetActivityState) -> ActivityState:
        """Return the state. Raises Refused."""
        self._check_id(request.activity_id)
        await trio.lowlevel.checkpoint()
        return self._core.state

    async def get_activity_usage(self, request: GetActivityUsage) -> ActivityUsage:
        """Measure and return usage. Raises Refused."""
        self._check_id(request.activity_id)
        await trio.lowlevel.checkpoint()
        return self._measure()

    async def terminate(self, request: Terminate) -> Done:
        """End the activity; returns before it has ended. Raises Refused."""
        self._check_id(request.activity_id)
        self.end(request.reason or "terminated by request")
        await trio.lowlevel.checkpoint()
        return Done()

    def _check_id(self, activity_id: str) -> None:
        if activity_id != self.activity_id:
            raise Refused(ErrorCode.NOT_FOUND, f"activity {activity_id[:64]} does not run here")

    # --- life -----------------------------------------------------------------------------------------------

    def end(self, reason: str, error: str | None = None) -> None:
        """Begin the end; only the first reason counts. Returns at once, and may be called from anywhere in trio."""
        self._core.terminating(reason, error)
        self._ending.set()
        self._notify()

    async def wait_ended(self) -> None:
        """Wait until nothing of the activity is left."""
        await self._ended.wait()

    async def run(self) -> None:
        """Live until something ends the activity; cancelling is one of those. Returns when all is cleaned up."""
        self._core.initialized()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_commands)
                nursery.start_soon(self._report_states)
                nursery.start_soon(self._report_usage)
                await self._ending.wait()
                # Cancels the command that runs; it is over, with its processes, when the nursery is.
                nursery.cancel_scope.cancel()
        finally:
            self._core.terminating("the supervisor was stopped")
            with trio.CancelScope(shield=True):
                await self._clean_up()

    async def _clean_up(self) -> None:
        await self._count_storage()
        await trio.to_thread.run_sync(_remove_volumes, self._volumes)
        (self._runtime.workdir / "package").unlink(missing_ok=True)
        self._core.terminated(self._clock.utc_ns())
        self._notify()
        await self._last_report(self._reporter.usage, self._measure())
        await self._last_report(self._reporter.state, self._core.state)
        self._journal.close()
        self._ended.set()

    async def _last_report(self, send: Callable[[Any], Awaitable[None]], what: object) -> None:
        with trio.move_on_after(_LAST_REPORT_S):
            try:
                await send(what)
            except ReportFailed as error:
                _log.info("the end could not be reported", reason=str(error))

    def _notify(self) -> None:
        """Wake whoever waits for anything to change."""
        self._changed.set()
        self._changed = trio.Event()

    async def _report_states(self) -> None:
        reported: ActivityState | None = None
        while True:
            changed = self._changed
            state = self._core.state
            if state != reported and state.alive:
                if not await self._report(self._reporter.state, state):
                    return
                reported = state
            else:
                await changed.wait()

    async def _report_usage(self) -> None:
        while True:
            await trio.sleep(USAGE_INTERVAL_S)
            if self._clock.monotonic() >= self._counted + STORAGE_INTERVAL_S:
                await self._count_storage()
            usage = self._measure()
            self._check_limits()
            if not await self._report(self._reporter.usage, usage):
                return

    async def _report(self, send: Callable[[Any], Awaitable[None]], what: object) -> bool:
        try:
            await send(what)
        except ReportFailed as error:
            self.end("the node is gone", str(error))
            return False
        return True

    # --- usage ----------------------------------------------------------------------------------------------

    def _measure(self) -> ActivityUsage:
        if self._child is not None:
            seen = read_process(self._child)
            if seen is not None:
                self._usage.child_lives(*seen)
        vector = self._usage.vector(self._agreement.counters, self._clock.monotonic())
        return ActivityUsage(vector, self._clock.utc_ns() // 1_000_000_000)

    async def _count_storage(self) -> None:
        self._counted = self._clock.monotonic()
        directories = [volume.directory for volume in self._volumes]
        self._usage.storage(await trio.to_thread.run_sync(disk.usage, directories))

    def _room(self) -> int:
        """Return the bytes that the volumes may still take; called in a worker thread."""
        directories = [volume.directory for volume in self._volumes]
        if self._agreement.limits.storage_gib is None:
            return shutil.disk_usage(self._runtime.workdir).free
        return int(self._agreement.limits.storage_gib * GIB) - disk.usage(directories)

    def _check_limits(self) -> None:
        limits = self._agreement.limits
        if limits.expires is not None and self._clock.utc_ns() / 1e9 > limits.expires:
            self.end("the agreement's time is over")
        if self._runtime.keeps_limits:
            return
        used, held = self._usage.memory_gib, self._usage.storage_gib
        if limits.memory_gib is not None and used > limits.memory_gib + _LIMIT_SLACK_GIB:
            self.end("usage limit exceeded", f"{used:.2f} GiB of memory; {limits.memory_gib:g} were agreed")
        if limits.storage_gib is not None and held > limits.storage_gib:
            self.end("usage limit exceeded", f"{held:.2f} GiB of storage; {limits.storage_gib:g} were agreed")

    # --- commands -------------------------------------------------------------------------------------------

    async def _run_commands(self) -> None:
        while True:
            self._work = trio.Event()
            job = self._core.begin(self._clock.utc_ns())
            self._notify()
            if job is None:
                await self._work.wait()
                continue
            code, message = await self._execute(job)
            if self._clock.monotonic() >= self._counted + _MIN_STORAGE_INTERVAL_S:
                await self._count_storage()
            self._core.finish(code, message, self._clock.utc_ns())
            self._notify()

    async def _execute(self, job: Job) -> tuple[int, str | None]:
        """Run one command; return its code, and why it failed."""
        _log.info("command begins", batch=job.batch_id, index=job.index, command=job.command.name)
        match job.command.source:
            case ExeScriptCommand(deploy=Deploy() as deploy):
                return await self._deploy(job.command, deploy)
            case ExeScriptCommand(start=Start() as start):
                return await self._call_runtime(self._runtime.start(self._package, start), None)
            case ExeScriptCommand(run=Run() as run):
                line = self._runtime.run(self._package, run, self._environment)
                return await self._call_runtime(line, job.command.timeout)
        if job.command.name == "transfer":
            return await self._transfer(job.command)
        await trio.to_thread.run_sync(_remove_volumes, self._volumes)
        self._volumes = ()
        return 0, None

    async def _deploy(self, command: Command, deploy: Deploy) -> tuple[int, str | None]:
        try:
            self._package = await self._fetch_package(command)
        except TransferError as error:
            return SUPERVISOR_FAILURE, f"the task package cannot be had: {error}"
        printed = bytearray()
        line = self._runtime.deploy(self._package, deploy)
        code, message = await self._call_runtime(line, None, printed)
        if code != 0:
            return code, message
        try:
            volumes = deploy_answer(bytes(printed), self._runtime.workdir)
        except BadAnswer as error:
            return SUPERVISOR_FAILURE, str(error)
        # The runtime has made them, but nothing is in them yet that would have to be removed after a crash.
        for volume in volumes:
            self._journal.owns(Path(volume.directory))
        self._volumes = volumes
        self._environment = deploy.env
        return 0, None

    async def _fetch_package(self, command: Command) -> Path | None:
        if self._agreement.task_package is None:
            return None
        location = parse_location(self._agreement.task_package, "file")
        meter = self._meter(command)
        transfers = Transfers(self._deploy_schemes, note=meter.note)
        path, cached = await self._images.get(transfers, location, meter.progress)
        if cached:
            meter.note("Deployed image from cache")
        return await trio.to_thread.run_sync(self._hold_package, path)

    def _hold_package(self, image: Path) -> Path:
        """Give the image a second name of our own, so that the cache may forget it while we use it."""
        own = self._runtime.workdir / "package"
        self._journal.owns(own)
        own.unlink(missing_ok=True)
        try:
            own.hardlink_to(image)
        except OSError:
            return image  # another file system, or one without links: the cache's newest stay anyway
        return own

    async def _transfer(self, command: Command) -> tuple[int, str | None]:
        assert command.places is not None
        meter = self._meter(command)
        transfers = Transfers(self._schemes, note=meter.note)
        try:
            size = await transfers.transfer(*command.places, meter.progress)
        except TransferError as error:
            return SUPERVISOR_FAILURE, str(error)
        meter.finished(size)
        return 0, None

    async def _call_runtime(
        self, line: list[str], timeout: float | None, printed: bytearray | None = None
    ) -> tuple[int, str | None]:
        """Run the runtime once; `printed` collects the head of its stdout."""
        last_words = bytearray()

        def take(stream: str, data: bytes) -> None:
            if stream == "stderr":
                last_words.extend(data)
                del last_words[:-4096]
            elif printed is not None:
                printed.extend(data[: MAX_ANSWER_BYTES - len(printed)])
            self._core.output(stream, data, self._clock.utc_ns())
            self._notify()

        code = SUPERVISOR_FAILURE
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout) as limit:
                ended = await run_child(
                    line,
                    cwd=self._runtime.workdir,
                    environment=child_environment(self._journal.token),
                    on_output=take,
                    watcher=self,
                    kill_timeout=self._kill_timeout,
                )
                code = ended.code
        except CannotStart as error:
            return SUPERVISOR_FAILURE, str(error)
        if limit.cancelled_caught:
            return SUPERVISOR_FAILURE, f"the command was ended: its time limit of {timeout:g} s was over"
        return code, _why(code, bytes(last_words))

    # --- what `run_child` tells -----------------------------------------------------------------------------

    def child_started(self, pid: int) -> None:
        """Note a process of the runtime."""
        self._journal.started(pid)
        self._child = pid

    def child_ended(self, pid: int, ended: Ended) -> None:
        """Note that it is gone, and what it used."""
        self._journal.ended(pid)
        self._usage.child_ended(ended.cpu_s, ended.peak_bytes)
        self._child = None

    def _meter(self, command: Command) -> Meter:
        def tell(done: int, total: int | None, message: str | None, finished: bool) -> None:
            self._core.progress(done, total, message, self._clock.utc_ns(), finished=finished)
            self._notify()

        return Meter(command.progress, tell, self._clock)


def _poll_seconds(timeout: float | None) -> float:
    return 0.0 if timeout is None else min(max(timeout, 0.0), _MAX_POLL_S)


def _why(code: int, stderr: bytes) -> str | None:
    """Return why a command failed: how it ended, and the last thing that it said."""
    if code == 0:
        return None
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    how = (
        f"the command was killed by signal {-code}"
        if code < 0
        else f"the command failed with exit code {code}"
    )
    return f"{how}: {lines[-1][:_MAX_MESSAGE]}" if lines else how


def _remove_volumes(volumes: tuple[Volume, ...]) -> None:
    for volume in volumes:
        shutil.rmtree(volume.directory, ignore_errors=True)
