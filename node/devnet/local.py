"""A network on this machine: the embedded chain and some provider nodes, each a process of its own.

Everything lives in one folder: `chain/`, `provider-1/` ..., `requestor/` (for the demo), and `devnet.json`, which
says what runs and how to join. A process that is named there counts only while `/proc` says that it is still
that one, by its start time. Synchronous: commands call it; nodes are children in sessions of their own, so that
Ctrl-C reaches the command alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import msgspec

from node.config import DEVNET_FILE
from node.devnet import control
from node.devnet.control import DevnetError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

START_PATIENCE = 60.0
"""Seconds for a node to join its overlay; a loaded machine imports slowly."""
STOP_PATIENCE = 20.0
MAX_PROVIDERS = 32
_POLL = 0.05
_LOCK_FILE = "devnet.lock"
_DEVNET_ONLY = (
    "GOLEM_P2P_",
    "YAGNA_",
    "GSB_URL",
    "YA_",
    "DEBIT_NOTE_INTERVAL",
    "NODE_NAME",
    "SUBNET",
    "PAYMENT_",
)


class NodeProcess(msgspec.Struct, frozen=True):
    """A node of the local network."""

    name: str
    data_dir: str
    pid: int
    started: int
    """Start time of the process, in the kernel's ticks: tells it from a later one with its pid."""
    address: str = ""
    """Multiaddr that others can dial."""


class LocalState(msgspec.Struct, frozen=True):
    """What `devnet.json` holds."""

    rpc: str
    bootstrap: tuple[str, ...]
    nodes: tuple[NodeProcess, ...] = ()


