"""Our Kademlia and py-libp2p's own over loopback TCP: put, get and find_peer, both ways.

Ours runs on a node, whose guests the others are; and on a host of py-libp2p itself. py-libp2p's knows no other protocol id than IPFS's, so that it is given ours; and its keys are text, so that the
records are of nodes whose NodeIds happen to be UTF-8.
"""

from __future__ import annotations

import importlib
import warnings
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from p2p import base58
from p2p.clock import SystemClock
from p2p.discovery.kademlia import Kademlia
from p2p.discovery.records import RecordRules
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import verify_peer_record
from p2p.overlay import is_guest
from p2p.testing.conformance import eventually
from tests.p2p.broadcast.stock import StockOverlay, dial, stock_host
from tests.p2p.host.nodes import make

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
    from libp2p.peer.id import ID
    from libp2p.records.validator import NamespacedValidator, Validator
    from libp2p.tools.anyio_service import background_trio_service
    from multiaddr import Multiaddr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.identity import NodeId
    from p2p.overlay import Overlay

LISTEN = "/ip4/127.0.0.1/tcp/0"
TEXTUAL = [PrivateKey(number.to_bytes(32, "big")) for number in (82297, 92189)]
"""Keys whose NodeIds are UTF-8; found by trial."""
RULES = RecordRules("devnet", lambda _: True)


class Newest(Validator):
    """What a foreign peer needs to know of our records."""

    def validate(self, key: str, value: bytes) -> None:
        RULES.judge(key.encode(), value, SystemClock().utc_ns())

    def select(self, key: str, values: list[bytes]) -> int:
        return max(range(len(values)), key=lambda index: verify_peer_record(values[index]).seq)


@pytest.fixture(autouse=True)
def our_protocol_id(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("kad_dht", "peer_routing", "value_store", "provider_store", "routing_table"):
        place = importlib.import_module(f"libp2p.kad_dht.{module}")
        if hasattr(place, "PROTOCOL_ID"):
            monkeypatch.setattr(place, "PROTOCOL_ID", "/golem-p2p/devnet/kad/1.0.0")


class Net:
    """One node of ours, and some of py-libp2p's, all connected with ours."""

    def __init__(self, overlay: Overlay, kademlia: Kademlia, stock: list[tuple[Any, Any]]) -> None:
        self.overlay = overlay
        self.kademlia = kademlia
        self.stock = stock


@asynccontextmanager
async def stock_dht() -> AsyncIterator[tuple[Any, Any]]:
    host = stock_host(PrivateKey.generate(SystemEntropy()))
    validator = NamespacedValidator({"golem-p2p": Newest()}, strict_validation=True)
    async with host.run(listen_addrs=[Multiaddr(LISTEN)]):
        dht = KadDHT(
            host, DHTMode.SERVER, validator=validator, validator_changed=True, strict_validation=True
        )
        async with background_trio_service(dht):
            yield host, dht


@pytest.fixture(params=["on a node", "on py-libp2p"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[Net]:
    key = PrivateKey.generate(SystemEntropy())
    on_node = request.param == "on a node"
    overlay = cast("Overlay", make(key=key) if on_node else StockOverlay(key))
    addresses: dict[NodeId, list[str]] = {}
    kademlia = Kademlia(
        overlay,
        peer_id_bytes(key.public_key),
        RULES,
        addresses_of=lambda node: addresses.get(node, []),
        acceptable=lambda _: True,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        diverse=False,
        spare=lambda _: False,
    )
    running = cast("Any", overlay).running()
    async with running, kademlia.running(), stock_dht() as one, stock_dht() as two:
        for host, dht in (one, two):
            address = str(host.get_addrs()[0])
            name = await overlay.connect(address)
            assert is_guest(name) == on_node
            addresses[name] = [address]
            await dht.add_peer(await dial(host, overlay.listen_addresses()[0]))
            kademlia._meet(name)  # on py-libp2p, it is known where it is only now
        await eventually(lambda: len(kademlia.table) == 2, timeout=20)
        yield Net(overlay, kademlia, [one, two])


def record(key: PrivateKey) -> tuple[bytes, bytes]:
    value = RULES.sign(key, SystemClock().utc_ns(), ["/ip4/192.0.2.7/tcp/4001"])
    assert value is not None
    return RULES.key(key.node_id), value


async def test_what_we_put_py_libp2p_gets(world: Net) -> None:
    key, value = record(TEXTUAL[0])
    keepers, _ = await world.kademlia.put(key, value)
    assert keepers == 2
    with trio.fail_after(20):
        for _, dht in world.stock:
            assert await dht.get_value(key.decode()) == value


async def test_what_py_libp2p_puts_we_get(world: Net) -> None:
    key, value = record(TEXTUAL[1])
    with trio.fail_after(20):
        await world.stock[0][1].put_value(key.decode(), value)
    assert world.kademlia.store.get(key, SystemClock().utc_ns()) == value
    world.kademlia.store._records.clear()  # and again from them
    found, _ = await world.kademlia.find(key)
    assert found is not None
    assert found.value == value


async def test_py_libp2p_finds_a_peer_through_us(world: Net) -> None:
    (_one, dht), (two, _) = world.stock
    with trio.fail_after(20):
        found = await dht.find_peer(two.get_id())
    assert found is not None
    assert found.peer_id == two.get_id()
    ours = await dht.find_peer(ID(base58.decode(world.overlay.listen_addresses()[0].rpartition("/")[2])))
    assert ours is not None


async def test_we_find_a_peer_through_py_libp2p(world: Net) -> None:
    (one, dht), (two, _) = world.stock
    await dht.add_peer(two.get_id())
    one.get_peerstore().add_addrs(two.get_id(), two.get_addrs(), 3600)
    sought = two.get_id().to_bytes()
    world.kademlia.table.removed(sought)
    found = await world.kademlia.find_peer(sought)
    assert found is not None
    assert set(found.addresses) >= {str(a) for a in two.get_addrs()}
