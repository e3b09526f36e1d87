"""Port mapping: the wire of PCP, NAT-PMP and UPnP, and the driver against small routers on loopback sockets."""

from __future__ import annotations

import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p.clock import SystemClock
from p2p.entropy import SeededEntropy
from p2p.reach import natpmp, upnp
from p2p.reach.natpmp import Granted, NotMapped, OldRouter
from p2p.reach.port_mapper import LIFETIME, PortMapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.reach.verdict import PortMapping

OWN, OUTER = "/ip4/192.168.1.5/tcp/4001", "203.0.113.7"
NONCE = bytes(range(12))
V4 = bytes(10) + b"\xff\xff"

# As the RFCs draw them.
PCP_ANSWER = (
    bytes([2, 129, 0, 0]) + struct.pack("!II", 1800, 99) + bytes(12)
    + NONCE + bytes([6, 0, 0, 0]) + struct.pack("!HH", 4001, 5001) + V4 + bytes([203, 0, 113, 7])
)  # fmt: skip
PMP_ANSWER = bytes([0, 130]) + struct.pack("!HIHHI", 0, 99, 4001, 5001, 1800)
PMP_EXTERNAL = bytes([0, 128]) + struct.pack("!HI", 0, 99) + bytes([203, 0, 113, 7])


def test_pcp_is_written_as_rfc_6887_draws_it() -> None:
    data = natpmp.pcp_request("192.168.1.5", 4001, 5001, 3600, NONCE)
    assert data == (
        bytes([2, 1, 0, 0]) + struct.pack("!I", 3600) + V4 + bytes([192, 168, 1, 5])
        + NONCE + bytes([6, 0, 0, 0]) + struct.pack("!HH", 4001, 5001) + V4 + bytes(4)
    )  # fmt: skip


def test_pcp_is_read_as_rfc_6887_draws_it() -> None:
    assert natpmp.read_pcp(PCP_ANSWER, 4001, NONCE) == Granted(5001, 1800, OUTER)
    assert natpmp.read_pcp(PCP_ANSWER, 4002, NONCE) is None
    assert natpmp.read_pcp(PCP_ANSWER, 4001, bytes(12)) is None, "an answer to somebody else"
    with pytest.raises(NotMapped, match="code 2"):
        natpmp.read_pcp(PCP_ANSWER[:3] + b"\x02" + PCP_ANSWER[4:], 4001, NONCE)
    for old in (bytes([0, 129, 0, 1]), bytes([2, 129, 0, 1]) + bytes(20)):
        with pytest.raises(OldRouter):
            natpmp.read_pcp(old, 4001, NONCE)


def test_nat_pmp_is_written_and_read_as_rfc_6886_draws_it() -> None:
    assert natpmp.request(4001, 5001, 3600) == bytes([0, 2, 0, 0]) + struct.pack("!HHI", 4001, 5001, 3600)
    assert bytes(2) == natpmp.EXTERNAL_REQUEST
    assert natpmp.read(PMP_ANSWER, 4001) == Granted(5001, 1800)
    assert natpmp.read(PMP_ANSWER, 4002) is None
    assert natpmp.read(PMP_EXTERNAL, 4001) is None
    assert natpmp.read_external(PMP_EXTERNAL) == OUTER
    assert natpmp.read_external(PMP_ANSWER) is None
    with pytest.raises(NotMapped, match="not authorized"):
        natpmp.read(bytes([0, 130, 0, 2]) + PMP_ANSWER[4:], 4001)


@given(st.binary(max_size=70))
def test_garbage_is_no_answer(data: bytes) -> None:
    for read in (
        lambda: natpmp.read_pcp(data, 4001, NONCE),
        lambda: natpmp.read(data, 4001),
        lambda: natpmp.read_external(data),
        lambda: upnp.read_found(data, "192.168.1.1"),
        lambda: upnp.read_description(data, "http://192.168.1.1/"),
        lambda: upnp.read_answer(data),
    ):
        try:
            read()
        except NotMapped:
            continue


