"""`judge`: from what was found out to a `Verdict`. Pure.

What peers say is hearsay: a mapping needs two tellers in different networks that agree, so that one liar can make
this node doubt itself but not announce what is not its own; and only dial-backs, whose nonce proves that somebody
came in by the address, make it public.

The rule that tells mappings apart: connections that leave from the *listening port* towards several peers are seen
from the same outer address and port (endpoint-independent) or from different ones (endpoint-dependent); RFC 4787,
section 4.1. AutoNAT v2's specification suggests more than three servers for either answer; networks here may be
small, so the majority of those that answered counts, and the evidence says how many they were.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from p2p.multiaddr import InvalidMultiaddr, parse
from p2p.reach.verdict import FamilyVerdict, PortMapping, Relay, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2p.reach.verdict import Family, Mapping, State

FAMILIES: tuple[Family, ...] = ("ip4", "ip6")


class Sighting(msgspec.Struct, frozen=True):
    """Where a peer says it sees a connection of this node that left from the listening port."""

    teller: str
    """The peer."""
    teller_address: str
    """Where the peer is: a multiaddr; tellers in one network count once."""
    seen: str
    """What it sees: a multiaddr."""


class DialBack(msgspec.Struct, frozen=True):
    """The last answer of a server that was asked to dial an address of this node."""

    server: str
    """The peer that dialled."""
    address: str
    """What it dialled: a multiaddr without a peer."""
    reached: bool
    """Whether its nonce came in."""


class Facts(msgspec.Struct, frozen=True):
    """All that was found out."""

    listening: Sequence[str]
    """Where this node listens: multiaddrs of its interfaces, with or without its peer."""
    sightings: Sequence[Sighting] = ()
    dial_backs: Sequence[DialBack] = ()
    relays: Sequence[Relay] = ()
    port_mappings: Sequence[PortMapping] = ()
    hole_punching: bool = True
    """Whether this node takes part in it."""


def judge(facts: Facts) -> Verdict:
    """Return what the facts amount to."""
    families = tuple(_family(family, facts) for family in FAMILIES)
    state = _state(families, facts)
    return Verdict(
        state,
        families,
        relays=tuple(facts.relays),
        port_mappings=tuple(facts.port_mappings),
        advice=tuple(_advice(state, families, facts)),
    )


def place_of(address: str) -> tuple[Family, str, int] | None:
    """Return (family, host, port) of a multiaddr that begins with an IP address and TCP; None for others."""
    try:
        parts = parse(address).parts
    except InvalidMultiaddr:
        return None
    if len(parts) < 2 or parts[0].name not in FAMILIES or parts[1].name != "tcp":
        return None
    return ("ip4" if parts[0].name == "ip4" else "ip6"), parts[0].value, int(parts[1].value)


def bare(address: str) -> str:
    """Return the part of an address that says where, without a peer or relay; empty if there is none."""
    place = place_of(address)
    return f"/{place[0]}/{place[1]}/tcp/{place[2]}" if place else ""


def network_of(address: str) -> str:
    """Return the network that an address is in: its /24 or /48; the text itself where there is no IP address."""
    place = place_of(address)
    if place is None:
        return address
    length = 24 if place[0] == "ip4" else 48
    return str(ipaddress.ip_network(f"{place[1]}/{length}", strict=False))


def candidates(facts: Facts) -> list[str]:
    """Return the addresses that may lead here, likeliest first: what to announce, to have dialled and to punch.

    What only one teller claims comes last: it is worth a dial-back, which proves it.
    """
    found = [m.external for m in facts.port_mappings]
    for family in FAMILIES:
        seen = _seen(family, facts.sightings)
        found += [address for address, _ in seen.most_common()]
    found += [bare(a) for a in facts.listening]
    return [a for a in dict.fromkeys(found) if a]


def _seen(family: Family, sightings: Iterable[Sighting]) -> Counter[str]:
    """Return the addresses seen, each with how many networks told of it."""
    told: dict[str, set[str]] = {}
    for sighting in sightings:
        place = place_of(sighting.seen)
        if place is not None and place[0] == family:
            told.setdefault(bare(sighting.seen), set()).add(network_of(sighting.teller_address))
    return Counter({address: len(tellers) for address, tellers in told.items()})


def _family(family: Family, facts: Facts) -> FamilyVerdict:
    own = [bare(a) for a in facts.listening if (place := place_of(a)) is not None and place[0] == family]
    seen = _seen(family, facts.sightings)
    if not own and not seen:
        return FamilyVerdict(family, "absent", "none")
    evidence = [f"{_peers(count)} saw this node at {address}" for address, count in seen.most_common(8)]
    mapping = _mapping(own, seen)
    reached, missed = _tally(family, facts.dial_backs)
    evidence += [
        f"{reached[a]} of {_peers(reached[a] + missed[a])} that dialled {a} got in"
        for a in dict.fromkeys((*reached, *missed))
    ]
    open_ = [address for address, count in reached.most_common() if count > missed[address]]
    if open_:
        if any(address in own for address in open_):
            mapping = "none"
        return FamilyVerdict(family, "public", mapping, tuple(open_), tuple(evidence))
    likely = _agreed(seen)
    external = (likely,) if likely is not None and mapping != "endpoint-dependent" else ()
    if missed or mapping in ("endpoint-independent", "endpoint-dependent"):
        return FamilyVerdict(family, "private", mapping, external, tuple(evidence))
    return FamilyVerdict(family, "unknown", mapping, external, tuple(evidence))


def _mapping(own: Sequence[str], seen: Counter[str]) -> Mapping:
    likely = _agreed(seen)
    if likely is not None:
        return "none" if likely in own else "endpoint-independent"
    if len(seen) >= 2:
        return "endpoint-dependent"
    if len(seen) == 1 and next(iter(seen)) in own:
        return "none"
    return "unknown"


def _agreed(seen: Counter[str]) -> str | None:
    """Return the address on which at least two networks, and half of all, agree."""
    if not seen:
        return None
    address, count = seen.most_common(1)[0]
    return address if count >= 2 and count * 2 >= sum(seen.values()) else None


def _tally(family: Family, dial_backs: Iterable[DialBack]) -> tuple[Counter[str], Counter[str]]:
    reached, missed = Counter[str](), Counter[str]()
    for answer in dial_backs:
        place = place_of(answer.address)
        if place is not None and place[0] == family:
            (reached if answer.reached else missed)[bare(answer.address)] += 1
    return reached, missed


def _state(families: Sequence[FamilyVerdict], facts: Facts) -> State:
    present = [f for f in families if f.state != "absent"]
    if any(f.state == "public" for f in present):
        return "public"
    if all(f.state == "unknown" for f in present):
        return "relayed" if facts.relays else "unknown"
    if not facts.relays:
        return "unreachable"
    punchable = any(f.mapping in ("endpoint-independent", "none") and f.external for f in present)
    return "punchable" if punchable and facts.hole_punching else "relayed"


def _advice(state: State, families: Sequence[FamilyVerdict], facts: Facts) -> list[str]:
    if state == "public":
        return []
    if state == "unknown":
        return ["Wait until a few peers are connected, then look again."]
    ports = sorted({place[2] for a in facts.listening if (place := place_of(a)) is not None})
    port = f"TCP port {ports[0]}" if len(ports) == 1 else "the TCP port that overlay.listen names"
    lines = [f"To be dialled directly, forward {port} on the router to this machine."]
    if not facts.port_mappings:
        lines.append(
            "If the router speaks UPnP or NAT-PMP, overlay.port-mapping = true has the node ask for that."
        )
    if state == "unreachable":
        lines.append(
            "No peer relays for this node: it needs peers that are public, for example by overlay.bootstrap."
        )
    if state == "relayed" and any(f.mapping == "endpoint-dependent" for f in families):
        lines.append(
            "The NAT gives each connection another port, so holes cannot be punched; work goes on, slower."
        )
    return lines


def _peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count} peers"
