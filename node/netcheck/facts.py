"""What a netcheck found out, before anything is made of it."""

from __future__ import annotations

import msgspec

from p2p.events import Refusal
from p2p.reach.verdict import Verdict


class Listening(msgspec.Struct, frozen=True):
    """An address that the node listens on, or would."""

    address: str
    """A multiaddr, with or without a peer."""
    problem: str = ""
    """Why nobody gets in there even from this machine, or why it cannot be listened on."""


class Bootstrap(msgspec.Struct, frozen=True):
    """One of the configured first peers."""

    address: str
    """As configured."""
    peer: str = ""
    """Who is there, if anybody is; the node's own id when it is itself."""
    connected: bool = False
    """Whether there was a session with it already."""
    problem: str = ""
    """Why it could not be reached, in words."""


class Dropped(msgspec.Struct, frozen=True):
    """Peers that were met and not admitted, of one kind."""

    why: Refusal
    count: int
    """Since the node started."""
    latest: str
    """The newest one's reason, in words."""


class Directory(msgspec.Struct, frozen=True):
    """The state of the directory that nodes keep together (a distributed hash table)."""

    nodes: int
    """In this node's table."""
    published: bool | None
    """Whether this node's own addresses are in the directory; None where that is not known."""


class Facts(msgspec.Struct, frozen=True):
    """All of it."""

    network: str
    """`devnet`, `test` or `main`."""
    listen: tuple[str, ...]
    """As configured."""
    running: bool
    """Whether there is a node; all below but `listening` and `bootstrap` is known of running ones alone."""
    joined: bool = False
    listening: tuple[Listening, ...] = ()
    bootstrap: tuple[Bootstrap, ...] = ()
    peers_in: int = 0
    """Peers that dialled this node."""
    peers_out: int = 0
    """Peers that this node dialled."""
    peers_relayed: int = 0
    """Of both, those whose session goes through a relay."""
    guests: int = 0
    known: int | None = None
    """Nodes in the address book."""
    verdict: Verdict | None = None
    """How others reach this node, where that is looked into."""
    skew: float | None = None
    """Seconds by which this node's clock is behind its peers', ahead if negative; None where that is not known."""
    directory: Directory | None = None
    dropped: tuple[Dropped, ...] = ()
