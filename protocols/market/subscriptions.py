"""The offers and demands of this node's identities, with the events that wait for their agents.

In memory: a restart forgets them, and agents subscribe anew. What has ended is remembered for a while, because
clients are told how it ended. Called by the exchanges of offers and of proposals.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

from protocols.ground.times import SECOND
from protocols.ground.wakeup import Signal
from protocols.market.core.catalogue import read_constraint
from protocols.market.core.queue import EventQueue
from protocols.market.errors import BadRequest, Gone, LimitReached, NotFound
from protocols.market.language import MAX_TEXT_BYTES, PropertyError, PropertySet
from protocols.market.matcher import Subscription as MatcherEntry

if TYPE_CHECKING:
    from p2p.identity import NodeId
    from protocols.market.core.proposals import Record
    from protocols.market.language import Constraint

Kind: TypeAlias = Literal["offer", "demand"]

MAX_OPEN = 1024
"""Subscriptions of one kind that this node's identities may have open."""
MAX_ENDED = 4096
ENDED_KEPT_NS = 24 * 3600 * SECOND
"""How long it is remembered how a subscription ended."""


class SubscriptionView(msgspec.Struct, frozen=True):
    """An offer or a demand as its agent sees it."""

    id: str
    kind: Kind
    owner_id: str
    properties: str
    """JSON object, flat."""
    constraints: str
    created_ns: int
    expires_ns: int | None
    """None for one that stands until it is withdrawn."""


@dataclasses.dataclass(eq=False)
class Subscription:
    """One offer or demand of ours."""

    id: str
    kind: Kind
    owner: NodeId
    properties: PropertySet
    constraints: str
    created_ns: int
    expires_ns: int | None
    constraint: Constraint | None
    """None if the text is broken: it subscribes, and never matches."""
    queue: EventQueue = dataclasses.field(default_factory=EventQueue)
    signal: Signal = dataclasses.field(default_factory=Signal)
    ended: Literal["unsubscribed", "expired"] | None = None
    ended_ns: int = 0
    proposed: dict[str, Record] = dataclasses.field(default_factory=dict)
    """Demand: the newest Initial proposal of each offer that one was made of."""

    def is_over(self, now_ns: int) -> bool:
        """Return whether its time has passed."""
        return self.expires_ns is not None and self.expires_ns <= now_ns

    def view(self) -> SubscriptionView:
        """Return what its agent is shown."""
        return SubscriptionView(
            id=self.id,
            kind=self.kind,
            owner_id=self.owner,
            properties=self.properties.text,
            constraints=self.constraints,
            created_ns=self.created_ns,
            expires_ns=self.expires_ns,
        )

    def matcher_entry(self) -> MatcherEntry | None:
        """Return what the matcher is told, or None for what never matches."""
        if self.constraint is None:
            return None
        return MatcherEntry(self.id, self.owner, self.properties, self.constraint)


