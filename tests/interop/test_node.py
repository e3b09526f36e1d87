"""A whole node with foreign peers, in both directions and with both kinds of their keys.

They are guests: ping, identify, echo, gossip and Kademlia. A js peer that says our hello is a node, and may use the bus.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p import base58
from p2p.bus.api import net_address
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.overlay import ProtocolRefused, protocol_id
from p2p.session.identity import decode_key
from p2p.testing.conformance import eventually
from tests.interop.foreign import ForeignFailed, running
from tests.interop.matrix import ECHO, ECHO_BYTES, IDENTIFY, KEYS, PING, KeyKind
from tests.interop.node import NETWORK, PATIENCE, our_node
from tests.interop.ours import call_echo, identify, pattern_hash, ping
from tests.interop.prepare import missing
from tests.p2p.broadcast.world import NAME, WIRE_NAME, record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Cell = Callable[..., Any]

dialled_by = pytest.mark.parametrize("we_dial", [True, False], ids=["we-dial", "they-dial"])
their_key = pytest.mark.parametrize("theirs", KEYS)


def row(kind: str, theirs: KeyKind, we_dial: bool) -> str:
    return f"node    {kind:4} {theirs:9} {'dialled' if we_dial else 'dials':7}"


@their_key
@dialled_by
async def test_ping_identify_and_echo(kind: str, theirs: KeyKind, we_dial: bool, cell: Cell) -> None:
    for column in ("ping", "identify", "16 MiB echo"):
        cell(row(kind, theirs, we_dial), column)
    async with our_node() as near, running(kind, theirs) as far:
        name = await near.meet(far, we_dial=we_dial)
        open_stream = near.overlay.open_stream

        await ping(await open_stream(name, PING))
        assert await far.do("ping", peer=near.peer_id) is not None

        said = await identify(await open_stream(name, IDENTIFY))
        assert decode_key(said["key"][-1]).peer_id == far.peer_id
        assert ECHO.encode() in said["protocols"]
        heard = await far.do("identify", peer=near.peer_id)
        assert {ECHO, PING, near.kademlia.protocol} <= set(heard["protocols"])

        await call_echo(await open_stream(name, ECHO), ECHO_BYTES)
        assert await far.do("echo", peer=near.peer_id, bytes=ECHO_BYTES) == pattern_hash(ECHO_BYTES)


@their_key
@dialled_by
async def test_gossip(kind: str, theirs: KeyKind, we_dial: bool, cell: Cell) -> None:
    cell(row(kind, theirs, we_dial), "gossip")
    async with our_node() as near, running(kind, theirs) as far:
        await far.do("join", topic=WIRE_NAME)
        name = await near.meet(far, we_dial=we_dial)
        await eventually(lambda: list(near.gossip.mesh(NAME)) == [name], PATIENCE)
        await repeated(lambda: far.do("mesh", topic=WIRE_NAME), lambda mesh: near.peer_id in mesh)

        await near.gossip.publish(NAME, record("ours"))
        heard = await far.do("heard", topic=WIRE_NAME)
        assert (b64decode(heard["data"]), heard["from"]) == (record("ours"), near.peer_id)

        await far.do("publish", topic=WIRE_NAME, data=b64encode(record("theirs")).decode())
        await eventually(lambda: near.topic.held() == {"theirs": 1}, PATIENCE)
        assert near.topic.sources == [name]
        assert near.gossip.points(NodeId(name)) == 0.0


@their_key
@dialled_by
async def test_kademlia(kind: str, theirs: KeyKind, we_dial: bool, cell: Cell) -> None:
    cell(row(kind, theirs, we_dial), "DHT")
    async with our_node() as near, running(kind, theirs) as far:
        await near.meet(far, we_dial=we_dial)
        mine, other = (PrivateKey.generate(SystemEntropy()) for _ in range(2))

        # They store a record with us, and find one that only we have, and us.
        key, value = near.record_of(mine, "/ip4/192.0.2.7/tcp/4001")
        await repeated(lambda: put(far, key, value), lambda _: near.kademlia.store.get(key, now()) == value)
        key, value = near.record_of(other, "/ip4/192.0.2.8/tcp/4001")
        near.kademlia.store.put(key, value, now())
        got = await far.do("get", key=b64encode(key).decode())
        assert got is not None
        assert b64decode(got) == value
        assert near.address.rpartition("/p2p/")[0] in str(await far.do("findPeer", peer=near.peer_id))

        if we_dial:  # we store one with them, and find one that only they have, and them
            assert len(near.kademlia.table) == 1
            third = PrivateKey.generate(SystemEntropy())
            key, value = near.record_of(third, "/ip4/192.0.2.9/tcp/4001")
            assert (await near.kademlia.put(key, value))[0] == 1
            async with our_node() as newcomer:
                await newcomer.meet(far, we_dial=True)
                await newcomer.kademlia.wait_for_contacts()
                found, _ = await newcomer.kademlia.find(key)
                assert found is not None
                assert (found.node_id, found.value) == (third.node_id, value)
                contact = await newcomer.kademlia.find_peer(base58.decode(near.peer_id))
                assert contact is not None
                assert any(
                    near.address.startswith(address.split("/p2p/")[0]) for address in contact.addresses
                )


@dialled_by
async def test_bus_calls_of_a_js_node(we_dial: bool, cell: Cell) -> None:
    skip_without_js()
    cell(row("js", "secp256k1", we_dial), "bus call")
    async with our_node() as near, running("js", "secp256k1", node=True) as far:
        name = await near.meet(far, we_dial=we_dial, node=True)
        for body in (
            b"hello",
            bytes(range(256)) * 1000,
        ):  # on the stream of many calls, and on one of its own
            assert (
                await near.bus.call(net_address(name, "interop/x"), body, timeout=PATIENCE)
                == b"js says " + body
            )
            answer = await far.do(
                "call", peer=near.peer_id, address="/public/interop/x", body=b64encode(body).decode()
            )
            assert answer["t"] == "reply", answer
            assert b64decode(answer["body"]) == b"we say " + body
        assert near.service.callers == [name, name]
        refused = await far.do("call", peer=near.peer_id, address="/public/nobody", body="")
        assert (refused["t"], refused["error"]) == ("error", "noEndpoint")


@dialled_by
async def test_a_guest_has_no_bus(we_dial: bool, cell: Cell) -> None:
    skip_without_js()
    cell(row("js", "ed25519", we_dial), "bus call", "no node")
    async with our_node() as near, running("js", "ed25519") as far:
        name = await near.meet(far, we_dial=we_dial)
        with pytest.raises(ForeignFailed):
            await far.do("call", peer=near.peer_id, address="/public/interop/x", body="")
        assert near.service.callers == []
        with pytest.raises(ProtocolRefused):
            await near.overlay.open_stream(name, protocol_id(NETWORK, "bus", 1))


async def put(far: Any, key: bytes, value: bytes) -> Any:
    try:
        return await far.do("put", key=b64encode(key).decode(), value=b64encode(value).decode())
    except ForeignFailed:  # it knows nobody yet to put it to
        return None


def now() -> int:
    return SystemClock().utc_ns()


def skip_without_js() -> None:
    reason = missing("js")
    if reason is not None:
        pytest.skip(reason)


async def repeated(ask: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> None:
    """Ask again until the answer is good: the other program does things at its own times."""
    with trio.fail_after(PATIENCE):
        while not good(await ask()):
            await trio.lowlevel.checkpoint()
