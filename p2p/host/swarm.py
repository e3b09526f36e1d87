"""py-libp2p's swarm and host, wrapped: what is kept of them, and the mends that make them usable.

Kept: listening, the upgrade of connections, the bookkeeping of connections, identify and ping. Mended: an
exception in a stream's handler ends that stream and not the host; an inbound connection's slot and task are given
back when it closes; dialling is our own (no 250 ms floor, no 120 s address book, no blacklist, no retries);
nothing dials or identifies by itself. Offered: TCP, Noise and yamux, and nothing else; never plaintext.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import structlog
import trio
from libp2p.abc import INotifee
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.crypto.x25519 import X25519PrivateKey
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH
from libp2p.network import swarm as stock_swarm
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import TrioManager
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2p.host.muxer import BoundedMuxer
from p2p.host.quiet import hush, hush_module
from p2p.overlay import OverlayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from libp2p.crypto.keys import KeyPair

    from p2p.entropy import Entropy
    from p2p.identity import PrivateKey

__all__ = ["IDENTIFY", "OverlayHost", "OverlaySwarm", "make_host", "swarm_running"]

MAX_CONNECTIONS = 512
UPGRADE_TIMEOUT = 10.0
STOP_TIMEOUT = 0.7
"""Seconds to close what is left when all sessions have been."""

_log = structlog.get_logger("p2p.host")

hush()
hush_module(swarm_connection)
# For the parts of libp2p that dial by themselves (Kademlia, relay); this package has its own dialler.
stock_swarm._HAPPY_EYEBALLS_DELAY = 0  # noqa: SLF001


class OverlaySwarm(stock_swarm.Swarm):  # type: ignore[misc] # no type information upstream
    """The stock swarm with its inbound slots given back, and a dialler that proves who is there."""

    async def dial_address(self, address: str, expected: str | None) -> Any:
        """Dial a multiaddr without peer id; return the connection, upgraded and registered.

        Args:
            expected: the PeerId that has to be there; None takes whoever it is.
        """
        raw = await TCP().dial(Multiaddr(address))
        try:
            peer = None if expected is None else ID.from_string(expected)
            secured = await self.upgrader.security_multistream.secure_outbound(raw, peer)
            muxed = await self.upgrader.upgrade_connection(secured, secured.get_remote_peer())
        except BaseException:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await raw.close()
            raise
        return await self.add_conn(muxed, direction="outbound")

    async def _do_handle_inbound_connection(self, stream: Any, maddr: Any, failure: Any) -> None:
        raw = RawConnection(stream, False)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
        except Exception as error:
            _log.debug("an inbound connection came to nothing", error=repr(error))
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await raw.close()
            return
        for connection in self.get_connections(muxed.peer_id):
            if connection.muxed_conn is muxed:
                await connection.event_closed.wait()


@asynccontextmanager
async def swarm_running(swarm: OverlaySwarm) -> AsyncIterator[None]:
    """Run the swarm; stop it in order at exit, also when the caller is cancelled.

    Cancelled itself, the stock swarm leaves its listeners running, in system tasks, and its sockets open.
    """
    manager = TrioManager(swarm)
    swarm._manager = manager  # noqa: SLF001 - as upstream's own context manager does
    stopping = False

    async def run(scope: trio.CancelScope) -> None:
        with scope:
            await manager.run()
        if not stopping:
            raise OverlayError("libp2p's swarm ended by itself; the node cannot go on without it")

    async with trio.open_nursery() as nursery:
        service = trio.CancelScope()
        service.shield = True
        nursery.start_soon(run, service)
        try:
            await manager.wait_started()
            yield
        finally:
            stopping = True
            with trio.move_on_after(STOP_TIMEOUT) as patience:
                patience.shield = True
                await swarm.close()
            service.cancel()


class Idle:
    """Stands in for the stock auto-connector, which dials whomever it knows, whatever its watermarks say."""

    _is_connecting = False

    async def start(self) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Do nothing."""

    async def maybe_connect(self) -> None:
        """Do nothing."""

    def record_disconnect(self, peer_id: Any) -> None:
        """Do nothing."""


class OverlayHost(BasicHost):  # type: ignore[misc] # no type information upstream
    """The stock host, whose inbound streams go to `serve_inbound`, and which identifies nobody unasked."""

    def __init__(self, network: OverlaySwarm) -> None:
        super().__init__(network=network, disable_identify_address_discovery=True)
        self.serve_inbound: Callable[[Any], Awaitable[None]] | None = None
        self.multiselect.handlers.pop(IDENTIFY_PUSH)  # writes what anyone claims into an unbounded peer store
        network.notifees = [n for n in network.notifees if type(n).__module__ != BasicHost.__module__]

    async def _swarm_stream_handler(self, net_stream: Any) -> None:
        assert self.serve_inbound is not None
        try:
            await self.serve_inbound(net_stream)
        except Exception as error:
            _log.warning("serving an inbound stream failed", error=repr(error), exc_info=True)

    def _schedule_identify(self, peer_id: Any, *, reason: str) -> None:
        """Do nothing: hello says what identify would, and stock identify runs in tasks that nobody owns."""


class Watcher(INotifee):  # type: ignore[misc] # no type information upstream
    """Tells a function of every connection that was made, in either direction."""

    def __init__(self, connected: Callable[[Any], None]) -> None:
        self._connected = connected

    async def connected(self, network: Any, conn: Any) -> None:
        self._connected(conn)

    async def disconnected(self, network: Any, conn: Any) -> None:
        pass

    async def opened_stream(self, network: Any, stream: Any) -> None:
        pass

    async def closed_stream(self, network: Any, stream: Any) -> None:
        pass

    async def listen(self, network: Any, multiaddr: Any) -> None:
        pass

    async def listen_close(self, network: Any, multiaddr: Any) -> None:
        pass


def make_host(key: PrivateKey, entropy: Entropy, connected: Callable[[Any], None]) -> OverlayHost:
    """Return a host with the identity of `key`, that calls `connected` for each connection."""
    pair: KeyPair = create_new_key_pair(key.secret)
    noise = NoiseTransport(pair, noise_privkey=X25519PrivateKey.from_bytes(entropy.token_bytes(32)))
    upgrader = TransportUpgrader({NOISE: noise}, {}, negotiate_timeout=int(UPGRADE_TIMEOUT))
    upgrader.muxer_multistream = BoundedMuxer()
    peer_id = ID.from_pubkey(pair.public_key)
    peers = PeerStore()
    peers.add_key_pair(peer_id, pair)
    swarm = OverlaySwarm(
        peer_id,
        peers,
        upgrader,
        transports=[TCP()],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(
            max_connections=MAX_CONNECTIONS,
            min_connections=0,
            low_watermark=0,
            high_watermark=MAX_CONNECTIONS,
            inbound_upgrade_timeout=UPGRADE_TIMEOUT,
            outbound_upgrade_timeout=UPGRADE_TIMEOUT,
        ),
    )
    swarm.auto_connector = Idle()
    swarm.register_notifee(Watcher(connected))
    return OverlayHost(swarm)
