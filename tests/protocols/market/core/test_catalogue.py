"""What the catalogue believes, what it refuses, and what bounds it."""

from __future__ import annotations

import functools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import codec
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from protocols.ground.times import SECOND
from protocols.market.core.catalogue import (
    MAX_LEASE_NS,
    MAX_SLOTS,
    SKEW_NS,
    Body,
    Catalogue,
    Change,
    Refused,
    Stale,
    signed_lease,
)
from protocols.market.messages import MAX_BODY_BYTES, OfferBody, OfferLease, SignedLease

NOW = 1_800_000_000 * SECOND
MILLIS = NOW // 1_000_000


@functools.cache
def key(name: int | str = 0) -> PrivateKey:
    return PrivateKey.generate(SeededEntropy(1, f"catalogue/{name}"))


def body(properties: str = '{"a":1}', constraints: str = "()") -> Body:
    return Body(codec.encode(OfferBody(properties, constraints)))


def lease(owner: PrivateKey | None = None, **changes: Any) -> OfferLease:
    base = OfferLease(
        network="devnet",
        node=bytes.fromhex((owner or key()).node_id[2:]),
        slot=0,
        incarnation=MILLIS,
        seq=MILLIS,
        body_hash=body().hash,
        created_ns=NOW,
        issued_ns=NOW,
        expires_ns=NOW + 1800 * SECOND,
    )
    return msgspec.structs.replace(base, **changes)


def signed(what: OfferLease, owner: PrivateKey | None = None) -> bytes:
    encoded, digest = signed_lease(what)
    return codec.encode(SignedLease(encoded, (owner or key()).sign(digest)))


def renewed(what: OfferLease, seconds: int = 60, **changes: Any) -> OfferLease:
    later = {"issued_ns": what.issued_ns + seconds * SECOND, "expires_ns": what.expires_ns + seconds * SECOND}
    return msgspec.structs.replace(what, seq=what.seq + 1, **(later | changes))


def withdrawn(what: OfferLease) -> OfferLease:
    return renewed(what, expires_ns=what.expires_ns, body_hash=b"", withdrawn=True, free=0)


def put(catalogue: Catalogue, what: OfferLease, owner: PrivateKey | None = None, now: int = NOW) -> Change:
    checked = catalogue.check(signed(what, owner), max(now, what.issued_ns))
    return catalogue.accept(checked, None if what.withdrawn else body())


def test_an_offer_comes_is_renewed_and_withdrawn() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    offer = put(catalogue, first).new
    assert offer is not None
    assert catalogue.held == {f"{key().node_id}/0": MILLIS}
    assert put(catalogue, renewed(first)) == Change()
    again = catalogue.offer(offer.offer_id)
    assert again is not None
    assert (again.arrival, again.lease.seq) == (offer.arrival, MILLIS + 1)
    change = put(catalogue, withdrawn(renewed(first)))
    assert change.gone is again
    assert catalogue.offer(offer.offer_id) is None
    assert catalogue.held == {f"{key().node_id}/0": MILLIS + 2}
    assert catalogue.body(body().hash) is None


def test_busy_and_free_again() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    offer = put(catalogue, first).new
    assert put(catalogue, renewed(first, free=0)).gone is offer
    change = put(catalogue, renewed(renewed(first, free=0), free=2))
    assert change.new is not None
    assert change.gone is None
    assert offer is not None
    assert change.new.offer_id == offer.offer_id


def test_a_new_offer_in_the_slot_replaces_the_old() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    old = put(catalogue, first).new
    change = put(catalogue, renewed(first, incarnation=MILLIS + 1))
    assert change.gone is old
    assert change.new is not None
    assert old is not None
    assert change.new.offer_id != old.offer_id
    assert list(catalogue.arrived_after(old.arrival)) == [change.new]
    with pytest.raises(Stale, match="replaced"):
        put(catalogue, renewed(renewed(renewed(first))))


def test_time_ends_offers_and_withdrawals() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    put(catalogue, first)
    second = lease(key(1), slot=3)
    put(catalogue, second, key(1))
    put(catalogue, withdrawn(second), key(1))
    gone, due = catalogue.expire(first.expires_ns - 1)
    assert (gone, due) == ([], first.expires_ns)
    gone, due = catalogue.expire(first.expires_ns)
    assert [offer.lease for offer in gone] == [first]
    # the withdrawal stays until no clock may believe the lease that it takes back
    assert due == second.expires_ns + SKEW_NS
    with pytest.raises(Stale):
        catalogue.check(signed(second, key(1)), second.expires_ns - 1)
    assert catalogue.expire(due) == ([], None)
    assert dict(catalogue.held) == {}


HOSTILE = [
    (lease(network="main"), "network"),
    (lease(node=b"short"), "wrong length"),
    (lease(body_hash=b"short"), "wrong length"),
    (lease(withdrawn=True), "wrong length"),
    (lease(slot=MAX_SLOTS), "at most"),
    (lease(incarnation=MILLIS + 1), "newer than its lease"),
    (lease(expires_ns=NOW + MAX_LEASE_NS + 1), "two hours"),
    (lease(expires_ns=NOW), "two hours"),
    (lease(expires_ns=2**63 - 1), "two hours"),
]


@pytest.mark.parametrize(("bad", "says"), HOSTILE)
def test_a_bad_lease_is_refused(bad: OfferLease, says: str) -> None:
    with pytest.raises(Refused, match=says):
        Catalogue("devnet").check(signed(bad), NOW)


