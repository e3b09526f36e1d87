"""What every implementation of `Overlay` does alike: guard a stream's handler, and dial a peer once at a time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.overlay import OverlayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Hashable

    from p2p.identity import NodeId
    from p2p.overlay import Stream, StreamHandler

CLOSE_TIMEOUT = 10.0
"""Seconds that flushing a served stream may take when its handler has returned."""

_log = structlog.get_logger("p2p.overlay")


async def serve_stream(handler: StreamHandler, stream: Stream, *, node: NodeId, protocol: str) -> None:
    """Run `handler` on an inbound stream, then close the stream; what the handler raises resets it."""
    try:
        await handler(stream)
        with trio.move_on_after(CLOSE_TIMEOUT) as scope:
            await stream.aclose()
        if scope.cancelled_caught:
            stream.reset()
    except OverlayError as error:
        stream.reset()
        _log.debug("a served stream broke", node=node, peer=stream.peer, protocol=protocol, reason=str(error))
    except Exception as error:
        stream.reset()
        _log.warning(
            "a stream handler failed; its stream was reset",
            node=node,
            peer=stream.peer,
            protocol=protocol,
            error=repr(error),
            exc_info=True,
        )
    except BaseException:
        stream.reset()
        raise


class OneAtATime:
    """Locks by key, for as long as somebody holds or awaits them."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.Lock] = {}

    @asynccontextmanager
    async def __call__(self, key: Hashable) -> AsyncIterator[None]:
        """Wait until nobody else is inside with `key`."""
        lock = self._locks.setdefault(key, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)
