"""The owner's view of the network: peers and ping, on nodes in memory."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio

from node.api import own_net
from node.api.own import OWNER
from node.api.server import RestServer
from node.api.web import Session
from p2p import ping
from p2p.discovery import DiscoveryPolicy
from p2p.discovery.messages import KnownPeer
from p2p.events import DialFailed, EventLog, PeerDropped
from p2p.testing.clock import EPOCH_NS
from p2p.testing.nodes import memory_nodes
from tests.node.api.client import MarketClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from p2p.protocol import NodeContext

NET = "/golem-p2p/v1/net"
STRANGER = "0x" + "77" * 20


class Client(MarketClient):
    """Requests to the network part of a node's own family."""

    def __init__(self, node: Any, session: Session) -> None:
        async def session_of(key: str) -> Session | None:
            return session

        self.server = RestServer(session_of, structlog.get_logger("rest"))
        self.server.add(own_net.routes(node))


class House:
    """A node's routes, and another node that it is connected with."""

    def __init__(self, here: NodeContext, there: NodeContext) -> None:
        self.there = there
        self.owner_id = here.node_id
        self.node: Any = SimpleNamespace(
            overlay=here.overlay,
            clock=here.clock,
            entropy=here.entropy,
            events=EventLog(here.clock),
            key=here.signer,
            discovery=None,
            directory=None,
        )
        self.owner = Client(self.node, Session(here.node_id, OWNER, OWNER))
        self.script = Client(self.node, Session(here.node_id, "script"))


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with memory_nodes(2, seed=6) as (here, there):
        there.overlay.serve(ping.PROTOCOL, ping.answer)
        yield House(here, there)


async def test_an_application_key_is_not_the_owner(autojump_clock: MockClock) -> None:
    async with house() as found:
        for method, path in (
            ("GET", "/peers"),
            ("POST", "/ping"),
            ("POST", "/check"),
            ("POST", "/find"),
            ("GET", "/events"),
            ("GET", "/events/stream"),
        ):
            answer = await found.script(method, NET + path, {"peer": found.there.node_id})
            assert answer.status == 403, path
            assert "owner" in answer.message


async def test_peers(autojump_clock: MockClock) -> None:
    async with house() as found:
        document = (await found.owner.get(f"{NET}/peers")).json()
        assert document["schema"] == "golem-p2p/peers/1"
        (peer,) = document["peers"]
        assert document["guests"] == []
        assert (peer["nodeId"], peer["direction"], peer["path"]) == (found.there.node_id, "out", "direct")
        assert peer["address"] == found.there.overlay.listen_addresses()[0]
        assert peer["since"].startswith("2026-01-01T00:00:00")


async def test_ping_by_id_and_by_address(autojump_clock: MockClock) -> None:
    async with house() as found:
        for name in (
            found.there.node_id,
            found.there.node_id.upper().replace("X", "x"),
            found.there.overlay.listen_addresses()[0],
        ):
            answer = await found.owner.post(f"{NET}/ping", {"peer": name, "count": 3})
            assert answer.status == 200, answer.body
            document = answer.json()
            assert (document["peer"], document["path"]) == (found.there.node_id, "direct")
            assert document["address"] == found.there.overlay.listen_addresses()[0]
            assert (document["sent"], document["answered"], document["lossPercent"]) == (3, 3, 0)
            assert document["minMs"] == document["avgMs"] == pytest.approx(40, abs=2)
            assert document["problem"] == ""


async def test_ping_of_who_is_not_there_says_why(autojump_clock: MockClock) -> None:
    async with house() as found:
        for peer, status, words in (
            (STRANGER, 504, "not accept"),
            (found.owner_id, 504, "this node itself"),
            ("0x77", 400, "40 hexadecimal digits"),
            ("/ip4/nonsense", 504, "/ip4/nonsense"),
        ):
            answer = await found.owner.post(f"{NET}/ping", {"peer": peer})
            assert answer.status == status, (peer, answer.body)
            assert words in answer.message
        bodies: tuple[Any, ...] = (
            {},
            {"peer": ""},
            {"peer": STRANGER, "count": 0},
            {"peer": STRANGER, "count": 101},
            {"peer": STRANGER, "interval": -1},
            {"peer": 5},
            {"peer": "x" * 257},
        )
        for body in bodies:
            assert (await found.owner.post(f"{NET}/ping", body)).status == 400, body


class Directory:
    """Says that a stranger is at an address."""

    nodes = 3
    published = True

    async def look_up(self, node: str) -> list[str]:
        await trio.sleep(1)
        return ["/ip4/192.0.2.9/tcp/9"] if node == STRANGER else []


