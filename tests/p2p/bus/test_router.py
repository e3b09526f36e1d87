"""The node's router: who may reach what, and what becomes of handlers that fail."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from structlog.testing import capture_logs

from p2p import codec
from p2p.bus.api import (
    BadContent,
    BusError,
    BusTimeout,
    Call,
    Caller,
    NoEndpoint,
    RemoteError,
    Service,
    ServiceError,
)
from p2p.bus.testing import Probe
from tests.p2p.bus.conftest import NODE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

    from p2p.bus.router import LocalBus

PEER = "0x" + "ab" * 20


class Question(msgspec.Struct, frozen=True):
    """Asks nothing in particular."""


FROM_PEER = Caller(PEER, local=False)


class PeerCalls:
    """Stands in for the network."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, bytes]] = []

    async def call(self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = "") -> bytes:
        self.calls.append((peer, address, body))
        if address.endswith("/Hang"):
            await trio.sleep_until(deadline)
            raise BusTimeout("Timeout")
        return b"from afar"

    @contextlib.asynccontextmanager
    async def stream(
        self, peer: str, address: str, body: bytes, *, deadline: float, acting: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.calls.append((peer, address, body))

        async def items() -> AsyncIterator[bytes]:
            yield b"far item"
            await trio.sleep_forever()

        made = items()
        yield made
        await made.aclose()  # type: ignore[attr-defined]


async def test_calls_to_peers_go_through_the_peer_caller(bus: LocalBus, autojump_clock: object) -> None:
    peers = PeerCalls()
    bus.attach_peers(peers)
    assert await bus.call(f"/net/{PEER.upper().replace('X', 'x')}/a/b/M", b"x") == b"from afar"
    assert peers.calls == [(PEER, "/public/a/b/M", b"x")]
    with pytest.raises(BusTimeout, match="Timeout"):
        await bus.call(f"/net/{PEER}/a/Hang", b"", timeout=5)
    with pytest.raises(BusTimeout):  # noqa: PT012
        async with bus.stream(f"/net/{PEER}/a/M", b"", timeout=5) as items:
            assert await anext(items) == b"far item"
            await anext(items)


async def test_without_a_network_peers_are_not_found(bus: LocalBus) -> None:
    with pytest.raises(NoEndpoint, match=r"endpoint address not found: /net/.*not joined"):
        await bus.call(f"/net/{PEER}/a/M", b"")
    with pytest.raises(NoEndpoint):
        async with bus.stream(f"/net/{PEER}/a/M", b""):
            pass


@pytest.mark.parametrize(
    "address", ["/local/a/Echo", f"/net/{NODE}/a/Echo", f"/net/{PEER}/a/Echo", "/a/b/Echo", ""]
)
async def test_a_peer_reaches_public_only(bus: LocalBus, address: str) -> None:
    local, public = Probe(), Probe()
    peers = PeerCalls()
    bus.attach_peers(peers)
    bus.register("/local/a", local)
    bus.register("/public/a", public)
    with pytest.raises(NoEndpoint, match="endpoint address not found"):
        await bus.call_as(FROM_PEER, address, b"", timeout=1)
    with pytest.raises(NoEndpoint):
        async with bus.stream_as(FROM_PEER, address, b""):
            pass
    assert not local.callers
    assert not public.callers
    assert not peers.calls
    assert await bus.call_as(FROM_PEER, "/public/a/Echo", b"x", timeout=1) == b"x"
    assert public.callers == {FROM_PEER}


async def test_allow_is_asked_about_the_caller(bus: LocalBus) -> None:
    bus.register("/public/a", Probe(), allow=lambda caller: caller.local)
    assert await bus.call("/public/a/Echo", b"x") == b"x"
    with pytest.raises(RemoteError, match="may not call") as caught:
        await bus.call_as(FROM_PEER, "/public/a/Echo", b"x", timeout=1)
    assert caught.value.kind == "forbidden"


async def test_an_allow_that_fails_lets_nobody_in(bus: LocalBus) -> None:
    def broken(_: Caller) -> bool:
        raise ZeroDivisionError

    bus.register("/public/a", Probe(), allow=broken)
    with capture_logs(), pytest.raises(RemoteError, match="internal error"):
        await bus.call("/public/a/Echo", b"")
    with capture_logs(), pytest.raises(RemoteError, match="internal error"):
        async with bus.stream("/public/a/Count", b"1"):
            pass


async def test_a_bug_is_logged_with_its_traceback_and_the_bus_goes_on(bus: LocalBus) -> None:
    bus.register("/public/a", Probe())
    with capture_logs() as log, pytest.raises(RemoteError) as caught:
        await bus.call("/public/a/Crash", b"")
    assert caught.value.kind == "service"
    assert log[0]["address"] == "/public/a/Crash"
    assert isinstance(log[0]["exc_info"], ZeroDivisionError)
    assert await bus.call("/public/a/Echo", b"x") == b"x"


async def test_what_a_handlers_nursery_wraps_is_unwrapped(bus: LocalBus) -> None:
    class Nursery(Probe):
        async def call(self, call: Call) -> bytes:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(super().call, call)
            return b""

    bus.register("/public/a", Nursery())
    with pytest.raises(RemoteError) as caught:
        await bus.call("/public/a/Refuse", b"")
    assert caught.value.kind == "notFound"


async def test_a_callers_own_cancel_scope_is_its_own(bus: LocalBus, autojump_clock: object) -> None:
    bus.register("/public/a", Probe())
    with trio.move_on_after(1) as scope:
        await bus.call("/public/a/Hang", b"", timeout=5)
    assert scope.cancelled_caught
    with trio.move_on_after(1) as scope:
        async with bus.stream("/public/a/Hang", b"", timeout=5) as items:
            async for _ in items:
                pass
    assert scope.cancelled_caught


async def test_a_stream_that_fails_while_it_is_stopped_does_not_trouble_its_caller(bus: LocalBus) -> None:
    class Clumsy(Probe):
        async def stream(self, call: Call) -> AsyncIterator[bytes]:
            try:
                yield b"first"
            finally:
                raise ZeroDivisionError

    bus.register("/public/a", Clumsy())
    with capture_logs() as log:
        async with bus.stream("/public/a/M", b"") as items:
            assert await anext(items) == b"first"
    assert "failed while it was stopped" in log[0]["event"]


async def test_a_registration_that_was_replaced_does_not_close_its_successor(bus: LocalBus) -> None:
    first = bus.register("/public/a", Probe())
    first.close()
    bus.register("/public/a", Probe())
    first.close()
    assert await bus.call("/public/a/Echo", b"x") == b"x"


async def test_calls_in_flight_outlive_their_registration(bus: LocalBus) -> None:
    registration = bus.register("/public/a", Probe())
    async with bus.stream("/public/a/Count", b"3") as items:
        assert await anext(items) == b"0"
        registration.close()
        assert [item async for item in items] == [b"1", b"2"]


async def test_a_typed_service_closes_a_generator_that_is_left_early(bus: LocalBus) -> None:
    import msgspec

    class Follow(msgspec.Struct):
        count: int

    closed = trio.Event()

    async def follow(_: Caller, request: Follow) -> AsyncIterator[int]:
        try:
            for i in range(request.count):
                yield i
        finally:
            closed.set()

    async def get(_: Caller, request: Follow) -> int:
        raise ServiceError("notFound", str(request.count))

    service = Service()
    service.streaming(Follow, follow)
    service.method(Follow, get)
    bus.register("/public/a", service)
    async with bus.stream("/public/a/Follow", b"\xa1\x65count\x03") as items:
        assert await anext(items) == b"\x00"
    assert closed.is_set()
    with pytest.raises(RemoteError, match="3"):
        await bus.call("/public/a/Follow", b"\xa1\x65count\x03")
    with pytest.raises(RemoteError) as caught:
        await bus.call("/public/a/Follow", b"garbage")
    assert caught.value.kind == "badRequest"
    with pytest.raises(NoEndpoint):
        await bus.call("/public/a/Other", b"")


async def test_a_request_that_is_too_large_goes_nowhere(bus: LocalBus) -> None:
    from p2p.bus.api import MAX_BODY_BYTES

    with pytest.raises(BadContent, match="at most"):
        async with bus.stream("/public/a/M", bytes(MAX_BODY_BYTES + 1)):
            pass


async def test_calls_are_counted_by_way_and_outcome(bus: LocalBus, autojump_clock: MockClock) -> None:
    async def refuse(caller: Caller, request: Question) -> None:
        raise ServiceError("forbidden", "no")

    async def hang(caller: Caller, request: Question) -> None:
        await trio.sleep(20)

    service = Service()
    service.method(Question, refuse, name="Refuse")
    service.method(Question, hang, name="Hang")
    service.method(Question, answer_nothing, name="Answer")
    bus.register("/public/counted", service)
    bus.attach_peers(PeerCalls())
    body = codec.encode(Question())
    for address, caller in (
        ("/public/counted/Answer", None),
        ("/public/counted/Refuse", None),
        ("/public/counted/Hang", None),
        ("/public/counted/Nothing", FROM_PEER),
        ("/public/counted/Answer", FROM_PEER),
        (f"/net/{PEER}/far/Answer", None),
        ("/local/secret", FROM_PEER),
    ):
        with contextlib.suppress(BusError):
            if caller is None:
                await bus.call(address, body, timeout=5)
            else:
                await bus.call_as(caller, address, body, timeout=5)
    with trio.move_on_after(1):
        await bus.call("/public/counted/Hang", body)
    assert bus.calls.outcomes == {
        ("local", "ok"): 1,
        ("local", "refused"): 1,
        ("local", "timeout"): 1,
        ("local", "cancelled"): 1,
        ("in", "no-endpoint"): 2,
        ("in", "ok"): 1,
        ("out", "ok"): 1,
    }
    assert bus.calls.seconds["local"].sum == pytest.approx(6)


async def answer_nothing(caller: Caller, request: Question) -> None:
    """Answer."""
