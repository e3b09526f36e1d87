"""Fetching the bodies of offers: by hash, from whoever sent the lease, then from the provider itself.

Many leases arrive at once when two nodes meet. So those who want bodies from one peer queue up; the first asks
for what all of them want, and the others find it fetched.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from p2p.bus import BusError, ask, net_address
from p2p.overlay import is_guest
from protocols.market.core.catalogue import Body, Refused
from protocols.market.messages import MAX_BODIES, PROTOCOL, Bodies, GetBodies

if TYPE_CHECKING:
    from p2p.identity import NodeId
    from p2p.protocol import NodeContext

TIMEOUT = 5.0
"""Seconds for one `GetBodies`."""
MAX_CALLS = 16
"""Calls at a time, to all peers together."""
MAX_FETCHED = 512
"""Bodies kept between their arrival and the acceptance of their leases; the oldest goes first."""
MAX_WANTED = 4096
"""Hashes waiting for one peer; what is more is left to a later exchange."""


class BodyFetcher:
    """Asks peers for bodies."""

    def __init__(self, ctx: NodeContext) -> None:
        self._ctx = ctx
        self._calls = trio.CapacityLimiter(MAX_CALLS)
        self._fetched: OrderedDict[bytes, Body] = OrderedDict()
        self._queues: dict[NodeId, _Queue] = {}

    async def fetch(self, body_hash: bytes, source: NodeId, origin: NodeId) -> Body | None:
        """Return the body, or None if neither the source nor the provider gives it now."""
        for peer in dict.fromkeys((source, origin)):
            if peer != self._ctx.node_id and not is_guest(peer) and await self._ask(peer, body_hash):
                return self._fetched.get(body_hash)
        return None

    async def _ask(self, peer: NodeId, body_hash: bytes) -> bool:
        queue = self._queues.setdefault(peer, _Queue())
        if len(queue.wanted) >= MAX_WANTED:
            return False
        queue.wanted[body_hash] = None
        queue.waiting += 1
        try:
            async with queue.turn:
                # Whoever had the turn before may have asked for this hash too.
                if body_hash in queue.wanted and body_hash not in self._fetched:
                    await self._ask_for_all(peer, queue, body_hash)
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                self._queues.pop(peer, None)
        return body_hash in self._fetched

    async def _ask_for_all(self, peer: NodeId, queue: _Queue, first: bytes) -> None:
        others = (h for h in queue.wanted if h != first and h not in self._fetched)
        hashes = (first, *itertools.islice(others, MAX_BODIES - 1))
        for asked in hashes:
            queue.wanted.pop(asked, None)
        try:
            async with self._calls:
                address = net_address(peer, PROTOCOL)
                reply = await ask(self._ctx.bus, address, GetBodies(hashes), Bodies, timeout=TIMEOUT)
        except BusError as error:
            self._ctx.log.debug("bodies of offers not got", peer=peer, error=str(error))
            return
        wanted = set(hashes)
        for data in reply.bodies[:MAX_BODIES]:
            try:
                body = Body(data)
            except Refused as error:
                self._ctx.log.debug("a body was refused", peer=peer, error=str(error))
                continue
            if body.hash in wanted:
                self._fetched[body.hash] = body
        while len(self._fetched) > MAX_FETCHED:
            self._fetched.popitem(last=False)


class _Queue:
    __slots__ = ("turn", "waiting", "wanted")

    def __init__(self) -> None:
        self.wanted: dict[bytes, None] = {}
        self.turn = trio.Lock()
        self.waiting = 0
