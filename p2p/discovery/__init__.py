"""Whom to know: hello, the address book, bootstrap and peers telling of peers.

The directory (`directory`, on `kademlia`) is apart: it stands on any overlay, and the overlay asks it.
"""

from p2p.discovery.admission import Admission, Door, ThisNode
from p2p.discovery.driver import Discovery
from p2p.discovery.peer_store import FilePeerStore, MemoryPeerStore, PeerRecord, PeerStore, ProvenAddress
from p2p.discovery.policy import Dial, DiscoveryPolicy, DiscoverySettings
from p2p.discovery.sessions import Sessions

__all__ = [
    "Admission",
    "Dial",
    "Discovery",
    "DiscoveryPolicy",
    "DiscoverySettings",
    "Door",
    "FilePeerStore",
    "MemoryPeerStore",
    "PeerRecord",
    "PeerStore",
    "ProvenAddress",
    "Sessions",
    "ThisNode",
]
