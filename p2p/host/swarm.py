"""py-libp2p's swarm and host, wrapped: their books and their identify, and nothing that runs by itself.

Sessions are `p2p.session`'s, made and run by the overlay; each is entered here as a connection, so that stock code
finds it. Stock dialling, upgrading, accepting, pruning, health checks and identify-push never run: what is wrong
with them is shown by tests (`tests/p2p/host/test_mends.py`), each of which fails on stock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network import swarm as stock_swarm
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.net_stream import NetStream, StreamState
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2p.host.quiet import hush, hush_module
from p2p.host.stock import StockConnection, StockStream
from p2p.overlay import OverlayError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.identity import PrivateKey
    from p2p.session import MuxedStream, Session

STOCK_TIMEOUT = 30.0
"""Seconds that a stock handler has for one write or close; reading is bounded by the handlers."""

hush()
hush_module(swarm_connection)


class _Entry(SwarmConn):  # type: ignore[misc] # no type information upstream
    """A connection in the books, whose address is read when somebody asks for it."""

    def get_transport_addresses(self) -> list[Multiaddr]:
        addresses: list[Multiaddr] = self.muxed_conn.get_transport_addresses()
        return addresses

    def get_connection_type(self) -> Any:
        return self.muxed_conn.get_connection_type()


class OverlaySwarm(stock_swarm.Swarm):  # type: ignore[misc] # no type information upstream
    """The stock swarm as a table of connections."""

    def enter(self, session: Session, address: str, *, initiator: bool) -> StockConnection:
        """Enter a session in the books."""
        connection = StockConnection(session, address, initiator=initiator)
        entry = _Entry(connection, self, direction="outbound" if initiator else "inbound")
        entry.event_started.set()
        self.connections.setdefault(connection.peer_id, []).append(entry)
        return connection

    def forget(self, connection: StockConnection) -> None:
        """Take a session out."""
        for entry in self.get_connections(connection.peer_id):
            if entry.muxed_conn is connection:
                entry.event_closed.set()
                self.remove_conn(entry)

    def entry_of(self, connection: StockConnection) -> Any:
        """Return the stock connection of a session; None if it has ended."""
        entries = self.get_connections(connection.peer_id)
        return next((entry for entry in entries if entry.muxed_conn is connection), None)


class OverlayHost(BasicHost):  # type: ignore[misc] # no type information upstream
    """The stock host, which serves identify when it is told to."""

    def __init__(self, network: OverlaySwarm) -> None:
        self._addresses: list[Multiaddr] = []
        super().__init__(network=network, disable_identify_address_discovery=True)
        # No identify-push: it writes what anyone claims into an unbounded peer store. And no ping: stock's never drops
        # a peer from its table.
        self.identify = identify_handler_for(self, use_varint_format=True)
        self.multiselect.handlers = OrderedDict([(IDENTIFY, self.identify)])

    @property
    def served(self) -> dict[str, Any]:
        """Return what is served: by protocol id, whatever is behind it."""
        handlers: dict[str, Any] = self.multiselect.handlers
        return handlers

    def advertise(self, protocol: str) -> None:
        """Have identify tell of a protocol that the overlay serves."""
        self.multiselect.handlers.setdefault(protocol, None)

    def withdraw(self, protocol: str) -> None:
        """Have identify no longer tell of a protocol."""
        self.multiselect.handlers.pop(protocol, None)

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """Have identify tell where this node can be reached; multiaddrs that end in its PeerId."""
        self._addresses = [Multiaddr(address) for address in addresses]

    def get_addrs(self) -> list[Multiaddr]:
        return list(self._addresses)

    def get_transport_addrs(self) -> list[Multiaddr]:
        return [address.decapsulate_code(421) for address in self._addresses]

    async def serve_stock(self, stream: MuxedStream, connection: StockConnection) -> None:
        """Serve identify. What goes wrong resets the stream and is raised as an OverlayError."""
        entry = self.get_network().entry_of(connection)
        handler = self.multiselect.handlers[stream.protocol]
        if entry is None or handler is None:
            stream.reset()
            return
        net_stream = NetStream(StockStream(stream, connection), entry, None)
        await net_stream.set_state(StreamState.OPEN)
        net_stream.set_protocol(stream.protocol)
        try:
            await handler(net_stream)
            with trio.fail_after(STOCK_TIMEOUT):
                await stream.aclose()
        except Exception as error:  # stock handlers raise what they like
            stream.reset()
            raise OverlayError(f"{stream.protocol} failed: {error!r}") from error
        except BaseException:
            stream.reset()
            raise


def make_host(key: PrivateKey) -> OverlayHost:
    """Return a host with the identity of `key`."""
    pair = create_new_key_pair(key.secret)
    peer_id = ID.from_pubkey(pair.public_key)
    peers = PeerStore()
    peers.add_key_pair(peer_id, pair)
    swarm = OverlaySwarm(
        peer_id,
        peers,
        TransportUpgrader({}, {}),
        transports=[],
        retry_config=RetryConfig(max_retries=0),
        connection_config=ConnectionConfig(low_watermark=0, min_connections=0),
    )
    swarm.notifees.clear()
    return OverlayHost(swarm)
