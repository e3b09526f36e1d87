"""Routers wired in memory on virtual time: an event heap, links with latency and loss, a trace to compare."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from p2p.broadcast import Verdict
from p2p.broadcast.effects import Deliver, Effect, Reset, Send
from p2p.broadcast.params import GossipParams
from p2p.broadcast.router import Router
from p2p.broadcast.wire import Message, Rpc, encode_rpc

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "/golem-p2p/devnet/offers/1"


class PlainSeal:
    """A seal without keys: the signature is a hash that anybody can make. For tests of everything else."""

    def __init__(self, name: str) -> None:
        self.author = name.encode()

    def sign(self, message: Message) -> Message:
        return msgspec.structs.replace(message, signature=_mark(message))

    def check(self, message: Message) -> Verdict:
        return Verdict.ACCEPT if message.signature == _mark(message) else Verdict.REJECT


def _mark(message: Message) -> bytes:
    return hashlib.sha256(message.author + message.data + message.seqno).digest()[:8]


class Swarm:
    """Some routers and the links between them.

    Args:
        lost: decides for each RPC (from, to, rpc) whether it is lost.
        judge: a topic owner's verdict, by receiving node and data.
    """

    def __init__(
        self,
        count: int,
        seed: int = 1,
        *,
        params: GossipParams = GossipParams(),  # noqa: B008 - frozen
        lost: Callable[[str, str, Rpc], bool] = lambda *_: False,
        judge: Callable[[str, bytes], Verdict] = lambda *_: Verdict.ACCEPT,
        seal: Callable[[str], Any] = PlainSeal,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.params = params
        self.lost = lost
        self.judge = judge
        self.names = [f"n{i:03}" for i in range(count)]
        self.routers = {
            name: Router(params, seal(name), random.Random(f"{seed}/{name}"), 1) for name in self.names
        }
        self.links: dict[tuple[str, str], None] = {}
        self.got: dict[str, Counter[bytes]] = defaultdict(Counter)
        self.resets: list[Reset] = []
        self.sent: Counter[str] = Counter()
        self._trace = hashlib.sha256()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        for name in self.names:
            self.do(name, self.routers[name].join(0.0, TOPIC))
            self._at(self.rng.random() * params.heartbeat, lambda name=name: self._beat(name))

    def connect(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            self.links[here, there] = None
            self.do(here, self.routers[here].peer_added(self.now, there))
            self.routers[here].peer_speaks(there, idontwant=True)

    def disconnect(self, a: str, b: str) -> None:
        for here, there in ((a, b), (b, a)):
            self.links.pop((here, there), None)
            self.routers[here].peer_removed(there)

    def connect_all(self) -> None:
        for i, a in enumerate(self.names):
            for b in self.names[i + 1 :]:
                self.connect(a, b)

    def connect_some(self, degree: int) -> None:
        """Connect each node with its successor and with random others."""
        for i, a in enumerate(self.names):
            others = [n for n in self.names if n != a and (a, n) not in self.links]
            self.connect(a, self.names[(i + 1) % len(self.names)])
            for b in self.rng.sample(others, min(degree // 2 - 1, len(others))):
                if (a, b) not in self.links:
                    self.connect(a, b)

    def publish(self, name: str, data: bytes) -> None:
        self.got[name][data] += 1
        self.do(name, self.routers[name].publish(self.now, TOPIC, data))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            self.now, _, action = heapq.heappop(self._heap)
            action()
        self.now = end

    def do(self, name: str, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, rpc):
                    frame = encode_rpc(rpc)
                    self._trace.update(f"{self.now:.6f} {name} {peer}".encode() + frame)
                    self._count(rpc)
                    if (name, peer) in self.links and not self.lost(name, peer, rpc):
                        delay = 0.02 + self.rng.random() * 0.06
                        self._at(self.now + delay, lambda p=peer, f=frame: self._arrive(name, p, f))
                case Deliver(_, _, msg_id, data):
                    self.got[name][data] += 1
                    verdict = self.judge(name, data)
                    self._at(
                        self.now + 0.005,
                        lambda i=msg_id, v=verdict: self.do(
                            name, self.routers[name].validated(self.now, i, v)
                        ),
                    )
                case Reset():
                    self.resets.append(effect)

    def reached(self, data: bytes) -> int:
        return sum(self.got[name][data] > 0 for name in self.names)

    def digest(self) -> str:
        return self._trace.hexdigest()

    def _count(self, rpc: Rpc) -> None:
        for kind in Rpc.__struct_fields__:
            self.sent[kind] += len(getattr(rpc, kind))

    def _arrive(self, sender: str, receiver: str, frame: bytes) -> None:
        if (sender, receiver) in self.links:
            self.do(receiver, self.routers[receiver].frame_received(self.now, sender, frame))

    def _beat(self, name: str) -> None:
        self.do(name, self.routers[name].heartbeat(self.now))
        self._at(self.now + self.params.heartbeat, lambda: self._beat(name))

    def _at(self, when: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when, self._order, action))
