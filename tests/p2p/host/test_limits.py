"""Who may connect, and who goes first when there are too many."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.host.limits import (
    HANDSHAKE_PATIENCE,
    Gate,
    Handshakes,
    Held,
    HostLimits,
    place_of,
    prune,
)

NODE = "0x" + "ab" * 20


def gate(*, devnet: bool = False, **limits: Any) -> Gate:
    return Gate(HostLimits(**limits), trust_loopback=devnet)


def test_one_address_has_so_many_and_no_more() -> None:
    door = gate(per_place=2)
    assert [door.arrive("192.0.2.1") for _ in range(2)] == [None, None]
    assert "192.0.2.1 has 2" in str(door.arrive("192.0.2.1"))
    assert door.arrive("192.0.2.2") is None
    door.left("192.0.2.1")
    assert door.arrive("192.0.2.1") is None
    assert door.total == 3


def test_an_ipv6_household_is_one_place() -> None:
    assert place_of("2001:db8:1:2::1") == place_of("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert place_of("2001:db8:1:3::1") != place_of("2001:db8:1:2::1")
    door = gate(per_place=1)
    assert door.arrive("2001:db8::1") is None
    assert door.arrive("2001:db8::2") is not None


@pytest.mark.parametrize(
    ("near", "far", "network"),
    [("192.0.2.{}", "192.0.3.1", "192.0.2.0/24"), ("2001:db8:1:{}::1", "2001:db8:2::1", "2001:db8:1::/48")],
)
def test_one_network_has_so_many_wherever_in_it_they_are(near: str, far: str, network: str) -> None:
    door = gate(per_network=3)
    assert [door.arrive(near.format(i)) for i in range(3)] == [None] * 3
    assert f"{network} has 3" in str(door.arrive(near.format(9)))
    assert door.arrive(far) is None
    door.left(near.format(1))
    assert door.arrive(near.format(9)) is None


def test_this_machine_is_exempt_on_a_devnet_only() -> None:
    for devnet in (False, True):
        door = gate(devnet=devnet, per_place=1)
        assert door.arrive("127.0.0.1") is None
        assert (door.arrive("127.0.0.1") is None) is devnet


def test_the_total_counts_everyone_and_is_given_back() -> None:
    door = gate(connections=3)
    assert door.arrive("192.0.2.1") is None
    door.made()
    assert door.arrive("192.0.2.2") is None
    assert "3 connections" in str(door.arrive("192.0.2.3"))
    door.left(None)
    assert door.arrive("192.0.2.3") is None


def test_handshakes_that_hang_keep_out_nobody_from_elsewhere() -> None:
    handshakes: Handshakes[str] = Handshakes(4)
    for i in range(3):
        assert handshakes.begin(f"a{i}", "192.0.2.1", now=float(i) / 10) is None
    assert handshakes.begin("b0", "192.0.2.2", now=0.3) is None
    assert handshakes.begin("a3", "192.0.2.1", now=0.4) == "a3"  # its own place is the crowded one
    assert handshakes.begin("c0", "192.0.2.3", now=0.4) == "a0"
    assert handshakes.begin("d0", "192.0.2.4", now=0.4) == "a1"
    assert handshakes.begin("e0", "192.0.2.5", now=0.4) == "e0"  # each of the others has one
    assert len(handshakes) == 4
    handshakes.end("a2")
    assert handshakes.begin("e1", "192.0.2.5", now=0.5) is None


def test_handshakes_that_are_old_give_way_to_anybody() -> None:
    handshakes: Handshakes[str] = Handshakes(2)
    for i in range(2):
        handshakes.begin(f"a{i}", "192.0.2.1", now=float(i))
    assert handshakes.begin("a2", "192.0.2.1", now=HANDSHAKE_PATIENCE - 0.1) == "a2"
    assert handshakes.begin("a3", "192.0.2.1", now=HANDSHAKE_PATIENCE) == "a0"
    assert handshakes.begin("a4", "192.0.2.1", now=HANDSHAKE_PATIENCE) == "a4"


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 3)), max_size=60))
def test_handshakes_are_bounded_and_the_one_that_is_given_up_is_known(
    arrivals: list[tuple[int, float]],
) -> None:
    handshakes: Handshakes[int] = Handshakes(6)
    under_way: set[int] = set()
    now = 0.0
    for key, (host, pause) in enumerate(arrivals):
        now += pause
        under_way.add(key)
        given_up = handshakes.begin(key, f"192.0.2.{host}", now)
        if given_up is not None:
            assert given_up in under_way
            under_way.remove(given_up)
        assert len(handshakes) == len(under_way) <= 6


def test_the_deny_list_knows_names_addresses_and_networks() -> None:
    door = gate(
        deny=(
            NODE.upper().replace("0X", "0x"),
            "12D3KooWbad",
            "192.0.2.7",
            "198.51.100.0/24",
            "2001:db8::/32",
        )
    )
    for host in ("192.0.2.7", "198.51.100.200", "2001:db8:5::1"):
        assert "deny-list" in str(door.refuses_place(host))
        assert "deny-list" in str(door.arrive(host))
    assert door.refuses_place("192.0.2.8") is None
    assert "deny-list" in str(door.refuses_peer("16Uiu2Hfine", NODE))
    assert "deny-list" in str(door.refuses_peer("12D3KooWbad", "12D3KooWbad"))
    assert door.refuses_peer("16Uiu2Hfine", "0x" + "cd" * 20) is None
    assert door.total == 0
    with pytest.raises(ValueError, match="nonsense"):
        gate(deny=("nonsense",))


def held(key: str, **how: Any) -> Held[str]:
    settings: dict[str, Any] = {"guest": False, "inbound": True, "relayed": False, "streams": 0, "since": 0.0}
    return Held(key=key, **(settings | how))


def test_the_least_worth_go_first() -> None:
    sessions = [
        held("ours", inbound=False),
        held("old", since=1.0),
        held("young", since=2.0),
        held("busy guest", guest=True, streams=1),
        held("relayed", relayed=True),
        held("busy", streams=3),
        held("guest", guest=True, inbound=False),
    ]
    order = ["guest", "relayed", "young", "old", "ours"]
    assert prune(sessions, 100) == order
    assert prune(sessions, 2) == order[:2]
    assert prune(sessions, 0) == prune(sessions, -5) == []


HELD = st.builds(
    Held,
    key=st.integers(),
    guest=st.booleans(),
    inbound=st.booleans(),
    relayed=st.booleans(),
    streams=st.integers(0, 2),
    since=st.floats(0, 100),
)


@given(st.lists(HELD, unique_by=lambda h: h.key), st.integers(-3, 20))
def test_none_in_use_is_ended_and_no_more_than_needed(sessions: list[Held[int]], excess: int) -> None:
    ended = set(prune(sessions, excess))
    idle = {h.key for h in sessions if not h.streams}
    assert ended <= idle
    assert len(ended) == min(len(idle), max(excess, 0))
    kept_idle = [h for h in sessions if h.key in idle - ended]
    for h in sessions:  # no node gives way while an idle guest stays
        if h.key in ended and not h.guest:
            assert not any(k.guest for k in kept_idle)
