"""NAT-PMP and PCP: asking the router, in datagrams to its port 5351, to forward a port. Sans-IO.

PCP is asked first; a router that knows only NAT-PMP says so in an answer of version 0. Lifetimes are what the router
grants; a mapping is renewed by asking again, and given up by asking for 0 seconds.
Sources: RFC 6886 (NAT-PMP), RFC 6887 (PCP; version 2, opcode MAP).

Errors:
    NotMapped       the router refuses, or does not speak this
"""

from __future__ import annotations

import ipaddress
import struct

import msgspec

PORT = 5351
MAX_ANSWER_BYTES = 1100
"""RFC 6887, section 7."""
RETRIES = (0.25, 0.5, 1.0, 2.0)
"""Seconds to wait for an answer before asking again (RFC 6886, section 3.1, cut short)."""

_TCP_IN_PCP, _MAP_TCP, _EXTERNAL = 6, 2, 0
_ANSWER = 128
_UNSUPPORTED_VERSION = 1
_RESULTS = {1: "unsupported version", 2: "not authorized", 3: "network failure", 4: "out of resources"}


class NotMapped(Exception):
    """No port is forwarded; the message says why."""


class OldRouter(NotMapped):
    """The router speaks NAT-PMP, not PCP."""


class Granted(msgspec.Struct, frozen=True):
    """A port that is forwarded."""

    external_port: int
    lifetime: int
    """Seconds."""
    external_host: str = ""
    """The router's outer IP address; empty where the protocol asks for it apart."""


def pcp_request(own_host: str, port: int, external_port: int, lifetime: int, nonce: bytes) -> bytes:
    """Return a PCP request to forward TCP `external_port`, or another, to `port` of `own_host`.

    Args:
        lifetime: seconds; 0 gives the mapping up.
        nonce: 12 bytes, the same for all requests about one mapping.
    """
    header = struct.pack("!BBHI", 2, 1, 0, lifetime) + _mapped(own_host)
    body = nonce + struct.pack("!B3xHH", _TCP_IN_PCP, port, external_port) + _mapped("0.0.0.0")  # noqa: S104
    return header + body


def read_pcp(data: bytes, port: int, nonce: bytes) -> Granted | None:
    """Read an answer; None if it is to something else.

    Raises:
        OldRouter: only NAT-PMP is spoken.
        NotMapped: the router refuses.
    """
    if len(data) >= 4 and data[0] == 0:
        raise OldRouter("the router speaks NAT-PMP only")
    if len(data) < 24 or data[0] != 2 or data[1] != _ANSWER + 1:
        return None
    result, lifetime = data[3], int.from_bytes(data[4:8], "big")
    if result == _UNSUPPORTED_VERSION:
        raise OldRouter("the router speaks another version of PCP")
    if len(data) < 60 or data[24:36] != nonce:
        return None
    protocol, internal, external = struct.unpack("!B3xHH", data[36:44])
    if (protocol, internal) != (_TCP_IN_PCP, port):
        return None
    if result:
        raise NotMapped(f"the router refuses by PCP, with code {result}")
    outer = ipaddress.IPv6Address(data[44:60])
    return Granted(external, lifetime, str(outer.ipv4_mapped or outer))


def request(port: int, external_port: int, lifetime: int) -> bytes:
    """Return a NAT-PMP request to forward TCP `external_port`, or another, to this machine's `port`."""
    return struct.pack("!BBHHHI", 0, _MAP_TCP, 0, port, external_port, lifetime)


EXTERNAL_REQUEST = bytes((0, _EXTERNAL))
"""Asks for the router's outer address by NAT-PMP."""


def read(data: bytes, port: int) -> Granted | None:
    """Read NAT-PMP's answer to `request`; None if it is to something else. Raises NotMapped."""
    if len(data) < 4 or data[0] != 0 or data[1] != _ANSWER + _MAP_TCP:
        return None
    _check(data)
    if len(data) < 16:
        return None
    internal, external, lifetime = struct.unpack("!HHI", data[8:16])
    return Granted(external, lifetime) if internal == port else None


def read_external(data: bytes) -> str | None:
    """Read NAT-PMP's answer to `EXTERNAL_REQUEST`: an IPv4 address; None if it is to something else."""
    if len(data) < 4 or data[0] != 0 or data[1] != _ANSWER + _EXTERNAL:
        return None
    _check(data)
    return str(ipaddress.IPv4Address(data[8:12])) if len(data) >= 12 else None


def _check(data: bytes) -> None:
    result = int.from_bytes(data[2:4], "big")
    if result:
        reason = _RESULTS.get(result, f"code {result}")
        raise NotMapped(f"the router refuses by NAT-PMP: {reason}")


def _mapped(host: str) -> bytes:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(f"::ffff:{address}").packed
    return address.packed
