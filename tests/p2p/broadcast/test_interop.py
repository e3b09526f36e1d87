"""Over loopback sockets: our broadcast and py-libp2p's own GossipSub in one mesh."""

from __future__ import annotations

import pytest
import structlog
import trio

from p2p.broadcast.driver import GossipBroadcast
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from tests.p2p.broadcast.stock import StockOverlay, dial, stock_gossip
from tests.p2p.broadcast.world import NAME, WIRE_NAME, Store, record, until

OURS, THEIRS = PrivateKey(b"\x01" * 32), PrivateKey(b"\x02" * 32)


@pytest.mark.parametrize("we_dial", [True, False])
async def test_messages_go_both_ways_with_py_libp2p(we_dial: bool) -> None:
    overlay, store = StockOverlay(OURS), Store()
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
    broadcast = GossipBroadcast(overlay, OURS, SystemClock(), SystemEntropy(), log)
    async with (
        overlay.running(),
        stock_gossip(THEIRS, WIRE_NAME) as (host, pubsub, subscription),
        broadcast.running(),
    ):
        await broadcast.join(store)
        if we_dial:
            await overlay.connect(str(host.get_addrs()[0]))
        else:
            await dial(host, overlay.listen_addresses()[0])
        await until(lambda: list(broadcast.mesh(NAME)) == [THEIRS.node_id], 20)
        await broadcast.publish(NAME, record("ours"))
        with trio.fail_after(20):
            message = await subscription.get()
        assert message.data == record("ours")
        assert message.from_id == peer_id_bytes(OURS.public_key)
        await pubsub.publish(WIRE_NAME, record("theirs"))
        await until(lambda: store.held() == {"theirs": 1}, 20)
        assert store.sources == [THEIRS.node_id]
        assert broadcast.points(THEIRS.node_id) == 0.0
