"""The requestor's side of activities: what REST and the requestor helper ask, carried to the provider.

The requestor's node keeps only who runs what; state, results and output live at the provider and are asked
for there. Every method takes the acting NodeId.
"""

from __future__ import annotations

import contextlib
import math
import re
from typing import TYPE_CHECKING, TypeVar

import trio

from p2p import codec
from p2p.bus import BusError, BusTimeout, NoEndpoint, RemoteError, ask, net_address
from p2p.entropy import hex32
from protocols.activity.core import NEW
from protocols.activity.errors import ActivityError, BadRequest, Forbidden, NotFound, TimedOut, Unreachable
from protocols.activity.messages import (
    ActivityCreated,
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    BatchResults,
    CreateActivity,
    DestroyActivity,
    Done,
    Exec,
    ExeScriptCommandResult,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    RunningCommand,
    RunningCommands,
    ScriptError,
    State,
    StreamedEvent,
    StreamExecBatchResults,
    decode_exe_script,
)
from protocols.activity.store import ActivityRow, ActivityStore
from protocols.market import messages as market

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    import msgspec

    from p2p.identity import NodeId
    from p2p.protocol import NodeContext

Reply = TypeVar("Reply")

EXEC_TIMEOUT = 6.0
"""Seconds that a provider has to take a script, as the Golem daemon waits."""
QUESTION_TIMEOUT = 10.0
_SLICE = 30.0
"""Longest single wait for results; a longer one is made of several."""
_ACTIVITY_ID = re.compile(r"[0-9a-f]{32}\Z")
_MOST_WORDS = 2000
"""Characters of a provider's error that are passed on."""


