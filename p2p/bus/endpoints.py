"""Who serves what: a table of prefixes, and calls made to what stands in it.

The longest registered prefix wins, by whole segments. Whatever a handler raises leaves here as a BusError:
its own ServiceError as RemoteError, a bug as RemoteError `service` after its traceback went to the log, so that a
broken handler costs one call and never the node. Used by the router, and by the door's client for the
endpoints of its own process.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.bus import address as addresses
from p2p.bus.api import (
    MAX_BODY_BYTES,
    AddressTaken,
    BadContent,
    BusError,
    BusTimeout,
    NoEndpoint,
    RemoteError,
    ServiceError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.bus.api import Call, Caller, Endpoint

_log = structlog.get_logger("p2p.bus")


class Served:
    """A registered prefix; `close()` gives it back, and calls in flight are finished."""

    def __init__(
        self,
        table: Endpoints,
        prefix: str,
        endpoint: Endpoint,
        allow: Callable[[Caller], bool] | None,
    ) -> None:
        self.prefix = prefix
        self.endpoint = endpoint
        self.allow = allow
        self._table = table

    def __repr__(self) -> str:
        return f"<Served {self.prefix}>"

    def close(self) -> None:
        self._table.remove(self)


class Endpoints:
    """A table of prefixes and the endpoints that serve them."""

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}

    def __repr__(self) -> str:
        return f"<Endpoints {sorted(self._served)}>"

    def register(
        self, prefix: str, endpoint: Endpoint, allow: Callable[[Caller], bool] | None = None
    ) -> Served:
        """Serve what lies below `prefix`. Raises AddressTaken, or BusError for a malformed prefix."""
        addresses.check_prefix(prefix)
        if prefix in self._served:
            raise AddressTaken(f"{prefix} is served already: close its registration first")
        served = self._served[prefix] = Served(self, prefix, endpoint, allow)
        return served

    def remove(self, served: Served) -> None:
        """Forget a registration; nothing happens if it is no longer the one in force."""
        if self._served.get(served.prefix) is served:
            del self._served[served.prefix]

    async def call(self, call: Call) -> bytes:
        """Answer a call. Raises BusError and nothing else."""
        try:
            answer = await self._admit(call).call(call)
            check_size(answer, f"the answer of {call.address}")
        except BusError:
            raise
        except Exception as error:
            raise _outward(error, call.address) from error
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, call: Call, deadline: float = math.inf) -> AsyncIterator[AsyncIterator[bytes]]:
        """Answer a streaming call; `deadline` is in trio's time. Raises BusError and nothing else."""
        try:
            items = self._admit(call).stream(call)
        except BusError:
            raise
        except Exception as error:
            raise _outward(error, call.address) from error
        try:
            yield Items(items, call.address, deadline)
        finally:
            await _close(items, call.address)

    def _admit(self, call: Call) -> Endpoint:
        prefix = call.address.rpartition("/")[0]
        while prefix:
            served = self._served.get(prefix)
            if served is not None:
                if served.allow is not None and not served.allow(call.caller):
                    raise RemoteError("forbidden", f"{call.caller.node_id} may not call {call.address}")
                return served.endpoint
            prefix = prefix.rpartition("/")[0]
        raise NoEndpoint(call.address)


class Items:
    """The items of a streaming call; each wait ends at the deadline, and errors are BusErrors."""

    def __init__(self, items: AsyncIterator[bytes], address: str, deadline: float) -> None:
        self._items = items
        self._address = address
        self._deadline = deadline

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            with trio.CancelScope(deadline=self._deadline):
                item = await anext(self._items)
                check_size(item, f"an item of {self._address}")
                return item
        except (BusError, StopAsyncIteration):
            raise
        except Exception as error:
            raise _outward(error, self._address) from error
        raise timed_out(self._address)


def check_size(body: bytes, what: str) -> None:
    """Refuse a body that no frame can carry. Raises BadContent."""
    if len(body) > MAX_BODY_BYTES:
        raise BadContent(f"{what} has {len(body)} bytes; at most {MAX_BODY_BYTES} can be sent")


def timed_out(address: str) -> BusTimeout:
    """Return the error for a call that took too long; SDKs look for its first words."""
    return BusTimeout(f"GSB error: Timeout: {address} did not answer in time")


def milliseconds_until(deadline: float) -> int | None:
    """Return how far off a deadline in trio's time is, to tell the far end; None if there is none to speak of."""
    seconds = deadline - trio.current_time()
    if seconds >= 2**40:
        return None
    # Rounded up: the near end gives up first, and knows why. In a cancelled scope it is minus infinity.
    return math.ceil(seconds * 1000) if seconds > 0 else 0


def _outward(error: Exception, address: str) -> BusError:
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]  # a handler's nursery wraps what its tasks raise
    if isinstance(error, BusError):
        return error
    if isinstance(error, ServiceError):
        return RemoteError(error.kind, error.message)
    _log.error("a handler failed; its caller was told of an internal error", address=address, exc_info=error)
    return RemoteError(
        "service", f"internal error of {address}; the log of the node that serves it says more"
    )


async def _close(items: AsyncIterator[bytes], address: str) -> None:
    close = getattr(items, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception as error:
        # Nobody waits for a result any more: who left the block shall not get the service's trouble.
        _log.error("a streaming handler failed while it was stopped", address=address, exc_info=error)
