"""REST, our own family's view of the network: `/golem-p2p/v1/net`, for the node's owner.

What `golem-p2p peers`, `ping`, `net` and `netcheck` show. Peers are named by their NodeId; guests, which are other
libp2p programs, by their PeerId; wherever one is asked for, the address that it listens at will do too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from node.api.own import PREFIX, owner_only
from node.api.web import Routes, answer, error
from p2p import ping
from p2p.identity import InvalidNodeId, NodeId, parse_node_id
from p2p.overlay import OverlayError, PeerUnreachable
from protocols.ground.times import format_time

if TYPE_CHECKING:
    from starlette.responses import Response

    from node.api.web import ApiRequest
    from node.parts import NodeParts
    from p2p.overlay import PeerInfo

PING_TIMEOUT = 5.0
"""Seconds to wait for the answer to one ping."""


class _Ping(msgspec.Struct):
    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    interval: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0


def routes(node: NodeParts) -> Routes:
    """Return the family's table."""
    table = Routes("identity", f"{PREFIX}/net")
    net = _Net(node)
    for method, template, handler in (
        ("GET", "/peers", net.peers),
        ("POST", "/ping", net.ping),
    ):
        table.add(method, template, owner_only(handler))
    return table


class _Net:
    def __init__(self, node: NodeParts) -> None:
        self._node = node

    async def peers(self, request: ApiRequest) -> Response:
        listed = [_peer(peer) for peer in self._node.overlay.peers()]
        return answer({"schema": "golem-p2p/peers/1", "peers": listed})

    async def ping(self, request: ApiRequest) -> Response:
        body = await request.body_as(_Ping)
        node = self._node
        try:
            peer = await self._who(body.peer)
            report = await ping.ping(
                node.overlay,
                peer,
                count=body.count,
                interval=body.interval,
                timeout=PING_TIMEOUT,
                clock=node.clock,
                entropy=node.entropy,
            )
        except PeerUnreachable as problem:
            raise error(504, str(problem)) from problem
        except OverlayError as problem:
            raise error(502, f"{body.peer} was reached, but it cannot be pinged: {problem}") from problem
        info = next((found for found in node.overlay.peers() if found.node_id == peer), None)
        return answer({"schema": "golem-p2p/ping/1", "peer": peer, **_session(info), **_report(report)})

    async def _who(self, text: str) -> NodeId:
        """Return whom a text names. Raises ApiError, PeerUnreachable."""
        if text.startswith("/"):
            return await self._node.overlay.connect(text)
        try:
            return parse_node_id(text)
        except InvalidNodeId as problem:
            raise error(400, f"{problem}, or an address (/ip4/...)") from problem


def _peer(peer: PeerInfo) -> dict[str, Any]:
    return {
        "nodeId": peer.node_id,
        "address": peer.address,
        "direction": peer.direction,
        "since": format_time(peer.since_ns),
        "agent": peer.agent,
    }


def _session(info: PeerInfo | None) -> dict[str, Any]:
    return {"address": info.address if info else "", "agent": info.agent if info else ""}


def _report(report: ping.PingReport) -> dict[str, Any]:
    answered = [rtt * 1000 for rtt in report.answered]
    sent = len(report.rtts)
    return {
        "sent": sent,
        "answered": len(answered),
        "lossPercent": round(100 * (sent - len(answered)) / sent, 1),
        "rttMs": [None if rtt is None else round(rtt * 1000, 3) for rtt in report.rtts],
        "minMs": round(min(answered), 3) if answered else None,
        "avgMs": round(sum(answered) / len(answered), 3) if answered else None,
        "maxMs": round(max(answered), 3) if answered else None,
        "problem": report.problem,
    }
