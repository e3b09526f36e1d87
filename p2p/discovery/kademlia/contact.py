"""Contacts: who may be asked and where, and the space of keys they lie in."""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from typing import TYPE_CHECKING

import msgspec

from p2p import base58
from p2p.identity import NodeId, node_id_of
from p2p.identity.peer_id import key_in_peer_id

if TYPE_CHECKING:
    from collections.abc import Iterable

KEY_BITS = 256
MAX_ADDRESSES = 8
"""Addresses kept of one contact."""


def key_of(data: bytes) -> int:
    """Return where a PeerId (binary) or a record's key lies: its SHA-256, as libp2p has it."""
    return int.from_bytes(hashlib.sha256(data).digest(), "big")


class Contact(msgspec.Struct, frozen=True):
    """A peer that may serve Kademlia. Where it is is a claim until it has answered."""

    peer_id: bytes
    """libp2p's PeerId, in binary."""
    addresses: tuple[str, ...]
    """Multiaddrs that end in `/p2p/<peer id>`."""
    key: int
    """`key_of(peer_id)`."""
    subnets: frozenset[str]
    """The subnets of the public internet that its addresses are in."""

    @classmethod
    def of(cls, peer_id: bytes, addresses: Iterable[str]) -> Contact:
        """Return a contact; addresses beyond the bound are dropped."""
        kept = tuple(addresses)[:MAX_ADDRESSES]
        subnets = frozenset(net for address in kept if (net := subnet_of(address)) is not None)
        return cls(peer_id, kept, key_of(peer_id), subnets)

    @property
    def names(self) -> tuple[str, ...]:
        """Return how an overlay may name it: as a node, if its key makes one, and as a guest."""
        return _names_of(self.peer_id)


@functools.lru_cache(maxsize=4096)
def _names_of(peer_id: bytes) -> tuple[str, ...]:
    text, node = base58.encode(peer_id), node_of(peer_id)
    return (text,) if node is None else (node, text)


def node_of(peer_id: bytes) -> NodeId | None:
    """Return the NodeId of a PeerId; None if its key makes none."""
    try:
        key = key_in_peer_id(peer_id)
    except ValueError:
        return None
    return None if key is None else node_id_of(key.format(compressed=False))


@functools.lru_cache(maxsize=4096)
def subnet_of(address: str) -> str | None:
    """Return the /24 (IPv4) or /48 (IPv6) that a multiaddr is in, if that is of the public internet.

    Private networks and names are not counted: the first are no attack from outside, the second say nothing.
    """
    parts = address.split("/", 3)
    if len(parts) < 3 or parts[1] not in ("ip4", "ip6"):
        return None
    try:
        ip = ipaddress.ip_address(parts[2])
    except ValueError:
        return None
    if not ip.is_global:
        return None
    return str(ipaddress.ip_network((ip, 24 if ip.version == 4 else 48), strict=False))


class Diversity:
    """Counts subnets, and says whether one more contact of them is too many.

    Args:
        limit: contacts of one subnet; 0 for any number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def admits(self, contact: Contact) -> bool:
        """Return whether there is room for `contact`."""
        return not self._limit or all(self._counts.get(net, 0) < self._limit for net in contact.subnets)

    def add(self, contact: Contact) -> None:
        """Count `contact`."""
        for net in contact.subnets:
            self._counts[net] = self._counts.get(net, 0) + 1

    def remove(self, contact: Contact) -> None:
        """Count `contact` no more."""
        for net in contact.subnets:
            left = self._counts.get(net, 0) - 1
            if left > 0:
                self._counts[net] = left
            else:
                self._counts.pop(net, None)
