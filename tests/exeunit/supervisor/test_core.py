"""States, batches and results, without any process or clock."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import UNSET, UnsetType

from exeunit.supervisor import core as core_module
from exeunit.supervisor.core import KEPT_OUTPUT_BYTES, MAX_WAITING, TRANSITIONS, Core, Job, Refused
from exeunit.supervisor.script import check_script
from protocols.activity.messages import CommandResult, ErrorCode, State, decode_exe_script

NOW = 1_790_000_000_000_000_000
BODIES: dict[str, Any] = {
    "deploy": {},
    "start": {},
    "run": {"entry_point": "main", "capture": {"stdout": {"stream": {}}, "stderr": {"atEnd": {}}}},
    "transfer": {"from": "http://h/x", "to": "/work/x"},
    "terminate": {},
    "sign": {},
}


class Unit(Core):
    """A core with the words that tests use."""

    def __init__(self) -> None:
        super().__init__()
        self.initialized()

    def batch(self, batch_id: str, *names: str) -> None:
        script = json.dumps([{name: BODIES[name]} for name in names])
        self.accept(batch_id, check_script(decode_exe_script(script)))

    def step(self, code: int = 0, message: str | None = None) -> Job | None:
        job = self.begin(NOW)
        if job is not None:
            self.finish(code, message, NOW)
        return job

    def pair(self) -> tuple[State, State | None]:
        return self.state.state

    def ready(self) -> Unit:
        self.batch("ready", "deploy", "start")
        assert self.step()
        assert self.step()
        return self


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("state", [State.INITIALIZED, State.DEPLOYED, State.READY])
def test_the_table_decides_which_command_runs(state: State, name: str) -> None:
    unit = Unit()
    unit.batch("before", "deploy", "start")
    for _ in range([State.INITIALIZED, State.DEPLOYED, State.READY].index(state)):
        unit.step()
    unit.batch("b", name)
    if state is not State.READY:
        unit.step(1)  # ends the batch "before" without a change of state
    job = unit.begin(NOW)
    if state in TRANSITIONS[name].before:
        assert job is not None
        assert job.batch_id == "b"
        assert unit.pair() == (state, TRANSITIONS[name].after)
        unit.finish(0, None, NOW)
        assert unit.pair() == (TRANSITIONS[name].after, None)
    else:
        assert job is None
        assert unit.pair() == (state, None)
        ((result,), complete) = unit.results("b", None)
        assert complete
        assert result.result is CommandResult.ERROR
        assert result.message is not None
        assert f"the command '{name}'" in result.message


def test_a_failed_command_leaves_the_state_as_it_was() -> None:
    unit = Unit()
    unit.batch("b", "deploy", "start")
    unit.step(1, "no image")
    assert unit.pair() == (State.INITIALIZED, None)
    ((result,), complete) = unit.results("b", None)
    assert complete
    assert (result.result, result.message, result.is_batch_finished) == (
        CommandResult.ERROR,
        "no image",
        True,
    )
    assert unit.begin(NOW) is None


def test_batches_wait_for_each_other() -> None:
    unit = Unit().ready()
    unit.batch("a", "run", "run")
    unit.batch("b", "run")
    assert [command.command for command in unit.running()] == ["Run", "Run"]
    order = [job.batch_id for job in iter(unit.step, None) if job]
    assert order == ["a", "a", "b"]
    assert unit.running() == ()


def test_results_and_indices() -> None:
    unit = Unit().ready()
    unit.batch("b", "run", "run", "run")
    for text in (b"one", b"two"):
        assert unit.begin(NOW)
        unit.output("stdout", text, NOW)
        unit.output("stderr", b"e" + text, NOW)
        unit.finish(0, None, NOW)
    results, complete = unit.results("b", None)
    assert [(r.index, r.stdout, r.stderr, r.is_batch_finished) for r in results] == [
        (0, "one", "eone", False), (1, "two", "etwo", False),
    ]  # fmt: skip
    assert not complete
    results, complete = unit.results("b", 1)
    assert [(r.index, r.stdout, r.is_batch_finished) for r in results] == [(0, None, False), (1, "two", True)]
    assert complete
    assert unit.results("b", 2)[1] is False
    with pytest.raises(Refused, match="no command 3") as refused:
        unit.results("b", 3)
    assert refused.value.code is ErrorCode.BAD_REQUEST
    unit.step()
    assert unit.results("b", None)[0][-1].is_batch_finished


def test_events_tell_the_whole_story_to_late_readers() -> None:
    unit = Unit().ready()
    unit.batch("b", "run", "transfer")
    assert unit.begin(NOW)
    unit.output("stdout", b"hi \xe2\x82", NOW)
    unit.output("stderr", b"kept but not streamed", NOW)
    unit.finish(0, None, NOW)
    assert unit.begin(NOW)
    unit.progress(5, 10, None, NOW)
    assert unit.events("b", -1)[1] is False
    unit.finish(-1, "not found", NOW)
    events, ended = unit.events("b", -1)
    assert ended
    kinds = [json.loads(msgspec.json.encode(event.event.kind)) for event in events]
    assert kinds == [
        {"started": {"command": {"run": BODIES["run"]}}},
        {"stdout": "hi "},
        {"stdout": "\ufffd"},
        {"finished": {"return_code": 0, "message": None}},
        {"started": {"command": {"transfer": BODIES["transfer"]}}},
        {"progress": {"step": [0, 1], "message": None, "progress": [5, 10], "unit": "Bytes"}},
        {"finished": {"return_code": -1, "message": "not found"}},
    ]
    assert [event.event.index for event in events] == [0, 0, 0, 0, 1, 1, 1]
    assert unit.events("b", 5) == (events[6:], True)
    assert unit.events("b", -1, limit=2) == (events[:2], False)


def test_requests_that_are_refused() -> None:
    unit = Unit()
    unit.batch("b", "deploy")
    with pytest.raises(Refused, match="exists already") as refused:
        unit.batch("b", "deploy")
    assert refused.value.code is ErrorCode.BAD_REQUEST
    for reader in (lambda: unit.results("x", None), lambda: unit.events("x", -1)):
        with pytest.raises(Refused, match="no batch x") as refused:
            reader()
        assert refused.value.code is ErrorCode.NOT_FOUND
    for number in range(MAX_WAITING - 1):
        unit.batch(f"b{number}", "deploy")
    with pytest.raises(Refused, match="batches wait already"):
        unit.batch("one more", "deploy")


def test_the_end_fails_whatever_was_not_finished() -> None:
    unit = Unit().ready()
    unit.batch("a", "run", "run")
    unit.batch("b", "run")
    assert unit.begin(NOW)
    unit.output("stdout", b"half", NOW)
    unit.terminating("destroyed", "because")
    unit.terminating("too late")
    assert unit.pair() == (State.READY, State.TERMINATED)
    assert not unit.state.alive
    unit.terminated(NOW)
    assert unit.pair() == (State.TERMINATED, None)
    assert (unit.state.reason, unit.state.error_message) == ("destroyed", "because")
    for batch_id, stdout in (("a", "half"), ("b", None)):
        ((result,), complete) = unit.results(batch_id, None)
        assert complete
        assert result.message == "the activity was terminated: destroyed"
        assert result.stdout == stdout
        assert unit.events(batch_id, -1)[1]
    with pytest.raises(Refused, match="terminated"):
        unit.batch("c", "run")
    assert unit.begin(NOW) is None


def test_output_is_bounded_and_the_result_says_so() -> None:
    unit = Unit().ready()
    unit.batch("b", "run", "run")
    for _ in range(2):
        assert unit.begin(NOW)
        for _ in range(40):
            unit.output("stdout", bytes(64 << 10), NOW)
        unit.finish(0, None, NOW)
    results, _ = unit.results("b", None)
    lengths = [len(result.stdout or "") for result in results]
    assert lengths == [KEPT_OUTPUT_BYTES // 2, KEPT_OUTPUT_BYTES // 4]
    assert results[0].message == (
        f"stdout was longer than the {lengths[0]} bytes that could be kept; its middle is left out"
    )
    events, _ = unit.events("b", -1, limit=10_000)
    assert events[1].missed > 0
    assert sum(len(str(event.event.kind.stdout)) for event in events) < 6 << 20


def test_old_batches_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_module, "MAX_KEPT", 3)
    unit = Unit().ready()
    for number in range(5):
        unit.batch(f"b{number}", "run")
        unit.step()
    with pytest.raises(Refused):
        unit.results("b1", None)
    assert unit.results("b2", None)[1]
    monkeypatch.setattr(core_module, "TOTAL_BYTES", 1)
    unit.batch("big", "run")
    unit.step()
    assert unit.results("big", None)[1]
    with pytest.raises(Refused):
        unit.results("b4", None)


class AnyOrder(RuleBasedStateMachine):
    """Whatever is asked in whatever order, the state stays in the table and batches end properly."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit()
        self.ids: list[str] = []
        self.job: Job | None = None
        self.ended = False

    @rule(names=st.lists(st.sampled_from(sorted(BODIES)), min_size=1, max_size=4))
    def exec(self, names: list[str]) -> None:
        batch_id = f"b{len(self.ids)}"
        try:
            self.unit.batch(batch_id, *names)
        except Refused:
            assert self.ended or len(self.ids) >= MAX_WAITING
        else:
            self.ids.append(batch_id)

    @precondition(lambda self: self.job is None)
    @rule()
    def begin(self) -> None:
        before = self.unit.state.state[0]
        self.job = self.unit.begin(NOW)
        if self.job is not None:
            assert before in TRANSITIONS[self.job.command.name].before

    @precondition(lambda self: self.job is not None)
    @rule(code=st.sampled_from([0, 0, 0, 1, -1]), data=st.binary(max_size=5))
    def finish(self, code: int, data: bytes) -> None:
        assert self.job is not None
        before = self.unit.state.state[0]
        self.unit.output("stdout", data, NOW)
        self.unit.finish(code, None, NOW)
        after = TRANSITIONS[self.job.command.name].after if code == 0 else before
        assert self.unit.state.state[0] is after
        self.job = None

    @rule()
    def terminating(self) -> None:
        self.unit.terminating("end")
        self.ended = True

    @precondition(lambda self: self.ended)
    @rule()
    def terminated(self) -> None:
        self.unit.terminated(NOW)
        self.job = None
        assert all(self.unit.results(batch_id, None)[1] for batch_id in self.ids)

    @invariant()
    def results_and_events_agree(self) -> None:
        for batch_id in self.ids:
            results, complete = self.unit.results(batch_id, None)
            assert [result.index for result in results] == list(range(len(results)))
            assert complete == bool(results and results[-1].is_batch_finished)
            assert not any(result.is_batch_finished for result in results[:-1])
            events, ended = self.unit.events(batch_id, -1)
            assert ended == complete
            finished = [event for event in events if event.event.kind.finished is not UNSET]
            assert len(finished) == len(results)


TestAnyOrder = AnyOrder.TestCase


@given(st.integers(1, 255))
def test_exit_codes_reach_the_events(code: int) -> None:
    unit = Unit().ready()
    unit.batch("b", "run")
    unit.step(code, "why")
    finished = unit.events("b", -1)[0][-1].event.kind.finished
    assert not isinstance(finished, UnsetType)
    assert (finished.return_code, finished.message) == (code, "why")
