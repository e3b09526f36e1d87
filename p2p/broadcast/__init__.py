"""Gossip of signed records to every node, and the exchange that repairs what gossip missed."""

from p2p.broadcast.api import MAX_RECORD_BYTES, Broadcast, Topic, Verdict

__all__ = ["MAX_RECORD_BYTES", "Broadcast", "Topic", "Verdict"]
