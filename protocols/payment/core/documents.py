"""The states of debit notes and invoices, as one table for both kinds and both sides.

What a row of the table means: in this state, this action leads there. An action that is missing for a state is
illegal there. Where it leads back to the same state it is a repetition, and harmless: peers and clients repeat
what they are not sure of.

An action can overtake an earlier one (the acceptance arrives before the acknowledgement of sending, the money
before the acceptance), so each later step implies the earlier ones.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from protocols.payment.errors import WrongState
from protocols.payment.records import Status

if TYPE_CHECKING:
    from collections.abc import Mapping


class Action(enum.Enum):
    """What can be done to a document."""

    DELIVER = "deliver"
    """The requestor acknowledged it."""
    ACCEPT = "accept"
    REJECT = "reject"
    CANCEL = "cancel"
    SETTLE = "settle"
    """Enough was paid, as deep in the chain as the platform asks."""
    FAIL = "fail"
    """The attempt to pay was given up."""
    REOPEN = "reopen"
    """What had settled it vanished from the chain."""


_S, _A = Status, Action

TRANSITIONS: Final[Mapping[tuple[Status, Action], Status]] = {
    (_S.ISSUED, _A.DELIVER): _S.RECEIVED,
    (_S.ISSUED, _A.ACCEPT): _S.ACCEPTED,
    (_S.ISSUED, _A.REJECT): _S.REJECTED,
    (_S.ISSUED, _A.CANCEL): _S.CANCELLED,
    (_S.ISSUED, _A.SETTLE): _S.SETTLED,
    (_S.RECEIVED, _A.DELIVER): _S.RECEIVED,
    (_S.RECEIVED, _A.ACCEPT): _S.ACCEPTED,
    (_S.RECEIVED, _A.REJECT): _S.REJECTED,
    (_S.RECEIVED, _A.CANCEL): _S.CANCELLED,
    (_S.RECEIVED, _A.SETTLE): _S.SETTLED,
    (_S.REJECTED, _A.DELIVER): _S.REJECTED,
    (_S.REJECTED, _A.ACCEPT): _S.ACCEPTED,
    (_S.REJECTED, _A.REJECT): _S.REJECTED,
    (_S.REJECTED, _A.CANCEL): _S.CANCELLED,
    (_S.REJECTED, _A.SETTLE): _S.SETTLED,
    (_S.ACCEPTED, _A.DELIVER): _S.ACCEPTED,
    (_S.ACCEPTED, _A.ACCEPT): _S.ACCEPTED,
    (_S.ACCEPTED, _A.SETTLE): _S.SETTLED,
    (_S.ACCEPTED, _A.FAIL): _S.FAILED,
    (_S.FAILED, _A.DELIVER): _S.FAILED,
    (_S.FAILED, _A.ACCEPT): _S.ACCEPTED,
    (_S.FAILED, _A.REJECT): _S.REJECTED,
    (_S.FAILED, _A.SETTLE): _S.SETTLED,
    (_S.FAILED, _A.FAIL): _S.FAILED,
    (_S.SETTLED, _A.DELIVER): _S.SETTLED,
    (_S.SETTLED, _A.ACCEPT): _S.SETTLED,
    (_S.SETTLED, _A.SETTLE): _S.SETTLED,
    (_S.SETTLED, _A.REOPEN): _S.ACCEPTED,
    (_S.CANCELLED, _A.DELIVER): _S.CANCELLED,
    (_S.CANCELLED, _A.CANCEL): _S.CANCELLED,
}

OWNED: Final = frozenset({Status.ACCEPTED, Status.SETTLED, Status.FAILED})
"""States in which the requestor owes the amount, or has paid it."""
OPEN: Final = frozenset({Status.ISSUED, Status.RECEIVED, Status.ACCEPTED, Status.REJECTED, Status.FAILED})
"""States that more can follow."""


def follow(status: Status, action: Action, what: str) -> Status:
    """Return the state that `action` leads to from `status`.

    Args:
        what: how a message calls the document: `Invoice` or `Debit note`.

    Raises:
        WrongState: the action is illegal in that state.
    """
    following = TRANSITIONS.get((status, action))
    if following is None:
        # Clients know these two wordings: `Invoice cancelled`, and the state's own name otherwise.
        raise WrongState(f"{what} {status.value.lower()}", status.value)
    return following
