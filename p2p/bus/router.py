"""`LocalBus`: the node's own bus. Calls in process, and the way to everything else.

`/local` and `/public` are served from the table of registrations; `/net/<own id>/x` is `/public/x`;
`/net/<peer>/x` goes to a `PeerCaller`, which is all that the router knows of overlays. The door and the peer
side call through `call_as` and `stream_as` on behalf of whom they have proved. Rules kept here: a peer reaches
`/public` only, and bodies are bounded.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Protocol

import trio

from p2p.bus import address as addresses
from p2p.bus.api import (
    DEFAULT_TIMEOUT,
    BadContent,
    BusClosed,
    BusError,
    BusTimeout,
    Busy,
    Call,
    Caller,
    NoEndpoint,
    RemoteError,
)
from p2p.bus.endpoints import Endpoints, Items, check_size, timed_out
from p2p.bus.topics import Topics
from p2p.metrics import Calls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from p2p.bus.api import Endpoint, Registration


_OUTCOMES = {
    NoEndpoint: "no-endpoint",
    BusTimeout: "timeout",
    BusClosed: "closed",
    BadContent: "bad-content",
    Busy: "busy",
    RemoteError: "refused",
}
"""The words for errors in `LocalBus.calls`."""


class PeerCaller(Protocol):
    """Carries calls to peers."""

    async def call(self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = "") -> bytes:
        """Call `address` (`/public/...`) at `peer`; the far end is told `deadline`, in trio's time.

        Args:
            acting: which of this node's identities calls; empty for its main one.

        Raises:
            NoEndpoint: the peer cannot be reached, or does not serve the address.
            BusError: see `p2p.bus.api`.
        """
        ...

    def stream(
        self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Make a streaming call; the far end is told `deadline`, in trio's time."""
        ...


class LocalBus:
    """The bus of one node; implements `p2p.bus.Bus` for the node's own code.

    Args:
        node_id: who the node is.
        aliases: returns its further identities, of which callers may choose one and which are called as it is.
    """

    def __init__(self, node_id: str, *, aliases: Callable[[], Collection[str]] = tuple) -> None:
        self.node_id = node_id
        self._aliases = aliases
        self._own = Caller(node_id=node_id, local=True)
        self._endpoints = Endpoints()
        self._topics = Topics()
        self._peers: PeerCaller | None = None
        self.calls = Calls()
        """Single calls that have ended, by way (`local`, `out` to a peer, `in` from one) and outcome."""

    def __repr__(self) -> str:
        return f"<LocalBus of {self.node_id}, {self._endpoints!r}>"

    def attach_peers(self, peers: PeerCaller) -> None:
        """Send `/net/...` through `peers`. Until then such calls raise NoEndpoint."""
        self._peers = peers

    def register(
        self, prefix: str, endpoint: Endpoint, *, allow: Callable[[Caller], bool] | None = None
    ) -> Registration:
        return self._endpoints.register(prefix, endpoint, allow)

    async def call(
        self, address: str, body: bytes, *, timeout: float = DEFAULT_TIMEOUT, acting: str = ""
    ) -> bytes:
        return await self.call_as(self.own_caller(acting), address, body, timeout=timeout)

    def stream(
        self, address: str, body: bytes, *, timeout: float | None = None, acting: str = ""
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self.stream_as(self.own_caller(acting), address, body, timeout=timeout)

    def own_caller(self, acting: str = "") -> Caller:
        """Return the node as a caller. Raises RemoteError `forbidden` if `acting` is no identity of it."""
        if not acting or acting == self.node_id:
            return self._own
        if acting not in self._aliases():
            raise RemoteError("forbidden", f"{acting} is no identity of this node, {self.node_id}")
        return Caller(node_id=acting, local=True)

    def publish(self, topic: str, body: bytes) -> None:
        self._topics.publish(topic, body)

    def subscribe(self, topic: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._topics.subscribe(topic)

    async def call_as(self, caller: Caller, address: str, body: bytes, *, timeout: float = math.inf) -> bytes:
        """Call on behalf of `caller`, whom the transport has proved. Raises BusError.

        Args:
            timeout: seconds; infinite where whoever calls keeps the time and cancels.
        """
        began, way, outcome = trio.current_time(), "local" if caller.local else "in", "cancelled"
        try:
            address = self._resolve(caller, address)
            if address.startswith("/net/"):
                way = "out"
            answer = await self._call(caller, address, body, began, timeout)
            outcome = "ok"
            return answer
        except BusError as error:
            outcome = _OUTCOMES.get(type(error), "failed")
            raise
        finally:
            self.calls.ended(trio.current_time() - began, way, outcome)

    async def _call(self, caller: Caller, address: str, body: bytes, now: float, timeout: float) -> bytes:
        check_size(body, f"the request to {address}")
        deadline = now + max(timeout, 0.0)
        if address.startswith("/net/"):
            peer, there = addresses.split_net(address)
            acting = self._acting(caller)
            return await self._peer_caller(address).call(peer, there, body, deadline=deadline, acting=acting)
        if timeout == math.inf:
            return await self._endpoints.call(Call(caller, address, body))
        with trio.CancelScope(deadline=deadline):
            return await self._endpoints.call(Call(caller, address, body))
        raise timed_out(address)

    @contextlib.asynccontextmanager
    async def stream_as(
        self, caller: Caller, address: str, body: bytes, *, timeout: float | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Make a streaming call on behalf of `caller`. Raises BusError."""
        address = self._resolve(caller, address)
        check_size(body, f"the request to {address}")
        deadline = math.inf if timeout is None else trio.current_time() + max(timeout, 0.0)
        if address.startswith("/net/"):
            peer, there = addresses.split_net(address)
            peers = self._peer_caller(address)
            async with peers.stream(
                peer, there, body, deadline=deadline, acting=self._acting(caller)
            ) as items:
                yield Items(items, address, deadline)
        else:
            async with self._endpoints.stream(Call(caller, address, body), deadline) as items:
                yield items

    def _resolve(self, caller: Caller, address: str) -> str:
        if not caller.local and not address.startswith("/public/"):
            # What is local is not there for a peer: not even a refusal tells it that something is.
            raise NoEndpoint(address[: addresses.MAX_ADDRESS_CHARS])
        found = addresses.canonical(address, self.node_id)
        if found.startswith("/net/"):
            aliases = self._aliases()
            if aliases:
                node, public = addresses.split_net(found)
                return public if node in aliases else found
        return found

    def _acting(self, caller: Caller) -> str:
        return "" if caller.node_id == self.node_id else caller.node_id

    def _peer_caller(self, address: str) -> PeerCaller:
        if self._peers is None:
            raise NoEndpoint(address, "this node has not joined the network yet")
        return self._peers
