"""Answering others' requests: what is answered, and how much one peer may ask. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.discovery.kademlia.contact import Contact, key_of
from p2p.discovery.kademlia.wire import Kind, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.discovery.kademlia.params import KademliaParams
    from p2p.discovery.kademlia.store import RecordStore
    from p2p.discovery.kademlia.table import RoutingTable

MAX_PEERS_COUNTED = 1024
"""Peers whose requests are counted; who asked the longest ago is forgotten first."""


class Answerer:
    """Answers requests from the table and the store.

    Args:
        itself: returns our own contact.
        known: returns a contact that is known from elsewhere than the table, for who looks for that very peer.
    """

    def __init__(
        self,
        table: RoutingTable,
        store: RecordStore,
        params: KademliaParams,
        itself: Callable[[], Contact],
        known: Callable[[bytes], Contact | None],
    ) -> None:
        self._table = table
        self._store = store
        self._params = params
        self._itself = itself
        self._known = known

    def answer(self, asker: str, request: Message, now_ns: int) -> Message | None:
        """Return the answer; None for a request that has none.

        Args:
            asker: its name on the overlay; it is not told of itself.

        Raises:
            RecordRefused: the request would store what has no place here.
        """
        match request.kind:
            case Kind.PING:
                return Message(Kind.PING)
            case Kind.ADD_PROVIDER:
                return None
            case Kind.PUT_VALUE:
                self._store.put(request.key, request.record or b"", now_ns)
                held = self._store.get(request.key, now_ns)  # a newer one tells the asker that its own is old
                return Message(Kind.PUT_VALUE, request.key, held)
            case Kind.GET_VALUE:
                held = self._store.get(request.key, now_ns)
                return Message(Kind.GET_VALUE, request.key, held, self._closer(asker, request.key))
            case Kind.FIND_NODE:
                return Message(Kind.FIND_NODE, closer=self._closer(asker, request.key, peer=True))
            case Kind.GET_PROVIDERS:
                return Message(Kind.GET_PROVIDERS, closer=self._closer(asker, request.key))

    def _closer(self, asker: str, key: bytes, *, peer: bool = False) -> tuple[Contact, ...]:
        nearest = self._table.closest(key_of(key), self._params.k + 1)
        found = [contact for contact in nearest if asker not in contact.names][: self._params.k]
        if peer and all(contact.peer_id != key for contact in found):
            itself = self._itself()
            sought = itself if key == itself.peer_id else self._known(key)
            if sought is not None and sought.addresses:
                found = [sought, *found][: self._params.k]
        return tuple(found)


class _Asker:
    def __init__(self, now: float, burst: float) -> None:
        self.streams = 0
        self.tokens = burst
        self.counted_at = now


class InboundLimits:
    """Bounds what is served at once, and how often one peer may ask."""

    def __init__(self, params: KademliaParams) -> None:
        self._params = params
        self._askers: dict[str, _Asker] = {}
        self._streams = 0

    def enter(self, now: float, peer: str) -> bool:
        """Return whether a stream of `peer` may be served; then `leave` has to follow."""
        asker = self._askers.pop(peer, None) or _Asker(now, self._params.inbound_burst)
        self._askers[peer] = asker
        self._forget()
        # A first stream is always let in: a few peers that hold theirs open must not keep the others from asking.
        full = self._streams >= self._params.max_inbound and asker.streams > 0
        if full or asker.streams >= self._params.max_inbound_per_peer:
            return False
        asker.streams += 1
        self._streams += 1
        return True

    def leave(self, peer: str) -> None:
        """Note that a stream that `enter` let in has ended."""
        self._askers[peer].streams -= 1
        self._streams -= 1

    def allow(self, now: float, peer: str) -> bool:
        """Return whether `peer`, one of whose streams is served, may make one more request."""
        asker, burst = self._askers[peer], self._params.inbound_burst
        asker.tokens = min(burst, asker.tokens + (now - asker.counted_at) * self._params.inbound_rate)
        asker.counted_at = now
        if asker.tokens < 1:
            return False
        asker.tokens -= 1
        return True

    def _forget(self) -> None:
        if len(self._askers) > MAX_PEERS_COUNTED:
            idle = next((peer for peer, asker in self._askers.items() if not asker.streams), None)
            if idle is not None:
                del self._askers[idle]
