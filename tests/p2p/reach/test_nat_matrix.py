"""The NAT matrix with real packets: how two nodes reach each other, by what they are behind.

Namespaces, nftables NATs and real overlays (`lab`, `lab_nodes`). Skipped, with the reason, where the rights or the
tools are missing; `make natlab` fails there instead.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p.session import Secp256k1Identity
from tests.p2p.reach.lab import Lab, lab, missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RELAYS = ("relay1", "relay2", "relay3")
NODES = {
    **dict.fromkeys(RELAYS, "public"),
    "public1": "public",
    "cone1": "cone",
    "cone2": "cone",
    "symmetric1": "symmetric",
    "symmetric2": "symmetric",
    "dual1": "dual",
    "dual2": "dual",
}
NUMBERS = {name: number for number, name in enumerate(NODES, 1)}
MATRIX = {
    ("relay1", "public1"): "direct",
    ("public1", "cone1"): "direct",
    ("cone2", "public1"): "direct",
    ("public1", "symmetric1"): "direct",
    ("symmetric2", "public1"): "direct",
    ("cone1", "cone2"): "punched",
    ("cone1", "symmetric1"): "relayed",
    ("symmetric2", "cone2"): "relayed",
    ("symmetric1", "symmetric2"): "relayed",
    ("dual1", "dual2"): "direct",
    ("dual1", "cone1"): "relayed",
}
LACKING = missing()
STRICT = os.environ.get("GOLEM_P2P_NATLAB") == "strict"
PATIENCE = 25.0
"""Seconds that a relayed session may take to become direct: three attempts of five seconds, and some."""


class Nodes:
    """The nodes of a lab, by name."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._answers: dict[str, trio.MemorySendChannel[Any]] = {}
        self.ready: dict[str, str] = {}
        self._next = 0
        self._sending = trio.Lock()

    async def send(self, line: dict[str, Any] | None) -> None:
        assert self._process.stdin is not None
        async with self._sending:
            await self._process.stdin.send_all((json.dumps(line) if line else "").encode() + b"\n")

    async def ask(self, name: str, do: str, **arguments: Any) -> dict[str, Any]:
        self._next += 1
        key = str(self._next)
        self._answers[key], answer = trio.open_memory_channel[Any](1)
        await self.send({"name": name, "id": key, "do": do, "with": arguments})
        result: dict[str, Any] = await answer.receive()
        return result

    async def read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for piece in self._process.stdout:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if said.get("ready"):
                    self.ready[said["name"]] = said["node_id"]
                else:
                    self._answers.pop(said["id"]).send_nowait(said)

    async def until(self, name: str, **wanted: Any) -> dict[str, Any]:
        """Wait until a node's status is so."""
        status: dict[str, Any] = {}
        with trio.move_on_after(45):
            while True:
                status = await self.ask(name, "status")
                if all(status[key] == value for key, value in wanted.items()):
                    return status
                await trio.sleep(0.25)
        raise AssertionError(f"{name} is not {wanted}: {status}")


@asynccontextmanager
async def nodes(made: Lab) -> AsyncIterator[Nodes]:
    namespaces = {name: made.host(name, kind) for name, kind in NODES.items()}  # type: ignore[arg-type]
    command = [sys.executable, "-m", "tests.p2p.reach.lab_nodes"]
    peer_ids = {name: Secp256k1Identity(bytes([n]) * 32).public.peer_id for name, n in NUMBERS.items()}
    bootstrap = [f"/ip4/11.0.{NUMBERS[r]}.2/tcp/4001/p2p/{peer_ids[r]}" for r in RELAYS]
    async with trio.open_nursery() as nursery:
        start = functools.partial(trio.run_process, command, stdin=PIPE, stdout=PIPE, check=False)
        process = await nursery.start(start)
        found = Nodes(process)
        nursery.start_soon(found.read)
        for name, kind in NODES.items():
            await found.send(
                {
                    "name": name,
                    "kind": kind,
                    "number": NUMBERS[name],
                    "namespace": namespaces[name],
                    "relay": name in RELAYS,
                    "bootstrap": [a for a in bootstrap if peer_ids[name] not in a],
                }
            )
        await found.send(None)
        with trio.fail_after(60):
            while len(found.ready) < len(NODES):  # noqa: ASYNC110 - real time, and they are other processes
                await trio.sleep(0.1)
        yield found
        await process.stdin.aclose()
        with trio.move_on_after(10):
            await process.wait()
        nursery.cancel_scope.cancel()


async def outcome(found: Nodes, one: str, other: str) -> str:
    """Have `one` reach `other` by what that announces; return how they are connected in the end."""
    status = await found.ask(other, "status")
    peer = found.ready[other]
    met = await found.ask(one, "meet", peer=peer, addresses=status["addresses"], patience=PATIENCE)
    if "error" in met:
        return f"failed: {met['error']}"
    if met["first"] == met["last"]:
        return str(met["last"])
    with trio.move_on_after(15):
        paths = [""]
        while "relayed" in paths or "" in paths:  # it drains: no stream is left on it
            await trio.sleep(0.25)
            paths = (await found.ask(one, "paths", peer=peer))["paths"]
            paths += (await found.ask(other, "paths", peer=found.ready[one]))["paths"]
    if "relayed" in paths:
        return f"direct, but the relayed session stays: {paths}"
    how = await found.ask(other, "how", peer=found.ready[one])
    return {"dialled": "direct", "punched": "punched"}.get(how["how"], f"unexplained: {how['how']!r}")


async def check_netcheck(found: Nodes) -> None:
    """See what a person would be told behind each NAT."""
    await found.until("public1", state="public")
    for name, level, reach, family in (
        ("public1", "ok", "public", "open"),
        ("cone1", "ok", "hole punching", "keeps the port"),
        ("symmetric1", "warn", "relays only", "another port for each peer"),
    ):
        checks = (await found.ask(name, "netcheck"))["checks"]
        by_name = {check[0]: check for check in checks}
        assert by_name["reach"][1] == level, checks
        assert reach in by_name["reach"][2], checks
        assert family in by_name["IPv4"][2], checks
        assert {check[1] for check in checks if check[0] in ("listen", "bootstrap", "node")} == {"ok"}, checks
        if name != "public1":
            assert by_name["relays"][1:3] == ["ok", "3 relays keep a place for this node"], checks
        if level == "warn":
            assert any("forward TCP port 4001" in line for line in by_name["reach"][3:]), checks


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(bool(LACKING) and not STRICT, reason=f"the NAT matrix needs {LACKING}")
async def test_the_nat_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    assert not LACKING, f"the NAT matrix needs {LACKING}"
    results: dict[tuple[str, str], str] = {}
    with lab() as made, trio.move_on_after(150):
        async with nodes(made) as found:
            for name, kind in NODES.items():
                if kind == "cone":
                    await found.until(name, mapping="endpoint-independent", relays=3)
                elif kind in ("symmetric", "dual"):
                    await found.until(name, mapping="endpoint-dependent", relays=3)

            await check_netcheck(found)

            async def meet(one: str, other: str) -> None:
                results[one, other] = await outcome(found, one, other)

            async with trio.open_nursery() as nursery:
                for pair in MATRIX:
                    nursery.start_soon(meet, *pair)
    with capsys.disabled():
        print(
            "\n"
            + "\n".join(
                f"  {one:>10} → {other:<10} {results.get((one, other), 'no answer')}" for one, other in MATRIX
            )
        )
    assert results == MATRIX
