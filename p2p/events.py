"""What happens on the network, for people and for counting: small structs, and the log that keeps the newest.

The overlay, its door, discovery and gossip report through a function (`Report`); the node gives them the `add` of
its one `EventLog`. A log is bounded for each kind of event, so that a flood of one kind, which a stranger can
cause, does not wash the others out. Each event also makes a line of the structured log, named like its kind.

Every event has a `code`: one word of a small fixed set, safe to count by (`EventLog.counts`); `reason` is prose and
may repeat what a peer said.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2p.clock import Clock

KEPT_PER_KIND = 256
"""Events of one kind that a log keeps."""
MAX_REASON = 300
"""Characters of a reason that are kept."""

_log = structlog.get_logger("net")


class NetEvent(msgspec.Struct, frozen=True, tag_field="event"):
    """Something that happened."""

    @property
    def code(self) -> str:
        """Return one word of a small fixed set, to count by."""
        return ""

    @property
    def level(self) -> str:
        """Return the level at which it is logged: `info` is for what may want doing something about."""
        return "info"

    @property
    def kind(self) -> str:
        """Return the event's name, such as `peer-connected`."""
        return str(self.__struct_config__.tag)


class PeerConnected(NetEvent, frozen=True, tag="peer-connected"):
    """The first session with a peer began."""

    peer: str
    """A NodeId, or a guest's PeerId."""
    address: str
    """Where, as a multiaddr."""
    direction: Literal["in", "out"]
    """Who dialled."""
    path: Literal["direct", "relayed"] = "direct"
    """Whether it goes through a relay."""

    @property
    def code(self) -> str:
        return f"{self.direction}-{self.path}"

    @property
    def level(self) -> str:
        return "debug"


class PeerDisconnected(NetEvent, frozen=True, tag="peer-disconnected"):
    """The last session with a peer ended."""

    peer: str
    """A NodeId, or a guest's PeerId."""
    reason: str
    """Why, as far as this end knows."""

    @property
    def level(self) -> str:
        return "debug"


Refusal = Literal["network", "version", "stranger", "silent", "limit", "broken"]
"""Why a peer was not admitted: another network; another version; no golem-p2p node; no hello in time; a limit of
this node; it broke off or spoke nonsense."""


class PeerDropped(NetEvent, frozen=True, tag="peer-dropped"):
    """A peer was proven by its session, but not admitted."""

    peer: str
    """A NodeId or a PeerId."""
    dialled: bool
    """Whether this node had dialled it."""
    why: Refusal
    """In a word."""
    reason: str
    """In words."""

    @property
    def code(self) -> str:
        return self.why

    @property
    def level(self) -> str:
        return "info" if self.dialled else "debug"  # strangers decide how often they come


HandshakeFault = Literal["time", "limit", "protocol", "lost"]
"""Out of time; a limit of this node; not Noise and yamux, or a wrong key; the connection was lost."""


class HandshakeFailed(NetEvent, frozen=True, tag="handshake-failed"):
    """A connection came in, and no session came of it."""

    address: str
    """Where from, as a multiaddr; empty where that is not known."""
    why: HandshakeFault
    """In a word."""
    reason: str
    """In words."""

    @property
    def code(self) -> str:
        return self.why

    @property
    def level(self) -> str:
        return "debug"


class DialFailed(NetEvent, frozen=True, tag="dial-failed"):
    """Discovery dialled an address, and no peer of ours was there."""

    address: str
    """A multiaddr."""
    bootstrap: bool
    """Whether it is one of the configured first peers."""
    reason: str
    """In words."""

    @property
    def code(self) -> str:
        return "bootstrap" if self.bootstrap else "other"

    @property
    def level(self) -> str:
        return "info" if self.bootstrap else "debug"


