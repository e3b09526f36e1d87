"""Long polls: wake on commit, miss nothing, give up in time."""

from __future__ import annotations

import trio
import trio.testing

from protocols.ground.wakeup import Signal, poll


async def test_returns_at_once_what_is_there(autojump_clock: trio.testing.MockClock) -> None:
    async def read() -> list[int]:
        return [1]

    assert await poll(Signal(), read, timeout=100) == [1]
    assert trio.current_time() == autojump_clock.current_time()


async def test_wakes_when_something_was_committed(autojump_clock: trio.testing.MockClock) -> None:
    signal, rows = Signal(), list[int]()

    async def read() -> list[int]:
        return list(rows)

    async def commit() -> None:
        await trio.sleep(3)
        rows.append(7)
        signal.notify()

    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        nursery.start_soon(commit)
        assert await poll(signal, read, timeout=100) == [7]
        assert trio.current_time() - start == 3


async def test_what_is_committed_between_reading_and_sleeping_is_not_missed() -> None:
    signal, rows = Signal(), list[int]()

    async def read() -> list[int]:
        found = list(rows)
        if not found:
            rows.append(1)
            signal.notify()
        return found

    assert await poll(signal, read, timeout=5) == [1]


async def test_gives_up_with_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async def read() -> list[int]:
        await trio.lowlevel.checkpoint()
        return []

    start = trio.current_time()
    assert list(await poll(Signal(), read, timeout=5)) == []
    assert trio.current_time() - start == 5
    assert list(await poll(Signal(), read, timeout=-1)) == []
