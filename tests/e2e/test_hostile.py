"""One live node among hostile programs and peers: each gets a clear error or is dropped, and the node goes on.

The peers are nodes of our own on real sockets, in this process, that say what no node would. After each attack
the node answers its owner, an honest peer's offer reaches it, and its demand reaches a proposal.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import random
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
import trio

from node.cli.common import NodeClient
from node.config import load
from node.devnet.local import LocalNetwork
from p2p import codec
from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.params import GossipParams
from p2p.broadcast.wire import PROTOCOL_12, Message, Rpc, Subscription, encode_frame
from p2p.bus import RemoteError, ask, frames, net_address
from p2p.bus.frames import Failure, FrameReader, Hello, Request, Welcome
from p2p.bus.peer import LONE_PROTOCOL, PROTOCOL, PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.entropy import SystemEntropy
from p2p.host.overlay import LibP2POverlay
from p2p.identity import PrivateKey, record_digest, recover
from p2p.overlay import OverlayError, Stream, protocol_id
from p2p.protobuf import encode_varint
from p2p.protocol import NodeContext
from p2p.storage import InlineDatabase
from protocols.market.handler import MarketProtocol
from protocols.market.messages import OFFER_TOPIC, GetOffers, OfferLease, Offers, SignedLease

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from p2p.identity import NodeId

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MARKET, ACTIVITY, PAYMENT, OWN = "/market-api/v1", "/activity-api/v1", "/payment-api/v1", "/golem-p2p/v1"
CHANCE = random.Random(11)
WIRE_TOPIC = f"/golem-p2p/devnet/{OFFER_TOPIC}"
PATIENCE = 20.0


class Victim:
    """The node under attack."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.client = NodeClient(load(folder, environ={}))
        self.address = address
        key = self.client.post(f"{OWN}/app-keys", {"name": "test", "origins": []})["key"]
        self.headers = {"Authorization": f"Bearer {key}"}
        self.id: NodeId = self.client.get(f"{OWN}/id")["nodeId"]

    @property
    def p2p_place(self) -> tuple[str, int]:
        parts = self.address.split("/")
        return parts[2], int(parts[4])

    @property
    def rest_place(self) -> tuple[str, int]:
        url = httpx.URL(self.client.url)
        assert url.port is not None
        return url.host, url.port

    def rest(self) -> httpx.Client:
        return httpx.Client(base_url=self.client.url, headers=self.headers, timeout=20, trust_env=False)

    def status(self) -> Any:
        document = self.client.get(f"{OWN}/status")
        assert document["overlay"]["joined"]
        return document

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.client.pid}/fd"))

    def log(self) -> str:
        return (self.folder / "node.log").read_text(errors="replace")


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    network = LocalNetwork(tmp_path_factory.mktemp("net"))
    try:
        network.up(0, lambda line: None)
        started = network.start_requestor(lambda line: None)
        yield Victim(Path(started.data_dir), started.address)
    finally:
        network.down()


@pytest.fixture(autouse=True)
def goes_on(victim: Victim) -> Iterator[None]:
    """After each test, the node does what it is there for."""
    yield
    assert victim.status()["pid"] == victim.client.pid
    trio.run(a_market_with, victim)


async def a_market_with(victim: Victim) -> None:
    """An honest peer offers, the node demands, and the two meet; the node offers, and the peer sees it."""
    name = f"machine-{CHANCE.randrange(10**9)}"
    async with (
        peer(victim) as honest,
        httpx.AsyncClient(
            base_url=victim.client.url, headers=victim.headers, timeout=30, trust_env=False
        ) as rest,
    ):
        market = MarketProtocol()
        async with market.running(honest):
            await market.service.subscribe_offer(honest.node_id, {"name": name}, "()")
            made = await rest.post(
                f"{MARKET}/demands", json={"properties": {"x": 1}, "constraints": f"(name={name})"}
            )
            demand = made.json()
            events = await rest.get(f"{MARKET}/demands/{demand}/events?timeout={PATIENCE}")
            (event,) = events.json()
            assert event["proposal"]["issuerId"] == honest.node_id
            assert (await rest.delete(f"{MARKET}/demands/{demand}")).status_code == 204
            offer = (
                await rest.post(f"{MARKET}/offers", json={"properties": {"n": name}, "constraints": "()"})
            ).json()
            await until(functools.partial(offers_seen, market, honest.node_id), lambda seen: offer in seen)
            assert (await rest.delete(f"{MARKET}/offers/{offer}")).status_code == 204


