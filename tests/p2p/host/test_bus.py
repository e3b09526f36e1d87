"""The bus between nodes over real sessions: the same checks as in process, through the door, and in memory."""

from __future__ import annotations

from structlog.testing import capture_logs

from p2p.bus.api import Caller, net_address
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.bus.testing import check_bus
from tests.p2p.host.nodes import pair


async def test_the_bus_over_libp2p() -> None:
    async with pair() as (a, b):
        here, there = LocalBus(a.node_id), LocalBus(b.node_id)
        async with PeerBus(a, here).running(), PeerBus(b, there).running():
            await a.connect(b.listen_addresses()[0])
            with capture_logs():  # drawing the tracebacks that are provoked takes longer than the checks
                for serving, calling, called in ((there, here, b.node_id), (here, there, a.node_id)):
                    await check_bus(
                        serving=serving,
                        calling=calling,
                        called=net_address(called, "check"),
                        caller=Caller(calling.node_id, local=False),
                    )
