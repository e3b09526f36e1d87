"""The bus of another process: `async with connect(path, token) as bus` goes through the node's door.

For exe-unit supervisors and the command line. Imports nothing of keys or libp2p, since its users start often
and must start fast. A connection that ends is not made anew: `bus.closed` is set, calls raise BusClosed, and
the program decides.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio

from p2p.bus import frames
from p2p.bus.api import DEFAULT_TIMEOUT, BadContent, BusClosed, BusError, BusTimeout, Call
from p2p.bus.endpoints import Endpoints, Items, check_size
from p2p.bus.frames import (
    Event,
    Failure,
    FrameReader,
    Hello,
    Publish,
    Register,
    Subscribe,
    Unregister,
    Unsubscribe,
    Welcome,
)
from p2p.bus.line import Line
from p2p.bus.outbox import SEND_AHEAD_BYTES
from p2p.bus.topics import Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from p2p.bus.api import Caller, Endpoint
    from p2p.bus.endpoints import Served
    from p2p.bus.frames import Frame, Request

URL_VARIABLE: Final = "GSB_URL"
"""Says where the node's bus is: `unix:PATH` or `unix:///PATH`."""
TOKEN_VARIABLE: Final = "GOLEM_P2P_BUS_TOKEN"  # noqa: S105 - a variable's name
"""Holds the token; without it, the owner's is read from the file `<path>.token`."""
CONNECT_TIMEOUT: Final = 5.0
"""Seconds for the door to greet us."""
FLUSH_TIMEOUT: Final = 1.0
"""Seconds, on leaving, for what was sent to leave the process."""

_log = structlog.get_logger("p2p.bus")


class DoorRegistration:
    """A prefix that this process serves for the node.

    It is in force as soon as the node answers what this process sends next; `confirmed` waits for that.
    """

    def __init__(self, bus: DoorBus, served: Served) -> None:
        self.prefix = served.prefix
        self._bus = bus
        self._served = served
        self._answered = trio.Event()
        self._refusal: BusError | None = None
        self._id = bus._line.request(lambda i: Register(i, self.prefix), self._answer)  # noqa: SLF001 - its own

    def close(self) -> None:
        """Give the prefix back; calls in flight are finished."""
        self._served.close()
        self._bus._line.send_nowait(Unregister(self._id))  # noqa: SLF001 - its own

    async def confirmed(self) -> None:
        """Wait until the node has agreed. Raises BusError: taken, forbidden, or gone."""
        await self._answered.wait()
        if self._refusal is not None:
            raise self._refusal

    def _answer(self, refusal: BusError | None) -> None:
        self._refusal = refusal
        self._answered.set()
        if refusal is not None:
            self._served.close()
            if not isinstance(refusal, BusClosed):
                _log.error("the node does not let us serve", prefix=self.prefix, error=str(refusal))


