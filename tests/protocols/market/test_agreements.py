"""Agreements between two nodes: races, losses, restarts, and what other nodes try."""

from __future__ import annotations

import msgspec
import pytest
import trio
import trio.testing

from p2p import codec
from p2p.bus import NoEndpoint, RemoteError, ask
from protocols.ground.times import SECOND
from protocols.market import agreements
from protocols.market import messages as m
from protocols.market.core.signatures import approval_digest, commitment_digest, end_digest, terms_digest
from protocols.market.errors import BadRequest, Conflict, Gone, NotFound, PeerSilent, TimedOut, WrongState
from protocols.market.events import AgreementChanged
from protocols.market.messages import AgreementState, AgreementStatus, Role
from tests.protocols.market.trading import HOUR_NS, Neighbours, Trader, approved, negotiated, pending, traders

S = AgreementState


async def both(provider: Trader, requestor: Trader, agreement: str) -> tuple[AgreementState, AgreementState]:
    return await requestor.state(agreement), await provider.state(agreement)


# --- the steps, one by one ------------------------------------------------------------------------------------


async def test_nobody_is_told_before_it_is_confirmed(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, draft = await negotiated(provider, requestor)
        valid_to = requestor.ctx.clock.utc_ns() + HOUR_NS
        agreement = await requestor.market.create_agreement(requestor.id, draft, valid_to)
        await trio.sleep(10)
        assert await requestor.state(agreement) is S.PROPOSAL
        with pytest.raises(NotFound):
            await provider.market.agreement(provider.id, agreement)
        with pytest.raises(BadRequest, match="should be confirmed"):
            await requestor.market.wait_for_approval(requestor.id, agreement, 1)
        with pytest.raises(Conflict, match="from Proposal to Terminated"):
            await requestor.market.terminate_agreement(requestor.id, agreement)
        with pytest.raises(Conflict, match="second Agreement"):
            await requestor.market.create_agreement(requestor.id, draft, valid_to)
        await requestor.market.cancel_agreement(requestor.id, agreement, {"message": "never mind"})
        assert await requestor.state(agreement) is S.CANCELLED
        await trio.sleep(10)
        with pytest.raises(NotFound):
            await provider.market.agreement(provider.id, agreement)


async def test_waiting_for_an_approval(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        wait = requestor.market.wait_for_approval
        with pytest.raises(TimedOut, match="Timeout while waiting"):
            await wait(requestor.id, agreement, 3)
        with pytest.raises(WrongState, match="from Pending to Pending"):
            await requestor.market.confirm_agreement(requestor.id, agreement)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, requestor.id, agreement, 60)
            await trio.sleep(1)
            await provider.market.approve_agreement(provider.id, agreement, timeout=5)
        assert await both(provider, requestor, agreement) == (S.APPROVED, S.APPROVED)
        await wait(requestor.id, agreement, 0)
        with pytest.raises(WrongState, match="from Approved to Approving"):
            await provider.market.approve_agreement(provider.id, agreement, timeout=5)


async def test_a_rejection_arrives(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        await provider.market.reject_agreement(provider.id, agreement, {"message": "no", "extra": [1]})
        with pytest.raises(Gone, match="Rejected"):
            await requestor.market.wait_for_approval(requestor.id, agreement, 60)
        assert await both(provider, requestor, agreement) == (S.REJECTED, S.REJECTED)
        (event,) = await requestor.market.agreement_events(requestor.id, after_ns=0, timeout=0)
        assert (event.kind, event.by, event.reason) == (
            "Rejected",
            Role.PROVIDER,
            '{"message":"no","extra":[1]}',
        )
        with pytest.raises(WrongState, match="from Rejected to Approving"):
            await provider.market.approve_agreement(provider.id, agreement, timeout=1)


async def test_validity_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor, valid_ns=60 * SECOND)
        start = trio.current_time()
        with pytest.raises(Gone, match="expired"):
            await requestor.market.wait_for_approval(requestor.id, agreement, 300)
        assert trio.current_time() - start == pytest.approx(60, abs=1)
        assert await both(provider, requestor, agreement) == (S.EXPIRED, S.EXPIRED)
        with pytest.raises(WrongState, match="from Expired to Approving"):
            await provider.market.approve_agreement(provider.id, agreement, timeout=1)
        states = (S.EXPIRED,)
        assert len(await provider.market.agreements(provider.id, states=states)) == 1


async def test_an_approved_agreement_outlives_its_validity(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor, valid_ns=60 * SECOND)
        await trio.sleep(600)
        assert await both(provider, requestor, agreement) == (S.APPROVED, S.APPROVED)


async def test_a_validity_in_the_past_is_taken_and_over(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, draft = await negotiated(provider, requestor)
        agreement = await requestor.market.create_agreement(requestor.id, draft, 0)
        assert await requestor.state(agreement) is S.EXPIRED
        with pytest.raises(WrongState, match="from Expired to Pending"):
            await requestor.market.confirm_agreement(requestor.id, agreement)


async def test_sessions_are_each_sides_own(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)

        async def seen(trader: Trader, session: str | None) -> int:
            found = await trader.market.agreement_events(
                trader.id, after_ns=0, app_session_id=session, timeout=0
            )
            return len(found)

        assert [await seen(requestor, s) for s in (None, "session-R", "session-P", "")] == [1, 1, 0, 0]
        assert [await seen(provider, s) for s in (None, "session-R", "session-P", "")] == [1, 0, 1, 0]
        listed = await provider.market.agreements(provider.id, app_session_id="session-P", role=Role.PROVIDER)
        assert [view.agreement_id for view in listed] == [agreement]


# --- races and losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay_ms", [0, 10, 15, 19, 20, 21, 25, 30, 40, 60, 100])
async def test_approve_and_cancel_cross(delay_ms: int, autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        outcomes: dict[str, str] = {}

        async def approve() -> None:
            try:
                await provider.market.approve_agreement(provider.id, agreement, timeout=30)
                outcomes["approve"] = "done"
            except Gone as error:
                outcomes["approve"] = str(error)

        async def cancel() -> None:
            await trio.sleep(delay_ms / 1000)
            try:
                await requestor.market.cancel_agreement(requestor.id, agreement)
                outcomes["cancel"] = "done"
            except WrongState as error:
                outcomes["cancel"] = str(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(approve)
            nursery.start_soon(cancel)
        await trio.sleep(60)
        mine, theirs = await both(provider, requestor, agreement)
        assert mine is theirs
        if mine is S.APPROVED:
            assert outcomes == {
                "approve": "done",
                "cancel": "Can't update Agreement state from Approved to Cancelled.",
            }
        else:
            assert mine is S.CANCELLED
            assert outcomes["cancel"] == "done"
            assert outcomes["approve"] in (
                "Cancelled",
                "Can't update Agreement state from Cancelled to Approving.",
            )


async def test_reject_and_cancel_cross(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(provider.market.reject_agreement, provider.id, agreement)
            nursery.start_soon(requestor.market.cancel_agreement, requestor.id, agreement)
        await trio.sleep(60)
        assert await both(provider, requestor, agreement) == (S.CANCELLED, S.CANCELLED)


async def test_two_terminate_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, demand, agreement = await approved(provider, requestor)
        async with trio.open_nursery() as nursery:
            for side in (provider, requestor):
                reason = {"message": side.id}
                nursery.start_soon(side.market.terminate_agreement, side.id, agreement, reason)
        await trio.sleep(60)
        assert await both(provider, requestor, agreement) == (S.TERMINATED, S.TERMINATED)
        for side in (provider, requestor):
            assert await side.kinds() == ["Approved", "Terminated"]
            with pytest.raises(WrongState, match="from Terminated to Terminated"):
                await side.market.terminate_agreement(side.id, agreement)
        initial = await requestor.proposal("demand", demand)
        assert initial.state == "Initial"


@pytest.mark.parametrize("cut_after_ms", [1, 15, 25, 35, 45, 70, 100])
async def test_a_lost_commitment_comes_after_all(
    cut_after_ms: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)

        async def cut() -> None:
            await trio.sleep(cut_after_ms / 1000)
            provider.network.cut(provider.id, requestor.id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            try:
                await provider.market.approve_agreement(provider.id, agreement, timeout=20)
                done = True
            except PeerSilent:
                done = False
        if not done:
            assert await provider.state(agreement) is S.APPROVING
            with pytest.raises(PeerSilent):
                await provider.market.approve_agreement(provider.id, agreement, timeout=0)
        provider.network.heal()
        await provider.ctx.overlay.connect(requestor.ctx.overlay.listen_addresses()[0])
        await trio.sleep(5)
        assert await both(provider, requestor, agreement) == (S.APPROVED, S.APPROVED)
        assert await provider.kinds() == await requestor.kinds() == ["Approved"]


async def test_a_termination_does_not_wait_for_the_other_node(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        requestor.network.isolate(provider.id)
        start = trio.current_time()
        await requestor.market.terminate_agreement(requestor.id, agreement, {"message": "bye"})
        assert trio.current_time() - start < 0.1
        assert await both(provider, requestor, agreement) == (S.TERMINATED, S.APPROVED)
        await trio.sleep(600)
        requestor.network.heal()
        await trio.sleep(700)  # the outbox's longest pause
        assert await both(provider, requestor, agreement) == (S.TERMINATED, S.TERMINATED)
        event = await provider.market.termination(provider.id, agreement)
        assert (event.by, event.reason) == (Role.REQUESTOR, '{"message":"bye"}')
        assert len(bytes.fromhex(event.signature)) == 65


async def test_a_provider_that_is_gone_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, draft = await negotiated(provider, requestor)
        valid_to = requestor.ctx.clock.utc_ns() + HOUR_NS
        agreement = await requestor.market.create_agreement(requestor.id, draft, valid_to)
        requestor.network.isolate(provider.id)
        await requestor.market.confirm_agreement(requestor.id, agreement)
        with pytest.raises(TimedOut):
            await requestor.market.wait_for_approval(requestor.id, agreement, 15)
        with pytest.raises(Gone, match="Cancelled"):
            await requestor.market.wait_for_approval(requestor.id, agreement, 300)
        view = await requestor.market.agreement(requestor.id, agreement)
        assert "could not be reached" in (view.reason or "")
        requestor.network.heal()
        await trio.sleep(1000)
        with pytest.raises(NotFound):
            await provider.market.agreement(provider.id, agreement)


async def test_a_provider_waits_for_a_requestor_that_is_gone_until_its_time_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await pending(provider, requestor, valid_ns=100 * SECOND)
        await trio.sleep(1)
        requestor.network.isolate(requestor.id)
        with pytest.raises(PeerSilent, match="no answer of the requestor"):
            await provider.market.approve_agreement(provider.id, agreement, timeout=5)
        with pytest.raises(Gone, match="expired"):
            await provider.market.approve_agreement(provider.id, agreement, timeout=500)
        requestor.network.heal()
        await trio.sleep(2000)
        assert await both(provider, requestor, agreement) == (S.EXPIRED, S.EXPIRED)


# --- restarts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["provider", "requestor"])
@pytest.mark.parametrize("moment_ms", [0, 5, 15, 25, 35, 45, 60, 120])
async def test_killed_between_confirm_and_delivery(
    victim: str, moment_ms: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with traders(neighbours=Neighbours()) as (provider, requestor):
        _, _, draft = await negotiated(provider, requestor)
        valid_to = requestor.ctx.clock.utc_ns() + 600 * SECOND
        agreement = await requestor.market.create_agreement(requestor.id, draft, valid_to)
        await requestor.market.confirm_agreement(requestor.id, agreement)
        await trio.sleep(moment_ms / 1000)
        await {"provider": provider, "requestor": requestor}[victim].restart()
        await trio.sleep(30)
        mine = await requestor.state(agreement)
        if mine is S.PENDING:
            assert await provider.state(agreement) is S.PENDING
        else:  # the provider's node forgot the proposal before it got the agreement
            assert mine is S.REJECTED
            with pytest.raises(NotFound):
                await provider.market.agreement(provider.id, agreement)
        await trio.sleep(900)
        assert await requestor.state(agreement) in (S.EXPIRED, S.REJECTED)


@pytest.mark.parametrize("victim", ["provider", "requestor"])
@pytest.mark.parametrize("moment_ms", [0, 5, 15, 25, 35, 45, 60, 80, 120])
async def test_killed_while_approving(
    victim: str, moment_ms: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with traders(neighbours=Neighbours()) as (provider, requestor):
        _, _, agreement = await pending(provider, requestor)

        async def approve() -> None:
            with trio.move_on_after(moment_ms / 1000 + 0.001):
                await provider.market.approve_agreement(provider.id, agreement, timeout=30)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(approve)
            await trio.sleep(moment_ms / 1000)
            await {"provider": provider, "requestor": requestor}[victim].restart()
        await trio.sleep(60)
        assert await both(provider, requestor, agreement) == (S.APPROVED, S.APPROVED)
        assert await provider.kinds() == await requestor.kinds() == ["Approved"]


@pytest.mark.parametrize("victim", ["provider", "requestor"])
@pytest.mark.parametrize("moment_ms", [0, 10, 25, 45])
async def test_killed_while_terminating(
    victim: str, moment_ms: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with traders(neighbours=Neighbours()) as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        await provider.market.terminate_agreement(provider.id, agreement, {"message": "over"})
        await trio.sleep(moment_ms / 1000)
        await {"provider": provider, "requestor": requestor}[victim].restart()
        await trio.sleep(60)
        assert await both(provider, requestor, agreement) == (S.TERMINATED, S.TERMINATED)
        assert await provider.kinds() == await requestor.kinds() == ["Approved", "Terminated"]


async def test_what_was_lost_from_the_outbox_is_learnt_by_comparing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        requestor.network.cut(provider.id, requestor.id)
        await requestor.market.terminate_agreement(requestor.id, agreement)
        await requestor.ctx.database.write(lambda c: c.execute("DELETE FROM ground_outbox"))
        requestor.network.heal()
        await requestor.ctx.overlay.connect(provider.ctx.overlay.listen_addresses()[0])
        await trio.sleep(5)
        assert await both(provider, requestor, agreement) == (S.TERMINATED, S.TERMINATED)


# --- what others try ------------------------------------------------------------------------------------------


async def test_another_node_answers_for_nobody(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, requestor, stranger):
        _, _, agreement = await pending(provider, requestor)
        view = await requestor.market.agreement(requestor.id, agreement)
        assert view.proposed_signature
        sign, now = stranger.ctx.signer.sign, stranger.ctx.clock.utc_ns()
        approval = sign(approval_digest(agreement, bytes.fromhex(view.proposed_signature), now))
        messages = [
            (requestor, m.AgreementApproved(agreement, now, approval)),
            (
                requestor,
                m.AgreementRejected(
                    agreement, None, now, sign(end_digest(agreement, S.REJECTED, Role.PROVIDER, now, None))
                ),
            ),
            (provider, m.AgreementCommitted(agreement, sign(commitment_digest(agreement, approval)))),
            (
                provider,
                m.AgreementTerminated(
                    agreement, None, now, sign(end_digest(agreement, S.TERMINATED, Role.REQUESTOR, now, None))
                ),
            ),
        ]
        for peer, message in messages:
            with pytest.raises(RemoteError) as caught:
                await stranger.ask(peer, message, AgreementStatus)
            assert caught.value.kind == "notFound"
        cancel = m.AgreementCancelled(
            agreement, None, now, sign(end_digest(agreement, S.CANCELLED, Role.REQUESTOR, now, None))
        )
        assert await stranger.ask(provider, cancel, AgreementStatus) == AgreementStatus(None)
        sync = m.SyncAgreement(agreement, AgreementStatus(S.CANCELLED))
        assert await stranger.ask(provider, sync, AgreementStatus) == AgreementStatus(None)
        assert await both(provider, requestor, agreement) == (S.PENDING, S.PENDING)


async def test_the_counterparty_cannot_forge_either(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        now = provider.ctx.clock.utc_ns()
        forged = requestor.ctx.signer.sign(end_digest(agreement, S.TERMINATED, Role.PROVIDER, now, None))
        end = m.AgreementEnd(Role.PROVIDER, now, None, forged)
        sync = m.SyncAgreement(agreement, AgreementStatus(S.TERMINATED, ended=end))
        with pytest.raises(RemoteError) as caught:
            await requestor.ask(provider, sync, AgreementStatus)
        assert caught.value.kind == "forbidden"
        assert await both(provider, requestor, agreement) == (S.APPROVED, S.APPROVED)


async def test_terms_that_were_not_negotiated_are_rejected(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, requestor, stranger):
        offer, demand, draft = await negotiated(provider, requestor)
        now = requestor.ctx.clock.utc_ns()
        honest = await honest_terms(provider, requestor, offer, demand, draft)

        def message(terms: m.AgreementTerms, by: Trader) -> m.AgreementReceived:
            return m.AgreementReceived(codec.encode(terms), by.ctx.signer.sign(terms_digest(terms)))

        def altered(**changes: object) -> m.AgreementTerms:
            return msgspec.structs.replace(honest, **changes)

        cheaper = honest.offer_properties.replace("0.0001", "0.00001")
        for terms in (
            altered(offer_properties=cheaper),
            altered(demand_properties="{}"),
            altered(offer_constraints="()"),
            altered(proposal_id="0" * 64),
            altered(valid_to_ns=now - 1),
            altered(created_ns=now + HOUR_NS),
        ):
            status = await requestor.ask(provider, message(terms, requestor), AgreementStatus)
            assert status.state is S.REJECTED
        for terms, by in (
            (honest, stranger),
            (altered(requestor_id=stranger.id), requestor),
            (altered(network="main"), requestor),
            (altered(provider_id=stranger.id), requestor),
        ):
            with pytest.raises(RemoteError) as caught:
                await requestor.ask(provider, message(terms, by), AgreementStatus)
            assert caught.value.kind in ("forbidden", "badRequest")
        stolen = altered(requestor_id=stranger.id)
        status = await stranger.ask(provider, message(stolen, stranger), AgreementStatus)
        assert status.state is S.REJECTED
        status = await requestor.ask(provider, message(honest, requestor), AgreementStatus)
        assert status.state is S.PENDING
        # saying it again is no second agreement, and no second event
        status = await requestor.ask(provider, message(honest, requestor), AgreementStatus)
        assert status.state is S.PENDING
        assert len(await provider.collect("offer", offer)) == 1


async def test_one_agreement_said_five_times_at_once_is_one(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer, demand, draft = await negotiated(provider, requestor)
        terms = await honest_terms(provider, requestor, offer, demand, draft)
        message = m.AgreementReceived(codec.encode(terms), requestor.ctx.signer.sign(terms_digest(terms)))
        states: list[AgreementState | None] = []

        async def say() -> None:
            states.append((await requestor.ask(provider, message, AgreementStatus)).state)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(say)
        assert states == [S.PENDING] * 5
        assert len(await provider.collect("offer", offer)) == 1


async def honest_terms(
    provider: Trader, requestor: Trader, offer: str, demand: str, draft: str
) -> m.AgreementTerms:
    """Return the terms that the two have negotiated."""
    now = requestor.ctx.clock.utc_ns()
    proposal = await requestor.market.proposal(requestor.id, demand, draft)
    asked = await requestor.market.proposal(requestor.id, demand, proposal.prev_proposal_id or "")
    return m.AgreementTerms(
        network="devnet",
        requestor_id=requestor.id,
        provider_id=provider.id,
        demand_id=demand,
        offer_id=offer,
        proposal_id=draft[2:],
        demand_properties=asked.properties,
        demand_constraints=asked.constraints,
        offer_properties=proposal.properties,
        offer_constraints=proposal.constraints,
        created_ns=now,
        valid_to_ns=now + HOUR_NS,
    )


async def test_identities_see_their_own(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        other = provider.id
        for call in (
            requestor.market.agreement(other, agreement),
            requestor.market.wait_for_approval(other, agreement, 0),
            requestor.market.termination(other, agreement),
        ):
            with pytest.raises(NotFound):
                await call
        assert await requestor.market.agreements(other) == []
        assert await requestor.market.agreement_events(other, after_ns=0, timeout=0) == []


# --- for other protocols of the node --------------------------------------------------------------------------


async def test_other_protocols_ask_and_follow(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        changes: list[AgreementChanged] = []
        bus = provider.ctx.bus
        async with bus.subscribe(m.AGREEMENT_TOPIC) as items, trio.open_nursery() as nursery:

            async def follow() -> None:
                async for item in items:
                    changes.append(codec.decode(item, AgreementChanged))  # noqa: PERF401 - as they come

            nursery.start_soon(follow)
            _, _, agreement = await approved(provider, requestor)
            await requestor.market.terminate_agreement(requestor.id, agreement)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert [change.state for change in changes] == [S.PENDING, S.APPROVING, S.APPROVED, S.TERMINATED]
        assert {change.agreement_id for change in changes} == {agreement}
        view = await ask(bus, m.LOCAL_SERVICE, m.GetAgreement(agreement), m.AgreementView)
        assert (view.role, view.owner_id, view.peer_id) == (Role.PROVIDER, provider.id, requestor.id)
        assert view.state is S.TERMINATED
        listed = await ask(bus, m.LOCAL_SERVICE, m.ListAgreements(states=(S.TERMINATED,)), m.Agreements)
        assert listed.agreements == (view,)
        after = await ask(bus, m.LOCAL_SERVICE, m.ListAgreements(after=agreement), m.Agreements)
        assert after.agreements == ()
        for wrong in (m.GetAgreement("0" * 64), m.GetAgreement(agreement, Role.REQUESTOR)):
            with pytest.raises(RemoteError) as caught:
                await ask(bus, m.LOCAL_SERVICE, wrong, m.AgreementView)
            assert caught.value.kind == "notFound"


async def test_peers_do_not_reach_the_local_service(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        _, _, agreement = await approved(provider, requestor)
        with pytest.raises((NoEndpoint, RemoteError)):
            await requestor.ask(provider, m.GetAgreement(agreement), m.AgreementView)


async def test_ended_agreements_are_forgotten_in_the_end(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreements, "CLEANING_NS", 60 * SECOND)
    async with traders(keep_days=100 / 86400) as (provider, requestor):
        _, _, agreement = await approved(provider, requestor, valid_ns=60 * SECOND)
        await trio.sleep(300)
        assert await requestor.state(agreement) is S.APPROVED
        await requestor.market.terminate_agreement(requestor.id, agreement)
        await trio.sleep(120)
        with pytest.raises(NotFound):
            await requestor.market.agreement(requestor.id, agreement)
        with pytest.raises(NotFound):
            await provider.market.agreement(provider.id, agreement)
