"""A provider, its requestor and a stranger on nodes in memory, with agreements that a test writes itself and
exe-units that do what a test plans."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from p2p import codec
from p2p.bus import BusError, Caller, Service, ServiceError, ask, net_address
from p2p.testing.nodes import memory_nodes
from protocols.activity.events import TOPIC, ActivityEvent
from protocols.activity.handler import ActivityProtocol
from protocols.activity.launcher import LaunchError
from protocols.activity.messages import (
    REPORT_SERVICE,
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    BatchResults,
    CommandFinished,
    CommandResult,
    CommandStarted,
    Done,
    Exec,
    ExeScriptCommandResult,
    GetExecBatchResults,
    GetRunningCommand,
    RunningCommand,
    RunningCommands,
    RuntimeEvent,
    RuntimeEventKind,
    SetActivityState,
    SetActivityUsage,
    State,
    StreamedEvent,
    StreamExecBatchResults,
    exeunit_service,
)
from protocols.market.events import AgreementChanged
from protocols.market.messages import (
    AGREEMENT_TOPIC,
    LOCAL_SERVICE,
    AgreementState,
    AgreementView,
    GetAgreement,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.identity import NodeId
    from p2p.protocol import NodeContext

INITIALIZED = ActivityState((State.INITIALIZED, None))
READY = ActivityState((State.READY, None))
SCRIPT = '[{"deploy": {}}, {"start": {}}, {"run": {"entry_point": "work"}}]'
AGREEMENT = "a1" * 32


@dataclasses.dataclass
class Plan:
    """What the next exe-units do."""

    refusal: str = ""
    """Why they cannot be started; empty for those that can."""
    launch_seconds: float = 0.0
    boot_seconds: float = 0.1
    """Until Initialized is reported."""
    dies_after: float = float("inf")
    silent_after: float = float("inf")
    """Seconds of life after which it reports nothing more."""
    stop_seconds: float = 0.0
    command_seconds: float = 1.0
    fails_at: int = -1
    """Index of the command that fails."""
    stays_after_terminated: bool = False


class Units:
    """Launches exe-units by plan; an `ExeUnitLauncher`."""

    def __init__(self, ctx: NodeContext, nursery: trio.Nursery) -> None:
        self.ctx = ctx
        self.plan = Plan()
        self.made: dict[str, Unit] = {}
        self.sweeps = 0
        self._nursery = nursery

    @property
    def running(self) -> set[str]:
        return {name for name, unit in self.made.items() if not unit.gone.is_set()}

    async def launch(self, activity_id: str, agreement: AgreementView) -> Unit:
        plan = dataclasses.replace(self.plan)
        await trio.sleep(plan.launch_seconds)
        if plan.refusal:
            raise LaunchError(plan.refusal)
        unit = self.made[activity_id] = Unit(self.ctx, activity_id, agreement.requestor_id, plan)
        self._nursery.start_soon(unit.run)
        return unit

    async def sweep(self) -> None:
        await trio.lowlevel.checkpoint()
        self.sweeps += 1


class Unit:
    """One exe-unit; an `ExeUnit`."""

    def __init__(self, ctx: NodeContext, activity_id: str, requestor: str, plan: Plan) -> None:
        self.id = activity_id
        self.plan = plan
        self.gone = trio.Event()
        self.stops = 0
        self.refused: list[str] = []
        """Errors with which the node answered our reports."""
        self._ctx = ctx
        self._requestor = requestor
        self._scope = trio.CancelScope()
        self._batches: dict[str, list[ExeScriptCommandResult]] = {}
        self._events: dict[str, list[StreamedEvent]] = {}
        self._sizes: dict[str, int] = {}
        self._changed = trio.Condition()
        self._nursery: trio.Nursery

    async def wait(self) -> str:
        await self.gone.wait()
        return "the exe-unit ended"

    async def stop(self) -> None:
        self.stops += 1
        await trio.sleep(self.plan.stop_seconds)
        self._scope.cancel()
        await self.gone.wait()

    async def report(self, state: ActivityState) -> None:
        await self._say(SetActivityState(self.id, state))

    async def report_usage(self, *usage: float) -> None:
        await self._say(SetActivityUsage(self.id, ActivityUsage(usage, self._ctx.clock.utc_ns() // 10**9)))

    async def _say(self, report: SetActivityState | SetActivityUsage) -> None:
        try:
            await ask(self._ctx.bus, REPORT_SERVICE, report, Done)
        except BusError as error:
            self.refused.append(str(error))

    async def run(self) -> None:
        began = trio.current_time()
        registration = self._ctx.bus.register(exeunit_service(self.id), self._service(), allow=self._admits)
        try:
            with self._scope, trio.move_on_after(self.plan.dies_after):
                async with trio.open_nursery() as self._nursery:
                    await trio.sleep(self.plan.boot_seconds)
                    await self.report(INITIALIZED)
                    while True:
                        await trio.sleep(1.0)
                        seconds = trio.current_time() - began
                        if seconds < self.plan.silent_after:
                            await self.report_usage(seconds, seconds / 2)
        finally:
            registration.close()
            self.gone.set()

    def _admits(self, caller: Caller) -> bool:
        return caller.node_id == self._requestor

    def _service(self) -> Service:
        service = Service()
        service.method(Exec, self._on_exec)
        service.method(GetExecBatchResults, self._on_results)
        service.method(GetRunningCommand, self._on_running)
        service.streaming(StreamExecBatchResults, self._on_stream)
        return service

    async def _on_exec(self, caller: Caller, request: Exec) -> BatchAccepted:
        await trio.lowlevel.checkpoint()
        if request.exe_script and request.exe_script[0].name == "sign":
            raise ServiceError("usageLimitExceeded", "no more of that")
        self._batches[request.batch_id], self._events[request.batch_id] = [], []
        self._sizes[request.batch_id] = len(request.exe_script)
        self._nursery.start_soon(self._work, request)
        return BatchAccepted(request.batch_id)

    async def _work(self, request: Exec) -> None:
        results = self._batches[request.batch_id]
        for index, command in enumerate(request.exe_script):
            await self._log(request.batch_id, index, RuntimeEventKind(started=CommandStarted(command)))
            await trio.sleep(self.plan.command_seconds)
            failed = index == self.plan.fails_at
            results.append(
                ExeScriptCommandResult(
                    index=index,
                    result=CommandResult.ERROR if failed else CommandResult.OK,
                    stdout=f"did {command.name}",
                    stderr=None,
                    message="it failed" if failed else None,
                    is_batch_finished=failed or index == self._sizes[request.batch_id] - 1,
                    event_date=datetime.fromtimestamp(self._ctx.clock.utc_ns() // 10**9, UTC),
                )
            )
            finished = RuntimeEventKind(finished=CommandFinished(int(failed), None))
            await self._log(request.batch_id, index, finished)
            if failed:
                return

    async def _log(self, batch_id: str, index: int, kind: RuntimeEventKind) -> None:
        log = self._events[batch_id]
        when = datetime(2026, 1, 2, 3, 4, 5, 678)
        log.append(StreamedEvent(len(log), RuntimeEvent(batch_id, index, when, kind)))
        async with self._changed:
            self._changed.notify_all()

    async def _on_results(self, caller: Caller, request: GetExecBatchResults) -> BatchResults:
        results = self._batches.get(request.batch_id)
        if results is None:
            raise ServiceError("notFound", f"batch_id = {request.batch_id}")
        index = request.command_index
        with trio.move_on_after(request.timeout or 0.0):
            async with self._changed:
                while not (
                    (results and results[-1].is_batch_finished)
                    or (index is not None and len(results) > index)
                ):
                    await self._changed.wait()
        if index is None:
            return BatchResults(tuple(results))
        if len(results) <= index and not (results and results[-1].is_batch_finished):
            raise ServiceError("timeout", "the command has not ended yet")
        shown = results[: index + 1]
        return BatchResults((*shown[:-1], msgspec.structs.replace(shown[-1], is_batch_finished=True)))

    async def _on_running(self, caller: Caller, request: GetRunningCommand) -> RunningCommands:
        await trio.lowlevel.checkpoint()
        return RunningCommands((RunningCommand("Run"),))

    async def _on_stream(
        self, caller: Caller, request: StreamExecBatchResults
    ) -> AsyncIterator[StreamedEvent]:
        log = self._events.get(request.batch_id)
        if log is None:
            raise ServiceError("notFound", f"batch_id = {request.batch_id}")
        sent = 0
        while True:
            while sent < len(log):
                yield log[sent]
                sent += 1
            results = self._batches[request.batch_id]
            if results and results[-1].is_batch_finished:
                return
            await trio.sleep(0.1)


class Side:
    """One node."""

    def __init__(self, ctx: NodeContext, nursery: trio.Nursery, *, provides: bool = False) -> None:
        self.ctx = ctx
        self.id: NodeId = ctx.node_id
        self.units = Units(ctx, nursery)
        self.agreements: dict[str, AgreementView] = {}
        self.events: list[ActivityEvent] = []
        self._provides = provides
        self._nursery = nursery
        self._stopping, self._stopped = trio.Event(), trio.Event()
        self.protocol: ActivityProtocol
        market = Service()
        market.method(GetAgreement, self._on_get_agreement)
        ctx.bus.register(LOCAL_SERVICE, market)
        nursery.start_soon(self._listen)

    @property
    def requestor(self) -> Any:
        return self.protocol.requestor

    async def start(self) -> None:
        self.protocol = ActivityProtocol(self.units if self._provides else None)
        self._stopping, self._stopped = trio.Event(), trio.Event()
        await self._nursery.start(self._live)

    async def stop(self) -> None:
        self._stopping.set()
        await self._stopped.wait()

    async def _live(self, task_status: Any) -> None:
        async with self.protocol.running(self.ctx):
            task_status.started()
            await self._stopping.wait()
        self._stopped.set()

    async def ask(self, peer: Side, service: str, request: Any, reply: Any = Done, **more: Any) -> Any:
        """Say something to a peer's node as this node."""
        return await ask(self.ctx.bus, net_address(peer.id, service), request, reply, **more)

    async def change(self, agreement_id: str, state: AgreementState) -> None:
        """Bring an agreement of this node into a state, and say so."""
        view = self.agreements[agreement_id] = msgspec.structs.replace(
            self.agreements[agreement_id], state=state
        )
        change = AgreementChanged(
            agreement_id, view.role, view.requestor_id, view.provider_id, state, None, self.ctx.clock.utc_ns()
        )
        self.ctx.bus.publish(AGREEMENT_TOPIC, codec.encode(change))
        await trio.lowlevel.checkpoint()

    async def _on_get_agreement(self, caller: Caller, request: GetAgreement) -> AgreementView:
        await trio.lowlevel.checkpoint()
        view = self.agreements.get(request.agreement_id)
        if view is None or request.role not in (None, view.role):
            raise ServiceError("notFound", f"no agreement {request.agreement_id}")
        return view

    async def _listen(self) -> None:
        async with self.ctx.bus.subscribe(TOPIC) as items:
            async for item in items:
                self.events.append(codec.decode(item, ActivityEvent))  # type: ignore[arg-type]


