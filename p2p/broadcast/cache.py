"""What the router remembers of messages: which ids were seen, and the last few messages whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2p.broadcast.wire import Message


class ExpiringIds:
    """A set of ids, each until a time, with a bound; when full the oldest goes. `now` is monotonic seconds."""

    def __init__(self, ttl: float, limit: int) -> None:
        self._ttl = ttl
        self._limit = limit
        self._until: dict[bytes, float] = {}

    def __contains__(self, msg_id: bytes) -> bool:
        return msg_id in self._until

    def __len__(self) -> int:
        return len(self._until)

    def add(self, now: float, msg_id: bytes) -> None:
        """Remember `msg_id` from now on for the time to live; again if it is there."""
        self._until.pop(msg_id, None)
        if len(self._until) >= self._limit:
            del self._until[next(iter(self._until))]
        self._until[msg_id] = now + self._ttl

    def discard(self, msg_id: bytes) -> None:
        """Forget `msg_id`, if it is there."""
        self._until.pop(msg_id, None)

    def expire(self, now: float) -> None:
        """Forget what is due."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                return
            del self._until[oldest]


class MessageCache:
    """The messages of the last heartbeats, in windows.

    Args:
        history: windows that a message stays.
        gossip: windows, the newest, whose ids are told to others.
        limit: messages kept; when full the oldest goes.
    """

    def __init__(self, history: int, gossip: int, limit: int) -> None:
        self._history = history
        self._gossip = gossip
        self._limit = limit
        self._messages: dict[bytes, tuple[Message, dict[str, int]]] = {}
        """Id → message, and how often each peer got it by asking; in order of arrival."""
        self._windows: list[list[bytes]] = [[]]
        """Newest first."""

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Keep `message`."""
        if message.id in self._messages:
            return
        if len(self._messages) >= self._limit:
            del self._messages[next(iter(self._messages))]
        self._messages[message.id] = (message, {})
        self._windows[0].append(message.id)

    def ask(self, msg_id: bytes, peer: str, max_sends: int) -> Message | None:
        """Return the message for `peer`, unless it is gone or the peer has had it often enough."""
        if (entry := self._messages.get(msg_id)) is None:
            return None
        message, sent = entry
        sent[peer] = sent.get(peer, 0) + 1
        return message if sent[peer] <= max_sends else None

    def gossip_ids(self, topic: str) -> list[bytes]:
        """Return the ids of a topic that others should be told."""
        return [
            msg_id
            for window in self._windows[: self._gossip]
            for msg_id in window
            if msg_id in self._messages and self._messages[msg_id][0].topic == topic
        ]

    def shift(self) -> None:
        """Begin a new window; forget the oldest."""
        self._windows.insert(0, [])
        if len(self._windows) > self._history:
            for msg_id in self._windows.pop():
                self._messages.pop(msg_id, None)
