"""A job without I/O: its tasks, who works on them, what is left, and what happened.

A task is tried on one provider at a time and at most `MAX_ATTEMPTS` times; a provider that fails or vanishes
gives its task back. `JobProgress` is what a person sees while it runs.
"""

from __future__ import annotations

import enum
from pathlib import PurePosixPath
from typing import Any

import msgspec

from protocols.ground.money import MoneyError, parse_amount

MAX_ATTEMPTS = 3
MAX_TASKS = 10_000
RUNTIME = "wasmtime"


class JobError(ValueError):
    """A job that makes no sense; the message says what is wrong."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to compute."""

    program: str
    """Path of a WASM program or .ywasi image on this machine."""
    args: tuple[str, ...] = ()
    """Its arguments; `{i}` is the task's index, `{n}` the number of tasks."""
    inputs: tuple[tuple[str, str], ...] = ()
    """(host path, guest path) copied in before a task; `{i}` as above."""
    outputs: tuple[tuple[str, str], ...] = ()
    """(guest path, host path) copied out after a task; `{i}` as above."""
    tasks: int = 1
    providers: int = 2
    """Most providers at work at a time."""
    budget: str = "5"
    """Most that the job may cost, in GLM."""
    task_timeout: float = 600.0
    """Seconds that one task may take on a provider, transfers included."""
    mem_gib: float = 0.25
    """Least memory that a provider must offer."""
    storage_gib: float = 0.1
    subnet: str = "public"
    entry_point: str = "main"

    def check(self) -> None:
        """Raise JobError if this cannot be run."""
        if not 1 <= self.tasks <= MAX_TASKS:
            raise JobError(f"--tasks must be 1 to {MAX_TASKS}")
        if not 1 <= self.providers <= 256:
            raise JobError("--providers must be 1 to 256")
        try:
            budget = parse_amount(self.budget)
        except MoneyError as error:
            raise JobError(f"--budget: {error}") from error
        if budget <= 0:
            raise JobError("--budget must be more than nothing")
        if not self.task_timeout > 0:
            raise JobError("--timeout must be more than 0 seconds")
        for _, guest in self.inputs:
            _check_guest(guest)
        for guest, host in self.outputs:
            _check_guest(guest)
            if self.tasks > 1 and "{i}" not in host:
                raise JobError(f"{self.tasks} tasks would write the one file {host}: put {{i}} into the name")

    def filled(self, text: str, index: int) -> str:
        """Return `text` with the task's index put in."""
        return text.replace("{i}", str(index)).replace("{n}", str(self.tasks))


def _check_guest(path: str) -> None:
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise JobError(f"{path!r} is not a path inside the program's world: expected one like /work/data")


class TaskState(enum.Enum):
    """Where a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class _Task:
    __slots__ = ("attempts", "error", "index", "provider", "state")

    def __init__(self, index: int) -> None:
        self.index = index
        self.state = TaskState.WAITING
        self.provider = ""
        self.attempts = 0
        self.error = ""


class TaskBoard:
    """Which task is where. Workers take tasks and give them back done or undone."""

    def __init__(self, count: int) -> None:
        self._tasks = [_Task(index) for index in range(count)]

    def take(self, provider: str) -> int | None:
        """Return a task for `provider` to work on, or None if none waits. Untried ones come first."""
        waiting = [task for task in self._tasks if task.state is TaskState.WAITING]
        if not waiting:
            return None
        task = min(waiting, key=lambda task: (task.attempts, task.index))
        task.state, task.provider = TaskState.RUNNING, provider
        task.attempts += 1
        return task.index

    def done(self, index: int) -> None:
        """A task's results are here."""
        self._tasks[index].state = TaskState.DONE

    def undone(self, index: int, error: str, *, blame: bool) -> None:
        """A task did not work out.

        Args:
            blame: whether the program itself failed; a provider that went away costs the task no attempt.
        """
        task = self._tasks[index]
        task.error = error
        if not blame:
            task.attempts -= 1
        task.state = TaskState.FAILED if task.attempts >= MAX_ATTEMPTS else TaskState.WAITING

    def count(self, state: TaskState) -> int:
        """Return how many tasks are in a state."""
        return sum(task.state is state for task in self._tasks)

    def done_by(self, provider: str) -> int:
        """Return how many tasks a provider has done."""
        return sum(task.state is TaskState.DONE and task.provider == provider for task in self._tasks)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do: all done, or one has failed for good."""
        return self.first_failure is not None or all(t.state is TaskState.DONE for t in self._tasks)

    @property
    def waiting(self) -> bool:
        """Whether a task waits for somebody."""
        return any(task.state is TaskState.WAITING for task in self._tasks)

    @property
    def first_failure(self) -> str | None:
        """Return why the first task failed for good, or None."""
        for task in self._tasks:
            if task.state is TaskState.FAILED:
                return f"task {task.index} failed {task.attempts} times, last: {task.error}"
        return None


class ProviderReport(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's part in a job."""

    node_id: str
    name: str
    state: str
    """In words: negotiating, starting, working, finished, lost."""
    agreement_id: str = ""
    task: int | None = None
    """What it works on now."""
    done: int = 0
    cost: str = "0"
    """Of its accepted bills, in GLM."""
    paid: str = "0"
    balance_before: str = ""
    balance_after: str = ""
    transactions: tuple[str, ...] = ()
    """Hashes of the transactions that paid it."""
    error: str = ""
    """What went wrong with it last."""


class JobProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How a job is doing."""

    phase: str
    """starting, finding, working, paying, done, failed, stopped."""
    offers: int
    """Offers that match."""
    agreements: int
    tasks: int
    running: int
    done: int
    elapsed: float
    """Seconds since the start."""
    cost: str
    """Accepted so far, in GLM."""
    running_cost: str = "0"
    """What it comes to so far, in GLM: what is accepted, and our own estimate of what is not billed yet."""
    providers: tuple[ProviderReport, ...] = ()
    note: str = ""
    """The newest thing worth saying."""
    error: str = ""
    """Why it failed."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.phase in ("done", "failed", "stopped")

    @property
    def eta(self) -> float | None:
        """Return the seconds left at the present pace, or None before the first task is done."""
        if not self.done or self.done == self.tasks or self.phase != "working":
            return None
        return self.elapsed / self.done * (self.tasks - self.done)


def script_of(spec: JobSpec, index: int, inputs: list[str], outputs: list[str]) -> list[dict[str, Any]]:
    """Return the exe script of one task.

    Args:
        inputs: the URL to fetch each of `spec.inputs` from.
        outputs: the URL to send each of `spec.outputs` to.
    """
    commands: list[dict[str, Any]] = [
        {"transfer": {"from": url, "to": f"container:{spec.filled(guest, index)}"}}
        for url, (_, guest) in zip(inputs, spec.inputs, strict=True)
    ]
    keep = {"atEnd": {"tail": 4096}}
    commands.append(
        {
            "run": {
                "entry_point": spec.entry_point,
                "args": [spec.filled(argument, index) for argument in spec.args],
                "capture": {"stdout": keep, "stderr": keep},
                "timeout": spec.task_timeout,
            }
        }
    )
    commands += [
        {"transfer": {"from": f"container:{spec.filled(guest, index)}", "to": url}}
        for url, (guest, _) in zip(outputs, spec.outputs, strict=True)
    ]
    return commands
