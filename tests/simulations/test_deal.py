"""Time and chance are injected: a whole deal on virtual time, and the same one byte for byte in another process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from node.provider.agent import ProviderAgent
from node.provider.negotiators import Reject
from node.provider.resources import ResourceLedger
from p2p.identity import recover
from p2p.testing.determinism import threads_run_inline
from protocols.market import ids
from protocols.market.core.signatures import approval_digest, commitment_digest, terms_digest
from protocols.market.messages import AgreementState, Role
from protocols.payment.records import Status
from simulations.deal import Deal, DealSpec, running_deal, simulate
from simulations.models.exe_units import result_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from node.requestor.job import ProviderReport
    from node.requestor.run import Job
    from simulations.node import SimulatedNode

SPEC = DealSpec(seed=5)


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    with threads_run_inline():
        yield


# --- one deal, looked into ----------------------------------------------------------------------------------


async def test_a_deal_is_computed_paid_and_proved(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with running_deal(SPEC, tmp_path) as deal:
        before = {node.node_id: on_chain(deal, node) for node in deal.providers}
        job = await deal.job()
        await deal.run(job)

        progress = job.progress()
        assert (progress.phase, progress.error, progress.done) == ("done", "", SPEC.tasks)
        assert all(report.done for report in progress.providers), "both providers had work"
        check_results(tmp_path, SPEC.tasks)

        for node in deal.providers:
            (invoice,) = await node.payment.service.invoices(node.node_id)
            assert invoice.status is Status.SETTLED
            assert invoice.amount_wei > 0
            assert on_chain(deal, node) - before[node.node_id] == invoice.amount_wei
        notes = await deal.requestor.payment.service.debit_notes(deal.requestor.node_id)
        assert {note.status for note in notes} == {Status.SETTLED}, "debit notes were sent, and are covered"

        await check_audits(deal)
        for node in deal.nodes:
            for view in await node.market.service.agreements(node.node_id):
                await check_signatures(node, view.agreement_id)


async def test_who_dies_over_a_task_gets_nothing_for_it(
    autojump_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with running_deal(SPEC, tmp_path) as deal, trio.open_nursery() as nursery:
        victim, survivor = deal.providers
        job = await deal.job()
        nursery.start_soon(deal.run, job)
        await until_it_works(job, victim)
        await trio.sleep(1)  # the shortest run takes two seconds
        assert report_of(job, victim).task is not None
        await deal.kill(victim)
        while not job.progress().over:
            await job.changed.ticket().wait()
        progress = job.progress()
        assert (progress.phase, progress.error, progress.done) == ("done", "", SPEC.tasks)
        assert (report_of(job, victim).state, report_of(job, victim).done) == ("lost", 0)
        assert report_of(job, survivor).done == SPEC.tasks
        check_results(tmp_path, SPEC.tasks)

        assert on_chain(deal, victim) == 0
        requestor = deal.requestor
        lost = report_of(job, victim).agreement_id
        for row in await requestor.payment.service.agreement_ledger(requestor.node_id, lost):
            assert (row.totals.accepted, row.totals.paid) == (0, 0)
        view = await requestor.market.service.agreement(requestor.node_id, lost)
        assert (view.state, view.terminator) == (AgreementState.TERMINATED, Role.REQUESTOR)
        await check_audits(deal)


async def test_who_declines_for_now_is_asked_again(
    autojump_clock: trio.testing.MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each provider is busy when it is asked first, and when it is to approve first: both work in the end."""
    judge, reserve = ProviderAgent._judge, ResourceLedger.reserve
    asked: Counter[int] = Counter()
    reserved: Counter[int] = Counter()

    def busy(agent: ProviderAgent, demand: str, offer: dict[str, Any], requestor: str) -> Any:
        asked[id(agent)] += 1
        if asked[id(agent)] == 1:
            return Reject("no capacity for a moment", final=False)
        return judge(agent, demand, offer, requestor)

    def full(ledger: ResourceLedger, *args: Any) -> bool:
        reserved[id(ledger)] += 1
        return reserved[id(ledger)] > 1 and reserve(ledger, *args)

    monkeypatch.setattr(ProviderAgent, "_judge", busy)
    monkeypatch.setattr(ResourceLedger, "reserve", full)
    async with running_deal(SPEC, tmp_path) as deal:
        job = await deal.job()
        await deal.run(job)
        progress = job.progress()
        assert (progress.phase, progress.error, progress.done) == ("done", "", SPEC.tasks)
        assert len(progress.providers) == SPEC.providers
        assert all(report.done for report in progress.providers)
        await check_audits(deal)


