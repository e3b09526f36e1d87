"""The canary for trio's private names, and what the seed decides."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import trio
import trio._core._run as trio_run
import trio._threads as trio_threads
from trio.testing import MockClock

from p2p.testing.determinism import (
    Auditor,
    SchedulingUnsupported,
    deterministic_scheduling,
    threads_run_inline,
)

if TYPE_CHECKING:
    from pathlib import Path


def course(seed: int) -> list[int]:
    order: list[int] = []

    async def racer(number: int) -> None:
        for _ in range(5):
            await trio.lowlevel.checkpoint()
            order.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(racer, number)

    with deterministic_scheduling(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0))
    return order


def test_one_seed_gives_one_schedule() -> None:
    assert course(7) == course(7)


def test_another_seed_gives_another_schedule() -> None:
    assert course(7) != course(8)


def test_trio_is_put_back_as_it_was() -> None:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    with pytest.raises(ValueError, match="inside"), deterministic_scheduling(1):
        raise ValueError("inside")
    assert before == (trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r)


@pytest.mark.parametrize("name", ["_ALLOW_DETERMINISTIC_SCHEDULING", "_r"])
def test_a_trio_without_the_private_names_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trio_run, name)
    with pytest.raises(SchedulingUnsupported, match=name), deterministic_scheduling(1):
        pass


def test_auditor_hashes_and_writes_lines(tmp_path: Path) -> None:
    with Auditor(tmp_path / "trace") as written, Auditor() as kept:
        for auditor in (written, kept):
            auditor.record(1.5, "0xaa", "met 0xbb")
        assert written.digest() == kept.digest()
        kept.record(1.5, "0xaa", "met 0xcc")
    assert written.digest() != kept.digest()
    assert (written.lines, kept.lines) == (1, 2)
    assert (tmp_path / "trace").read_text() == "1.500000000 0xaa met 0xbb\n"


def test_threads_run_inline_take_no_thread_and_no_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with await trio.open_file(tmp_path / "file", "wb") as file:
            await file.write(b"content")
        assert await trio.Path(tmp_path / "file").read_bytes() == b"content"
        assert await trio.to_thread.run_sync(threading.get_ident) == threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await trio.to_thread.run_sync(lambda: 1 / 0)
        assert trio.current_time() == 0

    with threads_run_inline():
        trio.run(main, clock=MockClock(autojump_threshold=0))


def test_threads_are_put_back() -> None:
    async def where() -> int:
        return await trio.to_thread.run_sync(threading.get_ident)

    with threads_run_inline():
        assert trio.run(where) == threading.get_ident()
    assert trio.run(where) != threading.get_ident()


def test_a_trio_whose_threads_start_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(trio_threads, "start_thread_soon")
    with pytest.raises(SchedulingUnsupported, match="start_thread_soon"), threads_run_inline():
        pass
