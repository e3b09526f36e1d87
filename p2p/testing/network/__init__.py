"""A virtual network: links with latency, bandwidth, loss and faults, and sessions and streams over them."""

from p2p.testing.network.inbox import Inbox
from p2p.testing.network.links import Direction, Link, Links
from p2p.testing.network.session import MemorySession, MemoryStream

__all__ = ["Direction", "Inbox", "Link", "Links", "MemorySession", "MemoryStream"]
