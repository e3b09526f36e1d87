"""All of reach together, with real sessions in memory on virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from p2p.reach.service import ReachService, ReachSettings
from p2p.reach.verdict import UNKNOWN, PortMapping, Verdict
from tests.p2p.reach.world import MemoryHost, World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Net:
    """Five public nodes in networks of their own, and one that is looked at."""

    def __init__(self, w: World) -> None:
        self.world = w
        self.public = [w.host(f"/ip4/198.51.{number}.1/tcp/4001") for number in range(5)]
        self.services = {host: self.serve(host) for host in self.public}

    def serve(self, host: MemoryHost, settings: ReachSettings | None = None) -> ReachService:
        settings = settings or ReachSettings()
        service = ReachService(host, clock=self.world.clock, entropy=host.entropy, settings=settings)
        self.world.nursery.start_soon(service.run)
        return service

    async def join(self, host: MemoryHost, *, outer: list[str] | None = None) -> None:
        for index, peer in enumerate(self.public):
            await self.world.connect(host, peer, seen=outer[index] if outer else "")


@asynccontextmanager
async def net() -> AsyncIterator[Net]:
    async with world() as w:
        made = Net(w)
        for index, host in enumerate(made.public):
            for other in made.public[:index]:
                await w.connect(host, other)
        yield made


async def settle(service: ReachService, state: str) -> Verdict:
    with trio.fail_after(1200):
        while service.verdict.state != state:  # noqa: ASYNC110 - virtual time: it costs nothing
            await trio.sleep(0.5)
    return service.verdict


async def test_public_nodes_find_out_that_they_are_and_relay_for_others(autojump_clock: Any) -> None:
    async with net() as n:
        for host, service in n.services.items():
            verdict = await settle(service, "public")
            assert verdict.family("ip4").external == (host.address,)
            assert verdict.family("ip4").mapping == "none"
            assert verdict.family("ip6").state == "absent"
            assert service.relays.relays == ()
        await n.world.until(lambda: all(s.verdict.serves_as_relay for s in n.services.values()))
        assert n.public[0].full_address in n.public[0].announced


async def test_behind_a_nat_three_relays_are_kept_and_announced(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host)
        told: list[Verdict] = []
        service.subscribe(told.append)
        await n.join(host)
        verdict = await settle(service, "punchable")
        assert verdict.family("ip4").mapping == "endpoint-independent"
        await n.world.until(lambda: len(service.verdict.relays) == 3, 1200)
        networks = {relay.addresses[0].split("/")[2] for relay in service.verdict.relays}
        assert len(networks) == 3
        assert len(host.announced) == 3
        assert all(address.endswith(f"/p2p-circuit/p2p/{host.peer_id}") for address in host.announced)
        assert told[-1] == service.verdict
        await n.world.until(lambda: host.kept == {relay.peer for relay in service.verdict.relays}, 10)
        relaying = next(one for one in n.public if one.node_id in host.kept)
        await n.world.until(lambda: host.node_id in relaying.kept, 60)
        assert not service.verdict.serves_as_relay


async def test_a_relay_that_goes_is_replaced(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host)
        await n.join(host)
        await n.world.until(lambda: len(service.verdict.relays) == 3, 1200)
        gone = service.verdict.relays[0].peer
        link = next(link for link in host.links() if link.peer == gone)
        await link.retire()
        await n.world.until(lambda: gone not in {r.peer for r in service.verdict.relays}, 10)
        await n.world.until(lambda: len(service.verdict.relays) == 3, 1200)


async def test_a_nat_that_maps_each_connection_elsewhere_is_recognized(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host)
        await n.join(host, outer=[f"/ip4/203.0.113.5/tcp/{port}" for port in range(1000, 1005)])
        verdict = await settle(service, "relayed")
        assert verdict.family("ip4").mapping == "endpoint-dependent"


async def test_without_relays_wanted_none_are_kept(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host, ReachSettings(relay_client=False, relay_server="on"))
        await n.join(host)
        await settle(service, "unreachable")
        await trio.sleep(600)
        assert service.verdict.relays == ()
        assert service.verdict.serves_as_relay, "it was told to"


async def test_a_forwarded_port_makes_public_and_is_announced(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host)
        await n.join(host)
        await settle(service, "punchable")
        await n.world.until(lambda: len(service.verdict.relays) == 3, 1200)
        host.open = True
        service.mapped([PortMapping("pcp", host.address, host.outer, 0)])
        await trio.sleep(1)
        assert host.full_address in host.announced
        assert (await service.check()).state == "public"
        await n.world.until(lambda: not service.verdict.relays, 10)
        assert host.announced == [host.full_address]


async def test_who_is_no_longer_reached_notices(autojump_clock: Any) -> None:
    async with net() as n:
        host, service = n.public[0], n.services[n.public[0]]
        await settle(service, "public")
        host.open = False
        await n.world.until(lambda: service.verdict.state != "public", 4000)
        await n.world.until(lambda: not service.verdict.serves_as_relay, 10)


async def test_nothing_is_known_alone(autojump_clock: Any) -> None:
    async with world() as w:
        host = w.host("/ip4/192.168.1.5/tcp/4001")
        service = ReachService(host, clock=w.clock, entropy=host.entropy)
        w.nursery.start_soon(service.run)
        verdict = await service.check()
        assert verdict.state == UNKNOWN.state
        stop = service.subscribe(lambda _: None)
        stop()
        stop()


async def test_what_peers_said_is_forgotten_when_they_no_longer_say_it(autojump_clock: Any) -> None:
    async with net() as n:
        host = n.world.host("/ip4/192.168.1.5/tcp/4001", "/ip4/203.0.113.5/tcp/4001", open_=False)
        service = n.serve(host)
        await n.join(host)
        await settle(service, "punchable")
        for link in host.links():
            await link.retire()
        await settle(service, "unreachable")
        with trio.fail_after(4000):
            while service.verdict.state != "unknown":  # noqa: ASYNC110 - virtual time: it costs nothing
                await trio.sleep(10)
