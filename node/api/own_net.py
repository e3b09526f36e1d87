"""REST, our own family's view of the network: `/golem-p2p/v1/net`, for the node's owner.

What `golem-p2p peers`, `ping`, `net` and `netcheck` show. Peers are named by their NodeId; guests, which are other
libp2p programs, by their PeerId; wherever one is asked for, the address that it listens at will do too.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import trio

from node.api.own import PREFIX, owner_only
from node.api.web import EventStream, Routes, answer, error
from node.netcheck import probe
from node.netcheck.judge import judge, worst
from p2p import ping
from p2p.identity import InvalidNodeId, parse_node_id
from p2p.overlay import OverlayError, PeerUnreachable
from protocols.ground.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from starlette.responses import Response

    from node.api.web import ApiRequest
    from node.app import Node
    from p2p.discovery.policy import KnownAddress
    from p2p.events import Entry
    from p2p.identity import NodeId
    from p2p.overlay import PeerInfo

MAX_EVENTS = 1000
"""Most events that are told at a time."""
LOOK_UP_TIMEOUT = 30.0
"""Seconds for a search of the directory."""
REACH_TIMEOUT = 10.0
"""Seconds for asking peers anew how they see this node; what they said before counts where they are slow."""
PING_TIMEOUT = 5.0
"""Seconds to wait for the answer to one ping."""


class NodeDirectory(Protocol):
    """Where nodes publish their addresses; `p2p.discovery.directory.Directory` is one."""

    @property
    def nodes(self) -> int:
        """Return how many nodes are in its table."""
        ...

    @property
    def published(self) -> bool:
        """Return whether this node's own addresses are in it."""
        ...

    def figures(self) -> Mapping[str, int]:
        """Return `nodes`, and how often what happened since the start, to be counted."""
        ...

    async def look_up(self, node: NodeId) -> Sequence[str]:
        """Return where the network says that `node` may be dialled; empty if it has no word of it."""
        ...


class _Find(msgspec.Struct):
    peer: str
    connect: bool = False


class _Ping(msgspec.Struct):
    peer: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    interval: Annotated[float, msgspec.Meta(ge=0, le=10)] = 1.0


def routes(node: Node) -> Routes:
    """Return the family's table."""
    table = Routes("identity", f"{PREFIX}/net")
    net = _Net(node)
    for method, template, handler in (
        ("GET", "/peers", net.peers),
        ("POST", "/ping", net.ping),
        ("POST", "/find", net.find),
        ("POST", "/check", net.check),
        ("GET", "/events", net.events),
        ("GET", "/events/stream", net.follow_events),
    ):
        table.add(method, template, owner_only(handler))
    return table