FOUND = (
    "HTTP/1.1 200 OK\r\nCache-Control: max-age=120\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
    "LOCATION: http://{}/desc.xml\r\n\r\n"
)
DESCRIPTION = """<?xml version="1.0"?><!-- a router --><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceList><device><deviceList><device><serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>{}</controlURL>
</service></serviceList></device></deviceList></device></deviceList></device></root>"""
FAULT = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><detail><UPnPError>'
    "<errorCode>{}</errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>"
)
EXTERNAL = (
    '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:R xmlns:u="x">'
    "<NewExternalIPAddress>{}</NewExternalIPAddress></u:R></s:Body></s:Envelope>"
)


def test_a_router_is_found_and_only_on_itself() -> None:
    found = FOUND.format("192.168.1.1:80").encode()
    assert upnp.read_found(found, "192.168.1.1") == "http://192.168.1.1:80/desc.xml"
    assert upnp.read_found(found, "192.168.1.9") is None, "it sends this node elsewhere"
    assert upnp.read_found(found.replace(b"Gateway", b"Light"), "192.168.1.1") is None
    assert upnp.read_found(found.replace(b" 200 ", b" 404 "), "192.168.1.1") is None
    assert all(b"ssdp:discover" in search and b"MX: 2" in search for search in upnp.searches())


def test_a_description_says_where_to_ask_and_not_elsewhere() -> None:
    location = "http://192.168.1.1:5000/desc.xml"
    control = upnp.read_description(DESCRIPTION.format("/ctl").encode(), location)
    assert control.url == "http://192.168.1.1:5000/ctl"
    assert control.service.endswith("WANIPConnection:1")
    for url in ("http://10.0.0.1/ctl", "https://192.168.1.1/ctl", "http://192.168.1.1:99999/ctl"):
        with pytest.raises(NotMapped):
            upnp.read_description(DESCRIPTION.format(url).encode(), location)


@pytest.mark.parametrize(
    "document",
    [
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
        "<?xml version='1.0' encoding='utf-16'?><a/>".encode("utf-16"),
        b"<a>" * 10 + b"x" * upnp.MAX_DOCUMENT_BYTES,
        b"<a>",
        b"",
    ],
)
def test_hostile_documents_are_refused(document: bytes) -> None:
    with pytest.raises(NotMapped):
        upnp.read_answer(document)


def test_faults_have_their_code_and_texts_are_escaped() -> None:
    with pytest.raises(upnp.SoapError) as caught:
        upnp.read_answer(FAULT.format(718).encode())
    assert caught.value.code == upnp.CONFLICT
    control = upnp.Control("http://192.168.1.1/ctl", "urn:x")
    headers, body = upnp.call(control, "Do", {"A": "<&"})
    assert headers["SOAPAction"] == '"urn:x#Do"'
    assert b"<A>&lt;&amp;</A>" in body
    with pytest.raises(NotMapped, match="outer address"):
        upnp.read_external(EXTERNAL.format("nonsense").encode())


# The driver, on real sockets.


