"""The requestor helper as a service of the node: jobs by name, on the local bus at `/local/requestor`.

A job belongs to the node, not to whoever asked for it: the command line may go and come back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import trio

from node.requestor.job import JobError, JobProgress, JobSpec
from node.requestor.pending import PendingBills
from node.requestor.run import Job
from p2p.bus import Caller, Service, ServiceError
from p2p.entropy import hex32

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from node.parts import NodeParts
    from p2p.storage import Database

ADDRESS = "/local/requestor"
MAX_JOBS = 64
SHUTDOWN_PATIENCE = 8.0
"""Seconds that running jobs have to get their bills when the node stops; accepted ones are paid at its next start."""
_FOLLOW_PAUSE = 0.25
"""Seconds between two reports of progress."""


class StartJob(msgspec.Struct, frozen=True):
    """Start a job. The reply is `JobStarted`."""

    spec: JobSpec


class JobStarted(msgspec.Struct, frozen=True):
    """The job's name."""

    job_id: str


class FollowJob(msgspec.Struct, frozen=True):
    """Follow a job: a stream of `JobProgress`, ending with its end."""

    job_id: str


class StopJob(msgspec.Struct, frozen=True):
    """Stop a job; finished work is still paid. The reply is `JobStarted`."""

    job_id: str


class RequestorService:
    """Jobs of this node."""

    def __init__(self, node: NodeParts, nursery: trio.Nursery, bills: PendingBills) -> None:
        self._bills = bills
        self._node = node
        self._nursery = nursery
        self._jobs: dict[str, Job] = {}

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, node: NodeParts, database: Database) -> AsyncIterator[RequestorService]:
        """Serve while the context is open; jobs are stopped, and their work paid, at the end."""
        async with trio.open_nursery() as nursery:
            bills = PendingBills(node, database)
            nursery.start_soon(bills.pay_late, await bills.open())
            helper = cls(node, nursery, bills)
            service = Service()
            service.method(StartJob, helper._on_start)
            service.method(StopJob, helper._on_stop)
            service.streaming(FollowJob, helper._on_follow)
            registration = node.bus.register(ADDRESS, service, allow=lambda caller: not caller.child)
            try:
                yield helper
            finally:
                registration.close()
                for job in helper._jobs.values():
                    job.hurry(SHUTDOWN_PATIENCE)
                nursery.cancel_scope.cancel()

    def start(self, spec: JobSpec) -> str:
        """Start a job and return its name. Raises JobError."""
        over = [name for name, job in self._jobs.items() if job.progress().over]
        for name in over[: max(0, len(self._jobs) - MAX_JOBS + 1)]:
            del self._jobs[name]
        if len(self._jobs) >= MAX_JOBS:
            raise JobError(f"{MAX_JOBS} jobs are running already")
        job = Job(self._node, spec, self._bills)
        name = hex32(self._node.entropy)
        self._jobs[name] = job
        self._nursery.start_soon(job.run)
        return name

    def job(self, name: str) -> Job:
        """Return a job by name. Raises JobError."""
        try:
            return self._jobs[name]
        except KeyError:
            raise JobError(f"there is no job {name}") from None

    async def follow(self, name: str) -> AsyncIterator[JobProgress]:
        """Yield a job's progress whenever it changes, at most four times a second; ends with the job."""
        job = self.job(name)
        while True:
            ticket = job.changed.ticket()
            progress = job.progress()
            yield progress
            if progress.over:
                return
            with trio.move_on_after(1.0):
                await ticket.wait()
            await trio.sleep(_FOLLOW_PAUSE)

    async def _on_start(self, caller: Caller, request: StartJob) -> JobStarted:
        try:
            return JobStarted(self.start(request.spec))
        except JobError as error:
            raise ServiceError("badRequest", str(error)) from error

    async def _on_stop(self, caller: Caller, request: StopJob) -> JobStarted:
        try:
            self.job(request.job_id).stop()
        except JobError as error:
            raise ServiceError("notFound", str(error)) from error
        return JobStarted(request.job_id)

    async def _on_follow(self, caller: Caller, request: FollowJob) -> AsyncIterator[JobProgress]:
        try:
            self.job(request.job_id)
        except JobError as error:
            raise ServiceError("notFound", str(error)) from error
        async for progress in self.follow(request.job_id):
            yield progress
