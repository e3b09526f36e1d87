"""The owner's view of the network: peers and ping, on nodes in memory."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from node.api import own_net
from node.api.own import OWNER
from node.api.server import RestServer
from node.api.web import Session
from p2p import ping
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
        self.node: Any = SimpleNamespace(overlay=here.overlay, clock=here.clock, entropy=here.entropy)
        self.owner = Client(self.node, Session(here.node_id, OWNER, OWNER))
        self.script = Client(self.node, Session(here.node_id, "script"))


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with memory_nodes(2, seed=6) as (here, there):
        there.overlay.serve(ping.PROTOCOL, ping.answer)
        yield House(here, there)


async def test_an_application_key_is_not_the_owner(autojump_clock: MockClock) -> None:
    async with house() as found:
        for method, path in (("GET", "/peers"), ("POST", "/ping"), ("POST", "/check")):
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
            ("/ip4/nonsense", 504, "address"),
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


async def test_a_peer_that_is_reached_but_answers_no_pings(autojump_clock: MockClock) -> None:
    async with memory_nodes(2, seed=6) as (here, there):
        found = House(here, there)
        answer = await found.owner.post(f"{NET}/ping", {"peer": there.node_id})
        assert answer.status == 502
        assert "cannot be pinged" in answer.message
