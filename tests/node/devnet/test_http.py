"""The small HTTP server: whole bodies within bounds, kept connections, and nobody can hold it up. Real sockets."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
import trio
import trio.testing

from node.devnet import http
from node.devnet.http import Request, Response, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def echo(request: Request) -> Response:
    if request.target == "/status":
        return Response(418, b"short", "text/plain")
    return Response(200, b"%s %s %d " % (request.method.encode(), request.target.encode(), len(request.body)))


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener, echo)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def exchange(port: int, *pieces: bytes) -> bytes:
    """Send pieces and read until the server closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        try:
            for piece in pieces:
                await stream.send_all(piece)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # it has closed already; what it said can still be read
        received = b""
        try:
            async for chunk in stream:
                received += chunk
        except trio.BrokenResourceError:
            pass
        return received


async def test_requests_on_one_connection() -> None:
    async with serving() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 1, 70_000, http.BODY_LIMIT):
            response = await client.post("/x?y=1", content=b"a" * size)
            assert response.text == f"POST /x?y=1 {size} "
        response = await client.get("/status")
        assert (response.status_code, response.headers["content-type"]) == (418, "text/plain")


async def test_chunked_body_and_expectation() -> None:
    async with serving() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

        async def chunks() -> AsyncIterator[bytes]:
            yield b"ab"
            yield b"cde"

        response = await client.post("/", content=chunks(), headers={"expect": "100-continue"})
        assert response.text == "POST / 5 "


async def test_body_beyond_the_limit_is_refused() -> None:
    async with serving() as port:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (http.BODY_LIMIT + 1)
        answer = await exchange(port, head, b"a" * (http.BODY_LIMIT + 1))
        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"a" * 40_000,
    ],
)
async def test_malformed_requests_are_answered_and_closed(sent: bytes) -> None:
    async with serving() as port:
        answer = await exchange(port, sent)
        assert answer.split(b" ")[1] in (b"400", b"431")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab"]
)
async def test_client_that_leaves_early_harms_nobody(sent: bytes) -> None:
    async with serving() as port:
        await exchange(port, sent)
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200


async def test_slow_client_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PATIENCE_S", 0.05)
    async with serving() as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n")
            with trio.fail_after(10):
                assert await stream.receive_some() == b""


async def test_connections_beyond_the_bound_wait_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_CONNECTIONS", 1)
    async with serving() as port:
        first = await trio.open_tcp_stream("127.0.0.1", port)
        await first.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await first.receive_some()
        async with trio.open_nursery() as nursery:
            answers: list[bytes] = []

            async def second() -> None:
                answers.append(await exchange(port, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))

            nursery.start_soon(second)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert answers == []
            await first.aclose()
        assert answers[0].startswith(b"HTTP/1.1 200 ")
