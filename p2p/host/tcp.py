"""TCP: listening, and dialling from the port that one listens on, so that a NAT has one mapping for both.

trio's streams set TCP_NODELAY. Listeners and dials share a port by SO_REUSEPORT (and SO_REUSEADDR, so that a
restart does not wait for old connections); a dial whose port cannot be shared takes any other.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from p2p.host.addresses import TcpAddress

BACKLOG = 512
"""Connections that the kernel holds until they are accepted."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXHAUSTED_PAUSE = 0.1
_NOT_SHARED = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
_REUSEPORT = getattr(socket, "SO_REUSEPORT", None)

_log = structlog.get_logger("p2p.host")


class Place(msgspec.Struct, frozen=True):
    """One end of a TCP connection."""

    host: str
    """An IP address."""
    port: int

    def __str__(self) -> str:
        return f"/{'ip6' if self.version == 6 else 'ip4'}/{self.host}/tcp/{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Return whether it is this machine's own."""
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def version(self) -> int:
        """Return 4 or 6."""
        return ipaddress.ip_address(self.host).version


def ends(stream: trio.SocketStream) -> tuple[Place, Place]:
    """Return this end and the other. Raises OSError if the connection is gone."""
    return _place(stream.socket.getsockname()), _place(stream.socket.getpeername())


async def listen(place: Place, *, shared: bool) -> trio.SocketListener:
    """Listen at `place`; port 0 takes a free one. Raises OSError.

    Args:
        shared: whether dials may use the port too.
    """
    sock = _socket(place, shared=shared)
    try:
        await sock.bind((place.host, place.port))
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except BaseException:
        sock.close()
        raise


async def accept_forever(
    listener: trio.SocketListener,
    serve: Callable[[trio.SocketStream], Awaitable[None]],
    nursery: trio.Nursery,
) -> None:
    """Start `serve` for each connection as a task of `nursery`; closes the listener when cancelled."""
    async with listener:
        told = False
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                if not told:  # once for as long as it lasts
                    _log.warning("no connection can be accepted at the moment", error=str(error))
                told = True
                await trio.sleep(_EXHAUSTED_PAUSE)
                continue
            told = False
            nursery.start_soon(serve, stream)


async def dial(
    place: Place, source: Place | None = None, *, only_from_there: bool = False
) -> trio.SocketStream:
    """Connect to `place`. Raises OSError.

    Args:
        source: the local end to use if it can be shared; for one that cannot, any free one is taken.
        only_from_there: to fail in that case: another port is of no use to a hole punch.
    """
    if source is not None and source.version == place.version and source != place:
        try:
            return await _dial(place, source)
        except OSError as error:
            if only_from_there or error.errno not in _NOT_SHARED:
                raise
    return await _dial(place, None)


async def resolve(address: TcpAddress) -> list[Place]:
    """Return the IP addresses of what may be a name. Raises OSError."""
    if address.kind in ("ip4", "ip6"):
        return [Place(address.host, address.port)]
    family = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    found = await trio.socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
    return list(dict.fromkeys(_place(entry[4]) for entry in found))


async def _dial(place: Place, source: Place | None) -> trio.SocketStream:
    sock = _socket(place, shared=source is not None)
    try:
        if source is not None:
            await sock.bind((source.host, source.port))
        await sock.connect((place.host, place.port))
        if sock.getsockname()[:2] == sock.getpeername()[:2]:  # TCP's simultaneous open, with itself
            raise OSError(errno.EADDRNOTAVAIL if source else errno.ECONNREFUSED, "nobody else is there")
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _socket(place: Place, *, shared: bool) -> trio.socket.SocketType:
    sock = trio.socket.socket(socket.AF_INET6 if place.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if place.version == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if shared and _REUSEPORT is not None:
        sock.setsockopt(socket.SOL_SOCKET, _REUSEPORT, 1)
    return sock


def _place(name: tuple[str | int, ...]) -> Place:
    host, _, _ = str(name[0]).partition("%")  # a link-local address may bring its interface
    return Place(host.removeprefix("::ffff:") if "." in host else host, int(name[1]))
