"""A job's bookkeeping: every task is done once, whoever fails."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.requestor.job import MAX_ATTEMPTS, JobError, JobSpec, TaskBoard, TaskState, script_of


@given(
    st.integers(1, 8),
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["done", "lost", "failed"]))),
)
def test_nothing_is_lost_and_nothing_done_twice(count: int, steps: list[tuple[str, str]]) -> None:
    board = TaskBoard(count)
    done: set[int] = set()
    failures = dict.fromkeys(range(count), 0)
    for provider, outcome in steps:
        index = board.take(provider)
        if index is None:
            break
        assert index not in done
        if outcome == "done":
            board.done(index)
            done.add(index)
        else:
            failures[index] += outcome == "failed"
            board.undone(index, "why", blame=outcome == "failed")
        assert (board.first_failure is not None) == any(n >= MAX_ATTEMPTS for n in failures.values())
        assert sum(board.count(state) for state in TaskState) == count
    assert board.count(TaskState.DONE) == len(done)
    assert board.over == (len(done) == count or board.first_failure is not None)


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": 0},
        {"providers": 0},
        {"inputs": (("a", "work/a"),)},
        {"inputs": (("a", "/work/../a"),)},
        {"tasks": 2, "outputs": (("/work/a", "a"),)},
        {"budget": "x"},
        {"budget": "0"},
        {"budget": "-1"},
        {"task_timeout": 0.0},
        {"task_timeout": float("nan")},
    ],
)
def test_refuses_jobs_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(JobError):
        JobSpec(program="p.wasm", **changes).check()  # type: ignore[arg-type]


def test_the_script_carries_the_index() -> None:
    spec = JobSpec(
        program="p.wasm",
        args=("{i}", "{n}"),
        inputs=(("in-{i}", "/work/in"),),
        outputs=(("/work/o{i}", "o{i}"),),
        tasks=4,
    )
    spec.check()
    transfer_in, run, transfer_out = script_of(spec, 3, ["gftp://a"], ["gftp://b"])
    assert transfer_in == {"transfer": {"from": "gftp://a", "to": "container:/work/in"}}
    assert run["run"]["args"] == ["3", "4"]
    assert transfer_out == {"transfer": {"from": "container:/work/o3", "to": "gftp://b"}}
