"""Who may connect, how many, and who goes first when there are too many. No I/O.

`Gate` counts connections by where they come from and refuses with a reason: before the handshake by address, after it
by who it is. `Handshakes` has those that hang keep nobody out. `prune` chooses which sessions to end when a node is
nearly full. Called by the overlay, and by nobody else; who is *admitted* to the protocols is decided by hello
(`p2p.discovery.admission`).
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

K = TypeVar("K")


class HostLimits(msgspec.Struct, frozen=True):
    """How many peers a node has, at most."""

    connections: int = 1536
    """In total; further ones are refused."""
    prune_above: int = 1280
    """Where sessions that are worth little are ended, before anybody is refused."""
    per_peer: int = 4
    """Sessions with one peer; the oldest ends for a further one."""
    per_place: int = 32
    """Inbound connections from one IPv4 address or one IPv6 /64."""
    per_network: int = 128
    """Inbound connections from one IPv4 /24 or one IPv6 /48, which one hoster has: it takes a dozen to fill a node."""
    upgrades: int = 256
    """Inbound handshakes under way at once; a further one has another of a crowded place given up."""
    guests: int = 64
    """Foreign libp2p programs."""
    deny: tuple[str, ...] = ()
    """NodeIds, PeerIds, IP addresses and networks (`192.0.2.0/24`) that are neither accepted nor dialled."""


class Gate:
    """Counts who is there and says who may come in.

    Args:
        trust_loopback: whether connections of this machine are exempt from the count by place, as on a devnet.

    Raises:
        ValueError: an entry of the deny-list is none of what it may be.
    """

    def __init__(self, limits: HostLimits, *, trust_loopback: bool) -> None:
        self.limits = limits
        self._trust_loopback = trust_loopback
        self._denied_names: set[str] = set()
        self._denied_networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in limits.deny:
            if entry.startswith(("0x", "16Uiu2", "12D3Koo")):
                self._denied_names.add(entry.lower() if entry.startswith("0x") else entry)
            else:
                self._denied_networks.append(ipaddress.ip_network(entry, strict=False))
        self.total = 0
        """Connections that were let in or made, handshakes included."""
        self._places: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Gate {self.total} connections>"

    def refuses_place(self, host: str) -> str | None:
        """Return why no connection with an IP address is wanted, if so."""
        address = ipaddress.ip_address(host)
        if any(address in network for network in self._denied_networks):
            return f"{host} is on the deny-list"
        return None

    def refuses_peer(self, *names: str) -> str | None:
        """Return why a peer, by any of its names, is not wanted, if so."""
        denied = next((name for name in names if name in self._denied_names), None)
        return None if denied is None else f"{denied} is on the deny-list"

    def arrive(self, host: str) -> str | None:
        """Let an inbound connection in; or return why not."""
        reason = self.refuses_place(host)
        if reason is None and self.total >= self.limits.connections:
            reason = f"there are {self.total} connections, and no more may be"
        places = {place_of(host): self.limits.per_place, network_of(host): self.limits.per_network}
        for place, most in places.items():
            if reason is None and self._places[place] >= most and not self._exempt(host):
                reason = f"{place} has {self._places[place]} connections already"
        if reason is None:
            self.total += 1
            self._places.update(places.keys())
        return reason

    def made(self) -> None:
        """Note a connection that this node made, or that came through a relay."""
        self.total += 1

    def left(self, host: str | None) -> None:
        """Note that a connection is gone: one that arrived from `host`, or another."""
        self.total -= 1
        if host is None:
            return
        for place in (place_of(host), network_of(host)):
            self._places[place] -= 1
            if self._places[place] <= 0:
                del self._places[place]

    def _exempt(self, host: str) -> bool:
        return self._trust_loopback and ipaddress.ip_address(host).is_loopback


def place_of(host: str) -> str:
    """Return what counts as one place: an IPv4 address, or an IPv6 /64, which one household has."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


def network_of(host: str) -> str:
    """Return the network around a place: an IPv4 /24 or an IPv6 /48."""
    address = ipaddress.ip_address(host)
    return str(ipaddress.ip_network((host, 24 if address.version == 4 else 48), strict=False))


HANDSHAKE_PATIENCE = 2.0
"""Seconds that a handshake has when others of no less crowded places wait; an honest one takes a few round trips."""


class Handshakes(Generic[K]):
    """Inbound handshakes under way. When there are too many, the place with the most of them pays.

    A stranger can begin handshakes for nothing and let them hang. If newcomers were turned away meanwhile, two
    addresses could keep everybody else out; so a newcomer from a place with fewer has one of theirs given up.

    Args:
        most: how many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way: dict[K, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<Handshakes {len(self)} of {self._most}>"

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, key: K, host: str, now: float) -> K | None:
        """Enter a handshake; return the one to be given up for it, if any: another's, or itself.

        Args:
            host: the IP address that it comes from.
        """
        place = place_of(host)
        given_up: K | None = None
        if len(self._under_way) >= self._most:
            given_up = self._crowded_out(place, now)
            if given_up is None:
                return key
            self.end(given_up)
        self._under_way[key] = place, now
        return given_up

    def end(self, key: K) -> None:
        """Note that a handshake is over, either way."""
        self._under_way.pop(key, None)

    def _crowded_out(self, place: str, now: float) -> K | None:
        """Return the oldest of the most crowded place; none if that is no less crowded by its loss, and all young."""
        crowds = Counter(where for where, _ in self._under_way.values())
        most = max(crowds.values())
        key, since = next((k, t) for k, (where, t) in self._under_way.items() if crowds[where] == most)
        if crowds[place] + 1 < most or now - since >= HANDSHAKE_PATIENCE:
            return key
        return None


class Held(msgspec.Struct, Generic[K], frozen=True):
    """A session, and what it is worth."""

    key: K
    """What names it."""
    guest: bool
    """Whether the peer is a foreign program."""
    inbound: bool
    """Whether the peer dialled."""
    relayed: bool
    """Whether it goes through a relay."""
    streams: int
    """How many are open: with any, the session is in use."""
    since: float
    """When it began; of two that are alike, the younger goes, for it has proven less."""


def prune(sessions: Iterable[Held[K]], excess: int) -> list[K]:
    """Return which sessions to end so that `excess` fewer remain, the least worth first; never one in use.

    Guests go first, then those whom peers dialled (this node chose the others), of those the relayed ones, then
    the youngest.
    """
    idle = [session for session in sessions if not session.streams]
    idle.sort(key=lambda s: (not s.guest, not s.inbound, not s.relayed, -s.since))
    return [session.key for session in idle[: max(excess, 0)]]
