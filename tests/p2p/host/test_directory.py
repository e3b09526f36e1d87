"""The directory over real sockets: nodes that never met find each other by NodeId."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from p2p.clock import SystemClock
from p2p.discovery.directory import Directory, make_directory
from p2p.entropy import SystemEntropy
from p2p.host.addresses import is_acceptable
from p2p.identity import PrivateKey
from p2p.overlay import PeerUnreachable
from p2p.testing.conformance import ask, echo, eventually, serve
from tests.p2p.host.nodes import make

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.host.overlay import LibP2POverlay


@asynccontextmanager
async def nodes(count: int) -> AsyncIterator[list[tuple[LibP2POverlay, Directory]]]:
    entropy = SystemEntropy()
    async with AsyncExitStack() as stack:
        running = []
        for _ in range(count):
            key = PrivateKey.generate(entropy)
            overlay = make(key=key)
            directory = make_directory(
                key,
                overlay,
                overlay.discovery,
                acceptable=lambda address: is_acceptable(address, allow_private=True),
                clock=SystemClock(),
                entropy=entropy,
                diverse=False,
                spare=lambda _: False,
            )
            overlay.find_addresses = directory.look_up
            await stack.enter_async_context(overlay.running())
            await stack.enter_async_context(directory.running())
            running.append((overlay, directory))
        yield running


async def test_nodes_in_a_row_find_each_other_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.discovery.directory.FIRST_PUBLISH", (0.0, 0.1))
    async with nodes(4) as ((a, in_a), (b, _), (c, _), (d, in_d)):
        for left, right in ((a, b), (b, c), (c, d)):
            await left.connect(right.listen_addresses()[0])
        await eventually(lambda: in_d.published and in_a.nodes >= 1, timeout=20)
        for overlay in (a, d):  # what they were told of each other is forgotten: only the directory knows
            overlay.discovery.policy._book.clear()
        await a.disconnect(d.node_id)
        protocol = serve(d, "echo", echo)
        before = in_a.figures()
        assert set(await in_a.look_up(d.node_id)) == set(d.listen_addresses())
        after = in_a.figures()
        assert after["found"] == before.get("found", 0) + 1
        assert after["lookups"] > before.get("lookups", 0)
        assert after["nodes"] == in_a.nodes
        a.discovery.policy._book.clear()
        stream = await a.open_stream(d.node_id, protocol)
        assert stream.peer == d.node_id
        assert await ask(stream, b"hello") == b"hello"
        nobody = PrivateKey.generate(SystemEntropy()).node_id
        with pytest.raises(PeerUnreachable, match="directory"):
            await a.open_stream(nobody, protocol)
