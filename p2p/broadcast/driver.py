"""`GossipBroadcast`: the `Broadcast` of a node. Runs the router and the sync over an overlay's streams.

One outbound gossip stream a peer, written from a bounded queue; inbound ones are read into the router, which
decides everything. Records, of gossip and of sync alike, go to their topic's owner in a bounded pool. On the
wire a topic `offers/1` is `/golem-p2p/<network>/offers/1`.

Guests, who are foreign gossipsub programs, take part in gossip; sync is our own and theirs is none.

A bad peer costs itself: what does not decode resets its stream and counts against it; from some points on it
is ignored. A topic owner that fails costs its records: logged, and taken as IGNORE.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from p2p.broadcast.api import Verdict
from p2p.broadcast.effects import Blamed, Deliver, Effect, Reset, Send
from p2p.broadcast.links import Link
from p2p.broadcast.params import GossipParams
from p2p.broadcast.rounds import SyncRounds
from p2p.broadcast.router import Router
from p2p.broadcast.score import Fault, Standing
from p2p.broadcast.sign import StrictSign
from p2p.broadcast.sync import PROTOCOL_MAJOR, PROTOCOL_NAME, Answerer, Asker, SyncError, SyncViolation
from p2p.broadcast.wire import MAX_FRAME_BYTES, PROTOCOL_11, PROTOCOL_12, encode_frame
from p2p.events import GossipFault, unreported
from p2p.identity import NodeId
from p2p.overlay import OverlayError, ProtocolRefused, StreamBroken, is_guest, protocol_id
from p2p.protobuf import FrameReader, WireError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    import structlog.typing

    from p2p.broadcast.api import Topic
    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.events import Report
    from p2p.identity import PrivateKey
    from p2p.overlay import Overlay, PeerChange, Stream

RECEIVE_TIMEOUT = 10.0
"""Seconds that a topic's owner has for one record."""
RECEIVERS = 16
"""Records of gossip that are judged at once."""
REOPEN_DELAY = (1.0, 60.0)
"""Seconds until a gossip stream that broke, or was refused, is tried anew: at first, and at most."""
MEET_TIMEOUT = 5.0
"""Seconds that a gossip stream waits for word of its session, which an overlay may give later."""
EXCHANGE_TIMEOUT = 300.0
"""Seconds for one sync, led or answered. A first one may bring the whole market."""
MAX_ANSWERED = 8
"""Syncs answered at once, one a peer; each may hold a frame of 1 MiB."""


