"""What a netcheck finds out: dials on an overlay in memory, and knocks on real ports of loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from node.netcheck import probe
from node.netcheck.facts import Bootstrap, Dropped
from p2p.events import DialFailed, EventLog, PeerDropped
from p2p.testing.nodes import memory_nodes

if TYPE_CHECKING:
    from trio.testing import MockClock

STRANGER = "0x" + "77" * 20


async def test_first_peers_are_dialled(autojump_clock: MockClock) -> None:
    async with memory_nodes(3, seed=4) as (here, there, other):
        await here.overlay.disconnect(other.node_id)
        await trio.sleep(1)
        addresses = [node.overlay.listen_addresses()[0] for node in (there, other, here)]
        found = await probe.dial(here.overlay, [*addresses, f"/memory/{STRANGER}", "/ip4/x", addresses[0]])
        assert found[:3] == [
            Bootstrap(addresses[0], there.node_id, connected=True),
            Bootstrap(addresses[1], other.node_id, connected=False),
            Bootstrap(addresses[2]),
        ]
        assert "does not accept connections" in found[3].problem
        assert "/ip4/x" in found[4].problem
        assert len(found) == 5, "each once"


def test_a_reason_does_not_say_again_where() -> None:
    address = "/ip4/127.0.0.1/tcp/9/p2p/x"
    said = f"no session with {STRANGER}: {address}: Connection refused; {address}: it was cut off"
    assert probe._without_place(said, address) == "Connection refused; it was cut off"
    dropped = f"{STRANGER} was reached, but it is on network 'test'"
    assert probe._without_place(dropped, address) == dropped


async def test_what_is_gathered(autojump_clock: MockClock) -> None:
    async with memory_nodes(3, seed=4) as (here, there, _):
        events = EventLog(here.clock)
        for number in range(3):
            reason = f"it is on network 'test{number}'"
            events.add(PeerDropped(STRANGER, dialled=False, why="network", reason=reason))
        events.add(DialFailed("/ip4/192.0.2.1/tcp/1", bootstrap=False, reason="refused"))
        address = there.overlay.listen_addresses()[0]
        facts = await probe.examine(
            here.overlay,
            listen=("/ip4/0.0.0.0/tcp/1",),
            bootstrap=(address,),
            joined=True,
            events=events,
            known=5,
            skew=-90.0,
        )
        assert (facts.known, facts.skew) == (5, -90.0)
        assert (facts.network, facts.peers_in, facts.peers_out, facts.guests) == ("devnet", 0, 2, 0)
        assert facts.bootstrap == (Bootstrap(address, there.node_id, connected=True),)
        assert facts.dropped == (Dropped("network", 3, "it is on network 'test2'"),)
        early = await probe.examine(
            here.overlay, listen=(), bootstrap=(address,), joined=False, events=EventLog(here.clock)
        )
        assert (early.bootstrap, early.dropped, early.joined) == ((), (), False)
        assert msgspec.json.decode(msgspec.json.encode(facts)), "it can be told over REST"


async def test_knocking_on_this_machine() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    (closed,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    open_port, closed_port = (one.socket.getsockname()[1] for one in (listener, closed))
    await closed.aclose()
    async with listener:
        found = await probe.knock(
            [
                f"/ip4/127.0.0.1/tcp/{open_port}/p2p/16Uiu2HAmTJzTzVHyrQr9Xb7sDrN9s5RF8VLB2Uw7BpFqyMWQbmDy",
                f"/ip4/127.0.0.1/tcp/{closed_port}",
                "/memory/somewhere",
                "/ip4/127.0.0.1/udp/1/quic-v1",
            ]
        )
    assert [place.problem for place in found] == ["", "Connection refused"]
