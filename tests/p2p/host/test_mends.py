"""What brings py-libp2p 0.8.1's host down, or makes it slow or unsafe, and that it does neither to a node of ours.

Each test runs the same attack on a host as it comes and on ours. The run on stock asserts the fault, so that a
release that mends it is noticed and a test that cannot see it is none.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio
from libp2p import new_host
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr
from trio.testing import memory_stream_pair

from p2p.broadcast import wire
from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.sign import StrictSign
from p2p.clock import SystemClock
from p2p.entropy import SystemEntropy
from p2p.identity import PrivateKey
from p2p.overlay import OverlayError, PeerUnreachable, StreamBroken
from p2p.protobuf import FrameReader
from p2p.session.frames import ACK, DATA, FIN, WINDOW_UPDATE, frame
from tests.p2p.broadcast.world import WIRE_NAME, Store, record
from tests.p2p.host.attacks import (
    Attacker,
    Line,
    OurVictim,
    StockVictim,
    Valve,
    Victim,
    attacking,
    serves_others,
    until,
)
from tests.p2p.host.nodes import make, pair, relayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

BOTH = pytest.mark.parametrize("victim_of", [OurVictim, StockVictim], ids=["ours", "stock"])
ATTACK = "/golem-p2p/devnet/attack/1"


class OurGossiper(OurVictim):
    def __init__(self) -> None:
        super().__init__()
        self.store = Store(WIRE_NAME.removeprefix("/golem-p2p/devnet/"))

    async def live(self) -> None:
        log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[lambda *_: ""])
        key = PrivateKey(SystemEntropy().token_bytes(32))
        broadcast = GossipBroadcast(self.overlay, key, SystemClock(), SystemEntropy(), log)
        async with broadcast.running():
            await broadcast.join(self.store)
            await trio.sleep_forever()

    def got(self) -> int:
        return len(self.store.kept)


class StockGossiper(StockVictim):
    messages = 0

    async def live(self) -> None:
        router = GossipSub(protocols=["/meshsub/1.1.0"], degree=6, degree_low=4, degree_high=12)
        pubsub = Pubsub(self.stock, router, strict_signing=True)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            subscription = await pubsub.subscribe(WIRE_NAME)
            while True:
                await subscription.get()
                self.messages += 1

    def got(self) -> int:
        return self.messages


GOSSIPERS = pytest.mark.parametrize("victim_of", [OurGossiper, StockGossiper], ids=["ours", "stock"])


# Row 1.


@GOSSIPERS
async def test_a_gossip_frame_that_does_not_decode(victim_of: Callable[[], Any]) -> None:
    with victim_of() as victim:
        async with attacking(victim) as attacker:
            try:
                stream = await attacker.session.open_stream(wire.PROTOCOL_11)
                for _ in range(20):
                    await stream.send_all(b"\x32" + b"\xff" * 50)
            except StreamBroken:
                pass
            fell = await until(lambda: victim.is_down, timeout=5 if victim.name == "stock" else 0.5)
        assert fell is (victim.name == "stock")
        assert await serves_others(victim) is (victim.name == "ours")


# Row 2.


@BOTH
async def test_a_handler_that_raises(victim_of: type[Victim]) -> None:
    async def fail(line: Line) -> None:
        await line.receive()
        raise ValueError("as a handler may")

    with victim_of({ATTACK: fail}) as victim:
        async with attacking(victim) as attacker:
            stream = await attacker.session.open_stream(ATTACK)
            await stream.send_all(b"!")
            fell = await until(lambda: victim.is_down, timeout=5 if victim.name == "stock" else 0.5)
            if victim.name == "ours":
                assert await attacker.echo()
        assert fell is (victim.name == "stock")
        assert await serves_others(victim) is (victim.name == "ours")


# Row 3.


async def test_slots_of_connections_that_are_gone() -> None:
    """Stock has 250; with ten it takes less time to see that none comes back."""
    few = ConnectionConfig(max_connections=20, min_connections=10, low_watermark=10, high_watermark=20)
    ours, stock = OurVictim(), StockVictim(config=few)
    for victim in (ours, stock):
        with victim:
            served = 0
            for _ in range(15):
                if await serves_others(victim):
                    served += 1
                else:
                    break
            assert (served == 15) is (victim.name == "ours")
            assert served >= 10


# Rows 4 and 19.


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0"])
async def test_what_proves_nothing_or_does_not_work_is_not_offered(protocol: str) -> None:
    offered: dict[str, bool] = {}
    for victim in (OurVictim(), StockVictim(as_it_comes=True)):
        with victim:
            async with await trio.open_tcp_stream(victim.host, victim.port) as stream:
                line = protocol.encode() + b"\n"
                await stream.send_all(b"\x13/multistream/1.0.0\n" + bytes((len(line),)) + line)
                answer = b""
                with trio.fail_after(10):
                    while not (b"\x03na\n" in answer or line in answer):
                        answer += await stream.receive_some()
                offered[victim.name] = line in answer
    assert not offered["ours"]
    assert offered["stock"] or protocol != "/plaintext/2.0.0"


# Row 5.


@BOTH
async def test_a_sender_that_ignores_its_window(victim_of: type[Victim]) -> None:
    async def never_read(line: Line) -> None:
        await line.send(b"!")
        await trio.sleep_forever()

    with victim_of({ATTACK: never_read}) as victim:
        async with attacking(victim) as attacker:
            stream = await attacker.session.open_stream(ATTACK)
            await stream.receive_some(1)
            stream.core.send_window = 2**31
            pushed = 0
            try:
                for _ in range(32):
                    await stream.send_all(bytes(2**20))
                    pushed += 2**20
                whole = await attacker.echo()
            except StreamBroken:
                whole = False
        assert whole is (victim.name == "stock"), f"{pushed} bytes went into a window of 256 KiB"
        if victim.name == "ours":
            assert await serves_others(victim)


# Row 6.


@pytest.mark.slow
@BOTH
async def test_a_reader_that_pauses_for_seven_seconds(victim_of: type[Victim]) -> None:
    total = 4 * 2**20

    async def source(line: Line) -> None:
        await line.receive()
        for _ in range(total // 65536):
            await line.send(bytes(65536))

    with victim_of({ATTACK: source}) as victim:
        async with attacking(victim) as attacker:
            stream = await attacker.session.open_stream(ATTACK)
            await stream.send_all(b"!")
            await trio.sleep(7)
            got = 0
            try:
                with trio.move_on_after(10):
                    while got < total and (data := await stream.receive_some()):
                        got += len(data)
            except StreamBroken:
                pass
        assert (got == total) is (victim.name == "ours")


# Row 7.


@BOTH
async def test_writes_that_are_cancelled(victim_of: type[Victim]) -> None:
    done = {"writes": False}

    async def write_and_give_up(line: Line) -> None:
        await line.receive()
        for _ in range(10):
            with trio.move_on_after(0.1):
                await line.send(bytes(2**20))
        done["writes"] = True
        await trio.sleep_forever()

    valves: list[Valve] = []

    def wrap(stream: trio.SocketStream) -> Valve:
        valves.append(Valve(stream))
        return valves[0]

    with victim_of({ATTACK: write_and_give_up}) as victim:
        async with attacking(victim, wrap) as attacker:
            stream = await attacker.session.open_stream(ATTACK)
            attacker.inject(frame(WINDOW_UPDATE, 0, stream.core.id, 2**27))
            stream.core.receive_window = stream.core.window = 2**28
            await attacker.echo()
            valves[0].shut()  # the socket fills, so that a write stops within a frame
            await stream.send_all(b"!")
            await until(lambda: done["writes"] or victim.is_down, timeout=10)
            valves[0].open()
            whole = await attacker.echo()
        assert whole is (victim.name == "ours")
        assert victim.name == "stock" or await serves_others(victim)


# Row 8.


@BOTH
async def test_an_end_that_comes_with_the_first_acknowledgement(victim_of: type[Victim]) -> None:
    """What rust-libp2p sends when it closes a stream that was opened to it before it has said anything."""
    outcome: list[str] = []

    async def call_back(line: Line) -> None:
        with trio.move_on_after(3) as scope:
            try:
                back = await line.open_back()
                outcome.append("end" if not await back.receive() else "data")
            except Exception:
                outcome.append("error")
        if scope.cancelled_caught:
            outcome.append("hangs")
        await trio.sleep_forever()

    with victim_of({ATTACK: call_back}) as victim:
        async with attacking(victim) as attacker:
            await attacker.session.open_stream(ATTACK)
            with trio.fail_after(10):
                opened = await attacker.accepted.receive()
            attacker.inject(frame(DATA, ACK | FIN, opened.core.id, 0))
            assert await until(lambda: bool(outcome))
        assert (outcome == ["hangs"]) is (victim.name == "stock")


# Row 9.


@BOTH
async def test_a_flood_of_streams(victim_of: type[Victim]) -> None:
    async def hold(line: Line) -> None:
        await trio.sleep_forever()

    with victim_of({ATTACK: hold}) as victim:
        async with attacking(victim) as attacker:
            streams = []
            for _ in range(600):
                stream = attacker.session._open()
                stream.propose(ATTACK)
                streams.append(stream)
            await until(lambda: sum(s.core.failure is not None for s in streams) >= 300, timeout=3)
            kept = sum(stream.core.failure is None for stream in streams)
        assert (kept <= 256) is (victim.name == "ours"), kept
        if victim.name == "ours":
            assert await serves_others(victim)


# Row 10.


async def test_connecting_waits_for_no_timer(mock_clock: MockClock) -> None:
    """Time stands still here, so that what sleeps does not get on; stock needs a quarter of a second of it."""
    with OurVictim() as victim:
        assert isinstance(victim, OurVictim)
        async with make().running() as node:
            await node.connect(victim.overlay.listen_addresses()[0])
            mock_clock.rate = 1.0  # for closing
    mock_clock.rate = 0.0
    with StockVictim() as victim:
        assert isinstance(victim, StockVictim)
        address = info_from_p2p_addr(
            Multiaddr(f"/ip4/127.0.0.1/tcp/{victim.port}/p2p/{victim.stock.get_id()}")
        )
        host = new_host()
        connected = trio.Event()

        async def connect() -> None:
            await host.connect(address)
            connected.set()

        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]), trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(connect)
            while not connected.is_set():
                mock_clock.jump(0.01)
                await trio.to_thread.run_sync(time.sleep, 0.001)
            took = trio.current_time() - began
            mock_clock.rate = 1.0
            await host.close()
    assert took >= 0.25


# Row 13.


@GOSSIPERS
async def test_more_than_ten_messages_a_second(victim_of: Callable[[], Any]) -> None:
    """Stock passes no more than ten a second of one peer on, and says nothing."""
    secret = SystemEntropy().token_bytes(32)
    seal = StrictSign(PrivateKey(secret))
    heard: set[bytes] = set()
    with victim_of() as victim:
        async with (
            attacking(victim, secret=secret) as author,
            attacking(victim) as reader,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(_listen, author, set())
            nursery.start_soon(_listen, reader, heard)
            hello = wire.Rpc(subscriptions=(wire.Subscription(WIRE_NAME, True),), graft=(WIRE_NAME,))
            streams = [await a.session.open_stream(wire.PROTOCOL_11) for a in (author, reader)]
            for stream in streams:
                await stream.send_all(wire.encode_frame(hello))
            await trio.sleep(1)
            for number in range(1, 31):
                bare = wire.Message(seal.author, record(f"key{number}"), number.to_bytes(8, "big"), WIRE_NAME)
                await streams[0].send_all(wire.encode_frame(wire.Rpc(publish=(seal.sign(bare),))))
            assert await until(lambda: victim.got() >= 30)
            came = await until(lambda: len(heard) >= 30, timeout=10 if victim.name == "ours" else 3)
            nursery.cancel_scope.cancel()
        assert came is (victim.name == "ours"), len(heard)
        assert heard


async def _listen(attacker: Attacker, heard: set[bytes]) -> None:
    """Take the stream on which a gossip peer talks, and note the messages."""
    async with trio.open_nursery() as nursery:
        async for stream in attacker.accepted:
            nursery.start_soon(_read, stream, heard)


async def _read(stream: Any, heard: set[bytes]) -> None:
    reader = FrameReader(wire.MAX_FRAME_BYTES)
    try:
        await stream.respond({wire.PROTOCOL_11})
        while data := await stream.receive_some():
            for data_ in reader.feed(data):
                heard.update(message.data for message in wire.decode_rpc(data_).publish)
    except OverlayError:
        stream.reset()


# Row 15.


async def test_relay_addresses_are_dialled() -> None:
    async with pair() as (a, b), make().running() as relay:
        circuit = f"{relay.listen_addresses()[0]}/p2p-circuit/p2p/{b._peer_id}"

        async def through_relay(address: str) -> trio.abc.HalfCloseableStream:
            ours, theirs = memory_stream_pair()
            nursery.start_soon(partial(relayed, b, theirs, a._peer_id, initiator=False))
            return ours

        async with trio.open_nursery() as nursery:
            a.dial_relayed = through_relay
            assert await a.connect(circuit) == b.node_id

        host = new_host()
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            with pytest.raises(SwarmException, match="relay"):
                await host.connect(info_from_p2p_addr(Multiaddr(circuit)))
            await host.close()
        with pytest.raises(PeerUnreachable, match="no way through relays"):
            await b.connect(circuit.replace(b._peer_id, make()._peer_id))
