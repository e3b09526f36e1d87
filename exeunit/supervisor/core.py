"""What an activity is and does, without I/O: its state, its batches, their results and events.

The table `TRANSITIONS` says which command may run in which state and where it leads. A command that fails
leaves the activity in the state it was in. Batches run one after another, each command of a batch after the one
before; the first that fails ends its batch. (The original lets two batches collide and refuses the later command
as "busy"; here it waits.)

The driver asks `begin` for the next command, feeds `output` and `progress`, and says `finish`; readers use
`results` and `events`, which never change anything. After any call the driver wakes whoever waits. All memory is
bounded: of scripts, kept output and event logs, the oldest finished batches go first.

Errors: `Refused`, with one of the names in `protocols.activity.messages.ErrorCode`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from exeunit.supervisor.capture import Capture
from exeunit.supervisor.eventlog import EventLog, utc
from exeunit.supervisor.script import Command
from protocols.activity.messages import (
    ActivityState,
    CommandFinished,
    CommandProgress,
    CommandResult,
    CommandStarted,
    ErrorCode,
    ExeScriptCommandResult,
    RunningCommand,
    RuntimeEventKind,
    State,
    StreamedEvent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_WAITING: Final = 64
"""Batches that may wait their turn."""
MAX_KEPT: Final = 1024
"""Finished batches whose results can still be read."""
KEPT_OUTPUT_BYTES: Final = 1 << 20
"""Output that the results of one batch hold at most: an answer must fit into one frame of the bus, encoded."""
LOG_BYTES: Final = 4 << 20
"""What the event log of one batch may take."""
TOTAL_BYTES: Final = 64 << 20
"""What all batches may take; finished ones beyond it are forgotten."""
SUPERVISOR_FAILURE: Final = -1
"""Return code of a command that the supervisor, not the runtime, failed."""


class Transition(NamedTuple):
    """What a command does to the state."""

    before: frozenset[State]
    """States in which it may run."""
    after: State
    """Where it leads when it succeeds."""


_ALIVE: Final = frozenset({State.INITIALIZED, State.DEPLOYED, State.READY})

TRANSITIONS: Final = {
    "deploy": Transition(frozenset({State.INITIALIZED}), State.DEPLOYED),
    "start": Transition(frozenset({State.DEPLOYED}), State.READY),
    "run": Transition(frozenset({State.READY}), State.READY),
    "transfer": Transition(frozenset({State.READY}), State.READY),
    "terminate": Transition(_ALIVE, State.INITIALIZED),
    "sign": Transition(frozenset(), State.READY),
}
"""`sign` is known but belongs to SGX builds of the original: there is no state in which it works."""


class Refused(Exception):
    """A request that cannot be served."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Job(msgspec.Struct, frozen=True):
    """A command that the driver is to run now."""

    batch_id: str
    index: int
    """Its place in the batch, from 0."""
    command: Command


class _Batch:
    def __init__(self, batch_id: str, commands: Sequence[Command]) -> None:
        self.id = batch_id
        self.commands = commands
        self.results: list[ExeScriptCommandResult] = []
        self.log = EventLog(batch_id, LOG_BYTES)
        self.output_room = KEPT_OUTPUT_BYTES
        self.finished = False

    @property
    def size(self) -> int:
        return self.log.size + KEPT_OUTPUT_BYTES - self.output_room


