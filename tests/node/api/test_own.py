"""The owner's own family, and the small ones that every client meets first."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
import trio

from node.api import identity as identity_api
from node.api import own as own_api
from node.api.own import OWNER, price_in_words
from node.api.server import RestServer
from node.api.web import Session
from node.app_keys import AppKeys
from p2p.testing.nodes import memory_nodes
from protocols.market.handler import MarketProtocol
from tests.node.api.client import MarketClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

OWN = "/golem-p2p/v1"
VECTOR = "golem.com.usage.vector"
PRICES = "golem.com.pricing.model.linear.coeffs"


class Client(MarketClient):
    """Requests to a node's own families, as its owner or with an application key."""

    def __init__(self, node: Any, session: Session) -> None:
        async def session_of(key: str) -> Session | None:
            return session

        self.server = RestServer(session_of, structlog.get_logger("rest"))
        self.server.add(own_api.routes(node))
        for table in identity_api.routes(node):
            self.server.add(table)


class House:
    """As much of a node as the routes need, and a market with another node in it."""

    def __init__(self, node: Any, there: MarketProtocol, other: str) -> None:
        self.node = node
        self.there = there
        self.other: Any = other
        self.owner = Client(node, Session(node.key.node_id, OWNER, OWNER))

    async def with_key(self, name: str) -> Client:
        made = await self.node.app_keys.create(name, self.node.key.node_id)
        session = await self.node.app_keys.session(made.key)
        return Client(self.node, session)


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    async with memory_nodes(2, seed=6) as (a, b):
        here, there = MarketProtocol(), MarketProtocol()
        keys = AppKeys(a.database, a.clock, a.entropy)
        await keys.open()
        async with here.running(a), there.running(b):
            node = SimpleNamespace(
                key=a.signer,
                app_keys=keys,
                market=here,
                overlay=a.overlay,
                started_ns=a.clock.utc_ns(),
                stop_requested=trio.Event(),
            )
            yield House(node, there, b.node_id)


# --- who may ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["script", "owner", "autoconfigured"])
async def test_an_application_key_is_not_the_owner(name: str, autojump_clock: MockClock) -> None:
    async with house() as found:
        client = await found.with_key(name)
        for method, path, body in (
            ("POST", "/shutdown", {}),
            ("GET", "/app-keys", None),
            ("POST", "/app-keys", {"name": "more"}),
            ("DELETE", f"/app-keys/{name}", None),
            ("GET", "/payment/status", None),
            ("POST", "/payment/fund", {}),
            ("POST", "/payment/init", {}),
            ("GET", "/offers", None),
            ("GET", "/agreements", None),
            ("GET", "/peers", None),
        ):
            answer = await client(method, OWN + path, body)
            assert answer.status == 403, (method, path)
            assert "owner" in answer.message
        assert not found.node.stop_requested.is_set()
        assert [key.name for key in found.node.app_keys.list()] == [name]
        assert (await client.get(f"{OWN}/id")).json()["nodeId"] == found.node.key.node_id


async def test_keys(autojump_clock: MockClock) -> None:
    async with house() as found:
        made = await found.owner.post(f"{OWN}/app-keys", {"name": "a/b c", "origins": ["http://a"]})
        assert made.status == 201
        assert made.json().keys() == {"name", "key", "identity", "role", "created", "allowOrigins"}
        (listed,) = (await found.owner.get(f"{OWN}/app-keys")).json()
        assert listed == made.json()
        assert (await found.owner("DELETE", f"{OWN}/app-keys/a%2Fb%20c")).status == 200
        assert (await found.owner("DELETE", f"{OWN}/app-keys/a%2Fb%20c")).status == 404
        for body in ({"name": ""}, {"name": "x", "origins": ["a b"]}):
            assert (await found.owner.post(f"{OWN}/app-keys", body)).status == 400
        wrongs: tuple[Any, ...] = ({}, {"name": 5}, {"name": "x", "origins": "http://a"}, [])
        for wrong in wrongs:
            answer = await found.owner.post(f"{OWN}/app-keys", wrong)
            assert (answer.status, answer.content_type) == (400, "text/plain; charset=utf-8")


