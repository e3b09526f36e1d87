"""The canary for trio's private names, and what the seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from p2p.testing.determinism import Auditor, SchedulingUnsupported, deterministic_scheduling

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
