"""What whole stories stand on: a network of real processes in a folder, and foreign clients' environments."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from node.cli.common import NodeClient
from node.config import Config, load
from node.devnet.local import LocalNetwork
from tests.exeunit.runtimes.wasm.guests import COPY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
SHOWN_BYTES = 4000
"""How much of the end of each log a failure shows."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the story's processes said."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.failed and isinstance(folder, Path):
        for log in sorted(folder.rglob("*.log")):
            text = log.read_text(errors="replace")[-SHOWN_BYTES:]
            report.sections.append((f"the end of {log.relative_to(folder)}", text))
    return report


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


class Command:
    """A command of ours that runs beside the test. What it says is in files, and shown if the test fails."""

    def __init__(self, folder: Path, name: str, *arguments: str | Path) -> None:
        self._out, self._log = folder / f"{name}.out", folder / f"{name}.log"
        with self._out.open("wb") as out, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(BIN / "golem-p2p"), *map(str, arguments)],
                env=with_commands(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Do as `until` does, but fail at once when the command has ended."""

        def looked() -> Any:
            found = condition()
            if not found and self.process.poll() is not None and not (found := condition()):
                pytest.fail(
                    f"the command ended with {self.process.returncode} before this: {what}\n{self.said}"
                )
            return found

        return until(looked, seconds, what)

    def ended(self, seconds: float) -> int:
        """Wait for its end and return its exit code."""
        return self.process.wait(seconds)

    @property
    def said(self) -> str:
        """Return its standard output."""
        return self._out.read_text(errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


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
