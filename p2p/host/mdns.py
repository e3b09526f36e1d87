"""Finding nodes of the same network on the local one by mDNS, where the configuration turns it on.

libp2p's announcer and listener (libp2p/specs, discovery/mdns) run in threads of zeroconf; what they find comes
back to trio as a claim, to be dialled and proven like any other. Each network has its own service name, so that
nodes of another, and other libp2p programs, are not seen at all.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import structlog
import trio

from p2p.host.addresses import InvalidAddress, parse_address
from p2p.identity.peer_id import InvalidPeerId, node_id_of_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.identity import NodeId

TTL = 120
STOP_TIMEOUT = 0.5
MAX_ADDRESSES = 16
"""Addresses taken of one announcement."""

_log = structlog.get_logger("p2p.mdns")


class _Found:
    """Stands in for libp2p's peer store: hands each address found to trio. Called by zeroconf's threads."""

    def __init__(self, token: trio.lowlevel.TrioToken, suggest: Callable[[NodeId, str], None]) -> None:
        self._token = token
        self._suggest = suggest

    def add_addrs(self, peer_id: Any, addresses: Sequence[Any], ttl: int) -> None:
        for address in addresses[:MAX_ADDRESSES]:
            text = str(address)
            try:
                place = parse_address(text if "/p2p/" in text else f"{text}/p2p/{peer_id}")
                self._token.run_sync_soon(self._suggest, node_id_of_peer(place.peer_id or ""), str(place))
            except (InvalidAddress, InvalidPeerId):
                continue
            except trio.RunFinishedError:
                return

    def clear_addrs(self, peer_id: Any) -> None:
        """Keep what was found: the address book ages by itself."""


class _Identity:
    """Stands in for libp2p's swarm."""

    def __init__(self, peer_id: str, peerstore: _Found) -> None:
        self._peer_id = peer_id
        self.peerstore = peerstore

    def get_peer_id(self) -> str:
        return self._peer_id


async def announce_and_listen(
    network: str, addresses: Sequence[str], suggest: Callable[[NodeId, str], None]
) -> None:
    """Announce `addresses` and call `suggest` with those of others, until cancelled.

    A machine without multicast is logged and otherwise let be.
    """
    found = _Found(trio.lowlevel.current_trio_token(), suggest)
    try:
        service = await trio.to_thread.run_sync(_start, network, tuple(addresses), found)
    except (OSError, ImportError, InvalidAddress, IndexError) as error:
        _log.warning("mDNS is turned on but does not work here", error=str(error))
        return
    try:
        await trio.sleep_forever()
    finally:
        with trio.move_on_after(STOP_TIMEOUT) as scope:
            scope.shield = True
            await trio.to_thread.run_sync(_stop, service, abandon_on_cancel=True)  # type: ignore[call-arg] # old stubs


def fingerprint(network: str) -> str:
    """Return what tells the network's service name apart; such a name has at most 15 bytes (RFC 6763, 7.2)."""
    return hashlib.sha256(f"golem-p2p/{network}".encode()).hexdigest()[:10]


def _start(network: str, addresses: tuple[str, ...], found: _Found) -> Any:
    from libp2p.discovery.mdns.mdns import create_mdns_discovery

    place = parse_address(addresses[0])
    assert place.peer_id is not None
    service = create_mdns_discovery(
        _Identity(place.peer_id, found),
        port=place.port,
        listen_addrs=list(addresses),
        private_network_fingerprint=fingerprint(network),
        ttl=TTL,
    )
    service.broadcaster.register()
    return service


def _stop(service: Any) -> None:
    service.broadcaster.unregister()
    service.listener.stop()
    service.zeroconf.close()