@dataclasses.dataclass
class World:
    provider: Side
    requestor: Side
    stranger: Side

    def agree(self, agreement_id: str = AGREEMENT, state: AgreementState = AgreementState.APPROVED) -> str:
        """Let both sides have an agreement."""
        for side, role in ((self.provider, Role.PROVIDER), (self.requestor, Role.REQUESTOR)):
            side.agreements[agreement_id] = AgreementView(
                agreement_id=agreement_id,
                role=role,
                requestor_id=self.requestor.id,
                provider_id=self.provider.id,
                demand_id="d",
                offer_id="o",
                demand_properties="{}",
                demand_constraints="()",
                offer_properties='{"golem.com.usage.vector": ["golem.usage.duration_sec", "golem.usage.cpu_sec"]}',
                offer_constraints="()",
                state=state,
                created_ns=0,
                valid_to_ns=2**62,
            )
        return agreement_id

    async def create(self, agreement_id: str = AGREEMENT, *, timeout: float = 30.0) -> str:
        made: str = await self.requestor.requestor.create(self.requestor.id, agreement_id, timeout=timeout)
        return made

    def unit(self, activity_id: str) -> Unit:
        return self.provider.units.made[activity_id]


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Run three nodes; an agreement between the first two is approved."""
    async with memory_nodes(3, seed=9) as contexts, trio.open_nursery() as nursery:
        side = functools.partial(Side, nursery=nursery)
        found = World(side(contexts[0], provides=True), side(contexts[1]), side(contexts[2]))
        found.agree()
        await trio.lowlevel.checkpoint()
        for each in (found.provider, found.requestor, found.stranger):
            await each.start()
        yield found
        for each in (found.provider, found.requestor, found.stranger):
            await each.stop()
        nursery.cancel_scope.cancel()
