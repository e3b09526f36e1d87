"""A node process, with a chain of its own, that the command line talks to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.cli.common import NodeClient
from node.cli.main import main
from node.config import load
from node.devnet.local import LocalNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OURS = ("YAGNA_", "YA_", "GOLEM_P2P_", "GSB_URL", "SUBNET", "NODE_NAME", "PAYMENT_")


class House:
    """A running node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def client(self) -> NodeClient:
        return NodeClient(load(self.folder, environ={}))

    @property
    def node_id(self) -> str:
        node_id: str = self.client.get("/golem-p2p/v1/id")["nodeId"]
        return node_id


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    network = LocalNetwork(tmp_path_factory.mktemp("house"))
    try:
        network.up(0, lambda line: None)
        yield House(Path(network.start_requestor(lambda line: None).data_dir))
    finally:
        network.down()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in environment().keys() ^ os.environ.keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("YAGNA_DATADIR", str(tmp_path / "nobody"))


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment that says nothing to our commands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return {**kept, **(more or {})}


class Ran:
    """How a command went."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run `golem-p2p` in this process."""

    def golem_p2p(*argv: str, command: Callable[[list[str]], int] = main) -> Ran:
        capsys.readouterr()
        code = command([str(word) for word in argv])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return golem_p2p


def start(*argv: str, **more: Any) -> subprocess.Popen[bytes]:
    """Start a module of ours as a process: `start("node.cli.main", ...)`."""
    return subprocess.Popen(
        [sys.executable, "-m", *argv],
        env=environment(more.pop("env", None)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Return what `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds} s: {what}")
        time.sleep(0.02)
    return found
