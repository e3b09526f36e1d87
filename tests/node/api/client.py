"""A client of the REST server in the same process: requests through the ASGI interface, without sockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
import structlog
import trio

from node.api import market as market_api
from node.api.server import RestServer
from node.api.web import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from p2p.identity import NodeId
    from protocols.market.handler import MarketProtocol


class Answer(msgspec.Struct, frozen=True):
    """What the server answered."""

    status: int
    content_type: str | None
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json()["message"])


class MarketClient:
    """One identity's requests to the market family of its node."""

    def __init__(self, protocol: MarketProtocol, identity: NodeId) -> None:
        async def session_of(key: str) -> Session | None:
            return Session(identity, "test")

        self.server = RestServer(session_of, structlog.get_logger("rest"))
        self.server.add(market_api.routes(protocol))

    async def __call__(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        leaves_after: float | None = None,
    ) -> Answer:
        """Make a request.

        Args:
            body: sent as JSON; `raw` is sent as it is.
            leaves_after: the client hangs up after so many seconds.
        """
        sent = {"authorization": "Bearer test", **{k.lower(): v for k, v in (headers or {}).items()}}
        data = raw if raw is not None else b""
        if raw is None and (body is not None or method == "JSON"):
            data = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        return await self._run(method, target, data, sent, leaves_after)

    async def post(self, target: str, body: Any = None, *, null: bool = False) -> Answer:
        """POST a JSON body; `null` sends a literal null."""
        if null:
            return await self("POST", target, raw=b"null", headers={"content-type": "application/json"})
        return await self("POST", target, body)

    async def get(self, target: str) -> Answer:
        return await self("GET", target)

    async def _run(
        self,
        method: str,
        target: str,
        data: bytes,
        headers: Mapping[str, str],
        leaves_after: float | None,
    ) -> Answer:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
            "scheme": "http",
            "server": ("127.0.0.1", 7465),
            "http_version": "1.1",
        }
        requests = [{"type": "http.request", "body": data, "more_body": False}]
        started: dict[str, Any] = {}
        chunks: list[bytes] = []
        ended = trio.Event()

        async def receive() -> Any:
            if requests:
                return requests.pop()
            if leaves_after is None:
                await ended.wait()
            else:
                await trio.sleep(leaves_after)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                chunks.append(message.get("body", b""))
                if not message.get("more_body", False):
                    ended.set()

        await self.server(scope, receive, send)
        named = {k.decode().lower(): v.decode() for k, v in started.get("headers", [])}
        return Answer(started.get("status", 0), named.get("content-type"), b"".join(chunks))
