"""A deal between nodes in memory, from the offer to the last confirmed payment, on virtual time.

    python -m simulations.deal --seed 7 --trace trace.txt

A requestor's job is computed by some providers and paid for. Everything that decides anything is the node's
own code; `simulations.node` says what is modelled. One seed gives one course, byte for byte: a test runs it in
two processes and compares. `running_deal` is for tests that want to look inside, or to interfere.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio
from trio.testing import MockClock

from node import config as configuration
from node.requestor.job import JobSpec
from node.requestor.pending import PendingBills
from node.requestor.run import Job
from p2p.entropy import SeededEntropy
from p2p.testing.clock import VirtualClock
from p2p.testing.determinism import Auditor, deterministic_scheduling, threads_run_inline
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork
from protocols.ground.times import SECOND
from protocols.payment.records import Status
from protocols.payment.testing import ModelChain
from simulations.models.chain import make_blocks
from simulations.node import SimulatedNode, World, simulated_node
from simulations.trace import follow_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from node.config import Config

TIME_LIMIT = 3600.0
"""Virtual seconds after which a deal that has not ended is given up."""
SETTLING = 60.0
"""Virtual seconds that providers have to see their money once the requestor's job is over."""
NOTE_INTERVAL = 10
"""Seconds between debit notes."""
PRICES = ("0.9", "1.2", "1.5")
"""GLM for an hour of a busy thread, of one provider after another."""
PROGRAM_BYTES = 150_000
INPUT_BYTES = 60_000
"""Most that a task's input has."""


class DealSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated."""

    seed: int
    providers: int = 2
    tasks: int = 8
    kill_at: float | None = None
    """Virtual time at which the first provider's node dies; None if it lives."""
    link: Link = Link(latency=0.02, jitter=0.02, bandwidth=2_000_000.0)
    """Between any two nodes."""


class ProviderSummary(msgspec.Struct, frozen=True):
    """What became of one provider."""

    node_id: str
    tasks_done: int
    earned_wei: int
    """On the chain."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """How a deal went."""

    seed: int
    phase: str
    """Of the job: done, or failed."""
    error: str
    tasks: int
    tasks_done: int
    agreements: int
    paid_wei: int
    """In payments that the requestor has seen confirmed."""
    providers: tuple[ProviderSummary, ...]
    differences: int
    """What audits of the ledgers found; anything but 0 is a fault of ours."""
    virtual_seconds: float
    events: int = 0
    """Lines of the trace."""
    digest: str = ""
    """SHA-256 of the trace."""


class Deal:
    """Nodes with their protocols and agents; made by `running_deal`."""

    def __init__(self, spec: DealSpec, world: World, nursery: trio.Nursery) -> None:
        self.spec = spec
        self.world = world
        self.nodes: list[SimulatedNode] = []
        """The requestor's, then the providers', those that were killed included."""
        self._nursery = nursery
        self._lives: dict[str, _Life] = {}

    @property
    def requestor(self) -> SimulatedNode:
        """Return the node whose job it is."""
        return self.nodes[0]

    @property
    def providers(self) -> list[SimulatedNode]:
        """Return the providers' nodes."""
        return self.nodes[1:]

    @property
    def alive(self) -> list[SimulatedNode]:
        """Return the nodes that were not killed."""
        return [node for node in self.nodes if not self._lives[node.node_id].ended.is_set()]

    async def start(self) -> None:
        """Start the nodes one after another, each connected to all before it."""
        await self._start("requestor", {"provider.enabled": "false"})
        for index in range(self.spec.providers):
            price = PRICES[index % len(PRICES)]
            await self._start(f"provider-{index}", {"provider.enabled": "true", "provider.price-hour": price})

    async def kill(self, node: SimulatedNode) -> None:
        """Let a node vanish from the network, and stop; nobody hears a word of it."""
        self.world.network.isolate(node.node_id)
        life = self._lives[node.node_id]
        life.scope.cancel()
        await life.ended.wait()

    async def job(self) -> Job:
        """Return the deal's job, not yet running."""
        bills = PendingBills(self.requestor, self.requestor.database)
        await bills.open()
        return Job(self.requestor, self.job_spec(), bills)

    def job_spec(self) -> JobSpec:
        """Write the job's files, and return what is to be done with them."""
        folder = self.world.folder / "job"
        folder.mkdir()
        content = SeededEntropy(self.spec.seed, "files")
        (folder / "program").write_bytes(content.token_bytes(PROGRAM_BYTES))
        for index in range(self.spec.tasks):
            size = content.jitter.randrange(1, INPUT_BYTES)
            (folder / f"input-{index}").write_bytes(content.token_bytes(size))
        return JobSpec(
            program=str(folder / "program"),
            args=("{i}", "{n}"),
            inputs=((str(folder / "input-{i}"), "/work/input"),),
            outputs=(("/work/output", str(folder / "output-{i}")),),
            tasks=self.spec.tasks,
            providers=self.spec.providers,
        )

    async def run(self, job: Job) -> None:
        """Run a job of the requestor to its end, and until its providers have seen their money."""
        note = functools.partial(self.world.network.trace, self.requestor.node_id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_job, job, note)
            await job.run()
        with trio.move_on_after(SETTLING):
            for node in self.alive:
                await _until_settled(node)

    async def summary(self, job: Job) -> Summary:
        """Return how it went; the trace's figures are left out."""
        progress = job.progress()
        payments = await self.requestor.payment.service.payments(self.requestor.node_id)
        audits = [await node.payment.service.audit() for node in self.alive]
        done = {report.node_id: report.done for report in progress.providers}
        account = self.world.chain.account
        return Summary(
            seed=self.spec.seed,
            phase=progress.phase,
            error=progress.error,
            tasks=progress.tasks,
            tasks_done=progress.done,
            agreements=progress.agreements,
            paid_wei=sum(payment.amount_wei for payment in payments),
            providers=tuple(
                ProviderSummary(node.node_id, done.get(node.node_id, 0), account(node.node_id).token_wei)
                for node in self.providers
            ),
            differences=sum(len(audit.differences) for audit in audits),
            virtual_seconds=trio.current_time(),
        )

    async def _start(self, name: str, settings: dict[str, str]) -> None:
        flags = {
            "provider.name": name,
            "provider.debit-note-interval": str(NOTE_INTERVAL),
            "payment.network": "devnet",
            "overlay.network": "devnet",
            **settings,
        }
        config = configuration.load(self.world.folder / name, flags, environ={})
        life = _Life()
        self._nursery.start_soon(self._live, len(self.nodes), config, life)
        await life.started.wait()
        node = life.node
        for other in self.nodes:
            await node.overlay.connect(other.overlay.listen_addresses()[0])
        self._lives[node.node_id] = life
        self.nodes.append(node)

    async def _live(self, index: int, config: Config, life: _Life) -> None:
        try:
            with life.scope:
                async with simulated_node(self.world, index, config) as life.node:
                    life.started.set()
                    await trio.sleep_forever()
        finally:
            life.ended.set()


