"""Finds out what a netcheck judges: dials and looks, on the overlay of a running node or a short-lived one."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from node.netcheck.facts import Bootstrap, Directory, Dropped, Facts, Listening
from p2p.discovery import ThisNode
from p2p.events import PeerDropped
from p2p.multiaddr import InvalidMultiaddr, parse
from p2p.overlay import PeerUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.app import Node
    from p2p.events import EventLog
    from p2p.overlay import Overlay
    from p2p.reach.verdict import Verdict

KNOCK_TIMEOUT = 3.0
"""Seconds to get in at an address of this machine."""
DIAL_TIMEOUT = 15.0
"""Seconds that a bootstrap peer has for everything, hello included."""
PARALLEL = 8
"""Bootstrap peers dialled at once."""
MAX_PROBED = 64
"""Addresses of each sort that are looked at."""


async def examine(overlay: Overlay, *, bootstrap: Sequence[str], joined: bool, **known: Any) -> Facts:
    """Return what can be found out about a running node.

    Args:
        bootstrap: as configured.
        joined: whether the overlay is up; if it is not, nothing is dialled.
        known: what `glance` is given besides.
    """
    listening: list[Listening] = []
    first_peers: list[Bootstrap] = []
    if joined:
        listening = await knock(overlay.listen_addresses())
        first_peers = await dial(overlay, bootstrap)
    facts = glance(overlay, joined=joined, **known)
    return msgspec.structs.replace(facts, listening=tuple(listening), bootstrap=tuple(first_peers))


def glance(
    overlay: Overlay,
    *,
    listen: Sequence[str],
    joined: bool,
    events: EventLog,
    verdict: Verdict | None = None,
    directory: Directory | None = None,
    known: int | None = None,
    skew: float | None = None,
) -> Facts:
    """Return what is known of a running node without looking.

    Args:
        listen: as configured.
        joined: whether the overlay is up.
        events: where dropped peers were noted.
        verdict, directory, known, skew: what is known of each; None where it is not looked into.
    """
    peers = overlay.peers()
    return Facts(
        network=overlay.network,
        listen=tuple(listen),
        running=True,
        joined=joined,
        peers_in=sum(peer.direction == "in" for peer in peers),
        peers_out=sum(peer.direction == "out" for peer in peers),
        peers_relayed=sum(peer.path == "relayed" for peer in peers),
        guests=len(overlay.guests()),
        known=known,
        skew=skew,
        verdict=verdict,
        directory=directory,
        dropped=tuple(dropped(events)),
    )


def known_of(node: Node) -> dict[str, Any]:
    """Return what a netcheck is given of a node."""
    return {
        "listen": node.config["overlay.listen"],
        "joined": node.overlay.joined,
        "events": node.events,
        "verdict": node.reach.verdict if node.reach else None,
        "directory": Directory(node.directory.nodes, node.directory.published) if node.directory else None,
        "known": node.discovery.policy.size if node.discovery else None,
        "skew": node.discovery.skew.seconds if node.discovery else None,
    }


async def dial(overlay: Overlay, addresses: Sequence[str]) -> list[Bootstrap]:
    """Dial addresses, some at once; those of peers with a session are answered by that."""
    found: dict[str, Bootstrap] = {}
    limit = trio.CapacityLimiter(PARALLEL)
    before = {peer.node_id for peer in overlay.peers()}

    async def one(address: str) -> None:
        async with limit:
            found[address] = await _dial(overlay, address, before)

    wanted = list(dict.fromkeys(addresses))[:MAX_PROBED]
    async with trio.open_nursery() as nursery:
        for address in wanted:
            nursery.start_soon(one, address)
    return [found[address] for address in wanted]


async def _dial(overlay: Overlay, address: str, before: set[str]) -> Bootstrap:
    try:
        with trio.fail_after(DIAL_TIMEOUT):
            peer = await overlay.connect(address)
    except ThisNode:
        return Bootstrap(address)
    except PeerUnreachable as error:
        return Bootstrap(address, problem=_without_place(str(error), address))
    except trio.TooSlowError:
        return Bootstrap(address, problem=f"no session came about within {DIAL_TIMEOUT:g} s")
    return Bootstrap(address, peer, connected=peer in before)


async def knock(addresses: Sequence[str]) -> list[Listening]:
    """Connect to addresses of this machine, as far as they are plain TCP, and hang up."""
    found: dict[str, Listening] = {}

    async def one(address: str, host: str, port: int) -> None:
        problem = ""
        try:
            family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
            with (
                trio.fail_after(KNOCK_TIMEOUT),
                trio.socket.socket(family, trio.socket.SOCK_STREAM) as knocking,
            ):
                await knocking.connect((host, port))
        except trio.TooSlowError:
            problem = f"no answer within {KNOCK_TIMEOUT:g} s"
        except OSError as error:
            problem = os.strerror(error.errno) if error.errno else str(error)
        found[address] = Listening(address, problem)

    places = [
        (address, place) for address in dict.fromkeys(addresses) if (place := _place(address)) is not None
    ]
    async with trio.open_nursery() as nursery:
        for address, (host, port) in places[:MAX_PROBED]:
            nursery.start_soon(one, address, host, port)
    return [found[address] for address, _ in places[:MAX_PROBED]]


def dropped(events: EventLog) -> list[Dropped]:
    """Return what kinds of peers were not admitted since the node started."""
    latest = {
        entry.event.why: entry.event.reason
        for entry in events.after(0)
        if isinstance(entry.event, PeerDropped)
    }
    counts = {code: count for (kind, code), count in events.counts.items() if kind == "peer-dropped"}
    return [Dropped(why, counts[why], reason) for why, reason in sorted(latest.items())]


def _without_place(problem: str, address: str) -> str:
    """Return a reason without the words that say where, which the line begins with."""
    return re.sub(r"^no session with \S+: ", "", problem).replace(f"{address}: ", "")


def _place(address: str) -> tuple[str, int] | None:
    """Return (host, port) of an address that is plain TCP on IP."""
    try:
        names = parse(address).names
        parts = parse(address).parts
    except InvalidMultiaddr:
        return None
    if names[:2] not in (("ip4", "tcp"), ("ip6", "tcp")) or "p2p-circuit" in names:
        return None
    return parts[0].value, int(parts[1].value)
