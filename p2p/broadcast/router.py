"""The gossip router: gossipsub as a machine that does no I/O. Bytes and times go in, effects come out.

    effects = router.frame_received(now, peer, frame)

Every method returns what the caller must do now: send, have a record judged, break a stream off. `now` is
monotonic seconds; chance is the `random.Random` it was given. The driver runs it over streams; a simulation
runs a million of it on an event heap. The router moves bytes and never looks into a record.

What it does with a message that arrives:

    of a topic that we have not joined      nothing
    seen before                             counted; the sender need not be sent it
    our own                                 nothing
    empty, or longer than a record          the sender is blamed
    signature wrong                         the sender is blamed
    signature of another kind of key        dropped
    too many under validation               dropped as if it had not come
    else                                    seen; IDONTWANT to the mesh if large; `Deliver`

and when the topic's owner has judged it (`validated`): ACCEPT, to the mesh except who has it, and kept to be
asked for; IGNORE, nothing; REJECT, all who sent it are blamed. Faults, points and standings are in `score`.

Specification: gossipsub v1.0 to v1.2. What of v1.1 is left out, `mesh` says.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from p2p.broadcast.api import Verdict
from p2p.broadcast.cache import ExpiringIds, MessageCache
from p2p.broadcast.effects import Blamed, Deliver, Effect, Effects, Reset, Send
from p2p.broadcast.mesh import Meshes, Peers
from p2p.broadcast.score import Fault, Scores, Standing
from p2p.broadcast.sign import SEQNO_BYTES
from p2p.broadcast.wire import IHave, Message, Rpc, decode_rpc, encode_message
from p2p.protobuf import WireError

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping

    from p2p.broadcast.params import GossipParams
    from p2p.broadcast.sign import Seal

_ANSWER_BYTES = 16 * 1024
"""Messages asked for are sent in RPCs of about this size: some fifty small ones, which the other end can take."""


class _Peer:
    """What the router knows of a peer that it can send to."""

    def __init__(self) -> None:
        self.topics: Peers = {}
        self.takes_idontwant = False
        self.unwanted: dict[bytes, float] = {}
        """Id → until when: what the peer said it has."""
        self.pending = 0
        """Messages from it under validation."""
        self.begin_heartbeat()

    def begin_heartbeat(self) -> None:
        """Renew what it may do in one heartbeat."""
        self.ihaves = 0
        self.ids_asked = 0
        self.ids_unwanted = 0
        self.bytes_answered = 0


class _Pending:
    """A message under validation, and who has sent it meanwhile."""

    def __init__(self, message: Message, peer: str) -> None:
        self.message = message
        self.holders: Peers = {peer: None}


class Router:
    """One node's part in the gossip.

    Args:
        seal: signs our messages, checks others'.
        rng: chooses peers.
        first_seqno: sequence number of our first message; above all that this key has ever used, such as
            the UTC time in nanoseconds.
    """

    def __init__(self, params: GossipParams, seal: Seal, rng: random.Random, first_seqno: int) -> None:
        self._params = params
        self._seal = seal
        self._rng = rng
        self._seqno = first_seqno
        self._peers: dict[str, _Peer] = {}
        self._scores = Scores(params.max_scores)
        self._meshes = Meshes(params, rng, self._is_good)
        self._seen = ExpiringIds(params.seen_ttl, params.max_seen)
        self._asked = ExpiringIds(params.iwant_timeout, params.max_seen)
        self._cache = MessageCache(params.history, params.history_gossip, params.max_cached)
        self._pending: dict[bytes, _Pending] = {}
        self.counters: Counter[str] = Counter()
        """How often what happened since the start, for metrics."""

    def __repr__(self) -> str:
        degrees = ", ".join(f"{topic}: {len(list(self._meshes.of(topic)))}" for topic in self._meshes.topics)
        return f"<Router of {len(self._peers)} peers, meshes {{{degrees}}}, {len(self._pending)} under validation>"

    # What can be asked of it.

    def mesh(self, topic: str) -> list[str]:
        """Return the peers in the mesh of a topic."""
        return list(self._meshes.of(topic))

    def subscribers(self, topic: str) -> list[str]:
        """Return the peers that take part in a topic."""
        return list(self._meshes.subscribers(topic))

    def standing(self, now: float, peer: str) -> Standing:
        """Return how a peer is treated. An inbound stream of one that is IGNORED should be reset."""
        return self._scores.standing(now, peer)

    def points(self, now: float, peer: str) -> float:
        """Return a peer's points for faults; 0 is spotless."""
        return self._scores.points(now, peer)

    def pending(self, peer: str) -> int:
        """Return how many messages of a peer are under validation."""
        return self._peers[peer].pending if peer in self._peers else 0

    # What this node does.

    def join(self, now: float, topic: str) -> list[Effect]:
        """Take part in a topic."""
        out = Effects()
        if topic not in self._meshes:
            self._meshes.join(now, topic, self._reachable(now, self._peers), out)
        return out.take()

    def leave(self, now: float, topic: str) -> list[Effect]:
        """Take no part in a topic any more."""
        out = Effects()
        if topic in self._meshes:
            self._meshes.leave(now, topic, self._reachable(now, self._peers), out)
        return out.take()

    def publish(self, now: float, topic: str, data: bytes) -> list[Effect]:
        """Send a record of ours: to all peers of the topic if they are few, else to the mesh.

        Raises:
            ValueError: no bytes, or more than a record may have.
        """
        if not 0 < len(data) <= self._params.max_record_bytes:
            raise ValueError(
                f"a record has 1 to {self._params.max_record_bytes} bytes, not {len(data)}; "
                "publish the hash of a longer one and let it be fetched"
            )
        seqno = self._seqno.to_bytes(SEQNO_BYTES, "big")
        self._seqno += 1
        message = self._seal.sign(Message(self._seal.author, data, seqno, topic))
        self._seen.add(now, message.id)
        self._cache.put(message)
        self.counters["published"] += 1
        out = Effects()
        self._send_message(message, self._first_receivers(now, topic), out)
        return out.take()

    def validated(self, now: float, msg_id: bytes, verdict: Verdict) -> list[Effect]:
        """Go on with a message that was delivered, after its topic's owner has judged it."""
        out = Effects()
        pending = self._pending.pop(msg_id, None)
        if pending is None:
            return []
        first = self._peers.get(next(iter(pending.holders)))
        if first is not None and first.pending:
            first.pending -= 1
        self.counters[verdict.value] += 1
        if verdict is Verdict.REJECT:
            for peer in pending.holders:
                self._blame(now, peer, Fault.REJECTED, out)
        elif verdict is Verdict.ACCEPT:
            self._cache.put(pending.message)
            mesh = self._meshes.of(pending.message.topic)
            receivers = [
                peer
                for peer in self._reachable(now, mesh)
                if peer not in pending.holders and msg_id not in self._peers[peer].unwanted
            ]
            self._send_message(pending.message, receivers, out)
        return out.take()

    # What peers do.

    def peer_added(self, now: float, peer: str) -> list[Effect]:
        """A peer can be sent to. Called again after a broken stream, it is greeted again."""
        self._peers.setdefault(peer, _Peer())
        out = Effects()
        if self._scores.standing(now, peer) is not Standing.IGNORED:
            self._meshes.greet(peer, out)
        return out.take()

    def peer_speaks(self, peer: str, *, idontwant: bool) -> None:
        """Note the version that was agreed with a peer: IDONTWANT came with 1.2."""
        if peer in self._peers:
            self._peers[peer].takes_idontwant = idontwant

    def peer_removed(self, peer: str) -> None:
        """A peer is gone. Its points stay."""
        state = self._peers.pop(peer, None)
        if state is not None:
            self._meshes.remove(peer, state.topics)

    def frame_received(self, now: float, peer: str, frame: bytes) -> list[Effect]:
        """Take a frame from a peer, as it came; one that does not decode resets the peer's stream."""
        if peer not in self._peers or self._scores.standing(now, peer) is Standing.IGNORED:
            return []
        try:
            rpc = decode_rpc(frame)
        except WireError as error:
            return self.frame_refused(now, peer, str(error))
        return self.rpc_received(now, peer, rpc)

    def frame_refused(self, now: float, peer: str, reason: str) -> list[Effect]:
        """A peer sent what is no frame: blame it, and give its stream up."""
        out = Effects()
        self._blame(now, peer, Fault.BAD_FRAME, out)
        out.add(Reset(peer, reason))
        return out.take()

    def blamed(self, now: float, peer: str, fault: Fault) -> list[Effect]:
        """Hold something against a peer that was seen elsewhere, such as in a sync."""
        out = Effects()
        self._blame(now, peer, fault, out)
        return out.take()

    def rpc_received(self, now: float, peer: str, rpc: Rpc) -> list[Effect]:
        """Take an RPC from a peer."""
        state = self._peers.get(peer)
        if state is None or self._scores.standing(now, peer) is Standing.IGNORED:
            return []
        out = Effects()
        for entry in rpc.subscriptions:
            if entry.subscribe:
                self._takes_part(now, peer, state, entry.topic, out)
            elif entry.topic in state.topics:
                del state.topics[entry.topic]
                self._meshes.unsubscribed(peer, entry.topic)
        self._heed_idontwant(now, state, rpc.idontwant)
        for message in rpc.publish:
            self._message_received(now, peer, state, message, out)
        for topic in rpc.graft:
            if topic in self._meshes:
                self._takes_part(now, peer, state, topic, out)
                if not self._meshes.grafted(now, peer, topic, out):
                    self._blame(now, peer, Fault.EARLY_GRAFT, out)
        for prune in rpc.prune:
            self._meshes.pruned(now, peer, prune)
        for have in rpc.ihave:
            self._heed_ihave(now, peer, state, have, out)
        if rpc.iwant:
            self._answer_iwant(peer, state, rpc.iwant, out)
        return out.take()

    def heartbeat(self, now: float) -> list[Effect]:
        """Mend the meshes, tell others what we have, forget what is due. Called each `params.heartbeat`."""
        out = Effects()
        self._meshes.maintain(now, out)
        for topic in self._meshes.topics:
            self._emit_gossip(now, topic, out)
        self._cache.shift()
        self._seen.expire(now)
        self._asked.expire(now)
        self._scores.forgive(now)
        for peer in self._peers.values():
            peer.begin_heartbeat()
            if peer.unwanted:
                peer.unwanted = {i: until for i, until in peer.unwanted.items() if until > now}
        return out.take()

    # The parts.

    def _takes_part(self, now: float, peer: str, state: _Peer, topic: str, out: Effects) -> None:
        if topic not in state.topics and len(state.topics) < self._params.max_topics_per_peer:
            state.topics[topic] = None
            self._meshes.subscribed(now, peer, topic, out)
            if topic in self._meshes:
                # What was sent before we knew of it: the heartbeat tells only those outside the mesh.
                self._tell_ids(peer, topic, self._cache.gossip_ids(topic), out)

    def _message_received(self, now: float, peer: str, state: _Peer, message: Message, out: Effects) -> None:
        params, msg_id = self._params, message.id
        if message.topic not in self._meshes:
            return
        if msg_id in self._seen:
            self.counters["duplicates"] += 1
            if msg_id in self._pending:
                self._pending[msg_id].holders[peer] = None
            return
        if message.author == self._seal.author:
            return
        if not 0 < len(message.data) <= params.max_record_bytes:
            self._blame(now, peer, Fault.OVERSIZED, out)
            return
        if len(self._pending) >= params.max_pending or state.pending >= params.max_pending_per_peer:
            self.counters["overflow"] += 1
            return
        # Only a genuine message counts as seen: else a forger who guesses an id would keep the real one out.
        genuine = self._seal.check(message)
        if genuine is Verdict.ACCEPT:
            self._seen.add(now, msg_id)
            self._asked.discard(msg_id)
            self._pending[msg_id] = _Pending(message, peer)
            state.pending += 1
            if len(message.data) >= params.idontwant_bytes:
                self._emit_idontwant(now, peer, message, out)
            out.add(Deliver(peer, message.topic, msg_id, message.data))
        elif genuine is Verdict.REJECT:
            self._blame(now, peer, Fault.FORGED, out)
        else:
            self.counters["unverifiable"] += 1

    def _first_receivers(self, now: float, topic: str) -> list[str]:
        everyone = list(self._reachable(now, self._meshes.subscribers(topic)))
        if len(everyone) <= self._params.flood_limit:
            return everyone
        mesh = list(self._meshes.of(topic))
        others = [peer for peer in everyone if peer not in self._meshes.of(topic)]
        return mesh + self._rng.sample(others, max(0, min(self._params.mesh_target - len(mesh), len(others))))

    def _send_message(self, message: Message, receivers: Iterable[str], out: Effects) -> None:
        rpc = Rpc(publish=(message,))
        for peer in receivers:
            self.counters["sent"] += 1
            out.add(Send(peer, rpc))

    def _emit_idontwant(self, now: float, sender: str, message: Message, out: Effects) -> None:
        for peer in self._reachable(now, self._meshes.of(message.topic)):
            state = self._peers[peer]
            if peer != sender and state.takes_idontwant and message.id not in state.unwanted:
                out.to(peer).idontwant.append(message.id)

    def _heed_idontwant(self, now: float, state: _Peer, ids: Iterable[bytes]) -> None:
        for msg_id in ids:
            if state.ids_unwanted >= self._params.max_ihave_ids:
                return
            state.ids_unwanted += 1
            state.unwanted[msg_id] = now + self._params.history * self._params.heartbeat

    def _emit_gossip(self, now: float, topic: str, out: Effects) -> None:
        params = self._params
        ids = self._cache.gossip_ids(topic)
        if not ids:
            return
        mesh = self._meshes.of(topic)
        others = [peer for peer in self._reachable(now, self._meshes.subscribers(topic)) if peer not in mesh]
        count = min(len(others), max(params.lazy, int(len(others) * params.gossip_factor)))
        for peer in self._rng.sample(others, count):
            self._tell_ids(peer, topic, ids, out)

    def _tell_ids(self, peer: str, topic: str, ids: list[bytes], out: Effects) -> None:
        if not ids:
            return
        draft = out.to(peer)
        room = self._params.max_ihave_ids - sum(len(have.ids) for have in draft.ihave)
        told = ids if len(ids) <= room else self._rng.sample(ids, room)
        if told:
            draft.ihave.append(IHave(topic, tuple(told)))

    def _heed_ihave(self, now: float, peer: str, state: _Peer, have: IHave, out: Effects) -> None:
        if have.topic not in self._meshes or not self._is_good(now, peer):
            return
        state.ihaves += 1
        if state.ihaves > self._params.max_ihaves:
            self.counters["ihaves_refused"] += 1
            return
        self._asked.expire(now)
        for msg_id in have.ids:
            if state.ids_asked >= self._params.max_ihave_ids:
                return
            if msg_id not in self._seen and msg_id not in self._asked:
                state.ids_asked += 1
                self._asked.add(now, msg_id)
                self.counters["asked"] += 1
                out.to(peer).iwant.append(msg_id)

    def _answer_iwant(self, peer: str, state: _Peer, ids: Iterable[bytes], out: Effects) -> None:
        batch: list[Message] = []
        size = 0
        for msg_id in ids:
            message = self._cache.ask(msg_id, peer, self._params.max_sends)
            if message is None:
                continue
            length = len(encode_message(message))
            if state.bytes_answered + length > self._params.max_answer_bytes:
                self.counters["answers_refused"] += 1
                break
            state.bytes_answered += length
            if batch and size + length > _ANSWER_BYTES:
                out.add(Send(peer, Rpc(publish=tuple(batch))))
                batch, size = [], 0
            batch.append(message)
            size += length
            self.counters["answered"] += 1
        if batch:
            out.add(Send(peer, Rpc(publish=tuple(batch))))

    def _blame(self, now: float, peer: str, fault: Fault, out: Effects) -> None:
        self.counters[fault.value] += 1
        out.add(Blamed(peer, fault))
        before = self._scores.standing(now, peer)
        self._scores.blame(now, peer, fault)
        after = self._scores.standing(now, peer)
        if after < before:
            self._meshes.expel(now, peer, out)
            if after is Standing.IGNORED:
                out.add(Reset(peer, "too many faults within a minute"))

    def _is_good(self, now: float, peer: str) -> bool:
        return self._scores.standing(now, peer) is Standing.GOOD

    def _reachable(self, now: float, peers: Iterable[str] | Mapping[str, object]) -> Iterable[str]:
        """Leave out whom we ignore: nothing is sent to them."""
        return [peer for peer in peers if self._scores.standing(now, peer) is not Standing.IGNORED]
