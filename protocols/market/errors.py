"""What can go wrong in the market, by what a caller can do about it.

    MarketError
    ├── local faults: the caller's
    │   ├── BadRequest            malformed, or makes no sense: change the request
    │   │   ├── InvalidId         an id that is no id
    │   │   └── NotMatching       content that does not fit what it answers
    │   ├── NotFound              there is none, or it is not yours
    │   ├── Conflict              not yet, or already in use
    │   ├── Gone                  over: expired, unsubscribed, answered, ended
    │   │   └── WrongState        an agreement cannot do that from where it stands
    │   ├── Forbidden             this node does not act for that identity
    │   └── LimitReached          too many; try later
    ├── TimedOut                  nothing happened in the time given
    └── PeerFault                 the other node's
        ├── PeerSilent            it did not answer; the message may have arrived
        └── PeerRefused           it answered with an error

Each has a `kind`, the word under which it travels to a peer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocols.market.messages import AgreementState


class MarketError(Exception):
    """The market did not do what was asked."""

    kind = "service"


class BadRequest(MarketError):
    """The request is malformed, or makes no sense."""

    kind = "badRequest"


class InvalidId(BadRequest):
    """A text that is not an id of the kind that is needed."""


class NotMatching(BadRequest):
    """A proposal does not match the one that it answers."""


class NotFound(MarketError):
    """There is no such thing, or it belongs to another identity."""

    kind = "notFound"


class Conflict(MarketError):
    """The thing is not ready for this yet, or is in use already."""

    kind = "conflict"


class Gone(MarketError):
    """The thing is over."""

    kind = "gone"


class WrongState(Gone):
    """An agreement cannot go from its state into the one that is asked for."""

    def __init__(self, state: AgreementState, target: AgreementState) -> None:
        # Existing clients look for the words "from Pending" and "from Approving" to decide whether to retry.
        super().__init__(f"Can't update Agreement state from {state.value} to {target.value}.")
        self.state = state
        self.target = target


class Forbidden(MarketError):
    """This node does not act for that identity, or the caller may not say this."""

    kind = "forbidden"


class LimitReached(MarketError):
    """A bound on how many or how often was reached."""

    kind = "limit"


class TimedOut(MarketError):
    """What was waited for did not happen in time."""

    kind = "timeout"


class PeerFault(MarketError):
    """The other node failed us."""

    kind = "peer"


class PeerSilent(PeerFault):
    """The other node did not answer; it may or may not have got the message."""


class PeerRefused(PeerFault):
    """The other node answered with an error."""