class Core:
    """One activity."""

    def __init__(self) -> None:
        self._state: tuple[State, State | None] = (State.NEW, None)
        self._reason: str | None = None
        self._error: str | None = None
        self._batches: dict[str, _Batch] = {}
        self._running: tuple[_Batch, Capture, Capture, State] | None = None

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def state(self) -> ActivityState:
        """The state as it is reported."""
        return ActivityState(self._state, self._reason, self._error)

    def initialized(self) -> None:
        """The supervisor is up: commands are taken from now on."""
        self._state = (State.INITIALIZED, None)

    def terminating(self, reason: str, error: str | None = None) -> None:
        """The activity is to end: nothing new begins. The first reason stays."""
        if State.TERMINATED not in self._state:
            self._state = (self._state[0], State.TERMINATED)
            self._reason, self._error = reason, error

    def terminated(self, utc_ns: int) -> None:
        """Everything that ran is gone: whatever was not finished has failed."""
        why = (
            f"the activity was terminated: {self._reason}" if self._reason else "the activity was terminated"
        )
        if self._running is not None:
            self.finish(SUPERVISOR_FAILURE, why, utc_ns)
        for batch in self._batches.values():
            if not batch.finished:
                self._fail(batch, why, utc_ns)
        self._state = (State.TERMINATED, None)

    # --- batches --------------------------------------------------------------------------------------------

    def accept(self, batch_id: str, commands: Sequence[Command]) -> None:
        """Queue a batch.

        Raises:
            Refused: the id was used before, the activity ends, or too many batches wait.
        """
        if State.TERMINATED in self._state:
            raise Refused(ErrorCode.ACTIVITY, "the activity is terminated")
        if batch_id in self._batches:
            raise Refused(ErrorCode.BAD_REQUEST, f"batch {batch_id} exists already")
        if sum(not batch.finished for batch in self._batches.values()) >= MAX_WAITING:
            raise Refused(ErrorCode.ACTIVITY, f"{MAX_WAITING} batches wait already; wait for some to finish")
        self._batches[batch_id] = _Batch(batch_id, commands)

    def begin(self, utc_ns: int) -> Job | None:
        """Return the next command to run, or none; commands that may not run now are failed on the way."""
        if self._running is not None or State.TERMINATED in self._state:
            return None
        for batch in self._batches.values():
            if batch.finished:
                continue
            index = len(batch.results)
            command = batch.commands[index]
            transition = TRANSITIONS[command.name]
            current = self._state[0]
            if current not in transition.before:
                self._fail(batch, _illegal(command.name, current), utc_ns)
                continue
            batch.log.append(index, RuntimeEventKind(started=CommandStarted(command.source)), utc_ns)
            self._state = (current, transition.after)
            # Each of the two streams may fill half of what is left, so that one cannot starve the other.
            room = batch.output_room // 2
            self._running = (batch, Capture(command.stdout, room), Capture(command.stderr, room), current)
            return Job(batch.id, index, command)
        return None

    def output(self, stream: str, data: bytes, utc_ns: int) -> None:
        """Take output of the running command; `stream` is `stdout` or `stderr`."""
        if self._running is None:
            return
        batch, stdout, stderr, _ = self._running
        piece = (stdout if stream == "stdout" else stderr).feed(data)
        if piece is not None:
            self._log_output(batch, stream, piece, utc_ns)

    def progress(
        self, done: int, total: int | None, message: str | None, utc_ns: int, *, finished: bool = False
    ) -> None:
        """Tell how far the running command is, in bytes."""
        if self._running is None:
            return
        batch = self._running[0]
        event = CommandProgress((int(finished), 1), message, (done, total), "Bytes")
        batch.log.append(len(batch.results), RuntimeEventKind(progress=event), utc_ns)

    def finish(self, code: int, message: str | None, utc_ns: int) -> None:
        """The running command has ended with this return code; anything but 0 is a failure."""
        assert self._running is not None, "finish without begin"
        batch, stdout, stderr, before = self._running
        self._running = None
        for name, capture in (("stdout", stdout), ("stderr", stderr)):
            rest = capture.last_event()
            if rest is not None:
                self._log_output(batch, name, rest, utc_ns)
            if capture.cut:
                note = f"{name} was longer than the {capture.kept} bytes that could be kept; its middle is left out"
                message = f"{message}; {note}" if message else note
        batch.output_room -= stdout.kept + stderr.kept
        transition = TRANSITIONS[batch.commands[len(batch.results)].name]
        after = transition.after if code == 0 else before
        # A termination that began meanwhile stays pending.
        self._state = (after, State.TERMINATED if self._state[1] is State.TERMINATED else None)
        self._conclude(batch, code, message, stdout, stderr, utc_ns)

    def _log_output(self, batch: _Batch, stream: str, piece: str | tuple[int, ...], utc_ns: int) -> None:
        kind = RuntimeEventKind(stdout=piece) if stream == "stdout" else RuntimeEventKind(stderr=piece)
        batch.log.append(len(batch.results), kind, utc_ns)

    def _fail(self, batch: _Batch, message: str, utc_ns: int) -> None:
        """Fail the batch's next command without running it."""
        index = len(batch.results)
        started = CommandStarted(batch.commands[index].source)
        batch.log.append(index, RuntimeEventKind(started=started), utc_ns)
        self._conclude(batch, SUPERVISOR_FAILURE, message, None, None, utc_ns)

    def _conclude(
        self,
        batch: _Batch,
        code: int,
        message: str | None,
        stdout: Capture | None,
        stderr: Capture | None,
        utc_ns: int,
    ) -> None:
        index = len(batch.results)
        batch.finished = code != 0 or index + 1 == len(batch.commands)
        batch.log.append(index, RuntimeEventKind(finished=CommandFinished(code, message)), utc_ns)
        batch.results.append(
            ExeScriptCommandResult(
                index=index,
                result=CommandResult.OK if code == 0 else CommandResult.ERROR,
                stdout=stdout.result() if stdout else None,
                stderr=stderr.result() if stderr else None,
                message=message,
                is_batch_finished=batch.finished,
                event_date=utc(utc_ns),
            )
        )
        self._forget()

    def _forget(self) -> None:
        finished = [batch for batch in self._batches.values() if batch.finished]
        total = sum(batch.size for batch in self._batches.values())
        for batch in finished[:-1]:  # the newest stays, however large
            if len(finished) <= MAX_KEPT and total <= TOTAL_BYTES:
                return
            finished = finished[1:]
            total -= batch.size
            del self._batches[batch.id]

    # --- readers --------------------------------------------------------------------------------------------

    def results(
        self, batch_id: str, command_index: int | None
    ) -> tuple[tuple[ExeScriptCommandResult, ...], bool]:
        """Return what has ended, and whether there is no more to wait for.

        With an index: the results up to it, output only on that one, which counts as the last.

        Raises:
            Refused: no such batch, or no such command in it.
        """
        batch = self._batch(batch_id)
        if command_index is None:
            return tuple(batch.results), batch.finished
        if not 0 <= command_index < len(batch.commands):
            raise Refused(ErrorCode.BAD_REQUEST, f"batch {batch_id} has no command {command_index}")
        shown = [
            result if result.index == command_index else _without_output(result)
            for result in batch.results[: command_index + 1]
        ]
        if shown and shown[-1].index == command_index:
            shown[-1] = _as_last(shown[-1])
        return tuple(shown), batch.finished or len(batch.results) > command_index

    def events(self, batch_id: str, after: int, limit: int = 256) -> tuple[list[StreamedEvent], bool]:
        """Return events after a number (-1 for all), and whether the batch has ended with them.

        Raises:
            Refused: no such batch.
        """
        batch = self._batch(batch_id)
        events = batch.log.after(after, limit)
        return events, batch.finished and len(events) < limit

    def running(self) -> tuple[RunningCommand, ...]:
        """Return the next unfinished command of each batch."""
        commands = (
            batch.commands[len(batch.results)] for batch in self._batches.values() if not batch.finished
        )
        return tuple(RunningCommand(c.name.capitalize(), params=c.params or None) for c in commands)

    def _batch(self, batch_id: str) -> _Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise Refused(ErrorCode.NOT_FOUND, f"there is no batch {batch_id[:64]}")
        return batch


def _illegal(name: str, state: State) -> str:
    allowed = sorted(other.value for other in TRANSITIONS[name].before)
    if not allowed:
        return f"the command '{name}' is not offered by this exe-unit"
    return f"the command '{name}' is taken in the state {' or '.join(allowed)}; the activity is {state.value}"


def _without_output(result: ExeScriptCommandResult) -> ExeScriptCommandResult:
    return ExeScriptCommandResult(
        result.index, result.result, None, None, result.message, result.is_batch_finished, result.event_date
    )


def _as_last(result: ExeScriptCommandResult) -> ExeScriptCommandResult:
    return ExeScriptCommandResult(
        result.index, result.result, result.stdout, result.stderr, result.message, True, result.event_date
    )
