"""When syncs happen. Virtual time."""

from __future__ import annotations

import itertools
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from p2p.broadcast.rounds import INTERVAL, SyncRounds
from p2p.identity import NodeId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

PEERS = [NodeId(f"0x{i:040x}") for i in range(5)]


class _Node:
    def __init__(self, seconds: float = 0.1) -> None:
        self.peers = list(PEERS)
        self.done: list[tuple[float, NodeId]] = []
        self.at_once = self.most_at_once = 0
        self._seconds = seconds
        self.rounds = SyncRounds(random.Random(1), lambda: self.peers, self._exchange)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[SyncRounds]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.rounds.run)
            yield self.rounds
            nursery.cancel_scope.cancel()

    async def _exchange(self, peer: NodeId) -> None:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        await trio.sleep(self._seconds)
        self.at_once -= 1
        self.done.append((trio.current_time(), peer))
        self.rounds.synced(peer, news=False)


async def test_one_peer_every_30_to_60_seconds(autojump_clock: MockClock) -> None:
    node = _Node()
    async with node.running():
        await trio.sleep(3600)
    times = [0.0, *(time for time, _ in node.done)]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(INTERVAL[0] <= gap <= INTERVAL[1] + 0.2 for gap in gaps)
    assert {peer for _, peer in node.done} == set(PEERS)


async def test_who_dialled_begins_and_who_was_dialled_waits(autojump_clock: MockClock) -> None:
    node = _Node()
    async with node.running() as rounds, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: rounds.greet(PEERS[0], dialled_by_us=True))
        nursery.start_soon(lambda: rounds.greet(PEERS[1], dialled_by_us=False))
        nursery.start_soon(lambda: rounds.greet(PEERS[2], dialled_by_us=False))
        await trio.sleep(1)
        rounds.synced(PEERS[2], news=False)  # it came to us first
        await trio.sleep(8)
    assert [peer for _, peer in node.done] == PEERS[:2]
    assert node.done[0][0] < 0.2
    assert 3.0 < node.done[1][0] < 6.2


async def test_a_peer_that_comes_back_is_greeted_anew(autojump_clock: MockClock) -> None:
    node = _Node()
    async with node.running() as rounds:
        await rounds.greet(PEERS[0], dialled_by_us=True)
        await trio.sleep(1)
        await rounds.greet(PEERS[0], dialled_by_us=True)
        await trio.sleep(1)
        assert len(node.done) == 1
        rounds.forget(PEERS[0])
        await rounds.greet(PEERS[0], dialled_by_us=True)
        await trio.sleep(1)
    assert len(node.done) == 2


async def test_news_goes_to_two_others_once_however_often_it_is_told(autojump_clock: MockClock) -> None:
    node = _Node()
    async with node.running() as rounds:
        await trio.sleep(0.01)
        for _ in range(10):
            rounds.announce()
        await trio.sleep(5)
    assert len(node.done) == 2
    assert 1.0 < node.done[0][0] < 3.2


async def test_three_at_once_and_each_peer_once_in_the_queue(autojump_clock: MockClock) -> None:
    node = _Node(seconds=10)
    async with node.running() as rounds:
        for _ in range(3):
            for peer in PEERS:
                rounds.request(peer)
        await trio.sleep(25)
    assert node.most_at_once == 3
    assert sorted(peer for _, peer in node.done) == PEERS


async def test_who_has_left_is_skipped_and_too_many_wait_for_the_next_round(
    autojump_clock: MockClock,
) -> None:
    node = _Node()
    node.peers = [NodeId(f"0x{i:040x}") for i in range(200)]
    async with node.running() as rounds:
        for peer in node.peers:
            rounds.request(peer)
        node.peers = node.peers[:10]
        await trio.sleep(20)
    assert sorted(peer for _, peer in node.done) == node.peers
