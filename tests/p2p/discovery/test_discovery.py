"""Hello and discovery on overlays in memory: who is admitted, who is found, and what survives."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from structlog.testing import capture_logs

from p2p.codec import encode
from p2p.discovery import DiscoverySettings, FilePeerStore, MemoryPeerStore, PeerRecord
from p2p.discovery.admission import HELLO_PAUSE, HELLO_TIMEOUT, MAX_HELLOS
from p2p.discovery.exchange import greet
from p2p.discovery.messages import Hello
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId
from p2p.overlay import Overlay, OverlayError, PeerUnreachable, protocol_id
from p2p.testing.clock import VirtualClock
from p2p.testing.conformance import CHECKS, ask, echo, eventually, serve
from p2p.testing.network import Link
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from trio.testing import MockClock

HELLO = protocol_id("devnet", "hello", 1)


def node(number: int) -> NodeId:
    return NodeId(f"0x{number:040x}")


class World:
    def __init__(self, **options: Any) -> None:
        self.network = MemoryNetwork(VirtualClock(), SeededEntropy(1), directory=False, **options)

    def overlay(self, number: int, *bootstrap: int, network: str = "devnet", **options: Any) -> MemoryOverlay:
        return self.network.overlay(
            node(number),
            network,
            discovery=options.pop("settings", DiscoverySettings()),
            entropy=SeededEntropy(1, f"node/{number}"),
            bootstrap=[f"/memory/{node(n)}" for n in bootstrap],
            **options,
        )


def ids(overlay: Overlay) -> set[str]:
    return {peer.node_id for peer in overlay.peers()}


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Overlay, Overlay]]:
    world, passive = World(), DiscoverySettings(target_peers=0)
    a, b = world.overlay(1, settings=passive), world.overlay(2, settings=passive)
    async with a.running(), b.running():
        yield a, b


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_conformance_with_hello(
    check: Callable[[Overlay, Overlay], Awaitable[None]], autojump_clock: MockClock
) -> None:
    async with pair() as (a, b):
        await check(a, b)


async def test_peers_tell_of_peers(autojump_clock: MockClock) -> None:
    world = World()
    a, b, c = world.overlay(1, 2, agent="alice/1"), world.overlay(2), world.overlay(3, 2)
    async with b.running(), a.running():
        await eventually(lambda: ids(b) == {node(1)})
        assert [peer.agent for peer in b.peers()] == ["alice/1"]
        async with c.running():
            await eventually(lambda: ids(c) == {node(1), node(2)})
            assert ids(a) == {node(2), node(3)}


async def test_a_net_of_thirty_grows_from_one_bootstrap_peer(autojump_clock: MockClock) -> None:
    world = World()
    settings = DiscoverySettings(target_peers=6)
    nodes = [world.overlay(n, *([1] if n > 1 else []), settings=settings) for n in range(1, 31)]
    async with AsyncExitStack() as stack:
        for overlay in nodes:
            await stack.enter_async_context(overlay.running())
        await eventually(lambda: all(len(overlay.peers()) >= 6 for overlay in nodes), timeout=300)


async def test_another_network_is_dropped_with_a_reason_on_both_sides(autojump_clock: MockClock) -> None:
    world = World()
    a, b = world.overlay(1), world.overlay(2, network="test")
    async with a.running(), b.running():
        with (
            capture_logs() as logs,
            pytest.raises(PeerUnreachable, match="on network 'test', this node on 'devnet'"),
        ):
            await a.connect(b.listen_addresses()[0])
        assert any("'test'" in entry.get("reason", "") for entry in logs)
        assert not a.peers()
        assert not b.peers()


async def test_a_node_without_hello_is_dropped(autojump_clock: MockClock) -> None:
    world = World()
    a, b = world.overlay(1), world.network.overlay(node(2))
    async with a.running(), b.running():
        with pytest.raises(PeerUnreachable, match="no golem-p2p node"):
            await a.connect(b.listen_addresses()[0])
        await eventually(lambda: not b.peers())
        await b.connect(a.listen_addresses()[0])
        assert not a.peers()
        with capture_logs() as logs:
            await trio.sleep(HELLO_TIMEOUT + 1)
        assert any("did not say hello" in entry.get("reason", "") for entry in logs)
        assert not b.peers()


@pytest.mark.parametrize(
    ("dialler", "listener", "reason"),
    [
        ({"version": 1}, {"version": 3, "oldest": 2}, "this node needs an update"),
        ({"version": 3, "oldest": 2}, {"version": 1}, "the peer needs an update"),
    ],
)
async def test_a_version_that_does_not_fit_is_a_clear_error(
    dialler: dict[str, Any], listener: dict[str, Any], reason: str, autojump_clock: MockClock
) -> None:
    world = World()
    a, b = world.overlay(1, **dialler), world.overlay(2, **listener)
    async with a.running(), b.running():
        with capture_logs() as logs, pytest.raises(PeerUnreachable, match=reason):
            await a.connect(b.listen_addresses()[0])
        await eventually(lambda: sum("version" in entry.get("reason", "") for entry in logs) == 2)
        assert not a.peers()
        assert not b.peers()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\5ab",
        b"\0\0\0\3abc",
        b"\0\0\0\1\xa0",
        len(encode({"network": "devnet"})).to_bytes(4, "big") + encode({"network": "devnet"}),
    ],
    ids=repr,
)
async def test_a_hello_that_cannot_be_read_drops_the_session(
    garbage: bytes, autojump_clock: MockClock
) -> None:
    world = World()
    a, plain = world.overlay(1), world.network.overlay(node(2))

    async with a.running(), plain.running():
        await plain.connect(a.listen_addresses()[0])
        with capture_logs() as logs:
            stream = await plain.open_stream(node(1), HELLO)
            await stream.send_all(garbage)
            await stream.send_eof()
            await eventually(lambda: not plain.peers())
        assert any("hello" in entry.get("reason", "") for entry in logs)

        async def babble(stream: Any) -> None:
            await stream.send_all(garbage)

        plain.serve(HELLO, babble)
        with pytest.raises(PeerUnreachable, match="hello"):
            await a.connect(plain.listen_addresses()[0])
        assert not a.peers()


async def test_protocols_wait_for_admission(autojump_clock: MockClock) -> None:
    world = World()
    a, plain = world.overlay(1), world.network.overlay(node(2))
    async with a.running(), plain.running():
        protocol = serve(a, "echo", echo)
        await plain.connect(a.listen_addresses()[0])
        with pytest.raises(OverlayError):  # noqa: PT012 - wherever it breaks
            stream = await plain.open_stream(node(1), protocol)
            await stream.send_all(b"before hello")
            assert await stream.receive_some() == b""
        assert not a.peers()


async def test_a_peer_that_says_hello_without_end_waits_for_itself(autojump_clock: MockClock) -> None:
    said = Hello(network="devnet", agent="talker", version=1, oldest=1)
    answered = 0

    async def talk(a: Overlay, b: Overlay) -> None:
        nonlocal answered
        while True:
            with contextlib.suppress(OverlayError):
                stream = await a.open_stream(b.node_id, HELLO)
                await greet(stream, said)
                answered += 1
                await stream.aclose()
            await trio.sleep(0.01)

    async with pair() as (a, b):
        await a.connect(b.listen_addresses()[0])
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(talk, a, b)
            await trio.sleep(20)
            nursery.cancel_scope.cancel()
        assert 10 < answered <= 20 / HELLO_PAUSE + 1
        assert ids(b) == {node(1)}
        await trio.sleep(HELLO_PAUSE * MAX_HELLOS + 1)
        stream = await a.open_stream(b.node_id, HELLO)
        assert (await greet(stream, said)).network == "devnet"
        await stream.aclose()


async def test_a_peer_that_went_silent_is_dropped(autojump_clock: MockClock) -> None:
    world = World(detection=1e9)
    a, b = world.overlay(1, 2), world.overlay(2)
    async with a.running(), b.running():
        await eventually(lambda: bool(a.peers()))
        world.network.isolate(node(2))
        await trio.sleep(300)
        assert not a.peers()
        assert not b.peers()
        world.network.heal()
        await eventually(lambda: bool(a.peers()), timeout=120)


async def test_bootstrap_is_found_when_it_comes_up_late_and_comes_back(autojump_clock: MockClock) -> None:
    world = World()
    a = world.overlay(1, 2)
    async with a.running():
        await trio.sleep(600)
        for _ in range(2):
            async with world.overlay(2).running():
                await eventually(lambda: bool(a.peers()), timeout=100)
            await eventually(lambda: not a.peers())


async def test_the_address_book_outlives_the_bootstrap(autojump_clock: MockClock) -> None:
    world, store = World(), MemoryPeerStore()
    a = world.overlay(1, 3)
    async with a.running():
        async with world.overlay(3).running(), world.overlay(2, 3, store=store).running() as b:
            await eventually(lambda: ids(b) == {node(1), node(3)})
        async with world.overlay(2, store=store).running() as b:
            await eventually(lambda: ids(b) == {node(1)})
            protocol = serve(a, "echo", echo)
            assert await ask(await b.open_stream(node(1), protocol), b"x") == b"x"


DAY = 86_400.0


@pytest.mark.parametrize(("days", "finds"), [(7, True), (15, False)])
async def test_a_node_that_was_away_finds_the_network_from_its_own_disk(
    days: int, finds: bool, autojump_clock: MockClock
) -> None:
    """The bootstrap peer is gone for good, and of those it knew only three are where they were."""
    world, store = World(), MemoryPeerStore()
    settings = DiscoverySettings(target_peers=8)

    def make(number: int, *bootstrap: int) -> MemoryOverlay:
        return world.overlay(number, *bootstrap, settings=settings, store=store if number == 99 else None)

    async with AsyncExitStack() as stack:
        for number in range(1, 13):
            await stack.enter_async_context(make(number, *([1] if number > 1 else [])).running())
        away = await stack.enter_async_context(make(99, 1).running())
        await eventually(lambda: len(away.peers()) >= 8, timeout=600)
        met = sorted(ids(away) - {node(1)})
    assert len(await store.load()) >= 8
    await trio.sleep(days * DAY)
    async with AsyncExitStack() as stack:
        here = [int(peer, 16) for peer in met[:3]]
        for number in (*here, *range(20, 28)):
            await stack.enter_async_context(make(number, *([] if number == here[0] else [here[0]])).running())
        await trio.sleep(60)
        away = await stack.enter_async_context(make(99, 1).running())
        if finds:
            await eventually(lambda: len(away.peers()) >= 8, timeout=120)
        else:  # what is older than two weeks is not believed any more
            await trio.sleep(600)
            assert not away.peers()


async def test_streams_reach_a_peer_that_was_only_told_of(autojump_clock: MockClock) -> None:
    world = World()
    few = DiscoverySettings(target_peers=1)
    a, b, c = world.overlay(1, 2), world.overlay(2), world.overlay(3, 2, settings=few)
    async with b.running(), a.running():
        protocol = serve(a, "echo", echo)
        await eventually(lambda: ids(b) == {node(1)})
        async with c.running():
            await eventually(lambda: ids(c) == {node(2)})
            assert await ask(await c.open_stream(node(1), protocol), b"x") == b"x"


async def test_own_address_among_the_bootstrap_does_no_harm(autojump_clock: MockClock) -> None:
    world = World(link=Link(latency=0.001))
    a, b = world.overlay(1, 1, 2), world.overlay(2)
    async with a.running(), b.running():
        await eventually(lambda: ids(a) == {node(2)})
        await trio.sleep(1000)
        assert ids(a) == {node(2)}


class Disk(FilePeerStore):
    """The file, without the thread: virtual time does not wait for threads."""

    async def load(self) -> Sequence[PeerRecord]:
        return self._load()

    async def save(self, records: Sequence[PeerRecord]) -> None:
        self._save(tuple(records))


async def test_a_node_that_was_away_for_a_week_finds_the_network_from_its_own_disk(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """The bootstrap peer is gone for good, most of those it knew have gone too, and one is there again."""
    world, store = World(), Disk(tmp_path / "peers.json")
    async with AsyncExitStack() as stack:
        for overlay in (world.overlay(2), *(world.overlay(n, 2) for n in (3, 4, 5, 6))):
            await stack.enter_async_context(overlay.running())
        await trio.sleep(300)  # until they know each other, so that the newcomer hears of all and dials them
        async with world.overlay(1, 2, store=store).running() as a:
            await eventually(lambda: len(a.peers()) == 5)
    await trio.sleep(7 * 86_400)
    a = world.overlay(1, 2, store=store)
    async with world.overlay(3).running(), world.overlay(9, 3).running(), a.running():
        await eventually(lambda: ids(a) == {node(3), node(9)}, timeout=120)
    async with world.overlay(1, store=store).running() as a:  # the others' addresses are kept for another try
        await trio.sleep(1)
        assert a.discovery is not None
        assert a.discovery.policy.addresses_of(node(4)) == [f"/memory/{node(4)}"]
    await trio.sleep(8 * 86_400)
    async with world.overlay(1, store=store).running() as a:  # but not for ever
        await trio.sleep(1)
        assert a.discovery is not None
        assert a.discovery.policy.addresses_of(node(3))
        assert not a.discovery.policy.addresses_of(node(4))
