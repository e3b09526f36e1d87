"""The supervisor on a real bus: the node's router and door in this process, the supervisor in its own (process tests)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from exeunit.supervisor.journal import FILE_NAME
from p2p import codec
from p2p.bus import Caller, NoEndpoint, RemoteError, Service, ServiceError, ask
from p2p.bus.door import Door
from p2p.bus.router import LocalBus
from p2p.entropy import SeededEntropy
from protocols.activity.messages import (
    REPORT_SERVICE,
    ActivityState,
    ActivityUsage,
    BatchAccepted,
    BatchResults,
    CommandResult,
    Done,
    Exec,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    RunningCommands,
    SetActivityState,
    SetActivityUsage,
    State,
    StreamedEvent,
    StreamExecBatchResults,
    Terminate,
    decode_exe_script,
    exeunit_service,
)
from tests.exeunit.runtimes.wasm import guests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

ACTIVITY = "ab" * 16
ADDRESS = exeunit_service(ACTIVITY)
OWN, REQUESTOR, STRANGER = ("0x" + digit * 40 for digit in "123")


class Node:
    """The part of a node that a supervisor sees."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bus = LocalBus(OWN)
        self.states: list[ActivityState] = []
        self.usages: list[ActivityUsage] = []
        self.heard = trio.Event()
        self.known = True
        local = Service()
        local.method(SetActivityState, self._state)
        local.method(SetActivityUsage, self._usage)
        self.bus.register(REPORT_SERVICE, local)

    async def _state(self, caller: Caller, report: SetActivityState) -> Done:
        assert (caller.child, report.activity_id) == (ACTIVITY, ACTIVITY)
        self.states.append(report.state)
        self._notify()
        return Done()

    async def _usage(self, caller: Caller, report: SetActivityUsage) -> Done:
        if not self.known:
            raise ServiceError("notFound", "no such activity")
        self.usages.append(report.usage)
        self._notify()
        return Done()

    def _notify(self) -> None:
        self.heard.set()
        self.heard = trio.Event()

    async def wait_for(self, state: State) -> ActivityState:
        while not self.states or self.states[-1].state[0] is not state:
            await self.heard.wait()
        return self.states[-1]


@contextlib.asynccontextmanager
async def supervised(node: Node, module: bytes) -> AsyncIterator[tuple[trio.Process, Callable[[], None]]]:
    """A supervisor that has reported Initialized, and a way to cut its connection."""
    directory = node.directory
    door = Door(node.bus, directory / "bus.sock", entropy=SeededEntropy(1))
    (directory / "module").write_bytes(module)
    images = directory / "cache" / "images"
    images.mkdir(parents=True)
    digest = hashlib.sha3_224(module).hexdigest()
    (images / digest).write_bytes(module)  # as if an earlier activity had fetched it
    package = f"hash:sha3:{digest}:gftp://{REQUESTOR}/{'0' * 64}"
    agreement = {
        "offer": {"properties": {"golem.com.usage.vector": ["golem.usage.duration_sec"]}},
        "demand": {"requestorId": REQUESTOR, "properties": {"golem.srv.comp.task_package": package}},
    }
    (directory / "agreement.json").write_text(json.dumps(agreement))
    token = door.issue(ACTIVITY, may_register=[ADDRESS], may_call=[REPORT_SERVICE])
    command = [
        sys.executable, "-m", "exeunit.supervisor", "-b", "module:exeunit.runtimes.wasm", "service-bus", ACTIVITY,
        REPORT_SERVICE, "-a", str(directory / "agreement.json"), "-w", str(directory / "work"),
        "-c", str(directory / "cache"),
    ]  # fmt: skip
    environment = {
        **os.environ, "GSB_URL": f"unix:{door.path}", "GOLEM_P2P_BUS_TOKEN": token, "PYTHONPATH": os.getcwd(),
    }  # fmt: skip
    with trio.fail_after(40):
        async with door.running():
            process = await trio.lowlevel.open_process(command, env=environment, stderr=subprocess.DEVNULL)
            try:
                await node.wait_for(State.INITIALIZED)
                yield process, lambda: door.revoke(token)
            finally:
                with trio.CancelScope(shield=True):
                    if process.returncode is None:
                        process.kill()
                    await process.wait()


async def ready(node: Node) -> None:
    script = decode_exe_script('[{"deploy": {}}, {"start": {}}]')
    assert await ask(node.bus, ADDRESS, Exec(ACTIVITY, "ready", script), BatchAccepted) == BatchAccepted(
        "ready"
    )
    poll = GetExecBatchResults(ACTIVITY, "ready", timeout=25)
    results = (await ask(node.bus, ADDRESS, poll, BatchResults)).results
    assert [result.message for result in results] == [None, None]


