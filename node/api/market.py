"""REST, market family: `/market-api/v1`.

Subscriptions, negotiation, agreements and scans, as Golem SDKs call them. Translates between JSON and
`protocols.market.service.Market`, and does nothing else; what clients are shown is made in `market_json`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from node.api import market_json as shown
from node.api.web import (
    ApiError,
    ApiRequest,
    EventStream,
    Routes,
    Taken,
    answer,
    empty,
    error,
    no_content,
    text,
)
from p2p.identity import InvalidNodeId, parse_node_id
from protocols.ground.times import TimeFormatError, parse_time
from protocols.market import errors, ids
from protocols.market.messages import AgreementState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.responses import Response

    from protocols.market.handler import MarketProtocol
    from protocols.market.service import Market
    from protocols.market.subscriptions import Kind

    Handler = Callable[[ApiRequest], Awaitable[Response]]

PREFIX = "/market-api/v1"
DEFAULT_TIMEOUT = 5.0
MAX_TIMEOUT = 3600.0
"""Seconds: a poll that asks for more is answered after this long."""
DEFAULT_EVENTS = 20
MAX_EVENTS = 100
DEFAULT_SCANNED = 500
MAX_SCANNED = 10_000
BEGINNING_NS = 1_478_822_400 * 10**9
"""Where agreement events begin without `afterTimestamp`: 2016-11-11, before there was any."""

_STATES = {
    "Proposal": (AgreementState.PROPOSAL,),
    "Pending": (AgreementState.PENDING, AgreementState.APPROVING),
    "Cancelled": (AgreementState.CANCELLED,),
    "Rejected": (AgreementState.REJECTED,),
    "Approved": (AgreementState.APPROVED,),
    "Expired": (AgreementState.EXPIRED,),
    "Terminated": (AgreementState.TERMINATED,),
}
_STATUSES: tuple[tuple[type[errors.MarketError], int], ...] = (
    (errors.BadRequest, 400),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.TimedOut, 408),
    (errors.Conflict, 409),
    (errors.Gone, 410),
    (errors.LimitReached, 429),
)


class _Content(msgspec.Struct):
    """Body of an offer, a demand or a counter-proposal."""

    properties: Any
    constraints: str


class _NewAgreement(msgspec.Struct, rename="camel"):
    proposal_id: str
    valid_to: str


class _NewScan(msgspec.Struct):
    type: Literal["offer", "demand"]
    constraints: str | None = None
    timeout: float | None = None


def routes(market: MarketProtocol) -> Routes:
    """Return the family's table."""
    table = Routes("market", PREFIX)
    api = _MarketApi(market)

    def add(method: str, template: str, handler: Handler) -> None:
        table.add(method, template, _mapped(handler))

    for kind, path in (("demand", "/demands"), ("offer", "/offers")):
        of_kind: Kind = "demand" if kind == "demand" else "offer"
        add("POST", path, functools.partial(api.subscribe, of_kind))
        add("GET", path, functools.partial(api.subscriptions, of_kind))
        add("DELETE", f"{path}/{{id}}", functools.partial(api.unsubscribe, of_kind))
        add("GET", f"{path}/{{id}}/events", functools.partial(api.events, of_kind))
        add("GET", f"{path}/{{id}}/proposals/{{proposal}}", api.proposal)
        add("POST", f"{path}/{{id}}/proposals/{{proposal}}", api.counter)
        add("POST", f"{path}/{{id}}/proposals/{{proposal}}/reject", api.reject_proposal)
    add("POST", "/agreements", api.create_agreement)
    add("GET", "/agreements", api.agreements)
    add("GET", "/agreements/{id}", api.agreement)
    add("POST", "/agreements/{id}/confirm", api.confirm)
    add("POST", "/agreements/{id}/wait", api.wait)
    add("POST", "/agreements/{id}/cancel", api.cancel)
    add("POST", "/agreements/{id}/approve", api.approve)
    add("POST", "/agreements/{id}/reject", api.reject)
    add("POST", "/agreements/{id}/terminate", api.terminate)
    add("GET", "/agreements/{id}/terminate/reason", api.termination)
    add("GET", "/agreementEvents", api.agreement_events)
    add("POST", "/scan", api.begin_scan)
    add("GET", "/scan/{id}/events", api.scan)
    add("DELETE", "/scan/{id}", api.end_scan)
    return table


