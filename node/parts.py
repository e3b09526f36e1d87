"""`NodeParts`: what the provider agent and the requestor helper see of the node that they are part of.

`node.app.Node` is one in production, `simulations.node.SimulatedNode` one on virtual time. Nothing else passes
between the agents and the node, so neither knows how the other was put together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from node.config import Config
    from p2p.bus import Bus
    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.identity import Signer
    from p2p.overlay import Overlay
    from protocols.activity.handler import ActivityProtocol
    from protocols.files.handler import FilesProtocol
    from protocols.market.handler import MarketProtocol
    from protocols.payment.handler import PaymentProtocol


class NodeParts(Protocol):
    """A node with its protocols running."""

    @property
    def key(self) -> Signer:
        """Return the node's identity, in whose name the agents act."""
        ...

    @property
    def name(self) -> str:
        """Return the name shown to others."""
        ...

    @property
    def config(self) -> Config:
        """Return the owner's settings."""
        ...

    @property
    def clock(self) -> Clock:
        """Return the time. Sleeping goes through trio."""
        ...

    @property
    def entropy(self) -> Entropy:
        """Return the node's randomness."""
        ...

    @property
    def overlay(self) -> Overlay:
        """Return the network."""
        ...

    @property
    def bus(self) -> Bus:
        """Return the bus, where protocols say what changed."""
        ...

    @property
    def market(self) -> MarketProtocol:
        """Return the market."""
        ...

    @property
    def payment(self) -> PaymentProtocol:
        """Return payment."""
        ...

    @property
    def activity(self) -> ActivityProtocol:
        """Return both sides of activities."""
        ...

    @property
    def files(self) -> FilesProtocol:
        """Return gftp."""
        ...