async def test_shutdown_and_peers(autojump_clock: MockClock) -> None:
    async with house() as found:
        (peer,) = (await found.owner.get(f"{OWN}/peers")).json()
        assert peer["node_id"] == found.other
        assert (await found.owner.post(f"{OWN}/shutdown", {})).json() == {"Ok": None}
        assert found.node.stop_requested.is_set()


# --- offers of others ---------------------------------------------------------------------------------------

HOSTILE: tuple[dict[str, Any], ...] = (
    {PRICES: 5},
    {PRICES: "12"},
    {PRICES: None},
    {PRICES: {"0": 1}},
    {PRICES: [1, 2], VECTOR: [["nested"]]},
    {PRICES: [1, 2], VECTOR: "x"},
    {PRICES: [1, 2], VECTOR: [5]},
    {PRICES: ["a", "b"], VECTOR: ["x"]},
    {PRICES: [-1.0, 0.0], VECTOR: ["x"]},
    {PRICES: [1e308, 1e308], VECTOR: ["golem.usage.cpu_sec"]},
    {PRICES: [True, None], VECTOR: ["x"]},
    {VECTOR: ["x"]},
    {"golem.node.id.name": ["\x1b[31m"], "golem.inf.cpu.threads": {"a": [1]}},
)


async def test_whatever_others_offer_is_listed(autojump_clock: MockClock) -> None:
    async with house() as found:
        for properties in HOSTILE:
            await found.there.service.subscribe_offer(found.other, properties, "()")
        honest = {VECTOR: ["golem.usage.cpu_sec"], PRICES: [0.0001, 0.5], "golem.node.id.name": "attic"}
        await found.there.service.subscribe_offer(found.other, honest, "()")
        await trio.sleep(60)
        answer = await found.owner.get(f"{OWN}/offers")
        assert answer.status == 200, answer.body
        listed = answer.json()
        assert len(listed) >= 10
        (attic,) = (offer for offer in listed if offer["name"] == "attic")
        assert attic["price"] == "0.36/CPU-h + 0.5 to start"
        assert attic["provider"] == found.other
        some = await found.owner.get(f"{OWN}/offers?filter=(golem.node.id.name=attic)")
        assert [offer["name"] for offer in some.json()] == ["attic"]
        assert (await found.owner.get(f"{OWN}/offers?filter=((((")).status == 400


@pytest.mark.parametrize("properties", HOSTILE)
def test_a_price_that_is_none(properties: dict[str, Any]) -> None:
    assert price_in_words(properties) == "?"


def test_prices_in_words() -> None:
    assert price_in_words({VECTOR: ["golem.usage.duration_sec"], PRICES: [0.0, 0.0]}) == "free"
    assert price_in_words({VECTOR: [], PRICES: [1]}) == "1 to start"
    hourly = {VECTOR: ["golem.usage.duration_sec"], PRICES: [0.025 / 3600, 0.0]}
    assert price_in_words(hourly) == "0.025/h", "no digits that only dividing has made"
    assert price_in_words({**hourly, PRICES: [1e-17, 0.0]}) == "0.000000000000036/h"
    assert price_in_words({VECTOR: ["golem.usage.gib"], PRICES: [2.5, 0]}) == "2.5/gib"


async def test_states_that_are_none(autojump_clock: MockClock) -> None:
    async with house() as found:
        answer = await found.owner.get(f"{OWN}/agreements?state=approved")
        assert answer.status == 400
        assert "Approved" in answer.message
        assert (await found.owner.get(f"{OWN}/agreements?state=Approved")).json() == []


# --- the small families -------------------------------------------------------------------------------------


async def test_shapes_as_recorded(autojump_clock: MockClock) -> None:
    async with house() as found:
        client = await found.with_key("script")
        assert (await client.get("/me")).json() == {
            "identity": found.node.key.node_id,
            "name": "script",
            "role": "manager",
        }
        document = (await client.get("/version/get")).json()
        assert document.keys() == {"current", "pending"}
        assert document["pending"] is None
        current = document["current"]
        assert current.keys() == {"version", "name", "seen", "releaseTs", "insertionTs", "updateTs"}
        assert current["version"] == "0.17.6"
        assert not current["releaseTs"].endswith("Z"), "without a zone"
        assert (await client.get("/healthcheck")).json() == {"status": "ok"}
