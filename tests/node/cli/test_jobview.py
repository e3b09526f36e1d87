"""A job in plain lines, and its account: what somebody reads in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from node.cli.jobview import JobView, account, line
from node.requestor.job import JobProgress, ProviderReport

if TYPE_CHECKING:
    import pytest

WORKING = JobProgress(
    phase="working", offers=3, agreements=2, tasks=16, running=2, done=4, elapsed=10.0, cost="0", running_cost="0.5",
    providers=(ProviderReport(node_id="0x" + "ab" * 20, name="attic", state="working", task=5, done=4),),
    note="attic agreed",
)  # fmt: skip


def test_a_line_says_progress_time_left_and_cost() -> None:
    text = line(WORKING)
    for part in (
        "working",
        "offers 3",
        "agreements 2",
        "4/16",
        "about 30 s left",
        "~0.5 GLM",
        "attic agreed",
    ):
        assert part in text


def test_no_estimate_before_the_first_task_is_done() -> None:
    assert "left" not in line(msgspec.structs.replace(WORKING, done=0))
    assert "left" not in line(msgspec.structs.replace(WORKING, done=16))


def test_lines_come_when_something_happens(capsys: pytest.CaptureFixture[str]) -> None:
    with JobView() as view:
        for elapsed in (10.0, 10.3, 10.6, 16.0):
            view.update(msgspec.structs.replace(WORKING, elapsed=elapsed))
        view.update(msgspec.structs.replace(WORKING, done=5, elapsed=16.1))
    assert [text.split()[0] for text in capsys.readouterr().out.splitlines()] == ["10.0", "16.0", "16.1"]


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with JobView(quiet=True) as view:
        view.update(WORKING)
    assert capsys.readouterr().out == ""


def test_the_account_names_transactions_and_what_is_still_open(capsys: pytest.CaptureFixture[str]) -> None:
    report = msgspec.structs.replace(WORKING.providers[0], cost="2", paid="1", transactions=("0x12",))
    account(msgspec.structs.replace(WORKING, providers=(report,)))
    captured = capsys.readouterr()
    assert "transaction 0x12" in captured.out
    assert "2 GLM accepted, 1 paid so far" in captured.err
