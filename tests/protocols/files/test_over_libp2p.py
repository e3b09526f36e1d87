"""A large file between two nodes on libp2p, over real sockets on loopback."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
import trio

from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.entropy import SystemEntropy
from p2p.host.overlay import LibP2POverlay
from p2p.identity import PrivateKey
from p2p.testing.nodes import memory_nodes
from protocols.files.handler import FilesProtocol

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 50_000_000


def make(key: PrivateKey) -> LibP2POverlay:
    entropy = SystemEntropy()
    return LibP2POverlay(
        key,
        "devnet",
        clock=SystemClock(),
        entropy=entropy,
        settings=DiscoverySettings(target_peers=0),
    )


@pytest.mark.slow
async def test_fifty_megabytes_each_way(tmp_path: Path) -> None:
    content = os.urandom(SIZE)
    await trio.Path(tmp_path / "source").write_bytes(content)
    keys = [PrivateKey.generate(SystemEntropy()) for _ in range(2)]
    a, b = (make(key) for key in keys)
    files_a, files_b = FilesProtocol(), FilesProtocol()
    async with memory_nodes(1, seed=1) as (node,), a.running(), b.running():
        of_a, of_b = (
            dataclasses.replace(node, overlay=overlay, bus=LocalBus(overlay.node_id), signer=key)
            for overlay, key in zip((a, b), keys, strict=True)
        )
        async with files_a.running(of_a), files_b.running(of_b):
            await b.connect(a.listen_addresses()[0])
            url = await files_a.publish(tmp_path / "source")
            assert await files_b.download(url, tmp_path / "down") == SIZE
            slot = await files_a.receive(tmp_path / "up")
            assert await files_b.upload(slot, tmp_path / "down") == SIZE
    for name in ("down", "up"):
        got = await trio.Path(tmp_path / name).read_bytes()
        assert hashlib.sha3_256(got).digest() == hashlib.sha3_256(content).digest()
