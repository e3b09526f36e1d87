"""What goes into the trace of a simulation beside the network's own lines: what nodes announce on their buses.

An event is written as its name and its fields, in the order in which the struct declares them. Nothing that
depends on the machine is in any of them: no path, no process id, no time but virtual time.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from p2p import codec
from protocols.activity.events import TOPIC as ACTIVITY_TOPIC
from protocols.activity.events import ActivityEvent
from protocols.market.events import AgreementChanged
from protocols.market.messages import AGREEMENT_TOPIC
from protocols.payment.events import TOPIC as PAYMENT_TOPIC
from protocols.payment.events import PaymentEvent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from node.requestor.run import Job
    from p2p.bus import Bus

_TOPICS: dict[str, Any] = {
    AGREEMENT_TOPIC: AgreementChanged,
    ACTIVITY_TOPIC: ActivityEvent,
    PAYMENT_TOPIC: PaymentEvent,
}


@contextlib.asynccontextmanager
async def following(bus: Bus, note: Callable[[str], None]) -> AsyncIterator[None]:
    """Note what a node says of its agreements, activities and payments while the context is open."""
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        for topic, kind in _TOPICS.items():
            items = await stack.enter_async_context(bus.subscribe(topic))
            nursery.start_soon(_follow, items, kind, note)
        yield


async def _follow(items: AsyncIterator[bytes], kind: Any, note: Callable[[str], None]) -> None:
    async for item in items:
        event = codec.decode(item, kind)
        note(f"{type(event).__name__} {msgspec.json.encode(event).decode()}")


async def follow_job(job: Job, note: Callable[[str], None]) -> None:
    """Note how a job proceeds, to its end. What it says in words is left out: it may name files."""
    last = ""
    while True:
        ticket = job.changed.ticket()
        now = job.progress()
        line = (
            f"job {now.phase}: {now.agreements} agreements, {now.running} tasks running, {now.done} done, "
            f"{now.cost} GLM"
        )
        if line != last:
            note(line)
            last = line
        if now.over:
            return
        await ticket.wait()
