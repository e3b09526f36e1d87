"""The REST listener over real sockets on loopback: what every family has in common."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
import trio
import trio.testing

from node.api import listener as listener_module
from node.api import server as server_module
from node.api.listener import serving
from node.api.server import RestServer
from node.api.web import ApiRequest, EventStream, Family, Taken, answer, error, no_content
from tests.node.api.serving import KEY, NODE, Site, session_of, site

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.responses import Response

LIMIT = 2 * 1024 * 1024
VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


async def me(request: ApiRequest) -> Response:
    return answer({"identity": request.identity, "name": request.session.name})


async def echo(request: ApiRequest) -> Response:
    return answer(request.path)


async def take_body(request: ApiRequest) -> Response:
    return answer(len(json.dumps(await request.body())))


async def query(request: ApiRequest) -> Response:
    return answer(
        {
            "timeout": request.query_float("timeout", 5.0),
            "maxEvents": request.query_int("maxEvents", 20),
            "after": request.query_time("afterTimestamp"),
            "session": request.query_text("appSessionId"),
        }
    )


# --- who may ask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "headers", "status", "body"),
    [
        ("/api/me", {}, 401, "Missing application key"),
        ("/no/such", {}, 401, "Missing application key"),
        ("/api/me", {"Authorization": "Bearer nope"}, 401, "Invalid application key"),
        ("/no/such", {"Authorization": "Bearer nope"}, 401, "Invalid application key"),
        ("/api/me", {"Authorization": "Basic Z29vZDo="}, 401, "Missing application key"),
        ("/api/me", {"Authorization": "good"}, 401, "Missing application key"),
        ("/api/me", {"Authorization": "bearer good"}, 401, "Missing application key"),
        ("/api/me", {"Authorization": "Bearer  good"}, 401, "Missing application key"),
        ("/api/me?authToken=zzz", {}, 401, "Invalid application key"),
        ("/api/me?authtoken=good", {}, 401, "Missing application key"),
        # the header wins, even when it is of no use
        ("/api/me?authToken=good", {"Authorization": "bearer good"}, 401, "Missing application key"),
        ("/api/me?authToken=good", {"Authorization": "Bearer nope"}, 401, "Invalid application key"),
    ],
)
async def test_refuses_before_it_routes(target: str, headers: dict[str, str], status: int, body: str) -> None:
    async with site({("GET", "/me"): me}) as there, httpx.AsyncClient(base_url=there.url) as anybody:
        found = await anybody.get(target, headers=headers)
    assert (found.status_code, found.text) == (status, body)
    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert "access-control-allow-origin" not in found.headers


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/api/me", {"Authorization": "Bearer good"}),
        ("/api/me", {"authorization": "Bearer good"}),
        ("/api/me?authToken=good", {}),
        ("/api/me?authToken=zzz", {"Authorization": "Bearer good"}),
    ],
)
async def test_lets_a_key_in(target: str, headers: dict[str, str]) -> None:
    async with site({("GET", "/me"): me}) as there, httpx.AsyncClient(base_url=there.url) as anybody:
        found = await anybody.get(target, headers=headers)
    assert found.status_code == 200
    assert found.json() == {"identity": NODE, "name": "name of good"}
    assert found.headers["content-type"] == "application/json"
    assert found.headers["vary"] == VARY


async def test_the_version_needs_no_key() -> None:
    async def version(request: ApiRequest) -> Response:
        return answer(request.session.name)

    async with (
        site({("GET", "/version/get"): version}) as there,
        httpx.AsyncClient(base_url=there.url) as anybody,
    ):
        assert (await anybody.get("/version/get")).json() == ""
        assert (await anybody.get("/metrics-api/v1/nope")).status_code == 404
        assert (await anybody.get("/dashboard")).status_code == 404
        assert (await anybody.get("/versions")).status_code == 401


async def test_the_host_header_is_no_part_of_the_path() -> None:
    async with site({("GET", "/me"): me}) as there:
        for host in ("x/version/get?", "x/version/get#", "[", "a/b", "@", ""):
            request = f"GET /api/me HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert b" 401 " in (await there.exchange(request.encode())).split(b"\r\n")[0], host
            request = f"GET /api/me HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer good\r\n\r\n"
            assert b" 200 " in (await there.exchange(request.encode())).split(b"\r\n")[0], host


# --- what is there ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/nope"),
        ("PUT", "/api/me"),
        ("HEAD", "/api/me"),
        ("OPTIONS", "/api/me"),
        ("TRACE", "/api/me"),
        ("GET", "/api/me/"),
        ("GET", "//api/me"),
        ("GET", "/api//me"),
        ("GET", "/api/things/"),
        ("GET", "/api/things//parts"),
        ("GET", "/api/me%3Fx"),
        ("GET", "/api/me%23x"),
        ("GET", "/api/me%0A"),
        ("GET", "/api%2Fme"),
        ("GET", "/"),
    ],
)
async def test_what_is_not_there_is_404_without_a_word(method: str, path: str) -> None:
    async with site({("GET", "/me"): me, ("GET", "/things/{id}/parts"): echo}) as there:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n"
        found = await there.exchange(head.encode())
    lines, _, body = found.partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 404"), found
    assert body == b""
    assert b"content-type" not in lines.lower()
    assert b"content-length: 0" in lines.lower()


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("a-b_c", "a-b_c"),
        ("a%20b", "a b"),
        ("a%2Fb", "a/b"),
        ("%C3%A9", "é"),
        ("a%252Fb", "a%2Fb"),
        ("%FF", "�"),
    ],
)
async def test_parameters_are_decoded_once(sent: str, got: str) -> None:
    async with site({("GET", "/things/{id}"): echo}) as there:
        head = f"GET /api/things/{sent} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n"
        found = await there.exchange(head.encode())
    assert json.loads(found.partition(b"\r\n\r\n")[2]) == {"id": got}


# --- bodies -------------------------------------------------------------------------------------------------


def text_of(size: int) -> bytes:
    return b'"' + b"x" * (size - 2) + b'"'


@pytest.mark.parametrize("family", ["market", "activity", "payment"])
async def test_bodies_are_bounded(family: Family) -> None:
    json_type = {"Content-Type": "application/json"}
    async with site({("POST", "/take"): take_body, ("POST", "/me"): me}, family) as there:
        whole = await there.http.post("/api/take", content=text_of(LIMIT), headers=json_type)
        assert whole.json() == LIMIT
        for size in (LIMIT + 1, 3_000_000, 30_000_000):
            more = await there.http.post("/api/take", content=text_of(size), headers=json_type)
            if family == "market":
                assert (more.status_code, more.headers["content-type"]) == (400, "application/json")
                assert "exceeded the limit" in more.json()["message"]
            else:
                assert (more.status_code, more.text.split()[0]) == (413, "JSON")
        unread = await there.http.post("/api/me", content=text_of(3_000_000), headers=json_type)
        assert unread.status_code == 200
        assert (await there.http.post("/api/take", json=1)).json() == 1


async def test_a_body_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_READ_BYTES", LIMIT)
    head = b"POST /api/take HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n"
    async with site({("POST", "/take"): take_body}) as there:
        found = await there.exchange(head + text_of(LIMIT + 1))
        assert found.startswith(b"HTTP/1.1 413"), found
        assert b"\r\nconnection: close\r\n" in found.lower()
        assert (await there.http.post("/api/take", json=1)).json() == 1


@pytest.mark.parametrize("family", ["market", "activity"])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"{}"),
        ("text/plain", b"{}"),
        ("application/jsonx", b"{}"),
        ("application/json", b""),
        ("application/json", b'{"a":'),
        ("application/json", b'{"a":1} x'),
        ("application/json", b'"\xff"'),
        ("application/json", b'"\\ud800"'),
        ("application/json", b"NaN"),
        ("application/json", b"[" * 100_000),
    ],
)
async def test_what_is_no_json_is_refused(family: Family, content_type: str | None, body: bytes) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    async with site({("POST", "/take"): take_body}, family) as there:
        found = await there.http.post("/api/take", content=body, headers=headers)
    assert found.status_code == 400, found.text
    assert (found.headers["content-type"] == "application/json") == (family == "market")


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "a/b+json"]
)
async def test_json_by_other_names(content_type: str) -> None:
    async with site({("POST", "/take"): take_body}) as there:
        found = await there.http.post("/api/take", content=b"{}", headers={"Content-Type": content_type})
    assert found.json() == 2


# --- queries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("", {"timeout": 5.0, "maxEvents": 20, "after": None, "session": None}),
        ("unknown=1&unknown=2", {"timeout": 5.0}),
        ("timeout=NaN", {"timeout": 0.0}),
        ("timeout=1e-1", {"timeout": 0.1}),
        ("timeout=%2B0", {"timeout": 0.0}),
        ("timeout=-1.5", {"timeout": -1.5}),
        ("timeout=.5", {"timeout": 0.5}),
        ("maxEvents=-3", {"maxEvents": -3}),
        ("appSessionId=", {"session": ""}),
        ("appSessionId=a%26b", {"session": "a&b"}),
        ("afterTimestamp=2026-01-01T00:00:00Z", {"after": 1767225600 * 10**9}),
        ("afterTimestamp=2026-01-01T01:00:00%2B01:00", {"after": 1767225600 * 10**9}),
        # beyond what 64 bits of nanoseconds hold
        ("afterTimestamp=9999-12-31T23:59:59Z", {"after": 2**63 - 1}),
        ("afterTimestamp=0001-01-01T00:00:00Z", {"after": -(2**63)}),
    ],
)
async def test_reads_a_query(sent: str, got: dict[str, Any]) -> None:
    async with site({("GET", "/query"): query}) as there:
        found = await there.http.get(f"/api/query?{sent}")
    assert found.status_code == 200, found.text
    assert {name: found.json()[name] for name in got} == got


@pytest.mark.parametrize("family", ["market", "activity"])
@pytest.mark.parametrize(
    "sent",
    [
        "timeout=1&timeout=1",
        "appSessionId=a&appSessionId=b",
        "timeout=",
        "timeout=soon",
        "timeout=inf",
        "timeout=-Infinity",
        "timeout=1e999",
        "timeout=1_0",
        "timeout=%201",
        "timeout=%D9%A1",
        "maxEvents=1.0",
        "maxEvents=",
        "maxEvents=%D9%A1",
        "maxEvents=99999999999999999999",
        "afterTimestamp=2026-01-01T00:00:00",
        "afterTimestamp=2026-01-01T00:00:00+01:00",
        "afterTimestamp=now",
        "afterTimestamp=",
    ],
)
async def test_refuses_a_query_in_plain_words(family: Family, sent: str) -> None:
    async with site({("GET", "/query"): query}, family) as there:
        found = await there.http.get(f"/api/query?{sent}")
    assert found.status_code == 400
    assert found.headers["content-type"] == "text/plain; charset=utf-8"
    assert found.text.startswith("Query deserialize error: ")


# --- web pages ----------------------------------------------------------------------------------------------


async def preflight(there: Site, origin: str | None, **headers: str) -> httpx.Response:
    sent = {"Access-Control-Request-Method": "POST", **headers}
    if origin is not None:
        sent["Origin"] = origin
    async with httpx.AsyncClient(base_url=there.url) as browser:
        return await browser.request("OPTIONS", "/api/me", headers=sent)


async def test_preflight() -> None:
    asked = {"Access-Control-Request-Headers": "Authorization,Content-Type"}
    async with site({("GET", "/me"): me}, allowed_origins=["http://all.example"]) as there:
        for origin in ("http://all.example", "http://good.example", "http://other.example"):
            found = await preflight(there, origin, **asked)
            assert (found.status_code, found.content) == (200, b"")
            assert found.headers["access-control-allow-origin"] == origin
            assert set(found.headers["access-control-allow-methods"].split(", ")) == {
                "PATCH", "PUT", "OPTIONS", "GET", "DELETE", "TRACE", "CONNECT", "POST", "HEAD",
            }  # fmt: skip
            assert found.headers["access-control-allow-headers"] == "authorization,content-type"
            assert found.headers["access-control-max-age"] == "3600"
            assert found.headers["vary"] == VARY
        found = await preflight(there, "http://evil.example", **asked)
        assert (found.status_code, found.text) == (400, "Origin is not allowed to make this request")
        assert "content-type" not in found.headers
        assert "access-control-allow-origin" not in found.headers
        assert (await preflight(there, None)).status_code == 401, "without an origin it is no preflight"


@pytest.mark.parametrize(
    ("origin", "headers", "target", "allowed"),
    [
        ("http://good.example", KEY, "/api/me", True),
        ("http://other.example", KEY, "/api/me", False),
        ("http://evil.example", KEY, "/api/me", False),
        ("http://all.example", KEY, "/api/me", True),
        ("http://all.example", {}, "/api/me?authToken=good", True),
        ("http://good.example", {}, "/api/me?authToken=good", False),
        ("http://good.example", KEY, "/api/nope", True),
    ],
)
async def test_pages_of_an_origin(origin: str, headers: dict[str, str], target: str, allowed: bool) -> None:
    async with (
        site({("GET", "/me"): me}, allowed_origins=["http://all.example"]) as there,
        httpx.AsyncClient(base_url=there.url) as browser,
    ):
        found = await browser.get(target, headers={**headers, "Origin": origin})
    assert found.status_code in (200, 404), "the browser blocks it, not the server"
    assert found.headers.get("access-control-allow-origin") == (origin if allowed else None)


async def test_any_origin() -> None:
    async with site({("GET", "/me"): me}, allowed_origins=["*"]) as there:
        assert (await preflight(there, "http://any.example")).status_code == 200
        found = await there.http.get("/api/me", headers={"Origin": "http://any.example"})
        assert found.headers["access-control-allow-origin"] == "http://any.example"


# --- faults -------------------------------------------------------------------------------------------------


async def test_a_fault_costs_one_answer() -> None:
    async def broken(request: ApiRequest) -> Response:
        raise LookupError("a secret of the house")

    async def group(request: ApiRequest) -> Response:
        async with trio.open_nursery():
            raise LookupError("a secret of the house")

    async def refusing(request: ApiRequest) -> Response:
        raise error(418, "a teapot")

    handlers = {("GET", "/broken"): broken, ("GET", "/group"): group, ("GET", "/refusing"): refusing}
    async with site({**handlers, ("GET", "/me"): me}) as there:
        for path in ("/api/broken", "/api/group"):
            found = await there.http.get(path)
            assert found.status_code == 500
            assert "log" in found.json()["message"]
            assert "secret" not in found.text
        found = await there.http.get("/api/me", headers={"Authorization": "Bearer broken"})
        assert found.status_code == 500
        found = await there.http.get("/api/refusing")
        assert (found.status_code, found.json()) == (418, {"message": "a teapot"})
        assert (await there.http.get("/api/me")).status_code == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/me HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /api/me HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_garbage_ends_its_own_connection_only(garbage: bytes) -> None:
    async with site({("POST", "/me"): me}) as there:
        found = await there.exchange(garbage)
        assert found == b"" or found.startswith(b"HTTP/1.1 4"), found
        assert (await there.http.post("/api/me")).status_code == 200


async def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = RestServer(session_of, structlog.get_logger("test"))
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}.*in use"):
            async with serving(server, "127.0.0.1", port):
                pytest.fail("it must not start")


@pytest.mark.parametrize("asks", [b"", b"GET /api/me HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_connection_that_its_client_closed_is_closed(asks: bytes) -> None:
    async with site({("GET", "/me"): me}) as there:
        before = descriptors()
        for _ in range(5):
            clients = [await there.raw(asks) for _ in range(10)]
            for client in clients:
                if asks:
                    assert await client.receive_some()
                await client.aclose()
        for _ in range(200):
            if descriptors() <= before:
                break
            await trio.sleep(0.01)
        assert descriptors() <= before


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- clients that go ----------------------------------------------------------------------------------------


class Poll:
    """A long poll that tells what becomes of it."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.cancelled = trio.Event()
        self.release = trio.Event()

    async def __call__(self, request: ApiRequest) -> Response:
        self.begun.set()
        try:
            await self.release.wait()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return no_content()


