"""mDNS with its announcer replaced: what threads find comes to trio as claims; failing is no failure."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import libp2p.discovery.mdns.mdns as stock
import pytest
import trio
from structlog.testing import capture_logs

from p2p.host.mdns import announce_and_listen, fingerprint
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_of
from p2p.testing.conformance import eventually

if TYPE_CHECKING:
    from p2p.identity import NodeId

ME, OTHER = PrivateKey(b"\1" * 32), PrivateKey(b"\2" * 32)
LISTEN = [f"/ip4/127.0.0.1/tcp/4001/p2p/{peer_id_of(ME.public_key)}"]


class Announcer:
    """Stands in for libp2p's: finds a peer and some nonsense at once, in its thread."""

    def __init__(self, swarm: Any, **options: Any) -> None:
        self.options, self.calls = options, [str(swarm.get_peer_id())]
        note = self.calls.append
        self.broadcaster = SimpleNamespace(register=lambda: note("up"), unregister=lambda: note("down"))
        self.listener = SimpleNamespace(stop=lambda: note("deaf"))
        self.zeroconf = SimpleNamespace(close=lambda: note("closed"))
        peer = peer_id_of(OTHER.public_key)
        swarm.peerstore.add_addrs(
            peer, ["/ip4/127.0.0.1/tcp/5", "nonsense", f"/ip4/127.0.0.1/tcp/6/p2p/{peer}"], 120
        )
        swarm.peerstore.clear_addrs(peer)


async def test_what_is_found_is_suggested_and_the_announcement_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Announcer] = []

    def create(swarm: Any, **options: Any) -> Announcer:
        made.append(Announcer(swarm, **options))
        return made[0]

    monkeypatch.setattr(stock, "create_mdns_discovery", create)
    found: list[tuple[NodeId, str]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce_and_listen, "devnet", LISTEN, lambda *claim: found.append(claim))
        await eventually(lambda: len(found) == 2)
        nursery.cancel_scope.cancel()
    peer = peer_id_of(OTHER.public_key)
    assert found == [(OTHER.node_id, f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}") for port in (5, 6)]
    assert made[0].options["port"] == 4001
    assert made[0].calls == [peer_id_of(ME.public_key), "up", "down", "deaf", "closed"]


async def test_a_machine_without_multicast_is_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(swarm: Any, **options: Any) -> None:
        raise OSError("no such device")

    monkeypatch.setattr(stock, "create_mdns_discovery", fail)
    with capture_logs() as logs:
        await announce_and_listen("devnet", LISTEN, lambda *_: None)
    assert [entry["log_level"] for entry in logs] == ["warning"]


@pytest.mark.parametrize("network", ["devnet", "main", "x" * 64])
def test_service_names_fit_and_differ(network: str) -> None:
    assert len(f"p2p-{fingerprint(network)}".encode()) <= 15
    assert fingerprint(network) != fingerprint("test")
