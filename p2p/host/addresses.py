"""Multiaddrs that this node can dial: `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/p2p/<peer id>]`.

Text in, text out, without libp2p. Anything else (QUIC, WebSocket, relays) is refused with a reason, since only
TCP is offered. `is_acceptable` decides which addresses that a peer told may be tried at all.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import msgspec

from p2p.identity.peer_id import InvalidPeerId, node_id_of_peer

if TYPE_CHECKING:
    from p2p.identity import NodeId

HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")


class InvalidAddress(ValueError):
    """A text that is not an address that this node can dial; the message says why."""


class TcpAddress(msgspec.Struct, frozen=True):
    """A place to dial."""

    kind: str
    """One of `HOST_KINDS`."""
    host: str
    """An IP address or a name."""
    port: int
    """Of TCP; 0 only to listen."""
    peer_id: str | None = None
    """Who should be there, as a libp2p PeerId."""

    @property
    def node_id(self) -> NodeId | None:
        """Return who should be there, if the address says."""
        return None if self.peer_id is None else node_id_of_peer(self.peer_id)

    def transport(self) -> str:
        """Return the address without the peer."""
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        return self.transport() + (f"/p2p/{self.peer_id}" if self.peer_id else "")


def parse_address(text: str) -> TcpAddress:
    """Read a multiaddr.

    Raises:
        InvalidAddress: not a multiaddr, not TCP, or of a peer whose key is not secp256k1.
    """
    parts = text.split("/")
    shown = repr(text[:128])
    if len(text) > 256 or len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise InvalidAddress(
            f"{shown} is not an address to dial: expected /ip4/<address>/tcp/<port>/p2p/<peer id>"
        )
    kind, host, port = parts[1], parts[2], parts[4]
    if kind not in HOST_KINDS:
        raise InvalidAddress(
            f"{shown} is not an address to dial: {kind!r} is not one of {', '.join(HOST_KINDS)}"
        )
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidAddress(f"{shown} has no valid TCP port")
    try:
        if kind in ("ip4", "ip6"):
            host = str((ipaddress.IPv4Address if kind == "ip4" else ipaddress.IPv6Address)(host))
        elif not host or not host.isascii() or not host.replace("-", "").replace(".", "").isalnum():
            raise InvalidAddress(f"{shown} has no valid host name")
        if len(parts) == 7:
            if parts[5] != "p2p":
                raise InvalidAddress(f"{shown} goes on with {parts[5]!r}; only plain TCP can be dialled")
            node_id_of_peer(parts[6])
    except (ipaddress.AddressValueError, InvalidPeerId) as error:
        raise InvalidAddress(f"{shown}: {error}") from error
    return TcpAddress(kind, host, int(port), parts[6] if len(parts) == 7 else None)


def is_acceptable(text: str, allow_private: bool) -> bool:
    """Return whether an address that a peer told may be dialled.

    Private, loopback and link-local addresses are for a devnet: elsewhere, whoever tells them could make this
    node knock on the doors of its own network.
    """
    try:
        address = parse_address(text)
    except InvalidAddress:
        return False
    if address.port == 0 or address.peer_id is None:
        return False
    if address.kind not in ("ip4", "ip6"):
        return allow_private or "." in address.host.strip(".")
    ip = ipaddress.ip_address(address.host)
    if ip.is_unspecified or ip.is_multicast:
        return False
    return allow_private or ip.is_global
