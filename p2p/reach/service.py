"""`ReachService`: runs all of this package for one node, and says what it has found out. Implements `Reach`.

It identifies each direct link once it is there: where the peer sees this node goes into the verdict, what it serves
makes it a candidate for dial-backs and for relaying. The verdict then decides: who is not public keeps places at
relays and announces them; who is public may relay for others.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec
import structlog
import trio

from p2p.overlay import OverlayError
from p2p.reach.autonat_wire import DIAL_REQUEST
from p2p.reach.dial_back import DialBackClient, DialBackServer
from p2p.reach.identify import identify
from p2p.reach.identify_wire import Identified
from p2p.reach.judge import DialBack, Facts, Sighting, bare, candidates, judge, network_of
from p2p.reach.puncher import Puncher
from p2p.reach.relay_choice import WANTED
from p2p.reach.relay_client import RelayClient
from p2p.reach.relay_limits import RelayLimits
from p2p.reach.relay_server import RelayServer
from p2p.reach.relay_wire import HOP
from p2p.reach.verdict import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.reach.circuit import CircuitStream
    from p2p.reach.host import Link, ReachHost
    from p2p.reach.port_mapper import PortMapper
    from p2p.reach.puncher import Outcome
    from p2p.reach.verdict import PortMapping, Verdict

IDENTIFY_TIMEOUT = 15.0
IDENTIFY_AGAIN, IDENTIFY_AGAIN_SOON = 600.0, 30.0
"""Seconds until a peer is asked again what it serves; the second, doubled each time, while relays or servers are
lacking."""
MAX_IDENTIFYING = 8
RECHECK = 900.0
"""Seconds until the same server is asked again about the same address."""
FORGET = 3600.0
"""Seconds that what a peer said counts, unless it says it again."""
SERVERS_PER_ADDRESS = 4
"""In different networks where there are such; AutoNAT v2 suggests more than three."""
MAX_CHECKED = 6
"""Addresses that are checked."""
SETTLE = 0.5
"""Seconds to let news gather before acting on them."""
MAX_REMEMBERED = 64
"""Tellers, and servers."""
MAX_ANNOUNCED = 6

K = TypeVar("K")
V = TypeVar("V")

_log = structlog.get_logger("p2p.reach")


class ReachSettings(msgspec.Struct, frozen=True):
    """What a node takes part in."""

    relay_client: bool = True
    """Whether it keeps places at relays while it is not public."""
    relay_server: Literal["auto", "on", "off"] = "auto"
    """Whether it relays for others; `auto`: while it is public."""
    hole_punching: bool = True
    port_mapping: bool = False
    """Whether it asks the router to forward its port."""
    limits: RelayLimits = RelayLimits()
    """Of relaying for others."""


class _Known(msgspec.Struct):
    identified: Identified | None = None
    """None while it was not, or did not work."""
    again: float = -math.inf
    pause: float = 0.0
    """Seconds from the last asking to the next."""
    asking: bool = False


class ReachService:
    """One node's reach.

    Args:
        host: who makes its connections.
    """

    def __init__(
        self,
        host: ReachHost,
        *,
        clock: Clock,
        entropy: Entropy,
        settings: ReachSettings = ReachSettings(),  # noqa: B008 - frozen
    ) -> None:
        self.settings = settings
        self._host = host
        self._clock = clock
        self._verdict: Verdict = UNKNOWN
        self._listeners: list[Callable[[Verdict], None]] = []
        self._known: dict[Link, _Known] = {}
        self._sightings: dict[str, tuple[float, Sighting]] = {}
        self._dial_backs: dict[tuple[str, str], tuple[float, DialBack]] = {}
        self._asked: dict[tuple[str, str], float] = {}
        self._mappings: tuple[PortMapping, ...] = ()
        self._news = trio.Event()
        self._checked = trio.Event()
        self._checking = False
        self.relays = RelayClient(host, self._wake, clock=clock, entropy=entropy)
        self.relay_server = RelayServer(
            host, self._reached_at, self._wake, clock=clock, limits=settings.limits
        )
        self._dial_back = DialBackClient(host, entropy=entropy)
        self._dial_back_server = DialBackServer(host, clock=clock, entropy=entropy)
        self._port_mapper: PortMapper | None = None
        if settings.port_mapping:
            from p2p.reach.port_mapper import PortMapper  # with httpx, which is of no other use here

            self._port_mapper = PortMapper(host.listening, self.mapped, clock=clock, entropy=entropy)
        self._puncher = Puncher(host, self._seen_at, clock=clock)

    @property
    def verdict(self) -> Verdict:
        return self._verdict

    def subscribe(self, listener: Callable[[Verdict], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    async def check(self) -> Verdict:
        self._asked.clear()
        for known in self._known.values():
            known.again = -math.inf
        self._checked = trio.Event()
        self._wake()
        await self._checked.wait()
        return self._verdict

    async def open_circuit(self, address: str) -> CircuitStream:
        """Return a byte stream through a relay; see `RelayClient.open_circuit`."""
        return await self.relays.open_circuit(address)

    @property
    def punched(self) -> Mapping[str, Outcome]:
        """Return how relayed sessions that peers made have gone on, by peer."""
        return self._puncher.outcomes

    def mapped(self, mappings: Sequence[PortMapping]) -> None:
        """Say which ports the router forwards now."""
        self._mappings = tuple(mappings)
        self._wake()

    async def run(self) -> None:
        """Do all of it, until cancelled."""
        self.relays.start()
        self._dial_back.start()
        self._dial_back_server.start()
        if self.settings.hole_punching:
            self._puncher.start()
        stop = self._host.subscribe(self._wake)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.relays.run)
                if self.settings.hole_punching:
                    nursery.start_soon(self._puncher.run)
                if self._port_mapper is not None:
                    nursery.start_soon(self._port_mapper.run)
                while True:
                    self._news = trio.Event()
                    self._step(nursery)
                    with trio.move_on_after(max(self._next_event() - self._clock.monotonic(), SETTLE)):
                        await self._news.wait()
                        await trio.sleep(SETTLE)
        finally:
            stop()

    def _wake(self) -> None:
        self._news.set()

    def _step(self, nursery: trio.Nursery) -> None:
        """Look at what has changed, and act on it."""
        now = self._clock.monotonic()
        links = [link for link in self._host.links() if link.path == "direct" and not link.closed]
        self._known = {link: self._known.get(link) or _Known() for link in links}
        room = MAX_IDENTIFYING - sum(known.asking for known in self._known.values())
        due = [link for link, known in self._known.items() if known.again <= now and not known.asking]
        for link in due[: max(room, 0)]:
            self._known[link].asking = True
            nursery.start_soon(self._identify, link, self._known[link])
        self._forget(now)
        self._judge()
        self.relay_server.links_changed()
        clients = self.relay_server.ledger.peers()
        kept = {link.peer for link in links if link.peer_id in clients}
        self._host.keep(kept | {relay.peer for relay in self.relays.relays})
        self.relays.know(self._serving(HOP))
        checks = [pair for pair in self._pairs() if self._due(*pair) <= now]
        if checks and not self._checking:
            self._checking = True
            nursery.start_soon(self._check, checks)
        if not checks and not self._checking and not any(known.asking for known in self._known.values()):
            self._checked.set()

    def _next_event(self) -> float:
        times = [known.again for known in self._known.values() if not known.asking]
        times += [at + FORGET for at, _ in (*self._sightings.values(), *self._dial_backs.values())]
        if not self._checking:
            times += [self._due(link, address) for link, address in self._pairs()]
        return min(times, default=math.inf)

    # Finding out.

    async def _identify(self, link: Link, known: _Known) -> None:
        try:
            with trio.move_on_after(IDENTIFY_TIMEOUT):
                known.identified = await identify(link)
                seen = bare(known.identified.observed)
                if link.from_listening_port and seen:
                    sighting = Sighting(link.peer, link.address, seen)
                    self._sightings.pop(link.peer, None)
                    self._sightings[link.peer] = self._clock.monotonic(), sighting
        except OverlayError as error:
            _log.debug("a peer does not identify itself", peer=link.peer, error=str(error))
        finally:
            lacking = not self._serving(DIAL_REQUEST) or self._wants_relays() > len(self.relays.relays)
            longer = max(known.pause * 2, IDENTIFY_AGAIN_SOON)
            known.pause = min(longer, IDENTIFY_AGAIN) if lacking else IDENTIFY_AGAIN
            known.again = self._clock.monotonic() + known.pause
            known.asking = False
            self._wake()

    def _serving(self, protocol: str) -> list[Link]:
        return [
            link
            for link, known in self._known.items()
            if known.identified is not None and protocol in known.identified.protocols and not link.closed
        ]

    def _pairs(self) -> list[tuple[Link, str]]:
        """Return which peers to ask about which addresses, whenever they are due."""
        addresses = [a for a in candidates(self._facts()) if self._host.acceptable(a)][:MAX_CHECKED]
        # Those who dialled this node first: less is known to NATs of the way to them.
        servers = _spread(sorted(self._serving(DIAL_REQUEST), key=lambda link: link.direction == "out"))
        return [(server, address) for address in addresses for server in servers[:SERVERS_PER_ADDRESS]]

    def _due(self, link: Link, address: str) -> float:
        return self._asked.get((link.peer, address), -math.inf) + RECHECK

    async def _check(self, checks: Sequence[tuple[Link, str]]) -> None:
        try:
            for link, address in checks:
                key = (link.peer, address)
                self._asked[key] = self._clock.monotonic()
                try:
                    _, reached = await self._dial_back.ask(link, [address])
                except OverlayError as error:
                    _log.debug("a peer does not dial back", peer=link.peer, error=str(error))
                    continue
                self._dial_backs.pop(key, None)
                self._dial_backs[key] = self._clock.monotonic(), DialBack(link.peer, address, reached)
                self._judge()
        finally:
            self._checking = False
            self._wake()

    def _forget(self, now: float) -> None:
        self._sightings = _fresh(self._sightings, now)
        self._dial_backs = _fresh(self._dial_backs, now)
        self._asked = {key: asked for key, asked in self._asked.items() if asked + FORGET > now}

    # What comes of it.

    def _facts(self) -> Facts:
        return Facts(
            listening=self._host.listening(),
            sightings=[sighting for _, sighting in self._sightings.values()],
            dial_backs=[answer for _, answer in self._dial_backs.values()],
            relays=self.relays.relays,
            port_mappings=self._mappings,
            hole_punching=self.settings.hole_punching,
        )

    def _judge(self) -> None:
        verdict = judge(self._facts())
        self.relays.want(self._wants_relays(verdict))
        if self.settings.relay_server == "on" or (
            self.settings.relay_server == "auto" and verdict.state == "public"
        ):
            self.relay_server.start()
        else:
            self.relay_server.stop()
        verdict = msgspec.structs.replace(verdict, serves_as_relay=self.relay_server.started)
        self._host.announce(self._announced(verdict))
        if verdict == self._verdict:
            return
        self._verdict = verdict
        for listener in list(self._listeners):
            listener(verdict)

    def _wants_relays(self, verdict: Verdict | None = None) -> int:
        state = (verdict or self._verdict).state
        return WANTED if self.settings.relay_client and state != "public" else 0

    def _announced(self, verdict: Verdict) -> list[str]:
        open_ = [a for family in verdict.families if family.state == "public" for a in family.external]
        open_ += [m.external for m in self._mappings if self._host.acceptable(m.external)]
        with_peer = [f"{address}/p2p/{self._host.peer_id}" for address in dict.fromkeys(open_)]
        return [*with_peer, *self.relays.addresses][:MAX_ANNOUNCED]

    def _reached_at(self) -> list[str]:
        """Return where clients of the relay are to say that it is."""
        open_ = [a for family in self._verdict.families if family.state == "public" for a in family.external]
        places = dict.fromkeys((*open_, *(bare(a) for a in self._host.listening())))
        return [f"{address}/p2p/{self._host.peer_id}" for address in places if address]

    def _seen_at(self) -> list[str]:
        """Return what to tell a peer that is to punch a hole."""
        return [address for address in candidates(self._facts()) if self._host.acceptable(address)]


def _fresh(entries: dict[K, tuple[float, V]], now: float) -> dict[K, tuple[float, V]]:
    kept = {key: (at, value) for key, (at, value) in entries.items() if at + FORGET > now}
    return dict(list(kept.items())[-MAX_REMEMBERED:])


def _spread(links: Sequence[Link]) -> list[Link]:
    """Return links of different networks first."""
    first = {network_of(link.address): link for link in reversed(links)}
    return [*first.values(), *(link for link in links if first[network_of(link.address)] is not link)]
