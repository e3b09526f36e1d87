"""The routing table: who is entered, who stays, who is nearest."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.discovery.kademlia.contact import Contact, key_of, subnet_of
from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.table import RoutingTable

ME = b"me"
PARAMS = KademliaParams(k=4)


def contact(number: int, address: str | None = None) -> Contact:
    return Contact.of(
        f"peer {number}".encode(),
        [address or f"/ip4/{20 + number // 40_000}.{number // 200 % 200}.{number % 200}.1/tcp/1"],
    )


def far(count: int, start: int = 0) -> list[Contact]:
    """Return contacts of the farthest bucket: those whose first bit is not ours."""
    found, number = [], start
    while len(found) < count:
        if (contact(number).key ^ key_of(ME)) >> 255:
            found.append(contact(number))
        number += 1
    return found


def test_the_nearest_are_found_as_by_sorting_all() -> None:
    table = RoutingTable(ME, KademliaParams(k=1000), diverse=False)
    everyone = [contact(number) for number in range(300)]
    for one in everyone:
        table.answered(0, one)
    target = key_of(b"target")
    assert table.closest(target, 20) == sorted(everyone, key=lambda c: c.key ^ target)[:20]


def test_who_came_first_stays_however_many_knock() -> None:
    table = RoutingTable(ME, PARAMS)
    first, late = far(4), far(100)[4:]
    for one in (*first, *late):
        table.answered(0, one)
    assert list(table.contacts()) == first
    assert not table.wants(late[0])


def test_who_waits_takes_the_place_of_one_that_fails_and_is_checked_soon() -> None:
    table = RoutingTable(ME, PARAMS)
    everyone = far(6)
    for one in everyone:
        table.answered(0, one)
    table.failed(1, everyone[0].peer_id)
    assert list(table.contacts()) == [*everyone[1:4], everyone[5]]
    assert table.silent(1) == [everyone[5]]


def test_without_anyone_waiting_a_contact_may_fail_once() -> None:
    table = RoutingTable(ME, PARAMS)
    (one,) = far(1)
    table.answered(0, one)
    table.failed(1, one.peer_id)
    table.answered(2, one)
    table.failed(3, one.peer_id)
    assert one.peer_id in table
    table.failed(4, one.peer_id)
    assert one.peer_id not in table
    assert len(table) == 0


def test_one_that_failed_gives_way_to_the_next_that_knocks() -> None:
    table = RoutingTable(ME, PARAMS)
    everyone = far(5)
    for one in everyone[:4]:
        table.answered(0, one)
    table.failed(1, everyone[0].peer_id)
    table.answered(2, everyone[4])
    assert list(table.contacts()) == everyone[1:]


def test_subnets_are_bounded_in_a_bucket_and_in_the_table() -> None:
    params = KademliaParams(k=20, subnet_per_bucket=2, subnet_per_table=3)
    table = RoutingTable(ME, params)
    for number in range(200):
        table.answered(0, contact(number, f"/ip4/8.8.8.{number}/tcp/1"))
    assert len(table) == 3
    for number in range(200, 400):
        table.answered(0, contact(number, f"/ip4/192.168.1.{number - 200}/tcp/1"))
    assert len(table) > 50, "private networks are not counted"
    off = RoutingTable(ME, params, diverse=False)
    for number in range(200):
        off.answered(0, contact(number, f"/ip4/8.8.8.{number}/tcp/1"))
    assert len(off) > 50


def test_a_contact_cannot_move_into_a_crowded_subnet() -> None:
    table = RoutingTable(ME, PARAMS)
    a, b, c = far(3)
    crowded = [Contact.of(one.peer_id, [f"/ip4/8.8.8.{n}/tcp/1"]) for n, one in enumerate((a, b, c))]
    for one in (*crowded[:2], c):
        table.answered(0, one)
    table.answered(1, crowded[2])
    assert list(table.contacts()) == [*crowded[:2], c]
    table.removed(crowded[0].peer_id)
    table.answered(2, crowded[2])
    assert list(table.contacts()) == [crowded[1], crowded[2]]


def test_who_cannot_be_dialled_and_we_ourselves_are_not_entered() -> None:
    table = RoutingTable(ME, PARAMS)
    table.answered(0, Contact.of(ME, ["/ip4/8.8.8.8/tcp/1"]))
    table.answered(0, Contact.of(b"peer", []))
    assert len(table) == 0


def test_buckets_in_which_nothing_was_looked_up_are_refreshed() -> None:
    table = RoutingTable(ME, PARAMS)
    for number in range(200):
        table.answered(0, contact(number))
    chance = random.Random(1)
    assert table.stale_keys(PARAMS.refresh_bucket - 1, chance) == []
    keys = table.stale_keys(PARAMS.refresh_bucket, chance)
    prefixes = [256 - (key_of(key) ^ key_of(ME)).bit_length() for key in keys]
    assert prefixes == list(range(len(keys)))
    assert len(keys) > 4
    table.looked_up(PARAMS.refresh_bucket, key_of(keys[0]))
    assert len(table.stale_keys(PARAMS.refresh_bucket, chance)) == len(keys) - 1


@pytest.mark.parametrize("size", [50, 1000, 20_000])
def test_the_radius_holds_about_as_many_nodes_as_it_should(size: int) -> None:
    """From our own neighbours alone, and for any key: within a factor of two."""
    keys = [key_of(b"peer %d" % number) for number in range(size)]
    table = RoutingTable(ME, KademliaParams())
    for number in sorted(range(size), key=lambda number: keys[number] ^ key_of(ME))[:60]:
        table.answered(0, contact(number))
    radius = table.radius(20)
    inside = [sum(key ^ key_of(b"target %d" % n) <= radius for key in keys) for n in range(20)]
    assert 10 <= statistics.mean(inside) <= 40


def test_in_a_small_network_everybody_is_near() -> None:
    table = RoutingTable(ME, KademliaParams())
    for number in range(19):
        table.answered(0, contact(number))
    assert table.radius(20) == 2**256


def test_subnets() -> None:
    assert subnet_of("/ip4/8.8.8.8/tcp/1") == subnet_of("/ip4/8.8.8.9/tcp/1/p2p/x") == "8.8.8.0/24"
    assert subnet_of("/ip6/2606:4700:1:2::3/tcp/1") == "2606:4700:1::/48"
    for address in (
        "/ip4/10.0.0.1/tcp/1",
        "/ip4/127.0.0.1/tcp/1",
        "/dns4/a.example/tcp/1",
        "/memory/x",
        "",
        "/ip4/x",
    ):
        assert subnet_of(address) is None


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(["answered", "failed", "removed"]), st.integers(0, 60)), max_size=300)
)
def test_no_sequence_of_events_breaks_the_bounds(events: list[tuple[str, int]]) -> None:
    params = KademliaParams(k=3, subnet_per_bucket=2, subnet_per_table=4)
    table = RoutingTable(ME, params)
    for now, (event, number) in enumerate(events):
        one = contact(number, f"/ip4/{20 + number % 7}.1.1.{number}/tcp/1")
        match event:
            case "answered":
                table.answered(now, one)
            case "failed":
                table.failed(now, one.peer_id)
            case "removed":
                table.removed(one.peer_id)
        held = list(table.contacts())
        assert len(table) == len(held) == len({c.peer_id for c in held})
        assert all(c.peer_id in table for c in held)
        buckets: dict[int, list[Contact]] = {}
        for c in held:
            buckets.setdefault((c.key ^ key_of(ME)).bit_length(), []).append(c)
        for bucket in (*buckets.values(),):
            assert len(bucket) <= params.k
            assert all(sum(net in c.subnets for c in bucket) <= 2 for c in bucket for net in c.subnets)
        assert all(sum(net in c.subnets for c in held) <= 4 for c in held for net in c.subnets)
