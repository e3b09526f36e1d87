"""What payment asks of market and activity: who the parties of an agreement are, how they settle it, and which
agreement an activity belongs to. By local bus calls; the answers are frozen in payment's tables at first use.

Errors: `Unavailable` when market does not answer, `BadRequest` for an agreement that names no way of paying.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from p2p.bus import BusError, RemoteError, ask
from p2p.identity import InvalidNodeId, parse_node_id
from protocols.activity.messages import REPORT_SERVICE as ACTIVITY_SERVICE
from protocols.activity.messages import ActivityAgreement, GetActivityAgreement
from protocols.market.messages import LOCAL_SERVICE as MARKET_SERVICE
from protocols.market.messages import AgreementView, GetAgreement
from protocols.market.messages import Role as MarketRole
from protocols.payment.core.decorations import address_property
from protocols.payment.errors import BadRequest, Unavailable
from protocols.payment.records import Agreement
from protocols.payment.store import ledger

if TYPE_CHECKING:
    from p2p.bus import Bus
    from protocols.payment.books import Books
    from protocols.payment.records import Role

CHOSEN_PLATFORM = "golem.com.payment.chosen-platform"
PAYMENT_TIMEOUT = "golem.com.scheme.payu.payment-timeout-sec?"
_ASK_TIMEOUT = 10.0


class Facts(Protocol):
    """What payment needs to know of other protocols' things."""

    async def agreement(self, owner: str, role: Role, agreement_id: str) -> Agreement | None:
        """Return an approved agreement of which `owner` is that side, or None. Raises Unavailable, BadRequest."""
        ...

    async def agreement_of_activity(self, activity_id: str) -> str | None:
        """Return the agreement of an activity, or None if it is unknown. Raises Unavailable."""
        ...


class BusFacts:
    """Asks the node's own market and activity protocols."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def agreement(self, owner: str, role: Role, agreement_id: str) -> Agreement | None:
        side = MarketRole.REQUESTOR if role == "R" else MarketRole.PROVIDER
        view = await self._ask(MARKET_SERVICE, GetAgreement(agreement_id, side), AgreementView)
        if view is None or view.owner_id != owner or view.role is not side or view.approved_ns is None:
            return None
        return terms_of(view)

    async def agreement_of_activity(self, activity_id: str) -> str | None:
        found = await self._ask(ACTIVITY_SERVICE, GetActivityAgreement(activity_id), ActivityAgreement)
        return found.agreement_id if found else None

    async def _ask(self, service: str, request: msgspec.Struct, reply: type[Any]) -> Any:
        try:
            return await ask(self._bus, service, request, reply, timeout=_ASK_TIMEOUT)
        except RemoteError as error:
            if error.kind in ("notFound", "badRequest"):
                return None
            raise Unavailable(f"{service}: {error}") from error
        except BusError as error:
            raise Unavailable(f"{service} does not answer: {error}") from error


async def known_agreement(
    books: Books, facts: Facts, owner: str, role: Role, agreement_id: str
) -> Agreement | None:
    """Return what was frozen of an agreement at first use, or what the market says. Raises as `Facts`."""
    known = await books.read(lambda c: ledger.agreement(c, owner, role, agreement_id))
    return known or await facts.agreement(owner, role, agreement_id)


def terms_of(view: AgreementView) -> Agreement:
    """Read what an agreement says about paying.

    Raises:
        BadRequest: it names no platform, or an address that is none.
    """
    demand, offer = _properties(view.demand_properties), _properties(view.offer_properties)
    platform = demand.get(CHOSEN_PLATFORM)
    if not isinstance(platform, str) or not 0 < len(platform) <= 100:
        raise BadRequest(f"Agreement {view.agreement_id} has no {CHOSEN_PLATFORM}: it cannot be billed")
    key = address_property(platform)
    timeout = demand.get(PAYMENT_TIMEOUT, offer.get(PAYMENT_TIMEOUT))  # agreed when both carry it
    return Agreement(
        agreement_id=view.agreement_id,
        requestor_id=view.requestor_id,
        provider_id=view.provider_id,
        platform=platform,
        payer_addr=_address(demand.get(key), view.requestor_id),
        payee_addr=_address(offer.get(key), view.provider_id),
        session_id=view.app_session_id,
        payment_timeout_s=float(timeout) if isinstance(timeout, int | float) and timeout > 0 else None,
    )


def _address(value: object, identity: str) -> str:
    if value is None:
        return identity
    try:
        return parse_node_id(str(value))
    except InvalidNodeId as error:
        raise BadRequest(f"the agreement names {str(value)[:80]!r} as a payment address") from error


def _properties(text: str) -> dict[str, Any]:
    tree = msgspec.json.decode(text or "{}")
    return tree if isinstance(tree, dict) else {}
