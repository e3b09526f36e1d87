"""The log of what happens on the network: bounded, counted, waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

from p2p.events import (
    MAX_REASON,
    DialFailed,
    EventLog,
    GossipFault,
    NetEvent,
    PeerConnected,
    PeerDisconnected,
    PeerDropped,
    logged,
    unreported,
)
from p2p.testing.clock import EPOCH_NS, VirtualClock

if TYPE_CHECKING:
    from trio.testing import MockClock

WHO = "0x" + "11" * 20


def failed(number: int) -> DialFailed:
    return DialFailed(f"/ip4/192.0.2.1/tcp/{number}", bootstrap=False, reason="nobody answered")


async def test_a_flood_of_one_kind_leaves_the_others(autojump_clock: MockClock) -> None:
    log = EventLog(VirtualClock(), kept=10)
    log.add(PeerConnected(WHO, "/ip4/192.0.2.7/tcp/1", "out"))
    for number in range(1000):
        log.add(failed(number))
    log.add(PeerDisconnected(WHO, "it went"))
    kept = log.after(0)
    assert [entry.seq for entry in kept] == [1, *range(992, 1002), 1002]
    assert log.last == 1002
    assert log.counts == {
        ("peer-connected", "out-direct"): 1,
        ("dial-failed", "other"): 1000,
        ("peer-disconnected", ""): 1,
    }
    assert [entry.seq for entry in log.after(1000)] == [1001, 1002]
    assert [entry.seq for entry in log.after(0, limit=2)] == [1001, 1002]
    assert log.after(0, limit=0) == log.after(1002) == []


async def test_an_event_has_its_time_and_its_name(autojump_clock: MockClock) -> None:
    log = EventLog(VirtualClock())
    await trio.sleep(7)
    log.add(GossipFault(WHO, "forged"))
    (entry,) = log.after(0)
    assert entry.at_ns == EPOCH_NS + 7 * 10**9
    assert msgspec.to_builtins(entry.event) == {"event": "gossip-fault", "peer": WHO, "fault": "forged"}


async def test_what_peers_make_long_is_cut(autojump_clock: MockClock) -> None:
    log = EventLog(VirtualClock())
    log.add(PeerDropped(WHO, dialled=True, why="network", reason="x" * 100_000))
    event = log.after(0)[0].event
    assert isinstance(event, PeerDropped)
    assert len(event.reason) == MAX_REASON


def test_what_peers_say_does_not_reach_a_terminal_as_it_is() -> None:
    event = PeerDropped(
        WHO, dialled=True, why="version", reason="it speaks 1 (x\x1b]0;owned\x07\nevent=all-is-well)"
    )
    with structlog.testing.capture_logs() as lines:
        log = EventLog(clock=FixedClock())
        log.add(event)
        logged(event)
    kept = log.after(0)[0].event
    assert isinstance(kept, PeerDropped)
    for reason in (kept.reason, lines[0]["reason"], lines[1]["reason"]):
        assert reason == "it speaks 1 (x\ufffd]0;owned\ufffd\ufffdevent=all-is-well)"


async def test_who_waits_is_woken_by_the_next(autojump_clock: MockClock) -> None:
    log = EventLog(VirtualClock())
    seen: list[int] = []

    async def follow() -> None:
        last = 0
        while last < 3:
            await log.wait_after(last)
            seen.extend(entry.seq for entry in log.after(last))
            last = seen[-1]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.sleep(1)
        log.add(failed(1))
        log.add(failed(2))
        await trio.sleep(1)
        assert seen == [1, 2]
        log.add(failed(3))
    assert seen == [1, 2, 3]
    with trio.fail_after(1):
        await log.wait_after(2)  # there is one already


def test_each_is_a_line_of_the_log_named_like_its_kind() -> None:
    with structlog.testing.capture_logs() as lines:
        log = EventLog(clock=FixedClock())
        log.add(PeerDropped(WHO, dialled=True, why="silent", reason="no hello"))
        log.add(PeerDropped(WHO, dialled=False, why="silent", reason="no hello"))
        log.add(failed(4))
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("peer-dropped", "info"),
        ("peer-dropped", "debug"),
        ("dial-failed", "debug"),
    ]
    assert (lines[0]["peer"], lines[0]["reason"]) == (WHO, "no hello")


class FixedClock:
    def utc_ns(self) -> int:
        return 1

    def monotonic(self) -> float:
        return 1.0


def test_nobody_has_to_listen() -> None:
    event: NetEvent = failed(1)
    unreported(event)
