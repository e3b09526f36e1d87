"""The provider's side of activities: starts supervisors for peers, hears their reports, ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from p2p import codec
from p2p.bus import BusError, Caller, RemoteError, Service, ServiceError, ask
from p2p.entropy import hex32
from protocols.activity.core import DESTROY_AFTER, NEW, Tracked, Watch
from protocols.activity.errors import ActivityError, BadRequest, Forbidden, NotFound, TimedOut
from protocols.activity.events import TOPIC, ActivityCreated, ActivityEnded, ActivityEvent
from protocols.activity.launcher import ExeUnit, ExeUnitLauncher, LaunchError
from protocols.activity.messages import ActivityCreated as Created
from protocols.activity.messages import (
    ActivityState,
    ActivityUsage,
    CreateActivity,
    DestroyActivity,
    Done,
    GetActivityState,
    GetActivityUsage,
    SetActivityState,
    SetActivityUsage,
    State,
)
from protocols.activity.store import ActivityEventRow, ActivityRow, ActivityStore
from protocols.ground.wakeup import Signal, poll
from protocols.market import messages as market

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.protocol import NodeContext

CREATE_TIMEOUT = 30.0
"""Seconds that a supervisor may take to report Initialized, where the requestor does not say."""
MAX_ALIVE = 256
"""Activities that may be alive at once, whatever the agreements say."""
COMMIT_TIMEOUT = 10.0
"""Seconds that a request for an activity waits for the requestor's commitment to the agreement: it travels beside
the request, and may be overtaken by it."""
CHECK_AGREEMENTS_EVERY = 30.0
"""Seconds between two looks at the agreements of all activities: events on the bus are hints."""


class _Running:
    """A supervisor that was started, until it is gone."""

    def __init__(self, unit: ExeUnit) -> None:
        self.unit = unit
        self.gone = trio.Event()
        self.stopped_for = ""
        """Why the node stops it; empty while it does not."""
        self.ended_at: float | None = None
        """When its activity was said to have ended."""


class ProviderSide:
    """Activities that run here."""

    def __init__(
        self, ctx: NodeContext, store: ActivityStore, launcher: ExeUnitLauncher, nursery: trio.Nursery
    ) -> None:
        self._ctx = ctx
        self._store = store
        self._launcher = launcher
        self._nursery = nursery
        self._tracked: dict[str, Tracked] = {}
        self._units: dict[str, _Running] = {}
        self._changed = Signal()
        self._agreements_changed = Signal()
        self._creating: set[str] = set()

    async def recover(self) -> None:
        """End what an earlier run of this node left alive: its supervisors are gone or about to be."""
        await self._launcher.sweep()
        for row in await self._store.alive("P"):
            tracked = Tracked(row.id, row.agreement_id, row.peer, self._ctx.clock.monotonic())
            tracked.usage = row.usage
            await self._end(tracked, "the provider's node was restarted")

    def serve(self, public: Service, local: Service) -> None:
        """Add the methods."""
        public.method(CreateActivity, self._on_create)
        public.method(DestroyActivity, self._on_destroy)
        public.method(GetActivityState, self._on_get_state)
        public.method(GetActivityUsage, self._on_get_usage)
        local.method(SetActivityState, self._on_set_state)
        local.method(SetActivityUsage, self._on_set_usage)

    async def events(self, after_ns: int, *, timeout: float, limit: int = 100) -> Sequence[ActivityEventRow]:
        """Return create and destroy events after a time, waiting up to `timeout` seconds for the first."""
        return await poll(self._changed, lambda: self._store.events(after_ns, limit), timeout=timeout)

    async def set_state(self, activity_id: str, state: ActivityState) -> None:
        """Take a state from an outside agent. Raises NotFound."""
        tracked = self._tracked.get(activity_id)
        if tracked is None:
            raise NotFound(f"no activity {activity_id} runs here")
        await self._take_state(tracked, state)

    async def watch(self) -> None:
        """End activities whose supervisor is silent; once a second, until cancelled."""
        next_check = self._ctx.clock.monotonic() + CHECK_AGREEMENTS_EVERY
        while True:
            await trio.sleep(1.0)
            now = self._ctx.clock.monotonic()
            for tracked in list(self._tracked.values()):
                match tracked.watch(now):
                    case Watch.UNRESPONSIVE:
                        self._ctx.log.warning("exe-unit is silent", activity=tracked.activity_id)
                        await self._keep_state(tracked)
                    case Watch.DESTROY:
                        self._stop_soon(tracked.activity_id, "its exe-unit fell silent")
            for activity_id, running in self._units.items():
                if running.ended_at is not None and now - running.ended_at >= DESTROY_AFTER:
                    self._stop_soon(activity_id, "its exe-unit stayed after its end")
            if now >= next_check:
                next_check = now + CHECK_AGREEMENTS_EVERY
                await self._check_agreements()

    def agreement_changed(self) -> None:
        """Some agreement of ours is in a new state."""
        self._agreements_changed.notify()

    def end_agreement(self, agreement_id: str, reason: str) -> None:
        """Begin to end every activity under an agreement."""
        for tracked in self._tracked.values():
            if tracked.agreement_id == agreement_id and tracked.alive:
                self._stop_soon(tracked.activity_id, reason)

    async def stop_all(self, reason: str) -> None:
        """End every activity: the node is going down."""
        async with trio.open_nursery() as nursery:
            for activity_id in {*self._tracked, *self._units}:
                nursery.start_soon(self._stop, activity_id, reason)

    async def _check_agreements(self) -> None:
        for tracked in list(self._tracked.values()):
            try:
                await self._agreement(tracked.agreement_id, tracked.requestor)
            except ActivityError as error:
                self.end_agreement(tracked.agreement_id, str(error))
            except BusError as error:
                self._ctx.log.warning("agreement not checked", error=str(error))

    # --- peers ------------------------------------------------------------------------------------------

    async def _on_create(self, caller: Caller, request: CreateActivity) -> Created:
        try:
            return Created(await self._create(caller.node_id, request))
        except ActivityError as error:
            raise ServiceError(error.kind, str(error)) from error

    async def _create(self, requestor: str, request: CreateActivity) -> str:
        agreement = await self._committed(request.agreement_id, requestor)
        if request.agreement_id in self._creating or any(
            other.alive and other.agreement_id == request.agreement_id for other in self._tracked.values()
        ):
            raise BadRequest("the agreement has a live activity already; destroy it first")
        if sum(other.alive for other in self._tracked.values()) >= MAX_ALIVE:
            raise BadRequest(f"{MAX_ALIVE} activities run here already")
        self._creating.add(request.agreement_id)
        try:
            asked = CREATE_TIMEOUT if request.timeout is None else request.timeout
            return await self._start(agreement, max(0.0, min(asked, CREATE_TIMEOUT)))
        finally:
            self._creating.discard(request.agreement_id)

    async def _start(self, agreement: market.AgreementView, timeout: float) -> str:
        clock = self._ctx.clock
        activity_id = hex32(self._ctx.entropy)
        tracked = Tracked(activity_id, agreement.agreement_id, agreement.requestor_id, clock.monotonic())
        now = clock.utc_ns()
        await self._store.add(
            ActivityRow(
                activity_id, "P", agreement.agreement_id, agreement.requestor_id, agreement.provider_id,
                NEW, (), now, now,
            )
        )  # fmt: skip
        self._tracked[activity_id] = tracked
        self._changed.notify()
        running = await self._launch(tracked, agreement)
        self._nursery.start_soon(self._await_exit, tracked, running)
        try:
            with trio.move_on_after(timeout):
                while tracked.state == NEW:
                    await self._changed.ticket().wait()  # no checkpoint between looking and waiting
        except trio.Cancelled:
            self._stop_soon(activity_id, "the requestor did not wait for it")
            raise
        if tracked.state == NEW:
            await self._stop(activity_id, "its exe-unit did not report in time")
            raise TimedOut("the exe-unit did not report Initialized in time")
        if not tracked.alive:
            reason = tracked.state.reason or "no reason given"
            await self._stop(activity_id, reason)  # where it was ended while it was being launched
            raise BadRequest(f"the exe-unit ended at once: {reason}")
        self._publish(ActivityCreated(activity_id, agreement.agreement_id))
        return activity_id

    async def _launch(self, tracked: Tracked, agreement: market.AgreementView) -> _Running:
        try:
            unit = await self._launcher.launch(tracked.activity_id, agreement)
        except LaunchError as error:
            await self._forget(tracked, f"the exe-unit could not be started: {error}")
            raise BadRequest(f"the exe-unit could not be started: {error}") from error
        except BaseException:
            await self._forget(tracked, "the exe-unit was not started")
            raise
        running = self._units[tracked.activity_id] = _Running(unit)
        return running

    async def _committed(self, agreement_id: str, requestor: str) -> market.AgreementView:
        """Return the agreement as `_agreement` does, but give one that we approved time to become binding.

        The requestor is bound first, and may ask for an activity before its word has reached us.
        """
        deadline = trio.current_time() + COMMIT_TIMEOUT
        while True:
            ticket = self._agreements_changed.ticket()
            agreement = await self._view(agreement_id, requestor)
            approving = agreement.state is market.AgreementState.APPROVING
            if not approving or trio.current_time() >= deadline:
                return _approved(agreement)
            with trio.move_on_after(1.0):  # events on the bus are hints
                await ticket.wait()

    async def _agreement(self, agreement_id: str, requestor: str) -> market.AgreementView:
        return _approved(await self._view(agreement_id, requestor))

    async def _view(self, agreement_id: str, requestor: str) -> market.AgreementView:
        try:
            question = market.GetAgreement(agreement_id, market.Role.PROVIDER)
            agreement = await ask(self._ctx.bus, market.LOCAL_SERVICE, question, market.AgreementView)
        except RemoteError as error:
            raise NotFound(f"no agreement {agreement_id}") from error
        if agreement.requestor_id != requestor:
            raise NotFound(f"no agreement {agreement_id}")  # not to be told from one that does not exist
        return agreement

    async def _on_destroy(self, caller: Caller, request: DestroyActivity) -> Done:
        row = await self._row_for(caller, request.activity_id)
        if row.id in self._tracked:
            await self._stop(row.id, "destroyed by the requestor")
        return Done()

    async def _on_get_state(self, caller: Caller, request: GetActivityState) -> ActivityState:
        row = await self._row_for(caller, request.activity_id)
        tracked = self._tracked.get(row.id)
        return tracked.state if tracked else row.state

    async def _on_get_usage(self, caller: Caller, request: GetActivityUsage) -> ActivityUsage:
        row = await self._row_for(caller, request.activity_id)
        return ActivityUsage(row.usage or None, row.usage_ns // 10**9)

    async def _row_for(self, caller: Caller, activity_id: str) -> ActivityRow:
        row = await self._store.get(activity_id)
        if row is None or row.role != "P" or not (caller.local or caller.node_id == row.peer):
            raise ServiceError("notFound", f"no activity {activity_id}")
        return row

    # --- supervisors ------------------------------------------------------------------------------------

    async def _on_set_state(self, caller: Caller, request: SetActivityState) -> Done:
        await self._take_state(self._reporting(caller, request.activity_id), request.state)
        return Done()

    async def _on_set_usage(self, caller: Caller, request: SetActivityUsage) -> Done:
        tracked = self._reporting(caller, request.activity_id)
        usage, state = request.usage.current_usage, tracked.state
        if usage is not None and tracked.on_usage(self._ctx.clock.monotonic(), usage):
            await self._store.set_usage(tracked.activity_id, usage, self._ctx.clock.utc_ns())
        if tracked.state != state:
            await self._keep_state(tracked)
        return Done()

    def _reporting(self, caller: Caller, activity_id: str) -> Tracked:
        if caller.child not in ("", activity_id):
            raise ServiceError(Forbidden.kind, "a supervisor reports on its own activity only")
        tracked = self._tracked.get(activity_id)
        if tracked is None:
            raise ServiceError(NotFound.kind, f"no activity {activity_id} runs here")
        return tracked

    async def _take_state(self, tracked: Tracked, state: ActivityState) -> None:
        if state.state[0] is State.TERMINATED:
            await self._end(tracked, state.reason or "terminated", state)
        elif tracked.on_state(self._ctx.clock.monotonic(), state):
            await self._keep_state(tracked)

    async def _keep_state(self, tracked: Tracked) -> None:
        await self._store.set_state(tracked.activity_id, tracked.state, self._ctx.clock.utc_ns())
        self._changed.notify()

    async def _await_exit(self, tracked: Tracked, running: _Running) -> None:
        try:
            how = await running.unit.wait()
            del self._units[tracked.activity_id]
            await self._forget(tracked, running.stopped_for or how)
        finally:
            running.gone.set()  # cancelled too, or whoever stops it while the node goes down would wait for ever

    def _stop_soon(self, activity_id: str, reason: str) -> None:
        self._nursery.start_soon(self._stop, activity_id, reason)

    async def _stop(self, activity_id: str, reason: str) -> None:
        """End an activity's supervisor and wait until it is gone."""
        running, tracked = self._units.get(activity_id), self._tracked.get(activity_id)
        if running is None:
            if tracked is not None:  # whoever is launching it will see
                await self._end(tracked, reason)
            return
        if not running.stopped_for:
            running.stopped_for = reason
            with trio.CancelScope(shield=True):  # half-stopped is worse than late; `stop` is bounded
                await running.unit.stop()
        await running.gone.wait()
        if tracked is not None:
            await self._end(tracked, reason)  # where whoever waited for its exit was cancelled

    async def _forget(self, tracked: Tracked, reason: str) -> None:
        await self._end(tracked, reason)
        self._tracked.pop(tracked.activity_id, None)

    async def _end(self, tracked: Tracked, reason: str, state: ActivityState | None = None) -> None:
        running = self._units.get(tracked.activity_id)
        if running is not None:
            reason = running.stopped_for or reason
            running.ended_at = self._ctx.clock.monotonic()
        if not tracked.on_end(reason):
            return
        if state is not None:
            tracked.state = msgspec.structs.replace(state, reason=reason)
        with trio.CancelScope(shield=True):  # else it would have ended in memory only
            await self._keep_state(tracked)
        self._publish(ActivityEnded(tracked.activity_id, tracked.agreement_id, tracked.usage, reason))
        self._ctx.log.info("activity ended", activity=tracked.activity_id, reason=reason)

    def _publish(self, event: ActivityEvent) -> None:
        try:
            self._ctx.bus.publish(TOPIC, codec.encode(event))
        except BusError as error:  # a hint only: whoever needs certainty asks
            self._ctx.log.debug("event not published", error=str(error))


def _approved(agreement: market.AgreementView) -> market.AgreementView:
    """Return the agreement if work may be done under it. Raises BadRequest."""
    if agreement.state is not market.AgreementState.APPROVED:
        raise BadRequest(f"agreement {agreement.agreement_id} is {agreement.state.value}, not Approved")
    return agreement
