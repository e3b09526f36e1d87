"""Foreign peers are skipped where they cannot be built, and what was tried is printed as a table at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.matrix import Cell, table
from tests.interop.prepare import KINDS, missing

if TYPE_CHECKING:
    from collections.abc import Iterator

_results: dict[Cell, str] = {}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)
    return name


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return a function to name the cells of the matrix that a test fills, and what is in them when it passes."""
    named: dict[Cell, str] = {}

    def name(row: str, column: str, outcome: str = "ok") -> None:
        named[row, column] = outcome
        _results[row, column] = "FAILED"

    yield name
    if request.node.stash.get(_passed, False):
        _results.update(named)


_passed: pytest.StashKey[bool] = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "call":
        item.stash[_passed] = outcome.get_result().passed


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _results:
        terminalreporter.section("foreign peers")
        for line in table(_results):
            terminalreporter.write_line(line)
