"""The parameters of Kademlia. Times are in seconds."""

from __future__ import annotations

import msgspec


class KademliaParams(msgspec.Struct, frozen=True):
    """How wide tables and lookups are, and what bounds them. The defaults are libp2p's where it has some."""

    k: int = 20
    """Contacts in a bucket, contacts in an answer, nodes that keep a record."""
    paths: int = 2
    """Disjoint paths of a lookup: a contact is asked on the path that heard of it first, so that one liar spoils
    one path. More cost more messages; `tests/bench/kademlia.py` has the figures."""
    alpha: int = 4
    """Requests under way at once, of all paths of a lookup."""
    beta: int = 5
    """The nearest contacts that have to have answered before a search ends for which enough was found."""
    max_requests: int = 80
    """Requests of one lookup; each may be a dial."""
    max_barren: int = 5
    """Contacts that somebody told of and that failed one after the other, after which it is believed no more."""
    lookup_timeout: float = 30.0
    """For one lookup."""
    request_timeout: float = 6.0
    """For one request, its dial and hello included."""
    quorum: int = 3
    """Good records that are enough, once the nearest contacts have answered; the newest of them counts."""
    settle: float = 1.0
    """How long a search goes on after the first good record, whatever comes."""
    subnet_per_bucket: int = 2
    """Contacts of one subnet (/24 of IPv4, /48 of IPv6) in one bucket, and in one lookup's nearest k. Only
    addresses of the public internet count; go-libp2p has the same figures."""
    subnet_per_table: int = 3
    """Contacts of one subnet in the whole table."""
    max_failures: int = 2
    """Failures in a row after which a contact leaves the table although nobody waits for its place."""
    check_after: float = 3600.0
    """A contact that was not heard of for this long is asked whether it is there. Each time may take a dial and a
    hello of some kB, so that a node with a hundred contacts spends some 200 B/s on it."""
    refresh_self: float = 1800.0
    """Between two lookups of our own key, which keep the nearest neighbours known."""
    refresh_bucket: float = 3600.0
    """A bucket that nothing was looked up in for this long is refreshed."""
    max_records: int = 4096
    """Records kept for others, at most 2 KiB each."""
    max_inbound: int = 64
    """Streams served at once; beyond them, each peer is served one."""
    max_inbound_per_peer: int = 4
    """Streams of one peer that are served at once."""
    inbound_rate: float = 20.0
    """Requests a second that one peer may make, for long."""
    inbound_burst: int = 100
    """Requests that one peer may make at once."""
    inbound_idle: float = 30.0
    """After which a stream that asks nothing is closed."""
