"""`PortMapper`: has the router forward this node's port, by PCP, NAT-PMP or UPnP, for as long as the node runs.

Only IPv4, and only where this node listens at a private address: others have no NAT that could be asked. The mapping
is renewed at half its life and given up at the end. Whether it leads here is then found out by dial-backs like of
any other address.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import httpx
import structlog
import trio

from p2p.clock import NANOSECONDS
from p2p.reach import natpmp, upnp
from p2p.reach.judge import place_of
from p2p.reach.natpmp import NotMapped, OldRouter
from p2p.reach.verdict import PortMapping

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy

LIFETIME = 3600
"""Seconds asked for."""
LEAST_LIFE = 120.0
"""Seconds between two renewals at least, whatever the router grants."""
RETRY = 900.0
"""Seconds until a router that forwards nothing is asked again."""
SEARCH_SECONDS = 3.0
MAX_ROUTERS = 4
HTTP_TIMEOUT = 5.0
STOP_SECONDS = 1.0
OTHER_PORTS = 4
"""Ports that are tried when another machine has the first."""

T = TypeVar("T")

_log = structlog.get_logger("p2p.reach")


class PortMapper:
    """Maps one node's ports.

    Args:
        listening: returns where the node listens.
        mapped: called with what is forwarded now, whenever that changes.
        router: where PCP and NAT-PMP are spoken; None for the default route.
        search_at: where routers with UPnP are searched for.
    """

    def __init__(
        self,
        listening: Callable[[], Sequence[str]],
        mapped: Callable[[Sequence[PortMapping]], None],
        *,
        clock: Clock,
        entropy: Entropy,
        router: tuple[str, int] | None = None,
        search_at: tuple[str, int] = (upnp.GROUP, upnp.PORT),
    ) -> None:
        self._listening = listening
        self._mapped = mapped
        self._clock = clock
        self._entropy = entropy
        self._router = router
        self._search_at = search_at
        self._nonce = entropy.token_bytes(12)
        self._release: Callable[[], Awaitable[None]] | None = None

    async def run(self) -> None:
        """Keep the port mapped, until cancelled."""
        try:
            while True:
                mapping = None
                place = await self._own()
                if place is not None:
                    mapping = await self._map(*place)
                self._mapped([] if mapping is None else [mapping])
                if mapping is None:
                    await trio.sleep(RETRY)
                    continue
                _log.info("the router forwards a port", method=mapping.method, external=mapping.external)
                left = mapping.expires_ns / NANOSECONDS - self._clock.utc_ns() / NANOSECONDS
                await trio.sleep(max(left / 2, LEAST_LIFE))
        finally:
            with trio.move_on_after(STOP_SECONDS) as scope:
                scope.shield = True
                await self._give_up()

    async def _own(self) -> tuple[str, int] | None:
        """Return the private address and the port to map, if there is one: that on the way to the router first."""
        found = [place for address in self._listening() if (place := place_of(address)) and _is_mapped(place)]
        if len(found) > 1:
            try:
                with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    await probe.connect(self._router or (default_router(), natpmp.PORT))
                    own = probe.getsockname()[0]
                    found.sort(key=lambda place: place[1] != own)
            except (NotMapped, OSError) as error:
                _log.debug("the way to the router is not known", reason=str(error))
        return found[0][1:] if found else None

    async def _map(self, host: str, port: int) -> PortMapping | None:
        for way in (self._by_datagram, self._by_upnp):
            try:
                return await way(host, port)
            except (NotMapped, OSError, httpx.HTTPError) as error:
                _log.debug("the router forwards no port", way=way.__name__, reason=str(error))
        return None

    async def _give_up(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            try:
                await release()
            except (NotMapped, OSError, httpx.HTTPError) as error:
                _log.debug("a port mapping was left to expire", reason=str(error))

    # PCP and NAT-PMP.

    async def _by_datagram(self, host: str, port: int) -> PortMapping:
        router = self._router or (default_router(), natpmp.PORT)
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            await sock.connect(router)
            own = sock.getsockname()[0]
            method: Literal["pcp", "nat-pmp"] = "pcp"
            try:
                ask = natpmp.pcp_request(own, port, port, LIFETIME, self._nonce)
                granted = await _exchange(sock, ask, lambda data: natpmp.read_pcp(data, port, self._nonce))
                outer = granted.external_host
            except OldRouter:
                ask = natpmp.request(port, port, LIFETIME)
                granted = await _exchange(sock, ask, lambda data: natpmp.read(data, port))
                outer = await _exchange(sock, natpmp.EXTERNAL_REQUEST, natpmp.read_external)
                method = "nat-pmp"

        async def release() -> None:
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                await last.connect(router)
                if method == "pcp":
                    await last.send(natpmp.pcp_request(own, port, 0, 0, self._nonce))
                else:
                    await last.send(natpmp.request(port, 0, 0))

        self._release = release
        return self._mapping(method, host, port, outer, granted.external_port, granted.lifetime)

    # UPnP.

    async def _by_upnp(self, host: str, port: int) -> PortMapping:
        reasons = ["no router answers to UPnP"]
        async with httpx.AsyncClient(timeout=HTTP_TIMEOUT, trust_env=False) as client:
            for location in await self._search():
                try:
                    control = upnp.read_description(await _get(client, location), location)
                    return await self._add(client, control, host, port)
                except (NotMapped, httpx.HTTPError) as error:
                    reasons.append(str(error))
        raise NotMapped(reasons[-1])

    async def _search(self) -> list[str]:
        found: dict[str, None] = {}
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for datagram in upnp.searches():
                await sock.sendto(datagram, self._search_at)
            with trio.move_on_after(SEARCH_SECONDS):
                while len(found) < MAX_ROUTERS:
                    data, sender = await sock.recvfrom(upnp.MAX_DATAGRAM_BYTES)
                    location = upnp.read_found(data, sender[0])
                    if location is not None:
                        found[location] = None
                        break  # nearly always there is one, and it answers at once
        return list(found)

    async def _add(
        self, client: httpx.AsyncClient, control: upnp.Control, host: str, port: int
    ) -> PortMapping:
        lifetime, external = LIFETIME, port
        for _ in range(OTHER_PORTS):
            try:
                await _call(client, control, "AddPortMapping", upnp.add(host, port, external, lifetime))
                break
            except upnp.SoapError as error:
                if error.code == upnp.ONLY_PERMANENT and lifetime:
                    lifetime = 0
                elif error.code == upnp.CONFLICT:
                    external = self._entropy.jitter.randrange(20_000, 60_000)
                else:
                    raise
        else:
            raise NotMapped("the ports that were tried are all taken")

        async def release() -> None:
            async with httpx.AsyncClient(timeout=HTTP_TIMEOUT, trust_env=False) as last:
                await _call(last, control, "DeletePortMapping", upnp.delete(external))

        self._release = release
        outer = upnp.read_external(await _call(client, control, "GetExternalIPAddress", {}))
        return self._mapping("upnp", host, port, outer, external, lifetime or LIFETIME)

    def _mapping(
        self,
        method: Literal["pcp", "nat-pmp", "upnp"],
        host: str,
        port: int,
        outer: str,
        external: int,
        lifetime: int,
    ) -> PortMapping:
        return PortMapping(
            method,
            internal=f"/ip4/{host}/tcp/{port}",
            external=f"/ip4/{outer}/tcp/{external}",
            expires_ns=self._clock.utc_ns() + lifetime * NANOSECONDS,
        )


def _is_mapped(place: tuple[str, str, int]) -> bool:
    """Return whether an address is one that a NAT may stand before."""
    address = ipaddress.ip_address(place[1])
    return place[0] == "ip4" and not address.is_global and not address.is_loopback


def default_router() -> str:
    """Return the IPv4 address of the default route, from the kernel's table. Raises NotMapped."""
    try:
        lines = Path("/proc/net/route").read_text().splitlines()[1:]
    except OSError as error:
        raise NotMapped("this system does not tell its default route") from error
    for line in lines:
        fields = line.split()
        if len(fields) > 3 and fields[1] == "00000000" and int(fields[3], 16) & 2:  # RTF_GATEWAY
            return str(ipaddress.IPv4Address(bytes.fromhex(fields[2])[::-1]))
    raise NotMapped("there is no default route")


async def _exchange(sock: trio.socket.SocketType, request: bytes, read: Callable[[bytes], T | None]) -> T:
    """Ask again and again until an answer comes. Raises NotMapped, OSError."""
    for patience in natpmp.RETRIES:
        await sock.send(request)
        with trio.move_on_after(patience):
            while True:
                answer = read(await sock.recv(natpmp.MAX_ANSWER_BYTES))
                if answer is not None:
                    return answer
    raise NotMapped("the router does not answer")


async def _get(client: httpx.AsyncClient, url: str) -> bytes:
    async with client.stream("GET", url) as response:
        return await _body(response)


async def _call(
    client: httpx.AsyncClient, control: upnp.Control, action: str, arguments: dict[str, str]
) -> bytes:
    headers, body = upnp.call(control, action, arguments)
    async with client.stream("POST", control.url, headers=headers, content=body) as response:
        answer = await _body(response)
    upnp.read_answer(answer)
    return answer


async def _body(response: httpx.Response) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > upnp.MAX_DOCUMENT_BYTES:
            raise NotMapped("the router sends too much")
    return bytes(data)
