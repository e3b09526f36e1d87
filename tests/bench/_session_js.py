"""js-libp2p for the session benchmark: the same work by `tests/interop/js/bench.mjs`, server and client a process each.

Both are left to the scheduler, since Node collects garbage on threads of its own. There only where `make interop`
has built it.
"""

from __future__ import annotations

import json
import subprocess
from typing import cast

from tests.interop.prepare import BUILT, missing

NAME = "js-libp2p"
PATIENCE = 300.0


def measure() -> dict[str, float]:
    """Return the figures by name; none where js-libp2p is not."""
    if missing("js") is not None:
        return {}
    return {**_work("all"), **_work("idle")}


def _work(which: str) -> dict[str, float]:
    folder, command = BUILT / "js", ["node", "bench.mjs"]
    with subprocess.Popen(
        [*command, "serve"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            place = json.loads(server.stdout.readline())
            done = subprocess.run(
                [*command, "call", place["address"], str(place["pid"]), which],
                cwd=folder,
                stdout=subprocess.PIPE,
                timeout=PATIENCE,
                check=True,
            )
        finally:
            server.kill()
    return cast("dict[str, float]", json.loads(done.stdout))
