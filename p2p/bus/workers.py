"""`Workers`: the tasks of a line that read what comes and answer calls; one of them reads at a time.

A task, a switch to it and a cancel scope for each call took a third of the processor time of a small one, on the side
that serves it. So whoever reads also answers, up to where the answer has to wait for something; most never have
to. Only then another task is appointed to read on, and the first sees its call through. Afterwards it waits to be
appointed again. A cancelled call ends its task.

The scope of a task has a deadline a little later than that of its call, so that what the call asks for in turn can be
told about how much time there is; the call's own is kept by the line.
"""

from __future__ import annotations

import math
import types
from typing import TYPE_CHECKING, Any, Final

import trio

from p2p.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

LONGEST_WAIT: Final = 60.0
"""Seconds after which a task that is not needed ends."""
_LATER: Final = 1 / 8
"""How much later than its call's a task's deadline may be, as a part of the time that is left."""
_LATER_SECONDS: Final = 1.0
"""How much later it may be in any case: the line has to be the first to see that the call's time is over."""


class Worker:
    """One task."""

    __slots__ = ("busy_with", "deadline", "news", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.busy_with: object | None = None
        """What it sees through, while another reads."""
        self.deadline = math.inf
        self.news = Waiter()

    def cancel(self, what: object) -> None:
        """End the task, if it is still busy with `what`."""
        if self.busy_with is what:
            self.scope.cancel()

    def set_deadline(self, deadline: float, now: float) -> None:
        """Have the scope's deadline be `deadline` or a little later. Setting one is what costs: it is seldom done."""
        latest = (
            deadline + max((deadline - now) * _LATER, _LATER_SECONDS) if deadline < math.inf else math.inf
        )
        if not deadline <= self.deadline <= latest:
            self.deadline = self.scope.deadline = latest

    def clear_deadline(self) -> None:
        """Let the task wait for as long as it takes."""
        if self.deadline < math.inf:
            self.deadline = self.scope.deadline = math.inf


class Workers:
    """The tasks of a line, in `nursery`.

    Args:
        read: reads until it has appointed another and is done with what it had begun; False when there is
            nothing more to read.
    """

    def __init__(self, nursery: trio.Nursery, read: Callable[[Worker], Awaitable[bool]]) -> None:
        self._nursery = nursery
        self._read = read
        self._idle: list[Worker] = []

    def __len__(self) -> int:
        """Return how many wait to be appointed."""
        return len(self._idle)

    def appoint(self) -> None:
        """Have another task read on."""
        while self._idle:
            worker = self._idle.pop()
            if worker.deadline > trio.current_time():  # else it is about to end
                worker.clear_deadline()
                worker.news.wake()
                return
        self._nursery.start_soon(self._work, Worker())

    async def _work(self, worker: Worker) -> None:
        with worker.scope:
            while await self._read(worker):
                worker.busy_with = None
                if (
                    worker.scope.cancel_called
                ):  # by `cancel`, or its time is over: it cannot wait for anything now
                    return
                worker.deadline = worker.scope.deadline = trio.current_time() + LONGEST_WAIT
                self._idle.append(worker)
                await worker.news.wait()
        if worker in self._idle:
            self._idle.remove(worker)


def begin(work: Coroutine[Any, Any, None]) -> Any:
    """Do `work` up to where it has to wait; return what `see_through` takes, or None if it was done before.

    It belongs to the task that called this, as if it had been awaited there, and so has to be seen through by it.
    """
    try:
        return work.send(None)
    except StopIteration:
        return None


@types.coroutine
def see_through(work: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Await the rest of `work`, of which `begin` returned what it waits for."""
    try:
        while True:
            waits_for = work.send((yield waits_for))
    except StopIteration:
        return
    finally:
        work.close()
