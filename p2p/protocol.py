"""`Protocol` and `NodeContext`: what a protocol handler is, and all that it is given.

A third party registers a factory `(settings: Mapping[str, object]) -> Protocol` under the entry-point
group `golem_p2p.protocols`; the node makes it, and runs it between its own start and stop.
`examples/hello_protocol` is a complete one.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping

if typing.TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import structlog.typing

    from p2p.broadcast import Broadcast
    from p2p.bus import Bus
    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.identity import NodeId, Signer
    from p2p.overlay import Overlay
    from p2p.storage import Database

ENTRY_POINT_GROUP = "golem_p2p.protocols"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeContext:
    """What the node gives to each protocol: everything, and nothing global."""

    overlay: Overlay
    """Streams to peers, by NodeId."""
    bus: Bus
    """Calls to services: ours, other protocols', peers'."""
    broadcast: Broadcast
    """Records for everyone."""
    database: Database
    """The node's one database; tables are prefixed with the protocol's name."""
    clock: Clock
    """The time. Sleeping goes through trio."""
    entropy: Entropy
    """Randomness. Never `random`, `secrets` or `uuid`."""
    signer: Signer
    """Signs as the node's default identity."""
    verifier: Callable[[bytes, bytes], NodeId]
    """`(digest, signature) -> NodeId` of who signed; raises InvalidSignature."""
    settings: Mapping[str, object]
    """The protocol's own section of the configuration."""
    log: structlog.typing.FilteringBoundLogger
    """A logger bound to the protocol's name."""

    @property
    def node_id(self) -> NodeId:
        """Return who this node is."""
        return self.signer.node_id


class Protocol(typing.Protocol):
    """A protocol handler."""

    @property
    def name(self) -> str:
        """Return its name: a word, used for settings, tables and logs."""
        ...

    def running(self, ctx: NodeContext) -> AbstractAsyncContextManager[None]:
        """Serve while the context is open: register methods, join topics, run tasks; stop them on leaving."""
        ...


ProtocolFactory = Callable[[Mapping[str, object]], Protocol]
