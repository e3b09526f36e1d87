"""Bind an `ExeUnit` to the node's bus: its requests under `/public/exeunit/<id>`, its reports to `/local/activity`.

Who may ask: the requestor of the agreement, as proven by the session that the call came through, and programs of this
node that hold the activity's token or the owner's. (The original takes the activity id for a secret and asks nobody.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog
import trio

from exeunit.supervisor.core import Refused
from exeunit.supervisor.exeunit import REPORT_TIMEOUT_S, ExeUnit, ReportFailed
from p2p.bus.api import Bus, BusError, BusTimeout, Caller, Service, ServiceError, ask
from protocols.activity.messages import (
    ActivityState,
    ActivityUsage,
    Done,
    ErrorCode,
    Exec,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    SetActivityState,
    SetActivityUsage,
    StreamExecBatchResults,
    Terminate,
    exeunit_service,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_STATE_TRIES: Final = 3

Request = TypeVar("Request")

_log = structlog.get_logger("exeunit.supervisor")


class BusReporter:
    """Reports to the node; an `exeunit.Reporter`."""

    def __init__(self, bus: Bus, address: str, activity_id: str) -> None:
        self._bus = bus
        self._address = address
        self._activity_id = activity_id

    async def state(self, state: ActivityState) -> None:
        """Report a state; a node that is slow is asked again, since a lost state would never be made up for."""
        for _ in range(_STATE_TRIES - 1):
            try:
                return await self._send(SetActivityState(self._activity_id, state, REPORT_TIMEOUT_S))
            except BusTimeout:
                _log.warning("the node did not take our state in time; trying again")
        try:
            await self._send(SetActivityState(self._activity_id, state, REPORT_TIMEOUT_S))
        except BusTimeout as error:
            raise ReportFailed(f"the node does not answer: {error}") from error

    async def usage(self, usage: ActivityUsage) -> None:
        """Report usage; one that is lost is made up for by the next."""
        try:
            await self._send(SetActivityUsage(self._activity_id, usage, REPORT_TIMEOUT_S))
        except BusTimeout:
            _log.warning("the node did not take our usage in time")

    async def _send(self, report: SetActivityState | SetActivityUsage) -> None:
        try:
            await ask(self._bus, self._address, report, Done, timeout=REPORT_TIMEOUT_S)
        except BusTimeout:
            raise
        except BusError as error:
            raise ReportFailed(str(error)) from error


def bind(unit: ExeUnit, requestor: str | None) -> Service:
    """Return the service that answers for `unit`.

    Args:
        unit: answers the requests.
        requestor: node id that may ask from afar; none lets only this node in.
    """
    service = Service()

    def method(request: type[Request], handler: Callable[[Request], Awaitable[Any]]) -> None:
        async def answer(caller: Caller, message: Request) -> Any:
            _check(caller, unit, requestor)
            try:
                return await handler(message)
            except Refused as refusal:
                raise ServiceError(refusal.code.value, str(refusal)) from refusal

        service.method(request, answer)

    method(Exec, unit.exec)
    method(GetExecBatchResults, unit.get_exec_batch_results)
    method(GetRunningCommand, unit.get_running_command)
    method(GetActivityState, unit.get_activity_state)
    method(GetActivityUsage, unit.get_activity_usage)
    method(Terminate, unit.terminate)

    async def stream(caller: Caller, message: StreamExecBatchResults) -> AsyncIterator[Any]:
        _check(caller, unit, requestor)
        try:
            async for event in unit.stream_exec_batch_results(message):
                yield event
        except Refused as refusal:
            raise ServiceError(refusal.code.value, str(refusal)) from refusal

    service.streaming(StreamExecBatchResults, stream)
    return service


def _check(caller: Caller, unit: ExeUnit, requestor: str | None) -> None:
    if caller.local and caller.child in ("", unit.activity_id):
        return
    if not caller.local and requestor is not None and caller.node_id.lower() == requestor:
        return
    raise ServiceError(ErrorCode.FORBIDDEN.value, f"{caller.node_id} is not the requestor of this activity")


async def serve(unit: ExeUnit, bus: Bus, closed: trio.Event, requestor: str | None) -> None:
    """Serve `unit` on the bus until it has ended; the loss of the bus ends it."""
    registration = bus.register(exeunit_service(unit.activity_id), bind(unit, requestor))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_closed, unit, closed)
            await unit.run()
            nursery.cancel_scope.cancel()
    finally:
        registration.close()


async def _end_when_closed(unit: ExeUnit, closed: trio.Event) -> None:
    await closed.wait()
    unit.end("the node is gone")
