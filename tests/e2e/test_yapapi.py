"""An unmodified yapapi 0.13.1 script computes on two providers, moves files, and pays."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import random
import subprocess
import threading
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import Node, balance, provider, until, with_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = Path(__file__).with_name("yapapi_script.py")
TASKS = 6

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def package(copier: Path) -> Iterator[str]:
    """The program as a task package: an HTTP server of the requestor's, and the hash."""
    handler = functools.partial(_Quiet, directory=str(copier.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        digest = hashlib.sha3_224(copier.read_bytes()).hexdigest()
        yield f"hash:sha3:{digest}:http://127.0.0.1:{server.server_port}/{copier.name}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("mode", ["poll", "stream"])
def test_computes_moves_files_and_pays(
    requestor: Node, yapapi_python: Path, package: str, tmp_path: Path, mode: str
) -> None:
    providers = [provider(requestor.network, number) for number in (1, 2)]
    before = {node.name: Decimal(balance(node)) for node in providers}
    data = random.Random(7)
    for index in range(TASKS):
        (tmp_path / f"in-{index}").write_bytes(data.randbytes(1 + 60_000 * index))

    done = subprocess.run(
        [yapapi_python, SCRIPT, package, tmp_path, str(TASKS), mode, "public"],
        env=with_commands(
            YAGNA_APPKEY=requestor.key(),
            YAGNA_API_URL=requestor.client.url,
            GSB_URL=f"unix:{requestor.config.bus_path}",
        ),
        cwd=tmp_path,
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])

    for index in range(TASKS):
        assert (tmp_path / f"out-{index}").read_bytes() == (tmp_path / f"in-{index}").read_bytes()
    assert len(seen["finished"]) == TASKS
    assert len(set(seen["finished"])) == 2, "both providers worked"
    assert len(seen["invoices"]) == 2

    total = sum(map(Decimal, seen["invoices"]))
    assert total > 0

    def earned() -> Decimal:
        return sum((Decimal(balance(node)) - before[node.name] for node in providers), Decimal(0))

    until(lambda: earned() == total, 60, "the providers have on chain what the invoices say")
    for node in (requestor, *providers):
        agreements = node.client.get("/golem-p2p/v1/agreements")
        assert {a["state"] for a in agreements} == {"Terminated"}

    def settled(*nodes: Node) -> Decimal:
        listed = [a for node in nodes for a in node.client.get("/golem-p2p/v1/agreements")]
        return sum((Decimal(a["paid"]) for a in listed), Decimal(0))

    until(lambda: settled(requestor) == total, 30, "settled at the requestor")
    until(lambda: settled(*providers) == total, 30, "settled at the providers")
