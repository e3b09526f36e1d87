"""What keeps payments from going out now, and telling the documents that wait for them.

Kept in memory: it is found out again by the next attempt. What it means for a document is in the log of events:
a PAYMENT_EVENT when trouble begins or changes, a PAYMENT_OK when it is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocols.ground.money import format_amount
from protocols.payment.books import identify
from protocols.payment.chains import trouble_kind
from protocols.payment.drivers.errors import InsufficientGas, InsufficientToken, WrongChain
from protocols.payment.events import PayerTrouble
from protocols.payment.networks import parse_platform
from protocols.payment.records import Trouble
from protocols.payment.store import documents, events

if TYPE_CHECKING:
    from protocols.payment.books import Books, Entry

_MOST_DOCUMENTS: Final = 500
"""Documents that one change of trouble is logged for; more than that wait only in a node that pays nobody."""


class Troubles:
    """The present troubles, by network and paying address."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._present: dict[tuple[str, str], tuple[str, Trouble]] = {}

    def present(self, owner: str) -> list[Trouble]:
        """List the troubles of an identity's wallets."""
        return [trouble for (_, sender), (who, trouble) in self._present.items() if owner in (who, sender)]

    async def report(self, platform: str, owner: str, sender: str, error: Exception) -> None:
        """Note why a wallet cannot pay now, and log it for its documents if it is news."""
        trouble = _trouble(platform, sender, error)
        key = (trouble.network or "", sender)
        before = self._present.get(key)
        self._present[key] = owner, trouble
        if before is None or before[1].kind != trouble.kind:
            self._books.ctx.log.warning(
                "payments wait", platform=platform, sender=sender, kind=trouble.kind, error=str(error)
            )
            await self._books.commit(lambda entry: _log(entry, platform, owner, sender, trouble, str(error)))

    async def over(self, platform: str, owner: str, sender: str) -> None:
        """Note that a wallet can pay again."""
        key = (parse_platform(platform).network, sender)
        if self._present.pop(key, None) is not None:
            await self._books.commit(lambda entry: _log(entry, platform, owner, sender, None, ""))


def _trouble(platform: str, sender: str, error: Exception) -> Trouble:
    parsed = parse_platform(platform)
    needed = chain_id = None
    if isinstance(error, InsufficientGas | InsufficientToken):
        needed = format_amount(error.needed_wei)
    if isinstance(error, WrongChain):
        chain_id = error.chain_id
    return Trouble(
        kind=trouble_kind(error),
        driver=parsed.driver,
        network=parsed.network,
        address=sender,
        needed=needed,
        chain_id=chain_id,
    )


def _log(entry: Entry, platform: str, owner: str, sender: str, trouble: Trouble | None, detail: str) -> None:
    for document in documents.awaiting_payment(entry.c, platform, sender, _MOST_DOCUMENTS):
        _, document_id = identify(document)
        last = events.last_trouble(entry.c, document.owner, document.role, document_id)
        if trouble is not None:
            entry.document(document, "PAYMENT_EVENT", trouble)
        elif last == "PAYMENT_EVENT":
            entry.document(document, "PAYMENT_OK")
    entry.publish(
        PayerTrouble(
            owner=owner, platform=platform, kind=trouble.kind if trouble else "", detail=detail[:500]
        )
    )
