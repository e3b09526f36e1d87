"""How sure a received payment is, as its transaction sinks into the chain. Pure.

    seen ──depth──▶ confirmed ──final depth or age──▶ final
      ▲                 │
      └──── vanished ───┘

Documents are settled from `confirmed` on. Until `final` the chain is asked again: a reorganisation may take the
transaction back, and then the documents are open again. After `final` nobody looks any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocols.payment.errors import BadRequest
from protocols.payment.records import PaymentState

if TYPE_CHECKING:
    from collections.abc import Iterable

FINAL_DEPTH_FACTOR: Final = 4
"""Final is this many times the platform's depth."""
FINAL_AGE_S: Final = 3600.0
"""A confirmed payment is final after this time on a chain that adds no blocks, such as an idle devnet."""
PATIENCE_S: Final = 24 * 3600.0
"""A payment whose transaction vanished and does not come back is forgotten after this time."""

_LEAST_WATCH_S: Final = 10.0


def judge(state: PaymentState, confirmations: int, *, depth: int, age_s: float) -> PaymentState:
    """Return a payment's state after a look at the chain.

    Args:
        confirmations: of its transaction; 0 when the transaction is not on the chain.
        depth: at how many the platform settles.
        age_s: seconds since it was confirmed.
    """
    if state is PaymentState.FINAL:
        return state
    if confirmations < depth:
        return PaymentState.SEEN
    if state is PaymentState.CONFIRMED and (
        confirmations >= depth * FINAL_DEPTH_FACTOR or age_s >= FINAL_AGE_S
    ):
        return PaymentState.FINAL
    return PaymentState.CONFIRMED


def check_pause_s(state: PaymentState, age_s: float, least_s: float) -> float:
    """Return how long to wait before the next look: short at first, then a tenth of the payment's age.

    A payment that waits for its depth is looked at often; one that settled documents already only in case of a
    reorganisation.
    """
    if state is PaymentState.CONFIRMED:
        return min(600.0, max(least_s, _LEAST_WATCH_S, age_s / 10))
    return min(60.0, max(least_s, age_s / 10))


def check_cover(amount_wei: int, others_wei: Iterable[int], on_chain_wei: int) -> None:
    """Refuse a payment that claims money which other payments have claimed already. Raises BadRequest.

    Args:
        others_wei: amounts of the payments that name the same transaction, payer and payee addresses.
        on_chain_wei: what that transaction moved from that payer to that payee.
    """
    claimed = sum(others_wei)
    if claimed + amount_wei > on_chain_wei:
        raise BadRequest(
            f"the transaction paid {on_chain_wei} wei, of which {claimed} are claimed by other payments; "
            f"{amount_wei} more are not covered"
        )
