"""One request to one contact: over the session that there is, or over one that is dialled for it.

What comes of it is told to the routing table. Dials are few at once, of few addresses, and short; who is found
at an address has to be who was expected there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.discovery.kademlia.wire import MAX_ANSWER_BYTES, decode_message, encode_message
from p2p.overlay import OverlayError, PeerUnreachable, ProtocolRefused, StreamBroken
from p2p.protobuf import FrameReader, WireError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

    from p2p.clock import Clock
    from p2p.discovery.kademlia.contact import Contact
    from p2p.discovery.kademlia.params import KademliaParams
    from p2p.discovery.kademlia.table import RoutingTable
    from p2p.discovery.kademlia.wire import Message
    from p2p.overlay import Overlay, Stream

MAX_DIALS = 16
"""Dials of all lookups under way at once."""
MAX_ADDRESSES_DIALLED = 3
"""Addresses of one contact that are tried, one after the other."""


class NoAnswer(Exception):
    """A contact was not reached in time, does not serve Kademlia, or answered nonsense; the message says which."""


class Requests:
    """Asks contacts, and remembers which sessions it made for that.

    Args:
        protocol: the id to ask on.
        counters: counts requests, dials and failures.
        acceptable: whether an address may be dialled.
    """

    def __init__(
        self,
        overlay: Overlay,
        protocol: str,
        table: RoutingTable,
        params: KademliaParams,
        clock: Clock,
        counters: Counter[str],
        acceptable: Callable[[str], bool],
    ) -> None:
        self._overlay = overlay
        self._protocol = protocol
        self._table = table
        self._params = params
        self._clock = clock
        self._counters = counters
        self._acceptable = acceptable
        self._dials = trio.CapacityLimiter(MAX_DIALS)
        self._connected: set[str] = set()
        self._used_at: dict[str, float] = {}

    def peer_changed(self, name: str, *, connected: bool) -> None:
        """Note that the overlay has, or has no more, a session with a peer."""
        if connected:
            self._connected.add(name)
        else:
            self._connected.discard(name)
            self._used_at.pop(name, None)

    async def ask(self, contact: Contact, request: Message) -> Message:
        """Return the answer of `contact`.

        Raises:
            NoAnswer: none came that can be used; the table knows.
        """
        self._counters["requests"] += 1
        try:
            with trio.fail_after(self._params.request_timeout):
                stream = await self._overlay.open_stream(await self._reach(contact), self._protocol)
                try:
                    answer = await _exchange(stream, request)
                except BaseException:
                    stream.reset()
                    raise
                await stream.aclose()
        except (OverlayError, WireError, trio.TooSlowError) as error:
            self._counters["failures"] += 1
            if isinstance(error, ProtocolRefused | WireError):
                self._table.removed(contact.peer_id)
            else:
                self._table.failed(self._clock.monotonic(), contact.peer_id)
            raise NoAnswer(str(error) or f"no answer within {self._params.request_timeout:g} s") from error
        self._table.answered(self._clock.monotonic(), contact)
        return answer

    def idle(self, linger: float) -> list[str]:
        """Return the peers whose sessions were made here and not used here for `linger` seconds."""
        now = self._clock.monotonic()
        return [name for name, used_at in self._used_at.items() if now - used_at >= linger]

    async def _reach(self, contact: Contact) -> str:
        """Return the name under which there is a session with `contact`, made if there is none."""
        now = self._clock.monotonic()
        for name in contact.names:
            if name in self._connected:
                if name in self._used_at:
                    self._used_at[name] = now
                return name
        reasons = ["it has no address that may be dialled"]
        for address in [a for a in contact.addresses if self._acceptable(a)][:MAX_ADDRESSES_DIALLED]:
            async with self._dials:
                self._counters["dials"] += 1
                try:
                    name = await self._overlay.connect(address)
                except OverlayError as error:
                    reasons.append(str(error))
                    continue
            if name in contact.names:
                self._used_at[name] = now
                return name
            reasons.append(f"{name} is at {address}")
        raise PeerUnreachable(f"{contact.names[0]} was not reached: {reasons[-1]}")


async def _exchange(stream: Stream, request: Message) -> Message:
    await stream.send_all(encode_message(request))
    reader = FrameReader(MAX_ANSWER_BYTES)
    while data := await stream.receive_some():
        for frame in reader.feed(data):
            answer = decode_message(frame)
            if answer.kind is not request.kind:
                raise WireError(f"a {answer.kind.name} answers a {request.kind.name}")
            return answer
    raise StreamBroken("the peer finished without an answer")
