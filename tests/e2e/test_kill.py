"""kill -9 in the middle: nothing is lost, nothing is paid twice, nobody is paid for what was not done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, Node, balance, provider, until, with_commands

PATHTRACER = files("node.requestor").joinpath("demo", "pathtracer.wasm")

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def run_job(node: Node, *arguments: str) -> subprocess.Popen[bytes]:
    command = [BIN / "golem-p2p", "run", str(PATHTRACER), "--data-dir", str(node.config.data_dir), "--json"]
    return subprocess.Popen(
        [*map(str, command), *arguments],
        env=with_commands(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat[stat.rindex(")") + 2] not in "ZX"


def test_a_killed_provider_costs_nothing_but_time(requestor: Node, tmp_path: Path) -> None:
    victim, other = (provider(requestor.network, number) for number in (1, 2))
    job = run_job(
        requestor, "--tasks", "8", "--output", f"/work/tile-{{i}}.ppm:{tmp_path}/tile-{{i}}.ppm",
        "--", "480", "360", "128", "{i}", "4", "2",
    )  # fmt: skip
    # its supervisor, and below that a runtime in the middle of a tile
    below = until(lambda: (p := descendants(victim.pid)) and len(p) >= 2 and p, 60, "the victim computes")
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in below), 15, "supervisor and runtime are gone with their node")

    stdout, stderr = job.communicate(timeout=180)
    assert job.returncode == 0, stderr.decode()[-2000:]
    outcome = json.loads(stdout)
    assert outcome["done"] == 8
    assert all((tmp_path / f"tile-{i}.ppm").stat().st_size > 1000 for i in range(8))
    reports = {report["name"]: report for report in outcome["providers"]}
    assert reports["provider-2"]["done"] + reports["provider-1"]["done"] == 8
    assert Decimal(reports["provider-2"]["paid"]) > 0
    assert Decimal(balance(other)) == Decimal(reports["provider-2"]["paid"])
    assert reports["provider-1"]["state"] == "lost"
    assert Decimal(reports["provider-1"]["paid"]) == 0


def test_a_killed_requestor_pays_exactly_once(requestor: Node, tmp_path: Path) -> None:
    earners = [provider(requestor.network, number) for number in (1, 2)]
    job = run_job(requestor, "--tasks", "4", "--", "120", "90", "4", "{i}", "2", "2")

    def accepted() -> bool:
        invoices = requestor.client.get("/payment-api/v1/invoices")
        return any(invoice["status"] in ("ACCEPTED", "SETTLED") for invoice in invoices)

    until(accepted, 90, "an invoice was accepted")
    os.kill(requestor.pid, signal.SIGKILL)
    job.communicate(timeout=60)

    requestor.start()

    def invoices() -> list[dict[str, str]]:
        listed: list[dict[str, str]] = requestor.client.get("/payment-api/v1/invoices")
        return [invoice for invoice in listed if invoice["status"] != "RECEIVED"]

    until(lambda: all(i["status"] == "SETTLED" for i in invoices()), 60, "what was accepted is paid")
    debt = sum(Decimal(invoice["amount"]) for invoice in invoices())
    paid = {node.name: Decimal(balance(node)) for node in earners}
    for invoice in invoices():
        earner = next(
            node for node in earners if node.client.get("/golem-p2p/v1/id")["nodeId"] == invoice["issuerId"]
        )
        assert paid[earner.name] == Decimal(invoice["amount"])
    on_chain = sum(paid.values())
    assert on_chain == debt > 0
    # a further payment cycle, forced: there is nothing more to pay
    key = requestor.key()
    subprocess.run(
        ["curl", "-s", "-X", "POST", "-H", f"Authorization: Bearer {key}",
         f"{requestor.client.url}/payment-api/v1/batchCycle/erc20-devnet-tglm/now"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    assert sum(Decimal(balance(node)) for node in earners) == on_chain


def test_ctrl_c_leaves_no_process_and_pays_for_finished_work(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    demo = subprocess.Popen(
        [BIN / "golem-p2p", "demo", "--dir", folder, "--samples", "64"],
        env=with_commands(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until(lambda: len(list((folder / "tiles").glob("tile-*.ppm"))) >= 2, 120, "two tiles are finished")
    below = descendants(demo.pid)
    assert below
    os.kill(demo.pid, signal.SIGINT)
    stdout, stderr = demo.communicate(timeout=120)
    assert demo.returncode == 130, stderr.decode()[-2000:]
    text = stdout.decode()
    assert "stopped:" in text
    assert "paid for" in text
    assert "by transaction 0x" in text
    until(lambda: not any(alive(pid) for pid in below), 10, "all processes are gone")


def test_a_requestor_killed_while_working_still_pays_for_what_was_done(
    requestor: Node, tmp_path: Path
) -> None:
    """No bill was accepted yet: the node comes back without its job, and pays what it had measured."""
    earners = [provider(requestor.network, number) for number in (1, 2)]
    job = run_job(
        requestor, "--tasks", "8", "--output", f"/work/tile-{{i}}.ppm:{tmp_path}/tile-{{i}}.ppm",
        "--", "480", "360", "96", "{i}", "4", "2",
    )  # fmt: skip
    until(lambda: len(list(tmp_path.glob("tile-*.ppm"))) >= 2, 90, "two tiles are finished")
    os.kill(requestor.pid, signal.SIGKILL)
    job.communicate(timeout=60)
    requestor.start()

    def invoices(node: Node) -> list[dict[str, str]]:
        listed: list[dict[str, str]] = node.client.get("/payment-api/v1/invoices")
        return listed

    def paid() -> bool:
        issued = [invoice for node in earners for invoice in invoices(node)]
        return len(issued) == 2 and all(invoice["status"] == "SETTLED" for invoice in issued)

    until(paid, 120, "both providers' invoices are settled")
    for node in earners:
        assert Decimal(balance(node)) == sum(Decimal(invoice["amount"]) for invoice in invoices(node)) > 0
    agreements = requestor.client.get("/golem-p2p/v1/agreements")
    assert {agreement["state"] for agreement in agreements} == {"Terminated"}
