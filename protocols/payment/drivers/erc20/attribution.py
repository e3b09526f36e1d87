"""Who paid whom in a transaction, read from its ERC-20 transfer logs.

Pure. A transfer's `from` is who paid, save in two cases: tokens that the called contract received earlier in
the same transaction and sends on are paid by those who sent them in, in the order of entry (a pulled batch);
what the lock contract sends when it is called directly is paid by the transaction's sender, who spends a
deposit. Each token is counted for one payer, so that two payers can never both claim it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

NOBODY = "0x" + "0" * 40
"""The source of minted tokens."""


class Moved(msgspec.Struct, frozen=True):
    """A transfer log of the token."""

    source: str
    target: str
    amount_wei: int


def payments(
    moves: Sequence[Moved], called: str | None, sender: str, lock: str | None
) -> dict[tuple[str, str], int]:
    """Add up what was paid, by payer and payee.

    Args:
        moves: the token's transfer logs in order.
        called: the contract (or account) that the transaction called.
        sender: who sent the transaction.
        lock: the network's lock contract.
    """
    paid: dict[tuple[str, str], int] = {}
    entered: deque[tuple[str, int]] = deque()

    def count(payer: str, payee: str, amount: int) -> None:
        paid[payer, payee] = paid.get((payer, payee), 0) + amount

    for move in moves:
        if move.source == called and move.source != move.target:
            left = move.amount_wei
            while left and entered:
                payer, amount = entered.popleft()
                used = min(amount, left)
                count(payer, move.target, used)
                left -= used
                if amount > used:
                    entered.appendleft((payer, amount - used))
            if left:
                # The contract's own tokens.
                count(sender if called == lock else move.source, move.target, left)
            continue
        count(move.source, move.target, move.amount_wei)
        if move.target == called:
            entered.append((move.source, move.amount_wei))
    return paid
