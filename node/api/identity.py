"""REST, small families that every client meets first: `/me`, `/version/get`, `/healthcheck`."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from node.api.web import ApiRequest, Routes, answer
from protocols.ground.times import format_naive_time

if TYPE_CHECKING:
    from starlette.responses import Response

    from node.app import Node

COMPATIBLE = "0.17.6"
"""The version of the Golem daemon whose contract this is; SDKs refuse to work with less than 0.15.2."""


def routes(node: Node) -> tuple[Routes, ...]:
    """Return the families' tables."""

    async def me(request: ApiRequest) -> Response:
        session = request.session
        return answer({"identity": session.identity, "name": session.name, "role": session.role})

    async def version_get(request: ApiRequest) -> Response:
        at = format_naive_time(node.started_ns // 10**9 * 10**9)
        current = {
            "version": COMPATIBLE,
            "name": f"golem-p2p {version('golem-p2p')}",
            "seen": True,
            "releaseTs": at,
            "insertionTs": at,
            "updateTs": at,
        }
        return answer({"current": current, "pending": None})

    async def health(request: ApiRequest) -> Response:
        return answer({"status": "ok"})

    table = Routes("identity", "")
    table.add("GET", "/me", me)
    table.add("GET", "/version/get", version_get)
    table.add("GET", "/healthcheck", health)
    return (table,)
