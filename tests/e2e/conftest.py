"""What whole stories stand on: a network of real processes in a folder, and foreign clients' environments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.cli.common import NodeClient
from node.config import Config, load
from node.devnet.local import LocalNetwork
from tests.exeunit.runtimes.wasm.guests import COPY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what `condition` gives as soon as it is true; fail the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.05)
    return found


@pytest.fixture
def network(tmp_path: Path) -> Iterator[LocalNetwork]:
    """A chain and two providers; everything is stopped afterwards."""
    # Small machines, so that a program can find their limits.
    local = LocalNetwork(tmp_path / "net", {"provider.mem-gib": "0.3", "provider.storage-gib": "0.11"})
    try:
        local.up(2, lambda line: None)
        yield local
    finally:
        local.down()


class Node:
    """A node process under a test's control."""

    def __init__(self, network: LocalNetwork, name: str = "requestor") -> None:
        self.network = network
        self.name = name
        self.pid = 0

    @property
    def config(self) -> Config:
        return load(self.network.folder / self.name, environ={})

    @property
    def client(self) -> NodeClient:
        return NodeClient(self.config)

    def start(self) -> Node:
        self.pid = self.network.start_requestor(lambda line: None).pid
        return self

    def key(self) -> str:
        made: str = self.client.post("/golem-p2p/v1/app-keys", {"name": "test", "origins": []})["key"]
        return made


@pytest.fixture
def requestor(network: LocalNetwork) -> Node:
    """A requestor's node with test money."""
    node = Node(network).start()
    node.client.post("/golem-p2p/v1/payment/fund", {}, timeout=60)
    return node


def provider(network: LocalNetwork, number: int) -> Node:
    """One of the network's providers."""
    node = Node(network, f"provider-{number}")
    node.pid = next(n.pid for n in network.alive() if n.name == node.name)
    return node


def balance(node: Node) -> str:
    """A node's money on chain, as decimal text."""
    amount: str = node.client.get("/golem-p2p/v1/payment/status")["amount"]
    return amount


@pytest.fixture
def copier(tmp_path: Path) -> Path:
    """A WASM program that copies /work/in to /work/out."""
    path = tmp_path / "copy.wasm"
    path.write_bytes(COPY)
    return path


@pytest.fixture(scope="session")
def yapapi_python() -> Path:
    """The interpreter of an environment with yapapi from PyPI, made once and kept beside the tree."""
    lock = Path(__file__).with_name("yapapi.lock")
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    folder, stamp = ROOT / ".venv-yapapi", ROOT / ".venv-yapapi" / "made-from"
    if not stamp.exists() or stamp.read_text() != digest:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        install = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        subprocess.run([*install, "--no-deps", "-r", lock], check=True)
        stamp.write_text(digest)
    return folder / "bin" / "python"


def with_commands(**variables: str) -> dict[str, str]:
    """An environment whose PATH has our commands first."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("YAGNA", "GOLEM", "GSB"))
    }
    return {**kept, "PATH": f"{BIN}:{os.environ['PATH']}", **variables}