class _Life:
    """A node's, from its start to its end or death."""

    node: SimulatedNode

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.started = trio.Event()
        self.ended = trio.Event()


@contextlib.asynccontextmanager
async def running_deal(spec: DealSpec, folder: Path, auditor: Auditor | None = None) -> AsyncIterator[Deal]:
    """Run the nodes of a deal while the context is open, with nothing to do yet.

    Use it under virtual time, and within `threads_run_inline`.

    Args:
        folder: empty; takes the files of the job and of exe-units.
        auditor: gets the trace.
    """
    clock = VirtualClock()
    network = MemoryNetwork(clock, SeededEntropy(spec.seed, "network"), spec.link, auditor=auditor)
    chain = ModelChain(lambda: clock.utc_ns() // SECOND, automine=False)

    def note(event: str) -> None:
        if auditor is not None:
            auditor.record(trio.current_time(), "chain", event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_blocks, chain, note)
        deal = Deal(spec, World(spec.seed, network, chain, folder), nursery)
        await deal.start()
        yield deal
        nursery.cancel_scope.cancel()


def simulate(spec: DealSpec, folder: Path, trace: Path | None = None) -> Summary:
    """Run a deal from its beginning to its end, reproducibly.

    Args:
        folder: empty; takes the files of the job and of exe-units.
        trace: where to write the trace, which the summary's digest is of.

    Raises:
        trio.TooSlowError: it has not ended within `TIME_LIMIT`.
    """

    with (
        Auditor(trace) as auditor,
        threads_run_inline(),
        deterministic_scheduling(spec.seed),
        _without_collector(),
    ):
        summary = trio.run(_play, spec, folder, auditor, clock=MockClock(autojump_threshold=0))
        return msgspec.structs.replace(summary, events=auditor.lines, digest=auditor.digest())


async def _play(spec: DealSpec, folder: Path, auditor: Auditor) -> Summary:
    with trio.fail_after(TIME_LIMIT):
        async with running_deal(spec, folder, auditor) as deal, trio.open_nursery() as nursery:
            if spec.kill_at is not None:
                nursery.start_soon(_kill_first, deal, spec.kill_at)
            job = await deal.job()
            await deal.run(job)
            summary = await deal.summary(job)
            for node in deal.alive:
                auditor.record(trio.current_time(), node.node_id, f"database {await node.database_digest()}")
            nursery.cancel_scope.cancel()
    return summary


async def _kill_first(deal: Deal, when: float) -> None:
    await trio.sleep_until(when)
    await deal.kill(deal.providers[0])


async def _until_settled(node: SimulatedNode) -> None:
    """Wait until every invoice of a node, in either role, is paid."""
    payment = node.payment.service
    while any(i.status is not Status.SETTLED for i in await payment.invoices(node.node_id)):
        await payment.document_events(node.node_id, "invoice", after_ns=node.clock.utc_ns(), timeout=0.5)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the cyclic garbage collector out: when it comes depends on what else the process has allocated."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0 if every task was done and paid, and the ledgers agree."""
    parser = argparse.ArgumentParser(
        prog="python -m simulations.deal", description="Simulate a deal; one seed gives one course."
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything that is left to chance")
    parser.add_argument("--providers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--kill-at", type=float, help="virtual second at which the first provider dies")
    parser.add_argument("--trace", type=Path, help="write the trace to this file")
    parser.add_argument("--json", action="store_true", help="one line on stdout and nothing on stderr")
    options = parser.parse_args(argv)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.CRITICAL if options.json else logging.WARNING
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    spec = DealSpec(
        seed=options.seed, providers=options.providers, tasks=options.tasks, kill_at=options.kill_at
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = simulate(spec, Path(folder), options.trace)
    text = msgspec.json.encode(summary)
    sys.stdout.write((text if options.json else msgspec.json.format(text)).decode() + "\n")
    good = summary.phase == "done" and summary.tasks_done == summary.tasks and not summary.differences
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
