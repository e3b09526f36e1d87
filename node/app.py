"""Builds a node from a Config: the only place where concrete classes meet.

Order: identity, database, bus and door, protocols, REST; then libp2p is loaded in a worker thread and the
overlay joined behind it all, so that the node answers its owner at once. Leaving the context stops in the
reverse order, bounded: what must survive is in the database already.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import sys
import urllib.parse
from typing import TYPE_CHECKING, Any

import structlog
import trio

from node.api import activity as activity_api
from node.api import identity as identity_api
from node.api import market as market_api
from node.api import metrics as metrics_api
from node.api import own as own_api
from node.api import own_net as own_net_api
from node.api import payment as payment_api
from node.api.listener import serving
from node.api.server import RestServer
from node.app_keys import AUTOCONFIGURED, AppKeys
from node.config import ConfigError
from node.keys import open_identity
from node.provider.agent import ProviderAgent
from node.provider.exeunits import SupervisorLauncher
from node.provider.runtimes import Unfit, builtin_runtimes, examine
from node.requestor.service import RequestorService
from p2p.broadcast.driver import GossipBroadcast
from p2p.broadcast.wire import PROTOCOL_11, PROTOCOL_12
from p2p.bus.door import Door
from p2p.bus.peer import PeerBus
from p2p.bus.router import LocalBus
from p2p.clock import SystemClock
from p2p.discovery import DiscoverySettings
from p2p.discovery.directory import make_directory
from p2p.discovery.peer_store import FilePeerStore
from p2p.entropy import SystemEntropy
from p2p.events import EventLog
from p2p.host.addresses import is_acceptable
from p2p.host.deferred import DeferredOverlay
from p2p.host.limits import HostLimits
from p2p.identity import recover
from p2p.protocol import ENTRY_POINT_GROUP, NodeContext
from p2p.storage import open_database
from protocols.activity.handler import ActivityProtocol
from protocols.files.bulk import BulkSocket
from protocols.files.handler import FilesProtocol
from protocols.market.handler import MarketProtocol
from protocols.payment import settings as payment_settings
from protocols.payment.handler import PaymentProtocol
from protocols.payment.networks import UnknownPlatform, network_of, resolve_platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from node.api.own_net import NodeDirectory
    from node.api.web import Session
    from node.config import Config
    from node.provider.runtimes import RuntimeDescriptor
    from p2p.discovery import Discovery
    from p2p.host.overlay import LibP2POverlay
    from p2p.identity import PrivateKey
    from p2p.metrics import HostFigures
    from p2p.protocol import Protocol
    from p2p.reach.verdict import Reach
    from protocols.payment.drivers.base import DriverFactory

ACCESS_FILE = "rest.json"
GOSSIP_IDS = (PROTOCOL_11, PROTOCOL_12)
DRIVER_GROUP = "golem_p2p.payment_drivers"


class AlreadyRunning(Exception):
    """Another process runs a node on the data folder."""


class Node:
    """A running node, for the REST edge and the node's own parts."""

    def __init__(self, config: Config, key: PrivateKey) -> None:
        self.config = config
        self.key = key
        self.clock = SystemClock()
        self.entropy = SystemEntropy()
        self.log = structlog.get_logger("node")
        self.started_ns = self.clock.utc_ns()
        self.stop_requested = trio.Event()
        self.problems: list[str] = []
        """What is wrong, in lines that say what to do."""
        self.plugins: list[str] = []
        self.api_url = ""
        self.events = EventLog(self.clock)
        """What happens on the network."""
        self.overlay = DeferredOverlay(key.node_id, config.text("overlay.network"))
        self.host_figures: Callable[[], HostFigures | None] = lambda: None
        """What the sessions hold and have carried; None until libp2p is loaded."""
        self.discovery: Discovery | None = None
        """The address book, and who is dialled; there once libp2p is loaded."""
        self.directory: NodeDirectory | None = None
        """Where nodes publish their addresses, where this node takes part in that."""
        self.reach: Reach | None = None
        """What is known of how others reach this node, where that is looked into."""
        self.bus = LocalBus(key.node_id)
        self.broadcast: GossipBroadcast
        self.market = MarketProtocol()
        self.payment: PaymentProtocol
        self.activity: ActivityProtocol
        self.files = FilesProtocol()
        self.app_keys: AppKeys
        self.provider: ProviderAgent | None = None
        self.requestor: RequestorService

    @property
    def name(self) -> str:
        """Return the name shown to others."""
        return self.config.text("provider.name") or f"node-{self.key.node_id[2:8]}"


@contextlib.asynccontextmanager
async def running_node(config: Config) -> AsyncIterator[Node]:
    """Run a node while the context is open.

    Raises:
        AlreadyRunning: the data folder is in use.
        ConfigError: a setting cannot be used.
        OSError: the REST address is taken.
    """
    config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _lock(config.data_dir):
        key = await trio.to_thread.run_sync(open_identity, config, SystemEntropy())
        node = Node(config, key)
        async with contextlib.AsyncExitStack() as stack:
            await _start(node, stack)
            yield node


