"""The numbers of the gossip router. Defaults are the specification's where it has any (gossipsub v1.0, v1.1)."""

from __future__ import annotations

import msgspec

from p2p.broadcast.api import MAX_RECORD_BYTES


class GossipParams(msgspec.Struct, frozen=True):
    """How the router behaves. Times in seconds."""

    mesh_target: int = 6
    """D: peers of a topic's mesh, to whom messages are forwarded whole."""
    mesh_low: int = 4
    """D_low: with fewer, the heartbeat grafts up to the target."""
    mesh_high: int = 12
    """D_high: with more, the heartbeat prunes down to the target; a graft beyond it is refused."""
    lazy: int = 6
    """D_lazy: peers outside the mesh that are told ids at each heartbeat, at least."""
    gossip_factor: float = 0.25
    """... or this share of them, if that is more."""
    heartbeat: float = 1.0
    history: int = 5
    """Heartbeats that a message can still be asked for."""
    history_gossip: int = 3
    """Heartbeats that its id is told."""
    seen_ttl: float = 120.0
    """How long an id is remembered, so that a late copy is known as one."""
    prune_backoff: float = 60.0
    """How long a pruned peer waits before it grafts again."""
    leave_backoff: float = 10.0
    """The same when the prune came of leaving the topic."""
    max_backoff: float = 600.0
    """Longest backoff that a peer can impose on us."""
    flood_limit: int = 24
    """Our own messages go to all peers of a topic when they are at most this many, else to the mesh alone."""
    idontwant_bytes: int = 1024
    """Size from which the arrival of a message is told to the mesh, which need then not send it again."""
    iwant_timeout: float = 1.0
    """How long one peer is waited for before another may be asked for the same message."""
    max_sends: int = 3
    """How often one peer gets the same message by asking (against drain by IWANT)."""
    max_record_bytes: int = MAX_RECORD_BYTES
    """Longest message on a topic."""

    # Bounds on memory and on what one peer gets done in one heartbeat.
    max_seen: int = 65_536
    """Ids remembered; beyond it the oldest go, and a very late copy reaches the topic's owner twice."""
    max_cached: int = 4096
    """Messages kept to be asked for."""
    max_pending: int = 512
    """Messages under validation; beyond it new ones are dropped unseen, and come again by IHAVE or by sync."""
    max_pending_per_peer: int = 128
    """The same of one peer. The driver reads no more from it while there are half as many."""
    max_topics_per_peer: int = 128
    """Topics remembered of one peer."""
    max_ihaves: int = 10
    """IHAVE entries heard from one peer in a heartbeat."""
    max_ihave_ids: int = 1000
    """Ids told to, asked of, or refused by one peer in a heartbeat."""
    max_answer_bytes: int = 512 * 1024
    """Bytes of messages that one peer gets by asking in a heartbeat."""
    max_backoffs: int = 16_384
    max_scores: int = 4096
    """Peers whose faults are remembered, absent ones included."""