GET = b"GET /api/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\n\r\n"


@pytest.mark.parametrize("how", ["close", "half", "reset"])
async def test_a_client_that_goes_cancels_its_handler(how: str) -> None:
    poll = Poll()
    async with site({("GET", "/poll"): poll, ("GET", "/me"): me}) as there:
        client = await there.raw(GET % b"poll")
        await poll.begun.wait()
        await leave(client, how)
        with trio.fail_after(10):
            await poll.cancelled.wait()
        assert (await there.http.get("/api/me")).status_code == 200
        await client.aclose()


async def leave(client: trio.SocketStream, how: str) -> None:
    if how == "half":
        await client.send_eof()
        return
    if how == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await client.aclose()


class Queue:
    """A queue that is read by taking from it."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.settled: list[bool] = []
        self.done = trio.Event()
        self.taken = trio.Event()
        self.release = trio.Event()

    async def __call__(self, request: ApiRequest) -> Response:
        taken, self.items = self.items, []
        self.taken.set()
        with trio.CancelScope(shield=True):  # as the market's queue does: what was taken must be returned
            await self.release.wait()

        async def settle(delivered: bool) -> None:
            await trio.lowlevel.checkpoint()
            self.settled.append(delivered)
            if not delivered:
                self.items = taken + self.items
            self.done.set()

        return Taken(taken, settle)


async def test_what_was_delivered_is_settled_once() -> None:
    queue = Queue([1, 2])
    queue.release.set()
    async with site({("GET", "/queue"): queue}) as there:
        found = await there.http.get("/api/queue")
        assert found.json() == [1, 2]
        assert found.headers["content-type"] == "application/json"
        await queue.done.wait()
        assert (await there.http.get("/api/queue", headers={"Origin": "http://good.example"})).json() == []
    assert queue.settled == [True, True]


@pytest.mark.parametrize("how", ["close", "half", "reset"])
async def test_what_nobody_waited_for_goes_back(how: str) -> None:
    queue = Queue([1, 2])
    async with site({("GET", "/queue"): queue}) as there:
        client = await there.raw(GET % b"queue")
        await queue.taken.wait()
        await leave(client, how)
        await trio.testing.wait_all_tasks_blocked(0.05)
        queue.release.set()
        with trio.fail_after(10):
            await queue.done.wait()
        assert queue.settled == [False]
        assert (await there.http.get("/api/queue")).json() == [1, 2]
        await client.aclose()


async def test_what_was_not_read_to_its_end_goes_back() -> None:
    queue = Queue(["x" * 50_000_000])
    async with site({("GET", "/queue"): queue}) as there:
        client = await there.raw(GET % b"queue")
        await queue.taken.wait()
        queue.release.set()
        assert await client.receive_some(1000)
        await leave(client, "reset")
        with trio.fail_after(10):
            await queue.done.wait()
    assert queue.settled == [False]


async def test_a_client_that_reads_nothing_does_not_hold_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "UNREAD_SECONDS", 0.5)
    queue = Queue(["x" * 50_000_000])
    queue.release.set()
    with trio.fail_after(15):
        async with site({("GET", "/queue"): queue}) as there:
            client = await there.raw(GET % b"queue")
            await queue.taken.wait()
    assert queue.settled == [False]
    await client.aclose()


async def test_many_long_polls_at_once() -> None:
    release = trio.Event()
    waiting = 0
    everyone = trio.Event()

    async def poll(request: ApiRequest) -> Response:
        nonlocal waiting
        waiting += 1
        if waiting == 200:
            everyone.set()
        await release.wait()
        return answer(request.path)

    found: list[int] = []
    limits = httpx.Limits(max_connections=None)
    async with site({("GET", "/poll/{n}"): poll, ("GET", "/me"): me}, limits=limits) as there:

        async def ask(n: int) -> None:
            got = await there.http.get(f"/api/poll/{n}")
            found.append(int(got.json()["n"]))

        async with trio.open_nursery() as nursery:
            for n in range(200):
                nursery.start_soon(ask, n)
            await everyone.wait()
            assert (await there.http.get("/api/me")).status_code == 200, "polls do not hold up the others"
            release.set()
    assert sorted(found) == list(range(200))


# --- event streams ------------------------------------------------------------------------------------------


class Feed:
    """Server-sent events that a test controls."""

    def __init__(self, *frames: bytes) -> None:
        self._frames = frames
        self.left = trio.Event()
        self.refusal: Exception | None = None
        self.failure: Exception | None = None

    async def __call__(self, request: ApiRequest) -> Response:
        return EventStream(self._open())

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        if self.refusal is not None:
            raise self.refusal
        async with contextlib.aclosing(self._each()) as frames:
            try:
                yield frames
            finally:
                self.left.set()

    async def _each(self) -> AsyncGenerator[bytes, None]:
        for frame in self._frames:
            yield frame
        if self.failure is not None:
            raise self.failure


async def read_until(response: httpx.Response, end: bytes) -> bytes:
    data = b""
    async for chunk in response.aiter_raw():
        data += chunk
        if data.endswith(end):
            break
    return data


async def test_a_stream_stays_open_and_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PING_SECONDS", 0.02)
    feed = Feed(b"event: runtime\ndata: {}\nid: 0\n\n", b"event: runtime\ndata: {}\nid: 1\n\n")
    async with site({("GET", "/feed"): feed}) as there:
        async with there.http.stream("GET", "/api/feed") as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/event-stream"
            assert "content-length" not in response.headers
            data = await read_until(response, b":ping\n\n:ping\n\n:ping\n\n")
            assert not feed.left.is_set()
        assert data.replace(b":ping\n\n", b"") == b"".join(
            b"event: runtime\ndata: {}\nid: %d\n\n" % n for n in range(2)
        )
        with trio.fail_after(10):
            await feed.left.wait()


async def test_a_stream_that_cannot_begin_is_an_answer() -> None:
    feed = Feed()
    async with site({("GET", "/feed"): feed, ("GET", "/me"): me}) as there:
        feed.refusal = error(500, "no such activity")
        found = await there.http.get("/api/feed")
        assert (found.status_code, found.json()) == (500, {"message": "no such activity"})
        feed.refusal = LookupError("a secret of the house")
        found = await there.http.get("/api/feed")
        assert found.status_code == 500
        assert "secret" not in found.text
        assert (await there.http.get("/api/me")).status_code == 200


async def test_a_stream_that_fails_is_broken_off() -> None:
    feed = Feed(b"data: 1\n\n")
    feed.failure = LookupError("a secret of the house")
    async with site({("GET", "/feed"): feed, ("GET", "/me"): me}) as there:
        with pytest.raises(httpx.RemoteProtocolError):
            await there.http.get("/api/feed")
        assert (await there.http.get("/api/me")).status_code == 200


async def test_an_open_stream_does_not_hold_up_the_end() -> None:
    feed = Feed(b"data: 1\n\n")
    with trio.fail_after(10):
        async with site({("GET", "/feed"): feed}) as there:
            client = await there.raw(GET % b"feed")
            assert await client.receive_some()
        await feed.left.wait()
    await client.aclose()