# --- the same deal again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [(), ("--kill-at", "7.5")], ids=["all live", "one dies"])
def test_one_seed_gives_one_course_in_any_process(events: tuple[str, ...], tmp_path: Path) -> None:
    traces = [tmp_path / name for name in ("first", "second", "other")]
    runs = [
        start(seed, hash_seed, trace, *events)
        for seed, hash_seed, trace in zip(("3", "3", "4"), ("1", "2", "1"), traces, strict=True)
    ]
    first, second, other = (outcome(run) for run in runs)
    assert (first["phase"], first["tasks_done"], first["differences"]) == ("done", 8, 0)
    assert first == second
    assert traces[0].read_bytes() == traces[1].read_bytes()
    assert traces[0].read_text().count("\n") == first["events"]
    assert hashlib.sha256(traces[0].read_bytes()).hexdigest() == first["digest"]
    assert other["digest"] != first["digest"]


def test_a_process_may_run_many(tmp_path: Path) -> None:
    """Nothing is carried over from one simulation to the next in the same process."""
    digests = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        digests.append(simulate(SPEC, tmp_path / name).digest)
    assert digests[0] == digests[1]


def test_the_trace_tells_the_deal_and_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    simulate(SPEC, folder, tmp_path / "trace")
    trace = (tmp_path / "trace").read_text()
    for word in (
        '"state":"Approved"', '"state":"Terminated"', "ended", "debitNote", "PaymentMade", "PaymentSettled",
        "job working", "job paying", "job done", " chain block ", "/files/1 to 0x", " database ", "; said ",
    ):  # fmt: skip
        assert word in trace, word
    assert str(tmp_path) not in trace
    assert " at 0x" not in trace


# --- help ---------------------------------------------------------------------------------------------------


def on_chain(deal: Deal, node: SimulatedNode) -> int:
    return deal.world.chain.account(node.node_id).token_wei


def check_results(folder: Path, tasks: int) -> None:
    digest = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "job").iterdir()}
    for index in range(tasks):
        given = {"package": digest["program"], "work/input": digest[f"input-{index}"]}
        expected = result_of(given, (str(index), str(tasks)))
        assert (folder / "job" / f"output-{index}").read_bytes() == expected


async def check_audits(deal: Deal) -> None:
    for node in deal.alive:
        audit = await node.payment.service.audit()
        assert audit.differences == ()
        assert audit.agreements
        assert audit.payments


async def check_signatures(node: SimulatedNode, agreement_id: str) -> None:
    agreement = await node.market.service.agreements_of_all.get(node.node_id, agreement_id)
    terms = agreement.terms
    proposed, approved = agreement.proposed_signature, agreement.approved_signature
    committed, approved_ns = agreement.committed_signature, agreement.approved_ns
    assert proposed is not None
    assert approved is not None
    assert committed is not None
    assert approved_ns is not None
    assert ids.agreement_id(terms) == agreement_id
    assert recover(terms_digest(terms), proposed) == terms.requestor_id
    assert recover(approval_digest(agreement_id, proposed, approved_ns), approved) == terms.provider_id
    assert recover(commitment_digest(agreement_id, approved), committed) == terms.requestor_id


def report_of(job: Job, node: SimulatedNode) -> ProviderReport:
    (report,) = (r for r in job.progress().providers if r.node_id == node.node_id)
    return report


async def until_it_works(job: Job, node: SimulatedNode) -> None:
    with trio.fail_after(60):
        while True:
            ticket = job.changed.ticket()
            if any(r.node_id == node.node_id and r.task is not None for r in job.progress().providers):
                return
            await ticket.wait()


def start(seed: str, hash_seed: str, trace: Path, *events: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "simulations.deal", "--json", "--seed", seed, "--trace", str(trace), *events],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def outcome(run: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    summary: dict[str, Any] = json.loads(out)
    return summary
