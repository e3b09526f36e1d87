"""What of a new verdict is news."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from p2p.events import NetEvent, RelayGained, RelayLost, VerdictChanged
from p2p.reach.judge import DialBack, Facts, judge
from p2p.reach.reports import news, report_changes
from p2p.reach.verdict import UNKNOWN, Relay, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = "/ip4/198.51.100.7/tcp/4001"
PUBLIC = judge(Facts((HERE,), dial_backs=[DialBack("a", HERE, True)]))
ONE, TWO = (Relay(f"0x{n:040x}", (f"/ip4/192.0.2.{n}/tcp/1/p2p-circuit",), 0) for n in (1, 2))


def relayed(*relays: Relay) -> Verdict:
    return msgspec.structs.replace(UNKNOWN, state="relayed", relays=relays)


def test_what_is_as_before_is_no_news() -> None:
    for verdict in (UNKNOWN, PUBLIC, relayed(ONE)):
        assert news(verdict, verdict) == []
    assert news(relayed(ONE), relayed(msgspec.structs.replace(ONE, expires_ns=5))) == [], "it was refreshed"


def test_a_change_of_state_comes_with_its_evidence() -> None:
    (event,) = news(UNKNOWN, PUBLIC)
    assert isinstance(event, VerdictChanged)
    assert (event.verdict, event.code) == ("public", "public")
    assert HERE in event.reason
    assert news(PUBLIC, UNKNOWN) == [VerdictChanged("unknown", "not known yet")]


def test_relays_that_come_and_go() -> None:
    assert news(relayed(), relayed(ONE, TWO)) == [
        RelayGained(ONE.peer, ONE.addresses[0]),
        RelayGained(TWO.peer, TWO.addresses[0]),
    ]
    assert news(relayed(ONE, TWO), relayed(TWO)) == [RelayLost(ONE.peer, "its place has ended")]
    changed, lost = news(relayed(ONE), PUBLIC)
    assert isinstance(changed, VerdictChanged)
    assert lost == RelayLost(ONE.peer, "this node is public and needs none")


class Reach:
    """A reach whose verdict a test decides."""

    def __init__(self) -> None:
        self.verdict = UNKNOWN
        self.listeners: list[Callable[[Verdict], None]] = []

    def subscribe(self, listener: Callable[[Verdict], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    async def check(self) -> Verdict:
        return self.verdict

    def become(self, verdict: Verdict) -> None:
        self.verdict = verdict
        for listener in list(self.listeners):
            listener(verdict)


def test_each_change_is_reported_once() -> None:
    reach, events = Reach(), list[NetEvent]()
    stop = report_changes(reach, events.append)
    reach.become(PUBLIC)
    reach.become(PUBLIC)
    reach.become(relayed(ONE))
    assert [event.kind for event in events] == ["verdict-changed", "verdict-changed", "relay-gained"]
    stop()
    reach.become(PUBLIC)
    assert len(events) == 3