class LocalNetwork:
    """The network in `folder`."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Look at a folder.

        Args:
            settings: given to every node that is started, over the defaults of a local network.
        """
        self.folder = folder.absolute()
        self._settings = dict(settings or {})
        self._file = self.folder / DEVNET_FILE
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def up(self, providers: int, tell: Callable[[str], None], *, requestor: bool = False) -> LocalState:
        """Start the chain and as many providers as are missing; what runs already is left running.

        Args:
            tell: gets a line for each step.
            requestor: whether the node `requestor` is wanted too.

        Raises:
            DevnetError: something did not start; the text names its log.
        """
        if not 0 <= providers <= MAX_PROVIDERS:
            raise DevnetError(f"the number of providers must be 0 to {MAX_PROVIDERS}")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            return self._up(providers, tell, requestor=requestor)

    def _up(self, providers: int, tell: Callable[[str], None], *, requestor: bool) -> LocalState:
        state = self.state()
        running = {node.name: node for node in (state.nodes if state else ()) if _alive(node)}
        tell("starting the chain ...")
        chain = self._chain_up()
        state = _with_nodes(LocalState(chain.rpc_url, ()), running.values())
        self._save(state)
        names = [f"provider-{i + 1}" for i in range(providers)] + ["requestor"] * requestor
        missing = [name for name in names if name not in running]
        if missing and not any(node.address for node in running.values()):
            # The first one is whom the others ask for more.
            state = self._started(state, [missing.pop(0)], tell)
        return self._started(state, missing, tell)

    def start_requestor(self, tell: Callable[[str], None]) -> NodeProcess:
        """Start the node `requestor` and return it."""
        state = self.state()
        assert state is not None
        self._started(state, ["requestor"], tell)
        state = self.state()
        assert state is not None
        return next(node for node in state.nodes if node.name == "requestor")

    def state(self) -> LocalState | None:
        """Return what was started here, whether or not it still runs."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LocalState)
        except (OSError, msgspec.DecodeError):
            return None

    def alive(self) -> tuple[NodeProcess, ...]:
        """Return the nodes that run."""
        state = self.state()
        return tuple(node for node in (state.nodes if state else ()) if _alive(node))

    def down(self) -> int:
        """Stop every node, then the chain; return how many processes were stopped."""
        nodes = self.alive()
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_PATIENCE
        for node in nodes:
            self._await_end(node, deadline)
        stopped = len(nodes) + control.down(self.folder / "chain")
        self._file.unlink(missing_ok=True)
        return stopped

    def reset(self) -> None:
        """Stop everything and forget it: chain, keys, balances."""
        self.down()
        control.reset(self.folder / "chain")
        for path in self.folder.glob("provider-*"):
            shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(self.folder / "requestor", ignore_errors=True)

    def _chain_up(self) -> control.ChainInfo:
        """Start the chain: a known one where it was, so that nodes find it; a new one, or one whose port is
        taken meanwhile, on any free port."""
        folder = self.folder / "chain"
        if self._known_chain():
            with contextlib.suppress(DevnetError):
                return control.up(folder)
        return control.up(folder, 0)

    def _known_chain(self) -> bool:
        return any((self.folder / "chain").glob("*.json"))

    def _started(self, state: LocalState, names: Sequence[str], tell: Callable[[str], None]) -> LocalState:
        """Start nodes side by side, wait until each has joined, and write down what runs."""
        spawned = []
        for name in names:
            tell(f"starting {name} ...")
            spawned.append(self._spawn(state, name))
            # Written before it is waited for: a command that is killed now leaves a trace to clean up by.
            state = msgspec.structs.replace(state, nodes=(*state.nodes, spawned[-1]))
            self._save(state)
        # Also those whose start a command was killed at, before it knew their addresses.
        for node in [node for node in state.nodes if not node.address]:
            joined = self._await_join(node)
            state = _with_nodes(
                state, [joined if other.name == node.name else other for other in state.nodes]
            )
            self._save(state)
        return state

    def _spawn(self, state: LocalState, name: str) -> NodeProcess:
        data_dir = self.folder / name
        data_dir.mkdir(mode=0o700, exist_ok=True)
        settings = {
            "api.url": "http://127.0.0.1:0",
            "overlay.network": "devnet",
            "overlay.listen": "/ip4/127.0.0.1/tcp/0",
            "overlay.bootstrap": ",".join(state.bootstrap),
            "payment.network": "devnet",
            "payment.rpc": state.rpc,
            "provider.enabled": str(name != "requestor").lower(),
            "provider.name": name,
            **self._settings,
        }
        command = [sys.executable, "-P", "-m", "node.cli.main", "node", "run", "--data-dir", str(data_dir)]
        for setting, value in settings.items():
            command += ["--set", f"{setting}={value}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(_DEVNET_ONLY)}
        (data_dir / "rest.json").unlink(missing_ok=True)
        with (data_dir / "node.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - this interpreter and our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._children[process.pid] = process
        return NodeProcess(name, str(data_dir), process.pid, control.start_time(process.pid) or 0)

    def _await_join(self, node: NodeProcess) -> NodeProcess:
        deadline = time.monotonic() + START_PATIENCE
        while time.monotonic() < deadline:
            if not self._runs(node):
                raise DevnetError(f"{node.name} ended at once; its log ends:\n{self._log_tail(node)}")
            listen = _listen_addresses(self.folder / node.name)
            if listen:
                return msgspec.structs.replace(node, address=listen[0])
            time.sleep(_POLL)
        raise DevnetError(
            f"{node.name} did not join within {START_PATIENCE:.0f} s; see {node.data_dir}/node.log"
        )

    def _await_end(self, node: NodeProcess, deadline: float) -> None:
        while self._runs(node):
            if time.monotonic() > deadline:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(node.pid, signal.SIGKILL)
            time.sleep(_POLL)

    def _runs(self, node: NodeProcess) -> bool:
        child = self._children.get(node.pid)
        if child is not None and child.poll() is not None:  # also reaps it
            return False
        return _alive(node)

    def _log_tail(self, node: NodeProcess) -> str:
        with contextlib.suppress(OSError):
            return (self.folder / node.name / "node.log").read_text(errors="replace")[-2000:]
        return "(no log)"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time start nodes here: two would start the same ones."""
        with (self.folder / _LOCK_FILE).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _save(self, state: LocalState) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state)))
        temporary.replace(self._file)


def _with_nodes(state: LocalState, nodes: Iterable[NodeProcess]) -> LocalState:
    """Return the state with these nodes; whoever joins later asks its providers for the others."""
    nodes = tuple(nodes)
    bootstrap = tuple(node.address for node in nodes if node.name != "requestor" and node.address)
    return LocalState(state.rpc, bootstrap, nodes)


def _alive(node: NodeProcess) -> bool:
    return control.start_time(node.pid) == node.started


def _listen_addresses(data_dir: Path) -> list[str]:
    try:
        access = json.loads((data_dir / "rest.json").read_text())
        parts = urllib.parse.urlsplit(access["url"])
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=5)
        connection.request("GET", "/golem-p2p/v1/id", headers={"Authorization": f"Bearer {access['token']}"})
        document: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return list(document["addresses"])
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return []
