"""`Overlay` on libp2p: the only code of the project that imports libp2p.

libp2p takes 0.6 to 3 s and some 55 MB to import, so this package does it only when told to, in a worker thread:

    await prepare()
    overlay = LibP2POverlay(key, "devnet", clock=clock, entropy=entropy)
    async with overlay.running():
        ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import trio

from p2p.host.quiet import hush

if TYPE_CHECKING:
    from p2p.host.overlay import LibP2POverlay

__all__ = ["LibP2POverlay", "prepare"]


hush()  # here, so that it precedes any import of libp2p by this package


async def prepare() -> None:
    """Import libp2p in a worker thread, so that the event loop goes on meanwhile. Safe to repeat."""
    await trio.to_thread.run_sync(importlib.import_module, "p2p.host.overlay")


def __getattr__(name: str) -> Any:
    if name == "LibP2POverlay":
        return importlib.import_module("p2p.host.overlay").LibP2POverlay
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
