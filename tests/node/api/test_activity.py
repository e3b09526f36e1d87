"""The activity family: statuses, bodies and content types as the original daemon gave them.

The expectations are our own recordings of the original, request by request; where the wording was
recorded too and clients match on it, it is here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
import trio

from node.api import activity as activity_api
from node.api.server import RestServer
from node.api.web import Session
from protocols.activity.messages import ActivityState, State
from protocols.ground.times import format_time, parse_time
from protocols.market.messages import AgreementState
from tests.node.api.client import Answer, MarketClient
from tests.protocols.activity.world import AGREEMENT, SCRIPT, Side, World, world

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.identity import NodeId

API = "/activity-api/v1"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
UNKNOWN = "0" * 32
NULL_RESULT = {"index", "result", "stdout", "stderr", "message", "isBatchFinished", "eventDate"}


class Client(MarketClient):
    """One identity's requests to the activity family of a node."""

    def __init__(self, side: Side, identity: NodeId | None = None) -> None:
        async def session_of(key: str) -> Session | None:
            return Session(identity or side.id, "test")

        self.server = RestServer(session_of, structlog.get_logger("rest"))
        self.server.add(activity_api.routes(side.protocol))

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answer:
        return await self(method, API + path, body, **more)

    async def create(self, agreement: str = AGREEMENT, timeout: float = 15) -> str:
        answer = await self.ask("POST", f"/activity?timeout={timeout}", {"agreementId": agreement})
        assert answer.status == 200, answer.body
        activity: str = answer.json()["activityId"]
        return activity

    async def exec(self, activity: str, script: str = SCRIPT) -> str:
        answer = await self.ask("POST", f"/activity/{activity}/exec", {"text": script})
        assert answer.status == 200, answer.body
        batch: str = answer.json()
        return batch


def clients(found: World) -> tuple[Client, Client]:
    return Client(found.requestor), Client(found.provider)


def refused(answer: Answer, status: int, words: str = "", content_type: str = JSON) -> None:
    assert (answer.status, answer.content_type) == (status, content_type), answer.body
    text = answer.message if content_type == JSON else answer.body.decode()
    assert words in text


# --- creating -----------------------------------------------------------------------------------------------


