"""The bus as its users see it: addresses, services, calls. No transport here, and no I/O.

The address space is Golem's service bus (GSB): `/local/<service>/...` inside this machine only,
`/public/<service>/...` exported to peers, `/net/<node id>/<service>/...` a peer's `/public/<service>/...`.
The last segment is the method. A service is registered under a prefix; the longest registered prefix wins.

The same service is reachable in process, by the unix door and by peers; what differs is the `Caller`.

Errors, of the caller's side:
    BusError
    ├── NoEndpoint          nobody serves the address ("endpoint address not found")
    ├── BusTimeout          no answer in time; the far end was told to stop
    ├── BusClosed           the connection ended before the answer
    ├── BadContent          a frame or body that does not decode
    ├── Busy                a bound was reached; try later
    ├── AddressTaken        another endpoint is registered under that very prefix
    └── RemoteError         the service answered with an error of its own: `kind` and a message
Errors, of the service's side:
    ServiceError            raised by a handler; travels as RemoteError(kind, message)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from p2p import codec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Largest body of a call or an answer. Files travel on streams of their own."""

DEFAULT_TIMEOUT = 30.0
"""Seconds that a call waits when it does not say."""


class BusError(Exception):
    """A call did not get its answer."""


class NoEndpoint(BusError):
    """Nobody serves the address: no such service, or a peer that cannot be reached.

    Args:
        address: what was called.
        reason: why nobody does, where that is known, such as why no session could be made.
    """

    def __init__(self, address: str, reason: str = "") -> None:
        # The words are matched by existing SDKs when they decide whether to retry.
        text = f"GSB error: endpoint address not found: {address}"
        super().__init__(f"{text} ({reason})" if reason else text)
        self.address = address
        self.reason = reason


class BusTimeout(BusError):
    """No answer came in time."""


class BusClosed(BusError):
    """The connection to the service ended before it answered."""


class BadContent(BusError):
    """A frame or a body does not decode as what it should be."""


class Busy(BusError):
    """A bound on calls in flight was reached."""


class AddressTaken(BusError):
    """Another endpoint is registered under that very prefix."""


class RemoteError(BusError):
    """The service answered with an error of its own."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class ServiceError(Exception):
    """Raised by a handler to answer with an error.

    Args:
        kind: one word that programs match on, such as `notFound`, `forbidden`, `badRequest`.
        message: what a person reads.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Caller(msgspec.Struct, frozen=True):
    """Who calls: a fact established by the transport, never a field that the caller fills in."""

    node_id: str
    """NodeId of the calling node, or of the one of its identities that acts: proven by the session, or our own
    for local callers."""
    local: bool
    """True when the call comes from this node's own process or through its unix door."""
    child: str = ""
    """Subject of the door token, such as an activity id; empty for the node itself and its owner."""


class Call(msgspec.Struct, frozen=True):
    """One call as a service sees it."""

    caller: Caller
    address: str
    """The address as served here, `/public/...` or `/local/...`, method included."""
    body: bytes
    """Canonical CBOR of the request."""

    @property
    def method(self) -> str:
        """Return the last segment of the address."""
        return self.address.rsplit("/", 1)[1]


class Endpoint(Protocol):
    """Answers calls under a prefix."""

    async def call(self, call: Call) -> bytes:
        """Answer one call. Raises ServiceError, or NoEndpoint for a method that is not served."""
        ...

    def stream(self, call: Call) -> AsyncIterator[bytes]:
        """Answer one streaming call, item by item. Closed early when the caller stops listening.

        Written as an async generator, it must not yield inside a cancel scope or nursery of its own
        (trio's rule for generators): the bus waits for the caller between two items.
        """
        ...


class Registration(Protocol):
    """A registered prefix."""

    def close(self) -> None:
        """Give the prefix back; calls in flight are finished."""
        ...