class RequestorSide:
    """Activities of ours that run elsewhere."""

    def __init__(self, ctx: NodeContext, store: ActivityStore) -> None:
        self._ctx = ctx
        self._store = store

    async def create(self, actor: NodeId, agreement_id: str, *, timeout: float) -> str:
        """Have the provider start an activity, and return its id.

        Raises:
            NotFound: no such agreement of the actor's.
            BadRequest: it is not approved, or the provider refuses.
            TimedOut: the exe-unit was not ready in time.
            Unreachable: the provider does not answer.
            ActivityError: it answers with nonsense.
        """
        try:
            question = market.GetAgreement(agreement_id, market.Role.REQUESTOR)
            agreement = await ask(self._ctx.bus, market.LOCAL_SERVICE, question, market.AgreementView)
        except RemoteError as error:
            raise NotFound(f"agreement {agreement_id} not found") from error
        if agreement.requestor_id != actor:
            raise NotFound(f"agreement {agreement_id} not found")
        if agreement.state is not market.AgreementState.APPROVED:
            raise BadRequest(f"agreement {agreement_id} is {agreement.state.value}, not Approved")
        provider = agreement.provider_id
        request = CreateActivity(provider=provider, agreement_id=agreement_id, timeout=timeout)
        created = await self._ask(f"/net/{provider}/activity", request, ActivityCreated, timeout + 1.0)
        activity_id = created.activity_id
        if not _ACTIVITY_ID.match(activity_id):
            raise ActivityError(f"the provider made an activity without a proper id: {activity_id[:64]!r}")
        now = self._ctx.clock.utc_ns()
        with trio.CancelScope(shield=True):  # what the provider has started must not be lost sight of
            is_new = await self._store.add(
                ActivityRow(activity_id, "R", agreement_id, provider, actor, NEW, (), now, now)
            )
        if not is_new:
            raise ActivityError(f"the provider gave activity id {activity_id}, which was given once already")
        return activity_id

    async def exec(self, actor: NodeId, activity_id: str, script: str) -> str:
        """Send an exe script and return its batch id. Raises BadRequest for text that is no script."""
        row = await self._ours(actor, activity_id)
        try:
            commands = decode_exe_script(script)
        except ScriptError as error:
            raise BadRequest(str(error)) from error
        batch_id = hex32(self._ctx.entropy)
        request = Exec(activity_id=activity_id, batch_id=batch_id, exe_script=commands)
        accepted = await self._ask(self._unit(row), request, BatchAccepted, EXEC_TIMEOUT)
        return accepted.batch_id

    async def results(
        self, actor: NodeId, activity_id: str, batch_id: str, *, timeout: float | None, index: int | None
    ) -> tuple[ExeScriptCommandResult, ...]:
        """Return results, waiting for command `index`, or for the last, up to `timeout` seconds.

        Raises:
            NotFound: no such batch.
            TimedOut: with `index`, when that command has not ended in time.
            Unreachable: the exe-unit is gone.
        """
        row = await self._ours(actor, activity_id)
        deadline = trio.current_time() + (math.inf if timeout is None else max(0.0, timeout))
        while True:
            pause = min(_SLICE, max(0.0, deadline - trio.current_time()))
            request = GetExecBatchResults(
                activity_id=activity_id, batch_id=batch_id, timeout=pause, command_index=index
            )
            try:
                answer = await self._ask(self._unit(row), request, BatchResults, pause + QUESTION_TIMEOUT)
            except TimedOut:
                if trio.current_time() >= deadline:
                    raise
                continue
            done = bool(answer.results) and answer.results[-1].is_batch_finished
            if done or trio.current_time() >= deadline:
                return answer.results

    @contextlib.asynccontextmanager
    async def follow(
        self, actor: NodeId, activity_id: str, batch_id: str
    ) -> AsyncIterator[AsyncIterator[StreamedEvent]]:
        """Stream a batch's events from its beginning; the iterator ends with the batch, or with the exe-unit.

        Raises:
            ActivityError: on entering, as the other methods.
        """
        row = await self._ours(actor, activity_id)
        request = StreamExecBatchResults(activity_id=activity_id, batch_id=batch_id)
        address = f"{self._unit(row)}/{type(request).__name__}"

        async def events(items: AsyncIterator[bytes]) -> AsyncGenerator[StreamedEvent, None]:
            try:
                async for item in items:
                    yield codec.decode(item, StreamedEvent)
            except (BusError, codec.CodecError) as error:
                # The client is told nothing of it here (the stream just goes silent, as the contract has it).
                self._ctx.log.info("event stream ended", activity=activity_id, reason=str(error))

        async with contextlib.AsyncExitStack() as stack:
            with _in_our_words():
                items = await stack.enter_async_context(self._ctx.bus.stream(address, codec.encode(request)))
            yield await stack.enter_async_context(contextlib.aclosing(events(items)))

    async def running(self, actor: NodeId, activity_id: str) -> tuple[RunningCommand, ...]:
        """Return what runs now."""
        row = await self._ours(actor, activity_id)
        request = GetRunningCommand(activity_id=activity_id)
        return (await self._ask(self._unit(row), request, RunningCommands, QUESTION_TIMEOUT)).commands

    async def state(self, actor: NodeId, activity_id: str) -> ActivityState:
        """Return the state as the provider's node has it; Unresponsive if that does not answer."""
        row = await self._row(actor, activity_id)
        if row.state.state[0] is State.TERMINATED:
            return row.state
        try:
            state = await self._ask(
                self._home(row), GetActivityState(activity_id=activity_id), ActivityState, QUESTION_TIMEOUT
            )  # fmt: skip
        except (Unreachable, TimedOut) as error:
            return ActivityState((State.UNRESPONSIVE, None), error_message=str(error))
        if state.state[0] is State.TERMINATED and row.role == "R":
            await self._store.set_state(activity_id, state, self._ctx.clock.utc_ns())
        return state

    async def usage(self, actor: NodeId, activity_id: str) -> ActivityUsage:
        """Return the usage as the provider's node has it."""
        row = await self._row(actor, activity_id)
        request = GetActivityUsage(activity_id=activity_id)
        return await self._ask(self._home(row), request, ActivityUsage, QUESTION_TIMEOUT)

    async def destroy(self, actor: NodeId, activity_id: str, *, timeout: float) -> None:
        """End an activity; returns once the provider says that it is terminated, and at once if it was."""
        row = await self._ours(actor, activity_id)
        if row.state.state[0] is State.TERMINATED:
            return
        request = DestroyActivity(activity_id=activity_id, agreement_id=row.agreement_id, timeout=timeout)
        with contextlib.suppress(NotFound):
            await self._ask(net_address(row.peer, "activity"), request, Done, max(1.0, timeout))
        ended = ActivityState((State.TERMINATED, None), reason="destroyed by the requestor")
        await self._store.set_state(activity_id, ended, self._ctx.clock.utc_ns())

    async def agreement(self, actor: NodeId, activity_id: str) -> str:
        """Return the agreement that an activity runs under."""
        return (await self._row(actor, activity_id)).agreement_id

    async def _row(self, actor: NodeId, activity_id: str) -> ActivityRow:
        row = await self._store.get(activity_id)
        if row is None:
            # The words of the Golem daemon, which its clients show.
            raise NotFound(f"DAO error: Not found: agreement id for activity: {activity_id}")
        if row.owner != actor:
            raise Forbidden(f"activity {activity_id} belongs to another identity")
        return row

    async def _ours(self, actor: NodeId, activity_id: str) -> ActivityRow:
        row = await self._row(actor, activity_id)
        if row.role != "R":
            raise Forbidden(f"activity {activity_id} runs here for {row.peer}, who alone commands it")
        return row

    def _home(self, row: ActivityRow) -> str:
        """Return where the node that runs the activity answers for it."""
        return net_address(row.peer if row.role == "R" else row.owner, "activity")

    def _unit(self, row: ActivityRow) -> str:
        return net_address(row.peer, f"exeunit/{row.id}")

    async def _ask(self, prefix: str, request: msgspec.Struct, reply: type[Reply], timeout: float) -> Reply:
        with _in_our_words():
            return await ask(self._ctx.bus, prefix, request, reply, timeout=timeout)


@contextlib.contextmanager
def _in_our_words() -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise _BY_KIND.get(error.kind, ActivityError)(error.message[:_MOST_WORDS]) from error
    except BusTimeout as error:
        raise TimedOut(str(error) or "no answer in time") from error
    except NoEndpoint as error:
        raise Unreachable(str(error)) from error
    except BusError as error:
        raise Unreachable(f"GSB error: {error}") from error


_BY_KIND: dict[str, type[ActivityError]] = {
    kind.kind: kind for kind in (NotFound, Forbidden, BadRequest, TimedOut, Unreachable)
}
