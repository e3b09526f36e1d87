"""What an overlay reports: who came and went, who was not let in and why, which dials failed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.wire import PROTOCOL_12
from p2p.discovery import DiscoverySettings
from p2p.discovery.admission import HELLO_TIMEOUT
from p2p.entropy import SeededEntropy
from p2p.events import DialFailed, GossipFault, NetEvent, PeerConnected, PeerDisconnected, PeerDropped
from p2p.identity import PrivateKey
from p2p.overlay import PeerUnreachable
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

QUIET = DiscoverySettings(target_peers=0)


class World:
    """A node whose reports are kept, and others."""

    def __init__(self) -> None:
        self.network = MemoryNetwork(VirtualClock(), SeededEntropy(1, "network"), Link(latency=0.02))
        self.events: list[NetEvent] = []
        self.key = PrivateKey.generate(SeededEntropy(100))
        self.here = self.node(100, report=self.events.append)

    def node(self, number: int, network: str = "devnet", **more: Any) -> MemoryOverlay:
        entropy = SeededEntropy(number)
        more.setdefault("discovery", QUIET)
        return self.network.overlay(
            PrivateKey.generate(SeededEntropy(number)), network, entropy=entropy, **more
        )


@contextlib.asynccontextmanager
async def world(**more: Any) -> AsyncIterator[World]:
    w = World()
    async with w.here.running():
        yield w


async def test_who_comes_and_goes(autojump_clock: MockClock) -> None:
    async with world() as w:
        there = w.node(2)
        async with there.running():
            await there.connect(w.here.listen_addresses()[0])
            await trio.sleep(1)
        await trio.sleep(1)
        connected, gone = w.events
        assert connected == PeerConnected(there.node_id, there.listen_addresses()[0], "in")
        assert isinstance(gone, PeerDisconnected)
        assert gone.peer == there.node_id
        assert gone.reason == "the peer closed the session"


@pytest.mark.parametrize(
    ("other", "why", "words"),
    [
        ({"network": "test"}, "network", "'test'"),
        ({"version": 7, "oldest": 7}, "version", "this node needs an update"),
        ({"discovery": None}, "stranger", "no golem-p2p node"),
    ],
)
async def test_who_was_dialled_and_not_let_in(
    other: dict[str, Any], why: str, words: str, autojump_clock: MockClock
) -> None:
    async with world() as w:
        there = w.node(2, **other)
        async with there.running():
            with pytest.raises(PeerUnreachable):
                await w.here.connect(there.listen_addresses()[0])
        (event,) = w.events
        assert isinstance(event, PeerDropped)
        assert (event.peer, event.dialled, event.why) == (there.node_id, True, why)
        assert words in event.reason


async def test_who_dialled_and_was_not_let_in(autojump_clock: MockClock) -> None:
    async with world() as w:
        outdated, mute = w.node(2, version=7, oldest=7), w.node(3, discovery=None)
        async with outdated.running(), mute.running():
            with pytest.raises(PeerUnreachable):
                await outdated.connect(w.here.listen_addresses()[0])
            await mute.connect(w.here.listen_addresses()[0])
            await trio.sleep(HELLO_TIMEOUT + 1)
        found = [(e.peer, e.dialled, e.why) for e in w.events if isinstance(e, PeerDropped)]
        assert found == [(outdated.node_id, False, "version"), (mute.node_id, False, "silent")]
        assert len(w.events) == 2, "who is not let in never came"


async def test_dials_of_discovery_that_fail(autojump_clock: MockClock) -> None:
    w = World()
    nobody = "/memory/0x" + "77" * 20
    here = w.node(101, bootstrap=(nobody,), report=w.events.append)
    async with here.running():
        await trio.sleep(30)
    assert len(w.events) > 1, "tried again"
    assert set(w.events) == {
        DialFailed(nobody, bootstrap=True, reason=w.events[0].reason)  # type: ignore[attr-defined]
    }
    assert "does not accept connections" in w.events[0].reason  # type: ignore[attr-defined]


async def test_faults_in_gossip(autojump_clock: MockClock) -> None:
    async with world() as w:
        there = w.node(2)
        entropy = SeededEntropy(5)
        broadcast = GossipBroadcast(
            w.here, w.key, w.network.clock, entropy, log=SilentLog(), report=w.events.append
        )
        async with there.running(), broadcast.running():
            await there.connect(w.here.listen_addresses()[0])
            stream = await there.open_stream(w.here.node_id, PROTOCOL_12)
            await stream.send_all(b"\xff" * 64)
            await trio.sleep(1)
        assert GossipFault(there.node_id, "bad_frames") in w.events


class SilentLog:
    """Takes any line."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None
