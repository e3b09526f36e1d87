"""From what a netcheck found out to lines for a person: what is well, what is not, and what to do. Pure.

FAIL is what keeps the node from its work; WARN is what makes it work worse, or may be wanted so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from p2p.multiaddr import InvalidMultiaddr, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from node.netcheck.facts import Bootstrap, Dropped, Facts, Listening
    from p2p.reach.verdict import FamilyVerdict, Verdict

Level = Literal["ok", "warn", "fail"]

ENOUGH_RELAYS = 3
"""Relays that a node behind a NAT should have, since each of them may go."""
FEW_PEERS = 3
SKEW_SEEN, SKEW_HARMFUL = 5.0, 60.0
"""Seconds: clocks of machines that keep time differ by less; offers are renewed within minutes."""

_FAMILY_NAMES = {"ip4": "IPv4", "ip6": "IPv6"}


class Check(msgspec.Struct, frozen=True):
    """One line of the outcome."""

    name: str
    """What was looked at: a word."""
    level: Level
    says: str
    """What was found."""
    details: tuple[str, ...] = ()
    """The evidence, in lines."""
    do: tuple[str, ...] = ()
    """What to do about it, in lines."""


def judge(facts: Facts) -> list[Check]:
    """Return the lines for what was found out, in the order in which a person should read them."""
    checks = [_node(facts)]
    checks += _listening(facts)
    checks += _bootstrap(facts)
    if facts.running and facts.joined:
        checks.append(_peers(facts))
        if facts.verdict is not None:
            checks += _reach(facts, facts.verdict)
        if facts.skew is not None:
            checks.append(_clock(facts.skew))
        if facts.directory is not None:
            checks.append(_directory(facts))
        checks += [_dropped(facts, dropped) for dropped in facts.dropped]
    return checks


def summary(facts: Facts) -> tuple[Level, str]:
    """Return the outcome in a line, from what is known without looking: joined, peers, reach."""
    checks = [_node(facts)]
    if facts.running and facts.joined:
        checks = [_peers(facts)]
        if facts.verdict is not None:
            checks.append(next(_reach(facts, facts.verdict)))
    return worst(checks), "; ".join(check.says for check in checks)


def worst(checks: Sequence[Check]) -> Level:
    """Return the worst level among some checks."""
    levels = {check.level for check in checks}
    return "fail" if "fail" in levels else "warn" if "warn" in levels else "ok"


def _node(facts: Facts) -> Check:
    if not facts.running:
        return Check(
            "node",
            "warn",
            "no node is running; what can be looked at without one follows",
            do=("Start it: golem-p2p node run",),
        )
    if not facts.joined:
        return Check(
            "node",
            "warn",
            f"running, but has not joined {facts.network} yet",
            do=("Look again in some seconds; if that stays, the node's log says why.",),
        )
    return Check("node", "ok", f"running, has joined {facts.network}")


# --- listening ----------------------------------------------------------------------------------------------


def _listening(facts: Facts) -> Iterator[Check]:
    for place in facts.listening:
        yield _listening_at(facts, place)
    if facts.running and facts.joined and not facts.listening:
        yield Check(
            "listen",
            "warn",
            "this node listens nowhere: it can dial others, but nobody can dial it",
            do=("Set overlay.listen, for example to /ip4/0.0.0.0/tcp/4001.",),
        )
    if facts.network == "devnet" or not facts.listen:
        return
    if all(_is_loopback(address) for address in facts.listen):
        yield Check(
            "listen",
            "fail",
            "overlay.listen names this machine alone (loopback): nobody outside can dial it",
            do=("Set overlay.listen to /ip4/0.0.0.0/tcp/4001, and /ip6/::/tcp/4001 where there is IPv6.",),
        )
    elif any(_port(address) == 0 for address in facts.listen):
        yield Check(
            "listen",
            "warn",
            "overlay.listen takes another port at each start, so a router cannot forward it",
            do=("Name a port, for example /ip4/0.0.0.0/tcp/4001.",),
        )


def _listening_at(facts: Facts, place: Listening) -> Check:
    if not place.problem:
        says = f"{place.address} accepts connections" if facts.running else f"{place.address} is free"
        return Check("listen", "ok", says)
    if facts.running:
        return Check(
            "listen",
            "fail",
            f"{place.address} accepts nothing, not even from this machine: {place.problem}",
            do=("Look for a local firewall, or an interface that went away; then start the node again.",),
        )
    return Check(
        "listen",
        "fail",
        f"{place.address} cannot be listened on: {place.problem}",
        do=("Stop the program that has the port, or choose another in overlay.listen.",),
    )


# --- bootstrap and peers ------------------------------------------------------------------------------------


def _bootstrap(facts: Facts) -> Iterator[Check]:
    if not facts.bootstrap:
        alone = not (facts.peers_in + facts.peers_out or facts.known)
        level: Level = "ok" if facts.network == "devnet" or not alone else "fail"
        do = (
            ("Set overlay.bootstrap to the address of a node that is up, ending in /p2p/...",)
            if level == "fail"
            else ()
        )
        yield Check("bootstrap", level, "no first peers are configured", do=do)
    reached = [b for b in facts.bootstrap if not b.problem]
    for place in facts.bootstrap:
        if place.problem:
            # One that is down is no harm while another is up: that is why there are several.
            yield Check(
                "bootstrap",
                "warn" if reached or facts.peers_in + facts.peers_out else "fail",
                f"{place.address} cannot be reached: {place.problem}",
                do=_what_to_do(place),
            )
        else:
            yield Check("bootstrap", "ok", f"{place.address} {_how_reached(place)}")


def _how_reached(place: Bootstrap) -> str:
    if not place.peer:
        return "is this node itself"
    return f"is connected ({place.peer})" if place.connected else f"answers ({place.peer})"


_REMEDIES = (
    (
        ("on network", "other network"),
        "Set overlay.network to that of the others, or use a bootstrap of this one.",
    ),
    (("this node needs an update", "needs version"), "Update this node."),
    (("the peer needs an update",), "Its owner has to update it; use another bootstrap meanwhile."),
    (("refused",), "Nothing listens there: ask its owner whether it runs, and for the port."),
    (
        ("unreachable", "no route"),
        "This machine has no way there: look at its network, and at IPv6 if it is /ip6.",
    ),
    (
        ("name", "resolve", "getaddrinfo"),
        "The name is not found: look at its spelling, and at this machine's DNS.",
    ),
    (
        ("within", "timed out", "nobody answered"),
        "Nothing answers: the machine is off, or a firewall drops packets.",
    ),
    (
        ("peer id", "wrong key", "mismatch", "not who"),
        "Another node is there now: ask its owner for the new address.",
    ),
    (("hello",), "It is no golem-p2p node, or one of another network: look at the address."),
)


def _what_to_do(place: Bootstrap) -> tuple[str, ...]:
    lowered = place.problem.lower()
    for words, remedy in _REMEDIES:
        if any(word in lowered for word in words):
            return (remedy,)
    return ("Try another bootstrap address, or ask its owner.",)


def _peers(facts: Facts) -> Check:
    total = facts.peers_in + facts.peers_out
    says = f"{_count(total, 'peer')}: {facts.peers_out} dialled, {facts.peers_in} came in"
    if facts.peers_relayed:
        says += f", {facts.peers_relayed} of them through relays"
    if facts.guests:
        says += f"; {_count(facts.guests, 'guest')} beside"
    if facts.known is not None:
        says += f"; {_count(facts.known, 'node')} in the address book"
    if total == 0:
        level: Level = "warn" if facts.network == "devnet" else "fail"
        return Check(
            "peers", level, says, do=("See bootstrap above. On devnet, `golem-p2p devnet up` starts others.",)
        )
    if total < FEW_PEERS and facts.network != "devnet":
        return Check(
            "peers", "warn", says, do=("Few: more come by themselves within minutes if there are any.",)
        )
    return Check("peers", "ok", says)


# --- reach --------------------------------------------------------------------------------------------------


def _reach(facts: Facts, verdict: Verdict) -> Iterator[Check]:
    local = facts.network == "devnet"
    match verdict.state:
        case "public" | "punchable":
            level: Level = "ok"
        case "unreachable":
            level = "fail"
        case "unknown" if local:
            level = "ok"
        case _:
            level = "warn"
    if local and verdict.state == "unknown":
        yield Check("reach", level, "a devnet on one machine needs none", details=verdict.evidence)
        return
    yield Check("reach", level, verdict.headline, details=verdict.evidence, do=verdict.advice)
    for family in verdict.families:
        yield _family(family)
    relays = len(verdict.relays)
    if verdict.state in ("punchable", "relayed", "unreachable"):
        yield Check(
            "relays",
            "ok" if relays >= ENOUGH_RELAYS else "warn" if relays else "fail",
            f"{_count(relays, 'relay')} keep{'s' if relays == 1 else ''} a place for this node",
            do=()
            if relays >= ENOUGH_RELAYS
            else (f"{ENOUGH_RELAYS} are wanted; more public peers would help.",),
        )
    elif verdict.serves_as_relay:
        yield Check("relays", "ok", "none are needed; this node relays for others")


def _family(family: FamilyVerdict) -> Check:
    name = _FAMILY_NAMES[family.family]
    seen = f", others see {', '.join(family.external)}" if family.external else ""
    match family.state:
        case "absent":
            return Check(name, "ok", "not in use here")
        case "public":
            return Check(name, "ok", f"open{seen}")
        case "unknown":
            return Check(name, "ok", f"nothing is known yet{seen}")
    kind = {
        "endpoint-independent": "a NAT that keeps the port (endpoint-independent mapping)",
        "endpoint-dependent": "a NAT with another port for each peer (endpoint-dependent mapping)",
        "none": "a firewall: no NAT, but nobody gets in",
        "unknown": "nobody gets in",
    }[family.mapping]
    return Check(name, "warn", f"{kind}{seen}")


# --- the rest -----------------------------------------------------------------------------------------------


def _directory(facts: Facts) -> Check:
    directory = facts.directory
    assert directory is not None
    says = f"{_count(directory.nodes, 'node')} in the directory's table"
    if directory.published:
        says += "; this node's addresses are published"
    if not directory.nodes and facts.network != "devnet":
        return Check(
            "directory",
            "warn",
            f"{says}: nodes that are not connected cannot be looked up",
            do=("It fills when there are peers: see above.",),
        )
    return Check("directory", "ok", says)


def _clock(skew: float) -> Check:
    if abs(skew) < SKEW_SEEN:
        return Check("clock", "ok", "agrees with those of the peers")
    way = "behind" if skew > 0 else "ahead of"
    return Check(
        "clock",
        "fail" if abs(skew) >= SKEW_HARMFUL else "warn",
        f"this machine's clock is {abs(skew):.0f} s {way} those of its peers; offers look expired by that",
        do=("Have the system keep it right (NTP): timedatectl set-ntp true.",),
    )


def _dropped(facts: Facts, dropped: Dropped) -> Check:
    words, do = {
        "network": (
            "of another network",
            ("Harmless, unless this node should be on theirs: see overlay.network.",),
        ),
        "version": (
            "of a version that does not fit",
            ("Look at the reason: one of the two needs an update.",),
        ),
        "stranger": ("that are no golem-p2p nodes", ("Harmless.",)),
        "silent": ("that did not say hello", ("Harmless, unless they are peers of yours.",)),
        "limit": (
            "because this node is full",
            ("Harmless on a busy node; if not, somebody may be flooding it.",),
        ),
        "broken": ("that broke off or spoke nonsense", ("Harmless, unless they are peers of yours.",)),
    }[dropped.why]
    # Peers of other networks come by everywhere; they mean something where there are no others.
    alone = not facts.peers_in + facts.peers_out
    level: Level = "warn" if dropped.why == "version" or (dropped.why == "network" and alone) else "ok"
    return Check(
        "dropped",
        level,
        f"{_count(dropped.count, 'session')} ended with peers {words}"
        if dropped.why != "limit"
        else f"{_count(dropped.count, 'session')} refused {words}",
        details=(f"the latest: {dropped.latest}",) if dropped.latest else (),
        do=do if level != "ok" else (),
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _is_loopback(address: str) -> bool:
    return address.startswith(("/ip4/127.", "/ip6/::1/"))


def _port(address: str) -> int | None:
    try:
        port = parse(address).value_of("tcp")
    except InvalidMultiaddr:
        return None
    return None if port is None else int(port)