def test_nobody_speaks_for_another_key() -> None:
    catalogue = Catalogue("devnet")
    with pytest.raises(Refused, match="is signed by"):
        catalogue.check(signed(lease(), key("thief")), NOW)
    first = lease()
    put(catalogue, first)
    with pytest.raises(Refused, match="is signed by"):
        catalogue.check(signed(withdrawn(first), key("thief")), NOW + 60 * SECOND)
    data = bytearray(signed(renewed(first)))
    data[-1] ^= 1
    with pytest.raises(Refused):
        catalogue.check(bytes(data), NOW + 60 * SECOND)


def test_what_is_no_news_is_not_blamed() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    put(catalogue, renewed(first))
    for old in (first, renewed(first)):
        with pytest.raises(Stale, match="newer lease"):
            catalogue.check(signed(old), NOW + 60 * SECOND)
    with pytest.raises(Stale, match="future"):
        catalogue.check(signed(lease(slot=1, issued_ns=NOW + SKEW_NS + 1)), NOW)
    catalogue.check(signed(lease(slot=1, issued_ns=NOW + SKEW_NS)), NOW)
    with pytest.raises(Stale, match="expired"):
        catalogue.check(signed(lease(slot=1)), NOW + 1800 * SECOND)


def test_a_replayed_lease_does_not_bring_a_withdrawn_offer_back() -> None:
    catalogue = Catalogue("devnet")
    first = lease()
    put(catalogue, first)
    put(catalogue, withdrawn(first))
    with pytest.raises(Stale):
        catalogue.check(signed(first), NOW + 100 * SECOND)
    higher = renewed(renewed(renewed(first)))
    with pytest.raises(Stale, match="does not come back"):
        catalogue.check(signed(higher), higher.issued_ns)


def test_a_key_cannot_flood_with_leases() -> None:
    catalogue = Catalogue("devnet")
    put(catalogue, lease())
    fast = renewed(lease(), seconds=0)
    with pytest.raises(Stale, match="too fast"):
        catalogue.check(signed(fast), NOW)


def test_ten_thousand_offers_of_one_key_are_sixty_four() -> None:
    catalogue = Catalogue("devnet")
    accepted = 0
    for slot in range(10_000):
        try:
            put(catalogue, lease(slot=slot))
            accepted += 1
        except Refused:
            pass
    assert accepted == len(catalogue) == 64


def test_the_whole_has_bounds() -> None:
    catalogue = Catalogue("devnet", max_records=3)
    for number in range(3):
        put(catalogue, lease(key(number)), key(number))
    with pytest.raises(Stale, match="no room"):
        put(catalogue, lease(key(3)), key(3))
    put(catalogue, renewed(lease(key(0))), key(0))
    small = Catalogue("devnet", max_bodies_bytes=10)
    with pytest.raises(Stale, match="no room for further bodies"):
        put(small, lease())
    assert dict(small.held) == {}


def test_a_lease_is_kept_only_with_the_body_that_it_names() -> None:
    catalogue = Catalogue("devnet")
    checked = catalogue.check(signed(lease()), NOW)
    for wrong in (None, body('{"a":2}')):
        with pytest.raises(Refused, match="not the body"):
            catalogue.accept(checked, wrong)
    other = renewed(lease(), body_hash=body('{"a":2}').hash)
    put(catalogue, lease())
    with pytest.raises(Stale, match="does not change"):
        catalogue.check(signed(other), other.issued_ns)


def test_of_two_that_arrive_at_once_the_newer_stays() -> None:
    catalogue = Catalogue("devnet")
    first, second = lease(), renewed(lease())
    older = catalogue.check(signed(first), NOW)
    put(catalogue, second)
    with pytest.raises(Stale):
        catalogue.accept(older, body())


@pytest.mark.parametrize(
    "data",
    [
        codec.encode({"properties": "x", "constraints": "()"}),
        codec.encode({"properties": "[" * 70 + "]" * 70, "constraints": "()"}),
        codec.encode(["{}", "()"]),
        codec.encode({"properties": '{"a":' + "9" * MAX_BODY_BYTES + "}", "constraints": "()"}),
        b"\xff\xff",
        b"",
    ],
)
def test_what_is_no_body_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Body(data)


def test_a_body_with_a_broken_constraint_is_one_that_never_matches() -> None:
    assert body(constraints="(a=").constraint is None


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Catalogue("devnet").check(data, NOW)


@given(st.data())
def test_a_lease_that_was_tampered_with_is_refused(data: st.DataObject) -> None:
    record = bytearray(signed(lease()))
    position = data.draw(st.integers(0, len(record) - 1))
    record[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Refused, Stale)):
        Catalogue("devnet").check(bytes(record), NOW)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from("nwrx")), max_size=40))
def test_bodies_are_counted_right(steps: list[tuple[int, int, str]]) -> None:
    """Whatever comes and goes, the bodies held are those of the offers held."""
    catalogue, latest, now = Catalogue("devnet"), dict[tuple[int, int], OfferLease](), NOW
    for owner, slot, step in steps:
        now += 61 * SECOND
        last = latest.get((owner, slot))
        what = lease(key(owner), slot=slot, issued_ns=now, expires_ns=now + 1800 * SECOND)
        what = msgspec.structs.replace(what, seq=now // 1_000_000, incarnation=now // 1_000_000)
        if step == "w" and last is not None and not last.withdrawn:
            what = withdrawn(last)
        elif step == "r" and last is not None and not last.withdrawn:
            what = renewed(last)
        elif step == "x":
            catalogue.expire(now)
            continue
        try:
            put(catalogue, what, key(owner), now)
            latest[owner, slot] = what
        except (Stale, Refused):
            continue
    held = {offer.body.hash for offer in catalogue.offers()}
    assert (catalogue.body(body().hash) is not None) == bool(held)
    catalogue.expire(now + 10**15)
    assert len(catalogue) == 0
    assert catalogue.body(body().hash) is None
    assert catalogue._bodies_bytes == 0
