"""When to sync with whom: soon after a peer connects, now and then with anyone, and again after news.

Who dialled syncs at once; who was dialled waits a little and does so only if the other has not. Every 30 to
60 s one peer is chosen at random. An exchange that found something new on either side is followed by two with
others, so that what comes through a healed partition spreads in steps of seconds, not of rounds; who finds its
peers up to date stops, and whom this misses the rounds reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from p2p.identity import NodeId

INTERVAL = (30.0, 60.0)
"""Seconds between rounds, evenly spread."""
DIALLED_DELAY = (3.0, 6.0)
"""Seconds that the dialled side waits for the dialler to begin."""
NEWS_DELAY = (1.0, 3.0)
"""Seconds after news until it is carried on: some gather, and a burst of nodes does not act at once."""
NEWS_PEERS = 2
WORKERS = 3
"""Exchanges that this node leads at once."""
QUEUE = 64
"""Peers that wait for one; further ones are left to the next round."""


class SyncRounds:
    """Decides and queues; `exchange` does it.

    Args:
        peers: the peers connected now.
        exchange: syncs with one peer; raises nothing.
    """

    def __init__(
        self,
        rng: random.Random,
        peers: Callable[[], Sequence[NodeId]],
        exchange: Callable[[NodeId], Awaitable[None]],
    ) -> None:
        self._rng = rng
        self._peers = peers
        self._exchange = exchange
        self._queue, self._work = trio.open_memory_channel["NodeId"](QUEUE)
        self._queued: set[NodeId] = set()
        self._synced: set[NodeId] = set()
        self._news = trio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_rounds)
            nursery.start_soon(self._spread_news)
            for _ in range(WORKERS):
                nursery.start_soon(self._run_exchanges)

    async def greet(self, peer: NodeId, *, dialled_by_us: bool) -> None:
        """Sync with a peer that just connected, at once or if it has not done so itself in a while."""
        if not dialled_by_us:
            await trio.sleep(self._rng.uniform(*DIALLED_DELAY))
        if peer not in self._synced:
            self.request(peer)

    def request(self, peer: NodeId) -> None:
        """Queue an exchange with a peer, unless one is queued or too many are."""
        if peer not in self._queued:
            try:
                self._queue.send_nowait(peer)
            except trio.WouldBlock:
                return
            self._queued.add(peer)

    def synced(self, peer: NodeId, *, news: bool) -> None:
        """Note that an exchange with a peer came to its end, whoever led it, and whether it found something new."""
        self._synced.add(peer)
        if news:
            self.announce()

    def announce(self) -> None:
        """Sync with some peers soon: there is something that they may lack, or a topic is new to us."""
        self._news.set()

    def forget(self, peer: NodeId) -> None:
        """A peer has disconnected."""
        self._synced.discard(peer)

    async def _run_rounds(self) -> None:
        while True:
            await trio.sleep(self._rng.uniform(*INTERVAL))
            self._request_some(1)

    async def _spread_news(self) -> None:
        while True:
            await self._news.wait()
            await trio.sleep(self._rng.uniform(*NEWS_DELAY))
            self._news = trio.Event()
            self._request_some(NEWS_PEERS)

    async def _run_exchanges(self) -> None:
        async for peer in self._work.clone():
            self._queued.discard(peer)
            if peer in self._peers():
                await self._exchange(peer)

    def _request_some(self, count: int) -> None:
        peers = list(self._peers())
        for peer in self._rng.sample(peers, min(count, len(peers))):
            self.request(peer)
