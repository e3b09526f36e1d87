"""Tasks that are used again: each job is done, a cancelled one alone ends its task, and idle tasks end."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from p2p.bus import workers
from p2p.bus.workers import Workers


def tasks(nursery: trio.Nursery) -> int:
    return len(nursery.child_tasks)


async def test_a_task_does_one_job_after_the_other(nursery: trio.Nursery) -> None:
    pool, done = Workers(nursery), []
    for i in range(5):

        async def do(i: int = i) -> None:
            await trio.lowlevel.checkpoint()
            done.append(i)

        pool.start(do, math.inf, trio.current_time())
        await wait_all_tasks_blocked()
    assert done == [0, 1, 2, 3, 4]
    assert tasks(nursery) == len(pool) == 1
    nursery.cancel_scope.cancel()


async def test_as_many_at_once_as_are_asked_for(nursery: trio.Nursery) -> None:
    pool, go, done = Workers(nursery), trio.Event(), []

    async def do() -> None:
        await go.wait()
        done.append(1)

    for _ in range(50):
        pool.start(do, math.inf, trio.current_time())
    await wait_all_tasks_blocked()
    assert tasks(nursery) == 50
    go.set()
    await wait_all_tasks_blocked()
    assert len(done) == len(pool) == 50
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reused", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_cancelled_job_is_the_only_one(nursery: trio.Nursery, reused: bool, begun: bool) -> None:
    pool, done = Workers(nursery), []

    async def nothing() -> None:
        await trio.lowlevel.checkpoint()

    async def hang() -> None:
        try:
            await trio.sleep_forever()
        finally:
            done.append("stopped")

    async def do() -> None:
        await trio.lowlevel.checkpoint()
        done.append("done")

    if reused:
        pool.start(nothing, math.inf, trio.current_time())
        await wait_all_tasks_blocked()
    job = pool.start(hang, math.inf, trio.current_time())
    if begun:
        await wait_all_tasks_blocked()
    job.cancel()
    pool.start(do, math.inf, trio.current_time())
    await wait_all_tasks_blocked()
    job.cancel()
    pool.start(do, math.inf, trio.current_time())
    await wait_all_tasks_blocked()
    assert sorted(done) == ["done", "done", "stopped"]
    nursery.cancel_scope.cancel()


async def test_a_cancel_that_comes_late_hits_nobody_else(nursery: trio.Nursery) -> None:
    pool, done = Workers(nursery), []

    async def do() -> None:
        await trio.lowlevel.checkpoint()
        done.append(1)

    first = pool.start(do, math.inf, trio.current_time())
    await wait_all_tasks_blocked()
    pool.start(do, math.inf, trio.current_time())
    first.cancel()
    await wait_all_tasks_blocked()
    assert len(done) == 2
    nursery.cancel_scope.cancel()


async def test_a_job_knows_about_how_long_it_has(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pool, left = Workers(nursery), []

    async def do() -> None:
        left.append(trio.current_effective_deadline() - trio.current_time())

    for seconds in (30, 30, 8, 60, 1, math.inf, 30):
        pool.start(do, trio.current_time() + seconds, trio.current_time())
        await trio.sleep(0.5)
    for seconds, seen in zip((30, 30, 8, 60, 1, math.inf, 30), left, strict=True):
        assert seconds <= seen <= seconds * 9 / 8
    assert tasks(nursery) == 1


async def test_idle_tasks_end(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pool, done = Workers(nursery), []

    async def do() -> None:
        await trio.sleep(1)
        done.append(1)

    for seconds in (5.0, 3600.0, math.inf):
        for _ in range(20):
            pool.start(do, trio.current_time() + seconds, trio.current_time())
        await trio.sleep(2)
        assert tasks(nursery) == len(pool) == 20
        await trio.sleep(workers.LONGEST_WAIT + 1)
        assert tasks(nursery) == len(pool) == 0
    assert len(done) == 60
    pool.start(do, math.inf, trio.current_time())
    await trio.sleep(2)
    assert len(done) == 61
    nursery.cancel_scope.cancel()
