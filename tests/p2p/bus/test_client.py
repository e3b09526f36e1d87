"""What a program sees of the node: where it is, that it is gone, and one clear line when it is not there."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from p2p.bus import client as client_module
from p2p.bus import frames
from p2p.bus.api import BadContent, BusClosed, BusError, BusTimeout, Caller, RemoteError
from p2p.bus.client import DoorBus, connect, connect_env, socket_path
from p2p.bus.door import Door
from p2p.bus.frames import Hello, Register, Reply, Request, Welcome
from p2p.bus.testing import Probe
from p2p.entropy import SeededEntropy
from tests.p2p.bus.conftest import NODE
from tests.p2p.bus.test_line import RawEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from p2p.bus.router import LocalBus


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("unix:/run/golem/bus.sock", "/run/golem/bus.sock"),
        ("unix:///run/golem/bus.sock", "/run/golem/bus.sock"),
        ("unix:bus.sock", "bus.sock"),
        ("unix:/with space/s", "/with space/s"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert socket_path(url) == Path(path)


@pytest.mark.parametrize(
    "url", ["", "unix:", "unix://", "unix://host/path", "tcp://127.0.0.1:7464", "/run/bus.sock"]
)
def test_urls_that_are_not_understood_give_one_line(url: str) -> None:
    with pytest.raises(BusError, match="GSB_URL") as caught:
        socket_path(url)
    assert "\n" not in str(caught.value)
    assert "unix:" in str(caught.value)


async def test_the_environment_names_node_and_token(door: Door) -> None:
    url = f"unix://{door.path}"
    token = door.issue("act")
    async with connect_env({"GSB_URL": url, "GOLEM_P2P_BUS_TOKEN": token}) as bus:
        assert (bus.node_id, bus.subject) == (NODE, "act")
    with pytest.raises(BusError, match=r"no bus token: .* cannot be read \(No such file") as caught:
        async with connect_env({"GSB_URL": url}):
            pass
    assert "\n" not in str(caught.value)
    stored = door.store_owner_token()
    async with connect_env({"GSB_URL": url}) as bus:
        assert bus.subject == ""
    for unusable in (b"", b"\xff\xfe"):
        stored.write_bytes(unusable)
        with pytest.raises(BusError, match="no bus token"):
            async with connect_env({"GSB_URL": url}):
                pass


async def test_no_node_gives_one_line(folder: Path) -> None:
    stale = folder / "stale"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(stale))
    for path in (folder / "nothing", stale, folder / ("long" * 100)):
        with pytest.raises(BusClosed, match="no node answers at") as caught:
            async with connect(path, "token"):
                pass
        assert "\n" not in str(caught.value)


async def test_a_node_that_is_stuck(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(str(folder / "s"))
        stuck.listen()
        with pytest.raises(BusTimeout, match="did not greet us"):
            async with connect(folder / "s", "token"):
                pass


@pytest.fixture
async def node(folder: Path, nursery: trio.Nursery) -> AsyncIterator[trio.MemoryReceiveChannel[RawEnd]]:
    """A node that says what the test wants: each connection to `folder / "s"`, as a raw end."""
    arrive, arrived = trio.open_memory_channel[RawEnd](10)
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listener.bind(str(folder / "s"))
    listener.listen()

    async def accept() -> None:
        while True:
            accepted, _ = await listener.accept()
            arrive.send_nowait(RawEnd(trio.SocketStream(accepted)))

    nursery.start_soon(accept)
    yield arrived
    nursery.cancel_scope.cancel()
    listener.close()
    while True:
        try:
            await arrived.receive_nowait().stream.aclose()
        except trio.WouldBlock:
            return


@pytest.mark.parametrize("greeting", [b"\xff" * 8, frames.encode(Reply(0)), b""])
async def test_a_node_that_greets_with_nonsense(
    node: trio.MemoryReceiveChannel[RawEnd], folder: Path, nursery: trio.Nursery, greeting: bytes
) -> None:
    async def greet() -> None:
        raw = await node.receive()
        await raw.stream.send_all(greeting)
        await raw.stream.aclose()

    nursery.start_soon(greet)
    with pytest.raises((BadContent, BusClosed)):
        async with connect(folder / "s", "token"):
            pass


async def test_a_call_that_says_not_who_calls_is_not_served(
    node: trio.MemoryReceiveChannel[RawEnd], folder: Path, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as both:
        answers: list[frames.Frame] = []

        async def be_the_node() -> None:
            raw = await node.receive()
            assert await raw.receive() == Hello("token")
            await raw.send(Welcome(NODE))
            register = await raw.receive()
            assert isinstance(register, Register)
            await raw.send(Reply(register.id), Request(0, "/public/a/Echo", b"x"))
            answers.append(await raw.receive())
            await raw.send(Request(1, "/public/a/Echo", b"x", caller=Caller("0xpeer", local=False)))
            answers.append(await raw.receive())
            await raw.stream.aclose()

        both.start_soon(be_the_node)
        probe = Probe()
        async with connect(folder / "s", "token") as bus:
            await bus.register("/public/a", probe).confirmed()
            await bus.closed.wait()
        assert isinstance(answers[0], frames.Failure)
        assert answers[1] == Reply(1, b"x")
        assert probe.callers == {Caller("0xpeer", local=False)}


async def test_the_program_learns_that_the_node_has_gone(bus: LocalBus, folder: Path) -> None:
    door = Door(bus, folder / "bus.sock", entropy=SeededEntropy(1))
    probe = Probe()
    bus.register("/local/a", probe)
    failed: list[str] = []

    async def call(child: DoorBus) -> None:
        with pytest.raises(BusClosed, match="has ended"):
            await child.call("/local/a/Hang", b"")
        failed.append("call")

    async def listen(child: DoorBus) -> None:
        async with child.subscribe("t") as events:
            with pytest.raises(BusClosed):
                await anext(events)
        failed.append("subscription")

    async def program() -> None:
        async with connect(door.path, door.owner_token) as child:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(call, child)
                tasks.start_soon(listen, child)
                await child.closed.wait()
            with pytest.raises(BusClosed):
                await child.call("/local/a/Echo", b"")
            with pytest.raises(BusClosed):
                child.register("/public/a", Probe())
            with pytest.raises(BusClosed):
                async with child.subscribe("t"):
                    pass
            child.publish("t", b"to nobody")

    async with trio.open_nursery() as nursery, door.running():
        nursery.start_soon(program)
        await probe.hanging.wait()
        await wait_all_tasks_blocked()
    assert sorted(failed) == ["call", "subscription"]


async def test_what_the_program_raises_comes_out_as_it_is(door: Door) -> None:
    with pytest.raises(LookupError):
        async with connect(door.path, door.owner_token):
            raise LookupError
    with trio.CancelScope() as scope:
        async with connect(door.path, door.owner_token):
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_was_published_last_still_arrives(bus: LocalBus, door: Door) -> None:
    async with bus.subscribe("t") as events:
        async with connect(door.path, door.owner_token) as child:
            for _ in range(9):
                child.publish("t", bytes(100_000))
        for _ in range(9):
            assert len(await anext(events)) == 100_000


async def test_events_are_dropped_when_the_node_does_not_keep_up(door: Door) -> None:
    async with connect(door.path, door.owner_token) as child:
        with capture_logs() as log:
            for _ in range(30):  # without a checkpoint, so that nothing can leave
                child.publish("t", bytes(100_000))
        assert log
        assert "was dropped" in log[0]["event"]
        with pytest.raises(BadContent):
            child.publish("t", bytes(5_000_000))


async def test_a_refused_registration_is_not_served(door: Door) -> None:
    async with connect(door.path, door.issue("act")) as child:
        with capture_logs() as log:
            child.register("/public/a", Probe())  # nobody waits for it
            await wait_all_tasks_blocked()
        assert log[0]["prefix"] == "/public/a"
        again = child.register("/public/a", Probe())
        with capture_logs(), pytest.raises(RemoteError):
            await again.confirmed()


async def test_a_timeout_of_a_callers_own_scope_is_its_own(bus: LocalBus, door: Door) -> None:
    bus.register("/local/a", Probe())
    async with connect(door.path, door.owner_token) as child:
        with trio.move_on_after(0.05) as scope:
            async with child.stream("/local/a/Hang", b"", timeout=60) as items:
                async for _ in items:
                    pass
        assert scope.cancelled_caught
        with trio.move_on_after(0.05) as scope:
            await child.call("/local/a/Hang", b"", timeout=60)
        assert scope.cancelled_caught
