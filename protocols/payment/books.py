"""`Books`: how the parts of payment write, tell peers, and wake whoever waits.

Every command is one transaction, written as a function of an `Entry`: it changes tables through `entry.c`, and
notes on the entry what else follows from the change: events for pollers and subscribers, messages for peers.
Messages go into the outbox within the same transaction. The rest happens after the commit, and is only
waking up: whoever missed it finds everything in the tables.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar

import trio

from p2p import codec
from protocols.ground.money import format_amount
from protocols.ground.outbox import Outbox
from protocols.ground.times import format_time
from protocols.ground.wakeup import Signal
from protocols.payment import store
from protocols.payment.errors import PeerRefused, PeerSilent
from protocols.payment.events import TOPIC, DocumentChanged
from protocols.payment.messages import RETRYABLE_KINDS
from protocols.payment.records import DebitNote, Invoice, Status
from protocols.payment.store import documents, events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import msgspec

    from p2p.bus import RemoteError
    from p2p.identity import Signer
    from p2p.protocol import NodeContext
    from p2p.storage import Connection
    from protocols.ground.outbox import Item
    from protocols.payment.events import PaymentEvent
    from protocols.payment.records import Kind, Rejection, Trouble
    from protocols.payment.settings import Settings

T = TypeVar("T")

SERVICE = "payment"
_DAY_NS = 86_400 * 1_000_000_000
MESSAGE_LIFE_NS = 100 * _DAY_NS
"""How long a peer may be away before a message to it is given up."""


class Entry:
    """One transaction in the making."""

    def __init__(self, books: Books, c: Connection, now_ns: int) -> None:
        self._books = books
        self.c = c
        self.now_ns = now_ns
        self.published: list[PaymentEvent] = []
        self.document_events = False
        self.payments = False
        """Whether a payment was made, received or taken back."""
        self.debts = False
        """Whether the settlement should look at its debts again."""
        self.transfers = False
        """Whether there are transfers to be sent."""
        self.messages = False

    def publish(self, event: PaymentEvent) -> None:
        """Let subscribers know after the commit."""
        self.published.append(event)

    def document(
        self, document: DebitNote | Invoice, event: str, detail: Rejection | Trouble | None = None
    ) -> None:
        """Log an event of a document, whose new state is in `document`."""
        kind, document_id = identify(document)
        events.append(
            self.c,
            document.owner,
            document.role,
            kind,
            document_id,
            event,
            session_id=document.session_id,
            now_ns=self.now_ns,
            detail=detail,
        )
        self.document_events = True
        self.announce(document)

    def set_status(self, document: DebitNote | Invoice, status: Status) -> None:
        """Store a document's new state."""
        kind, document_id = identify(document)
        documents.set_status(self.c, document.owner, document.role, kind, document_id, status)

    def announce(self, document: DebitNote | Invoice) -> None:
        """Publish where a document stands."""
        _, document_id = identify(document)
        is_note = isinstance(document, DebitNote)
        self.publish(
            DocumentChanged(
                owner=document.owner,
                role=document.role,
                kind="debitNote" if is_note else "invoice",
                document_id=document_id,
                agreement_id=document.agreement_id,
                activity_id=document.activity_id if isinstance(document, DebitNote) else "",
                peer=document.peer,
                status=document.status.value,
                amount=format_amount(amount_of(document)),
                payable_at="" if document.due_ns is None else format_time(document.due_ns),
            )
        )

    def tell(self, peer: str, message: msgspec.Struct, key: str) -> None:
        """Send a message about documents to a peer; one with the same key that waits is replaced."""
        self._books.letters.put(
            self.c, peer, SERVICE, message, key=key, expires_ns=self.now_ns + MESSAGE_LIFE_NS
        )
        self.messages = True

    def tell_money(self, peer: str, message: msgspec.Struct, key: str) -> None:
        """Send a message about money.

        Its own outbox, because a payee that cannot look at the chain now answers "later", and must not hold up
        acceptances meanwhile.
        """
        self._books.receipts.put(
            self.c, peer, SERVICE, message, key=key, expires_ns=self.now_ns + MESSAGE_LIFE_NS
        )
        self.messages = True


