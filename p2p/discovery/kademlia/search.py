"""A lookup under way: asks whom `Lookup` says, a few at once, until it is done or enough was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from p2p.discovery.kademlia.requests import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.discovery.kademlia.contact import Contact
    from p2p.discovery.kademlia.lookup import Lookup
    from p2p.discovery.kademlia.requests import Requests
    from p2p.discovery.kademlia.wire import Message


class LookupReport(msgspec.Struct):
    """What a lookup took."""

    requests: int = 0
    """Contacts asked."""
    failures: int = 0
    """Of these, those that did not answer, or with nonsense."""
    hops: int = 0
    """Steps to the contact that had what was sought first: 1 for one that was known before; 0 if none had it."""
    seconds: float = 0.0


class BadAnswer(Exception):
    """An answer that its receiver does not believe: it counts as none."""


async def search(
    lookup: Lookup,
    requests: Requests,
    request: Message,
    take: Callable[[Contact, Message], float | None],
    timeout: float,
) -> LookupReport:
    """Run `lookup`, asking each contact the same; return what it took.

    Args:
        take: takes in an answer; returns for how many more seconds to search, or None to go on as before. What
            it raises as BadAnswer makes the contact's answer count for nothing, whom it told of included.
    """
    report = LookupReport()
    changed = trio.Event()
    scope = trio.CancelScope(deadline=trio.current_time() + timeout)

    async def ask(contact: Contact) -> None:
        nonlocal changed
        try:
            answer = await requests.ask(contact, request)
            patience = take(contact, answer)
        except (NoAnswer, BadAnswer):
            report.failures += 1
            lookup.failed(contact)
        else:
            lookup.answered(contact, answer.closer)
            if patience is not None:
                report.hops = report.hops or lookup.hops_to(contact)
                scope.deadline = min(scope.deadline, trio.current_time() + patience)
        changed.set()
        changed = trio.Event()

    began = trio.current_time()
    with scope:
        async with trio.open_nursery() as nursery:
            while not lookup.done:
                news = changed
                for contact in lookup.next():
                    nursery.start_soon(ask, contact)
                await news.wait()
    report.requests = lookup.requests
    report.seconds = trio.current_time() - began
    return report
