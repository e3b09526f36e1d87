"""A protocol for golem-p2p in a package of its own: greets peers and counts how often.

It shows what a handler has: typed messages on the bus, a table in the node's database, settings of its own,
the node's clock. Ask a peer with `greet(bus, node_id, "Ada")`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from p2p.bus import Bus, Caller, Service, ServiceError, ask, net_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from p2p.protocol import NodeContext
    from p2p.storage import Connection

MAX_NAME = 64


class Greet(msgspec.Struct, frozen=True):
    """Asks to be greeted."""

    name: str


class Greeting(msgspec.Struct, frozen=True):
    """The answer."""

    text: str
    count: int
    """How often this caller has been greeted, this time included; survives restarts."""
    time_ns: int
    """By the greeter's clock, UTC."""


class HelloProtocol:
    """Serves `/public/hello/Greet`."""

    name = "hello"

    def __init__(self, word: str) -> None:
        self._word = word
        self._ctx: NodeContext

    @contextlib.asynccontextmanager
    async def running(self, ctx: NodeContext) -> AsyncIterator[None]:
        """Serve while the context is open."""
        self._ctx = ctx
        table = "CREATE TABLE hello_count(peer TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT"
        await ctx.database.migrate("hello", [table])
        service = Service()
        service.method(Greet, self._on_greet)
        registration = ctx.bus.register("/public/hello", service)
        try:
            yield
        finally:
            registration.close()

    async def _on_greet(self, caller: Caller, request: Greet) -> Greeting:
        if not 0 < len(request.name) <= MAX_NAME:
            raise ServiceError("badRequest", f"a name has 1 to {MAX_NAME} characters")

        def count(c: Connection) -> int:
            row = c.execute(
                "INSERT INTO hello_count VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
                (caller.node_id,),
            ).fetchone()
            return int(row[0])

        times = await self._ctx.database.write(count)
        return Greeting(f"{self._word}, {request.name}!", times, self._ctx.clock.utc_ns())


def create(settings: Mapping[str, object]) -> HelloProtocol:
    """Make the handler; `settings` is `[protocols.hello]` of the node's config.toml."""
    return HelloProtocol(str(settings.get("word", "Hello")))


async def greet(bus: Bus, node_id: str, name: str) -> Greeting:
    """Ask a node for a greeting. Raises BusError."""
    return await ask(bus, net_address(node_id, "hello"), Greet(name), Greeting)