class VerdictChanged(NetEvent, frozen=True, tag="verdict-changed"):
    """This node came to another opinion of how others can reach it."""

    verdict: str
    """What it is now, such as `public`."""
    reason: str
    """The evidence, in words."""

    @property
    def code(self) -> str:
        return self.verdict


class RelayGained(NetEvent, frozen=True, tag="relay-gained"):
    """A relay keeps a place for this node."""

    relay: str
    """Its PeerId or NodeId."""
    address: str
    """Where others reach this node through it."""


class RelayLost(NetEvent, frozen=True, tag="relay-lost"):
    """A relay does not keep a place for this node any more."""

    relay: str
    """Its PeerId or NodeId."""
    reason: str
    """Why, in words."""


class GossipFault(NetEvent, frozen=True, tag="gossip-fault"):
    """A peer broke the rules of gossip."""

    peer: str
    """A NodeId, or a guest's PeerId."""
    fault: str
    """What it did, as gossip's counters name it."""

    @property
    def code(self) -> str:
        return self.fault

    @property
    def level(self) -> str:
        return "debug"


Event = (
    PeerConnected
    | PeerDisconnected
    | PeerDropped
    | HandshakeFailed
    | DialFailed
    | VerdictChanged
    | RelayGained
    | RelayLost
    | GossipFault
)

Report = Callable[[NetEvent], None]
"""Takes in what happened; never blocks, never fails."""


def logged(event: NetEvent) -> None:
    """Write an event's line: what a component reports to where nobody keeps a log."""
    event = _tame(event)
    getattr(_log, event.level)(event.kind, **msgspec.structs.asdict(event))


def unreported(event: NetEvent) -> None:
    """Do nothing: for what would be too much to log."""


class Entry(msgspec.Struct, frozen=True):
    """An event as a log keeps it."""

    seq: int
    """Counts all events of the log, from 1; gaps are events that were not kept."""
    at_ns: int
    """When; UTC nanoseconds."""
    event: NetEvent
    """What."""


class EventLog:
    """The newest events of each kind, and how often what happened since the start.

    Args:
        kept: events that are kept of each kind.
    """

    def __init__(self, clock: Clock, kept: int = KEPT_PER_KIND) -> None:
        self._clock = clock
        self._kept = kept
        self._entries: dict[str, deque[Entry]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._last = 0
        self._added = trio.Event()

    def __repr__(self) -> str:
        return f"<EventLog of {self._last} events>"

    @property
    def last(self) -> int:
        """Return the number of the newest event; 0 when there is none."""
        return self._last

    @property
    def counts(self) -> Mapping[tuple[str, str], int]:
        """Return how often each (kind, code) happened."""
        return self._counts

    def add(self, event: NetEvent) -> None:
        """Keep an event, count it and log it."""
        event = _tame(event)
        self._last += 1
        entry = Entry(self._last, self._clock.utc_ns(), event)
        self._entries.setdefault(event.kind, deque(maxlen=self._kept)).append(entry)
        self._counts[event.kind, event.code] += 1
        logged(event)
        self._added.set()
        self._added = trio.Event()

    def after(self, seq: int, limit: int | None = None) -> list[Entry]:
        """Return what is kept of the events after number `seq`, oldest first; the newest `limit` of them."""
        found = sorted(
            (entry for entry in chain.from_iterable(self._entries.values()) if entry.seq > seq),
            key=lambda entry: entry.seq,
        )
        return found if limit is None else found[max(0, len(found) - limit) :]

    async def wait_after(self, seq: int) -> None:
        """Wait until there is an event after number `seq`."""
        while self._last <= seq:
            await self._added.wait()


def _tame(event: NetEvent) -> NetEvent:
    """Return the event with a reason that is short, and one line of printable text, whatever a peer said."""
    reason: str = getattr(event, "reason", "")
    if len(reason) <= MAX_REASON and reason.isprintable():
        return event
    cut = reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
    return msgspec.structs.replace(event, reason="".join(c if c.isprintable() else "\ufffd" for c in cut))
