"""Shows a job while it runs: a live table on a terminal, plain lines elsewhere, and the account at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Self

from node.cli.common import complain, printable, say, table

if TYPE_CHECKING:
    from types import TracebackType

    from node.requestor.job import JobProgress, ProviderReport

LINE_EVERY = 5.0
"""Seconds between two plain lines when nothing but time has changed."""


class JobView:
    """Shows progress as it comes. A context manager, for it may hold the terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live: Any = None
        self._last = ("", "", -1)
        self._last_at = 0.0

    def __enter__(self) -> Self:
        if not self._quiet and sys.stdout.isatty():
            import rich.live

            self._live = rich.live.Live(refresh_per_second=8, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
            self._live = None

    def update(self, progress: JobProgress) -> None:
        """Show a new state."""
        if self._quiet:
            return
        if self._live is not None:
            self._live.update(_picture(progress))
            return
        key = (progress.phase, progress.note, progress.done)
        if key != self._last or progress.elapsed - self._last_at >= LINE_EVERY:
            self._last, self._last_at = key, progress.elapsed
            say(line(progress))
            sys.stdout.flush()


def line(p: JobProgress) -> str:
    """Return a state as one plain line."""
    eta = f", about {p.eta:.0f} s left" if p.eta is not None else ""
    return (
        f"{p.elapsed:6.1f} s  {p.phase:<8} offers {p.offers}, agreements {p.agreements},"
        f" tasks {p.done}/{p.tasks}{eta}, cost {_cost(p)} GLM  {printable(p.note)}"
    )


def _picture(p: JobProgress) -> Any:
    import rich.box
    import rich.console
    import rich.progress_bar
    import rich.table
    import rich.text

    head = rich.table.Table.grid(padding=(0, 1))
    eta = f"about {p.eta:.0f} s left" if p.eta is not None else ""
    head.add_row(
        f"{p.phase:<8}",
        rich.progress_bar.ProgressBar(total=p.tasks, completed=p.done, width=32),
        f"{p.done}/{p.tasks}",
        f"{p.elapsed:.0f} s",
        eta,
    )
    figures = rich.text.Text(
        f"offers {p.offers}   agreements {p.agreements}   cost {_cost(p)} GLM   {printable(p.note)}"
    )
    grid = rich.table.Table("provider", "state", "task", "done", "cost GLM", box=rich.box.SIMPLE_HEAD)
    for report in p.providers:
        task = "" if report.task is None else str(report.task)
        grid.add_row(rich.text.Text(_name(report)), report.state, task, str(report.done), report.cost)
    return rich.console.Group(head, figures, grid)


def account(p: JobProgress) -> None:
    """Print what each provider was paid, and the transactions that did it."""
    say("")
    table(
        ("provider", "tasks", "paid GLM", "GLM before", "GLM after"),
        [(_name(r), r.done, r.paid, r.balance_before, r.balance_after) for r in p.providers],
    )
    for report in p.providers:
        for tx in report.transactions:
            say(f"paid {_name(report)} by transaction {tx}")
        if report.cost != report.paid:
            complain(
                f"{_name(report)}: {report.cost} GLM accepted, {report.paid} paid so far; the node goes on paying"
            )


def _cost(p: JobProgress) -> str:
    return p.running_cost if p.running_cost == p.cost else f"~{p.running_cost}"


def _name(report: ProviderReport) -> str:
    return f"{printable(report.name)} {report.node_id[:10]}" if report.name else report.node_id
