"""`check_bus`: what every `Bus` must do, as one function that a test calls.

    await check_bus(serving=bus, calling=bus)                                       # in process
    await check_bus(serving=child, calling=bus)                                     # through the door
    await check_bus(serving=a, calling=b, called=net_address(a.node_id, "check"))   # between peers

For implementers of the bus, and of an `Overlay` that shall carry it. A failed check is an AssertionError whose
traceback names the check. Logs the internal errors that it provokes. Works on virtual time too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from p2p.bus.api import (
    MAX_BODY_BYTES,
    AddressTaken,
    BadContent,
    BusClosed,
    BusError,
    BusTimeout,
    Call,
    Caller,
    NoEndpoint,
    RemoteError,
    ServiceError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from p2p.bus.api import Bus, Registration

TIMEOUT = 30.0
"""Seconds for all checks together; only a bus that hangs needs them."""

_ITEM_BYTES = 64 * 1024
_AHEAD_BYTES = 16 * 1024 * 1024
"""More than this must no bus let a service produce ahead of its reader."""


async def check_bus(
    *,
    serving: Bus,
    calling: Bus,
    registered: str = "/public/check",
    called: str = "",
    caller: Caller | None = None,
) -> None:
    """Check that what is served on one bus can be called on another, in every way.

    Args:
        serving: where the endpoint is registered.
        calling: where the calls are made; may be the same.
        registered: the prefix to register.
        called: the prefix by which `calling` reaches it; as `registered` if empty.
        caller: whom the service must see; not checked if None.

    Raises:
        AssertionError: the bus does not do as `p2p.bus.api` says.
    """
    called = called or registered
    with trio.fail_after(TIMEOUT):
        await _check_registration(serving, calling, registered, called)
        for check in (
            _check_answers,
            _check_errors,
            _check_sizes,
            _check_timeout,
            _check_cancel,
            _check_many_at_once,
            _check_items,
            _check_stream_errors,
            _check_stream_left,
            _check_stream_timeout,
            _check_back_pressure,
        ):
            probe = Probe()
            registration = await _register(serving, registered, probe)
            await check(calling, called, probe)
            assert caller is None or probe.callers <= {caller}, f"the service saw {probe.callers}"
            registration.close()
            await _settled(calling, called)


async def check_topics(*, publishing: Bus, subscribing: Bus, topic: str = "check") -> None:
    """Check that what is published on one bus arrives on another, in order, and that a slow reader loses its oldest.

    Raises:
        AssertionError: the bus does not do as `p2p.bus.api` says.
    """
    with trio.fail_after(TIMEOUT):
        publishing.publish(topic + "/nobody", b"is listening")
        async with subscribing.subscribe(topic) as first, subscribing.subscribe(topic) as second:
            for i in range(10):
                publishing.publish(topic, b"%d" % i)
                publishing.publish(topic + "/other", b"not for them")
            for subscriber in (first, second):
                for i in range(10):
                    assert await anext(subscriber) == b"%d" % i
            published = read = 0
            while int(await _next_of(publishing, first, topic, range(published, published + 1000))) == read:
                published, read = published + 1000, read + 1
                assert read < 100, "a subscriber that does not keep up loses nothing"


async def _next_of(bus: Bus, subscriber: AsyncIterator[bytes], topic: str, numbers: range) -> bytes:
    for i in numbers:
        bus.publish(topic, b"%d" % i)
    await trio.testing.wait_all_tasks_blocked()
    return await anext(subscriber)


class Probe:
    """A service that does what its caller asks for, and remembers what became of it."""

    def __init__(self) -> None:
        self.callers: set[Caller] = set()
        self.produced = 0
        self.hanging = trio.Event()
        """Set when a call hangs."""
        self.stopped = trio.Event()
        """Set when a call was cancelled, or a stream left."""

    async def call(self, call: Call) -> bytes:
        self.callers.add(call.caller)
        match call.method:
            case "Echo":
                return call.body
            case "Address":
                return call.address.encode()
            case "Refuse":
                raise ServiceError("notFound", "no such thing: é")
            case "Crash":
                raise ZeroDivisionError("a bug, on purpose")
            case "Close":
                raise BusClosed("what the service itself called has gone")
            case "Huge":
                return bytes(MAX_BODY_BYTES + 1)
            case "Hang":
                self.hanging.set()
                try:
                    await trio.sleep_forever()
                finally:
                    self.stopped.set()
        raise NoEndpoint(call.address)

    async def stream(self, call: Call) -> AsyncIterator[bytes]:
        self.callers.add(call.caller)
        try:
            match call.method:
                case "Count":
                    for i in range(int(call.body)):
                        yield b"%d" % i
                case "Refuse":
                    yield b"first"
                    raise ServiceError("notFound", "no such thing: é")
                case "Crash":
                    yield b"first"
                    raise ZeroDivisionError("a bug, on purpose")
                case "Hang":
                    yield b"first"
                    await trio.sleep_forever()
                case "Flood":
                    while True:
                        self.produced += 1
                        yield self.produced.to_bytes(8, "big") + bytes(_ITEM_BYTES)
                case _:
                    raise NoEndpoint(call.address)
        finally:
            self.stopped.set()


async def _register(
    bus: Bus, prefix: str, probe: Probe, allow: Callable[[Caller], bool] | None = None
) -> Registration:
    registration = bus.register(prefix, probe, allow=allow)
    confirmed = getattr(registration, "confirmed", None)
    if confirmed is not None:  # through the door, the node has to agree
        await confirmed()
    return registration


async def _settled(bus: Bus, called: str) -> None:
    """Wait until a registration that was closed is no longer in force."""
    while True:
        try:
            await bus.call(called + "/Echo", b"")
        except NoEndpoint:
            return


async def _error_of_call(bus: Bus, address: str, body: bytes = b"", timeout: float = TIMEOUT) -> BusError:
    try:
        await bus.call(address, body, timeout=timeout)
    except BusError as error:
        return error
    raise AssertionError(f"{address} was answered")


async def _error_of_stream(bus: Bus, address: str) -> tuple[list[bytes], BusError]:
    items: list[bytes] = []
    try:
        async with bus.stream(address, b"") as stream:
            async for item in stream:
                items.append(item)  # noqa: PERF401 - those before the error count
    except BusError as error:
        return items, error
    raise AssertionError(f"{address} ended well")


async def _check_registration(serving: Bus, calling: Bus, registered: str, called: str) -> None:
    assert isinstance(await _error_of_call(calling, called + "/Echo"), NoEndpoint)
    outer, inner = Probe(), Probe()
    registrations = [
        await _register(serving, registered, outer),
        await _register(serving, registered + "/inner", inner),
    ]
    assert await calling.call(called + "/inner/Echo", b"1") == b"1"
    assert inner.callers, "the longest prefix does not win"
    assert not outer.callers, "the longest prefix does not win"
    assert await calling.call(called + "/innermost/Echo", b"2") == b"2"
    assert outer.callers, "a prefix was matched within a segment"
    try:
        await _register(serving, registered, Probe())
        raise AssertionError("a prefix was registered twice")
    except AddressTaken:
        pass
    for malformed in (
        "",
        "check",
        "/public",
        "/net/x/y",
        "/other/x",
        "/public//x",
        "/public/x/",
        "/public/a b",
    ):
        try:
            serving.register(malformed, Probe())
            raise AssertionError(f"{malformed!r} was registered")
        except BusError:
            pass
    for registration in registrations:
        registration.close()
        registration.close()
    await _settled(calling, called)
    refused = await _register(serving, registered, Probe(), allow=lambda _: False)
    error = await _error_of_call(calling, called + "/Echo")
    assert isinstance(error, RemoteError)
    assert error.kind == "forbidden"
    assert isinstance((await _error_of_stream(calling, called + "/Count"))[1], RemoteError)
    refused.close()
    await _settled(calling, called)


async def _check_answers(bus: Bus, prefix: str, _: Probe) -> None:
    for body in (b"", b"x", bytes(range(256)) * 1000):
        assert await bus.call(prefix + "/Echo", body) == body
    seen = (await bus.call(prefix + "/Address", b"")).decode()
    assert seen.startswith(("/public/", "/local/"))
    assert seen.endswith("/Address")


async def _check_errors(bus: Bus, prefix: str, _: Probe) -> None:
    error = await _error_of_call(bus, prefix + "/Refuse")
    assert isinstance(error, RemoteError)
    assert (error.kind, error.message) == ("notFound", "no such thing: é")
    error = await _error_of_call(bus, prefix + "/Crash")
    assert isinstance(error, RemoteError)
    assert error.kind == "service"
    assert "ZeroDivision" not in str(error), "the caller is told of the service's insides"
    assert isinstance(await _error_of_call(bus, prefix + "/Close"), BusClosed)
    error = await _error_of_call(bus, prefix + "/NoSuchMethod")
    assert isinstance(error, NoEndpoint)
    assert "endpoint address not found" in str(error)
    assert error.address.endswith("/NoSuchMethod")
    assert await bus.call(prefix + "/Echo", b"alive") == b"alive"


async def _check_sizes(bus: Bus, prefix: str, _: Probe) -> None:
    largest = bytes(MAX_BODY_BYTES)
    assert await bus.call(prefix + "/Echo", largest) == largest
    assert isinstance(await _error_of_call(bus, prefix + "/Echo", largest + b"x"), BadContent)
    assert isinstance(await _error_of_call(bus, prefix + "/Huge"), BusError)
    assert await bus.call(prefix + "/Echo", b"alive") == b"alive"


async def _check_timeout(bus: Bus, prefix: str, probe: Probe) -> None:
    assert isinstance(await _error_of_call(bus, prefix + "/Hang", timeout=0.05), BusTimeout)
    if probe.hanging.is_set():  # the time may be over before the call is there
        await probe.stopped.wait()
    assert isinstance(await _error_of_call(bus, prefix + "/Hang", timeout=0.0), BusTimeout)


async def _check_cancel(bus: Bus, prefix: str, probe: Probe) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bus.call, prefix + "/Hang", b"")
        await probe.hanging.wait()
        nursery.cancel_scope.cancel()
    await probe.stopped.wait()


async def _check_many_at_once(bus: Bus, prefix: str, _: Probe) -> None:
    async def call(i: int) -> None:
        assert await bus.call(prefix + "/Echo", b"%d" % i) == b"%d" % i

    async with trio.open_nursery() as nursery:
        for i in range(50):
            nursery.start_soon(call, i)


async def _check_items(bus: Bus, prefix: str, _: Probe) -> None:
    for count in (0, 1, 10_000):  # the last needs fresh credit several times
        async with bus.stream(prefix + "/Count", b"%d" % count) as items:
            assert [item async for item in items] == [b"%d" % i for i in range(count)]


async def _check_stream_errors(bus: Bus, prefix: str, _: Probe) -> None:
    items, error = await _error_of_stream(bus, prefix + "/Refuse")
    assert items == [b"first"], "items before the error were lost"
    assert isinstance(error, RemoteError)
    assert (error.kind, error.message) == ("notFound", "no such thing: é")
    items, error = await _error_of_stream(bus, prefix + "/Crash")
    assert items == [b"first"]
    assert isinstance(error, RemoteError)
    assert error.kind == "service"
    assert isinstance((await _error_of_stream(bus, prefix + "/NoSuchMethod"))[1], NoEndpoint)


async def _check_stream_left(bus: Bus, prefix: str, probe: Probe) -> None:
    async with bus.stream(prefix + "/Hang", b"") as items:
        assert await anext(items) == b"first"
    await probe.stopped.wait()
    probe.stopped = trio.Event()
    try:
        async with bus.stream(prefix + "/Hang", b"") as items:
            assert await anext(items) == b"first"
            raise LookupError("the caller's own trouble")
    except LookupError:
        pass  # and not a group of it
    await probe.stopped.wait()


async def _check_stream_timeout(bus: Bus, prefix: str, probe: Probe) -> None:
    try:
        async with bus.stream(prefix + "/Hang", b"", timeout=0.3) as items:
            async for _ in items:
                pass
        raise AssertionError("a stream outlived its timeout")
    except BusTimeout:
        pass
    if probe.callers:
        await probe.stopped.wait()


async def _check_back_pressure(bus: Bus, prefix: str, probe: Probe) -> None:
    async with bus.stream(prefix + "/Flood", b"") as items:
        assert (await anext(items))[:8] == (1).to_bytes(8, "big")
        for i in range(20):  # a stream that nobody reads holds nobody up
            assert await bus.call(prefix + "/Echo", b"%d" % i) == b"%d" % i
        await trio.testing.wait_all_tasks_blocked()
        assert probe.produced * _ITEM_BYTES < _AHEAD_BYTES, "the service is not held back"
        for i in range(2, 300):
            assert (await anext(items))[:8] == i.to_bytes(8, "big")
    await probe.stopped.wait()
