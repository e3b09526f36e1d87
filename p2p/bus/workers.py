"""`Workers`: the tasks in which a line answers calls, used again and again.

A task and a cancel scope for each call took a quarter of the processor time of a small one, on the side that serves it.
So a task that has done its job waits for the next, and only a job that is cancelled ends its task. The scope of a
task has a deadline a little later than that of its job, so that what the job calls in turn can be told about how much
time there is; the job's own is kept by whoever gave it. A task without jobs ends when its deadline has passed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import trio

from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LONGEST_WAIT: Final = 60.0
"""Seconds after which a task without jobs ends, if its last job had longer."""
_LATER: Final = 1 / 8
"""How much later than its job's a task's deadline may be, as a part of the time that is left."""


class Job:
    """Something that is done in a task of its own. `cancel` stops it, before it begins as well."""

    __slots__ = ("_worker", "do")

    def __init__(self, do: Callable[[], Awaitable[None]], worker: _Worker) -> None:
        self.do = do
        self._worker = worker

    def cancel(self) -> None:
        """Stop it; nothing happens when it is done."""
        if self._worker.job is self:
            self._worker.cancelled = True
            self._worker.scope.cancel()


class _Worker:
    __slots__ = ("cancelled", "deadline", "job", "news", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.cancelled = False
        self.deadline = math.inf
        self.news = Waiter()
        self.job: Job | None = None

    def set_deadline(self, deadline: float, now: float) -> None:
        """Have the scope's deadline be `deadline` or a little later. Setting one is what costs: it is seldom done."""
        latest = deadline + (deadline - now) * _LATER if deadline < math.inf else math.inf
        if not deadline <= self.deadline <= latest:
            self.deadline = self.scope.deadline = latest


class Workers:
    """Tasks in `nursery` that do jobs; as many at once as are asked for."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._idle: list[_Worker] = []

    def __len__(self) -> int:
        """Return how many wait for jobs."""
        return len(self._idle)

    def start(self, do: Callable[[], Awaitable[None]], deadline: float, now: float) -> Job:
        """Have `do` called in a task that `Job.cancel` cancels; what it raises ends the nursery.

        Args:
            deadline: in trio's time, when `Job.cancel` will be called at the latest.
        """
        while self._idle:
            worker = self._idle.pop()
            if worker.deadline > now:
                worker.set_deadline(deadline, now)
                worker.job = job = Job(do, worker)
                worker.news.wake()
                return job
        worker = _Worker()
        worker.set_deadline(deadline, now)
        worker.job = job = Job(do, worker)
        self._nursery.start_soon(self._work, worker)
        return job

    async def _work(self, worker: _Worker) -> None:
        with worker.scope:
            while worker.job is not None:
                try:
                    await worker.job.do()
                finally:
                    worker.job = None
                if worker.cancelled:
                    return
                if worker.deadline > trio.current_time() + LONGEST_WAIT:
                    worker.deadline = worker.scope.deadline = trio.current_time() + LONGEST_WAIT
                self._idle.append(worker)
                await worker.news.wait()
        if worker in self._idle:
            self._idle.remove(worker)