async def until(look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> None:
    """Look until it is good."""
    with trio.fail_after(PATIENCE):
        for _ in range(10_000):
            if good(await look()):
                return
            await trio.sleep(0.05)


async def offers_seen(market: MarketProtocol, actor: NodeId) -> set[str]:
    scan = market.service.begin_scan(actor, "offer", None)
    try:
        page = await market.service.scan(actor, scan, timeout=0.0, limit=1000)
        return {offer.id for offer in page.offers}
    finally:
        market.service.end_scan(actor, scan)


@contextlib.asynccontextmanager
async def peer(
    victim: Victim, *, gossip: bool = True, params: GossipParams | None = None
) -> AsyncIterator[NodeContext]:
    """Be a node on real sockets that has dialled the victim."""
    entropy, clock = SystemEntropy(), SystemClock()
    key = PrivateKey.generate(entropy)
    overlay = LibP2POverlay(
        key, "devnet", clock=clock, entropy=entropy, settings=DiscoverySettings(target_peers=0)
    )
    bus = LocalBus(key.node_id)
    calls = PeerBus(overlay, bus)
    log = structlog.get_logger("peer")
    broadcast = GossipBroadcast(overlay, key, clock, entropy, log, params or GossipParams())
    database = InlineDatabase()
    context = NodeContext(
        overlay=overlay, bus=bus, broadcast=broadcast, database=database, clock=clock, entropy=entropy,
        signer=key, verifier=recover, settings={}, log=log,
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(database.close)
        await stack.enter_async_context(overlay.running())
        await stack.enter_async_context(calls.running())
        if gossip:
            await stack.enter_async_context(broadcast.running())
        await overlay.connect(victim.address)
        yield context


# --- REST ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{MARKET}/demands", f"{MARKET}/offers", f"{PAYMENT}/allocations"])
def test_bodies_that_are_none(victim: Victim, path: str) -> None:
    with victim.rest() as rest:
        for body in (
            b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 200_000, b'{"properties":' * 50_000, b"[]", b"5", b"{}",
            b'{"properties":{},"constraints":5}', b'"\\ud800"', b'{"a":1e999}', b"1" * 100_000,
        ):  # fmt: skip
            answer = rest.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, (body[:40], answer.text[:200])
            assert answer.text
        answer = rest.post(path, content=b"{}", headers={"Content-Type": "text/plain"})
        assert answer.status_code == 400
        large = rest.post(path, content=b" " * 3_000_000, headers={"Content-Type": "application/json"})
        assert large.status_code == (400 if path.startswith(MARKET) else 413)


@pytest.mark.parametrize(
    "constraints",
    [
        "(foo=bar",
        "",
        "((((",
        "(&",
        "(foo=" + "x" * 60_000,
        "(" * 50_000,
        "(foo=*)" * 1000,
        "\x00",
        "(!(x=1))(",
        "é=1",
    ],
)
def test_constraints_that_are_none_subscribe_and_match_nothing(victim: Victim, constraints: str) -> None:
    with victim.rest() as rest:
        for kind in ("demands", "offers"):
            made = rest.post(f"{MARKET}/{kind}", json={"properties": {"x": 1}, "constraints": constraints})
            assert made.status_code == 201, made.text[:200]
            events = rest.get(f"{MARKET}/{kind}/{made.json()}/events?timeout=0")
            assert (events.status_code, events.json()) == (200, [])
            assert rest.delete(f"{MARKET}/{kind}/{made.json()}").status_code == 204


def test_constraints_longer_than_any_may_be(victim: Victim) -> None:
    """docs/language.md: 64 KiB; what is longer is refused, however it would parse."""
    with victim.rest() as rest:
        for constraints in ("(foo=" + "x" * 100_000 + ")", "(" * 100_000, "é" * 40_000):
            for kind in ("demands", "offers"):
                made = rest.post(f"{MARKET}/{kind}", json={"properties": {}, "constraints": constraints})
                assert made.status_code == 400
                assert "at most 65536" in made.json()["message"]


def nested(levels: int) -> Any:
    inner: Any = 1
    for _ in range(levels):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("properties", "status"),
    [
        ("x", 201),
        ([1], 201),
        (None, 201),
        (5, 201),
        (True, 201),
        ({"": 1}, 201),
        ({"\x00": [[]]}, 201),
        ({"a.b": 1, "a": {"b": 2}}, 201),
        (nested(40), 201),
        (nested(65), 400),
        ({"a" + ".a" * 65: 1}, 400),
        ({str(n): n for n in range(4097)}, 400),
        ({"x": "y" * 70_000}, 400),
    ],
)
def test_properties_of_any_kind(victim: Victim, properties: Any, status: int) -> None:
    with victim.rest() as rest:
        made = rest.post(f"{MARKET}/demands", json={"properties": properties, "constraints": "()"})
        assert made.status_code == status, made.text[:200]
        if status == 201:
            assert rest.delete(f"{MARKET}/demands/{made.json()}").status_code == 204


def test_garbage_on_the_rest_port(victim: Victim) -> None:
    before = victim.descriptors()
    for garbage in (
        b"\x00" * 1000, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"GET / HTTP/1.1\r\n",
        b"POST /me HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", CHANCE.randbytes(5000),
        b"GET /me HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ):  # fmt: skip
        with socket.create_connection(victim.rest_place, timeout=5) as hostile:
            said(hostile, garbage)
    idle = [socket.create_connection(victim.rest_place) for _ in range(100)]
    assert victim.status()
    for hostile in idle:
        hostile.close()
    soon(lambda: victim.descriptors() <= before + 3)


def said(stream: socket.socket, data: bytes) -> None:
    """Say something and hear the answer out; the other side may hang up at any moment, or say nothing."""
    with contextlib.suppress(OSError):
        stream.sendall(data)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):
            pass


def soon(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("not in time")


def test_times_and_numbers_at_the_edges(victim: Victim) -> None:
    with victim.rest() as rest:
        for path in (
            f"{MARKET}/agreementEvents?timeout=0&afterTimestamp=9999-12-31T23:59:59Z",
            f"{MARKET}/agreementEvents?timeout=0&afterTimestamp=0001-01-01T00:00:00Z",
            f"{PAYMENT}/invoiceEvents?timeout=0&afterTimestamp=9999-12-31T23:59:59Z",
            f"{PAYMENT}/debitNoteEvents?timeout=0&afterTimestamp=0001-01-01T00:00:00Z",
            f"{PAYMENT}/payments?timeout=0&afterTimestamp=9999-12-31T23:59:59.999999999Z",
            f"{PAYMENT}/invoices?afterTimestamp=9999-12-31T23:59:59Z&maxItems=4294967295",
            f"{PAYMENT}/allocations?afterTimestamp=9999-12-31T23:59:59Z",
            f"{MARKET}/agreements?beforeDate=9999-12-31T23:59:59Z&afterDate=0001-01-01T00:00:00Z",
        ):
            answer = rest.get(path)
            assert answer.status_code in (200, 404), (path, answer.text[:200])
        assert rest.get(f"{ACTIVITY}/events?timeout=0&afterTimestamp=9999-12-31T23:59:59Z").status_code == 408
        for path in (
            "/%00",
            "/%ff%fe",
            f"{MARKET}/demands/%00/events",
            f"{PAYMENT}/invoices/%2e%2e%2f",
            "/..;/me",
        ):
            assert rest.get(path).status_code in (400, 404), path


# --- the port of the overlay --------------------------------------------------------------------------------


def test_garbage_on_the_overlays_port(victim: Victim) -> None:
    before = victim.descriptors()
    multistream = b"\x13/multistream/1.0.0\n"
    for garbage in (
        b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", CHANCE.randbytes(100_000), b"\xff" * 100, multistream,
        multistream + b"\x07/noise\n" + CHANCE.randbytes(5000), multistream + b"\x07/noise\n\xff\xff" + bytes(70_000),
        multistream + b"\x0d/plaintext/2\n", multistream + b"\xff\xff\xff\xff\x7f" + bytes(1000),
        multistream * 2000, b"\x13/multistream/9.9.9\n",
    ):  # fmt: skip
        with socket.create_connection(victim.p2p_place, timeout=2) as hostile:
            said(hostile, garbage)
    silent = [socket.create_connection(victim.p2p_place) for _ in range(200)]
    soon(lambda: victim.status()["overlay"]["peers"] == 0)
    for hostile in silent:
        hostile.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        hostile.close()
    soon(lambda: victim.descriptors() <= before + 5)


# --- the bus and the bulk socket ----------------------------------------------------------------------------


def door(victim: Victim, name: str = "bus.sock") -> socket.socket:
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(10)
    stream.connect(str(victim.folder / name))
    return stream


def answer_of(stream: socket.socket, reader: FrameReader | None = None) -> Any:
    reader = reader or FrameReader()
    while (frame := reader.next_frame()) is None:
        try:
            data = stream.recv(65536)
        except ConnectionError:
            return None
        if not data:
            return None
        reader.feed(data)
    return frame


@pytest.mark.parametrize("token", ["", "wrong", "é" * 32, "\x00" * 64, "0" * 256])
def test_a_wrong_token_at_the_door(victim: Victim, token: str) -> None:
    with door(victim) as stream:
        stream.sendall(frames.encode(Hello(token)))
        refusal = answer_of(stream)
        assert isinstance(refusal, Failure)
        assert "token" in refusal.message
        assert stream.recv(1) == b""


def test_garbage_at_the_door(victim: Victim) -> None:
    token = (victim.folder / "bus.sock.token").read_text().strip()
    request = frames.encode(Request(1, "/local/x/y", b"z"))
    for garbage in (
        b"", b"\x00", bytes(2000), b"\xff" * 2000, CHANCE.randbytes(2000), struct.pack(">I", 2**31) + bytes(100),
        frames.encode(Welcome("me")), request,
    ):  # fmt: skip
        with door(victim) as stream:
            with contextlib.suppress(OSError):
                stream.sendall(garbage)
                stream.shutdown(socket.SHUT_WR)
            assert not isinstance(answer_of(stream), Welcome)
    for garbage in (
        struct.pack(">I", 2**31) + bytes(100),
        CHANCE.randbytes(5000),
        frames.encode(Hello(token)),
    ):
        with door(victim) as stream:
            stream.sendall(frames.encode(Hello(token)))
            assert isinstance(answer_of(stream), Welcome)
            said(stream, garbage)
    crowd = [door(victim) for _ in range(50)]
    with door(victim) as stream:
        stream.sendall(frames.encode(Hello(token)))
        reader = FrameReader()
        assert isinstance(answer_of(stream, reader), Welcome)
        stream.sendall(request)
        unknown = answer_of(stream, reader)
        assert isinstance(unknown, Failure)
        assert unknown.error == "noEndpoint"
    for each in crowd:
        each.close()


def test_garbage_at_the_bulk_socket(victim: Victim) -> None:
    for garbage in (b"", bytes(10), b"\xff" * 10_000, CHANCE.randbytes(10_000)):
        with door(victim, "bulk.sock") as stream:
            said(stream, garbage)


# --- peers that say what no node would ----------------------------------------------------------------------


async def drained(stream: Stream) -> None:
    """Read until the other side ends the stream, one way or another."""
    with trio.fail_after(PATIENCE), contextlib.suppress(OverlayError):
        while await stream.receive_some():
            pass


def gossip_garbage() -> Mapping[str, bytes]:
    message = Message(
        author=b"\x00" * 39, data=b"x", seqno=b"12345678", topic=WIRE_TOPIC, signature=b"s" * 64
    )
    return {
        "no protobuf": encode_varint(100) + b"\xff" * 100,
        "a length without end": b"\xff" * 20,
        "a length beyond all bounds": encode_varint(2**40) + b"x",
        "chance": CHANCE.randbytes(10_000),
        "unsigned": encode_frame(Rpc(publish=(message,))),
        "many subscriptions": encode_frame(
            Rpc(subscriptions=tuple(Subscription(f"topic-{n}", True) for n in range(8000)))
        ),
        "a topic name without end": encode_frame(Rpc(subscriptions=(Subscription("x" * 100_000, True),))),
        "half a frame": encode_frame(Rpc(publish=(message,)))[:-5],
        "many empty frames": encode_frame(Rpc()) * 50_000,
        "unasked ids": encode_frame(Rpc(iwant=tuple(CHANCE.randbytes(20) for _ in range(5000)))),
        "grafts": encode_frame(Rpc(graft=(WIRE_TOPIC, "nonsense"))) * 2000,
    }


@pytest.mark.parametrize("what", sorted(gossip_garbage()))
async def test_garbage_in_gossip(victim: Victim, what: str) -> None:
    async with peer(victim, gossip=False) as hostile:
        stream = await hostile.overlay.open_stream(victim.id, PROTOCOL_12)
        with contextlib.suppress(OverlayError), trio.move_on_after(PATIENCE):
            await stream.send_all(gossip_garbage()[what])
            await stream.send_eof()
        with trio.move_on_after(1), contextlib.suppress(OverlayError):
            await stream.receive_some()
        stream.reset()
        async with peer(victim) as other:
            assert other.overlay.peers()


def lease(ctx: NodeContext, **changes: Any) -> OfferLease:
    now = ctx.clock.utc_ns()
    given: dict[str, Any] = {
        "network": "devnet", "node": bytes.fromhex(ctx.node_id[2:]), "slot": 0, "incarnation": 1,
        "seq": now // 10**6, "body_hash": CHANCE.randbytes(32), "created_ns": now, "issued_ns": now,
        "expires_ns": now + 3600 * 10**9, "free": 1, "capacity": 1,
    }  # fmt: skip
    known = OfferLease.__struct_fields__
    return OfferLease(**{name: value for name, value in {**given, **changes}.items() if name in known})


def signed(ctx: NodeContext, body: OfferLease, *, by: PrivateKey | None = None) -> bytes:
    data = codec.encode(body)
    signer: Any = by or ctx.signer
    return codec.encode(SignedLease(data, signer.sign(record_digest("offer/1", data))))


def another() -> PrivateKey:
    return PrivateKey.generate(SystemEntropy())


def digest_signed(ctx: NodeContext, data: bytes, kind: str) -> bytes:
    return codec.encode(SignedLease(data, ctx.signer.sign(record_digest(kind, data))))


RECORDS: Mapping[str, Callable[[NodeContext, Victim], bytes]] = {
    "no record": lambda ctx, victim: b"garbage",
    "chance": lambda ctx, victim: CHANCE.randbytes(500),
    "another structure": lambda ctx, victim: codec.encode({"lease": 5}),
    "zeros for a signature": lambda ctx, victim: codec.encode(
        SignedLease(codec.encode(lease(ctx)), bytes(65))
    ),
    "chance for a signature": lambda ctx, victim: codec.encode(
        SignedLease(codec.encode(lease(ctx)), CHANCE.randbytes(65))
    ),
    "an empty lease": lambda ctx, victim: digest_signed(ctx, b"", OFFER_TOPIC),
    "signed as another kind": lambda ctx, victim: digest_signed(ctx, codec.encode(lease(ctx)), "other/1"),
    "signed by another": lambda ctx, victim: signed(ctx, lease(ctx), by=another()),
    "another's offer": lambda ctx, victim: signed(ctx, lease(ctx, node=bytes.fromhex(another().node_id[2:]))),
    "the victim's own offer": lambda ctx, victim: signed(ctx, lease(ctx, node=bytes.fromhex(victim.id[2:]))),
    "a node id too short": lambda ctx, victim: signed(ctx, lease(ctx, node=b"short")),
    "another network": lambda ctx, victim: signed(ctx, lease(ctx, network="main")),
    "expired": lambda ctx, victim: signed(ctx, lease(ctx, expires_ns=ctx.clock.utc_ns() - 1)),
    "without an end": lambda ctx, victim: signed(ctx, lease(ctx, expires_ns=2**62)),
    "at the end of the numbers": lambda ctx, victim: signed(ctx, lease(ctx, seq=2**63)),
    "a slot that no provider has": lambda ctx, victim: signed(ctx, lease(ctx, slot=10**6)),
    "without a body": lambda ctx, victim: signed(ctx, lease(ctx, body_hash=b"")),
    "a body that nobody has": lambda ctx, victim: signed(ctx, lease(ctx)),
    "larger than any": lambda ctx, victim: b"x" * 60_000,
}
CREDULOUS = GossipParams(max_record_bytes=100_000, heartbeat=0.1)
"""How a liar's router is set: with the usual bound it would not send the largest."""


async def mesh(broadcast: GossipBroadcast) -> Sequence[str]:
    await trio.lowlevel.checkpoint()
    return broadcast.mesh(OFFER_TOPIC)


@pytest.mark.parametrize("what", RECORDS)
async def test_records_that_are_none(victim: Victim, what: str) -> None:
    """A genuine offer that follows on the same stream is taken; so the record before it was read, and refused."""

    async def offers() -> set[str]:
        listed = await trio.to_thread.run_sync(victim.client.get, f"{OWN}/offers")
        return {offer["offerId"] for offer in listed}

    async with peer(victim, params=CREDULOUS) as hostile:
        broadcast, market = hostile.broadcast, MarketProtocol()
        assert isinstance(broadcast, GossipBroadcast)
        async with market.running(hostile):
            await until(functools.partial(mesh, broadcast), lambda peers: victim.id in peers)
            before = await offers()
            await broadcast.publish(OFFER_TOPIC, RECORDS[what](hostile, victim))
            genuine = await market.service.subscribe_offer(hostile.node_id, {"x": 1}, "()")
            await until(offers, lambda listed: genuine in listed)
            assert await offers() - before == {genuine}
            await market.service.unsubscribe_offer(hostile.node_id, genuine)
            await until(offers, lambda listed: genuine not in listed)
    assert "the owner of a topic failed" not in victim.log()


@pytest.mark.parametrize("name", [PROTOCOL, LONE_PROTOCOL, "files", "sync", "hello", "no-such-protocol"])
async def test_garbage_on_our_own_protocols(victim: Victim, name: str) -> None:
    async with peer(victim, gossip=False) as hostile:
        for garbage in (b"", b"\xff" * 5000, CHANCE.randbytes(20_000), struct.pack(">I", 2**31), bytes(100)):
            try:
                stream = await hostile.overlay.open_stream(victim.id, protocol_id("devnet", name, 1))
            except OverlayError:
                continue
            with contextlib.suppress(OverlayError):
                await stream.send_all(garbage)
                await stream.send_eof()
            await drained(stream)


async def test_calls_that_are_none(victim: Victim) -> None:
    async with peer(victim, gossip=False) as hostile:
        for service in ("market", "payment", "activity", "files", "exeunit/" + "0" * 32):
            for method in (
                "GetOffers",
                "GetBodies",
                "CreateActivity",
                "SendInvoice",
                "Exec",
                "../../local/x",
                "",
            ):
                for body in (
                    b"",
                    b"\xff",
                    CHANCE.randbytes(1000),
                    codec.encode({}),
                    codec.encode([1] * 1000),
                ):
                    with contextlib.suppress(Exception):
                        await hostile.bus.call(f"{net_address(victim.id, service)}/{method}", body, timeout=5)
        with pytest.raises(RemoteError):
            await hostile.bus.call(f"{net_address(victim.id, 'market')}/GetOffers", b"\xff", timeout=5)
        found = await ask(hostile.bus, net_address(victim.id, "market"), GetOffers(), Offers)
        assert found is not None
    assert "Traceback" not in victim.log().rpartition("joined the overlay")[2], "no call reached a bug"


async def test_many_peers_that_come_and_go(victim: Victim) -> None:
    before = victim.descriptors()
    for _ in range(5):
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(_visit, victim)
    await until(functools.partial(trio.to_thread.run_sync, victim.descriptors), lambda now: now <= before + 5)
    await until(
        functools.partial(trio.to_thread.run_sync, victim.status),
        lambda status: status["overlay"]["peers"] == 0,
    )


async def _visit(victim: Victim) -> None:
    async with peer(victim) as visitor:
        assert visitor.overlay.peers()


def test_it_stops_in_order(victim: Victim) -> None:
    connection = http.client.HTTPConnection(*victim.rest_place, timeout=10)
    connection.request("GET", f"{MARKET}/demands", headers=victim.headers)
    assert json.loads(connection.getresponse().read()) == []
    connection.close()
