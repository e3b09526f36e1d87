"""Multiaddrs that this node can dial: `/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/p2p/<peer id>]`, and through relays:
`<address of the relay, with its peer id>/p2p-circuit/p2p/<peer id>`.

Text in, text out, without libp2p. Anything else (QUIC, WebSocket) is refused with a reason, since only TCP is
offered. `is_acceptable` decides which addresses that a peer told may be tried at all.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import TYPE_CHECKING

import msgspec

from p2p.identity.peer_id import InvalidPeerId, node_id_of_peer
from p2p.multiaddr import multihash_of

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
        """Return which node should be there, if the address says; None also for keys that no node has."""
        return None if self.peer_id is None else _node_id_in(self.peer_id)

    def transport(self) -> str:
        """Return the address without the peer."""
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    def __str__(self) -> str:
        return self.transport() + (f"/p2p/{self.peer_id}" if self.peer_id else "")


class RelayedAddress(msgspec.Struct, frozen=True):
    """A place behind a relay."""

    relay: TcpAddress
    """Where the relay is, with its peer id."""
    peer_id: str
    """Who is behind it, as a libp2p PeerId."""

    @property
    def node_id(self) -> NodeId | None:
        """Return which node is behind the relay; None for keys that no node has."""
        return _node_id_in(self.peer_id)

    def transport(self) -> str:
        """Return the address without the peer."""
        return f"{self.relay}/p2p-circuit"

    def __str__(self) -> str:
        return f"{self.relay}/p2p-circuit/p2p/{self.peer_id}"


_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses behind NAT64 (RFC 6052)."""
_COMPATIBLE = ipaddress.ip_network("::/96")
"""IPv4 addresses written as IPv6 ones, long out of use, which some systems still route."""


def parse_dialable(text: str) -> TcpAddress | RelayedAddress:
    """Read a multiaddr of either form. Raises InvalidAddress."""
    relay, circuit, behind = text.partition("/p2p-circuit")
    if not circuit or len(text) > 256:
        return parse_address(text)
    place = parse_address(relay)
    peer = behind.removeprefix("/p2p/")
    if place.peer_id is None or not behind.startswith("/p2p/"):
        raise InvalidAddress(
            f"{text[:128]!r} leads through a relay, but does not say through which or to whom"
        )
    return RelayedAddress(place, _checked(peer, repr(text[:128])))


def parse_address(text: str) -> TcpAddress:
    """Read a multiaddr of plain TCP.

    Raises:
        InvalidAddress: not a multiaddr, not TCP, or of a peer whose key is neither secp256k1 nor Ed25519.
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
            _checked(parts[6], shown)
    except ipaddress.AddressValueError as error:
        raise InvalidAddress(f"{shown}: {error}") from error
    return TcpAddress(kind, host, int(port), parts[6] if len(parts) == 7 else None)


def is_acceptable(text: str, allow_private: bool) -> bool:
    """Return whether an address that a peer told may be dialled.

    Private, loopback and link-local addresses are for a devnet: elsewhere, whoever tells them could make this
    node knock on the doors of its own network.
    """
    try:
        found = parse_dialable(text)
    except InvalidAddress:
        return False
    address = found.relay if isinstance(found, RelayedAddress) else found
    if address.port == 0 or found.node_id is None:
        return False
    if address.kind not in ("ip4", "ip6"):
        return allow_private or "." in address.host.strip(".")
    ip = ipaddress.ip_address(address.host)
    if ip.is_unspecified or ip.is_multicast:
        return False
    return allow_private or is_public(address.host)


def is_public(host: str) -> bool:
    """Return whether an IP address is one of the public internet, and not a private one in another form."""
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            ip = inner
        elif ip.is_site_local or ip in _COMPATIBLE:
            return False
    return ip.is_global and not ip.is_multicast


@functools.lru_cache(maxsize=1024)
def _node_id_in(peer_id: str) -> NodeId | None:
    try:
        return node_id_of_peer(peer_id)
    except InvalidPeerId:
        return None


def _checked(peer_id: str, shown: str) -> str:
    """Return a PeerId that holds a key, as those of secp256k1 and Ed25519 do."""
    try:
        if multihash_of(peer_id)[0] == 0:
            return peer_id
    except ValueError as error:
        raise InvalidAddress(f"{shown}: {error}") from error
    raise InvalidAddress(f"{shown}: its peer id is that of another key than secp256k1 or Ed25519")
