"""Importing the package costs nothing; libp2p comes with `prepare`."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import p2p.host
assert p2p.host.__all__
import p2p.host.addresses, p2p.identity.peer_id, p2p.discovery, p2p.testing.overlay
loaded = [name for name in sys.modules if name.split(".")[0] in ("libp2p", "multiaddr", "eth_keys")]
assert not loaded, loaded
import trio
trio.run(p2p.host.prepare)
assert "libp2p.network.swarm" in sys.modules
import logging
assert not logging.getLogger().handlers
assert p2p.host.LibP2POverlay.__name__ == "LibP2POverlay"
try:
    p2p.host.nonsense
except AttributeError:
    print("fine")
"""


def test_libp2p_is_imported_by_prepare_and_not_before() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
