"""The properties and constraints that a demand carries so that it can be paid from given allocations.

Each wallet's platform becomes a property, one of the platforms a constraint on offers. The payment protocol's
version tells what a payee can verify: 2, several transfers in one transaction; 3, payouts by the lock
contract. A new way of paying that a payee must be able to verify would need a new version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocols.payment.records import Decorations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from protocols.payment.records import Allocation

PROTOCOL_VERSION: Final = "3"
LEAST_VERSION_OF_PAYEE: Final = 1
"""A payee must have a version above this: it reads multi-transfers."""


def address_property(platform: str) -> str:
    """Name the property that holds a party's wallet on a platform."""
    return f"golem.com.payment.platform.{platform}.address"


def decorate(allocations: Iterable[Allocation]) -> Decorations:
    """Return the decorations, sorted by platform.

    One allocation makes a bare constraint, several an OR over lines, as existing clients parse them.
    """
    wallets = sorted((address_property(a.platform), a.address) for a in allocations)
    terms = [f"({name}=*)" for name, _ in wallets]
    group = terms[0] if len(terms) == 1 else "\n".join(["(|", *(f"  {term}" for term in terms), ")"])
    return Decorations(
        properties=(*wallets, ("golem.com.payment.protocol.version", PROTOCOL_VERSION)),
        constraints=(group, f"(golem.com.payment.protocol.version>{LEAST_VERSION_OF_PAYEE})"),
    )
