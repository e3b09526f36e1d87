"""For every test: the interpreter as a node has it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator

INTEROP = Path(__file__).parent / "interop"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the foreign peers to `make interop`, which names their folder."""
    return True if collection_path == INTEROP and not any("interop" in arg for arg in config.args) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what stays in one process when several share the work: whole stories one after the other, else a file.

    Stories start many processes and wait for them, so that they run beside everything else and not beside each other.
    """
    for item in items:
        story = item.get_closest_marker("e2e") is not None
        item.add_marker(pytest.mark.xdist_group("stories" if story else str(item.path)))


@pytest.fixture(autouse=True)
def usual_recursion_limit() -> Iterator[None]:
    """Undo what importing py_ecc does: it raises the limit to 100,000.

    The oracles of the chain's tests (eth-account, py-evm) import it. With such a limit, input that is nested
    deeply overflows the C stack of decoders that rely on the limit, where a node gives a clear error.
    """
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(1000)


@pytest.fixture(autouse=True)
def usual_logging() -> Iterator[None]:
    """Undo what a command run inside a test does: its log goes to a captured stderr, which is closed after that test."""
    yield
    structlog.reset_defaults()
