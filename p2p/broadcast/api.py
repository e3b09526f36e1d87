"""Broadcast as protocols see it: topics of signed records that reach every node.

A record has a stable key and a sequence number; of two records with one key the higher number wins. The
router moves bytes and never looks inside: what a record is, and whether it is good, the topic's owner says.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2p.identity import NodeId

MAX_RECORD_BYTES = 8 * 1024
"""Largest record that is gossiped. Anything larger travels as a hash and is fetched."""


class Verdict(enum.Enum):
    """What a topic's owner says of a record that arrived."""

    ACCEPT = "accept"
    """New and good: forward it."""
    IGNORE = "ignore"
    """Known, stale, or not verifiable now: do not forward, do not blame."""
    REJECT = "reject"
    """Bad: do not forward, and hold it against whoever sent it."""


class Topic(Protocol):
    """What a protocol supplies for a topic that it owns."""

    @property
    def name(self) -> str:
        """Return the topic's short name, such as `offers/1`; the network is put before it."""
        ...

    async def receive(self, data: bytes, source: NodeId) -> Verdict:
        """Judge, and keep if good, a record that the peer `source` sent or forwarded.

        Called for gossip and for records that a sync brought. May ask `source` for more (a body by its
        hash); it is cancelled after some seconds, and several may run at once.
        """
        ...

    def held(self) -> Mapping[str, int]:
        """Return key → sequence number of every record worth telling, withdrawals included."""
        ...

    def record(self, key: str) -> bytes | None:
        """Return the record held under `key`."""
        ...


class Broadcast(Protocol):
    """Publishes records to everyone and receives everyone's."""

    async def join(self, topic: Topic) -> None:
        """Take part in a topic: gossip it, and exchange what is held with each peer that connects."""
        ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Send a record of ours to the network. The owner has stored it already. Never waits for peers."""
        ...