async def _start(node: Node, stack: contextlib.AsyncExitStack) -> None:
    config = node.config
    nursery = await stack.enter_async_context(trio.open_nursery())
    stack.callback(nursery.cancel_scope.cancel)
    database = await stack.enter_async_context(open_database(config.data_dir / "node.sqlite3"))
    node.app_keys = AppKeys(database, node.clock, node.entropy)
    await node.app_keys.open()
    if config.text("identity.app-key"):
        await node.app_keys.create(AUTOCONFIGURED, node.key.node_id, key=config.text("identity.app-key"))

    await stack.enter_async_context(PeerBus(node.overlay, node.bus).running())
    door = Door(node.bus, config.bus_path, entropy=node.entropy)
    door.store_owner_token()
    await stack.enter_async_context(door.running())
    broadcast = node.broadcast = GossipBroadcast(
        node.overlay,
        node.key,
        node.clock,
        node.entropy,
        structlog.get_logger("broadcast"),
        report=node.events.add,
    )
    await stack.enter_async_context(broadcast.running())
    context = NodeContext(
        overlay=node.overlay,
        bus=node.bus,
        broadcast=broadcast,
        database=database,
        clock=node.clock,
        entropy=node.entropy,
        signer=node.key,
        verifier=recover,
        settings={},
        log=structlog.get_logger("node"),
    )
    bulk = BulkSocket(
        config.bus_path.with_name("bulk.sock"), node.overlay, structlog.get_logger("bulk"), node.files.serve
    )
    await stack.enter_async_context(bulk.running())
    runtimes = builtin_runtimes(private_addresses=config.text("overlay.network") == "devnet")
    launcher = SupervisorLauncher(
        config.data_dir / "exe-unit", door, bulk, runtimes, node.entropy, structlog.get_logger("exe-unit")
    )
    node.activity = ActivityProtocol(launcher if config["provider.enabled"] else None)
    node.payment = PaymentProtocol(_payment_settings(config), drivers=_drivers(node))
    for protocol in (node.market, node.payment, node.activity, node.files):
        await stack.enter_async_context(protocol.running(_context_of(context, protocol, node)))
    await _start_plugins(node, context, stack)
    # Some libraries raise it without limit (py_ecc: 100,000), and decoders of hostile input rely on it: a plug-in
    # must not bring that in.
    sys.setrecursionlimit(1000)
    node.requestor = await stack.enter_async_context(RequestorService.running(node, database))
    await _start_rest(node, stack)
    nursery.start_soon(_join_overlay, node)
    if config["provider.enabled"]:
        node.provider = await stack.enter_async_context(
            ProviderAgent.running(node, await _fit(node, runtimes))
        )


async def _fit(node: Node, runtimes: Mapping[str, RuntimeDescriptor]) -> dict[str, RuntimeDescriptor]:
    """Return the runtimes that pass their self test; the others are named among the node's problems."""
    fit = {}
    for name, runtime in runtimes.items():
        try:
            fit[name] = await examine(runtime)
        except Unfit as error:
            node.log.error("runtime not offered", runtime=name, reason=str(error))
            node.problems.append(f"the runtime {name} is not offered: {error}")
    return fit


def _drivers(node: Node) -> list[DriverFactory]:
    """Return the payment drivers of this environment, ours among them; a broken one is named and left out."""
    drivers = []
    for entry in importlib.metadata.entry_points(group=DRIVER_GROUP):
        try:
            drivers.append(entry.load())
        except Exception as error:
            node.log.exception("payment driver not loaded", plugin=entry.name)
            node.problems.append(f"the payment driver {entry.name} could not be loaded: {error}")
    return drivers


def _payment_settings(config: Config) -> payment_settings.Settings:
    name = config.text("payment.network")
    cycle: float = config["payment.cycle"]
    environment = dict(os.environ)
    try:
        platform = resolve_platform(network=name)
        if config["payment.rpc"]:
            environment[network_of(platform).rpc_variable] = ",".join(config["payment.rpc"])
        settings = payment_settings.Settings(cycle_s=cycle or None, accounts=(str(platform),))
        return payment_settings.from_environment(settings, environment)
    except (UnknownPlatform, ValueError) as error:
        raise ConfigError(f"payment.network = {name!r}: {error}") from error


def _context_of(context: NodeContext, protocol: Protocol, node: Node) -> NodeContext:
    import dataclasses

    settings: Mapping[str, Any] = node.config.section(protocol.name)
    if protocol is node.market:
        settings = {"ttl": node.config["market.ttl"], **settings}
    return dataclasses.replace(context, settings=settings, log=structlog.get_logger(protocol.name))


