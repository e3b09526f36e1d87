"""The market family of the REST API: what clients depend on beyond what the recordings show."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from starlette.requests import Request

from node.api import market as market_api
from node.api.web import ApiRequest, Session, Taken
from p2p.identity import NodeId, recover
from protocols.ground.times import parse_time
from protocols.market.core.signatures import approval_digest, commitment_digest
from tests.node.api.client import Answer, MarketClient
from tests.protocols.market.trading import (
    DEMAND,
    DEMAND_CONSTRAINTS,
    OFFER,
    OFFER_CONSTRAINTS,
    Trader,
    approved,
    pending,
    traders,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


MA = "/market-api/v1"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6}|\.\d{9})?Z\Z")


def client_of(trader: Trader, identity: NodeId | None = None) -> MarketClient:
    return MarketClient(trader.protocol, identity or trader.id)


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[tuple[MarketClient, MarketClient, Trader, Trader]]:
    async with traders() as (provider, requestor):
        yield client_of(provider), client_of(requestor), provider, requestor


def event_date(answer: Answer) -> str:
    return str(answer.json()[0]["eventDate"])


async def test_a_deal_as_an_sdk_makes_it(autojump_clock: trio.testing.MockClock) -> None:
    async with clients() as (prov, req, _, requestor):
        offer = (
            await prov.post(f"{MA}/offers", {"properties": OFFER, "constraints": OFFER_CONSTRAINTS})
        ).json()
        demand = (
            await req.post(f"{MA}/demands", {"properties": DEMAND, "constraints": DEMAND_CONSTRAINTS})
        ).json()
        (event,) = (await req.get(f"{MA}/demands/{demand}/events?timeout=5&maxEvents=10")).json()
        assert event["eventType"] == "ProposalEvent"
        assert re.fullmatch(r".*\.\d{3}Z|.*:\d\dZ", event["eventDate"])
        initial = event["proposal"]
        assert "prevProposalId" not in initial
        assert initial["state"] == "Initial"
        counter = f"{MA}/demands/{demand}/proposals/{initial['proposalId']}"
        mine = (await req.post(counter, {"properties": DEMAND, "constraints": DEMAND_CONSTRAINTS})).json()
        (event,) = (await prov.get(f"{MA}/offers/{offer}/events?timeout=5")).json()
        theirs = event["proposal"]["proposalId"]
        answer = await prov.post(
            f"{MA}/offers/{offer}/proposals/{theirs}",
            {"properties": OFFER, "constraints": OFFER_CONSTRAINTS},
        )
        assert answer.status == 200
        (event,) = (await req.get(f"{MA}/demands/{demand}/events?timeout=5")).json()
        assert event["proposal"]["prevProposalId"] == mine
        # the text of numbers is kept: SDKs tell 0.0 from 0
        assert b"[0.0001,0.00005,0.0]" in (await prov.get(f"{MA}/offers")).body
        valid_to = "2026-01-01T05:00:00+02:00"
        body = {"proposalId": event["proposal"]["proposalId"], "validTo": valid_to}
        agreement = (await req.post(f"{MA}/agreements", body)).json()
        assert (await req.post(f"{MA}/agreements/{agreement}/confirm?appSessionId=s1")).status == 204
        (event,) = (await prov.get(f"{MA}/offers/{offer}/events?timeout=5")).json()
        assert event["eventType"] == "AgreementEvent"
        assert (await prov.post(f"{MA}/agreements/{agreement}/approve?timeout=5")).status == 204
        waited = await req.post(f"{MA}/agreements/{agreement}/wait?timeout=15")
        assert (waited.status, waited.body) == (204, b"")
        shown = (await req.get(f"{MA}/agreements/{agreement}")).json()
        assert shown["state"] == "Approved"
        assert shown["validTo"] == "2026-01-01T03:00:00Z"
        assert shown["appSessionId"] == "s1"
        assert shown["offer"]["properties"] == OFFER
        assert TIME.match(shown["approvedDate"])
        check_signatures(shown, requestor)
        terminated = await req.post(f"{MA}/agreements/{agreement}/terminate", {"message": "done"})
        assert (terminated.status, terminated.body, terminated.content_type) == (200, b"", None)


def check_signatures(shown: dict[str, Any], requestor: Trader) -> None:
    """Check the signatures as somebody would who has nothing but what the API shows."""
    approved_ns = parse_time(shown["approvedDate"])
    proposed, approval, commitment = (
        bytes.fromhex(shown[f"{step}Signature"]) for step in ("proposed", "approved", "committed")
    )
    agreement = shown["agreementId"]
    assert (
        recover(approval_digest(agreement, proposed, approved_ns), approval) == shown["offer"]["providerId"]
    )
    assert recover(commitment_digest(agreement, approval), commitment) == requestor.id


async def test_what_could_not_be_written_is_read_again(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        await provider.offer()
        await trio.sleep(3)
        demand = await requestor.demand()

        async def taken() -> Taken:
            path = f"{MA}/demands/{demand}/events"
            found = market_api.routes(requestor.protocol).find("GET", path)
            assert found is not None
            handler, parameters = found
            scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"timeout=5"}
            answer = await handler(
                ApiRequest(Request(scope), Session(requestor.id, "test"), parameters, "market")
            )
            assert isinstance(answer, Taken)
            return answer

        lost = await taken()
        assert len(json.loads(bytes(lost.body))) == 1
        assert json.loads(bytes((await taken()).body)) == []
        await lost.settle(False)
        again = await taken()
        assert again.body == lost.body
        await again.settle(True)
        await again.settle(False)
        assert json.loads(bytes((await taken()).body)) == []


async def test_whoever_hangs_up_while_waiting_takes_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with clients() as (_, req, provider, requestor):
        demand = await requestor.demand()
        events = f"{MA}/demands/{demand}/events?timeout=60"
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                gone = await req("GET", events, leaves_after=10)
                assert gone.status == 0

            nursery.start_soon(wait)
            await trio.sleep(20)
            await provider.offer()
        assert len((await req.get(events)).json()) == 1


@pytest.mark.parametrize(
    ("target", "status", "says"),
    [
        ("demands/{d}/events?timeout=inf", 400, "Query deserialize error"),
        ("demands/{d}/events?timeout=1&timeout=2", 400, "duplicate field"),
        ("demands/{d}/events?timeout=0&maxEvents=x", 400, "Query deserialize error"),
        ("demands/{d}/proposals/x", 400, "Path deserialize error: Id [x] has invalid format."),
        ("demands/{d}/proposals/R-x", 400, "non hexadecimal"),
        ("demands/x/proposals/R-" + "0" * 64, 400, "Subscription id [x] has invalid format."),
        ("agreements?state=Approving", 400, "unknown variant"),
        ("agreements?beforeDate=2026-01-01", 400, "Query deserialize error"),
        ("agreementEvents?afterTimestamp=2026-01-01T00:00:00", 400, "Query deserialize error"),
        ("scan/0/events", 404, "not found"),
        ("demands/{d}", 404, None),
        ("demands/{d}/", 404, None),
        ("offers/{d}/events", 404, "Could be unsubscribed"),
    ],
)
async def test_bad_requests(
    target: str, status: int, says: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with clients() as (_, req, _, requestor):
        demand = await requestor.demand()
        answer = await req.get(f"{MA}/" + target.format(d=demand))
        assert answer.status == status
        if says is None:
            assert (answer.body, answer.content_type) == (b"", None)
        else:
            assert says in answer.body.decode()


async def test_bodies_that_are_none(autojump_clock: trio.testing.MockClock) -> None:
    async with clients() as (_, req, _, _):
        large = {"properties": {"a": "x" * 3_000_000}, "constraints": "()"}
        for body in (large, {"properties": {"a": "x" * 100_000}, "constraints": "()"}):
            answer = await req.post(f"{MA}/demands", body)
            assert (answer.status, answer.content_type) == (400, "application/json")
            assert answer.message
        reasons: list[Any] = [{"message": 1}, "text", 1, [], {}]
        for reason in reasons:
            answer = await req.post(f"{MA}/agreements/{'a' * 64}/terminate", reason)
            assert answer.status == 400
        assert (await req.post(f"{MA}/agreements/{'a' * 64}/terminate", null=True)).status == 404
        answer = await req("POST", f"{MA}/demands", raw=b"[" * 100_000, headers={"content-type": "a/b+json"})
        assert answer.status == 400


async def test_no_reason_is_none(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        prov, req = client_of(provider), client_of(requestor)
        rejected = await prov.post(f"{MA}/agreements/{agreement}/reject", null=True)
        assert (rejected.status, rejected.body) == (200, b"")
        waited = await req.post(f"{MA}/agreements/{agreement}/wait?timeout=5")
        assert (waited.status, waited.message) == (410, "Rejected")
        (event,) = (await req.get(f"{MA}/agreementEvents?timeout=5")).json()
        assert event.keys() == {"eventDate", "agreementId", "eventType"}
        assert event["eventType"] == "AgreementRejectedEvent"


async def test_agreement_events_are_resumed_by_their_date(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        req = client_of(requestor)
        url = f"{MA}/agreementEvents?timeout=0&maxEvents=1&appSessionId=session-R"
        first = await req.get(url)
        assert first.json()[0]["eventType"] == "AgreementApprovedEvent"
        after = f"{url}&afterTimestamp={event_date(first)}"
        assert (await req.get(after)).json() == []
        await req.post(f"{MA}/agreements/{agreement}/terminate", {"message": "a", "b": {"c": [1.50]}})
        second = await req.get(after)
        (event,) = second.json()
        assert (event["terminator"], event["reason"]) == ("Requestor", {"message": "a", "b": {"c": [1.5]}})
        assert TIME.match(event["eventDate"])
        encoded = event_date(first).replace("Z", "%2B00:00")
        assert (await req.get(f"{url}&afterTimestamp={encoded}")).json() == second.json()


async def test_an_approval_that_waits_is_shown_as_pending(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        await trio.sleep(1)
        provider.network.isolate(requestor.id)
        prov = client_of(provider)
        answer = await prov.post(f"{MA}/agreements/{agreement}/approve?timeout=3")
        assert answer.status == 500
        assert "no answer" in answer.message
        shown = (await prov.get(f"{MA}/agreements/{agreement}")).json()
        assert shown["state"] == "Pending"
        assert "approvedDate" not in shown
        assert "approvedSignature" not in shown
        (line,) = (await prov.get(f"{MA}/agreements?state=Pending")).json()
        assert line == {
            "id": agreement,
            "timestamp": shown["timestamp"],
            "approvedDate": None,
            "role": "Provider",
        }
        assert (await prov.get(f"{MA}/agreements?state=Approved")).json() == []
        rejected = await prov.post(f"{MA}/agreements/{agreement}/reject", null=True)
        assert (rejected.status, rejected.message) == (
            410,
            "Can't update Agreement state from Approving to Rejected.",
        )


async def test_keys_of_other_identities_see_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, _, agreement = await approved(provider, requestor)
        stranger = client_of(provider, requestor.id)
        assert (await stranger.get(f"{MA}/offers")).json() == []
        assert (await stranger.get(f"{MA}/offers/{offer}/events?timeout=0")).status == 404
        assert (await stranger("DELETE", f"{MA}/offers/{offer}")).status == 404
        assert (await stranger.get(f"{MA}/agreements/{agreement}")).status == 404
        assert (await stranger.get(f"{MA}/agreements")).json() == []
        assert (await stranger.get(f"{MA}/agreementEvents?timeout=0")).json() == []
        answer = await stranger.post(f"{MA}/offers", {"properties": {}, "constraints": "()"})
        assert answer.status == 403


async def test_scans(autojump_clock: trio.testing.MockClock) -> None:
    async with clients() as (_prov, req, provider, requestor):
        answer = await req.post(f"{MA}/scan", {"type": "offer", "constraints": "(golem.runtime.name=vm)"})
        assert (answer.status, answer.json()) == (201, "0")
        offer = await provider.offer()
        found = await req.get(f"{MA}/scan/0/events?timeout=5")
        assert [one["offerId"] for one in found.json()] == [offer]
        assert (await req.get(f"{MA}/scan/0/events?timeout=0")).json() == []
        other = client_of(requestor, provider.id)
        assert (await other.get(f"{MA}/scan/0/events?timeout=0")).status == 403
        asked = await req.get(f"{MA}/scan/0/events?timeout=5&peerId={provider.id}")
        assert [one["offerId"] for one in asked.json()] == [offer]
        assert (await req.get(f"{MA}/scan/0/events?peerId=0xzz")).status == 400
        requestor.network.isolate(provider.id)
        silent = await req.get(f"{MA}/scan/0/events?timeout=3&peerId={provider.id}")
        assert silent.status == 504
        assert (await req("DELETE", f"{MA}/scan/0")).status == 204
        assert (await req("DELETE", f"{MA}/scan/0")).status == 404
        for body in (
            {"type": "offer", "constraints": "(a="},
            {"type": "x"},
            {},
            {"type": "offer", "timeout": 0},
        ):
            assert (await req.post(f"{MA}/scan", body)).status == 400


async def test_a_scan_as_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with clients() as (_, req, provider, _requestor):
        (scan,) = [(await req.post(f"{MA}/scan", {"type": "offer"})).json()]
        first = await provider.offer()
        answers: list[Answer] = []

        async def follow() -> None:
            stream = {"accept": "text/event-stream"}
            answers.append(await req("GET", f"{MA}/scan/{scan}/events", headers=stream, leaves_after=20))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await trio.sleep(5)
            second = await provider.offer({"later": True})
        (answer,) = answers
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        frames = [
            frame for frame in answer.body.decode().split("\n\n") if frame and not frame.startswith(":")
        ]
        offers = [json.loads(frame.removeprefix("event: offer\ndata: "))["offerId"] for frame in frames]
        assert offers == [first, second]
        # what the stream gave is not given again
        assert (await req.get(f"{MA}/scan/{scan}/events?timeout=0")).json() == []
        unknown = await req("GET", f"{MA}/scan/99/events", headers={"accept": "text/event-stream"})
        assert unknown.status == 404


async def test_json_whatever_else_is_accepted(autojump_clock: trio.testing.MockClock) -> None:
    """One client keeps `Accept: text/event-stream` after its first stream, also for what is no stream."""
    async with clients() as (_, req, _, requestor):
        demand = await requestor.demand()
        stream = {"accept": "text/event-stream", "content-type": "application/json"}
        answer = await req("GET", f"{MA}/demands/{demand}/events?timeout=0", headers=stream)
        assert (answer.status, answer.content_type, answer.json()) == (200, "application/json", [])
        confirm = await req("POST", f"{MA}/agreements/{'a' * 64}/confirm", headers=stream)
        assert confirm.status == 404