class DoorBus:
    """A `p2p.bus.Bus` through the door of a node. Made by `connect`."""

    def __init__(self, stream: trio.abc.Stream, reader: FrameReader, welcome: Welcome, name: str) -> None:
        self.node_id = welcome.node_id
        """Who the node is."""
        self.subject = welcome.subject
        """Whom our token was issued to; empty for the owner."""
        self._endpoints = Endpoints()
        self._subscriptions: dict[int, Subscription] = {}
        self._line = Line(stream, self, name=name, reader=reader)
        self.closed = self._line.closed
        """Set when the connection has ended: the node has gone, or the token was revoked."""

    def __repr__(self) -> str:
        return f"<DoorBus {self.subject or 'owner'}, {self._line!r}>"

    def register(
        self, prefix: str, endpoint: Endpoint, *, allow: Callable[[Caller], bool] | None = None
    ) -> DoorRegistration:
        """Serve every address below `prefix`, here, for whoever calls the node.

        Does not wait for the node: what it would refuse (another process serves the prefix, the token
        does not open it) is raised by `DoorRegistration.confirmed`, and logged.
        """
        served = self._endpoints.register(prefix, endpoint, allow)
        try:
            return DoorRegistration(self, served)
        except BusError:
            served.close()
            raise

    async def call(
        self, address: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT, acting: str = ""
    ) -> bytes:
        check_size(body, f"the request to {address}")
        deadline = trio.current_time() + max(timeout, 0.0)
        return await self._line.call(address, body, deadline=deadline, acting=acting)

    @contextlib.asynccontextmanager
    async def stream(
        self, address: str, body: bytes, *, timeout: float | None = None, acting: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        check_size(body, f"the request to {address}")
        deadline = math.inf if timeout is None else trio.current_time() + max(timeout, 0.0)
        async with self._line.stream(address, body, deadline=deadline, acting=acting) as items:
            yield Items(items, address, deadline)

    def publish(self, topic: str, body: bytes) -> None:
        check_size(body, f"an event on {topic}")
        if self._line.backlog >= SEND_AHEAD_BYTES:
            _log.warning("the node does not take events fast enough; one was dropped", topic=topic)
        else:
            self._line.send_nowait(Publish(topic, body))

    @contextlib.asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncIterator[AsyncIterator[bytes]]:
        answered = trio.Event()
        refusal: BusError | None = None

        def answer(error: BusError | None) -> None:
            nonlocal refusal
            refusal = error
            answered.set()

        request_id = self._line.request(lambda i: Subscribe(i, topic), answer)
        subscription = self._subscriptions[request_id] = Subscription(topic)
        try:
            await answered.wait()
            if refusal is not None:
                raise refusal
            yield subscription
        finally:
            del self._subscriptions[request_id]
            self._line.send_nowait(Unsubscribe(request_id))

    # What the line asks of its owner.

    async def answer(self, request: Request) -> bytes:
        return await self._endpoints.call(_call_of(request))

    def answer_stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._endpoints.stream(_call_of(request), _deadline_of(request))

    def receive(self, frame: Frame) -> None:
        if not isinstance(frame, Event):
            raise BadContent(f"a {type(frame).__name__} has no place here")
        subscription = self._subscriptions.get(frame.id)
        if subscription is not None:
            subscription.put(frame.body)

    def ended(self) -> None:
        for subscription in self._subscriptions.values():
            subscription.end(BusClosed(f"the bus connection to {self._line.name} has ended"))

    # What `connect` asks.

    async def run(self) -> None:
        """Serve the connection until it ends."""
        await self._line.run()

    async def flush(self) -> None:
        """Wait until what was sent has left this process."""
        await self._line.flush()


@contextlib.asynccontextmanager
async def connect(path: str | Path, token: str) -> AsyncIterator[DoorBus]:
    """Connect to the node whose door is at `path`, for as long as the block is open.

    Raises:
        BusClosed: no node answers there.
        RemoteError: `forbidden`, when the node does not know the token.
        BusTimeout: somebody answers, but says nothing.
    """
    name = f"the node at {path}"
    bus = await _enter(Path(path), token, name)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.run)
        try:
            yield bus
        except BaseException as error:  # raised below as it is, not wrapped by the nursery
            failure = error
        with trio.CancelScope(deadline=trio.current_time() + FLUSH_TIMEOUT, shield=True):
            await bus.flush()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def connect_env(environ: Mapping[str, str]) -> AsyncIterator[DoorBus]:
    """Connect to the node that the environment names: `GSB_URL` and `GOLEM_P2P_BUS_TOKEN`.

    Raises:
        BusError: a variable or file is missing or wrong (one line that says which), or as `connect`.
    """
    path = socket_path(environ.get(URL_VARIABLE, ""))
    token = environ.get(TOKEN_VARIABLE, "").strip() or _stored_token(path)
    async with connect(path, token) as bus:
        yield bus


def socket_path(url: str) -> Path:
    """Return the path in a `GSB_URL`. Raises BusError if it is empty or of another kind."""
    if not url:
        raise BusError(
            f"{URL_VARIABLE} is not set: it says where the node's bus is, as in unix:/path/to/bus.sock"
        )
    scheme, colon, rest = url.partition(":")
    path = rest.removeprefix("//")
    if scheme != "unix" or not colon or not path or (rest.startswith("//") and not path.startswith("/")):
        raise BusError(f"{URL_VARIABLE}={url!r} is not understood: expected unix:PATH or unix:///PATH")
    return Path(path)


def _stored_token(path: Path) -> str:
    file = path.with_name(path.name + ".token")
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a token"
        raise BusError(
            f"no bus token: {TOKEN_VARIABLE} is not set and {file} cannot be read ({reason}); is the node running?"
        ) from error
    if not token:
        raise BusError(f"no bus token: {TOKEN_VARIABLE} is not set and {file} is empty; restart the node")
    return token


async def _enter(path: Path, token: str, name: str) -> DoorBus:
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await trio.open_unix_socket(str(path))
            try:
                reader = FrameReader()
                welcome = await _say_hello(stream, reader, token, name)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
    except trio.TooSlowError as error:
        raise BusTimeout(f"{name} did not greet us within {CONNECT_TIMEOUT:g} s; is it stuck?") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise BusClosed(f"no node answers at {path} ({reason}); is it running?") from error
    return DoorBus(stream, reader, welcome, name)


async def _say_hello(stream: trio.SocketStream, reader: FrameReader, token: str, name: str) -> Welcome:
    try:
        await stream.send_all(frames.encode(Hello(token)))
        while (frame := reader.next_frame()) is None:
            data = await stream.receive_some()
            if not data:
                raise BusClosed(f"{name} closed the connection before it greeted us; its log says why")
            reader.feed(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise BusClosed(f"{name} closed the connection before it greeted us; its log says why") from error
    if isinstance(frame, Failure):
        raise frames.error_of(frame)
    if not isinstance(frame, Welcome):
        raise BadContent(f"{name} greeted us with a {type(frame).__name__}")
    return frame


def _call_of(request: Request) -> Call:
    if request.caller is None:
        raise BadContent("the node did not say who calls")
    return Call(request.caller, request.address, request.body)


def _deadline_of(request: Request) -> float:
    return math.inf if request.timeout is None else trio.current_time() + request.timeout
