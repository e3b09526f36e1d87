"""From one verdict to the next: what of it is news, as events. Pure but for the subscription."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.events import RelayGained, RelayLost, VerdictChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.events import NetEvent, Report
    from p2p.reach.verdict import Reach, Verdict


def news(old: Verdict, new: Verdict) -> list[NetEvent]:
    """Return what changed: the state, and which relays keep a place for this node."""
    events: list[NetEvent] = []
    if new.state != old.state:
        events.append(VerdictChanged(new.state, "; ".join(new.evidence) or new.headline))
    before, now = ({relay.peer: relay for relay in verdict.relays} for verdict in (old, new))
    for peer, relay in now.items():
        if peer not in before:
            events.append(RelayGained(peer, relay.addresses[0] if relay.addresses else ""))
    for peer in before:
        if peer not in now:
            why = "this node is public and needs none" if new.state == "public" else "its place has ended"
            events.append(RelayLost(peer, why))
    return events


def report_changes(reach: Reach, report: Report) -> Callable[[], None]:
    """Report what changes of a node's reach from now on; returns how to stop."""
    last = reach.verdict

    def changed(verdict: Verdict) -> None:
        nonlocal last
        old, last = last, verdict
        for event in news(old, verdict):
            report(event)

    return reach.subscribe(changed)
