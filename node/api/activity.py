"""REST, activity family: `/activity-api/v1`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from node.api.web import ApiError, ApiRequest, EventStream, Routes, answer, error, text
from protocols.activity.errors import ActivityError, BadRequest, Forbidden, NotFound, TimedOut, Unreachable
from protocols.activity.messages import ActivityState
from protocols.ground.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

    from starlette.responses import Response

    from protocols.activity.handler import ActivityProtocol
    from protocols.activity.messages import ExeScriptCommandResult, StreamedEvent
    from protocols.activity.requestor import RequestorSide

T = TypeVar("T")

PREFIX = "/activity-api/v1"
DEFAULT_TIMEOUT = 5.0
_MAX_TIMEOUT = 3600.0


class _Script(msgspec.Struct):
    text: str


class _Create(msgspec.Struct, rename="camel"):
    agreement_id: str


def routes(activity: ActivityProtocol) -> Routes:
    """Return the family's table."""
    table = Routes("activity", PREFIX)
    handlers = _Activity(activity)
    table.add("POST", "/activity", handlers.create)
    table.add("GET", "/activity", handlers.list)
    table.add("DELETE", "/activity/{id}", handlers.destroy)
    table.add("POST", "/activity/{id}/exec", handlers.exec)
    table.add("GET", "/activity/{id}/exec/{batch}", handlers.results)
    table.add("GET", "/activity/{id}/state", handlers.state)
    table.add("PUT", "/activity/{id}/state", handlers.set_state)
    table.add("GET", "/activity/{id}/usage", handlers.usage)
    table.add("GET", "/activity/{id}/agreement", handlers.agreement)
    table.add("GET", "/activity/{id}/command", handlers.command)
    table.add("GET", "/events", handlers.events)
    return table


class _Activity:
    def __init__(self, activity: ActivityProtocol) -> None:
        self._activity = activity

    @property
    def _requestor(self) -> RequestorSide:
        return self._activity.requestor

    async def create(self, request: ApiRequest) -> Response:
        body = await request.body()
        timeout = _timeout(request)
        if isinstance(body, str):
            agreement_id = body
        else:
            try:
                agreement_id = msgspec.convert(body, _Create).agreement_id
            except msgspec.ValidationError as problem:
                raise request.bad_body(f"Json deserialize error: {problem}") from problem
        if len(agreement_id) != 64 or not all(c in "0123456789abcdefABCDEF" for c in agreement_id):
            raise error(500, f"Agreement id {agreement_id[:80]!r} is malformed")
        call = self._requestor.create(request.identity, agreement_id, timeout=timeout)
        made = await _asked(call, not_found=404)
        # SDKs differ: who sent a bare string gets one back.
        return answer(made if isinstance(body, str) else {"activityId": made})

    async def list(self, request: ApiRequest) -> Response:
        agreement_id = request.query_text("agreementId")
        if agreement_id is None:
            raise ApiError(text(400, "Query deserialize error: missing field `agreementId`"))
        return answer(await self._activity.ids_of(request.identity, agreement_id))

    async def destroy(self, request: ApiRequest) -> Response:
        timeout = _timeout(request)
        await _asked(self._requestor.destroy(request.identity, request.path["id"], timeout=timeout))
        return answer(None)

    async def exec(self, request: ApiRequest) -> Response:
        script = await request.body_as(_Script)
        call = self._requestor.exec(request.identity, request.path["id"], script.text)
        return answer(await _asked(call, unreachable=408))

    async def results(self, request: ApiRequest) -> Response:
        if request.raw.headers.get("accept") == "text/event-stream":
            return EventStream(self._frames(request))
        index = request.query_int("commandIndex")
        if index is not None and index < 0:
            raise ApiError(text(400, "Query deserialize error: commandIndex: invalid digit found in string"))
        timeout = None if request.query_text("timeout") is None else _timeout(request)
        found = await _asked(
            self._requestor.results(
                request.identity,
                request.path["id"],
                request.path["batch"],
                timeout=timeout,
                index=index,
            ),
            not_found=404,
        )
        return answer([_result(result) for result in found])

    @contextlib.asynccontextmanager
    async def _frames(self, request: ApiRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        call = self._requestor.follow(request.identity, request.path["id"], request.path["batch"])
        async with contextlib.AsyncExitStack() as stack:
            events = await _asked(stack.enter_async_context(call))
            yield await stack.enter_async_context(contextlib.aclosing(_sse(events)))

    async def state(self, request: ApiRequest) -> Response:
        return answer(await _asked(self._requestor.state(request.identity, request.path["id"])))

    async def set_state(self, request: ApiRequest) -> Response:
        state = await request.body_as(ActivityState)
        if self._activity.provider is None:
            raise error(403, "this node runs nothing for others")
        await _asked(self._activity.provider.set_state(request.path["id"], state))
        return answer(None)

    async def usage(self, request: ApiRequest) -> Response:
        return answer(await _asked(self._requestor.usage(request.identity, request.path["id"])))

    async def agreement(self, request: ApiRequest) -> Response:
        return answer(await _asked(self._requestor.agreement(request.identity, request.path["id"])))

    async def command(self, request: ApiRequest) -> Response:
        return answer(await _asked(self._requestor.running(request.identity, request.path["id"])))

    async def events(self, request: ApiRequest) -> Response:
        after = request.query_time("afterTimestamp")
        if after is None:
            raise ApiError(text(400, "Query deserialize error: missing field `afterTimestamp`"))
        limit = request.query_int("maxEvents", 100) or 100
        if self._activity.provider is None:
            raise error(408, "Timeout")
        rows = await self._activity.provider.events(
            after, timeout=_timeout(request), limit=max(1, min(limit, 100))
        )
        if not rows:
            raise error(408, "Timeout")
        return answer(
            [
                {
                    "activityId": row.activity_id,
                    "agreementId": row.agreement_id,
                    "eventType": {row.kind: {}},
                    "eventDate": format_time(row.time_ns),
                }
                for row in rows
            ]
        )


def _timeout(request: ApiRequest) -> float:
    value = request.query_float("timeout", DEFAULT_TIMEOUT)
    if value < 0:
        raise ApiError(text(400, "Query deserialize error: timeout: must not be negative"))
    return min(value, _MAX_TIMEOUT)


async def _asked(call: Awaitable[T], *, not_found: int = 500, unreachable: int = 500) -> T:
    """Word the protocol's errors as clients of the Golem daemon know them.

    Raises:
        ApiError: with the cause in `message`, for SDKs show nothing else.
    """
    try:
        return await call
    except NotFound as problem:
        # An unknown activity is a 500, whatever is asked of it: a database error, in the daemon's words.
        status = 500 if str(problem).startswith("DAO error") else not_found
        raise error(status, str(problem)) from problem
    except Forbidden as problem:
        raise error(403, str(problem)) from problem
    except BadRequest as problem:
        raise error(400, str(problem)) from problem
    except TimedOut as problem:
        raise error(408, str(problem)) from problem
    except Unreachable as problem:
        raise error(unreachable, str(problem)) from problem
    except ActivityError as problem:
        raise error(500, str(problem)) from problem


def _result(result: ExeScriptCommandResult) -> dict[str, Any]:
    tree: dict[str, Any] = msgspec.to_builtins(result)
    return tree


async def _sse(events: AsyncIterator[StreamedEvent]) -> AsyncGenerator[bytes, None]:
    async for item in events:
        data = msgspec.json.encode(item.event)
        yield b"event: runtime\ndata: %b\nid: %d\n\n" % (data, item.id)
