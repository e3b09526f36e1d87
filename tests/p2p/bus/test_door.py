"""The door lets in who shows a token, to what the token opens, and nobody can spoil it for the others."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
import sys
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from p2p.bus import door as door_module
from p2p.bus import frames, visitor
from p2p.bus.api import (
    AddressTaken,
    BusClosed,
    BusError,
    Busy,
    Caller,
    NoEndpoint,
    RemoteError,
    net_address,
)
from p2p.bus.client import DoorBus, connect
from p2p.bus.door import Door, DoorTaken
from p2p.bus.frames import Hello, Publish, Register, Reply, Request, Welcome
from p2p.bus.router import LocalBus
from p2p.bus.testing import Probe
from p2p.entropy import SeededEntropy
from tests.p2p.bus.conftest import NODE
from tests.p2p.bus.test_line import RawEnd

if TYPE_CHECKING:
    from pathlib import Path

PEER = "0x" + "ab" * 20


async def raw_end(door: Door) -> RawEnd:
    return RawEnd(await trio.open_unix_socket(str(door.path)))


async def expect_dropped(raw: RawEnd) -> None:
    with pytest.raises((EOFError, trio.BrokenResourceError)):  # noqa: PT012
        while True:
            await raw.receive()
    await raw.stream.aclose()


# The socket.


async def test_socket_and_token_are_the_owners_alone(door: Door) -> None:
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o600
    stored = door.store_owner_token()
    assert stored.name == "bus.sock.token"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stored.read_text().strip() == door.owner_token
    assert door.store_owner_token() == stored, "a token of an earlier run is in the way"


async def test_the_socket_goes_with_the_door(bus: LocalBus, folder: Path) -> None:
    door = Door(bus, folder / "s", entropy=SeededEntropy(1))
    async with door.running():
        assert door.path.is_socket()
    assert not door.path.exists()
    async with door.running():
        door.path.unlink()
        door.path.write_text("somebody else's")
    assert door.path.read_text() == "somebody else's"


async def test_a_stale_socket_is_replaced(bus: LocalBus, folder: Path) -> None:
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    door = Door(bus, path, entropy=SeededEntropy(1))
    async with door.running(), connect(path, door.owner_token) as owner:
        assert owner.node_id == NODE


async def test_a_socket_where_somebody_answers_is_left_alone(bus: LocalBus, door: Door) -> None:
    second = Door(bus, door.path, entropy=SeededEntropy(2))
    with pytest.raises(DoorTaken, match="another node answers"):
        async with second.running():
            pass
    async with connect(door.path, door.owner_token):
        pass


async def test_two_nodes_do_not_judge_one_socket_at_once(bus: LocalBus, folder: Path) -> None:
    import fcntl

    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DoorTaken, match="try again"):
            async with Door(bus, folder / "s", entropy=SeededEntropy(1)).running():
                pass
    finally:
        os.close(held)


async def test_what_is_no_socket_is_left_alone(bus: LocalBus, folder: Path) -> None:
    (folder / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        async with Door(bus, folder / "s", entropy=SeededEntropy(1)).running():
            pass
    assert (folder / "s").read_text() == "precious"


async def test_a_too_long_path_is_said_so(bus: LocalBus, folder: Path) -> None:
    with pytest.raises(OSError, match="shorter data directory"):
        async with Door(bus, folder / ("s" * 100), entropy=SeededEntropy(1)).running():
            pass


async def test_what_the_block_raises_comes_out_as_it_is(bus: LocalBus, folder: Path) -> None:
    with pytest.raises(LookupError):
        async with Door(bus, folder / "s", entropy=SeededEntropy(1)).running():
            raise LookupError


# Tokens.


async def test_a_wrong_token_is_refused(door: Door) -> None:
    with capture_logs() as log:
        for wrong in ("", "0" * 64, door.owner_token[:-1], door.owner_token.upper()):
            with pytest.raises(RemoteError, match="does not know this bus token") as caught:
                async with connect(door.path, wrong):
                    pass
            assert caught.value.kind == "forbidden"
        assert all(wrong not in str(entry) for entry in log for wrong in ("0" * 64, door.owner_token))
    async with connect(door.path, door.owner_token) as owner:
        assert owner.subject == ""


async def test_a_token_needs_a_subject(door: Door) -> None:
    with pytest.raises(ValueError, match="subject"):
        door.issue("")


async def test_another_version_is_refused(door: Door) -> None:
    raw = await raw_end(door)
    with capture_logs():
        await raw.send(Hello(door.owner_token, version=2))
        refusal = await raw.receive()
    assert isinstance(refusal, frames.Failure)
    assert "version" in refusal.message
    await expect_dropped(raw)


async def test_a_revoked_token_drops_who_came_in_by_it(bus: LocalBus, door: Door) -> None:
    token, other = door.issue("one", may_register=["/public/one"]), door.issue("other")
    async with connect(door.path, token) as child, connect(door.path, other) as stays:
        await child.register("/public/one", Probe()).confirmed()
        door.revoke(token)
        door.revoke("never issued")
        await child.closed.wait()
        with pytest.raises(BusClosed):
            await child.call("/public/one/Echo", b"")
        with pytest.raises(NoEndpoint):
            await bus.call("/public/one/Echo", b"")
        with capture_logs(), pytest.raises(RemoteError):
            async with connect(door.path, token):
                pass
        assert not stays.closed.is_set()


# What a token opens.


async def test_a_child_registers_only_what_it_may(bus: LocalBus, door: Door) -> None:
    token = door.issue("act", may_register=["/public/exeunit/act"])
    async with connect(door.path, token) as child:
        for forbidden in ("/public/exeunit", "/public/exeunit/activity", "/public/market", "/local/activity"):
            with capture_logs() as log:
                registration = child.register(forbidden, Probe())
                with pytest.raises(RemoteError, match="does not let it serve") as caught:
                    await registration.confirmed()
            assert caught.value.kind == "forbidden"
            assert log[0]["prefix"] == forbidden
            with pytest.raises(NoEndpoint):
                await bus.call(forbidden + "/Echo", b"")
        await child.register("/public/exeunit/act/inner", Probe()).confirmed()
        await child.register("/public/exeunit/act", Probe()).confirmed()
        assert await bus.call("/public/exeunit/act/Echo", b"x") == b"x"


async def test_a_child_cannot_take_a_prefix_that_is_served(bus: LocalBus, door: Door) -> None:
    bus.register("/public/a", Probe())
    async with connect(door.path, door.issue("act", may_register=["/public/a"])) as child:
        registration = child.register("/public/a", Probe())
        with capture_logs(), pytest.raises(AddressTaken):
            await registration.confirmed()
        with capture_logs(), pytest.raises(AddressTaken):
            await child.register("/public/a", Probe()).confirmed()


async def test_a_child_calls_only_what_it_may(bus: LocalBus, door: Door) -> None:
    for prefix in ("/local/activity", "/local/activities", "/local/identity", "/public/market"):
        bus.register(prefix, Probe())
    async with connect(door.path, door.issue("act", may_call=["/local/activity", "/net"])) as child:
        assert await child.call("/local/activity/Echo", b"x") == b"x"
        for forbidden in (
            "/local/identity/Echo",
            "/local/activities/Echo",
            "/public/market/Echo",
            net_address(NODE, "market")
            + "/Echo",  # its right to /net does not make it a peer of its own node
        ):
            with pytest.raises(RemoteError, match="does not let it call"):
                await child.call(forbidden, b"")
            with pytest.raises(RemoteError, match="does not let it call"):
                async with child.stream(forbidden, b"") as items:
                    await anext(items)
        with pytest.raises(NoEndpoint, match="not joined"):
            await child.call(net_address(PEER, "market") + "/Echo", b"")
        with pytest.raises(NoEndpoint, match="not an address"):
            await child.call("/local//Echo", b"")


async def test_a_caller_in_a_frame_is_worth_nothing(bus: LocalBus, door: Door) -> None:
    probe = Probe()
    bus.register("/local/a", probe)
    raw = await raw_end(door)
    await raw.send(Hello(door.issue("act", may_call=["/local/a"])))
    assert await raw.receive() == Welcome(NODE, "act")
    await raw.send(Request(0, "/local/a/Echo", b"", caller=Caller(NODE, local=True)))
    assert await raw.receive() == Reply(0)
    assert probe.callers == {Caller(NODE, local=True, child="act")}
    await raw.stream.aclose()


async def test_topics_are_opened_one_by_one(bus: LocalBus, door: Door) -> None:
    token = door.issue("act", may_publish=["a"], may_subscribe=["b"])
    async with connect(door.path, token) as child, bus.subscribe("a") as heard:
        child.publish("a", b"1")
        assert await anext(heard) == b"1"
        async with child.subscribe("b") as events:
            bus.publish("b", b"2")
            assert await anext(events) == b"2"
        with pytest.raises(RemoteError, match="listen to a"):
            async with child.subscribe("a"):
                pass
        with capture_logs() as log:
            child.publish("b", b"3")  # cannot be answered
            await child.closed.wait()
        assert "publish on b" in log[0]["error"]


# Ends.


async def test_a_child_that_dies_fails_its_calls_and_loses_its_prefixes(bus: LocalBus, door: Door) -> None:
    token = door.issue("act", may_register=["/public/a"])
    probe = Probe()
    errors: list[BusError] = []

    async def call() -> None:
        with pytest.raises(BusClosed) as caught:
            await bus.call("/public/a/Hang", b"")
        errors.append(caught.value)

    async def follow() -> None:
        with pytest.raises(BusClosed) as caught:  # noqa: PT012
            async with bus.stream("/public/a/Hang", b"") as items:
                async for _ in items:
                    pass
        errors.append(caught.value)

    async with trio.open_nursery() as nursery, connect(door.path, token) as child:
        await child.register("/public/a", probe).confirmed()
        nursery.start_soon(call)
        nursery.start_soon(follow)
        await probe.hanging.wait()
    assert len(errors) == 2
    with pytest.raises(NoEndpoint):
        await bus.call("/public/a/Echo", b"")
    async with connect(door.path, token) as child:
        await child.register("/public/a", Probe()).confirmed()
        assert await bus.call("/public/a/Echo", b"back") == b"back"


CHILD = """
import os, sys, trio
from p2p.bus.client import connect_env
heavy = {"libp2p", "coincurve", "eth_keys", "p2p.identity", "Crypto", "cryptography"} & set(sys.modules)
assert not heavy, heavy
class Service:
    async def call(self, call):
        if call.method == "Hang":
            await trio.sleep_forever()
        return call.caller.node_id.encode()