class Router:
    """A router on loopback: answers datagrams by `answer`, HTTP by `serve`."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.calls: list[str] = []
        self.answer: Callable[[bytes], bytes | None] = lambda _: None
        self.faults: list[int] = []
        self.datagram_port = self.http_port = 0

    async def datagrams(self, task_status: Any) -> None:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
            await sock.bind(("127.0.0.1", 0))
            self.datagram_port = sock.getsockname()[1]
            task_status.started()
            while True:
                data, sender = await sock.recvfrom(2048)
                self.asked.append(data)
                answer = self.answer(data)
                if answer is not None:
                    await sock.sendto(answer, sender)

    async def http(self, stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some()
        head, _, body = request.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ),
            0,
        )
        while len(body) < length:
            body += await stream.receive_some()
        status, answer = self._reply(head.decode(), body.decode())
        await stream.send_all(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n{answer}".encode()
        )
        await stream.aclose()

    def _reply(self, head: str, body: str) -> tuple[str, str]:
        if head.startswith("GET /desc.xml"):
            return "200 OK", DESCRIPTION.format("/ctl")
        self.calls.append(body)
        if "AddPortMapping" in body and self.faults:
            return "500 Error", FAULT.format(self.faults.pop(0))
        return "200 OK", EXTERNAL.format(OUTER)

    def ssdp(self, data: bytes) -> bytes | None:
        return FOUND.format(f"127.0.0.1:{self.http_port}").encode() if b"M-SEARCH" in data else None


@asynccontextmanager
async def router() -> AsyncIterator[tuple[Router, trio.Nursery]]:
    made = Router()
    async with trio.open_nursery() as nursery:
        await nursery.start(made.datagrams)
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made.http_port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, made.http, listeners)
        yield made, nursery
        nursery.cancel_scope.cancel()


async def first_mapping(made: Router, *, listening: str = OWN) -> tuple[list[PortMapping], list[PortMapping]]:
    """Run a mapper until it says something, and stop it; return what it said first."""
    said: list[list[PortMapping]] = []
    told = trio.Event()

    def mapped(what: Any) -> None:
        said.append(list(what))
        told.set()

    mapper = PortMapper(
        lambda: [listening],
        mapped,
        clock=SystemClock(),
        entropy=SeededEntropy(1, "mapper"),
        router=("127.0.0.1", made.datagram_port),
        search_at=("127.0.0.1", made.datagram_port),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        with trio.fail_after(20):
            await told.wait()
        nursery.cancel_scope.cancel()
    return said[0], said[-1]


def pcp(data: bytes) -> bytes | None:
    if data[0] != 2:
        return None
    return PCP_ANSWER[:24] + data[24:36] + PCP_ANSWER[36:]


def nat_pmp(data: bytes) -> bytes | None:
    if data[0] == 2:
        return bytes([0, 129, 0, 1]) + bytes(4)
    return PMP_EXTERNAL if data == natpmp.EXTERNAL_REQUEST else PMP_ANSWER


@pytest.mark.parametrize(("method", "answer"), [("pcp", pcp), ("nat-pmp", nat_pmp)])
async def test_a_router_that_is_asked_by_datagram_forwards_the_port(method: str, answer: Any) -> None:
    async with router() as (made, _):
        made.answer = answer
        said, _ = await first_mapping(made)
        assert [(m.method, m.internal, m.external) for m in said] == [(method, OWN, f"/ip4/{OUTER}/tcp/5001")]
        with trio.fail_after(5):
            while not _gives_up(made.asked[-1], method):  # noqa: ASYNC110 - a datagram on its way
                await trio.sleep(0.01)


def _gives_up(data: bytes, method: str) -> bool:
    lifetime = data[4:8] if method == "pcp" else data[8:12]
    return len(data) > 8 and lifetime == bytes(4)


async def test_upnp_forwards_the_port_and_gives_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "RETRIES", (0.01,))
    async with router() as (made, _):
        made.answer = made.ssdp
        made.faults = [upnp.CONFLICT, upnp.ONLY_PERMANENT]
        said, _ = await first_mapping(made)
        assert [(m.method, m.internal) for m in said] == [("upnp", OWN)]
        add = [call for call in made.calls if "AddPortMapping" in call]
        assert len(add) == 3
        assert "<NewExternalPort>4001<" in add[0]
        assert f"<NewLeaseDuration>{LIFETIME}<" in add[0]
        assert "<NewLeaseDuration>0<" in add[2]
        port = said[0].external.rpartition("/")[2]
        assert f"<NewExternalPort>{port}<" in add[2]
        assert "<NewInternalClient>192.168.1.5<" in add[2]
        assert "DeletePortMapping" in made.calls[-1]
        assert f"<NewExternalPort>{port}<" in made.calls[-1]


async def test_where_no_router_answers_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(natpmp, "RETRIES", (0.01,))
    monkeypatch.setattr("p2p.reach.port_mapper.SEARCH_SECONDS", 0.01)
    async with router() as (made, _):
        said, _ = await first_mapping(made)
        assert said == []
        assert len(made.asked) >= 3, "by datagram, and twice by search"


async def test_a_router_that_refuses_everything_maps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with router() as (made, _):
        refusal = bytes([2, 129, 0, 2]) + PCP_ANSWER[4:24]
        made.answer = lambda data: refusal + data[24:60] if data[0] == 2 else made.ssdp(data)
        made.faults = [606] * 10
        said, _ = await first_mapping(made)
        assert said == []


@pytest.mark.parametrize("listening", ["/ip4/8.8.8.8/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"])
async def test_only_private_addresses_have_a_router_to_ask(listening: str) -> None:
    async with router() as (made, _):
        said, _ = await first_mapping(made, listening=listening)
        assert said == []
        assert made.asked == []
