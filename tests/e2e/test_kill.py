"""kill -9 in the middle: nothing is lost, nothing is paid twice, nobody is paid for what was not done."""

from __future__ import annotations

import json
import os
import signal
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from tests.e2e.conftest import Command, Node, balance, provider, until

PATHTRACER = files("node.requestor").joinpath("demo", "pathtracer.wasm")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def run_job(node: Node, folder: Path, *arguments: str) -> Command:
    return Command(
        folder, "job", "run", str(PATHTRACER), "--data-dir", node.config.data_dir, "--json", *arguments
    )


def descendants(pid: int) -> set[int]:
    """The processes below `pid`."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry.name))
    found, waiting = set(), [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def computing(node: Node) -> set[int]:
    """The processes below a provider's node that works on a task; none while it does not, or tests itself."""
    below = descendants(node.pid)
    for pid in below:
        try:
            if b"--entrypoint" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return below
        except OSError:
            continue
    return set()


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def test_a_killed_provider_costs_nothing_but_time(requestor: Node, tmp_path: Path) -> None:
    providers = [provider(requestor.network, number) for number in (1, 2)]
    with run_job(
        requestor, tmp_path, "--tasks", "8", "--output", f"/work/tile-{{i}}.ppm:{tmp_path}/tile-{{i}}.ppm",
        "--", "480", "360", "128", "{i}", "4", "2",
    ) as job:  # fmt: skip
        # whichever is the first in the middle of a tile: its supervisor, and below that a runtime
        victim, below = job.until(
            lambda: next(((node, found) for node in providers if (found := computing(node))), None),
            60,
            "a provider computes",
        )
        os.kill(victim.pid, signal.SIGKILL)
        until(
            lambda: not any(alive(pid) for pid in below),
            15,
            "supervisor and runtime are gone with their node",
        )
        assert job.ended(180) == 0
    (other,) = (node for node in providers if node is not victim)
    outcome = json.loads(job.said)
    assert outcome["done"] == 8
    assert all((tmp_path / f"tile-{i}.ppm").stat().st_size > 1000 for i in range(8))
    reports = {report["name"]: report for report in outcome["providers"]}
    assert reports[victim.name]["done"] + reports[other.name]["done"] == 8
    assert Decimal(reports[other.name]["paid"]) > 0
    assert Decimal(balance(other)) == Decimal(reports[other.name]["paid"])
    assert reports[victim.name]["state"] == "lost"
    assert Decimal(reports[victim.name]["paid"]) == 0


def invoices(node: Node) -> dict[str, dict[str, str]]:
    listed: list[dict[str, str]] = node.client.get("/payment-api/v1/invoices")
    return {invoice["invoiceId"]: invoice for invoice in listed}


def squared(requestor: Node, earners: list[Node]) -> bool:
    """Whether every agreement has ended, was billed, and is settled on both sides."""
    issued: dict[str, dict[str, str]] = {}
    for node in earners:
        agreements, own = node.client.get("/golem-p2p/v1/agreements"), invoices(node)
        if len(own) != len(agreements) or {a["state"] for a in agreements} != {"Terminated"}:
            return False
        issued |= own
    received = invoices(requestor)
    both = [*issued.values(), *received.values()]
    return issued.keys() == received.keys() and all(i["status"] == "SETTLED" for i in both)


def until_both_compute(earners: list[Node], job: Command) -> None:
    working: set[str] = set()

    def both() -> bool:
        working.update(node.name for node in earners if computing(node))
        return len(working) == len(earners)

    job.until(both, 90, "both providers compute")


def test_a_killed_requestor_pays_exactly_once(requestor: Node, tmp_path: Path) -> None:
    earners = [provider(requestor.network, number) for number in (1, 2)]

    def accepted() -> bool:
        return any(i["status"] in ("ACCEPTED", "SETTLED") for i in invoices(requestor).values())

    with run_job(requestor, tmp_path, "--tasks", "8", "--", "240", "180", "32", "{i}", "4", "2") as job:
        until_both_compute(earners, job)
        until(accepted, 90, "an invoice was accepted")
        os.kill(requestor.pid, signal.SIGKILL)
        job.ended(60)
    requestor.start()
    until(lambda: squared(requestor, earners), 90, "what was billed is paid")
    paid = {node.name: Decimal(balance(node)) for node in earners}
    for node in earners:
        assert paid[node.name] == sum(Decimal(i["amount"]) for i in invoices(node).values()) > 0
    # a further payment cycle, forced: there is nothing more to pay
    requestor.client.post("/payment-api/v1/batchCycle/erc20-devnet-tglm/now", {}, timeout=30)
    assert {node.name: Decimal(balance(node)) for node in earners} == paid


def test_ctrl_c_leaves_no_process_and_pays_for_finished_work(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Command(tmp_path, "demo", "demo", "--dir", folder, "--samples", "64") as demo:
        demo.until(
            lambda: len(list((folder / "tiles").glob("tile-*.ppm"))) >= 2, 120, "two tiles are finished"
        )
        below = descendants(demo.pid)
        assert below
        os.kill(demo.pid, signal.SIGINT)
        assert demo.ended(120) == 130
    assert "stopped:" in demo.said
    assert "paid for" in demo.said
    assert "by transaction 0x" in demo.said
    until(lambda: not any(alive(pid) for pid in below), 10, "all processes are gone")


def test_a_requestor_killed_while_working_still_pays_for_what_was_done(
    requestor: Node, tmp_path: Path
) -> None:
    """No bill was accepted yet: the node comes back without its job, and pays what it had measured."""
    earners = [provider(requestor.network, number) for number in (1, 2)]
    with run_job(
        requestor, tmp_path, "--tasks", "8", "--output", f"/work/tile-{{i}}.ppm:{tmp_path}/tile-{{i}}.ppm",
        "--", "480", "360", "96", "{i}", "4", "2",
    ) as job:  # fmt: skip
        until_both_compute(earners, job)
        job.until(lambda: len(list(tmp_path.glob("tile-*.ppm"))) >= 2, 90, "two tiles are finished")
        os.kill(requestor.pid, signal.SIGKILL)
        job.ended(60)
    requestor.start()
    until(lambda: squared(requestor, earners), 120, "what was done is paid")
    for node in earners:
        assert Decimal(balance(node)) == sum(Decimal(i["amount"]) for i in invoices(node).values()) > 0
    agreements = requestor.client.get("/golem-p2p/v1/agreements")
    assert {agreement["state"] for agreement in agreements} == {"Terminated"}