class _MarketApi:
    def __init__(self, protocol: MarketProtocol) -> None:
        self._protocol = protocol

    @property
    def _market(self) -> Market:
        return self._protocol.service

    # --- offers and demands ---------------------------------------------------------------------------------

    async def subscribe(self, kind: Kind, request: ApiRequest) -> Response:
        body = await request.body_as(_Content)
        subscribe = self._market.subscribe_demand if kind == "demand" else self._market.subscribe_offer
        return answer(await subscribe(request.identity, body.properties, body.constraints), 201)

    async def subscriptions(self, kind: Kind, request: ApiRequest) -> Response:
        read = self._market.demands if kind == "demand" else self._market.offers
        return answer([shown.subscription(one) for one in read(request.identity)])

    async def unsubscribe(self, kind: Kind, request: ApiRequest) -> Response:
        end = self._market.unsubscribe_demand if kind == "demand" else self._market.unsubscribe_offer
        await end(request.identity, _subscription_id(request))
        return no_content()

    async def events(self, kind: Kind, request: ApiRequest) -> Response:
        subscription = _subscription_id(request)
        timeout, limit = _timeout(request), _max_events(request)
        collected = await self._market.collect(
            request.identity, kind, subscription, timeout=timeout, limit=limit
        )

        async def settle(delivered: bool) -> None:
            (collected.confirm if delivered else collected.put_back)()

        return Taken([shown.negotiation_event(event) for event in collected.events], settle)

    async def proposal(self, request: ApiRequest) -> Response:
        subscription, proposal = _subscription_id(request), _proposal_id(request)
        return answer(shown.proposal(await self._market.proposal(request.identity, subscription, proposal)))

    async def counter(self, request: ApiRequest) -> Response:
        subscription, proposal = _subscription_id(request), _proposal_id(request)
        body = await request.body_as(_Content)
        new = await self._market.counter(
            request.identity, subscription, proposal, body.properties, body.constraints
        )
        return answer(new)

    async def reject_proposal(self, request: ApiRequest) -> Response:
        subscription, proposal = _subscription_id(request), _proposal_id(request)
        reason = await _reason(request)
        try:
            await self._market.reject_proposal(request.identity, subscription, proposal, reason)
        except errors.NotFound as problem:
            raise error(500, str(problem)) from problem  # so the Golem daemon has it
        return no_content()

    # --- agreements -----------------------------------------------------------------------------------------

    async def create_agreement(self, request: ApiRequest) -> Response:
        body = await request.body_as(_NewAgreement)
        try:
            valid_to_ns = parse_time(body.valid_to)
        except TimeFormatError as problem:
            raise request.bad_body(f"Json deserialize error: {problem}") from problem
        try:
            ids.split_proposal_id(body.proposal_id)
        except errors.InvalidId as problem:
            raise error(400, f"Invalid Agreement id. {problem}") from problem
        return answer(await self._market.create_agreement(request.identity, body.proposal_id, valid_to_ns))

    async def agreements(self, request: ApiRequest) -> Response:
        state = request.query_text("state")
        if state is not None and state not in _STATES:
            expected = ", ".join(f"`{name}`" for name in _STATES)
            raise ApiError(
                text(
                    400,
                    f"Query deserialize error: unknown variant `{state[:64]}`, expected one of {expected}",
                )
            )
        found = await self._market.agreements(
            request.identity,
            states=_STATES[state] if state else (),
            after_ns=request.query_time("afterDate"),
            before_ns=request.query_time("beforeDate"),
            app_session_id=request.query_text("appSessionId"),
        )
        return answer([shown.agreement_line(one) for one in found])

    async def agreement(self, request: ApiRequest) -> Response:
        return answer(shown.agreement(await self._market.agreement(request.identity, _agreement_id(request))))

    async def confirm(self, request: ApiRequest) -> Response:
        session = request.query_text("appSessionId")
        await self._market.confirm_agreement(request.identity, _agreement_id(request), session)
        return no_content()

    async def wait(self, request: ApiRequest) -> Response:
        agreement, timeout = _agreement_id(request), _timeout(request)
        await self._market.wait_for_approval(request.identity, agreement, timeout)
        return no_content()

    async def cancel(self, request: ApiRequest) -> Response:
        agreement = _agreement_id(request)
        await self._market.cancel_agreement(request.identity, agreement, await _reason(request))
        return empty()

    async def approve(self, request: ApiRequest) -> Response:
        agreement, timeout = _agreement_id(request), _timeout(request)
        session = request.query_text("appSessionId")
        await self._market.approve_agreement(request.identity, agreement, session, timeout=timeout)
        return no_content()

    async def reject(self, request: ApiRequest) -> Response:
        agreement = _agreement_id(request)
        await self._market.reject_agreement(request.identity, agreement, await _reason(request))
        return empty()

    async def terminate(self, request: ApiRequest) -> Response:
        agreement = request.path["id"]
        reason = await _reason(request)
        try:
            ids.check_agreement_id(agreement)
        except errors.InvalidId as problem:
            message = f"Failed to get Agreement [{agreement[:128]}]. Error: Invalid Agreement id: {problem}"
            raise error(500, message) from problem
        await self._market.terminate_agreement(request.identity, agreement, reason)
        return empty()

    async def termination(self, request: ApiRequest) -> Response:
        event = await self._market.termination(request.identity, _agreement_id(request))
        return answer(shown.agreement_event(event))

    async def agreement_events(self, request: ApiRequest) -> Response:
        after_ns = request.query_time("afterTimestamp")
        found = await self._market.agreement_events(
            request.identity,
            after_ns=BEGINNING_NS if after_ns is None else after_ns,
            app_session_id=request.query_text("appSessionId"),
            timeout=_timeout(request),
            limit=_max_events(request),
        )
        return answer([shown.agreement_event(event) for event in found])

    # --- scans ----------------------------------------------------------------------------------------------

    async def begin_scan(self, request: ApiRequest) -> Response:
        body = await request.body_as(_NewScan)
        return answer(
            self._market.begin_scan(request.identity, body.type, body.constraints, body.timeout), 201
        )

    async def scan(self, request: ApiRequest) -> Response:
        scan_id = request.path["id"]
        if request.raw.headers.get("accept") == "text/event-stream":
            await self._market.scan(request.identity, scan_id, timeout=0, limit=0)  # for its errors
            return EventStream(self._frames(request, scan_id))
        timeout = _timeout(request)
        limit = min(MAX_SCANNED, max(1, request.query_int("maxEvents", DEFAULT_SCANNED) or 1))
        peer = request.query_text("peerId")
        if peer is not None:
            return await self._scan_provider(request, scan_id, peer, timeout, limit)
        page = await self._market.scan(request.identity, scan_id, timeout=timeout, limit=limit)

        async def settle(delivered: bool) -> None:
            if delivered:
                page.confirm()

        return Taken([shown.subscription(offer) for offer in page.offers], settle)

    async def _scan_provider(
        self, request: ApiRequest, scan_id: str, peer: str, timeout: float, limit: int
    ) -> Response:
        try:
            provider = parse_node_id(peer)
        except InvalidNodeId as problem:
            raise ApiError(text(400, f"Query deserialize error: peerId: {problem}")) from problem
        try:
            found = await self._market.scan_provider(request.identity, scan_id, provider, timeout=timeout)
        except (errors.TimedOut, errors.PeerSilent) as problem:
            raise error(504, str(problem)) from problem
        return answer([shown.subscription(offer) for offer in found[:limit]])

    @contextlib.asynccontextmanager
    async def _frames(self, request: ApiRequest, scan_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async def frames() -> AsyncIterator[bytes]:
            while True:
                try:
                    page = await self._market.scan(
                        request.identity, scan_id, timeout=MAX_TIMEOUT, limit=DEFAULT_SCANNED
                    )
                except errors.NotFound:
                    return  # ended by another request
                for offer in page.offers:
                    yield b"event: offer\ndata: " + msgspec.json.encode(shown.subscription(offer)) + b"\n\n"
                page.confirm()

        items = frames()
        try:
            yield items
        finally:
            await items.aclose()  # type: ignore[attr-defined]

    async def end_scan(self, request: ApiRequest) -> Response:
        self._market.end_scan(request.identity, request.path["id"])
        return no_content()


def _mapped(handler: Handler) -> Handler:
    """Turn the market's errors into the statuses that clients know."""

    async def mapped(request: ApiRequest) -> Response:
        try:
            return await handler(request)
        except errors.MarketError as problem:
            for kind, status in _STATUSES:
                if isinstance(problem, kind):
                    raise error(status, str(problem)) from problem
            raise error(500, str(problem)) from problem

    return mapped


def _subscription_id(request: ApiRequest) -> str:
    try:
        return ids.check_subscription_id(request.path["id"])
    except errors.InvalidId as problem:
        raise _bad_path(problem) from problem


def _proposal_id(request: ApiRequest) -> str:
    proposal = request.path["proposal"]
    try:
        ids.split_proposal_id(proposal)
    except errors.InvalidId as problem:
        raise _bad_path(problem) from problem
    return proposal


def _bad_path(problem: errors.InvalidId) -> ApiError:
    # JSON text that is labelled as plain text: clients have seen it so from the Golem daemon.
    body = msgspec.json.encode({"message": f"Path deserialize error: {problem}"}).decode()
    return ApiError(text(400, body))


def _agreement_id(request: ApiRequest) -> str:
    try:
        return ids.check_agreement_id(request.path["id"])
    except errors.InvalidId as problem:
        raise error(400, f"Invalid Agreement id. {problem}") from problem


def _timeout(request: ApiRequest) -> float:
    return min(MAX_TIMEOUT, max(0.0, request.query_float("timeout", DEFAULT_TIMEOUT)))


def _max_events(request: ApiRequest) -> int:
    limit = request.query_int("maxEvents", DEFAULT_EVENTS)
    assert limit is not None
    if abs(limit) >= 2**31:
        raise ApiError(text(400, "Query deserialize error: number too large to fit in target type"))
    if not 1 <= limit <= MAX_EVENTS:
        raise error(400, f"Invalid maxEvents '{limit}', should be between 1 and {MAX_EVENTS}.")
    return limit


async def _reason(request: ApiRequest) -> Any:
    reason = await request.body()
    if reason is not None and not (isinstance(reason, dict) and isinstance(reason.get("message"), str)):
        raise request.bad_body("Json deserialize error: a reason is null or an object with a `message`")
    return reason
