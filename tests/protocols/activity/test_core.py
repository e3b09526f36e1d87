"""The life of an activity as its node sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.activity.core import DESTROY_AFTER, UNRESPONSIVE_AFTER, Tracked, Watch
from protocols.activity.messages import ActivityState, State

READY = ActivityState((State.READY, None))
GONE = ActivityState((State.TERMINATED, None), reason="exit")


@pytest.fixture
def tracked() -> Tracked:
    return Tracked("a", "agreement", "requestor", now=100.0)


def test_silence_first_marks_then_destroys(tracked: Tracked) -> None:
    tracked.on_state(100.0, READY)
    assert tracked.watch(104.9) is Watch.NOTHING
    assert tracked.watch(100.0 + UNRESPONSIVE_AFTER) is Watch.UNRESPONSIVE
    assert tracked.state.state[0] is State.UNRESPONSIVE
    assert tracked.watch(106.0) is Watch.NOTHING
    assert tracked.watch(100.0 + DESTROY_AFTER) is Watch.DESTROY


def test_a_report_brings_it_back(tracked: Tracked) -> None:
    tracked.on_state(100.0, READY)
    tracked.watch(106.0)
    tracked.on_usage(107.0, (1.0,))
    assert tracked.state == READY
    assert tracked.watch(108.0) is Watch.NOTHING


def test_terminated_is_final(tracked: Tracked) -> None:
    assert tracked.on_end("exit")
    assert not tracked.on_end("again")
    assert not tracked.on_state(101.0, READY)
    assert not tracked.on_usage(101.0, (1.0,))
    assert tracked.watch(1e9) is Watch.NOTHING
    assert tracked.state == GONE


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100))))
def test_usage_never_falls(samples: list[tuple[float, float]]) -> None:
    tracked = Tracked("a", "agreement", "requestor", now=0.0)
    seen: tuple[float, ...] = (0.0, 0.0)
    for sample in samples:
        tracked.on_usage(0.0, sample)
        if tracked.usage:
            assert all(new >= old for new, old in zip(tracked.usage, seen, strict=True))
            seen = tracked.usage


@pytest.mark.parametrize(
    "sample", [(2.0,), (2.0, 1.0, 1.0), (2.0, -0.0001), (float("inf"), 1.0), (float("nan"), 1.0)]
)
def test_a_sample_that_is_no_bill_is_a_sign_of_life(tracked: Tracked, sample: tuple[float, ...]) -> None:
    tracked.on_state(100.0, READY)
    assert tracked.on_usage(101.0, (1.0, 1.0))
    assert not tracked.on_usage(107.0, sample)
    assert tracked.usage == (1.0, 1.0)
    assert tracked.watch(108.0) is Watch.NOTHING


def test_who_has_not_begun_is_not_watched(tracked: Tracked) -> None:
    assert tracked.watch(1e6) is Watch.NOTHING
