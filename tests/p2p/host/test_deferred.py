"""An overlay that is not there yet, and what becomes of what was asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2p.entropy import SeededEntropy
from p2p.host.deferred import JOIN_TIMEOUT, DeferredOverlay
from p2p.identity import NodeId, PrivateKey
from p2p.overlay import PeerUnreachable, protocol_id
from p2p.testing.clock import VirtualClock
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.overlay import PeerChange, Stream
    from p2p.testing.overlay import MemoryOverlay

ECHO = protocol_id("devnet", "echo", 1)


def pair() -> tuple[DeferredOverlay, MemoryOverlay, MemoryOverlay]:
    """Return a deferred overlay, what will be attached to it, and a peer."""
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1, "network"), Link(latency=0.01))
    keys = [PrivateKey.generate(SeededEntropy(n, "key")) for n in range(2)]
    ours, peer = (network.overlay(key) for key in keys)
    return DeferredOverlay(keys[0].node_id, "devnet"), ours, peer


async def echo(stream: Stream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data)


async def said(stream: Stream) -> bytes:
    await stream.send_all(b"hello")
    return await stream.receive_some()


async def test_before_there_is_one(autojump_clock: MockClock) -> None:
    deferred, ours, peer = pair()
    assert (deferred.node_id, deferred.network) == (ours.node_id, "devnet")
    assert not deferred.joined
    assert list(deferred.peers()) == []
    assert list(deferred.listen_addresses()) == []
    await deferred.disconnect(peer.node_id)
    for call in (deferred.connect("/memory/x"), deferred.open_stream(peer.node_id, ECHO)):
        began = trio.current_time()
        with pytest.raises(PeerUnreachable, match="not joined"):
            await call
        assert trio.current_time() - began == JOIN_TIMEOUT


async def test_what_was_served_before_is_served(autojump_clock: MockClock) -> None:
    deferred, ours, peer = pair()
    deferred.serve(ECHO, echo)
    async with peer.running():
        deferred.attach(ours)
        later = protocol_id("devnet", "later", 1)
        deferred.serve(later, echo)
        async with ours.running():
            deferred.set_joined()
            for protocol in (ECHO, later):
                assert await said(await peer.open_stream(deferred.node_id, protocol)) == b"hello"
            assert list(deferred.listen_addresses()) == list(ours.listen_addresses())
            assert [info.node_id for info in deferred.peers()] == [peer.node_id]
            await deferred.disconnect(peer.node_id)
            assert list(deferred.peers()) == []


@pytest.mark.parametrize("attached", [False, True])
async def test_calls_wait_until_it_runs(attached: bool, autojump_clock: MockClock) -> None:
    deferred, ours, peer = pair()
    peer.serve(ECHO, echo)
    got: list[object] = []

    async def call() -> None:
        got.append(await deferred.connect(peer.listen_addresses()[0]))
        got.append(await said(await deferred.open_stream(peer.node_id, ECHO)))

    async with peer.running(), trio.open_nursery() as nursery:
        if attached:
            deferred.attach(ours)
        nursery.start_soon(call)
        await trio.sleep(10)
        assert not deferred.joined
        assert got == []
        if not attached:
            deferred.attach(ours)
        async with ours.running():
            deferred.set_joined()
            await trio.sleep(5)
        assert got == [peer.node_id, b"hello"]


async def test_listeners_are_told_until_they_stop(autojump_clock: MockClock) -> None:
    deferred, ours, peer = pair()
    early: list[PeerChange] = []
    late: list[tuple[NodeId | str, bool]] = []
    stop = deferred.subscribe_peers(early.append)
    deferred.attach(ours)
    deferred.subscribe_peers(lambda change: late.append((change.node_id, change.connected)))
    async with peer.running(), ours.running():
        deferred.set_joined()
        await deferred.connect(peer.listen_addresses()[0])
        assert [change.connected for change in early] == [True]
        stop()
        stop()
        await deferred.disconnect(peer.node_id)
        await trio.sleep(1)
        assert len(early) == 1
        assert late == [(peer.node_id, True), (peer.node_id, False)]
