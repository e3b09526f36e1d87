"""A REST server on loopback with routes of a test's own, and clients that speak HTTP to it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import httpx
import structlog
import trio

from node.api.listener import serving
from node.api.server import RestServer
from node.api.web import ApiRequest, Family, Routes, Session

if TYPE_CHECKING:
    from starlette.responses import Response

    from p2p.identity import NodeId

Handler = Callable[[ApiRequest], Awaitable["Response"]]

NODE: NodeId = "0x" + "11" * 20  # type: ignore[assignment]
KEY = {"Authorization": "Bearer good"}
ORIGINS = {"good": ("http://good.example",), "other": ("http://other.example",)}


class Site:
    """A running server."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self.http = http
        """Sends the good key unless told otherwise."""

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port

    async def raw(self, data: bytes) -> trio.SocketStream:
        """Connect and send bytes."""
        stream = await trio.open_tcp_stream(*self.address)
        await stream.send_all(data)
        return stream

    async def exchange(self, data: bytes) -> bytes:
        """Connect, send bytes, and return what comes until the server closes or pauses for long."""
        answer = b""
        async with await self.raw(data) as stream:
            with trio.move_on_after(10):
                while chunk := await stream.receive_some():
                    answer += chunk
                    if _complete(answer):
                        break
        return answer


def _complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(end) and len(body) >= int(line.split(b":")[1])
    return answer.endswith(b"0\r\n\r\n")


async def session_of(key: str) -> Session | None:
    if key == "broken":
        raise RuntimeError("the table of keys is on fire")
    return Session(NODE, f"name of {key}") if key in ORIGINS else None


async def origins_of(key: str | None) -> Sequence[str]:
    if key is None:
        return [origin for origins in ORIGINS.values() for origin in origins]
    return ORIGINS.get(key, ())


@contextlib.asynccontextmanager
async def site(
    handlers: dict[tuple[str, str], Handler],
    family: Family = "activity",
    *,
    allowed_origins: Sequence[str] = (),
    **client: Any,
) -> AsyncIterator[Site]:
    """Serve handlers by (method, template) below `/api`."""
    server = RestServer(
        session_of, structlog.get_logger("test"), allowed_origins=allowed_origins, origins_of=origins_of
    )
    table = Routes(family, "/api")
    for (method, template), handler in handlers.items():
        table.add(method, template, handler)
    server.add(table)
    open_table = Routes("identity", "")
    for (method, template), handler in handlers.items():
        if template == "/version/get":
            open_table.add(method, template, handler)
    server.add(open_table)
    async with (
        serving(server, "127.0.0.1", 0) as url,
        httpx.AsyncClient(base_url=url, headers=KEY, timeout=20, trust_env=False, **client) as http,
    ):
        yield Site(url, http)
