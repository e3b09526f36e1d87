"""Proposals between two nodes: delivery, refusal, losses, and what hostile nodes send."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from p2p.bus import RemoteError
from protocols.market import ids
from protocols.market import messages as m
from protocols.market.errors import BadRequest, Gone, NotFound, NotMatching
from protocols.market.events import ProposalArrived, ProposalRejected
from protocols.market.messages import Role
from protocols.market.reasons import check_reason, is_final
from tests.protocols.market.trading import (
    DEMAND,
    DEMAND_CONSTRAINTS,
    HOUR_NS,
    OFFER,
    OFFER_CONSTRAINTS,
    Neighbours,
    Trader,
    negotiated,
    traders,
)

DEMAND_ID = "ab" * 16 + "-" + "cd" * 32


async def opened(provider: Trader, requestor: Trader) -> tuple[str, str, str, str]:
    """Bring the two to a requestor's first counter; return offer, demand, and its id on either side."""
    offer, demand = await provider.offer(), await requestor.demand()
    initial = await requestor.proposal("demand", demand)
    mine = await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
    theirs = await provider.proposal("offer", offer)
    assert theirs.proposal_id[2:] == mine[2:]
    return offer, demand, mine, theirs.proposal_id


async def test_proposals_show_who_said_what(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, mine, theirs = await opened(provider, requestor)
        asked = await provider.market.proposal(provider.id, offer, theirs)
        assert (asked.issuer_id, asked.state) == (requestor.id, "Draft")
        assert json.loads(asked.properties) == DEMAND
        initial = await provider.market.proposal(provider.id, offer, asked.prev_proposal_id or "")
        assert (initial.issuer_id, initial.state, initial.prev_proposal_id) == (provider.id, "Initial", None)
        mirrored = await requestor.market.proposal(requestor.id, demand, mine)
        assert mirrored.prev_proposal_id == f"R-{initial.proposal_id[2:]}"
        for owner, subscription, proposal in (
            (provider.id, demand, mine),
            (requestor.id, offer, mine),
            (requestor.id, demand, theirs),
        ):
            with pytest.raises(NotFound):
                await requestor.market.proposal(owner, subscription, proposal)


async def test_rejecting_and_taking_it_up_again(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, mine, theirs = await opened(provider, requestor)
        reject = provider.market.reject_proposal
        await reject(
            provider.id, offer, theirs, {"message": "busy", "golem.proposal.rejection.is-final": False}
        )
        (event,) = await requestor.collect("demand", demand)
        assert isinstance(event, ProposalRejected)
        assert event.proposal_id == mine
        assert json.loads(event.reason or "") == {
            "message": "busy",
            "golem.proposal.rejection.is-final": False,
        }
        assert (await requestor.market.proposal(requestor.id, demand, mine)).state == "Rejected"
        await provider.counter(offer, theirs, OFFER, OFFER_CONSTRAINTS)
        draft = await requestor.proposal("demand", demand)
        assert draft.prev_proposal_id == mine
        assert (await requestor.market.proposal(requestor.id, demand, mine)).state == "Draft"
        await requestor.market.reject_proposal(requestor.id, demand, draft.proposal_id, None)
        (event,) = await provider.collect("offer", offer)
        assert isinstance(event, ProposalRejected)
        assert event.reason is None


async def test_a_rejected_initial_proposal_is_nobody_elses_news(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        offer, demand = await provider.offer(), await requestor.demand()
        initial = await requestor.proposal("demand", demand)
        for _ in range(2):
            await requestor.market.reject_proposal(
                requestor.id, demand, initial.proposal_id, {"message": "no"}
            )
        assert await provider.collect("offer", offer, 5) == []
        await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
        assert len(await provider.collect("offer", offer, 5)) == 1


@pytest.mark.parametrize("reason", ["no", 5, [], {}, {"message": 5}, {"message": "x" * 10_000}])
async def test_a_reason_has_a_message(reason: Any, autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, _, _, theirs = await opened(provider, requestor)
        with pytest.raises(BadRequest, match="reason"):
            await provider.market.reject_proposal(provider.id, offer, theirs, reason)


async def test_reading_is_once_unless_put_back(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        for number in range(5):
            await provider.offer({**OFFER, "number": number})
        await trio.sleep(3)
        demand = await requestor.demand()
        collect = requestor.market.collect
        first = await collect(requestor.id, "demand", demand, timeout=0, limit=3)
        second = await collect(requestor.id, "demand", demand, timeout=0, limit=3)
        assert (len(first.events), len(second.events)) == (3, 2)
        assert (await collect(requestor.id, "demand", demand, timeout=0)).events == ()
        first.put_back()
        second.confirm()
        again = await collect(requestor.id, "demand", demand, timeout=0)
        assert set(again.events) == set(first.events)


# --- losses ---------------------------------------------------------------------------------------------------


async def test_a_first_counter_that_cannot_be_delivered_comes_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        await provider.offer()
        demand = await requestor.demand()
        initial = await requestor.proposal("demand", demand)
        requestor.network.isolate(provider.id)
        start = trio.current_time()
        mine = await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
        assert trio.current_time() - start < 0.1
        (event,) = await requestor.collect("demand", demand, 300)
        assert isinstance(event, ProposalRejected)
        assert event.proposal_id == mine
        reason = json.loads(event.reason or "")
        assert "could not be delivered" in reason["message"]
        assert reason["golem.proposal.rejection.is-final"] is False


async def test_a_short_silence_is_bridged(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, _, theirs = await opened(provider, requestor)
        requestor.network.isolate(requestor.id)
        start = trio.current_time()
        await provider.counter(offer, theirs, OFFER, OFFER_CONSTRAINTS)
        assert trio.current_time() - start == pytest.approx(4, abs=0.1)
        await trio.sleep(10)
        requestor.network.heal()
        draft = await requestor.proposal("demand", demand)
        assert draft.prev_proposal_id == f"R-{theirs[2:]}"
        assert await provider.collect("offer", offer, 200) == []


async def test_a_counter_that_is_refused_can_be_made_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours()) as (provider, requestor):
        offer, demand, _mine, theirs = await opened(provider, requestor)
        await requestor.market.unsubscribe_demand(requestor.id, demand)
        for _ in range(2):
            with pytest.raises(Gone, match="not active any more"):
                await provider.counter(offer, theirs, OFFER, OFFER_CONSTRAINTS)
        await requestor.restart()
        with pytest.raises(Gone, match="knows nothing of this negotiation"):
            await provider.counter(offer, theirs, OFFER, OFFER_CONSTRAINTS)


async def test_what_is_over_is_not_negotiated(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours()) as (provider, requestor):
        offer, demand, _, theirs = await opened(provider, requestor)
        await provider.counter(offer, theirs, OFFER, OFFER_CONSTRAINTS)
        draft = await requestor.proposal("demand", demand)
        await provider.market.unsubscribe_offer(provider.id, offer)
        with pytest.raises(BadRequest, match="was already unsubscribed"):
            await requestor.counter(demand, draft.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
        await requestor.market.unsubscribe_demand(requestor.id, demand)
        with pytest.raises(BadRequest, match="was already unsubscribed"):
            await requestor.counter(demand, draft.proposal_id, DEMAND, DEMAND_CONSTRAINTS)


# --- what peers may say ---------------------------------------------------------------------------------------


class Speaker:
    """Makes messages of a requestor by hand."""

    def __init__(self, provider: Trader, requestor: Trader, offer: str) -> None:
        self.provider, self.requestor, self.offer = provider, requestor, offer
        held = provider.market.offers_of_all.catalogue.offer(offer)
        assert held is not None
        self.body_hash = held.body.hash

    def first(
        self,
        properties: str = json.dumps(DEMAND, sort_keys=True, separators=(",", ":")),
        constraints: str = DEMAND_CONSTRAINTS,
        *,
        number: int = 0,
        ahead_ns: int = 0,
        offer: str = "",
    ) -> m.InitialProposalReceived:
        now = self.provider.ctx.clock.utc_ns()
        initial = ids.initial_hash(self.offer, DEMAND_ID, self.body_hash, now + number)
        proposal = ids.proposal_hash(
            self.offer, DEMAND_ID, initial, Role.REQUESTOR, now + ahead_ns, properties, constraints
        )
        return m.InitialProposalReceived(
            offer or self.offer,
            DEMAND_ID,
            now + number,
            now + HOUR_NS,
            m.ProposalContent(proposal, properties, constraints, now + ahead_ns),
        )

    async def says(self, message: Any, by: Trader | None = None) -> str:
        """Return `taken`, or the kind of the refusal."""
        try:
            await (by or self.requestor).ask(self.provider, message, m.Ack)
        except RemoteError as error:
            return error.kind
        return "taken"


async def test_a_repeated_proposal_is_one(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, requestor, stranger):
        offer = await provider.offer()
        speaker = Speaker(provider, requestor, offer)
        message = speaker.first()
        assert [await speaker.says(message) for _ in range(3)] == ["taken"] * 3
        assert len(await provider.collect("offer", offer, 1)) == 1
        other = msgspec.structs.replace(message.proposal, constraints="(&)")
        another = msgspec.structs.replace(message, proposal=msgspec.structs.replace(other, id="0" * 64))
        assert await speaker.says(another) == "gone"
        assert await speaker.says(message, by=stranger) == "notFound"


async def test_bad_first_proposals_leave_nothing_behind(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer = await provider.offer()
        speaker = Speaker(provider, requestor, offer)
        good = speaker.first()
        bad = {
            "wrong hash": msgspec.structs.replace(
                good, proposal=msgspec.structs.replace(good.proposal, properties="{}")
            ),
            "does not match": speaker.first(properties="{}"),
            "broken constraint": speaker.first(constraints="(a="),
            "not JSON": speaker.first(properties="{"),
            "not canonical": speaker.first(properties=json.dumps(DEMAND)),
            "from the future": speaker.first(ahead_ns=HOUR_NS),
            "too large": speaker.first(constraints="(" + "x" * 65_000 + "=*)"),
            "odd demand": msgspec.structs.replace(good, demand_id="x"),
        }
        for why, message in bad.items():
            assert await speaker.says(message) == "badRequest", why
        assert await speaker.says(speaker.first(offer="0" * 32 + "-" + "0" * 64)) == "notFound"
        assert await provider.collect("offer", offer, 0) == []
        assert len(provider.market.proposals.book) == 0
        assert await speaker.says(good) == "taken"


async def test_a_peer_opens_only_so_many_negotiations(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer = await provider.offer()
        speaker = Speaker(provider, requestor, offer)
        answers = [await speaker.says(speaker.first(number=n)) for n in range(40)]
        assert 20 <= answers.count("taken") <= 30
        assert set(answers) == {"taken", "limit"}
        await trio.sleep(60)
        assert await speaker.says(speaker.first(number=100)) == "limit"  # twenty are open


async def test_strangers_do_not_take_part(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, requestor, stranger):
        offer, demand, mine, theirs = await opened(provider, requestor)
        content = m.ProposalContent("0" * 64, "{}", "()", provider.ctx.clock.utc_ns())
        for message in (m.ProposalReceived(theirs[2:], content), m.ProposalRejected(theirs[2:])):
            for peer in (provider, requestor):
                with pytest.raises(RemoteError) as caught:
                    await stranger.ask(peer, message, m.Ack)
                assert caught.value.kind == "notFound"
        # nor does a party refuse or counter its own
        for message in (m.ProposalReceived(theirs[2:], content), m.ProposalRejected(theirs[2:])):
            with pytest.raises(RemoteError) as caught:
                await requestor.ask(provider, message, m.Ack)
            assert caught.value.kind == "notFound"
        assert (await requestor.market.proposal(requestor.id, demand, mine)).state == "Draft"
        assert await provider.collect("offer", offer, 0) == []


async def test_a_bad_counter_is_refused_by_the_receiving_node(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        offer, demand, draft = await negotiated(provider, requestor)
        now = requestor.ctx.clock.utc_ns()
        wrong = ids.proposal_hash(offer, demand, draft[2:], Role.REQUESTOR, now, "{}", "()")
        for content in (
            m.ProposalContent(wrong, "{}", "()", now),
            m.ProposalContent("0" * 64, "{}", "()", now),
            m.ProposalContent(wrong, "[" * 100, "()", now),
        ):
            with pytest.raises(RemoteError) as caught:
                await requestor.ask(provider, m.ProposalReceived(draft[2:], content), m.Ack)
            assert caught.value.kind == "badRequest"
        with pytest.raises(NotMatching, match="Mismatched constraints"):
            await requestor.counter(demand, draft, {}, "()")
        for reason in ('{"message":5}', "no", "NaN", '{"message":"\\ud800"}'):
            with pytest.raises(RemoteError) as caught:
                await requestor.ask(provider, m.ProposalRejected(draft[2:], reason), m.Ack)
            assert caught.value.kind == "badRequest"
        await requestor.counter(demand, draft, DEMAND, DEMAND_CONSTRAINTS)
        (event,) = await provider.collect("offer", offer, 5)
        assert isinstance(event, ProposalArrived)


async def test_a_demand_meets_all_offers_that_match(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(4) as (requestor, *providers):
        for provider in providers:
            for number in range(60):
                await provider.offer({**OFFER, "number": number})
        await trio.sleep(30)
        demand = await requestor.demand()
        seen = set()
        while events := await requestor.collect("demand", demand, 0):
            seen |= {event.proposal.proposal_id for event in events if isinstance(event, ProposalArrived)}
        assert len(seen) == 180


# --- once more ------------------------------------------------------------------------------------------------

BUSY = {"message": "busy", "golem.proposal.rejection.is-final": False}


async def test_an_offer_that_was_busy_comes_again_when_it_is_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As with Golem's agent, which takes its offer back while it is busy and subscribes it anew after that."""
    async with traders() as (provider, requestor):
        offer, demand, _, theirs = await opened(provider, requestor)
        await provider.market.reject_proposal(provider.id, offer, theirs, BUSY)
        assert [type(event) for event in await requestor.collect("demand", demand)] == [ProposalRejected]
        await provider.market.set_free(provider.id, offer, 0)
        assert await requestor.collect("demand", demand, 5) == []
        await provider.market.set_free(provider.id, offer, 1)
        initial = await requestor.proposal("demand", demand)
        assert (initial.state, initial.issuer_id) == ("Initial", provider.id)


async def test_an_initial_proposal_that_waits_for_an_answer_is_not_made_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        offer, demand = await provider.offer(), await requestor.demand()
        initial = await requestor.proposal("demand", demand)
        for free in (0, 1):
            await provider.market.set_free(provider.id, offer, free)
            await trio.sleep(3)
        await requestor.market.propose_again(requestor.id, demand, initial.proposal_id)
        assert await requestor.collect("demand", demand, 5) == []
        await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)


async def test_a_requestor_may_begin_anew(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, mine, theirs = await opened(provider, requestor)
        await provider.market.reject_proposal(provider.id, offer, theirs, BUSY)
        await requestor.collect("demand", demand)
        again = requestor.market.propose_again
        await again(requestor.id, demand, mine)
        initial = await requestor.proposal("demand", demand)
        assert initial.state == "Initial"
        await requestor.counter(demand, initial.proposal_id, DEMAND, DEMAND_CONSTRAINTS)
        draft = await provider.proposal("offer", offer)
        await provider.counter(offer, draft.proposal_id, OFFER, OFFER_CONSTRAINTS)
        assert (await requestor.proposal("demand", demand)).state == "Draft"
        for owner, unknown in ((provider.id, mine), (requestor.id, "R-" + "0" * 64)):
            with pytest.raises(NotFound):
                await again(owner, demand, unknown)


@pytest.mark.parametrize(
    ("reason", "final"),
    [
        (None, False),
        ({"message": "no"}, False),
        (BUSY, False),
        ({"message": "no", "golem.proposal.rejection.is-final": True}, True),
        ({"message": "no", "golem.proposal.rejection.is-final": "yes"}, False),
    ],
)
def test_which_reasons_are_final(reason: Any, final: bool) -> None:
    assert is_final(check_reason(reason)) is final
