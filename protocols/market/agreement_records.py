"""The records of agreements: kept, promised to the other node, and told of, in the right order.

Each step of an agreement is one transaction: state, event, and the message that promises it. After the commit
everyone is told: whoever waits, other protocols, and the outbox. Used by `agreements` (what our own side does)
and `agreement_peers` (what the other side says).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from p2p import codec
from protocols.ground.outbox import Outbox
from protocols.ground.times import SECOND
from protocols.ground.wakeup import Signal
from protocols.market import events, store
from protocols.market.core import agreements as core
from protocols.market.core.agreements import Agreement, Step
from protocols.market.errors import NotFound
from protocols.market.messages import (
    AGREEMENT_TOPIC,
    PROTOCOL,
    AgreementCancelled,
    AgreementRejected,
    AgreementState,
    AgreementTerminated,
    Role,
)
from protocols.market.reasons import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from p2p.identity import Signer
    from p2p.protocol import NodeContext
    from p2p.storage import Connection
    from protocols.ground.outbox import Delivered, Refused

NOTICE_KEPT_NS = 30 * 24 * 3600 * SECOND
"""How long it is tried to tell the other node of an end."""
_S = AgreementState


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Whom the exchange tells."""

    ended: Callable[[Agreement], None]
    """A requestor's agreement was terminated: the pair may be offered again."""
    replanned: Callable[[], None]
    """The time for the next `tick` may have come nearer."""


class AgreementRecords:
    """Agreements of our identities, on either side."""

    def __init__(self, ctx: NodeContext, signer_of: Callable[[str], Signer], hooks: Hooks) -> None:
        self.ctx = ctx
        self.signer_of = signer_of
        self.news = Signal()
        """Something happened to some agreement."""
        self.outbox: Outbox
        self._hooks = hooks
        self._changes: WeakValueDictionary[str, Signal] = WeakValueDictionary()

    async def open(self, *, delivered: Delivered, refused: Refused) -> None:
        """Make the tables, and the outbox with whom it tells of answers."""
        self.outbox = Outbox(PROTOCOL, self.ctx, delivered=delivered, refused=refused)
        await self.ctx.database.migrate(PROTOCOL, store.migrations())
        await self.outbox.migrate()

    def changes_of(self, agreement_id: str) -> Signal:
        """Return what is notified when the agreement changes, as long as somebody holds it."""
        return self._changes.setdefault(agreement_id, Signal())

    def load(self, c: Connection, owner: str, agreement_id: str, role: Role | None, now_ns: int) -> Agreement:
        """Return an identity's agreement as it stands now. Raises NotFound."""
        for side in (role,) if role else Role:
            mine = store.load(c, agreement_id, side)
            if mine is not None and mine.owner == owner:
                return core.expired(mine, now_ns) or mine
        shown = f"{role.value[0]}-{agreement_id}" if role else agreement_id
        raise NotFound(f"Agreement [{shown}] not found.")

    def replan(self) -> None:
        """Say that the time for the next look may have come nearer."""
        self._hooks.replanned()

    async def write(self, step: Callable[[Connection], Agreement], now_ns: int) -> Agreement:
        """Commit one step of ours to disk, then let everyone know."""
        mine = await self.ctx.database.write(step, durable=True)
        self.announce([mine], now_ns)
        return mine

    def keep(self, c: Connection, steps: Sequence[Agreement], now_ns: int) -> Sequence[Agreement]:
        """Write the steps that an agreement took, and log what clients are told of; part of a transaction."""
        for step in steps:
            store.update(c, step)
            store.log_event(c, step, now_ns)
        return steps

    def promise(self, c: Connection, mine: Agreement, message: msgspec.Struct, expires_ns: int) -> None:
        """Queue a message for the other node; part of the transaction that makes it true.

        Each kind of message is sent once in an agreement's life, and they go out in the order of promising.
        """
        key = f"{mine.role.value[0]}/{mine.agreement_id}/{type(message).__name__}"
        self.outbox.put(c, mine.peer, PROTOCOL, message, key=key, expires_ns=expires_ns)

    def promise_end(self, c: Connection, mine: Agreement, now_ns: int) -> None:
        """Queue the news that our side has rejected, cancelled or terminated; part of a transaction."""
        end = mine.end
        assert end is not None
        message_type = {
            _S.CANCELLED: AgreementCancelled,
            _S.REJECTED: AgreementRejected,
            _S.TERMINATED: AgreementTerminated,
        }[mine.state]
        message = message_type(mine.agreement_id, end.reason, end.at_ns, end.signature)
        self.promise(c, mine, message, now_ns + NOTICE_KEPT_NS)

    def announce(self, steps: Sequence[Agreement], now_ns: int) -> None:
        """Tell everyone of steps that are committed."""
        for mine in steps:
            change = events.AgreementChanged(
                agreement_id=mine.agreement_id,
                role=mine.role,
                requestor_id=mine.terms.requestor_id,
                provider_id=mine.terms.provider_id,
                state=mine.state,
                app_session_id=mine.app_session_id,
                at_ns=now_ns,
            )
            self.ctx.bus.publish(AGREEMENT_TOPIC, codec.encode(change))
            signal = self._changes.get(mine.agreement_id)
            if signal is not None:
                signal.notify()
            if mine.state is _S.TERMINATED and mine.role is Role.REQUESTOR:
                self._hooks.ended(mine)
        self.news.notify()
        self.outbox.wake()
        self._hooks.replanned()

    async def give_up(self, agreement_id: str, why: str) -> None:
        """Cancel a confirmed agreement that the provider's node has not taken."""
        now = self.ctx.clock.utc_ns()

        def give_up(c: Connection) -> Agreement | None:
            mine = store.load(c, agreement_id, Role.REQUESTOR)
            if mine is None or mine.state is not _S.PENDING or mine.received:
                return None
            word = core.signed_end(mine, Step.CANCEL, reason_of(why), now, self.signer_of(mine.owner))
            mine = core.advance(mine, Step.CANCEL, end=word)
            self.promise_end(c, mine, now)
            return self.keep(c, [mine], now)[-1]

        mine = await self.ctx.database.write(give_up, durable=True)
        if mine is not None:
            self.announce([mine], now)
