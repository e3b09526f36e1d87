"""The outbox: messages to peers that must arrive, whatever crashes.

A protocol puts a message in the same transaction as the state that promises it. After the commit the outbox
delivers it by a bus call, again and again with growing pauses until the peer has answered, its time is over,
or the protocol says to give up. Receivers are idempotent, so a repeated delivery does no harm.

Messages to one peer go in order, one at a time, so all that wait for a peer are due at the same time; peers do not
wait for each other.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
import trio

from p2p import codec
from p2p.bus import BusError, RemoteError, net_address
from protocols.ground.wakeup import Signal

if TYPE_CHECKING:
    from p2p.protocol import NodeContext
    from p2p.storage import Connection

MIGRATIONS = [
    """
    CREATE TABLE ground_outbox(
        id INTEGER PRIMARY KEY,
        protocol TEXT NOT NULL,
        peer TEXT NOT NULL,
        key TEXT NOT NULL,
        service TEXT NOT NULL,
        method TEXT NOT NULL,
        body BLOB NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        due_ns INTEGER NOT NULL,
        expires_ns INTEGER NOT NULL,
        UNIQUE(protocol, peer, key)
    ) STRICT
    """,
    "ALTER TABLE ground_outbox ADD COLUMN acting TEXT NOT NULL DEFAULT ''",
]

FIRST_PAUSE = 1.0
"""Seconds before the second attempt."""
LONGEST_PAUSE = 600.0
CALL_TIMEOUT = 15.0
_PAGE = 64


class Item(msgspec.Struct, frozen=True):
    """A message that waits for delivery."""

    id: int
    peer: str
    key: str
    service: str
    method: str
    body: bytes
    attempts: int
    expires_ns: int
    acting: str
    """Which of the node's identities sends it; empty for its main one."""


Delivered = Callable[[Item, bytes], Awaitable[None]]
"""Called with the item and the body of the peer's answer; the item is removed afterwards."""
Refused = Callable[[Item, RemoteError], Awaitable[bool]]
"""Called when the peer answered with an error of its own; True removes the item, False tries again later."""


