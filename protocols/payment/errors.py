"""What can go wrong in payment, on this node and at its peers. The chain's errors are in `drivers.errors`.

PaymentError
├── NotFound                ours: unknown to the acting identity
├── NotYours                ours: only the agreement's other party may do this
├── AllocationReleased      ours: it was released before, by hand or by its timeout
├── BadRequest              ours: a value makes no sense; the message names it
│   ├── AmountMismatch      the amount accepted is not the document's
│   ├── NotEnoughFunds      the allocation cannot cover the acceptance
│   └── WrongState          the document's state rules this out
├── AllocationProblem       ours: an allocation cannot be made as asked: an RFC 7807 document
├── AccountUnusable         ours: no driver for the platform, or no key for the address
├── Unavailable             the chain or another part of this node does not answer now
├── PeerRefused             the peer answered with an error of its own
└── PeerSilent              the peer did not answer in time; the message stays in the outbox
"""

from __future__ import annotations

from typing import Any


class PaymentError(Exception):
    """Root of what the payment service raises."""


class NotFound(PaymentError):
    """The acting identity has no such document, allocation or payment."""


class NotYours(PaymentError):
    """The acting identity is not the party of the agreement that may do this."""


class AllocationReleased(PaymentError):
    """The allocation was released before."""

    def __init__(self, allocation_id: str) -> None:
        super().__init__(f"Allocation {allocation_id} has been already released")
        self.allocation_id = allocation_id


class BadRequest(PaymentError):
    """A value makes no sense here."""


class AmountMismatch(BadRequest):
    """The amount accepted differs from the document's."""

    def __init__(self) -> None:
        super().__init__("Invalid amount accepted")


class NotEnoughFunds(BadRequest):
    """The allocation has less left than the acceptance needs; amounts are decimal text."""

    def __init__(self, available: str, needed: str) -> None:
        super().__init__(f"Not enough funds. Allocated: {available} Needed: {needed}")


class WrongState(BadRequest):
    """The document's state rules this out."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class AllocationProblem(PaymentError):
    """An allocation cannot be made as asked.

    Args:
        status: the HTTP status that it maps to.
        kind: last part of the problem's `type`, such as `validation-error`.
        detail: what a person reads.
        instance: last part of the problem's `instance`, such as `timeout-passed`, or empty.
        members: further members of the RFC 7807 document.
    """

    def __init__(self, status: int, kind: str, detail: str, *, instance: str = "", **members: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.instance = instance
        self.members = members


class AccountUnusable(PaymentError):
    """The platform has no driver here, or the address has no key here."""


class Unavailable(PaymentError):
    """The chain, or another part of this node, does not answer now; try again."""


class PeerRefused(PaymentError):
    """The peer answered with an error of its own."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class PeerSilent(PaymentError):
    """The peer did not answer in time. The message stays in the outbox and is delivered later."""
