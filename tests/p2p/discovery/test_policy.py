"""The address book and its decisions, as plain calls."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.clock import NANOSECONDS
from p2p.discovery import DiscoveryPolicy, DiscoverySettings
from p2p.discovery.messages import MAX_ADDRESSES, MAX_TOLD_PEERS, KnownPeer
from p2p.discovery.peer_store import PeerRecord, ProvenAddress
from p2p.discovery.policy import FORGET_UNPROVEN_AFTER, MIN_TELLING_INTERVAL, TOLD_AGAIN, KnownAddress
from p2p.identity import NodeId

ME = NodeId("0x" + "0" * 40)
DAY_NS = 86_400 * NANOSECONDS


def node(number: int) -> NodeId:
    return NodeId(f"0x{number:040x}")


def at(number: int, which: int = 0) -> str:
    return f"/ip4/10.0.{which}.1/tcp/{number}"


def known(number: int, count: int = 1) -> KnownPeer:
    return KnownPeer(node_id=node(number), addresses=tuple(at(number, i) for i in range(count)))


def policy(*bootstrap: str, **settings: float) -> tuple[DiscoveryPolicy, random.Random]:
    return DiscoveryPolicy(ME, bootstrap, DiscoverySettings(**settings)), random.Random(1)  # type: ignore[arg-type]


def test_bootstrap_is_dialled_at_once_and_again_with_growing_pauses() -> None:
    book, chance = policy("/a", "/b")
    assert {dial.address for dial in book.dials(0, chance)} == {"/a", "/b"}
    assert book.dials(0, chance) == []
    pauses, now = [], 0.0
    for _ in range(12):
        book.dial_failed(now, "/a", chance)
        assert book.dials(now, chance) == []
        pauses.append(book.next_event() - now)
        now = book.next_event()
        assert [dial.address for dial in book.dials(now, chance)] == ["/a"]
    assert 0.5 <= pauses[0] <= 1.5
    assert 30 <= pauses[-1] <= 90
    assert pauses[5] > pauses[0]


def test_bootstrap_is_left_alone_while_connected_and_dialled_again_after() -> None:
    book, chance = policy("/a", target_peers=1)
    (dial,) = book.dials(0, chance)
    assert dial.expected is None
    book.dialled(1, "/a", node(7))
    book.connected(0, node(7), chance)
    assert book.dials(100, chance) == []
    book.disconnected(100, node(7), chance)
    assert book.dials(100, chance) == []
    (dial,) = book.dials(book.next_event(), chance)
    assert (dial.address, dial.expected) == ("/a", node(7))


def test_a_peer_that_hangs_up_again_and_again_is_dialled_less_and_less() -> None:
    book, chance = policy("/a", first_retry=1.0)
    now, pauses = 0.0, []
    for lasts in (*[2.0] * 8, 1000.0):
        assert [dial.address for dial in book.dials(now, chance)] == ["/a"]
        book.dialled(1, "/a", node(7))
        book.connected(now, node(7), chance)
        now += lasts
        book.disconnected(now, node(7), chance)
        pauses.append(book.next_event() - now)
        now = book.next_event()
    assert pauses[0] < 2
    assert pauses[7] > 25
    assert pauses[8] < 2


def test_own_address_in_the_bootstrap_list_is_dialled_once() -> None:
    book, chance = policy("/me")
    book.dials(0, chance)
    book.dialled(1, "/me", ME)
    assert book.dials(1e9, chance) == []
    assert book.next_event() == math.inf


def test_told_peers_are_dialled_until_there_are_enough() -> None:
    book, chance = policy(target_peers=3, parallel_dials=2)
    book.connected(0, node(1), chance)
    book.told(0, node(1), [at(1)], [known(n) for n in range(2, 12)])
    dials = book.dials(0, chance)
    assert len(dials) == 2
    assert all(dial.expected in {node(n) for n in range(2, 12)} for dial in dials)
    for dial in dials:
        assert dial.expected is not None
        book.dialled(1, dial.address, dial.expected)
        book.connected(0, dial.expected, chance)
    assert book.dials(0, chance) == []


def test_who_was_met_before_comes_first_then_the_bootstrap_list() -> None:
    one, chance = policy("/bootstrap", "/another")
    one.load(
        [
            PeerRecord(node_id=node(n), addresses=(ProvenAddress(address=at(n), proven_ns=NANOSECONDS),))
            for n in range(10, 16)
        ],
        NANOSECONDS,
    )
    one.told(0.0, node(9), [], [known(20)])
    first = one.dials(0.0, chance)
    assert [dial.bootstrap for dial in first] == [False, False, False, True]
    assert all(dial.expected in {node(n) for n in range(10, 16)} for dial in first[:3])
    for dial in first:
        one.dial_failed(0.0, dial.address, chance)
    second = one.dials(0.0, chance)
    assert [dial.bootstrap for dial in second] == [False, False, False, True]
    for dial in second:
        one.dial_failed(0.0, dial.address, chance)
    assert [dial.expected for dial in one.dials(0.0, chance)] == [node(20)]


def test_what_is_proven_is_tried_before_what_is_told() -> None:
    book, chance = policy(target_peers=1)
    book.dialled(1, at(5), node(5))
    book.told(0, node(1), [], [known(n) for n in range(6, 30)])
    assert [dial.expected for dial in book.dials(0, chance)] == [node(5)]


def test_a_lie_about_who_is_where_is_dropped() -> None:
    book, chance = policy(target_peers=1)
    book.told(0, node(1), [], [KnownPeer(node_id=node(2), addresses=("/x",))])
    assert [dial.expected for dial in book.dials(0, chance)] == [node(2)]
    book.dialled(1, "/x", node(3))
    assert book.addresses_of(node(2)) == []
    assert book.addresses_of(node(3)) == ["/x"]


def test_a_dead_claim_is_forgotten_and_a_dead_proven_address_kept() -> None:
    book, chance = policy()
    book.told(0, node(1), [], [known(2)])
    book.dialled(1, at(3), node(3))
    for _ in range(3):
        book.dial_failed(0, at(2), chance)
        book.dial_failed(0, at(3), chance)
    assert book.addresses_of(node(2)) == []
    assert book.addresses_of(node(3)) == [at(3)]


def test_one_peer_can_fill_only_its_share_of_the_book() -> None:
    book, _ = policy(max_told=10)
    for round_ in range(50):
        peers = [known(1000 + round_ * 32 + i) for i in range(32)]
        book.told(round_ * 60.0, node(1), [], peers)
    book.told(9e9, node(2), [], [known(n) for n in range(500, 505)])
    known_nodes = sum(bool(book.addresses_of(node(n))) for n in range(3000))
    assert known_nodes == 15


def test_tellings_in_quick_succession_are_not_taken_in() -> None:
    book, _ = policy()
    book.told(0, node(1), [], [known(2)])
    book.told(1, node(1), [], [known(3)])
    assert book.addresses_of(node(3)) == []
    book.told(6, node(1), [], [known(3)])
    assert book.addresses_of(node(3)) == [at(3)]


def test_a_full_book_gives_up_claims_before_facts_and_never_the_connected() -> None:
    book, chance = policy(max_book=4, max_told=4)
    book.dialled(1, at(1), node(1))
    book.connected(0, node(1), chance)
    book.dialled(2, at(2), node(2))
    book.dialled(3, at(3), node(3))
    book.told(0, node(9), [], [known(4)])
    book.told(10, node(9), [], [known(5)])
    assert book.addresses_of(node(4)) == []
    assert book.addresses_of(node(5)) == [at(5)]
    for n in range(6, 12):  # self-told claims, one a node, drive out no fact
        book.told(10, node(n), [at(n)], [])
    assert book.addresses_of(node(2))
    assert book.addresses_of(node(3))
    for n in range(20, 30):
        book.dialled(n, at(n), node(n))
    assert book.addresses_of(node(1))
    assert sum(bool(book.addresses_of(node(n))) for n in range(40)) == 4


def test_a_peer_knows_best_where_it_is() -> None:
    book, _ = policy()
    book.told(0, node(1), [], [KnownPeer(node_id=node(2), addresses=("/old",))])
    book.told(0, node(2), ["/new"], [])
    assert book.addresses_of(node(2)) == ["/new"]
    book.dialled(1, "/new", node(2))
    book.told(10, node(2), ["/newer"], [])
    assert book.addresses_of(node(2)) == ["/new", "/newer"]


def test_addresses_for_one_node_are_bounded() -> None:
    book, _ = policy()
    for which in range(5):
        claims = [at(2, which * 10 + i) for i in range(MAX_ADDRESSES)]
        book.told(0, node(10 + which), [], [KnownPeer(node_id=node(2), addresses=tuple(claims))])
    assert len(book.addresses_of(node(2))) == MAX_ADDRESSES


def test_unacceptable_addresses_are_not_entered() -> None:
    book = DiscoveryPolicy(ME, acceptable=lambda address: "127." not in address)
    book.told(
        0,
        node(1),
        ["/ip4/127.0.0.1/tcp/1"],
        [KnownPeer(node_id=node(2), addresses=("/ip4/127.0.0.1/tcp/22",))],
    )
    assert book.addresses_of(node(1)) == []
    assert book.addresses_of(node(2)) == []


def test_nobody_can_enter_this_node_itself() -> None:
    book, _ = policy()
    book.told(0, node(1), [], [KnownPeer(node_id=ME, addresses=("/x",))])
    assert book.addresses_of(ME) == []


def test_what_is_told_on_is_connected_or_proven_and_bounded() -> None:
    book, chance = policy(max_book=200, max_told=200)
    book.told(0, node(1), [at(1)], [known(n) for n in range(500, 530)])
    book.connected(0, node(1), chance)
    for n in range(2, 60):
        book.dialled(n, at(n), node(n))
    told = book.tell(node(2), chance)
    assert len(told) == MAX_TOLD_PEERS
    assert told[0].node_id == node(1)
    assert node(2) not in {peer.node_id for peer in told}
    assert not {peer.node_id for peer in told} & {node(n) for n in range(500, 530)}


def test_what_is_known_of_a_node_says_who_told_and_what_was_proven() -> None:
    book, chance = policy()
    book.told(0, node(1), [at(1)], [known(2, 2)])
    assert book.known(node(2)) == [
        KnownAddress(at(2, 0), proven_ns=0, failures=0, told_by=node(1)),
        KnownAddress(at(2, 1), proven_ns=0, failures=0, told_by=node(1)),
    ]
    assert [k.told_by for k in book.known(node(1))] == [""], "it told of itself"
    book.dial_failed(1, at(2, 0), chance)
    book.dialled(77, at(2, 1), node(2))
    assert book.known(node(2)) == [
        KnownAddress(at(2, 1), proven_ns=77, failures=0, told_by=""),
        KnownAddress(at(2, 0), proven_ns=0, failures=1, told_by=""),
    ]
    assert book.known(node(3)) == []
    assert book.size == 2


def test_a_peer_is_told_much_at_first_and_a_few_later() -> None:
    book, chance = policy()
    for n in range(2, 60):
        book.dialled(1, at(n), node(n))
    assert len(book.tell(node(1), chance)) == MAX_TOLD_PEERS
    book.connected(0, node(1), chance)
    told = [known.node_id for _ in range(40) for known in book.tell(node(1), chance)]
    assert len(told) == 40 * TOLD_AGAIN
    assert len(set(told)) > MAX_TOLD_PEERS
    book.disconnected(100, node(1), chance)
    assert len(book.tell(node(1), chance)) == MAX_TOLD_PEERS


def test_who_was_just_greeted_need_not_be_greeted() -> None:
    book, chance = policy()
    book.connected(0, node(1), chance)
    book.greeted(40, node(1), chance)
    assert book.refreshes(40 + 134, chance) == []
    assert book.refreshes(40 + 226, chance) == [node(1)]
    book.greeted(0, node(2), chance)  # of whom nobody has heard


def test_who_tells_is_not_remembered_for_long() -> None:
    book, _ = policy()
    for n in range(1000):  # they said hello and were gone before they were connected
        book.told(n / 10, node(n), [], [])
    assert len(book._told_at) <= 10 * MIN_TELLING_INTERVAL + 1


def test_refreshes_come_every_three_minutes_or_so() -> None:
    book, chance = policy()
    book.connected(0, node(1), chance)
    assert book.refreshes(134, chance) == []
    first = book.next_event()
    assert 135 <= first <= 225
    assert book.refreshes(first, chance) == [node(1)]
    assert book.refreshes(first, chance) == []
    assert 135 <= book.next_event() - first <= 225
    book.refresh_all(first + 1)
    assert book.next_event() == first + 1
    assert book.refreshes(first + 1, chance) == [node(1)]


def test_peers_that_dialled_us_are_remembered_where_they_said_to_be() -> None:
    one, chance = policy()
    one.told(0.0, node(9), [at(9)], [known(20)], now_ns=NANOSECONDS)
    assert [record.node_id for record in one.records()] == [node(9)], "not those that it told of"
    other, _ = policy("/bootstrap")
    other.load(one.records(), 2 * NANOSECONDS)
    assert [dial.expected for dial in other.dials(0.0, chance)] == [node(9), None]
    assert other.records() == one.records()
    for _ in range(FORGET_UNPROVEN_AFTER):
        other.dial_failed(0.0, at(9), chance)
    assert not other.records(), "a claim that does not hold is dropped all the same"
    late, _ = policy()
    late.load(one.records(), NANOSECONDS + 15 * 86_400 * NANOSECONDS)
    assert not late.records()


def test_records_survive_and_age() -> None:
    book, _ = policy()
    book.dialled(100 * DAY_NS, at(1), node(1))
    book.dialled(80 * DAY_NS, at(2), node(2))
    book.told(0, node(3), [at(3)], [])
    again, _ = policy()
    again.load(book.records(), 101 * DAY_NS)
    assert again.addresses_of(node(1)) == [at(1)]
    assert again.addresses_of(node(2)) == []
    assert again.addresses_of(node(3)) == []
    from_the_future, _ = policy()
    from_the_future.load(book.records(), 1)
    assert from_the_future.records() == []


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["told", "dial", "ok", "other", "fail", "up", "down", "wait"]),
        st.integers(1, 30),
        st.integers(1, 30),
    ),
    max_size=150,
)


@given(EVENTS, st.integers(0, 3))
def test_any_course_keeps_the_bounds(events: list[tuple[str, int, int]], seed: int) -> None:
    settings = DiscoverySettings(target_peers=4, parallel_dials=3, max_book=12, max_told=5)
    book, chance, now = DiscoveryPolicy(ME, ["/boot"], settings), random.Random(seed), 0.0
    open_dials: dict[str, NodeId | None] = {}
    connected: set[NodeId] = set()
    for what, x, y in events:
        match what:
            case "told":
                book.told(now, node(x), [at(x)], [known(y, 3), known(y + 1)])
            case "dial":
                for dial in book.dials(now, chance):
                    assert dial.address not in open_dials
                    assert dial.expected is None or dial.expected not in connected
                    open_dials[dial.address] = dial.expected
            case "ok" | "other" if open_dials:
                address, expected = open_dials.popitem()
                found = expected if what == "ok" and expected else node(x)
                book.dialled(int(now) + 1, address, found)
                book.connected(now, found, chance)
                connected.add(found)
            case "fail" if open_dials:
                book.dial_failed(now, open_dials.popitem()[0], chance)
            case "up":
                book.connected(now, node(x), chance)
                connected.add(node(x))
            case "down":
                book.disconnected(now, node(x), chance)
                connected.discard(node(x))
            case _:
                now += x * 10
        assert len(open_dials) <= settings.parallel_dials
        known_nodes = [n for n in range(40) if book.addresses_of(node(n))]
        assert len(known_nodes) <= settings.max_book
        assert all(len(book.addresses_of(node(n))) <= MAX_ADDRESSES for n in known_nodes)
        assert len(book.tell(node(x), chance)) <= MAX_TOLD_PEERS
        assert len(book.records()) <= settings.max_book
        if open_dials or connected >= {node(n) for n in range(1, 30)}:
            continue
        assert book.next_event() > -math.inf or book.dials(now, chance) is not None


@pytest.mark.parametrize("failures", [1, 5, 50, 5000])
def test_pauses_stay_finite(failures: int) -> None:
    book, chance = policy("/a")
    for _ in range(failures):
        book.dial_failed(0, "/a", chance)
    assert 0 < book.next_event() <= 90
