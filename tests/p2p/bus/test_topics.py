"""Subscribers get what is published, in order, and lose their oldest when they do not keep up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from p2p.bus import topics
from p2p.bus.api import MAX_BODY_BYTES, BadContent, BusClosed
from p2p.bus.topics import Subscription, Topics

if TYPE_CHECKING:
    import trio


async def test_a_full_subscriber_loses_its_oldest_and_the_log_says_so() -> None:
    board = Topics()
    async with board.subscribe("t") as slow:
        with capture_logs() as log:
            for i in range(topics.QUEUE_EVENTS + 5):
                board.publish("t", b"%d" % i)
        assert slow.lost == 5
        assert [entry["lost"] for entry in log] == [1, 2, 4]
        assert await anext(slow) == b"5"


async def test_bytes_are_bounded_as_well() -> None:
    board = Topics()
    async with board.subscribe("t") as slow:
        for i in range(4):
            board.publish("t", bytes([i]) * MAX_BODY_BYTES)
        assert slow.lost == 2
        assert (await anext(slow))[:1] == b"\x02"


async def test_a_too_large_event_is_the_publishers_fault() -> None:
    with pytest.raises(BadContent, match="at most"):
        Topics().publish("t", bytes(MAX_BODY_BYTES + 1))


async def test_a_subscriber_waits_and_wakes(nursery: trio.Nursery) -> None:
    board = Topics()
    got: list[bytes] = []

    async def listen() -> None:
        async with board.subscribe("t") as events:
            got.append(await anext(events))
            got.append(await anext(events))

    nursery.start_soon(listen)
    await wait_all_tasks_blocked()
    board.publish("t", b"1")
    await wait_all_tasks_blocked()
    assert got == [b"1"]
    board.publish("t", b"2")
    await wait_all_tasks_blocked()
    assert got == [b"1", b"2"]


async def test_nothing_is_kept_of_those_who_left() -> None:
    board = Topics()
    async with board.subscribe("t"), board.subscribe("t"):
        assert len(board._subscriptions["t"]) == 2
    assert board._subscriptions == {}


async def test_an_end_comes_after_what_waits() -> None:
    subscription = Subscription("t")
    subscription.put(b"1")
    subscription.end(BusClosed("gone"))
    assert await anext(subscription) == b"1"
    for _ in range(2):
        with pytest.raises(BusClosed):
            await anext(subscription)