async def test_find(autojump_clock: MockClock) -> None:
    async with house() as found:
        address = found.there.overlay.listen_addresses()[0]
        policy = DiscoveryPolicy(found.owner_id)
        policy.dialled(EPOCH_NS, address, found.there.node_id)
        policy.told(0, found.there.node_id, [], [KnownPeer(STRANGER, ("/ip4/192.0.2.1/tcp/1",))])
        found.node.discovery = SimpleNamespace(policy=policy)
        document = (await found.owner.post(f"{NET}/find", {"peer": found.there.node_id})).json()
        assert document == {
            "schema": "golem-p2p/find/1",
            "nodeId": found.there.node_id,
            "connected": True,
            "addresses": [
                {"source": "session", "address": address, "direction": "out", "path": "direct"},
                {
                    "source": "book",
                    "address": address,
                    "provenAt": "2026-01-01T00:00:00Z",
                    "failures": 0,
                    "toldBy": None,
                },
            ],
            "directory": False,
            "attempt": None,
        }
        found.node.directory = Directory()
        document = (await found.owner.post(f"{NET}/find", {"peer": STRANGER})).json()
        assert (document["connected"], document["directory"]) == (False, True)
        assert [(a["source"], a["address"]) for a in document["addresses"]] == [
            ("book", "/ip4/192.0.2.1/tcp/1"),
            ("directory", "/ip4/192.0.2.9/tcp/9"),
        ]
        assert document["addresses"][0]["toldBy"] == found.there.node_id
        assert document["addresses"][0]["provenAt"] is None


async def test_find_and_connect(autojump_clock: MockClock) -> None:
    async with house() as found:
        await found.node.overlay.disconnect(found.there.node_id)
        await trio.sleep(1)
        document = (
            await found.owner.post(f"{NET}/find", {"peer": found.there.node_id, "connect": True})
        ).json()
        assert document["addresses"] == []
        assert document["connected"] is True
        attempt = document["attempt"]
        assert attempt["address"] == found.there.overlay.listen_addresses()[0]
        assert (attempt["path"], attempt["problem"]) == ("direct", "")
        assert attempt["seconds"] > 0.1, "a session takes round trips"
        document = (await found.owner.post(f"{NET}/find", {"peer": STRANGER, "connect": True})).json()
        assert document["connected"] is False
        assert "does not accept connections" in document["attempt"]["problem"]


async def test_find_of_who_is_nobody(autojump_clock: MockClock) -> None:
    async with house() as found:
        for peer, words in (("attic", "40 hexadecimal digits"), (found.owner_id, "this node itself")):
            answer = await found.owner.post(f"{NET}/find", {"peer": peer})
            assert answer.status == 400
            assert words in answer.message


async def test_a_peer_that_is_reached_but_answers_no_pings(autojump_clock: MockClock) -> None:
    async with memory_nodes(2, seed=6) as (here, there):
        found = House(here, there)
        answer = await found.owner.post(f"{NET}/ping", {"peer": there.node_id})
        assert answer.status == 502
        assert "cannot be pinged" in answer.message


def failed(number: int) -> DialFailed:
    return DialFailed(f"/ip4/192.0.2.1/tcp/{number}", bootstrap=False, reason="refused")


async def test_events(autojump_clock: MockClock) -> None:
    async with house() as found:
        assert (await found.owner.get(f"{NET}/events")).json() == {
            "schema": "golem-p2p/events/1",
            "last": 0,
            "events": [],
        }
        for number in range(5):
            found.node.events.add(failed(number))
        found.node.events.add(PeerDropped(STRANGER, dialled=True, why="version", reason="too old"))
        document = (await found.owner.get(f"{NET}/events")).json()
        assert (document["last"], len(document["events"])) == (6, 6)
        last = document["events"][-1]
        assert last.pop("at").startswith("2026-01-01T")
        assert last == {
            "seq": 6,
            "event": "peer-dropped",
            "peer": STRANGER,
            "dialled": True,
            "why": "version",
            "reason": "too old",
        }
        for query, numbers in (
            ("?after=4", [5, 6]),
            ("?limit=2", [5, 6]),
            ("?after=3&limit=1", [6]),
            ("?limit=0", []),
            ("?limit=-5", []),
            ("?after=99", []),
        ):
            listed = (await found.owner.get(f"{NET}/events{query}")).json()["events"]
            assert [event["seq"] for event in listed] == numbers, query
        assert (await found.owner.get(f"{NET}/events?after=x")).status == 400


async def test_events_as_they_come(autojump_clock: MockClock) -> None:
    async with house() as found, trio.open_nursery() as nursery:
        events = found.node.events
        events.add(failed(1))

        async def more() -> None:
            await trio.sleep(2)
            events.add(failed(2))
            await trio.sleep(2)
            events.add(failed(3))

        async def followed(query: str) -> list[tuple[bytes, int]]:
            answer = await found.owner("GET", f"{NET}/events/stream{query}", leaves_after=10)
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            frames = [f.split(b"\n") for f in answer.body.split(b"\n\n") if f]
            return [(f[0], json.loads(f[1].removeprefix(b"data: "))["seq"]) for f in frames]

        nursery.start_soon(more)
        assert await followed("") == [(b"id: 2", 2), (b"id: 3", 3)], "from now on"
        assert await followed("?after=0") == [(b"id: 1", 1), (b"id: 2", 2), (b"id: 3", 3)]
        assert await followed("?after=3") == []