async def test_every_request_over_the_bus(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with supervised(node, guests.ECHO) as (process, _):
        await ready(node)
        text = '[{"run": {"entry_point": "main", "args": ["hi"], "capture": {"stdout": {"stream": {}}}}}]'
        await ask(node.bus, ADDRESS, Exec(ACTIVITY, "b", decode_exe_script(text)), BatchAccepted)
        body = codec.encode(StreamExecBatchResults(ACTIVITY, "b"))
        async with node.bus.stream(f"{ADDRESS}/StreamExecBatchResults", body) as items:
            events = [codec.decode(item, StreamedEvent) async for item in items]
        assert [event.id for event in events] == [0, 1, 2]
        assert events[1].event.kind.stdout == "main.wasm\0hi\0"
        poll = GetExecBatchResults(ACTIVITY, "b", timeout=20, command_index=0)
        (result,) = (await ask(node.bus, ADDRESS, poll, BatchResults)).results
        assert (result.result, result.stdout) == (CommandResult.OK, "main.wasm\0hi\0")
        state = await ask(node.bus, ADDRESS, GetActivityState(ACTIVITY), ActivityState)
        assert state == ActivityState((State.READY, None))
        usage = await ask(node.bus, ADDRESS, GetActivityUsage(ACTIVITY), ActivityUsage)
        assert usage.current_usage is not None
        assert usage.current_usage[0] > 0
        running = await ask(node.bus, ADDRESS, GetRunningCommand(ACTIVITY), RunningCommands)
        assert running == RunningCommands(())
        with pytest.raises(RemoteError) as refused:
            await ask(node.bus, ADDRESS, GetExecBatchResults(ACTIVITY, "none"), BatchResults)
        assert refused.value.kind == "notFound"
        await ask(node.bus, ADDRESS, Terminate(ACTIVITY, "thanks"), Done)
        assert await process.wait() == 0
        with pytest.raises(NoEndpoint):
            await ask(node.bus, ADDRESS, GetActivityState(ACTIVITY), ActivityState)
    assert node.states[-1] == ActivityState((State.TERMINATED, None), "thanks")
    assert node.usages


async def test_only_the_requestor_and_the_node_may_ask(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with supervised(node, guests.ECHO):
        body = codec.encode(GetActivityState(ACTIVITY))

        async def ask_as(caller: Caller) -> None:
            await node.bus.call_as(caller, f"{ADDRESS}/GetActivityState", body, timeout=10)

        await ask_as(Caller(REQUESTOR, local=False))
        await ask_as(Caller(OWN, local=True, child=ACTIVITY))
        for caller in (Caller(STRANGER, local=False), Caller(OWN, local=True, child="another activity")):
            with pytest.raises(RemoteError) as refused:
                await ask_as(caller)
            assert refused.value.kind == "forbidden"


async def test_it_ends_when_the_node_is_gone(tmp_path: Path) -> None:
    """The door closes while a guest loops: supervisor and runtime are gone soon after, and leave nothing."""
    node = Node(tmp_path)
    async with supervised(node, guests.LOOP) as (process, cut):
        await ready(node)
        script = decode_exe_script('[{"run": {"entry_point": "main"}}]')
        await ask(node.bus, ADDRESS, Exec(ACTIVITY, "b", script), BatchAccepted)
        entries = [json.loads(line) for line in (tmp_path / "work" / FILE_NAME).read_text().splitlines()]
        while entries[-1]["type"] != "process":
            await trio.sleep(0.01)
            entries = [json.loads(line) for line in (tmp_path / "work" / FILE_NAME).read_text().splitlines()]
        cut()
        assert await process.wait() in (0, 1)
        with pytest.raises(ProcessLookupError):
            os.kill(entries[-1]["pid"], 0)
    assert not (tmp_path / "work" / FILE_NAME).exists()


async def test_it_ends_when_the_node_forgot_the_activity(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with supervised(node, guests.ECHO) as (process, _):
        node.known = False
        assert await process.wait() == 0
    assert node.states[-1].reason == "the node is gone"
    assert node.states[-1].error_message == "no such activity"


async def test_sigterm(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with supervised(node, guests.ECHO) as (process, _):
        process.terminate()
        assert await process.wait() == 0
    assert node.states[-1].reason == "the supervisor was told to end by SIGTERM"


def test_a_supervisor_loads_neither_libp2p_nor_keys() -> None:
    code = (
        "import sys, exeunit.supervisor.cli, exeunit.supervisor.service, p2p.bus.client, exeunit.transfer.http;"
        "print([name for name in ('libp2p', 'multiaddr', 'eth_keys', 'coincurve') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"