class Subscriptions:
    """All offers and demands of ours, open and lately ended."""

    def __init__(self) -> None:
        self._open: dict[Kind, dict[str, Subscription]] = {"offer": {}, "demand": {}}
        self._ended: dict[str, Subscription] = {}

    def check_room(self, kind: Kind) -> None:
        """Return if one more may be opened. Raises LimitReached."""
        if len(self._open[kind]) >= MAX_OPEN:
            raise LimitReached(f"there are {MAX_OPEN} {kind}s open on this node; unsubscribe some")

    def add(self, subscription: Subscription) -> None:
        """Open a subscription."""
        self._open[subscription.kind][subscription.id] = subscription

    def opened(self, kind: Kind) -> list[Subscription]:
        """Return all that are open."""
        return list(self._open[kind].values())

    def find(self, kind: Kind, subscription_id: str, now_ns: int) -> Subscription | None:
        """Return one that is open and not over, whoever's it is."""
        subscription = self._open[kind].get(subscription_id)
        return None if subscription is None or subscription.is_over(now_ns) else subscription

    def views(self, kind: Kind, owner: str, now_ns: int) -> list[SubscriptionView]:
        """Return an identity's open ones, as they came."""
        return [s.view() for s in self._open[kind].values() if s.owner == owner and not s.is_over(now_ns)]

    def readable(self, kind: Kind, owner: str, subscription_id: str, now_ns: int) -> Subscription:
        """Return one whose events may be read: an open one, or an offer that was unsubscribed.

        Raises:
            NotFound: unknown, foreign, expired, or an unsubscribed demand; it is how agents end their loops.
        """
        subscription = self._any(kind, owner, subscription_id)
        if subscription is not None and (subscription.ended == "expired" or subscription.is_over(now_ns)):
            raise NotFound(f"Subscription [{subscription_id}] expired.")
        if subscription is None or (subscription.ended and kind == "demand"):
            raise NotFound(f"Subscription [{subscription_id}] not found. Could be unsubscribed.")
        return subscription

    def active(self, kind: Kind, owner: str, subscription_id: str, now_ns: int) -> Subscription:
        """Return one that may be negotiated for.

        Raises:
            BadRequest: unsubscribed or unknown. Gone: expired.
        """
        subscription = self._any(kind, owner, subscription_id)
        if subscription is None:
            raise BadRequest(f"Subscription [{subscription_id}] wasn't found.")
        if subscription.ended == "unsubscribed":
            raise BadRequest(f"Subscription [{subscription_id}] was already unsubscribed.")
        if subscription.ended == "expired" or subscription.is_over(now_ns):
            raise Gone(f"Subscription [{subscription_id}] expired.")
        return subscription

    def to_unsubscribe(self, kind: Kind, owner: str, subscription_id: str, now_ns: int) -> Subscription:
        """Return one that may be unsubscribed.

        Raises:
            NotFound: unknown or foreign; and a demand that has ended in any way.
            Gone: an offer that has ended.
        """
        subscription = self._any(kind, owner, subscription_id)
        over = subscription is not None and (
            subscription.ended == "expired" or (not subscription.ended and subscription.is_over(now_ns))
        )
        if subscription is None or (kind == "demand" and (over or subscription.ended)):
            raise NotFound(f"{kind.capitalize()} [{subscription_id}] not found.")
        if over:
            raise Gone(f"Can't unsubscribe expired Offer [{subscription_id}].")
        if subscription.ended:
            raise Gone(f"Offer [{subscription_id}] already unsubscribed.")
        return subscription

    def end(self, subscription: Subscription, how: Literal["unsubscribed", "expired"], now_ns: int) -> None:
        """Close a subscription, and wake whoever waits for its events."""
        self._open[subscription.kind].pop(subscription.id, None)
        subscription.ended, subscription.ended_ns = how, now_ns
        self._ended[subscription.id] = subscription
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        subscription.signal.notify()

    def over(self, now_ns: int) -> list[Subscription]:
        """Return the open ones whose time has passed, for their exchange to end; forget old ended ones."""
        while self._ended:
            oldest = next(iter(self._ended.values()))
            if oldest.ended_ns + ENDED_KEPT_NS > now_ns:
                break
            del self._ended[oldest.id]
        return [s for kind in self._open.values() for s in kind.values() if s.is_over(now_ns)]

    def next_due(self) -> int | None:
        """Return when the next one is over."""
        ends = [
            s.expires_ns for kind in self._open.values() for s in kind.values() if s.expires_ns is not None
        ]
        return min(ends, default=None)

    def _any(self, kind: Kind, owner: str, subscription_id: str) -> Subscription | None:
        found = self._open[kind].get(subscription_id) or self._ended.get(subscription_id)
        return found if found is not None and found.owner == owner and found.kind == kind else None


def read_content(properties: Any, constraints: str) -> tuple[PropertySet, str, Constraint | None]:
    """Return the content of an offer, a demand or a proposal, as an agent gave it.

    Args:
        properties: JSON, nested or flat.
        constraints: constraint text; a broken one is taken, and never matches.

    Raises:
        BadRequest: beyond the limits of the language, or not JSON.
    """
    try:
        read = PropertySet.from_json(properties, require_object=False)
        size = len(constraints.encode())
    except (PropertyError, UnicodeEncodeError) as error:
        raise BadRequest(f"Invalid properties or constraints: {error}") from error
    if size > MAX_TEXT_BYTES:
        raise BadRequest(f"The constraints have {size} bytes, at most {MAX_TEXT_BYTES} are taken.")
    if len(read.text.encode()) + size > MAX_TEXT_BYTES - _FRAME_BYTES:
        raise BadRequest(f"Properties and constraints together take more than {MAX_TEXT_BYTES} bytes.")
    return read, constraints, read_constraint(constraints)


_FRAME_BYTES = 64
"""What the encoding of a body adds to its two texts."""
