"""One provider at work on a job: an activity, then task after task, until none is left or it fails."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from node.requestor.job import JobSpec, TaskBoard, script_of
from protocols.activity.errors import ActivityError, Unreachable
from protocols.activity.messages import CommandResult
from protocols.files.errors import FilesError
from protocols.market.errors import MarketError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from node.parts import NodeParts
    from protocols.activity.messages import ExeScriptCommandResult
    from protocols.ground.wakeup import Signal

CREATE_TIMEOUT = 30.0
SETUP_TIMEOUT = 120.0
"""Seconds for deploying and starting, the image's download included."""
DESTROY_TIMEOUT = 10.0


class TaskFailed(Exception):
    """The program failed on a task."""


class ProviderFailed(Exception):
    """The provider, or the way to it, failed."""


class Hired:
    """A provider under an agreement, and what became of it."""

    def __init__(self, agreement_id: str, provider: str, name: str, offer: Mapping[str, Any]) -> None:
        self.agreement_id = agreement_id
        self.provider = provider
        self.name = name
        self.offer = offer
        self.state = "starting"
        self.error = ""
        self.gone = False
        """Whether it does not answer any more, so that its bill is not waited for."""
        self.task: int | None = None
        self.activities = 0
        self.accepted_wei = 0
        self.paid_wei = 0
        self.invoiced = False
        self.refusals = 0
        """How often its bill was found not to be payable."""
        self.balance_before: int | None = None
        self.balance_after: int | None = None
        self.transactions: tuple[str, ...] = ()
        self._began: float | None = None
        self._seconds = 0.0

    def begin(self, now: float) -> None:
        """An activity is being asked for."""
        self._began = now
        self.activities += 1

    def end(self, now: float) -> None:
        """The activity is over."""
        if self._began is not None:
            self._seconds += now - self._began
            self._began = None

    @property
    def alive(self) -> bool:
        """Whether an activity has begun and not ended."""
        return self._began is not None

    def seconds(self, now: float) -> float:
        """Return for how long its activities have been alive, as we measure it."""
        return self._seconds + (now - self._began if self._began is not None else 0.0)


async def work(node: NodeParts, spec: JobSpec, hired: Hired, board: TaskBoard, changed: Signal) -> None:
    """Let a hired provider work until nothing is left for it; ends its activity and agreement."""
    actor = node.key.node_id
    activity_id = ""
    try:
        hired.begin(trio.current_time())
        try:
            activity_id = await node.activity.requestor.create(
                actor, hired.agreement_id, timeout=CREATE_TIMEOUT
            )
            await _set_up(node, board, hired, activity_id)
            hired.state = "working"
            await _work_through(node, spec, hired, board, changed, activity_id)
            hired.state = "finished"
        except (ActivityError, ProviderFailed, TaskFailed) as error:
            hired.state, hired.error = "lost", str(error)
            hired.gone = isinstance(error, Unreachable)
    finally:
        with trio.CancelScope(shield=True):
            await _finish(node, hired, activity_id)
        changed.notify()


async def _set_up(node: NodeParts, board: TaskBoard, hired: Hired, activity_id: str) -> None:
    """Deploy and start the program; that it cannot be counts against a task, or a bad program would go on forever."""
    try:
        await _run(node, activity_id, [{"deploy": {}}, {"start": {"args": []}}], SETUP_TIMEOUT)
    except TaskFailed as error:
        index = board.take(hired.provider)
        if index is not None:
            board.undone(index, str(error), blame=True)
        raise


async def _work_through(
    node: NodeParts, spec: JobSpec, hired: Hired, board: TaskBoard, changed: Signal, activity_id: str
) -> None:
    while not board.over:
        ticket = changed.ticket()
        index = board.take(hired.provider)
        if index is None:
            await ticket.wait()  # somebody else's task may come back
            continue
        hired.task = index
        changed.notify()
        try:
            await _do_task(node, spec, index, activity_id)
        except TaskFailed as error:
            board.undone(index, str(error), blame=True)
        except BaseException as error:
            board.undone(index, str(error), blame=False)
            raise
        else:
            board.done(index)
        finally:
            hired.task = None
            changed.notify()


async def _do_task(node: NodeParts, spec: JobSpec, index: int, activity_id: str) -> None:
    """Run one task and bring its results here."""
    urls: list[str] = []
    try:
        for host, _ in spec.inputs:
            urls.append(await node.files.publish(Path(spec.filled(host, index))))
        for _, host in spec.outputs:
            target = Path(spec.filled(host, index))
            await trio.Path(target.parent).mkdir(parents=True, exist_ok=True)
            urls.append(await node.files.receive(target))
        split = len(spec.inputs)
        script = script_of(spec, index, urls[:split], urls[split:])
        await _run(node, activity_id, script, spec.task_timeout)
    except FilesError as error:
        raise TaskFailed(str(error)) from error
    finally:
        for url in urls[len(spec.inputs) :]:  # an input may serve other tasks too
            node.files.close(url)


async def _run(node: NodeParts, activity_id: str, script: list[dict[str, Any]], timeout: float) -> None:
    """Run a script to its end.

    Raises:
        TaskFailed: the program, or something it was asked to move, failed.
        ProviderFailed: it was not finished in time.
        ActivityError: the provider does not answer.
    """
    actor, requestor = node.key.node_id, node.activity.requestor
    batch_id = await requestor.exec(actor, activity_id, json.dumps(script))
    results = await requestor.results(actor, activity_id, batch_id, timeout=timeout, index=None)
    for result in results:
        if result.result is CommandResult.ERROR:
            raise TaskFailed(_explain(result, script))
    if not results or not results[-1].is_batch_finished:
        raise ProviderFailed(f"not finished within {timeout:.0f} s")


def _explain(result: ExeScriptCommandResult, script: list[dict[str, Any]]) -> str:
    (command,) = script[result.index]
    said, message = str(result.stderr or result.stdout or "").strip()[-500:], result.message or "failed"
    return f"{command}: {message}" + (f" | {said}" if said and said not in message else "")


async def _finish(node: NodeParts, hired: Hired, activity_id: str) -> None:
    """End the activity and the agreement, whatever the provider does."""
    if activity_id:
        with trio.move_on_after(DESTROY_TIMEOUT), contextlib.suppress(ActivityError):
            await node.activity.requestor.destroy(node.key.node_id, activity_id, timeout=DESTROY_TIMEOUT)
    hired.end(trio.current_time())
    message = "the work is done" if hired.state == "finished" else hired.error or "stopped by the requestor"
    reason = {
        "message": message,
        "golem.requestor.code": "Success" if hired.state == "finished" else "Failure",
    }
    with contextlib.suppress(MarketError):
        await node.market.service.terminate_agreement(node.key.node_id, hired.agreement_id, reason)
