"""Kademlia: finding nodes and records among many, each of which knows few. libp2p's kad-dht on our own id.

`table`, `lookup`, `store` and `wire` decide and encode without I/O; `driver` runs them on an overlay. Only signed
node records (`p2p.discovery.records`) are kept; provider records are not spoken, since content is found by offers.
Sources: Maymounkov and Mazières, "Kademlia" (2002); libp2p/specs kad-dht; Baumgart and Mies, "S/Kademlia" (2007).
"""

from p2p.discovery.kademlia.contact import Contact, key_of
from p2p.discovery.kademlia.driver import Kademlia
from p2p.discovery.kademlia.params import KademliaParams
from p2p.discovery.kademlia.search import LookupReport

__all__ = ["Contact", "Kademlia", "KademliaParams", "LookupReport", "key_of"]
