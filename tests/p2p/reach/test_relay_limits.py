"""What a relay gives to whom."""

from __future__ import annotations

from p2p.reach.relay_limits import RelayLedger, RelayLimits, Throttle
from p2p.reach.relay_wire import Limit, Status


def at(number: int, network: int = 1) -> str:
    return f"/ip4/198.51.{network}.{number}/tcp/4001"


def test_a_place_is_given_until_it_expires_or_the_peer_goes() -> None:
    ledger = RelayLedger(RelayLimits(reservation_seconds=100))
    assert ledger.open(0, "a", "b") is Status.NO_RESERVATION
    assert ledger.reserve(0, "b", at(1), "direct") is Status.OK
    assert ledger.open(99, "a", "b") is Status.OK
    assert ledger.open(100, "a", "b") is Status.NO_RESERVATION
    assert ledger.reserve(100, "b", at(1), "direct") is Status.OK
    ledger.gone("b")
    assert ledger.open(101, "a", "b") is Status.NO_RESERVATION
    assert ledger.reservations == 0


def test_who_comes_through_a_relay_gets_no_place() -> None:
    assert RelayLedger(RelayLimits()).reserve(0, "b", at(1), "relayed") is Status.PERMISSION_DENIED


def test_places_are_limited_in_all_by_host_and_by_network() -> None:
    ledger = RelayLedger(RelayLimits(reservations=4, reservations_per_host=1, reservations_per_network=2))
    assert ledger.reserve(0, "a", at(1), "direct") is Status.OK
    assert ledger.reserve(0, "b", at(1), "direct") is Status.RESERVATION_REFUSED, "the same host"
    assert ledger.reserve(0, "b", at(2), "direct") is Status.OK
    assert ledger.reserve(0, "c", at(3), "direct") is Status.RESERVATION_REFUSED, "the same network"
    assert ledger.reserve(0, "c", at(3, 2), "direct") is Status.OK
    assert ledger.reserve(0, "d", at(4, 2), "direct") is Status.OK
    assert ledger.reserve(0, "e", at(5, 3), "direct") is Status.RESERVATION_REFUSED, "enough in all"
    assert ledger.reserve(0, "a", at(1), "direct") is Status.OK, "a refresh is no new place"
    assert ledger.peers() == {"a", "b", "c", "d"}


def test_circuits_are_limited_in_all_and_by_peer_in_either_role() -> None:
    ledger = RelayLedger(RelayLimits(circuits=3, circuits_per_peer=2))
    for name in "abc":
        ledger.reserve(0, name, at(1), "direct")
    assert ledger.open(0, "x", "a") is Status.OK
    assert ledger.open(0, "a", "b") is Status.OK
    assert ledger.open(0, "y", "a") is Status.RESOURCE_LIMIT_EXCEEDED
    assert ledger.open(0, "y", "b") is Status.OK
    assert ledger.open(0, "z", "c") is Status.RESOURCE_LIMIT_EXCEEDED
    ledger.close("x", "a")
    assert ledger.circuits == 2
    assert ledger.open(0, "y", "a") is Status.OK


def test_the_limits_that_peers_are_told() -> None:
    assert RelayLimits(circuit_seconds=120, circuit_bytes=2**17).told == Limit(120, 2**17)


def test_the_throttle_lets_a_burst_go_and_then_keeps_the_rate() -> None:
    throttle = Throttle(1000)
    assert throttle.delay(0, 250) == 0
    assert throttle.delay(0, 1000) == 1.0
    assert throttle.delay(10, 100) == 0, "what was not used is not saved up, but forgiven"
    assert throttle.delay(10, 400) == 0.25