class Bus(Protocol):
    """Calls services by address, here, behind the door, or at a peer."""

    def register(
        self, prefix: str, endpoint: Endpoint, *, allow: Callable[[Caller], bool] | None = None
    ) -> Registration:
        """Serve every address below `prefix`, such as `/public/market`.

        Args:
            allow: whether a caller may call at all; RemoteError `forbidden` if not. None lets everyone.

        Raises:
            AddressTaken: the prefix is taken.
            BusError: the prefix is malformed.
        """
        ...

    async def call(
        self, address: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT, acting: str = ""
    ) -> bytes:
        """Call one method and return the answer's body. Raises BusError.

        Cancelling, or the timeout, cancels the handler at the far end too.

        Args:
            acting: which of the node's identities calls, as `Caller.node_id` of the service; empty for its main
                one. A peer has to have been shown that the node speaks for it.
        """
        ...

    def stream(
        self, address: str, body: bytes, *, timeout: float | None = None, acting: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Make a streaming call: `async with bus.stream(...) as items: async for item in items`.

        Back-pressured: the service waits while the caller does not read. Leaving the block cancels it.
        `timeout` bounds the whole call; None means as long as it lasts. `acting` is as for `call`.
        """
        ...

    def publish(self, topic: str, body: bytes) -> None:
        """Give `body` to every subscriber of `topic` on this node; a full subscriber loses its oldest."""
        ...

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Listen to `topic` while the block is open."""
        ...


Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Service:
    """An endpoint made of typed methods: structs in, structs out.

        service = Service()
        service.method(GetBodies, get_bodies)  # async def get_bodies(caller: Caller, request: GetBodies)
        service.streaming(Follow, follow)      # an async generator of structs
        bus.register("/public/market", service)

    A method is named after its request struct.
    """

    def __init__(self) -> None:
        self._methods: dict[str, tuple[type[Any], Callable[[Caller, Any], Awaitable[Any]]]] = {}
        self._streams: dict[str, tuple[type[Any], Callable[[Caller, Any], AsyncIterator[Any]]]] = {}

    def method(
        self, request: type[Request], handler: Callable[[Caller, Request], Awaitable[Any]], *, name: str = ""
    ) -> None:
        """Serve `request` structs by `handler`, which returns a struct, a builtin tree or None."""
        self._methods[name or request.__name__] = (request, handler)

    def streaming(
        self,
        request: type[Request],
        handler: Callable[[Caller, Request], AsyncIterator[Any]],
        *,
        name: str = "",
    ) -> None:
        """Serve streaming calls of `request` by an async generator."""
        self._streams[name or request.__name__] = (request, handler)

    async def call(self, call: Call) -> bytes:
        entry = self._methods.get(call.method)
        if entry is None:
            raise NoEndpoint(call.address)
        request_type, handler = entry
        return codec.encode(await handler(call.caller, self._decode(call, request_type)))

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        entry = self._streams.get(call.method)
        if entry is None:
            raise NoEndpoint(call.address)
        request_type, handler = entry
        items = handler(call.caller, self._decode(call, request_type))
        try:
            async for item in items:
                yield codec.encode(item)
        finally:
            # A generator that is left early is closed here and now, not by the garbage collector.
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()

    def _decode(self, call: Call, request_type: type[Any]) -> Any:
        try:
            return codec.decode(call.body, request_type)
        except codec.CodecError as error:
            raise ServiceError("badRequest", f"{call.method}: {error}") from error


async def ask(
    bus: Bus,
    prefix: str,
    request: msgspec.Struct,
    reply: type[Reply],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    acting: str = "",
) -> Reply:
    """Call the method named after `request` below `prefix`, and decode the answer as `reply`.

    Raises:
        BusError: see the tree above; BadContent if the answer is not a `reply`.
    """
    address = f"{prefix}/{type(request).__name__}"
    body = await bus.call(address, codec.encode(request), timeout=timeout, acting=acting)
    try:
        return codec.decode(body, reply)
    except codec.CodecError as error:
        raise BadContent(f"{address} answered with {error}") from error


def net_address(node_id: str, service: str) -> str:
    """Return the address of a peer's public service: `/net/<node id>/<service>`."""
    return f"/net/{node_id}/{service}"