class GossipBroadcast:
    """Gossip and sync over `overlay`; implements `p2p.broadcast.Broadcast`.

        broadcast = GossipBroadcast(overlay, key, clock, entropy, log)
        async with broadcast.running():
            await broadcast.join(topic)

    Args:
        key: the node's key, whose NodeId the overlay has: it signs the envelopes of what we publish.
        report: is told of peers' faults.
    """

    def __init__(
        self,
        overlay: Overlay,
        key: PrivateKey,
        clock: Clock,
        entropy: Entropy,
        log: structlog.typing.FilteringBoundLogger,
        params: GossipParams = GossipParams(),  # noqa: B008 - frozen
        report: Report = unreported,
    ) -> None:
        self._overlay = overlay
        self._clock = clock
        self._rng = entropy.jitter
        self._log = log
        self._params = params
        self._report = report
        self._router = Router(params, StrictSign(key), self._rng, clock.utc_ns())
        self._rounds = SyncRounds(self._rng, self._connected, self._exchange)
        self._sync_id = protocol_id(overlay.network, PROTOCOL_NAME, PROTOCOL_MAJOR)
        self._topics: dict[str, Topic] = {}
        self._links: dict[str, Link] = {}
        self._inbound: dict[str, Stream] = {}
        self._claimed: set[tuple[str, str, int]] = set()
        self._answering: set[NodeId] = set()
        self._nursery: trio.Nursery | None = None
        self._met = trio.Event()
        """Set, and made anew, when a peer has connected."""
        self._judged = trio.Event()
        """Set, and made anew, when a record has been judged."""
        # The router never has more than this under validation, so that sending here never fails.
        self._deliveries, self._to_judge = trio.open_memory_channel[Deliver](params.max_pending)

    def __repr__(self) -> str:
        return f"<GossipBroadcast of {self._overlay.node_id}, {len(self._topics)} topics, {len(self._links)} peers>"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take part while the context is open."""
        if self._nursery is not None:
            raise RuntimeError("the broadcast is running already")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for _ in range(RECEIVERS):
                nursery.start_soon(self._judge_deliveries)
            nursery.start_soon(self._beat)
            nursery.start_soon(self._rounds.run)
            self._overlay.serve(PROTOCOL_12, self._serve_gossip, guests=True)
            self._overlay.serve(PROTOCOL_11, self._serve_gossip, guests=True)
            self._overlay.serve(self._sync_id, self._serve_sync)
            unsubscribe = self._overlay.subscribe_peers(self._peer_changed, guests=True)
            for info in (*self._overlay.peers(), *self._overlay.guests()):
                self._meet(NodeId(info.node_id))
            try:
                yield
            finally:
                unsubscribe()
                self._nursery = None
                nursery.cancel_scope.cancel()
                for linked in list(self._links):
                    self._lose(linked)

    # The `Broadcast` interface.

    async def join(self, topic: Topic) -> None:
        """Take part in a topic. Raises ValueError if one of that name is joined."""
        await trio.lowlevel.checkpoint()
        if topic.name in self._topics:
            raise ValueError(f"topic {topic.name!r} is joined already, by {self._topics[topic.name]!r}")
        self._topics[topic.name] = topic
        self._do(self._router.join(self._clock.monotonic(), self._wire_name(topic.name)))
        self._rounds.announce()

    async def publish(self, topic: str, data: bytes) -> None:
        """Send a record of ours to the network.

        Raises:
            ValueError: the topic is not joined, or the record is empty or above MAX_RECORD_BYTES.
        """
        await trio.lowlevel.checkpoint()
        if topic not in self._topics:
            raise ValueError(f"topic {topic!r} is not joined, so that its records could not be synced")
        self._do(self._router.publish(self._clock.monotonic(), self._wire_name(topic), data))

    # What can be asked of it.

    def counters(self) -> Mapping[str, int]:
        """Return how often what happened since the start, by name, for metrics and status."""
        return MappingProxyType(self._router.counters)

    def mesh(self, topic: str) -> Sequence[str]:
        """Return the peers to whom messages of a topic are forwarded whole."""
        return self._router.mesh(self._wire_name(topic))

    def points(self, peer: NodeId) -> float:
        """Return a peer's points for faults; 0 is spotless, from 15 on it is out of the mesh, see `score`."""
        return self._router.points(self._clock.monotonic(), peer)

    # What a sync needs (`sync.Holder`).

    @property
    def topics(self) -> Mapping[str, Topic]:
        return MappingProxyType(self._topics)

    async def judge(self, topic: str, data: bytes, source: NodeId) -> Verdict:
        verdict = await self._receive(self._topics[topic], data, source)
        if verdict is Verdict.REJECT:
            self._blame(source, Fault.REJECTED)
        return verdict

    def ignores(self, peer: NodeId) -> bool:
        return self._router.standing(self._clock.monotonic(), peer) is Standing.IGNORED

    # Effects.

    def _do(self, effects: Iterable[Effect]) -> None:
        rpc, frame = None, b""
        for effect in effects:
            match effect:
                case Send():
                    if effect.rpc is not rpc:
                        rpc, frame = effect.rpc, encode_frame(effect.rpc)
                    if effect.peer in self._links:
                        self._links[effect.peer].put(effect.rpc, frame)
                case Deliver():
                    self._deliveries.send_nowait(effect)
                case Blamed(peer, fault):
                    self._report(GossipFault(peer, fault.value))
                case Reset(peer, reason):
                    self._log.debug("reset the gossip stream of a peer", peer=peer, reason=reason)
                    if peer in self._inbound:
                        self._inbound.pop(peer).reset()

    async def _beat(self) -> None:
        await trio.sleep(self._rng.uniform(0, self._params.heartbeat))
        while True:
            self._do(self._router.heartbeat(self._clock.monotonic()))
            await trio.sleep(self._params.heartbeat)

    async def _judge_deliveries(self) -> None:
        async for delivery in self._to_judge.clone():
            topic = self._topics[delivery.topic.removeprefix(self._wire_name(""))]
            verdict = await self._receive(topic, delivery.data, NodeId(delivery.peer))
            self._do(self._router.validated(self._clock.monotonic(), delivery.msg_id, verdict))
            self._judged.set()
            self._judged = trio.Event()

    async def _receive(self, topic: Topic, data: bytes, source: NodeId) -> Verdict:
        verdict = Verdict.IGNORE
        try:
            with trio.move_on_after(RECEIVE_TIMEOUT) as patience:
                verdict = await topic.receive(data, source)
            self._router.counters["receive_timeouts"] += patience.cancelled_caught
        except Exception:
            self._router.counters["receive_failed"] += 1
            self._log.exception("the owner of a topic failed on a record", topic=topic.name, peer=source)
        return verdict

    def _blame(self, peer: str, fault: Fault) -> None:
        self._do(self._router.blamed(self._clock.monotonic(), peer, fault))

    def _wire_name(self, topic: str) -> str:
        return f"/golem-p2p/{self._overlay.network}/{topic}"

    # Peers and their outbound streams.

    def _connected(self) -> Sequence[NodeId]:
        return [NodeId(info.node_id) for info in self._overlay.peers()]

    def _peer_changed(self, change: PeerChange) -> None:
        if change.connected:
            self._meet(NodeId(change.node_id))
        else:
            self._lose(change.node_id)

    def _meet(self, peer: NodeId) -> None:
        if peer not in self._links and self._nursery is not None:
            self._links[peer] = link = Link(peer, self._router.counters)
            self._do(self._router.peer_added(self._clock.monotonic(), peer))
            self._nursery.start_soon(self._serve_link, link)
            self._met.set()
            self._met = trio.Event()

    def _lose(self, peer: str) -> None:
        link = self._links.pop(peer, None)
        if link is not None:
            link.scope.cancel()
            self._router.peer_removed(peer)
            self._rounds.forget(link.peer)
        if peer in self._inbound:
            self._inbound.pop(peer).reset()

    async def _serve_link(self, link: Link) -> None:
        dialled = any(info.node_id == link.peer and info.direction == "out" for info in self._overlay.peers())
        greeted = False
        shortest, longest = REOPEN_DELAY
        delay = shortest
        with link.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        stream = await self._open_gossip(link.peer)
                        delay = shortest
                        if not greeted and not is_guest(
                            link.peer
                        ):  # now it has begun to serve, so that a sync will not be refused
                            nursery.start_soon(lambda: self._rounds.greet(link.peer, dialled_by_us=dialled))
                            greeted = True
                        await link.pump(stream)
                    except OverlayError as error:
                        self._log.debug("no gossip stream", peer=link.peer, error=str(error))
                    await trio.sleep(shortest * self._rng.uniform(0.5, 1.0))
                    await link.called(delay * self._rng.uniform(0.5, 1.0))
                    delay = min(2 * delay, longest)
                    link.reopen()
                    self._do(self._router.peer_added(self._clock.monotonic(), link.peer))

    async def _open_gossip(self, peer: NodeId) -> Stream:
        try:
            stream = await self._overlay.open_stream(peer, PROTOCOL_12)
        except ProtocolRefused:
            return await self._overlay.open_stream(peer, PROTOCOL_11)
        self._router.peer_speaks(peer, idontwant=True)
        return stream

    # Inbound streams.

    async def _serve_gossip(self, stream: Stream) -> None:
        peer = stream.peer
        with trio.move_on_after(MEET_TIMEOUT):
            while self._nursery is not None and peer not in self._links:
                await self._met.wait()
        if peer not in self._links or self.ignores(peer):
            stream.reset()
            return
        self._links[peer].call()
        if peer in self._inbound:
            self._inbound[peer].reset()  # one a peer; the newest is the one that it writes to
        self._inbound[peer] = stream
        reader = FrameReader(MAX_FRAME_BYTES)
        try:
            while self._inbound.get(peer) is stream and (data := await stream.receive_some()):
                for frame in reader.feed(data):
                    self._do(self._router.frame_received(self._clock.monotonic(), peer, frame))
                    while self._router.pending(peer) >= self._params.max_pending_per_peer // 2:
                        await self._judged.wait()  # and let the stream's window push back
                    if self._inbound.get(peer) is not stream:
                        break
        except WireError as error:
            self._do(self._router.frame_refused(self._clock.monotonic(), peer, str(error)))
        except StreamBroken:
            pass  # its outbound side notices by itself whether the session is gone
        finally:
            if self._inbound.get(peer) is stream:
                del self._inbound[peer]

    async def _serve_sync(self, stream: Stream) -> None:
        peer = stream.peer
        if (
            self._nursery is None
            or self.ignores(peer)
            or peer in self._answering
            or len(self._answering) >= MAX_ANSWERED
        ):
            stream.reset()
            return
        self._answering.add(peer)
        answerer = Answerer(stream, self)
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT):
                await answerer.run()
            self._rounds.synced(peer, news=answerer.pulled > 0)
        except (SyncError, trio.TooSlowError) as error:
            self._sync_failed(peer, error)
            stream.reset()
        finally:
            self._answering.discard(peer)
            self._router.counters["synced_in"] += answerer.pulled

    async def _exchange(self, peer: NodeId) -> None:
        if self.ignores(peer):
            return
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT):
                await self._lead_sync(await self._overlay.open_stream(peer, self._sync_id))
        except (SyncError, OverlayError, trio.TooSlowError) as error:
            self._sync_failed(peer, error)
        except Exception:
            self._log.exception("a sync failed here", peer=peer)

    async def _lead_sync(self, stream: Stream) -> None:
        asker = Asker(stream, self, self._claimed)
        try:
            await asker.run()
            await stream.aclose()
        except BaseException:
            stream.reset()
            raise
        finally:
            self._router.counters["synced_in"] += asker.pulled
            self._router.counters["synced_out"] += asker.pushed
        self._router.counters["syncs"] += 1
        self._rounds.synced(stream.peer, news=asker.pulled + asker.pushed > 0)

    def _sync_failed(self, peer: NodeId, error: Exception) -> None:
        self._router.counters["syncs_failed"] += 1
        self._log.debug("a sync did not come to its end", peer=peer, error=str(error))
        if isinstance(error, SyncViolation):
            self._blame(peer, Fault.BAD_SYNC)