class Books:
    """The protocol's database, outboxes and signals."""

    def __init__(
        self, ctx: NodeContext, settings: Settings, signers: Callable[[str], Signer | None] | None
    ) -> None:
        self.ctx = ctx
        self.settings = settings
        self.document_signal = Signal()
        self.payment_signal = Signal()
        self.debt_signal = Signal()
        self.lane_signal = Signal()
        self.allocation_signal = Signal()
        self.replies = Replies()
        self.letters = self._outbox("payment_documents")
        self.receipts = self._outbox("payment_money")
        self.on_delivered: dict[str, Callable[[Item, bytes], Awaitable[None]]] = {}
        """What follows from a peer's Ack, by the message's name."""
        self.on_refused: dict[str, Callable[[Item, RemoteError], Awaitable[None]]] = {}
        """What follows from a peer's final refusal, by the message's name."""
        self._signers = signers

    @property
    def now_ns(self) -> int:
        """UTC nanoseconds."""
        return self.ctx.clock.utc_ns()

    def signer(self, address: str) -> Signer | None:
        """Return the key of one of our identities or wallets, or None."""
        if self._signers is not None:
            return self._signers(address)
        return self.ctx.signer if self.ctx.node_id == address else None

    async def open(self) -> None:
        """Make the tables."""
        await self.ctx.database.migrate("payment", store.MIGRATIONS)
        await self.letters.migrate()

    async def commit(self, f: Callable[[Entry], T], *, durable: bool = True) -> T:
        """Run a command in one transaction that is on disk on return, and wake who waits for its outcome.

        Args:
            durable: false for what would be found out again after a crash, such as what the chain says.
        """
        made: list[Entry] = []
        now_ns = self.now_ns  # here, because a transaction may run in another thread

        def transaction(c: Connection) -> T:
            entry = Entry(self, c, now_ns)
            made.append(entry)
            return f(entry)

        result = await self.ctx.database.write(transaction, durable=durable)
        self._wake(made[0])
        return result

    async def read(self, f: Callable[[Connection], T]) -> T:
        """Run a query on the last committed state."""
        return await self.ctx.database.read(f)

    def _wake(self, entry: Entry) -> None:
        for event in entry.published:
            self.ctx.bus.publish(TOPIC, codec.encode(event))
        if entry.document_events:
            self.document_signal.notify()
        if entry.payments:
            self.payment_signal.notify()
        if entry.debts:
            self.debt_signal.notify()
        if entry.transfers:
            self.lane_signal.notify()
        if entry.messages:
            self.letters.wake()
            self.receipts.wake()

    def _outbox(self, name: str) -> Outbox:
        return Outbox(name, self.ctx, delivered=self._delivered, refused=self._refused)

    async def _delivered(self, item: Item, reply: bytes) -> None:
        follow_up = self.on_delivered.get(item.method)
        if follow_up is not None:
            await follow_up(item, reply)
        self.replies.resolve(item.peer, item.key, None)

    async def _refused(self, item: Item, error: RemoteError) -> bool:
        if error.kind in RETRYABLE_KINDS:
            return False
        self.ctx.log.warning(
            "peer refused a message",
            peer=item.peer,
            method=item.method,
            key=item.key,
            kind=error.kind,
            error=error.message[:200],
        )
        follow_up = self.on_refused.get(item.method)
        if follow_up is not None:
            await follow_up(item, error)
        self.replies.resolve(item.peer, item.key, PeerRefused(error.kind, error.message))
        return True


class Replies:
    """Callers that wait for a peer's answer to one message of theirs."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], list[_Reply]] = {}

    @contextlib.asynccontextmanager
    async def expect(self, peer: str, key: str, timeout: float | None) -> AsyncIterator[None]:
        """Put the message inside the block; leaving the block waits for the answer.

        Raises:
            PeerRefused: the peer answered with an error.
            PeerSilent: no answer in `timeout` seconds; delivery goes on.
        """
        reply = _Reply()
        self._waiting.setdefault((peer, key), []).append(reply)
        try:
            yield
            with trio.move_on_after(float("inf") if timeout is None else max(0.0, timeout)):
                await reply.came.wait()
            if not reply.came.is_set():
                raise PeerSilent(f"{peer} has not answered in {timeout:g} s; delivery goes on")
            if reply.error is not None:
                raise reply.error
        finally:
            waiting = self._waiting[peer, key]
            waiting.remove(reply)
            if not waiting:
                del self._waiting[peer, key]

    def resolve(self, peer: str, key: str, error: PeerRefused | None) -> None:
        """Give the answer to whoever waits for it."""
        for reply in self._waiting.get((peer, key), ()):
            reply.error = error
            reply.came.set()


class _Reply:
    def __init__(self) -> None:
        self.came = trio.Event()
        self.error: PeerRefused | None = None


def identify(document: DebitNote | Invoice) -> tuple[Kind, str]:
    """Return a document's kind and id."""
    if isinstance(document, DebitNote):
        return "debit_note", document.debit_note_id
    return "invoice", document.invoice_id


def amount_of(document: DebitNote | Invoice) -> int:
    """Return what a document asks for."""
    return document.total_due_wei if isinstance(document, DebitNote) else document.amount_wei