async def test_a_string_for_a_string_and_an_object_for_an_object(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        first = await requestor.ask("POST", "/activity?timeout=15", AGREEMENT)
        assert (first.status, first.content_type) == (200, JSON)
        activity = first.json()
        assert isinstance(activity, str)
        assert len(activity) == 32
        state = await requestor.ask("GET", f"/activity/{activity}/state")
        assert state.json() == {"state": ["Initialized", None]}, "as golem-js wants it right after creating"
        assert (await requestor.ask("DELETE", f"/activity/{activity}?timeout=5")).body == b"null"
        second = await requestor.ask(
            "POST", "/activity", {"agreementId": AGREEMENT, "requestorPubKey": None, "more": [1]}
        )
        assert second.json().keys() == {"activityId"}


async def test_creating_what_cannot_be(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)

        async def create(agreement: Any, timeout: str = "1") -> Answer:
            return await requestor.ask("POST", f"/activity?timeout={timeout}", {"agreementId": agreement})

        refused(await create("f" * 64), 404, "f" * 64)
        del found.provider.agreements[AGREEMENT]
        refused(await create(AGREEMENT), 404, AGREEMENT)  # the provider has not seen it yet
        found.agree(state=AgreementState.PENDING)
        refused(await create(AGREEMENT), 400, "Pending")
        found.agree(state=AgreementState.TERMINATED)
        refused(await create(AGREEMENT), 400, "Terminated")
        found.agree()
        for malformed in ("", "x", "g" * 64, "f" * 63, "f" * 100_000):
            refused(await create(malformed), 500, "malformed")
        found.provider.units.plan.boot_seconds = 1000.0
        refused(await create(AGREEMENT), 408)
        found.provider.units.plan.refusal = "no such runtime"
        refused(await create(AGREEMENT), 400, "no such runtime")
        bodies: tuple[Any, ...] = (5, [], {}, {"agreementId": 5}, None)
        for body in bodies:
            answer = await requestor.ask("POST", "/activity", raw=json.dumps(body).encode(), headers=CONTENT)
            refused(answer, 400, "Json deserialize error", TEXT)
        for timeout in ("-1", "inf", "soon", ""):
            refused(await create(AGREEMENT, timeout), 400, "Query deserialize error", TEXT)


CONTENT = {"content-type": "application/json"}


# --- scripts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "",
        "{}",
        '[{"foo": {}}]',
        '[{"run": {"args": []}}]',
        '[{"transfer": {"from": "x"}}]',
        '[{"deploy": {}, "start": {}}]',
        "[" * 100_000,
        '["\\ud800"]',
    ],
)
async def test_a_script_that_is_none(text: str, autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        refused(await requestor.ask("POST", f"/activity/{activity}/exec", {"text": text}), 400)


@pytest.mark.parametrize("body", [{}, {"text": [{"deploy": {}}]}, {"text": None}, "[]", []])
async def test_a_body_that_holds_no_script(body: Any, autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        refused(await requestor.ask("POST", f"/activity/{activity}/exec", body), 400, "Json", TEXT)
        wrong = {"content-type": "text/plain"}
        answer = await requestor.ask("POST", f"/activity/{activity}/exec", raw=b"{}", headers=wrong)
        refused(answer, 400, "Content type error", TEXT)


async def test_results_by_polling(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        found.unit(activity).plan.command_seconds = 2.0
        accept = {"accept": "text/event-stream", **CONTENT}
        made = await requestor.ask(
            "POST", f"/activity/{activity}/exec", raw=json.dumps({"text": SCRIPT}).encode(), headers=accept
        )
        assert (made.status, made.content_type) == (200, JSON), "JSON, whatever is accepted"
        path = f"/activity/{activity}/exec/{made.json()}"
        assert (await requestor.ask("GET", f"{path}?timeout=0")).json() == []
        refused(await requestor.ask("GET", f"{path}?timeout=0.1&commandIndex=0"), 408)
        began = trio.current_time()
        found_first = await requestor.ask("GET", f"{path}?timeout=60&commandIndex=0")
        assert trio.current_time() - began < 3, "it waits for that command, not for the timeout"
        (first,) = found_first.json()
        assert first.keys() == NULL_RESULT, "what is absent is null"
        assert (first["index"], first["result"], first["stderr"]) == (0, "Ok", None)
        parse_time(first["eventDate"])
        whole = await requestor.ask("GET", path)
        assert [r["isBatchFinished"] for r in whole.json()] == [False, False, True]
        again = await requestor.ask("GET", f"{path}?timeout=1", headers={"accept": "text/event-stream, */*"})
        assert again.json() == whole.json(), "another Accept is none, and results stay readable"
        refused(await requestor.ask("GET", f"/activity/{activity}/exec/nobatch?timeout=1"), 404, "nobatch")
        for query in ("commandIndex=-1", "commandIndex=x", "timeout=-1", "timeout=x", "timeout=1&timeout=1"):
            refused(await requestor.ask("GET", f"{path}?{query}"), 400, "Query deserialize error", TEXT)


async def test_results_as_events(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        batch = await requestor.exec(activity)
        stream = {"accept": "text/event-stream"}

        async def listen(batch: str, seconds: float) -> Answer:
            path = f"/activity/{activity}/exec/{batch}"
            return await requestor.ask("GET", path, headers=stream, leaves_after=seconds)

        whole = await listen(batch, 40.0)
        assert (whole.status, whole.content_type) == (200, "text/event-stream")
        frames = whole.body.split(b"\n\n")
        assert frames.count(b":ping") == 2, "it stays open after the end, every 15 s"
        events = [frame.split(b"\n") for frame in frames if frame.startswith(b"event: runtime")]
        assert [event[2] for event in events] == [b"id: %d" % n for n in range(6)]
        first = json.loads(events[0][1].removeprefix(b"data: "))
        assert first == {
            "batch_id": batch,
            "index": 0,
            "timestamp": "2026-01-02T03:04:05.000678",
            "kind": {"started": {"command": {"deploy": {}}}},
        }
        assert json.loads(events[5][1].removeprefix(b"data: "))["kind"] == {
            "finished": {"return_code": 0, "message": None}
        }
        late = await listen(batch, 5.0)
        assert late.body == b"\n\n".join(f for f in frames if f and f != b":ping") + b"\n\n", (
            "history is told"
        )
        silent = await listen("zzz", 20.0)
        assert (silent.status, silent.body) == (200, b":ping\n\n")


async def test_events_of_what_is_not_there(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        stream = {"accept": "text/event-stream"}
        path = f"/activity/{UNKNOWN}/exec/b"
        refused(await requestor.ask("GET", path, headers=stream), 500, "DAO error")
        activity = await requestor.create()
        other = Client(found.requestor, found.stranger.id)
        path = f"/activity/{activity}/exec/b"
        refused(await other.ask("GET", path, headers=stream), 403)
        network: Any = found.provider.ctx.overlay
        network._world.isolate(found.provider.id)
        refused(await requestor.ask("GET", path, headers=stream), 500, "endpoint address not found")


# --- what is known of an activity ---------------------------------------------------------------------------


async def test_questions(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, provider = clients(found)
        activity = await requestor.create()
        await trio.sleep(2.5)
        for client in (requestor, provider):
            state = await client.ask("GET", f"/activity/{activity}/state")
            assert state.json() == {"state": ["Initialized", None]}
            usage = (await client.ask("GET", f"/activity/{activity}/usage")).json()
            assert usage.keys() == {"currentUsage", "timestamp"}
            assert len(usage["currentUsage"]) == 2
            assert isinstance(usage["timestamp"], int)
            assert (await client.ask("GET", f"/activity/{activity}/agreement")).json() == AGREEMENT
            listed = await client.ask("GET", f"/activity?agreementId={AGREEMENT}")
            assert listed.json() == [activity]
        refused(await requestor.ask("GET", "/activity"), 400, "agreementId", TEXT)
        assert (await requestor.ask("GET", f"/activity?agreementId={'f' * 64}")).json() == []


async def test_an_unknown_activity_is_an_internal_error(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        for method, path, body in (
            ("POST", "/exec", {"text": "[]"}),
            ("GET", "/exec/b?timeout=1", None),
            ("GET", "/state", None),
            ("GET", "/usage", None),
            ("GET", "/agreement", None),
            ("GET", "/command", None),
            ("DELETE", "?timeout=1", None),
        ):
            answer = await requestor.ask(method, f"/activity/{UNKNOWN}{path}", body)
            refused(answer, 500, f"DAO error: Not found: agreement id for activity: {UNKNOWN}")


async def test_another_identitys_activity(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, provider = clients(found)
        activity = await requestor.create()
        other = Client(found.requestor, found.stranger.id)
        for client in (other, provider):
            refused(await client.ask("POST", f"/activity/{activity}/exec", {"text": "[]"}), 403)
            refused(await client.ask("GET", f"/activity/{activity}/exec/b?timeout=1"), 403)
            refused(await client.ask("DELETE", f"/activity/{activity}?timeout=1"), 403)
        refused(await other.ask("GET", f"/activity/{activity}/state"), 403)


# --- the end ------------------------------------------------------------------------------------------------


async def test_after_the_end(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        batch = await requestor.exec(activity)
        await trio.sleep(2)
        for _ in range(2):
            gone = await requestor.ask("DELETE", f"/activity/{activity}?timeout=15")
            assert (gone.status, gone.content_type, gone.body) == (200, JSON, b"null")
        state = (await requestor.ask("GET", f"/activity/{activity}/state")).json()
        assert state["state"] == ["Terminated", None]
        assert (await requestor.ask("GET", f"/activity/{activity}/usage")).json()["currentUsage"]
        refused(await requestor.ask("POST", f"/activity/{activity}/exec", {"text": "[]"}), 408)
        answer = await requestor.ask("GET", f"/activity/{activity}/exec/{batch}?timeout=1")
        refused(answer, 500, "GSB error: endpoint address not found")


async def test_a_provider_that_takes_too_long_to_end_it(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        found.provider.units.plan.stop_seconds = 5.0
        activity = await requestor.create()
        refused(await requestor.ask("DELETE", f"/activity/{activity}?timeout=1"), 408)
        assert (await requestor.ask("DELETE", f"/activity/{activity}?timeout=15")).status == 200


async def test_an_error_of_any_kind_is_told(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, _ = clients(found)
        activity = await requestor.create()
        answer = await requestor.ask("POST", f"/activity/{activity}/exec", {"text": '[{"sign": {}}]'})
        refused(answer, 500, "no more of that")


# --- an agent of the provider's own -------------------------------------------------------------------------


async def test_events(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, provider = clients(found)
        start = format_time(found.provider.ctx.clock.utc_ns())

        async def events(query: str, client: Client = provider) -> Answer:
            return await client.ask("GET", f"/events?{query}")

        refused(await events(f"timeout=1&afterTimestamp={start}"), 408, "Timeout")
        refused(await events(f"timeout=0.3&afterTimestamp={start}", requestor), 408, "Timeout")
        refused(await events("timeout=1"), 400, "afterTimestamp", TEXT)
        refused(await events("timeout=1&afterTimestamp=yesterday"), 400, "afterTimestamp", TEXT)
        refused(await events(f"timeout=-1&afterTimestamp={start}"), 400, "timeout", TEXT)
        refused(await events("timeout=0&afterTimestamp=9999-12-31T23:59:59Z"), 408)
        activity = await requestor.create()
        (created,) = (await events(f"timeout=1&afterTimestamp={start}&maxEvents=10")).json()
        assert created == {
            "activityId": activity,
            "agreementId": AGREEMENT,
            "eventType": {"CreateActivity": {}},
            "eventDate": created["eventDate"],
        }
        after = created["eventDate"].replace("Z", "%2B00:00")  # as the Python clients send it back
        refused(await events(f"timeout=0&afterTimestamp={after}"), 408)
        assert (await requestor.ask("DELETE", f"/activity/{activity}")).status == 200
        (destroyed,) = (await events(f"timeout=0&afterTimestamp={after}")).json()
        assert destroyed["eventType"] == {"DestroyActivity": {}}
        (oldest,) = (await events(f"timeout=0&afterTimestamp={start}&maxEvents=1")).json()
        assert oldest == created


async def test_an_agent_sets_states(autojump_clock: MockClock) -> None:
    async with world() as found:
        requestor, provider = clients(found)
        activity = await requestor.create()

        async def put(client: Client, activity: str, state: Any, **more: Any) -> Answer:
            return await client.ask("PUT", f"/activity/{activity}/state", {"state": state, **more})

        assert (await put(provider, activity, ["Ready", None])).body == b"null"
        assert (await requestor.ask("GET", f"/activity/{activity}/state")).json() == {
            "state": ["Ready", None]
        }
        refused(await put(provider, activity, ["Foo", None]), 400, "Json deserialize error", TEXT)
        refused(await put(provider, activity, "Ready"), 400, "Json deserialize error", TEXT)
        refused(await put(requestor, activity, ["Ready", None]), 403)
        refused(await put(provider, UNKNOWN, ["Ready", None]), 500)
        ended = await put(provider, activity, ["Terminated", None], reason="enough", errorMessage=None)
        assert ended.status == 200
        state = (await requestor.ask("GET", f"/activity/{activity}/state")).json()
        assert state == {"state": ["Terminated", None], "reason": "enough"}
        assert msgspec.convert(state, ActivityState).state == (State.TERMINATED, None)
