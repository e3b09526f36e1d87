"""What peers say at hello: who they are for, where they listen, and whom they know.

One frame each way on `/golem-p2p/<network>/hello/1`: four bytes of length, big-endian, then canonical CBOR.
The dialler speaks first. Said once when a session begins and again every few minutes on sessions that last.
Addresses and peers in it are claims: addresses are proven by dialling them, a NodeId by its session. Aliases
are signed, and proven together with the session's NodeId.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from p2p.events import Refusal
from p2p.identity.alias import MAX_ALIASES, AliasRecord

HELLO = "hello"
HELLO_MAJOR = 1

PROTOCOL_VERSION = 1
"""The version of the whole of our protocols that this code speaks."""
OLDEST_VERSION = 1
"""The oldest version that this code can still talk to."""

MAX_FRAME_BYTES = 65_536
MAX_TOLD_PEERS = 32
"""Peers that one hello may tell of."""
MAX_ADDRESSES = 8
"""Addresses that one hello may claim for one node."""

Address = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class KnownPeer(msgspec.Struct, frozen=True):
    """Another node that the speaker knows."""

    node_id: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{40}\Z")]
    """Who it is, as the speaker says."""
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_ADDRESSES)]
    """Multiaddrs where it may be reached."""


class Hello(msgspec.Struct, frozen=True):
    """What a node says of itself to a peer."""

    network: Annotated[str, msgspec.Meta(max_length=64)]
    """The overlay's network, such as `devnet`; has to be the same on both sides."""
    agent: Annotated[str, msgspec.Meta(max_length=128)]
    """Software and version, for people to read."""
    version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    """Version of the protocols that the speaker speaks."""
    oldest: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    """Oldest version that the speaker can talk to."""
    addresses: Annotated[tuple[Address, ...], msgspec.Meta(max_length=MAX_ADDRESSES)] = ()
    """Multiaddrs where the speaker listens."""
    peers: Annotated[tuple[KnownPeer, ...], msgspec.Meta(max_length=MAX_TOLD_PEERS)] = ()
    """Others that the speaker knows; a sample."""
    utc_ms: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """What the speaker's clock says, in Unix milliseconds; 0 where it does not tell."""
    aliases: Annotated[tuple[AliasRecord, ...], msgspec.Meta(max_length=MAX_ALIASES)] = ()
    """Signed records of further NodeIds that the speaker speaks for; these are proofs."""


class Unfit(msgspec.Struct, frozen=True):
    """Why a peer is none to talk to."""

    why: Refusal
    """In a word."""
    words: str
    """For people."""


def mismatch(ours: Hello, theirs: Hello) -> Unfit | None:
    """Return why the two cannot talk, or None when they can. Both sides come to the same answer."""
    if ours.network != theirs.network:
        return Unfit("network", f"it is on network {theirs.network!r}, this node on {ours.network!r}")
    if theirs.version < ours.oldest:
        return Unfit(
            "version",
            f"it speaks version {theirs.version} of the protocols ({theirs.agent}), this node needs at least "
            f"{ours.oldest}: the peer needs an update",
        )
    if ours.version < theirs.oldest:
        return Unfit(
            "version",
            f"it needs version {theirs.oldest} of the protocols ({theirs.agent}), this node speaks "
            f"{ours.version}: this node needs an update",
        )
    return None


def is_of_a_node(protocol: str, network: str) -> bool:
    """Return whether who serves `protocol` is a node, of whatever network, and no foreign libp2p program.

    Those may take part in the Kademlia of `network`, which has an id of ours but is spoken as libp2p does.
    """
    return protocol.startswith("/golem-p2p/") and not protocol.startswith(f"/golem-p2p/{network}/kad/")


def explain_refusal(network: str, protocols: tuple[str, ...]) -> Unfit:
    """Return why a peer that serves `protocols` does not serve our hello, for the log."""
    for protocol in protocols:
        parts = protocol.split("/")
        if len(parts) == 5 and parts[1] == "golem-p2p" and parts[3] == HELLO:
            if parts[2] != network:
                return Unfit("network", f"it is on network {parts[2][:64]!r}, this node on {network!r}")
            return Unfit(
                "version",
                f"it serves {HELLO}/{parts[4][:8]}, this node {HELLO}/{HELLO_MAJOR}: "
                "one of the two needs an update",
            )
    return Unfit(
        "stranger",
        f"it does not serve {HELLO}: it is no golem-p2p node, or on another network than {network!r}",
    )
