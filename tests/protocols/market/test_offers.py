"""Offers over the broadcast: published, renewed, fetched, withdrawn, and what hostile nodes send."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from p2p import codec
from p2p.broadcast import Verdict
from p2p.bus import RemoteError, Service
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from protocols.ground.times import SECOND
from protocols.market import ids, offers
from protocols.market import messages as m
from protocols.market.bodies import BodyFetcher
from protocols.market.core.catalogue import MAX_SLOTS, signed_lease
from protocols.market.errors import BadRequest, Forbidden, Gone, LimitReached, NotFound
from protocols.market.messages import OfferBody, OfferLease, SignedLease
from tests.protocols.market.trading import DEMAND, OFFER, OFFER_CONSTRAINTS, Neighbours, Trader, traders

if TYPE_CHECKING:
    from p2p.bus import Caller

STRANGER = PrivateKey.generate(SeededEntropy(9, "stranger"))


def known(trader: Trader, offer_id: str) -> bool:
    return trader.market.offers_of_all.catalogue.offer(offer_id) is not None


def leases(trader: Trader, everyone: Neighbours) -> list[OfferLease]:
    return [
        codec.decode(codec.decode(data, SignedLease).lease, OfferLease)
        for node, data in everyone.published
        if node == trader.id
    ]


async def test_an_offer_reaches_everyone_and_goes_when_withdrawn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders(4) as (provider, *others):
        offer = await provider.offer()
        await trio.sleep(3)
        assert all(known(other, offer) for other in others)
        await provider.market.unsubscribe_offer(provider.id, offer)
        await trio.sleep(3)
        assert not any(known(other, offer) for other in (provider, *others))
        with pytest.raises(Gone, match="already unsubscribed"):
            await provider.market.unsubscribe_offer(provider.id, offer)


async def test_a_node_that_comes_late_gets_what_there_is(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(2) as (provider, late):
        late.network.isolate(late.id)
        offer = await provider.offer()
        gone = await provider.offer({"a": 1})
        await trio.sleep(10)
        await provider.market.unsubscribe_offer(provider.id, gone)
        late.network.heal()
        await late.ctx.overlay.connect(provider.ctx.overlay.listen_addresses()[0])
        await trio.sleep(10)
        assert known(late, offer)
        assert not known(late, gone)
        assert len(late.market.offers_of_all.held()) == 2


async def test_a_node_on_the_way_gives_the_body(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, middle, far):
        far.network.cut(provider.id, far.id)
        offer = await provider.offer()
        await trio.sleep(60)
        assert known(middle, offer)
        assert known(far, offer)


async def test_many_offers_arrive_with_few_questions(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    answer = offers.OfferExchange.get_bodies

    async def counted(self: offers.OfferExchange, caller: Caller, request: m.GetBodies) -> m.Bodies:
        asked.append(len(request.hashes))
        return await answer(self, caller, request)

    monkeypatch.setattr(offers.OfferExchange, "get_bodies", counted)
    async with traders(2) as (provider, late):
        late.network.isolate(late.id)
        for number in range(MAX_SLOTS):
            await provider.offer({"number": number})
        late.network.heal()
        await late.ctx.overlay.connect(provider.ctx.overlay.listen_addresses()[0])
        await trio.sleep(20)
        assert len(late.market.offers_of_all.catalogue) == MAX_SLOTS
        assert sum(asked) == MAX_SLOTS
        assert len(asked) <= MAX_SLOTS / 2
        with pytest.raises(LimitReached, match="64 offers"):
            await provider.offer({"one": "more"})


async def test_leases_are_renewed_in_time_and_keep_the_id(autojump_clock: trio.testing.MockClock) -> None:
    everyone = Neighbours()
    async with traders(neighbours=everyone, lease=300.0) as (provider, other):
        offer = await provider.offer(ttl=1500.0)
        for _ in range(14):
            await trio.sleep(100)
            assert known(other, offer)
        sent = leases(provider, everyone)
        assert 5 <= len(sent) <= 9
        assert len({(one.slot, one.incarnation, one.body_hash, one.created_ns) for one in sent}) == 1
        for before, after in itertools.pairwise(sent):
            assert after.seq > before.seq
            assert before.issued_ns < after.issued_ns < before.expires_ns
        assert sent[-1].expires_ns == sent[0].created_ns + 1500 * SECOND
        await trio.sleep(101)
        assert not known(other, offer)
        with pytest.raises(NotFound, match="expired"):
            await provider.collect("offer", offer, 0)
        with pytest.raises(Gone, match="Can't unsubscribe expired Offer"):
            await provider.market.unsubscribe_offer(provider.id, offer)
        assert provider.market.offers(provider.id) == []


async def test_an_offer_may_stand_until_it_is_withdrawn(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours(), ttl=10.0, lease=60.0) as (provider, other):
        offer = await provider.offer(ttl=math.inf)
        short = await provider.offer({"a": 1})
        await trio.sleep(500)
        assert known(other, offer)
        assert not known(other, short)
        (view,) = provider.market.offers(provider.id)
        assert (view.id, view.expires_ns) == (offer, None)


async def test_an_offer_that_ends_early_takes_longer_leases_of_its_slot_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    everyone = Neighbours()
    async with traders(neighbours=everyone) as (provider, other):
        first = await provider.offer()
        (long_lease,) = [data for _, data in everyone.published]
        await provider.market.unsubscribe_offer(provider.id, first)
        second = await provider.offer(ttl=20.0)
        await trio.sleep(30)
        assert not known(other, second)
        assert await other.market.offers_of_all.receive(long_lease, provider.id) is Verdict.IGNORE
        assert not known(other, first)


async def test_busy_offers_match_nobody_until_they_are_free(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        offer = await provider.offer(free=0)
        demand = await requestor.demand()
        assert await requestor.collect("demand", demand, 5) == []
        await provider.market.set_free(provider.id, offer, 2)
        assert (await requestor.proposal("demand", demand)).state == "Initial"
        # a proposal that was not read yet is not told while the offer is busy
        other = await requestor.demand()
        await provider.market.set_free(provider.id, offer, 0)
        await trio.sleep(3)
        assert await requestor.collect("demand", other, 0) == []
        await provider.market.set_free(provider.id, offer, 1)
        assert (await requestor.proposal("demand", other)).state == "Initial"
        with pytest.raises(BadRequest):
            await provider.market.set_free(provider.id, "0" * 32 + "-" + "0" * 64, 1)


async def test_offers_of_an_earlier_run_are_withdrawn(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours()) as (provider, other):
        ghost = await provider.offer()
        assert known(other, ghost)
        await provider.restart()
        assert not known(other, ghost)
        fresh = await provider.offer()
        assert fresh != ghost
        assert known(other, fresh)


async def test_sequence_numbers_survive_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    everyone = Neighbours()
    async with traders(neighbours=everyone) as (provider, other):
        for _ in range(3):
            offer = await provider.offer()
            await provider.restart()
            assert not known(other, offer)
        seqs = [lease.seq for lease in leases(provider, everyone)]
        assert seqs == sorted(set(seqs))


async def test_a_lost_disk_does_no_harm(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours()) as (provider, other):
        ghost = await provider.offer()
        await provider.kill()
        await provider.ctx.database.write(lambda c: c.execute("DELETE FROM market_own_offer"))
        await trio.sleep(5)
        await provider.start()
        assert known(other, ghost)
        record = other.market.offers_of_all.record(f"{provider.id}/0")
        assert record is not None
        # the other node tells what it holds: a lease under our own key that we do not remember
        await provider.market.offers_of_all.receive(record, other.id)
        assert not known(other, ghost)
        offer = await provider.offer()
        assert known(other, offer)


# --- hostile --------------------------------------------------------------------------------------------------


def forged(key: PrivateKey, now: int, body_hash: bytes = b"\1" * 32, **changes: Any) -> bytes:
    lease = OfferLease(
        network="devnet",
        node=bytes.fromhex(key.node_id[2:]),
        slot=0,
        incarnation=now // 10**6,
        seq=now // 10**6,
        body_hash=body_hash,
        created_ns=now,
        issued_ns=now,
        expires_ns=now + 600 * SECOND,
    )
    encoded, digest = signed_lease(msgspec.structs.replace(lease, **changes))
    return codec.encode(SignedLease(encoded, STRANGER.sign(digest)))


async def test_nobody_forges_an_offer_or_its_withdrawal(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(neighbours=Neighbours()) as (provider, other):
        offer = await provider.offer()
        now = provider.ctx.clock.utc_ns() + 10 * SECOND
        await trio.sleep(10)
        node = bytes.fromhex(provider.id[2:])
        receive = other.market.offers_of_all.receive
        withdrawal = forged(STRANGER, now, b"", node=node, withdrawn=True)
        assert await receive(withdrawal, provider.id) is Verdict.REJECT
        assert await receive(forged(STRANGER, now, node=node, slot=1), provider.id) is Verdict.REJECT
        assert await receive(b"nonsense", provider.id) is Verdict.REJECT
        assert await receive(forged(STRANGER, now, expires_ns=2**62), provider.id) is Verdict.REJECT
        assert await receive(forged(STRANGER, now, slot=64), provider.id) is Verdict.REJECT
        assert known(other, offer)
        assert len(other.market.offers_of_all.held()) == 1


async def test_an_offer_without_a_body_is_not_believed(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, other):
        now = provider.ctx.clock.utc_ns()
        receive = other.market.offers_of_all.receive
        assert await receive(forged(STRANGER, now), provider.id) is Verdict.IGNORE
        assert other.market.offers_of_all.held() == {}


async def test_a_liar_with_bodies_is_asked_in_vain(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (liar, provider, other):
        offer = await provider.offer()
        await trio.sleep(3)
        record = provider.market.offers_of_all.record(f"{provider.id}/0")
        assert record is not None

        async def lie(*_: object) -> m.Bodies:
            other_body = codec.encode(OfferBody('{"free":"money"}', "()"))
            return m.Bodies((other_body, b"\xff", b""))

        await liar.kill()
        service = Service()
        service.method(m.GetBodies, lie)
        registration = liar.ctx.bus.register(m.PUBLIC_SERVICE, service)
        fetcher = BodyFetcher(other.ctx)
        catalogue_body = provider.market.offers_of_all.catalogue.offer(offer)
        assert catalogue_body is not None
        body = await fetcher.fetch(catalogue_body.body.hash, liar.id, provider.id)
        assert body is not None
        assert body.data == catalogue_body.body.data
        assert await fetcher.fetch(b"\2" * 32, liar.id, liar.id) is None
        assert list(fetcher._fetched) == [body.hash]
        registration.close()


async def test_peers_ask_only_so_often(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, other):
        kinds: list[str] = []

        async def ask() -> None:
            try:
                await other.ask(provider, m.GetBodies(()), m.Bodies)
            except RemoteError as error:
                kinds.append(error.kind)

        for _ in range(6):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
        assert set(kinds) == {"limit"}
        assert 80 < len(kinds) <= 100
        with pytest.raises(RemoteError, match="GetBodies"):
            await other.ask(provider, m.GetBodies(tuple(bytes([n]) for n in range(65))), m.Bodies)


# --- subscribing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "constraints"),
    [({"a": "x" * 70_000}, "()"), ({}, "x" * 70_000), ({"a": "\ud800"}, "()"), ({}, "\ud800")],
)
async def test_content_beyond_the_limits_is_refused(
    properties: Any, constraints: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with traders(1) as (node,):
        for subscribe in (node.market.subscribe_offer, node.market.subscribe_demand):
            with pytest.raises(BadRequest):
                await subscribe(node.id, properties, constraints)
        assert node.market.offers(node.id) == []


async def test_a_broken_constraint_subscribes_and_never_matches(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with traders() as (provider, requestor):
        broken = await requestor.demand(DEMAND, "(golem.runtime.name=vm")
        empty = await requestor.demand(DEMAND, "")
        await provider.offer(OFFER, "(broken")
        await provider.offer(OFFER, OFFER_CONSTRAINTS)
        await trio.sleep(3)
        for demand in (broken, empty):
            assert await requestor.collect("demand", demand, 0) == []
        good = await requestor.demand()
        assert len(await requestor.collect("demand", good, 5)) == 1


async def test_a_node_acts_for_its_own_identities_only(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (node, other):
        for subscribe in (node.market.subscribe_offer, node.market.subscribe_demand):
            with pytest.raises(Forbidden, match="no key of"):
                await subscribe(other.id, {}, "()")
        offer = await node.offer()
        with pytest.raises(NotFound):
            await node.market.unsubscribe_offer(other.id, offer)
        with pytest.raises(NotFound):
            await node.market.collect(other.id, "offer", offer, timeout=0)


async def test_an_identity_does_not_trade_with_itself(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (node, _):
        await node.offer()
        demand = await node.demand()
        assert await node.collect("demand", demand, 5) == []


async def test_demands_end(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(ttl=60.0) as (provider, requestor):
        demand, other = await requestor.demand(), await requestor.demand()
        (view, _) = requestor.market.demands(requestor.id)
        assert view.expires_ns == view.created_ns + 60 * SECOND
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(NotFound, match="Could be unsubscribed"):
                    await requestor.collect("demand", demand, 30)

            nursery.start_soon(wait)
            await trio.sleep(1)
            await requestor.market.unsubscribe_demand(requestor.id, demand)
        with pytest.raises(NotFound, match="expired"):
            await requestor.collect("demand", other, 300)
        for one in (demand, other):
            with pytest.raises(NotFound, match="Demand"):
                await requestor.market.unsubscribe_demand(requestor.id, one)
        await provider.offer()
        await trio.sleep(3)
        assert requestor.market.demands(requestor.id) == []


# --- scans ----------------------------------------------------------------------------------------------------


async def test_a_scan_goes_on_where_it_was_delivered(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        numbers = [await provider.offer({"number": n, "even": n % 2 == 0}) for n in range(6)]
        await requestor.offer({"even": True})  # nobody is shown their own
        await trio.sleep(3)
        scan = requestor.market.begin_scan(requestor.id, "offer", "(even=true)")
        page = await requestor.market.scan(requestor.id, scan, timeout=1, limit=2)
        again = await requestor.market.scan(requestor.id, scan, timeout=1, limit=2)
        assert [one.id for one in page.offers] == [one.id for one in again.offers]
        page.confirm()
        rest = await requestor.market.scan(requestor.id, scan, timeout=1, limit=10)
        rest.confirm()
        found = {one.id for one in (*page.offers, *rest.offers)}
        assert found == {numbers[0], numbers[2], numbers[4]}
        assert (await requestor.market.scan(requestor.id, scan, timeout=1, limit=10)).offers == ()
        later = await provider.offer({"even": True})
        (one,) = (await requestor.market.scan(requestor.id, scan, timeout=10, limit=10)).offers
        assert one.id == later
        requestor.market.end_scan(requestor.id, scan)
        with pytest.raises(NotFound):
            await requestor.market.scan(requestor.id, scan, timeout=1)


async def test_scans_are_each_ones_own_and_end_unread(autojump_clock: trio.testing.MockClock) -> None:
    async with traders() as (provider, requestor):
        scan = requestor.market.begin_scan(requestor.id, "offer", timeout=10)
        with pytest.raises(Forbidden):
            await requestor.market.scan(provider.id, scan, timeout=0)
        with pytest.raises(BadRequest):
            requestor.market.begin_scan(requestor.id, "offer", "(a=")
        with pytest.raises(BadRequest):
            requestor.market.begin_scan(requestor.id, "offer", timeout=-1)
        await requestor.market.scan(requestor.id, scan, timeout=30)  # being read, it does not end
        await trio.sleep(11)
        with pytest.raises(NotFound):
            await requestor.market.scan(requestor.id, scan, timeout=0)
        demands = requestor.market.begin_scan(requestor.id, "demand")
        assert (await requestor.market.scan(requestor.id, demands, timeout=0)).offers == ()


async def test_a_provider_is_asked_directly(autojump_clock: trio.testing.MockClock) -> None:
    async with traders(3) as (provider, requestor, other):
        requestor.network.cut(provider.id, requestor.id)
        requestor.network.cut(other.id, requestor.id)
        mine = [await provider.offer({"number": n, "text": "x" * 30_000}) for n in range(40)]
        await other.offer()
        await trio.sleep(2)
        requestor.network.heal()
        scan = requestor.market.begin_scan(requestor.id, "offer", "(number>=3)")
        found = await requestor.market.scan_provider(requestor.id, scan, provider.id, timeout=30)
        assert {one.id for one in found} == set(mine[3:])
        assert ids.check_subscription_id(found[0].id)
