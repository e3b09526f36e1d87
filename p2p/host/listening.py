"""Where to listen: whether a port is free, what a wildcard address stands for, and how many may connect."""

from __future__ import annotations

import errno
import ipaddress
import resource

import msgspec
import trio
from libp2p.utils.address_validation import get_available_interfaces

from p2p.host.addresses import TcpAddress, parse_address

_OTHER_DESCRIPTORS = 512
"""Files and connections of everything else in the process."""


def allow_descriptors(connections: int) -> None:
    """Raise the process's soft limit of open files to what `connections` need, as far as the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def check_free(place: TcpAddress) -> None:
    """Raise OSError if somebody listens at `place`.

    libp2p listens with SO_REUSEPORT: a second node on the same port would start, and take half of the first
    one's connections.
    """
    if place.port == 0 or place.kind not in ("ip4", "ip6"):
        return
    family = trio.socket.AF_INET6 if place.kind == "ip6" else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_STREAM) as probe:
        probe.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        if place.kind == "ip6":  # as the listener itself: IPv4 may have the same port
            probe.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 1)
        try:
            await probe.bind((place.host, place.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OSError(
                    errno.EADDRINUSE, f"port {place.port} is taken, perhaps by another node on this machine"
                ) from error
            raise


def concrete(place: TcpAddress) -> list[TcpAddress]:
    """Return the addresses of this machine that `place` stands for: itself, unless it is a wildcard."""
    if place.kind not in ("ip4", "ip6") or not ipaddress.ip_address(place.host).is_unspecified:
        return [place]
    found = [parse_address(str(address)) for address in get_available_interfaces(place.port)]
    mine = [f for f in found if f.kind == place.kind and not ipaddress.ip_address(f.host).is_loopback]
    return mine or [msgspec.structs.replace(place, host="127.0.0.1" if place.kind == "ip4" else "::1")]
