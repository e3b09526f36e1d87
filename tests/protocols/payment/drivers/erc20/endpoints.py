"""RPC endpoints in memory: scripted answers behind httpx, no socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

CHAIN_ID = 0x474C4D


class Refusal(Exception):
    """What an endpoint answers with an error object."""

    def __init__(self, code: int, message: str, data: object = None) -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message, "data": data}


class Endpoint:
    """Answers methods from a table: values, functions of the parameters, or refusals."""

    def __init__(self, chain_id: int = CHAIN_ID, head: int = 100) -> None:
        self.answers: dict[str, Any] = {"eth_chainId": hex(chain_id), "eth_blockNumber": hex(head)}
        self.asked: list[str] = []
        self.fault: Callable[[httpx.Request], httpx.Response] | None = None

    def __setitem__(self, method: str, answer: object) -> None:
        self.answers[method] = answer

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.fault is not None:
            return self.fault(request)
        return httpx.Response(200, json=[self._one(one) for one in msgspec.json.decode(request.content)])

    def _one(self, one: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(one["method"])
        answer = self.answers.get(one["method"], Refusal(-32601, "no such method"))
        try:
            if callable(answer):
                answer = answer(*one["params"])
            if isinstance(answer, Exception):
                raise answer
        except Refusal as refusal:
            return {"jsonrpc": "2.0", "id": one["id"], "error": refusal.error}
        return {"jsonrpc": "2.0", "id": one["id"], "result": answer}


def client(**endpoints: Endpoint) -> httpx.AsyncClient:
    """A client that reaches `http://<name>/` for each endpoint, and nothing else."""

    def route(request: httpx.Request) -> httpx.Response:
        return endpoints[request.url.host].handle(request)

    return httpx.AsyncClient(transport=httpx.MockTransport(route))
