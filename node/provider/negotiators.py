"""How the provider answers a demand: an ordered chain of small, pure rules.

Each component sees the requestor's demand and our offer as the components before it left it, and answers
`Ready` (agreed), `Negotiating` (agreed if you take this change) or `Reject`. The first rejection ends the
chain. A proposal that is Ready or Negotiating is countered with the resulting offer; an agreement is approved
only when every component is Ready. Defaults and ranges are those of the Golem provider agent.

A third party adds a component under the entry-point group `golem_p2p.negotiators`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

EXPIRATION = "golem.srv.comp.expiration"
CHOSEN_PLATFORM = "golem.com.payment.chosen-platform"
ACCEPT_TIMEOUT = "golem.com.payment.debit-notes.accept-timeout?"
NOTE_INTERVAL = "golem.com.scheme.payu.debit-note.interval-sec?"
PAYMENT_TIMEOUT = "golem.com.scheme.payu.payment-timeout-sec?"
COEFFICIENTS = "golem.com.pricing.model.linear.coeffs"

DAY = 24 * 3600
ENTRY_POINT_GROUP = "golem_p2p.negotiators"

Properties = Mapping[str, Any]


class Ready(msgspec.Struct, frozen=True):
    """Nothing to change."""

    offer: dict[str, Any]


class Negotiating(msgspec.Struct, frozen=True):
    """Acceptable with these changes to our offer."""

    offer: dict[str, Any]


class Reject(msgspec.Struct, frozen=True):
    """Not acceptable."""

    message: str
    final: bool
    """Whether asking again later is pointless."""


Answer = Ready | Negotiating | Reject


class Situation(msgspec.Struct, frozen=True):
    """What a component may look at besides the two proposals."""

    now_ns: int
    """UTC nanoseconds."""
    requestor_id: str
    free: int
    """Agreements that could be taken now."""


class Negotiator(Protocol):
    """One rule."""

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        """Judge `demand` against `offer`, which may be changed only by returning another."""
        ...


class Platform:
    """The demand says which payment platform it will pay on, and we take that one."""

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        platform = demand.get(CHOSEN_PLATFORM)
        if not isinstance(platform, str):
            return Reject(f"the demand has no {CHOSEN_PLATFORM}", final=False)
        if f"golem.com.payment.platform.{platform}.address" not in offer:
            return Reject(f"payment platform {platform} is not offered here", final=True)
        return Ready(offer)


class Capacity:
    """There is room for another agreement."""

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        if situation.free < 1:
            return Reject("no capacity: all that this node offers is in use", final=False)
        return Ready(offer)


class Expiration(msgspec.Struct, frozen=True):
    """The agreement ends at a time that suits us, and debit notes are accepted in time."""

    shortest: float = 5 * 60
    """Seconds that an agreement lasts at least."""
    longest: float = 100 * 365 * DAY
    longest_without_deadline: float = 30 * 60
    """Seconds, where the requestor does not promise to accept debit notes in time."""
    least_accept_timeout: int = 5

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        expiration = demand.get(EXPIRATION)
        if not isinstance(expiration, int | float) or isinstance(expiration, bool):
            return Reject(f"the demand has no {EXPIRATION}", final=True)
        lasts = expiration / 1000 - situation.now_ns / 1e9
        if lasts < self.shortest:
            return Reject(
                f"the agreement would last {lasts:.0f} s, less than {self.shortest:.0f} s", final=True
            )
        longest = self.longest if ACCEPT_TIMEOUT in demand else self.longest_without_deadline
        if lasts > longest:
            return Reject(f"the agreement would last {lasts:.0f} s, more than {longest:.0f} s", final=False)
        return self._accept_timeout(demand, offer)

    def _accept_timeout(self, demand: Properties, offer: dict[str, Any]) -> Answer:
        theirs, ours = demand.get(ACCEPT_TIMEOUT), offer.get(ACCEPT_TIMEOUT)
        if ours is None or theirs == ours:
            return Ready(offer)
        if theirs is None:
            return Negotiating(_without(offer, ACCEPT_TIMEOUT))
        if not isinstance(theirs, int) or theirs < self.least_accept_timeout or theirs > ours:
            return Reject(f"debit notes must be accepted within {ours} s, not {theirs}", final=True)
        return Negotiating({**offer, ACCEPT_TIMEOUT: theirs})


class Adopted(msgspec.Struct, frozen=True):
    """A negotiable number of the requestor's is adopted inside our range, and dropped where it has none."""

    name: str
    least: int = 1
    most: int = DAY
    required_from: float | None = None
    """Seconds of agreement from which the property must be there; None for never."""

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        theirs = demand.get(self.name)
        if theirs is None:
            lasts = float(demand.get(EXPIRATION, 0)) / 1000 - situation.now_ns / 1e9
            if self.required_from is not None and lasts >= self.required_from:
                return Reject(f"an agreement of {lasts:.0f} s needs {self.name}", final=True)
            return Negotiating(_without(offer, self.name)) if self.name in offer else Ready(offer)
        if not isinstance(theirs, int) or isinstance(theirs, bool) or not self.least <= theirs <= self.most:
            return Reject(f"{self.name} must be {self.least} to {self.most}, not {theirs}", final=False)
        return Ready(offer) if offer.get(self.name) == theirs else Negotiating({**offer, self.name: theirs})


class Price:
    """A requestor may offer more than we ask, never less."""

    def negotiate(self, demand: Properties, offer: dict[str, Any], situation: Situation) -> Answer:
        bid, ours = demand.get(COEFFICIENTS), offer.get(COEFFICIENTS)
        if bid is None or bid == ours:
            return Ready(offer)
        if not isinstance(bid, list) or not isinstance(ours, list) or len(bid) != len(ours):
            return Reject("the price bid does not have our form", final=False)
        if any(not isinstance(b, int | float) or b < o for b, o in zip(bid, ours, strict=True)):
            return Reject("the price bid is below ours", final=True)
        return Negotiating({**offer, COEFFICIENTS: bid})


def default_chain() -> tuple[Negotiator, ...]:
    """Return the components in their order: the cheapest refusals first, other packages' last."""
    return (
        Platform(),
        Capacity(),
        Expiration(),
        Adopted(NOTE_INTERVAL),
        Adopted(PAYMENT_TIMEOUT, required_from=10 * 3600),
        Price(),
        *(entry.load() for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)),
    )


def negotiate(
    chain: Sequence[Negotiator], demand: Properties, offer: Properties, situation: Situation
) -> Answer:
    """Run the chain and return its verdict."""
    current = dict(offer)
    changed = False
    for component in chain:
        answer = component.negotiate(demand, current, situation)
        if isinstance(answer, Reject):
            return answer
        changed = changed or isinstance(answer, Negotiating)
        current = answer.offer
    return Negotiating(current) if changed else Ready(current)


def _without(offer: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in offer.items() if key != name}
