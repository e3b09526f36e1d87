"""What a node knows of how it can be reached, with the evidence: what `golem-p2p netcheck` prints.

Made by `p2p.reach.judge` from what peers saw, dial-backs, port mappings and relays. `Reach` is what the rest of the
node sees of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

Family = Literal["ip4", "ip6"]
State = Literal["public", "punchable", "relayed", "unreachable", "unknown"]
"""
public: whoever dials an address of this node reaches it.
punchable: behind a NAT with endpoint-independent mapping; reached by hole punching, which a relay arranges.
relayed: nothing can be punched, or it is not known whether it can; reached through relays.
unreachable: like `punchable` or `relayed`, but no relay is held: only sessions that this node dials itself.
unknown: too few peers have said anything.
"""
Mapping = Literal["none", "endpoint-independent", "endpoint-dependent", "unknown"]
"""How a NAT maps the listening port (RFC 4787, section 4.1); `none` where there is no NAT."""

HEADLINES: dict[State, str] = {
    "public": "public: others can dial this node",
    "punchable": "behind a NAT that hole punching gets through",
    "relayed": "reached through relays only",
    "unreachable": "not reachable: only peers that this node dials itself",
    "unknown": "not known yet",
}


class FamilyVerdict(msgspec.Struct, frozen=True):
    """What is known of one address family."""

    family: Family
    state: Literal["public", "private", "absent", "unknown"]
    """public: dialled back. private: dial-backs failed, or there is a NAT. absent: this node has none of it."""
    mapping: Mapping
    external: tuple[str, ...] = ()
    """Where others see this node's listening port, or may dial it: multiaddrs without a peer, surest first."""
    evidence: tuple[str, ...] = ()
    """Why, in lines for people."""


class Relay(msgspec.Struct, frozen=True):
    """A relay that keeps a place for this node."""

    peer: str
    """Its NodeId."""
    addresses: tuple[str, ...]
    """Through it this node is dialled at these: `/ip4/.../tcp/.../p2p/<relay>/p2p-circuit/p2p/<this node>`."""
    expires_ns: int
    """UTC nanoseconds when the reservation ends unless refreshed."""


class PortMapping(msgspec.Struct, frozen=True):
    """A port that the router forwards to this node, on its request."""

    method: Literal["nat-pmp", "pcp", "upnp"]
    internal: str
    """`/ip4/192.168.1.5/tcp/4001`."""
    external: str
    """`/ip4/203.0.113.7/tcp/4001`."""
    expires_ns: int
    """UTC nanoseconds."""


class Verdict(msgspec.Struct, frozen=True):
    """How this node can be reached, and how that is known."""

    state: State
    families: tuple[FamilyVerdict, ...]
    """ip4, then ip6."""
    relays: tuple[Relay, ...] = ()
    port_mappings: tuple[PortMapping, ...] = ()
    serves_as_relay: bool = False
    """Whether this node relays for others."""
    advice: tuple[str, ...] = ()
    """What to do about it, in lines for people; empty when nothing needs to be done."""

    @property
    def headline(self) -> str:
        """Return the verdict in a few words."""
        return HEADLINES[self.state]

    @property
    def evidence(self) -> tuple[str, ...]:
        """Return all evidence in lines for people."""
        lines = [line for family in self.families for line in family.evidence]
        lines += [
            f"the router forwards {m.external} to {m.internal} ({m.method})" for m in self.port_mappings
        ]
        lines += [f"{relay.peer} keeps a relay place for this node" for relay in self.relays]
        return tuple(lines)

    def family(self, family: Family) -> FamilyVerdict:
        """Return what is known of one family."""
        return next(found for found in self.families if found.family == family)


UNKNOWN = Verdict(
    "unknown",
    (
        FamilyVerdict("ip4", "unknown", "unknown"),
        FamilyVerdict("ip6", "unknown", "unknown"),
    ),
    advice=("Wait until a few peers are connected, then look again.",),
)
"""What is known before anything is."""


class Reach(Protocol):
    """This package, as the rest of the node sees it."""

    @property
    def verdict(self) -> Verdict:
        """Return what is known now; `UNKNOWN` while nothing is."""
        ...

    def subscribe(self, listener: Callable[[Verdict], None]) -> Callable[[], None]:
        """Call `listener`, which must not block, when the verdict changes; returns how to stop."""
        ...

    async def check(self) -> Verdict:
        """Ask peers again now, as far as their limits allow; return the new verdict."""
        ...
