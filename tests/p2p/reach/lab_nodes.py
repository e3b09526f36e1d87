"""Nodes in a lab, each a process in its namespace with a real overlay, led by commands in lines of JSON.

    python -m tests.p2p.reach.lab_nodes  < {"name": ..., "kind": ...} lines, then an empty line

One interpreter loads libp2p and forks each node, which then enters its namespace: so eleven nodes start in the time
of one. A line of a command names its node; so does each line that is printed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog
import trio

from node.netcheck import probe
from node.netcheck.judge import judge
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.entropy import SystemEntropy
from p2p.events import EventLog
from p2p.host.overlay import LibP2POverlay
from p2p.identity import NodeId, PrivateKey
from p2p.overlay import OverlayError
from p2p.reach.service import ReachService, ReachSettings
from tests.p2p.reach.lab import enter

if TYPE_CHECKING:
    from p2p.overlay import Stream

PING = "/golem-p2p/test/labping/1"
PORT = 4001


class LabNode:
    """One node."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.name: str = told["name"]
        six = ["/ip6/::/tcp/4001"] if told["kind"] == "dual" else []
        key = PrivateKey(bytes([told["number"]]) * 32)
        clock, entropy = SystemClock(), SystemEntropy()
        self.listen, self.bootstrap = [f"/ip4/0.0.0.0/tcp/{PORT}", *six], told["bootstrap"]
        self.events = EventLog(clock)
        self.overlay = LibP2POverlay(
            key,
            "test",
            self.listen,
            self.bootstrap,
            report=self.events.add,
            clock=clock,
            entropy=entropy,
            settings=DiscoverySettings(target_peers=0),
        )
        self.reach = ReachService(
            self.overlay.reach_host,
            clock=clock,
            entropy=entropy,
            settings=ReachSettings(relay_server="on" if told["relay"] else "off"),
        )
        self.overlay.dial_relayed = self.reach.open_circuit
        self.overlay.serve(PING, self._pong)

    async def run(self) -> None:
        async with self.overlay.running(), trio.open_nursery() as nursery:
            nursery.start_soon(self.reach.run)
            self.say(ready=True, node_id=self.overlay.node_id)
            commands = trio.lowlevel.FdStream(os.dup(0))
            async with commands:
                rest = b""
                async for piece in commands:
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        nursery.start_soon(self._obey, json.loads(line))
            nursery.cancel_scope.cancel()

    def say(self, **what: Any) -> None:
        # One write of less than a pipe takes at once, for all nodes share it.
        os.write(1, json.dumps({"name": self.name, **what}).encode() + b"\n")

    async def _obey(self, command: dict[str, Any]) -> None:
        try:
            result = await getattr(self, "do_" + command["do"])(**command.get("with", {}))
        except (OverlayError, trio.TooSlowError, OSError) as error:
            result = {"error": f"{type(error).__name__}: {error}"}
        self.say(id=command["id"], **result)

    async def do_status(self) -> dict[str, Any]:
        verdict = self.reach.verdict
        return {
            "state": verdict.state,
            "mapping": verdict.family("ip4").mapping,
            "relays": len(verdict.relays),
            "addresses": self.overlay.listen_addresses(),
            "evidence": verdict.evidence,
            "peers": len(self.overlay.peers()),
        }

    async def do_netcheck(self) -> dict[str, Any]:
        """Say what `golem-p2p netcheck` would."""
        facts = await probe.examine(
            self.overlay,
            listen=self.listen,
            bootstrap=self.bootstrap,
            joined=True,
            events=self.events,
            verdict=self.reach.verdict,
        )
        return {"checks": [[check.name, check.level, check.says, *check.do] for check in judge(facts)]}

    async def do_meet(self, peer: str, addresses: list[str], patience: float) -> dict[str, Any]:
        """Reach a node by what it announces; say how at first, and how in the end."""
        for address in addresses:
            self.overlay.discovery.suggest(NodeId(peer), address)
        await self._ping(peer)
        first = last = self._path(peer)
        with trio.move_on_after(patience):
            while last != "direct":
                await trio.sleep(0.1)
                last = self._path(peer)
        rtt = await self._ping(peer)
        return {"first": first, "last": last, "rtt": rtt}

    async def do_how(self, peer: str) -> dict[str, Any]:
        """Say what became of this node's attempts to make the peer's relayed session direct."""
        return {"how": self.reach.punched.get(peer, "")}

    async def do_paths(self, peer: str) -> dict[str, Any]:
        """Say how each session with a peer goes."""
        return {"paths": [link.path for link in self.overlay.reach_host.links() if link.peer == peer]}

    def _path(self, peer: str) -> str:
        return next((info.path for info in self.overlay.peers() if info.node_id == peer), "none")

    async def _ping(self, peer: str) -> float:
        began = trio.current_time()
        with trio.fail_after(30):
            stream = await self.overlay.open_stream(NodeId(peer), PING)
            await stream.send_all(b"ping")
            if await stream.receive_some() != b"ping":
                raise OverlayError("the answer is another")
            await stream.aclose()
        return trio.current_time() - began

    async def _pong(self, stream: Stream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)


def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    children: dict[str, int] = {}
    while line := sys.stdin.buffer.raw.readline().strip():  # type: ignore[union-attr]
        told = json.loads(line)
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.dup2(reading, 0)
                for descriptor in (reading, writing, *children.values()):
                    os.close(descriptor)
                enter(told["namespace"])
                trio.run(LabNode(told).run)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(reading)
        children[told["name"]] = writing
    while line := sys.stdin.buffer.raw.readline():  # type: ignore[union-attr]
        os.write(children[json.loads(line)["name"]], line)
    for descriptor in children.values():
        os.close(descriptor)
    for _ in children:
        os.wait()


if __name__ == "__main__":
    main()
