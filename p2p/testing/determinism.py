"""Make a trio run repeatable, and prove that it was.

trio shuffles the tasks that are ready in each turn. `deterministic_scheduling` seeds that shuffle, so that
one seed gives one order; varying only this seed explores schedules while all else stays fixed. It reaches
into trio's private names (there is no public way), refuses when they vanish, and restores what it changed.

A worker thread takes real time, which a virtual clock cannot see, and ends between any two turns of the
scheduler. `threads_run_inline` runs what would go to one on the spot instead.

`Auditor` hashes what happened: two runs with the same digest took the same course.
"""

from __future__ import annotations

import hashlib
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import outcome
import trio._core._run as trio_run
import trio._threads as trio_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TextIO

_FLAG = "_ALLOW_DETERMINISTIC_SCHEDULING"
_GENERATOR = "_r"
_STARTER = "start_thread_soon"


class SchedulingUnsupported(RuntimeError):
    """This version of trio cannot be made deterministic the way that we know."""


@contextmanager
def deterministic_scheduling(seed: int) -> Iterator[None]:
    """Let trio's scheduler take the order that `seed` gives, for runs inside the context.

    Entered before `trio.run`, or inside a run: the order is determined from then on.

    Raises:
        SchedulingUnsupported: trio's private names are not what they were in 0.35.
    """
    module: Any = trio_run
    flag, generator = getattr(module, _FLAG, None), getattr(module, _GENERATOR, None)
    if not isinstance(flag, bool) or not isinstance(generator, random.Random):
        raise SchedulingUnsupported(
            f"this trio has no {_FLAG} or {_GENERATOR} any more, so that its scheduler cannot "
            "be seeded; use the trio version in requirements/lock.txt"
        )
    setattr(module, _FLAG, True)
    setattr(module, _GENERATOR, random.Random(seed))  # noqa: S311 - an order of tasks, no secret
    try:
        yield
    finally:
        setattr(module, _FLAG, flag)
        setattr(module, _GENERATOR, generator)


@contextmanager
def threads_run_inline() -> Iterator[None]:
    """Let `trio.to_thread`, and so trio's files and paths, run their functions at once in trio's own thread.

    What such a function does takes no virtual time, and its caller goes on in a turn of its own, as after a
    thread. It cannot call back with `trio.from_thread`: that would wait for the very thread that it is in.
    Entered before `trio.run`, or inside a run.

    Raises:
        SchedulingUnsupported: trio's private names are not what they were in 0.35.
    """
    module: Any = trio_threads
    starter = getattr(module, _STARTER, None)
    if starter is None:
        raise SchedulingUnsupported(
            f"this trio has no {_STARTER} in its thread module any more, so that its threads cannot be run "
            "inline; use the trio version in requirements/lock.txt"
        )
    owner = threading.get_ident()

    def start(function: Callable[[], Any], deliver: Callable[[Any], object], name: str | None = None) -> None:
        if threading.get_ident() == owner:
            deliver(outcome.capture(function))
        else:
            starter(function, deliver, name)  # another run of trio, which is none of ours

    setattr(module, _STARTER, start)
    try:
        yield
    finally:
        setattr(module, _STARTER, starter)


class Auditor:
    """A rolling SHA-256 over trace lines `<virtual time> <node> <event>`.

    Args:
        path: also write the lines to this file, to find the first one that differs.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._hash = hashlib.sha256()
        self._lines = 0
        self._file: TextIO | None = path.open("w", encoding="utf-8") if path else None

    def record(self, time: float, node: str, event: str) -> None:
        """Add a line: at `time` (seconds of virtual time), `event` happened at `node`."""
        line = f"{time:.9f} {node} {event}\n"
        self._hash.update(line.encode())
        self._lines += 1
        if self._file is not None:
            self._file.write(line)

    @property
    def lines(self) -> int:
        """Return how many lines were recorded."""
        return self._lines

    def digest(self) -> str:
        """Return the hash of all lines so far, in hexadecimal."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Close the trace file, if there is one; the digest stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