async def main():
    async with connect_env(os.environ) as bus:
        await bus.register("/public/a", Service()).confirmed()
        await bus.call("/local/ready/Echo", b"")
        await bus.closed.wait()
trio.run(main)
"""


async def test_a_process_that_is_killed_in_a_call(bus: LocalBus, door: Door, nursery: trio.Nursery) -> None:
    """A real process: what it imports, and what SIGKILL in the middle of a call looks like."""
    ready = Probe()
    bus.register("/local/ready", ready)
    token = door.issue("act", may_register=["/public/a"], may_call=["/local/ready"])
    environ = {
        "GSB_URL": f"unix://{door.path}",
        "GOLEM_P2P_BUS_TOKEN": token,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    process = await trio.lowlevel.open_process([sys.executable, "-c", CHILD], env=environ)
    try:
        while not ready.callers:
            assert process.poll() is None
            await trio.sleep(0.01)
        assert await bus.call("/public/a/M", b"") == NODE.encode()

        async def call() -> None:
            with pytest.raises(BusClosed, match="act"):
                await bus.call("/public/a/Hang", b"")

        async with trio.open_nursery() as callers:
            callers.start_soon(call)
            await wait_all_tasks_blocked()
            process.send_signal(signal.SIGKILL)
        with pytest.raises(NoEndpoint):
            await bus.call("/public/a/M", b"")
    finally:
        process.kill()
        await process.wait()


# Guests that misbehave.


async def still_works(bus: LocalBus, child: DoorBus, body: bytes) -> None:
    assert await child.call("/local/a/Echo", body) == body
    assert await bus.call("/public/a/Echo", body) == body


async def test_garbage_at_the_door_is_dropped_and_others_go_on(bus: LocalBus, door: Door) -> None:
    chance = random.Random(1)
    bus.register("/local/a", Probe())
    token = door.issue("act", may_register=["/public/a"], may_call=["/local/a"])
    openings = [
        b"",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"GET / HTTP/1.1\r\n\r\n",
        frames.encode(Request(0, "/local/a/Echo", b"")),
        frames.encode(Hello("x" * 256)),
        (2000).to_bytes(4, "big"),
    ]
    with capture_logs():
        async with connect(door.path, token) as child:
            await child.register("/public/a", Probe()).confirmed()
            for i in range(200):
                raw = await raw_end(door)
                opening = openings[i] if i < len(openings) else chance.randbytes(chance.randrange(1, 200))
                await raw.stream.send_all(opening)
                await raw.stream.send_eof()  # type: ignore[attr-defined]
                await expect_dropped(raw)
                await still_works(bus, child, b"%d" % i)


async def test_garbage_inside_is_dropped_and_others_go_on(bus: LocalBus, door: Door) -> None:
    chance = random.Random(2)
    bus.register("/local/a", Probe())
    token = door.issue("act", may_register=["/public/a"], may_call=["/local/a"])
    with capture_logs():
        async with connect(door.path, token) as child:
            await child.register("/public/a", Probe()).confirmed()
            for i in range(50):
                raw = await raw_end(door)
                await raw.send(Hello(door.owner_token))
                await raw.receive()
                if i % 2:
                    await raw.send(Hello(door.owner_token))
                else:
                    await raw.stream.send_all(chance.randbytes(500))
                await expect_dropped(raw)
                await still_works(bus, child, b"%d" % i)


async def test_who_says_nothing_is_dropped(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "HELLO_TIMEOUT", 0.05)
    with capture_logs() as log:
        await expect_dropped(await raw_end(door))
    assert "in time" in log[0]["error"]


async def test_the_door_is_full_at_its_bound(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "MAX_CONNECTIONS", 2)
    async with connect(door.path, door.owner_token):
        async with connect(door.path, door.owner_token):
            with capture_logs(), pytest.raises(BusClosed, match="before it greeted us"):
                async with connect(door.path, door.owner_token):
                    pass
        await wait_all_tasks_blocked()
        async with connect(door.path, door.owner_token):
            pass


async def test_a_child_has_few_connections_and_the_owner_many(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door_module, "MAX_PER_TOKEN", 1)
    token = door.issue("act")
    async with (
        connect(door.path, token),
        connect(door.path, door.owner_token),
        connect(door.path, door.owner_token),
    ):
        with capture_logs(), pytest.raises(Busy):
            async with connect(door.path, token):
                pass


async def test_registrations_and_subscriptions_are_bounded(
    bus: LocalBus, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visitor, "MAX_REGISTRATIONS", 2)
    async with connect(door.path, door.owner_token) as owner:
        made = [owner.register(f"/public/{i}", Probe()) for i in range(2)]
        with capture_logs(), pytest.raises(Busy):
            await owner.register("/public/2", Probe()).confirmed()
        made[0].close()
        await owner.register("/public/2", Probe()).confirmed()
        async with owner.subscribe("1"), owner.subscribe("2"):
            with pytest.raises(Busy):
                async with owner.subscribe("3"):
                    pass
        async with owner.subscribe("3") as events:
            bus.publish("3", b"x")
            assert await anext(events) == b"x"


async def test_a_child_that_answers_nonsense_is_dropped(bus: LocalBus, door: Door) -> None:
    raw = await raw_end(door)
    await raw.send(Hello(door.issue("act", may_register=["/public/a"])), Register(0, "/public/a"))
    assert isinstance(await raw.receive(), Welcome)
    assert await raw.receive() == Reply(0)

    async def call() -> None:
        with pytest.raises(BusClosed):
            await bus.call("/public/a/M", b"")

    with capture_logs():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            assert isinstance(await raw.receive(), Request)
            await raw.send(frames.Item(0, b"to a call that does not stream"))
    await expect_dropped(raw)


async def test_a_bug_in_a_child_stays_there(bus: LocalBus, door: Door) -> None:
    async with connect(door.path, door.issue("act", may_register=["/public/a"])) as child:
        await child.register("/public/a", Probe()).confirmed()
        with capture_logs(), pytest.raises(RemoteError, match="internal error"):
            await bus.call("/public/a/Crash", b"")
        assert await bus.call("/public/a/Echo", b"x") == b"x"


async def test_a_publish_flood_is_no_flood_of_memory(bus: LocalBus, door: Door) -> None:
    raw = await raw_end(door)
    await raw.send(Hello(door.owner_token))
    await raw.receive()
    with capture_logs():
        async with bus.subscribe("t") as slow:
            for _ in range(100):
                await raw.send(Publish("t", bytes(1_000_000)))
            await raw.send(Request(0, "/public/none/M", b""))
            assert isinstance(await raw.receive(), frames.Failure)
            assert slow.lost > 80  # type: ignore[attr-defined]
    await raw.stream.aclose()


async def test_the_owner_chooses_among_the_nodes_identities_and_a_child_does_not(folder: Path) -> None:
    bus, probe = LocalBus(NODE, aliases=lambda: {PEER}), Probe()
    bus.register("/local/a", probe)
    door = Door(bus, folder / "s", entropy=SeededEntropy(1))
    async with door.running(), connect(door.path, door.owner_token) as owner:
        assert await owner.call("/local/a/Echo", b"x", acting=PEER) == b"x"
        async with owner.stream("/local/a/Count", b"1", acting=PEER) as items:
            assert [item async for item in items] == [b"0"]
        assert probe.callers == {Caller(PEER, local=True)}
        with pytest.raises(RemoteError, match="no identity of this node"):
            await owner.call("/local/a/Echo", b"x", acting="0x" + "99" * 20)
        token = door.issue("child", may_call=["/local/a"])
        async with connect(door.path, token) as child:
            for acting in (PEER, NODE):
                with pytest.raises(RemoteError, match="no identity to choose") as caught:
                    await child.call("/local/a/Echo", b"x", acting=acting)
                assert caught.value.kind == "forbidden"
    assert probe.callers == {Caller(PEER, local=True)}