async def _start_plugins(node: Node, context: NodeContext, stack: contextlib.AsyncExitStack) -> None:
    """Run the protocols of other packages; one that does not start is named and left out."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            protocol = entry.load()(node.config.section(entry.name))
            await stack.enter_async_context(protocol.running(_context_of(context, protocol, node)))
        except Exception as error:
            node.log.exception("plug-in did not start", plugin=entry.name)
            node.problems.append(f"the protocol plug-in {entry.name} did not start: {error}")
        else:
            node.plugins.append(entry.name)


async def _start_rest(node: Node, stack: contextlib.AsyncExitStack) -> None:
    url = urllib.parse.urlsplit(node.config.text("api.url"))
    if url.scheme != "http" or not url.hostname:
        raise ConfigError(f"api.url is {node.config.text('api.url')!r}: expected http://HOST:PORT")
    owner_token = node.entropy.token_bytes(32).hex()
    server = RestServer(
        functools.partial(_session, node, owner_token),
        structlog.get_logger("rest"),
        allowed_origins=node.config["api.allow-origin"],
        origins_of=node.app_keys.origins,
    )
    for routes in (
        own_api.routes(node),
        own_net_api.routes(node),
        *identity_api.routes(node),
        metrics_api.routes(
            metrics_api.Sources(
                node.overlay,
                node.events,
                node.broadcast.counters,
                server.requests,
                node.bus.calls,
                host=lambda: node.host_figures(),
                verdict=lambda: node.reach.verdict if node.reach else None,
                known=lambda: node.discovery.policy.size if node.discovery else None,
                skew=lambda: node.discovery.skew.seconds if node.discovery else None,
                directory=lambda: node.directory.figures() if node.directory else {},
            )
        ),
        market_api.routes(node.market),
        activity_api.routes(node.activity),
        payment_api.routes(node.payment),
    ):
        server.add(routes)
    port = 80 if url.port is None else url.port
    node.api_url = await stack.enter_async_context(serving(server, url.hostname, port))
    access = node.config.data_dir / ACCESS_FILE
    _write_access(access, {"url": node.api_url, "token": owner_token, "pid": os.getpid()})
    stack.callback(access.unlink, missing_ok=True)


async def _session(node: Node, owner_token: str, key: str) -> Session | None:
    from node.api.web import Session

    if key == owner_token:
        return Session(node.key.node_id, own_api.OWNER, "owner")
    return await node.app_keys.session(key)


async def _join_overlay(node: Node) -> None:
    """Load libp2p and be part of the network until cancelled."""
    from p2p import host
    from p2p.reach.reports import report_changes
    from p2p.reach.service import ReachService, ReachSettings

    await host.prepare()
    # Loading cannot be interrupted; and an overlay that is begun when the node is already stopping does not end.
    await trio.lowlevel.checkpoint_if_cancelled()
    config = node.config
    overlay = host.LibP2POverlay(
        node.key,
        config.text("overlay.network"),
        config["overlay.listen"],
        config["overlay.bootstrap"],
        clock=node.clock,
        entropy=node.entropy,
        peer_store=FilePeerStore(config.data_dir / "peers.json"),
        agent=f"golem-p2p/{importlib.metadata.version('golem-p2p')}",
        report=node.events.add,
        mdns=config["overlay.mdns"] and config.text("overlay.network") != "devnet",
        limits=HostLimits(
            connections=config["overlay.connections"],
            prune_above=config["overlay.connections"] * 5 // 6,
            deny=config["overlay.deny"],
        ),
        reuse_port=config["overlay.reuse-port"],
    )
    node.overlay.attach(overlay)
    node.discovery, node.host_figures = overlay.discovery, overlay.figures
    reach = ReachService(
        overlay.reach_host,
        clock=node.clock,
        entropy=node.entropy,
        settings=ReachSettings(
            relay_client=config["overlay.relay-client"],
            relay_server=config["overlay.relay-server"],
            hole_punching=config["overlay.hole-punching"],
            port_mapping=config["overlay.port-mapping"],
        ),
    )
    overlay.dial_relayed = reach.open_circuit
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(overlay.running())
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(reach.run)
        stack.callback(report_changes(reach, node.events.add))
        node.reach = reach
        if config["overlay.dht"]:
            node.directory = await _join_directory(node, overlay, stack)
        node.overlay.set_joined()
        node.log.info("joined the overlay", network=overlay.network, listening=overlay.listen_addresses())
        await trio.sleep_forever()


async def _join_directory(
    node: Node, overlay: LibP2POverlay, stack: contextlib.AsyncExitStack
) -> NodeDirectory:
    """Find nodes by their NodeId, and be found by it, while `stack` is open."""
    devnet = overlay.network == "devnet"

    def spare(peer: str) -> bool:
        """Whether a session that a lookup made carries nothing but gossip, which has peers enough without it."""
        enough = len(overlay.peers()) > DiscoverySettings().target_peers
        idle = all(protocol in GOSSIP_IDS for protocol in overlay.speaking(peer))
        return enough and idle and not overlay.keeps(peer)

    directory = make_directory(
        node.key,
        overlay,
        overlay.discovery,
        acceptable=functools.partial(is_acceptable, allow_private=devnet),
        clock=node.clock,
        entropy=node.entropy,
        diverse=not devnet,
        spare=spare,
    )
    overlay.find_addresses = directory.look_up
    await stack.enter_async_context(directory.running())
    return directory


@contextlib.contextmanager
def _lock(data_dir: Path) -> Any:
    with (data_dir / "node.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(
                f"a node runs on {data_dir} already; stop it with `golem-p2p node stop`, or choose another --data-dir"
            ) from error
        yield


def _write_access(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(document, file)
    temporary.replace(path)
