"""The event log: numbered, late readers, bounded."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from exeunit.supervisor.eventlog import EventLog, naive_utc, utc
from protocols.activity.messages import CommandFinished, RuntimeEventKind

NOW = 1_790_000_000_123_456_789
FINISHED = RuntimeEventKind(finished=CommandFinished(0, None))


def output(text: str) -> RuntimeEventKind:
    return RuntimeEventKind(stdout=text)


def test_a_late_reader_gets_all_from_the_beginning() -> None:
    log = EventLog("b", 10_000)
    for text in ("one", "two"):
        log.append(0, output(text), NOW)
    assert [event.event.kind.stdout for event in log.after(-1, 10)] == ["one", "two"]
    assert [event.id for event in log.after(-1, 1)] == [0]
    assert [event.id for event in log.after(0, 10)] == [1]
    assert log.after(1, 10) == []
    assert log.after(99, 10) == []
    assert [event.id for event in log.after(-99, 10)] == [0, 1]


@given(st.lists(st.sampled_from(["", "x" * 100, "x" * 1000, None]), max_size=60), st.integers(-1, 60))
def test_what_is_dropped_is_output_and_is_counted(texts: list[str | None], after: int) -> None:
    log = EventLog("b", 3000)
    for text in texts:
        log.append(0, FINISHED if text is None else output(text), NOW)
    events = log.after(after, 1000)
    ids = [event.id for event in events]
    assert ids == sorted(ids)
    # Nothing is lost without a trace: each event accounts for those that are missing before it.
    expected = max(after, -1) + 1
    for event in events:
        assert event.id == expected + event.missed
        expected = event.id + 1
    kept = {event.id for event in log.after(-1, 1000)}
    assert {number for number, text in enumerate(texts) if text is None} <= kept
    if any(text is not None for text in texts) and log.size > 3000:
        assert not any(texts[number] is not None for number in kept)


def test_times_are_what_clients_read() -> None:
    assert utc(NOW) == datetime(2026, 9, 21, 14, 13, 20, 123456, UTC)
    assert naive_utc(NOW).isoformat() == "2026-09-21T14:13:20.123456"