class Outbox:
    """One protocol's messages to peers. `run` it in the protocol's nursery."""

    def __init__(self, protocol: str, ctx: NodeContext, *, delivered: Delivered, refused: Refused) -> None:
        self._protocol = protocol
        self._ctx = ctx
        self._delivered = delivered
        self._refused = refused
        self._signal = Signal()
        self._busy: set[str] = set()

    async def migrate(self) -> None:
        """Make the table; call it before anything is put."""
        await self._ctx.database.migrate("ground_outbox", MIGRATIONS)

    def put(
        self,
        c: Connection,
        peer: str,
        service: str,
        message: msgspec.Struct,
        *,
        key: str,
        expires_ns: int,
        acting: str = "",
    ) -> None:
        """Queue `message` for `peer`, within the caller's transaction; call `wake` after the commit.

        What waits for the peer already is tried again too, before it.

        Args:
            service: the peer's public service, such as `payment`.
            key: what makes the message one and the same; putting a key again replaces its message.
            expires_ns: UTC nanoseconds after which it is dropped.
            acting: which of the node's identities sends it; empty for its main one.
        """
        now = self._ctx.clock.utc_ns()
        c.execute(
            "INSERT INTO ground_outbox(protocol, peer, key, service, method, body, due_ns, expires_ns, acting)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(protocol, peer, key) DO UPDATE SET"
            " service = excluded.service, method = excluded.method, body = excluded.body,"
            " acting = excluded.acting, due_ns = excluded.due_ns, expires_ns = excluded.expires_ns, attempts = 0",
            (
                self._protocol,
                peer,
                key,
                service,
                type(message).__name__,
                codec.encode(message),
                now,
                expires_ns,
                acting,
            ),
        )
        self._make_due(c, peer, now)

    def wake(self) -> None:
        """Look at the queue now."""
        self._signal.notify()

    async def wake_peer(self, peer: str) -> None:
        """Try everything for `peer` now: it has just been heard of."""
        now = self._ctx.clock.utc_ns()
        await self._ctx.database.write(lambda c: self._make_due(c, peer, now))
        self.wake()

    async def run(self) -> None:
        """Deliver until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                ticket = self._signal.ticket()
                now = self._ctx.clock.utc_ns()
                for peer in await self._ctx.database.read(functools.partial(self._due_peers, now=now)):
                    if peer not in self._busy:
                        self._busy.add(peer)
                        nursery.start_soon(self._deliver_to, peer)
                pause = await self._pause()
                with trio.move_on_after(pause):
                    await ticket.wait()

    async def _deliver_to(self, peer: str) -> None:
        try:
            while True:
                now = self._ctx.clock.utc_ns()
                item = await self._ctx.database.read(functools.partial(self._first, peer=peer, now=now))
                if item is None or not await self._deliver(item):
                    return
        finally:
            self._busy.discard(peer)
            self.wake()

    async def _deliver(self, item: Item) -> bool:
        """Try once; return whether the next message to the same peer may follow."""
        if item.expires_ns <= self._ctx.clock.utc_ns():
            self._ctx.log.warning(
                "message expired undelivered", peer=item.peer, method=item.method, key=item.key
            )
            await self._remove(item)
            return True
        try:
            address = f"{net_address(item.peer, item.service)}/{item.method}"
            reply = await self._ctx.bus.call(address, item.body, timeout=CALL_TIMEOUT, acting=item.acting)
        except RemoteError as error:
            if await self._refused(item, error):
                await self._remove(item)
                return True
        except BusError as error:
            self._ctx.log.debug("peer not reached", peer=item.peer, method=item.method, error=str(error))
        else:
            await self._delivered(item, reply)
            await self._remove(item)
            return True
        await self._postpone(item)
        return False

    async def _remove(self, item: Item) -> None:
        # Only what was sent: a newer message under the same key stays.
        def remove(c: Connection) -> None:
            c.execute(
                "DELETE FROM ground_outbox"
                " WHERE id = ? AND service = ? AND method = ? AND body = ? AND acting = ?",
                (item.id, item.service, item.method, item.body, item.acting),
            )

        await self._ctx.database.write(remove)

    async def _postpone(self, item: Item) -> None:
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(item.attempts, 20))
        pause *= self._ctx.entropy.jitter.uniform(0.75, 1.25)
        due = self._ctx.clock.utc_ns() + int(pause * 1e9)

        def postpone(c: Connection) -> None:
            c.execute(
                "UPDATE ground_outbox SET attempts = attempts + 1 WHERE id = ?",
                (item.id,),
            )
            self._make_due(c, item.peer, due)

        await self._ctx.database.write(postpone)

    def _make_due(self, c: Connection, peer: str, due_ns: int) -> None:
        c.execute(
            "UPDATE ground_outbox SET due_ns = ? WHERE protocol = ? AND peer = ?",
            (due_ns, self._protocol, peer),
        )

    async def _pause(self) -> float:
        def next_due(c: Connection) -> int | None:
            busy = sorted(self._busy)
            row = c.execute(
                "SELECT min(due_ns) FROM ground_outbox WHERE protocol = ?"
                " AND peer NOT IN (SELECT value FROM json_each(?))",
                (self._protocol, json.dumps(busy)),
            ).fetchone()
            return row[0] if row else None

        due = await self._ctx.database.read(next_due)
        return math.inf if due is None else max(0.05, (due - self._ctx.clock.utc_ns()) / 1e9)

    def _due_peers(self, c: Connection, now: int) -> list[str]:
        rows = c.execute(
            "SELECT DISTINCT peer FROM ground_outbox WHERE protocol = ? AND due_ns <= ? ORDER BY peer LIMIT ?",
            (self._protocol, now, _PAGE),
        )
        return [row[0] for row in rows]

    def _first(self, c: Connection, peer: str, now: int) -> Item | None:
        row = c.execute(
            "SELECT id, peer, key, service, method, body, attempts, expires_ns, acting FROM ground_outbox"
            " WHERE protocol = ? AND peer = ? AND due_ns <= ? ORDER BY id LIMIT 1",
            (self._protocol, peer, now),
        ).fetchone()
        return Item(*row) if row else None
