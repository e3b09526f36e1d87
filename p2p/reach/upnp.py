"""UPnP: finding the router (SSDP) and asking it to forward a port (SOAP). Sans-IO: texts in, texts out.

Written here rather than taken from miniupnpc, which libp2p brings: that blocks a thread that cannot be cancelled, and
reads with C what any device on the network sends. What a device says is bounded and has to stay on that device: a
description or control address elsewhere is refused, so that nobody makes this node fetch what it likes.
Sources: UPnP Device Architecture 1.1, sections 1.3 and 2; WANIPConnection:1, sections 2.4.16 and 2.4.18.

Errors: `p2p.reach.natpmp.NotMapped`.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

import msgspec

from p2p.reach.natpmp import NotMapped

if TYPE_CHECKING:
    from collections.abc import Mapping

GROUP, PORT = "239.255.255.250", 1900
MAX_DATAGRAM_BYTES = 2048
MAX_DOCUMENT_BYTES = 256 * 1024
ONLY_PERMANENT, CONFLICT = 725, 718
"""SOAP's error codes for a lease that ends, and for a port that another machine has."""

_GATEWAYS = (
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
)
_SERVICES = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)


class Control(msgspec.Struct, frozen=True):
    """Where to ask a router."""

    url: str
    service: str
    """Which of the services for this it has."""


class SoapError(NotMapped):
    """The router refuses.

    Attributes:
        code: why, as the service's specification numbers it; 0 if it does not say.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"the router refuses by UPnP, with code {code}")
        self.code = code


def searches() -> list[bytes]:
    """Return the datagrams that ask for routers."""
    return [
        f'M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}:{PORT}\r\nMAN: "ssdp:discover"\r\nMX: 2\r\nST: {kind}\r\n\r\n'.encode()
        for kind in _GATEWAYS
    ]


def read_found(data: bytes, sender: str) -> str | None:
    """Return where a device that answered is described: a URL on that device itself; None if it is no router."""
    head, *lines = data[:MAX_DATAGRAM_BYTES].decode("latin-1").split("\r\n")
    if not head.startswith("HTTP/1.") or " 200" not in head:
        return None
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if headers.get("st") not in _GATEWAYS:
        return None
    location = headers.get("location", "")
    return location if _is_on(location, sender) else None


def read_description(document: bytes, location: str) -> Control:
    """Return how to control the router that is described at `location`. Raises NotMapped."""
    root = _parse(document)
    host = urllib.parse.urlsplit(location).hostname or ""
    for kind in _SERVICES:
        for service in root.iter():
            if _name(service) == "service" and _child(service, "serviceType") == kind:
                url = urllib.parse.urljoin(location, _child(service, "controlURL"))
                if _is_on(url, host):
                    return Control(url, kind)
    raise NotMapped("the router does not say how ports are forwarded by UPnP")


def call(control: Control, action: str, arguments: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a SOAP request."""
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in arguments.items())
    body = (
        '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" '
        's:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
        f'<u:{action} xmlns:u="{control.service}">{inner}</u:{action}></s:Body></s:Envelope>'
    )
    headers = {"Content-Type": 'text/xml; charset="utf-8"', "SOAPAction": f'"{control.service}#{action}"'}
    return headers, body.encode()


def add(own_host: str, port: int, external_port: int, lifetime: int) -> dict[str, str]:
    """Return the arguments of AddPortMapping; `lifetime` in seconds, 0 for ever."""
    return {
        "NewRemoteHost": "",
        "NewExternalPort": str(external_port),
        "NewProtocol": "TCP",
        "NewInternalPort": str(port),
        "NewInternalClient": own_host,
        "NewEnabled": "1",
        "NewPortMappingDescription": "golem-p2p",
        "NewLeaseDuration": str(lifetime),
    }


def delete(external_port: int) -> dict[str, str]:
    """Return the arguments of DeletePortMapping."""
    return {"NewRemoteHost": "", "NewExternalPort": str(external_port), "NewProtocol": "TCP"}


def read_answer(document: bytes) -> dict[str, str]:
    """Return what a SOAP answer says, by name. Raises SoapError for a fault, NotMapped for what is none."""
    root = _parse(document)
    said = {_name(element): (element.text or "").strip() for element in root.iter()}
    if "Fault" in said:
        code = said.get("errorCode", "")
        raise SoapError(int(code) if code.isascii() and code.isdecimal() and len(code) < 6 else 0)
    return said


def read_external(document: bytes) -> str:
    """Return the router's outer IPv4 address from an answer to GetExternalIPAddress. Raises NotMapped."""
    told = read_answer(document).get("NewExternalIPAddress", "")
    try:
        return str(ipaddress.IPv4Address(told))
    except ValueError as error:
        raise NotMapped("the router does not know its outer address") from error


def _parse(document: bytes) -> ET.Element:
    if len(document) > MAX_DOCUMENT_BYTES:
        raise NotMapped("the router sends too much")
    # Entities are how small documents become large ones; zeros, how an encoding hides them.
    if b"<!" in document.replace(b"<!--", b"") or b"\0" in document:
        raise NotMapped("the router sends a document with declarations")
    try:
        return ET.fromstring(document)  # noqa: S314 - bounded, and without declarations
    except (ET.ParseError, ValueError) as error:
        raise NotMapped(f"the router sends what is no XML: {error}") from error


def _name(element: ET.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _child(element: ET.Element, name: str) -> str:
    return next(((child.text or "").strip() for child in element if _name(child) == name), "")


def _is_on(url: str, host: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme == "http" and parts.hostname == host and (parts.port or 80) > 0
    except ValueError:
        return False
