"""The tasks of a line: one reads at a time, who waits sees its work through, and tasks are used again and let go."""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.bus import workers
from p2p.bus.workers import Worker, Workers, begin, see_through

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Source:
    """What is to be read: pieces of work, done by whoever reads."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.workers = Workers(nursery, self._read)
        self.reading = 0
        self.done: list[str] = []
        self.ended = 0
        self.left: list[float] = []
        self.begun: dict[str, Worker] = {}
        self._nursery = nursery
        self._waiting: deque[tuple[str, float]] = deque()
        self._news = trio.Event()

    @property
    def tasks(self) -> int:
        return len(self._nursery.child_tasks)

    def put(self, what: str, seconds: float = math.inf) -> None:
        self._waiting.append((what, seconds))
        self._news.set()

    async def _read(self, worker: Worker) -> bool:
        self.reading += 1
        assert self.reading == 1, "two read at once"
        try:
            return await self._read_on(worker)
        finally:
            self.reading -= worker.busy_with is None

    async def _read_on(self, worker: Worker) -> bool:
        while True:
            while self._waiting:
                what, seconds = self._waiting.popleft()
                if what == "end":
                    return False
                worker.set_deadline(trio.current_time() + seconds, trio.current_time())
                work = self._do(what)
                waits_for = begin(work)
                if waits_for is not None:
                    worker.busy_with = what
                    self.begun[what] = worker
                    self.reading -= 1
                    self.workers.appoint()
                    await see_through(work, waits_for)
                    return True
            worker.clear_deadline()
            self._news = trio.Event()
            await self._news.wait()

    async def _do(self, what: str) -> None:
        self.left.append(trio.current_effective_deadline() - trio.current_time())
        try:
            if what.startswith("hang"):
                await trio.sleep_forever()
            elif what.startswith("wait"):
                with trio.CancelScope():  # its own scopes and nurseries work
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(trio.sleep, 1)
                        await trio.sleep(2)
            elif what.startswith("nap"):
                with trio.move_on_after(1):
                    await trio.sleep_forever()
                await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self.done.append(f"{what} cancelled")
            raise
        finally:
            self.ended += 1
        self.done.append(what)


@pytest.fixture
async def source(nursery: trio.Nursery) -> Source:
    made = Source(nursery)
    made.workers.appoint()
    await wait_all_tasks_blocked()
    return made


async def test_what_need_not_wait_is_done_by_one_task(source: Source) -> None:
    for i in range(100):
        source.put(f"{i}")
    await wait_all_tasks_blocked()
    assert source.done == [f"{i}" for i in range(100)]
    assert source.tasks == 1


async def test_what_waits_holds_nothing_up_and_is_seen_through(
    autojump_clock: MockClock, source: Source
) -> None:
    for i in range(20):
        source.put(f"wait {i}")
        source.put(f"nap {i}")
        source.put(f"quick {i}")
    await wait_all_tasks_blocked()
    assert source.done == [f"quick {i}" for i in range(20)]
    assert source.tasks >= 41
    await trio.sleep(3)
    assert len(source.done) == 60
    assert source.tasks == 41 == len(source.workers) + 1, "tasks are not kept for what comes next"
    source.put("wait again")
    await trio.sleep(3)
    assert source.tasks == 41


async def test_a_cancelled_one_is_the_only_one(autojump_clock: MockClock, source: Source) -> None:
    for i in range(3):
        source.put(f"hang {i}")
    await wait_all_tasks_blocked()
    (what,) = [begun for begun in source.begun if begun == "hang 1"]
    source.begun[what].cancel("something else")
    source.begun[what].cancel(what)
    source.put("quick")
    await wait_all_tasks_blocked()
    assert sorted(source.done) == ["hang 1 cancelled", "quick"]
    source.begun[what].cancel(what)
    source.put("nap")
    await trio.sleep(2)
    assert source.done[-1] == "nap"


async def test_a_cancel_that_comes_late_hits_nobody_else(autojump_clock: MockClock, source: Source) -> None:
    source.put("nap 1")
    await trio.sleep(2)
    ((what, old),) = source.begun.items()
    source.put("nap 2")  # read on by the task of the first
    source.put("nap 3")
    await wait_all_tasks_blocked()
    old.cancel(what)
    await trio.sleep(2)
    assert sorted(source.done) == ["nap 1", "nap 2", "nap 3"]


async def test_work_knows_about_how_long_it_has(autojump_clock: MockClock, source: Source) -> None:
    times = (30.0, 30.0, 8.0, 60.0, 1.0, math.inf, 30.0, 0.0)
    for seconds in times:
        source.put("quick", seconds)
        await trio.sleep(0.5)
    for seconds, seen in zip(times, source.left, strict=True):
        assert seconds <= seen <= max(seconds * 9 / 8, seconds + 1)
    await trio.sleep(100)
    source.put("nap", 30.0)
    await trio.sleep(2)
    assert source.done == ["quick"] * len(times) + ["nap"], "the time of a call has ended who reads"


async def test_tasks_that_nobody_needs_end(autojump_clock: MockClock, source: Source) -> None:
    for _ in range(3):
        for i in range(20):
            source.put(f"nap {i}", 3600.0)
        await trio.sleep(2)
        assert source.tasks == 21
        await trio.sleep(workers.LONGEST_WAIT + 1)
        assert source.tasks == 1
        assert len(source.workers) == 0
    assert len(source.done) == 60


async def test_one_reads_however_the_times_fall(autojump_clock: MockClock, source: Source) -> None:
    """Tasks that end in the moment in which one of them is appointed: `Source` sees to it that there is one."""
    chance = random.Random(1)
    for i in range(3000):
        source.put(f"{chance.choice(['nap', 'quick', 'wait'])} {i}", chance.choice([0.0, 1.0, 2.0, 60.0]))
        await trio.sleep(chance.choice([0.0, 0.0, 1.0, workers.LONGEST_WAIT]))
    await trio.sleep(100)
    assert source.reading == 1
    assert source.ended == 3000


async def test_nothing_is_left_when_there_is_nothing_to_read(source: Source) -> None:
    source.put("end")
    await wait_all_tasks_blocked()
    assert source.tasks == 0


async def test_what_fails_fails_where_it_is_awaited(autojump_clock: MockClock) -> None:
    async def fail(after: float) -> None:
        if after:
            await trio.sleep(after)
        raise LookupError(after)

    with pytest.raises(LookupError, match="0"):
        begin(fail(0))
    work = fail(1)
    with pytest.raises(LookupError, match="1"):
        await see_through(work, begin(work))

    async def twice(work: Coroutine[None, None, None]) -> None:
        await see_through(work, begin(work))

    with trio.move_on_after(0.5) as scope:
        await twice(fail(1))
    assert scope.cancelled_caught
