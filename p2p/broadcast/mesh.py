"""Who is in the mesh of each topic: grafts, prunes, backoffs, and the heartbeat that keeps the degree.

Sans-IO, the router's alone. A mesh link should stand at both ends; each end decides for itself and tells the
other by GRAFT or PRUNE. Rules: gossipsub v1.0 (mesh maintenance) and v1.1 (backoff, spam protection). Left
out of v1.1: outbound quotas, positive scores and opportunistic grafting, and peer exchange in prunes, since
whom to know is discovery's affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.broadcast.wire import Prune, Subscription

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from p2p.broadcast.effects import Effects
    from p2p.broadcast.params import GossipParams

# Dictionaries stand for sets throughout: they keep their order, so that one seed gives one run.
Peers = dict[str, None]

_SLACK_HEARTBEATS = 2
"""Waited beyond a backoff, since the other end may count from later."""


class Meshes:
    """The meshes of the topics that we have joined, and who takes part in which topic.

    Args:
        good: tells whether a peer's standing lets it into a mesh now.
    """

    def __init__(self, params: GossipParams, rng: random.Random, good: Callable[[float, str], bool]) -> None:
        self._params = params
        self._rng = rng
        self._good = good
        self._meshes: dict[str, Peers] = {}
        self._subscribers: dict[str, Peers] = {}
        self._backoff: dict[tuple[str, str], float] = {}
        """(topic, peer) → when a graft between us is in order again."""

    @property
    def topics(self) -> Iterable[str]:
        """Return the topics that we have joined."""
        return self._meshes.keys()

    def __contains__(self, topic: str) -> bool:
        return topic in self._meshes

    def of(self, topic: str) -> Iterable[str]:
        """Return the peers in the mesh of a topic."""
        return self._meshes.get(topic, {}).keys()

    def subscribers(self, topic: str) -> Iterable[str]:
        """Return the peers that take part in a topic."""
        return self._subscribers.get(topic, {}).keys()

    # What we do.

    def join(self, now: float, topic: str, everyone: Iterable[str], out: Effects) -> None:
        """Take part in a topic: tell everyone, graft some."""
        self._meshes[topic] = {}
        for peer in everyone:
            out.to(peer).subscriptions.append(Subscription(topic, True))
        self._fill(now, topic, out)

    def leave(self, now: float, topic: str, everyone: Iterable[str], out: Effects) -> None:
        """Take no part in a topic any more."""
        for peer in list(self._meshes[topic]):
            self._prune(now, topic, peer, self._params.leave_backoff, out)
        del self._meshes[topic]
        for peer in everyone:
            out.to(peer).subscriptions.append(Subscription(topic, False))

    def greet(self, peer: str, out: Effects) -> None:
        """Tell a peer what we take part in; after a broken stream, again, with the grafts it may have missed."""
        for topic, mesh in self._meshes.items():
            out.to(peer).subscriptions.append(Subscription(topic, True))
            if peer in mesh:
                out.to(peer).graft.append(topic)

    def remove(self, peer: str, topics: Iterable[str]) -> None:
        """Forget a peer that takes part in `topics`. Backoffs stay."""
        for topic in topics:
            self._unsubscribe(peer, topic)

    def expel(self, now: float, peer: str, out: Effects) -> None:
        """Prune a peer from all meshes."""
        for topic, mesh in self._meshes.items():
            if peer in mesh:
                self._prune(now, topic, peer, self._params.prune_backoff, out)

    # What peers do.

    def subscribed(self, now: float, peer: str, topic: str, out: Effects) -> None:
        """A peer takes part in a topic; while our mesh is thin it is grafted at once."""
        self._subscribers.setdefault(topic, {})[peer] = None
        mesh = self._meshes.get(topic)
        if mesh is not None and len(mesh) < self._params.mesh_low and self._may_graft(now, topic, peer):
            self._graft(topic, peer, out)

    def unsubscribed(self, peer: str, topic: str) -> None:
        """A peer takes no part in a topic any more."""
        self._unsubscribe(peer, topic)

    def grafted(self, now: float, peer: str, topic: str, out: Effects) -> bool:
        """Put a peer that asks for it into a mesh, or prune it.

        Returns:
            False if it came too early after a prune.
        """
        mesh = self._meshes.get(topic)
        if mesh is None or peer in mesh:  # unknown topics get no answer (v1.1: it would invite floods)
            return True
        in_time = self._backoff.get((topic, peer), now) <= now
        if in_time and self._good(now, peer) and len(mesh) < self._params.mesh_high:
            mesh[peer] = None
        else:
            self._prune(now, topic, peer, self._params.prune_backoff, out)
        return in_time

    def pruned(self, now: float, peer: str, prune: Prune) -> None:
        """A peer has taken us out of its mesh: take it out of ours, and leave it alone for a while."""
        mesh = self._meshes.get(prune.topic)
        if mesh is not None:
            mesh.pop(peer, None)
            asked = prune.backoff or self._params.prune_backoff
            slack = _SLACK_HEARTBEATS * self._params.heartbeat
            self._back_off(now, prune.topic, peer, min(asked, self._params.max_backoff) + slack)

    # The heartbeat.

    def maintain(self, now: float, out: Effects) -> None:
        """Bring each mesh back to its degree."""
        params = self._params
        self._backoff = {pair: until for pair, until in self._backoff.items() if until > now}
        for topic, mesh in self._meshes.items():
            for peer in [peer for peer in mesh if not self._good(now, peer)]:
                self._prune(now, topic, peer, params.prune_backoff, out)
            if len(mesh) < params.mesh_low:
                self._fill(now, topic, out)
            elif len(mesh) > params.mesh_high:
                for peer in self._rng.sample(list(mesh), len(mesh) - params.mesh_target):
                    self._prune(now, topic, peer, params.prune_backoff, out)

    def _fill(self, now: float, topic: str, out: Effects) -> None:
        mesh = self._meshes[topic]
        candidates = [peer for peer in self.subscribers(topic) if self._may_graft(now, topic, peer)]
        wanted = min(self._params.mesh_target - len(mesh), len(candidates))
        for peer in self._rng.sample(candidates, wanted):
            self._graft(topic, peer, out)

    def _may_graft(self, now: float, topic: str, peer: str) -> bool:
        return (
            peer not in self._meshes[topic]
            and self._backoff.get((topic, peer), now) <= now
            and self._good(now, peer)
        )

    def _graft(self, topic: str, peer: str, out: Effects) -> None:
        self._meshes[topic][peer] = None
        out.to(peer).graft.append(topic)

    def _prune(self, now: float, topic: str, peer: str, backoff: float, out: Effects) -> None:
        self._meshes[topic].pop(peer, None)
        self._back_off(now, topic, peer, backoff)
        out.to(peer).prune.append(Prune(topic, round(backoff)))

    def _back_off(self, now: float, topic: str, peer: str, seconds: float) -> None:
        self._backoff.pop((topic, peer), None)
        if len(self._backoff) >= self._params.max_backoffs:
            del self._backoff[next(iter(self._backoff))]
        self._backoff[topic, peer] = now + seconds

    def _unsubscribe(self, peer: str, topic: str) -> None:
        subscribers = self._subscribers.get(topic)
        if subscribers is not None:
            subscribers.pop(peer, None)
            if not subscribers:
                del self._subscribers[topic]
        if topic in self._meshes:
            self._meshes[topic].pop(peer, None)
