"""Lookups on networks that exist as tables only: right, bounded, and hard to lead astray."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.discovery.kademlia.contact import Contact, key_of
from p2p.discovery.kademlia.lookup import MAX_HEARD, Lookup
from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.table import RoutingTable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ME = b"me"


def contact(number: int, address: str | None = None) -> Contact:
    return Contact.of(
        f"peer {number}".encode(), [address or f"/ip4/{20 + number // 200}.{number % 200}.1.1/tcp/1"]
    )


class Net:
    """Nodes whose tables are as full as they can be."""

    def __init__(self, count: int, params: KademliaParams) -> None:
        self.params = params
        self.everyone = [contact(number) for number in range(count)]
        self.tables = {one.peer_id: RoutingTable(one.peer_id, params) for one in self.everyone}
        for table in self.tables.values():
            for one in self.everyone:
                table.answered(0, one)

    def nearest(self, target: int, gone: frozenset[bytes] = frozenset()) -> list[Contact]:
        alive = [one for one in self.everyone if one.peer_id not in gone]
        return sorted(alive, key=lambda one: one.key ^ target)[: self.params.k]

    def answer(self, asked: Contact, target: int) -> Sequence[Contact]:
        return self.tables[asked.peer_id].closest(target, self.params.k)


def run(lookup: Lookup, answer: Callable[[Contact], Sequence[Contact] | None]) -> list[Contact]:
    """Drive a lookup to its end, answers in the order of the requests; return whom it asked."""
    asked, under_way = [], lookup.next()
    while under_way:
        one = under_way.pop(0)
        asked.append(one)
        closer = answer(one)
        if closer is None:
            lookup.failed(one)
        else:
            lookup.answered(one, closer)
        under_way += lookup.next()
    assert lookup.done
    return asked


@pytest.mark.parametrize("paths", [1, 2, 3])
def test_the_nearest_of_all_are_found(paths: int) -> None:
    params = KademliaParams(paths=paths)
    net = Net(300, params)
    for number in range(20):
        target = key_of(b"target %d" % number)
        start = net.tables[net.everyone[number].peer_id].closest(target, params.k)
        lookup = Lookup(target, ME, start, params, need=params.k)
        asked = run(lookup, lambda one, target=target: net.answer(one, target))
        assert lookup.closest() == net.nearest(target)
        assert len(asked) == len(set(asked)) == lookup.requests <= 50
        assert lookup.hops_to(lookup.closest()[0]) <= 4


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 119), max_size=50), st.integers(0, 10**6))
def test_with_many_gone_the_nearest_of_the_rest_are_found(gone: set[int], number: int) -> None:
    params, names = KademliaParams(), frozenset(contact(n).peer_id for n in gone)
    net, target = NET_OF_120, key_of(b"%d" % number)
    start = net.nearest(key_of(b"elsewhere"))
    lookup = Lookup(target, ME, start, params, need=params.k)
    run(lookup, lambda one: None if one.peer_id in names else net.answer(one, target))
    found = lookup.closest()
    assert set(found) <= set(net.everyone)
    if len(names & {c.peer_id for c in start}) < len(start) // 2:
        assert found[:10] == net.nearest(target, names)[:10]


NET_OF_120 = Net(120, KademliaParams())


def near(target: int, number: int, address: str) -> Contact:
    """Return a contact that claims a key nearer to `target` than any real one can be."""
    return Contact(b"fake %d" % number, (address,), target ^ number, Contact.of(b"", [address]).subnets)


def test_a_liar_is_soon_believed_no_more() -> None:
    """One of the contacts tells of ten thousand that lie nearer than all others, and do not exist."""
    params, net, target = KademliaParams(), NET_OF_120, key_of(b"target")
    start = net.nearest(key_of(b"elsewhere"))
    liar, fakes = start[0], iter(range(1, 10_000))

    def answer(one: Contact) -> Sequence[Contact] | None:
        if one.peer_id.startswith(b"fake"):
            return None
        if one == liar:
            return [near(target, n, f"/ip4/{n % 200 + 20}.{n // 200}.9.9/tcp/1") for n in fakes]
        return net.answer(one, target)

    lookup = Lookup(target, ME, start, params, need=params.k)
    asked = run(lookup, answer)
    real = [one for one in lookup.closest() if one in net.everyone]
    assert real == net.nearest(target)
    assert len(asked) <= params.max_requests
    assert sum(one.peer_id.startswith(b"fake") for one in asked) <= params.max_barren + params.alpha


def test_sybils_of_one_subnet_do_not_fill_the_nearest() -> None:
    """Twenty that answer lie around the key, all in one subnet: two of them count."""
    params, net, target = KademliaParams(), NET_OF_120, key_of(b"target")
    sybils = [near(target, n, f"/ip4/8.8.8.{n}/tcp/1") for n in range(1, 21)]

    def answer(one: Contact) -> Sequence[Contact]:
        return sybils if one in sybils else [*sybils[:3], *net.answer(one, target)[:17]]

    lookup = Lookup(target, ME, net.nearest(key_of(b"elsewhere")), params, need=params.k)
    run(lookup, answer)
    found = lookup.closest()
    assert sum(one in sybils for one in found) == params.subnet_per_bucket
    assert found[params.subnet_per_bucket :][:15] == net.nearest(target)[:15]
    naive = Lookup(target, ME, net.nearest(key_of(b"elsewhere")), params, need=params.k, diverse=False)
    run(naive, answer)
    assert set(naive.closest()) == set(sybils)


def test_parallel_requests_are_bounded_and_late_answers_ignored() -> None:
    params = KademliaParams(alpha=3)
    net, target = NET_OF_120, key_of(b"target")
    lookup = Lookup(target, ME, net.nearest(target), params, need=params.k)
    first = lookup.next()
    assert len(first) == 3
    assert lookup.next() == []
    lookup.failed(first[0])
    lookup.failed(first[0])
    lookup.answered(first[0], [contact(999)])
    assert len(lookup.next()) == 1
    assert not lookup.done


def test_nobody_asks_for_ever() -> None:
    """Everyone tells of ever nearer ones, who answer too: the requests end all the same."""
    params, target = KademliaParams(), key_of(b"target")
    numbers = iter(range(10**9, 0, -1))

    def answer(_: Contact) -> Sequence[Contact]:
        return [
            near(target, n := next(numbers), f"/ip4/{n % 200 + 20}.{n // 200 % 250}.9.9/tcp/1")
            for _ in range(50)
        ]

    lookup = Lookup(target, ME, NET_OF_120.nearest(target), params, need=params.k)
    asked = run(lookup, answer)
    assert len(asked) == params.max_requests
    assert len(lookup._states) <= MAX_HEARD


def test_without_anyone_to_start_with_it_is_over() -> None:
    lookup = Lookup(1, ME, [], KademliaParams(), need=20)
    assert lookup.done
    assert lookup.next() == lookup.closest() == []
