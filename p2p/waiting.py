"""`Waiter`: the cheapest way for one task to wait for news. Used where that is done a thousand times a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiter:
    """Where one task waits until another has news for it. Cheaper than an Event, which is made anew each time."""

    __slots__ = ("_news", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._news = False

    def wake(self) -> None:
        """Let the waiting task go on, or the next wait return at once."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)
        else:
            self._news = True

    async def wait(self) -> None:
        """Wait for `wake`; returns at once, after a checkpoint, when it was called meanwhile."""
        if self._news:
            self._news = False
            await trio.lowlevel.checkpoint()
            return
        self._task = trio.lowlevel.current_task()

        def abort(_: Callable[[], NoReturn]) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def forget(self) -> None:
        """Drop news that came while nobody waited."""
        self._news = False
