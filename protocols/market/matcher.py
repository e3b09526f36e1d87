"""Which offers and demands suit each other.

A demand and an offer match when each one's constraint is true of the other's properties and they belong to different
identities. `Matcher` keeps what it is told, in memory, and answers at once: it has no clock, so expiry is its
caller's; nor does it negotiate. The market's handler adds an offer when its record is accepted and a demand when it is
subscribed, asks `match_offer` and `match_demand` as they come, and removes what is withdrawn or expired.

`match_demand` and `match_offer` give exactly what trying every pair would; `index` says how they avoid that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from p2p.identity.node_id import NodeId
from protocols.market.index import ConstraintIndex, PropertyIndex, Row
from protocols.market.language import VALUELESS, Constraint, PropertySet, Verdict, to_text
from protocols.market.language.expression import Comparison, Present
from protocols.market.language.literals import literal_text

if TYPE_CHECKING:
    from collections.abc import Iterator

Party: TypeAlias = Literal["demand", "offer"]


class Subscription(msgspec.Struct, frozen=True, eq=False):
    """An offer or a demand as the matcher sees it."""

    id: str
    node_id: NodeId
    """Whose it is; nobody is matched with themselves."""
    properties: PropertySet
    constraint: Constraint


class Shortfall(msgspec.Struct, frozen=True):
    """One reason why a demand and an offer do not match."""

    party: Party | Literal["identity"]
    """Whose constraint is not met; "identity" where both belong to one node."""
    conjunct: str
    """The part of the constraint that is not met, as canonical text; empty for identity."""
    verdict: Verdict
    """MISMATCH, or UNDEFINED where the other side's property is absent or of another type."""
    found: str | None
    """The other side's value as a literal, where the conjunct is about one property that has a value."""


class Matcher:
    """All known offers and demands, and which of them suit each other."""

    def __init__(self) -> None:
        self._offers = _Book()
        self._demands = _Book()

    def add_offer(self, offer: Subscription) -> None:
        """Take an offer in; one of the same id is replaced."""
        self._offers.add(offer)

    def add_demand(self, demand: Subscription) -> None:
        """Take a demand in; one of the same id is replaced."""
        self._demands.add(demand)

    def remove_offer(self, offer_id: str) -> bool:
        """Forget an offer; false if there was none of this id."""
        return self._offers.remove(offer_id)

    def remove_demand(self, demand_id: str) -> bool:
        """Forget a demand; false if there was none of this id."""
        return self._demands.remove(demand_id)

    def match_demand(self, demand: Subscription) -> list[str]:
        """Return the ids of the offers that match a demand, in the order they were added.

        The demand need not have been added.
        """
        return self._offers.matching(demand)

    def match_offer(self, offer: Subscription) -> list[str]:
        """Return the ids of the demands that match an offer, in the order they were added.

        The offer need not have been added.
        """
        return self._demands.matching(offer)

    def explain_demand(self, demand: Subscription) -> dict[str, int]:
        """Return by conjunct how many offers are lost by it, most first.

        The keys are the demand's own conjuncts; an offer that fails several counts for each. Offers lost by their
        own constraint, or for belonging to the demand's node, count under "(offer's own constraint)" and
        "(own offers)".
        """
        lost: dict[str, int] = {}
        for offer in self._offers:
            reasons = {_SUMMARY.get(one.party, one.conjunct) for one in explain(demand, offer)}
            for reason in reasons:
                lost[reason] = lost.get(reason, 0) + 1
        return dict(sorted(lost.items(), key=lambda item: (-item[1], item[0])))

    def offer(self, offer_id: str) -> Subscription | None:
        """Return an offer by id."""
        return self._offers.get(offer_id)

    def demand(self, demand_id: str) -> Subscription | None:
        """Return a demand by id."""
        return self._demands.get(demand_id)

    def __repr__(self) -> str:
        return f"<Matcher: {len(self._offers)} offers, {len(self._demands)} demands>"


def explain(demand: Subscription, offer: Subscription) -> list[Shortfall]:
    """Return why a demand and an offer do not match: every conjunct of either that is not true; empty if they do."""
    shortfalls = list(_unmet("demand", demand, offer)) + list(_unmet("offer", offer, demand))
    if demand.node_id == offer.node_id:
        shortfalls.append(Shortfall("identity", "", Verdict.MISMATCH, None))
    return shortfalls


_SUMMARY = {"offer": "(offer's own constraint)", "identity": "(own offers)"}


class _Book:
    """One side of the market."""

    def __init__(self) -> None:
        self._subscriptions: dict[Row, Subscription] = {}
        self._row_of: dict[str, Row] = {}
        self._rows_of_node: dict[NodeId, set[Row]] = {}
        self._properties = PropertyIndex()
        self._constraints = ConstraintIndex()
        self._next_row = 0

    def add(self, subscription: Subscription) -> None:
        self.remove(subscription.id)
        row = self._next_row
        self._next_row += 1
        self._subscriptions[row] = subscription
        self._row_of[subscription.id] = row
        self._rows_of_node.setdefault(subscription.node_id, set()).add(row)
        self._properties.add(row, subscription.properties)
        self._constraints.add(row, subscription.constraint)

    def remove(self, subscription_id: str) -> bool:
        row = self._row_of.pop(subscription_id, None)
        if row is None:
            return False
        node_id = self._subscriptions.pop(row).node_id
        self._rows_of_node[node_id].remove(row)
        if not self._rows_of_node[node_id]:
            del self._rows_of_node[node_id]
        self._properties.remove(row)
        self._constraints.remove(row)
        return True

    def matching(self, other: Subscription) -> list[str]:
        candidates = self._properties.satisfying(other.constraint)
        candidates -= self._rows_of_node.get(other.node_id, set())
        rows = self._constraints.satisfied_by(other.properties, candidates)
        # Rows only ever grow, so their order is that of adding.
        return [self._subscriptions[row].id for row in sorted(rows)]

    def get(self, subscription_id: str) -> Subscription | None:
        row = self._row_of.get(subscription_id)
        return None if row is None else self._subscriptions[row]

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._subscriptions.values())

    def __len__(self) -> int:
        return len(self._subscriptions)


def _unmet(party: Party, asking: Subscription, other: Subscription) -> Iterator[Shortfall]:
    values = other.properties.values
    for part in asking.constraint.conjuncts:
        truth = part.test(values)
        if truth:
            continue
        term, found = part.expression, None
        if isinstance(term, (Present, Comparison)) and term.reference.aspect is None:
            value = values.get(term.reference.name)
            found = None if value is None or value is VALUELESS else literal_text(value)
        verdict = Verdict.UNDEFINED if truth is None else Verdict.MISMATCH
        yield Shortfall(party, to_text(term), verdict, found)