class _Net:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def peers(self, request: ApiRequest) -> Response:
        overlay = self._node.overlay
        return answer(
            {
                "schema": "golem-p2p/peers/1",
                "peers": [
                    {"nodeId": peer.node_id, "peerId": peer.peer_id, **_session(peer)}
                    for peer in overlay.peers()
                ],
                "guests": [{**_session(guest), "peerId": guest.node_id} for guest in overlay.guests()],
            }
        )

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
        sessions = {info.node_id: info for info in (*node.overlay.peers(), *node.overlay.guests())}
        info = sessions.get(peer)
        place = {
            "address": info.address if info else "",
            "path": info.path if info else None,
            "agent": info.agent if info else "",
        }
        return answer({"schema": "golem-p2p/ping/1", "peer": peer, **place, **_report(report)})

    async def find(self, request: ApiRequest) -> Response:
        body = await request.body_as(_Find)
        node = self._node
        try:
            wanted = parse_node_id(body.peer)
        except InvalidNodeId as problem:
            raise error(400, str(problem)) from problem
        if wanted == node.key.node_id:
            raise error(400, f"{wanted} is this node itself; `golem-p2p id` has its addresses")
        found: list[dict[str, Any]] = [
            {"source": "session", "address": peer.address, "direction": peer.direction, "path": peer.path}
            for peer in node.overlay.peers()
            if peer.node_id == wanted
        ]
        connected = bool(found)
        if node.discovery is not None:
            found += [_in_book(known) for known in node.discovery.policy.known(wanted)]
        if node.directory is not None:
            with trio.move_on_after(LOOK_UP_TIMEOUT):
                told = await node.directory.look_up(wanted)
                found += [{"source": "directory", "address": address} for address in told]
        attempt = await self._attempt(wanted) if body.connect else None
        return answer(
            {
                "schema": "golem-p2p/find/1",
                "nodeId": wanted,
                "connected": connected or bool(attempt and not attempt["problem"]),
                "addresses": found,
                "directory": node.directory is not None,
                "attempt": attempt,
            }
        )

    async def _attempt(self, wanted: NodeId) -> dict[str, Any]:
        """Make a session, if there is none, and say how that went."""
        node = self._node
        began = node.clock.monotonic()
        try:
            await (await node.overlay.open_stream(wanted, ping.PROTOCOL)).aclose()
        except OverlayError as problem:
            return {"problem": str(problem), "seconds": round(node.clock.monotonic() - began, 3)}
        seconds = round(node.clock.monotonic() - began, 3)
        info = next((peer for peer in node.overlay.peers() if peer.node_id == wanted), None)
        place = {"address": info.address, "path": info.path} if info else {}
        return {"problem": "", "seconds": seconds, **place}

    async def check(self, request: ApiRequest) -> Response:
        node = self._node
        if node.reach is not None:
            with trio.move_on_after(REACH_TIMEOUT):
                await node.reach.check()
        bootstrap = node.config["overlay.bootstrap"]
        facts = await probe.examine(node.overlay, bootstrap=bootstrap, **probe.known_of(node))
        checks = judge(facts)
        return answer(
            {"schema": "golem-p2p/netcheck/1", "level": worst(checks), "facts": facts, "checks": checks}
        )

    async def events(self, request: ApiRequest) -> Response:
        after, limit = request.query_int("after", 0) or 0, request.query_int("limit", MAX_EVENTS) or 0
        entries = self._node.events.after(after, min(max(limit, 0), MAX_EVENTS))
        return answer(
            {
                "schema": "golem-p2p/events/1",
                "last": self._node.events.last,
                "events": [_event(entry) for entry in entries],
            }
        )

    async def follow_events(self, request: ApiRequest) -> Response:
        events = self._node.events
        after = request.query_int("after")
        return EventStream(self._frames(events.last if after is None else after))

    @asynccontextmanager
    async def _frames(self, seq: int) -> AsyncIterator[AsyncIterator[bytes]]:
        events = self._node.events

        async def frames() -> AsyncIterator[bytes]:
            last = seq
            while True:
                await events.wait_after(last)
                for entry in events.after(last, MAX_EVENTS):
                    last = entry.seq
                    document = msgspec.json.encode(_event(entry))
                    yield b"id: %d\ndata: %b\n\n" % (entry.seq, document)

        yield frames()

    async def _who(self, text: str) -> str:
        """Return whom a text names. Raises ApiError, PeerUnreachable."""
        if text.startswith("/"):
            return await self._node.overlay.connect(text)
        if text in (guest.node_id for guest in self._node.overlay.guests()):
            return text
        try:
            return parse_node_id(text)
        except InvalidNodeId as problem:
            raise error(
                400, f"{problem}, an address (/ip4/...), or a guest's peer id as `peers` lists it"
            ) from problem


def _in_book(known: KnownAddress) -> dict[str, Any]:
    return {
        "source": "book",
        "address": known.address,
        "provenAt": format_time(known.proven_ns) if known.proven_ns else None,
        "failures": known.failures,
        "toldBy": known.told_by or None,
    }


def _event(entry: Entry) -> dict[str, Any]:
    return {"seq": entry.seq, "at": format_time(entry.at_ns), **msgspec.to_builtins(entry.event)}


def _session(peer: PeerInfo) -> dict[str, Any]:
    return {
        "peerId": peer.peer_id or None,
        "address": peer.address,
        "direction": peer.direction,
        "path": peer.path,
        "rttMs": None if peer.rtt is None else round(peer.rtt * 1000, 3),
        "since": format_time(peer.since_ns),
        "agent": peer.agent,
    }


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
