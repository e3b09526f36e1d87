"""What a volunteer relay gives to whom: its reservations and circuits, counted. Sans-IO; driven by `relay_server`.

Errors: none; refusals are the statuses of the wire.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from p2p.reach.judge import network_of, place_of
from p2p.reach.relay_wire import Limit, Status

if TYPE_CHECKING:
    from p2p.overlay import Path


class RelayLimits(msgspec.Struct, frozen=True):
    """What a relay gives.

    The specification's examples (2 minutes and 128 KiB a circuit) are for circuits that only arrange hole punching.
    Here two nodes behind symmetric NATs have no other way at all, and a deal between them has to be made and its
    work to be carried: so a circuit may last for hours, and what is scarce, bandwidth, is limited in total.
    """

    reservations: int = 256
    """Peers that may have a place, in all."""
    reservations_per_host: int = 8
    """Of one IP address: several nodes may share a NAT."""
    reservations_per_network: int = 32
    """Of one /24 or /48."""
    reservation_seconds: int = 3600
    circuits: int = 128
    """In all."""
    circuits_per_peer: int = 16
    """That one peer takes part in, in either role."""
    circuit_seconds: int = 7200
    circuit_bytes: int = 2**30
    """In each direction."""
    bytes_per_second: int = 8 * 2**20
    """Of all circuits and both directions together."""

    @property
    def told(self) -> Limit:
        """Return what each circuit may use, as peers are told."""
        return Limit(self.circuit_seconds, self.circuit_bytes)


class _Place(msgspec.Struct, frozen=True):
    host: str
    network: str
    expires: float


class RelayLedger:
    """Reservations and circuits of one relay."""

    def __init__(self, limits: RelayLimits) -> None:
        self._limits = limits
        self._places: dict[str, _Place] = {}
        self._circuits: Counter[str] = Counter()
        self.circuits = 0
        """How many there are now."""

    @property
    def reservations(self) -> int:
        """Return how many peers have a place, expired ones included until somebody asks."""
        return len(self._places)

    def reserve(self, now: float, peer_id: str, address: str, path: Path) -> Status:
        """Give `peer_id`, who is at `address`, a place, or a longer one.

        Returns:
            OK or why not: who comes through a relay itself could be cut off by it, and is not to be relied on.
        """
        if path == "relayed":
            return Status.PERMISSION_DENIED
        self._forget_expired(now)
        place = place_of(address)
        host = place[1] if place else address
        network = network_of(address)
        others = [p for other, p in self._places.items() if other != peer_id]
        if (
            len(others) >= self._limits.reservations
            or sum(p.host == host for p in others) >= self._limits.reservations_per_host
            or sum(p.network == network for p in others) >= self._limits.reservations_per_network
        ):
            return Status.RESERVATION_REFUSED
        self._places[peer_id] = _Place(host, network, now + self._limits.reservation_seconds)
        return Status.OK

    def peers(self) -> set[str]:
        """Return the PeerIds of those who have a place."""
        return set(self._places)

    def gone(self, peer_id: str) -> None:
        """Note that the last link with a peer ended, and with it its place."""
        self._places.pop(peer_id, None)

    def open(self, now: float, source: str, target: str) -> Status:
        """Begin a circuit; one that is OK has to be ended by `close`."""
        self._forget_expired(now)
        if target not in self._places:
            return Status.NO_RESERVATION
        if (
            self.circuits >= self._limits.circuits
            or max(self._circuits[source], self._circuits[target]) >= self._limits.circuits_per_peer
        ):
            return Status.RESOURCE_LIMIT_EXCEEDED
        self.circuits += 1
        self._circuits.update((source, target))
        return Status.OK

    def close(self, source: str, target: str) -> None:
        """End a circuit."""
        self.circuits -= 1
        for peer in (source, target):
            self._circuits[peer] -= 1
            if not self._circuits[peer]:
                del self._circuits[peer]

    def _forget_expired(self, now: float) -> None:
        for peer in [peer for peer, place in self._places.items() if place.expires <= now]:
            del self._places[peer]


class Throttle:
    """A rate for all circuits together: says how long to wait after some bytes.

    Args:
        rate: bytes a second.
    """

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._paid_until = 0.0

    def delay(self, now: float, count: int) -> float:
        """Account for `count` bytes; return the seconds to wait. A quarter of a second's worth may go at once."""
        self._paid_until = max(self._paid_until, now) + count / self._rate
        return max(0.0, self._paid_until - now - 0.25)
