"""Faults, points, standings."""

from __future__ import annotations

import pytest

from p2p.broadcast.score import HALF_LIFE, LIMITS, POINTS, Fault, Scores, Standing


def test_the_tables_are_complete_and_in_order() -> None:
    assert set(POINTS) == set(Fault)
    assert [limit for limit, _ in LIMITS] == sorted((limit for limit, _ in LIMITS), reverse=True)


def test_a_stranger_is_good() -> None:
    assert Scores(10).standing(0.0, "p") is Standing.GOOD


@pytest.mark.parametrize(
    ("faults", "standing"),
    [
        ([Fault.REJECTED], Standing.GOOD),
        ([Fault.REJECTED] * 2, Standing.OUTSIDE),
        ([Fault.BAD_FRAME], Standing.OUTSIDE),
        ([Fault.REJECTED] * 6, Standing.IGNORED),
        ([Fault.BAD_FRAME] * 3, Standing.IGNORED),
        ([Fault.EARLY_GRAFT] * 2, Standing.GOOD),
    ],
)
def test_standings(faults: list[Fault], standing: Standing) -> None:
    scores = Scores(10)
    for fault in faults:
        scores.blame(0.0, "p", fault)
    assert scores.standing(0.0, "p") is standing


def test_who_is_ignored_is_so_for_a_minute() -> None:
    scores = Scores(10)
    for _ in range(6):
        scores.blame(0.0, "p", Fault.REJECTED)
    assert scores.standing(HALF_LIFE - 0.1, "p") is Standing.IGNORED
    assert scores.standing(HALF_LIFE + 0.1, "p") is Standing.OUTSIDE
    scores.blame(HALF_LIFE + 0.1, "p", Fault.EARLY_GRAFT)
    assert scores.standing(2 * HALF_LIFE, "p") is Standing.IGNORED


def test_points_halve() -> None:
    scores = Scores(10)
    scores.blame(100.0, "p", Fault.REJECTED)
    assert scores.points(100.0 + HALF_LIFE, "p") == pytest.approx(5.0)
    scores.blame(100.0 + HALF_LIFE, "p", Fault.REJECTED)
    assert scores.points(100.0 + 2 * HALF_LIFE, "p") == pytest.approx(7.5)


def test_old_faults_are_forgiven() -> None:
    scores = Scores(10)
    scores.blame(0.0, "p", Fault.REJECTED)
    scores.blame(1.0, "q", Fault.REJECTED)
    scores.forgive(100.0)
    assert scores.points(100.0, "p") > 0
    scores.forgive(HALF_LIFE * 4)
    assert scores.points(HALF_LIFE * 4, "p") == 0.0


def test_who_was_blamed_longest_ago_is_forgotten_first() -> None:
    scores = Scores(2)
    for peer in ("p", "q", "p", "r"):
        scores.blame(0.0, peer, Fault.REJECTED)
    assert [scores.points(0.0, peer) for peer in "pqr"] == [20.0, 0.0, 10.0]
