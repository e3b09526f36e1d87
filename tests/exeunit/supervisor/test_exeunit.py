"""`ExeUnit` with a shell script for a runtime (process tests)."""

from __future__ import annotations

import hashlib
import itertools
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from exeunit.supervisor.agreement import Limits
from exeunit.supervisor.core import Refused
from exeunit.supervisor.journal import FILE_NAME
from protocols.activity.messages import (
    CommandResult,
    ErrorCode,
    Exec,
    GetActivityState,
    GetActivityUsage,
    GetExecBatchResults,
    GetRunningCommand,
    State,
    StreamExecBatchResults,
    Terminate,
)
from tests.exeunit.supervisor.units import ACTIVITY, Driver, shell

if TYPE_CHECKING:
    from pathlib import Path


async def test_from_deploy_to_the_end(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        result = await driver.shell("echo out; echo err >&2")
        assert (result.result, result.stdout, result.stderr) == (CommandResult.OK, "out\n", "err\n")
        assert result.message is None
        failed = await driver.shell("echo last words >&2; exit 3")
        assert failed.message == "the command failed with exit code 3: last words"
        killed = await driver.shell("kill -9 $$")
        assert killed.message == "the command was killed by signal 9"
        assert (await driver.unit.get_activity_state(GetActivityState(ACTIVITY))).state == (State.READY, None)
    pairs = [state.state for state in driver.reports.states]
    assert pairs[0] == (State.INITIALIZED, None)
    assert (State.READY, None) in pairs
    assert driver.last_state is State.TERMINATED
    assert driver.reports.states[-1].reason == "the test is over"
    assert len(driver.reports.usages) >= 1
    assert os.listdir(driver.workdir) == []


async def test_a_failed_deploy_can_be_tried_again(tmp_path: Path) -> None:
    driver = Driver(tmp_path, extra=("deploy-fails",))
    async with driver.running():
        (result,) = await driver.do({"deploy": {}}, {"start": {}})
        assert result.message == "the command failed with exit code 7: no such image"
        assert result.is_batch_finished
        assert (await driver.unit.get_activity_state(GetActivityState(ACTIVITY))).state == (
            State.INITIALIZED,
            None,
        )


async def test_service_mode_is_refused_clearly(tmp_path: Path) -> None:
    driver = Driver(tmp_path, extra=("blocking",))
    async with driver.running():
        (result,) = await driver.do({"deploy": {}})
        assert result.message == "the runtime wants the start mode 'blocking'; only 'empty' is offered"


async def test_terminate_command_starts_over_with_nothing(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        await driver.shell("echo secret > file")
        (result,) = await driver.do({"terminate": {}})
        assert result.result is CommandResult.OK
        assert not (driver.workdir / "vol-1").exists()
        await driver.ready()
        assert (await driver.shell("cat file")).result is CommandResult.ERROR


async def test_events_stream_while_the_command_runs(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        batch_id = await driver.exec(shell("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two"))
        seen = []
        request = StreamExecBatchResults(ACTIVITY, batch_id)
        async for event in driver.unit.stream_exec_batch_results(request):
            kind = event.event.kind
            if isinstance(kind.stdout, str):
                seen.append(kind.stdout)
                (driver.workdir / "vol-1" / "go").touch()
        assert seen == ["one\n", "two\n"]
        # Somebody who comes when all is over sees the same, and may begin in the middle.
        events = await driver.events(batch_id)
        assert [event.id for event in events] == list(range(len(events)))
        again = StreamExecBatchResults(ACTIVITY, batch_id, after=events[-2].id)
        assert [event async for event in driver.unit.stream_exec_batch_results(again)] == events[-1:]


async def test_waiting_for_results(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        batch_id = await driver.exec(shell("true"), shell("while [ ! -e go ]; do sleep 0.02; done"))
        first = GetExecBatchResults(ACTIVITY, batch_id, timeout=45, command_index=0)
        assert len((await driver.unit.get_exec_batch_results(first)).results) == 1
        second = GetExecBatchResults(ACTIVITY, batch_id, timeout=0.05, command_index=1)
        with pytest.raises(Refused) as refused:
            await driver.unit.get_exec_batch_results(second)
        assert refused.value.code is ErrorCode.TIMEOUT
        now = await driver.unit.get_exec_batch_results(GetExecBatchResults(ACTIVITY, batch_id))
        assert [result.index for result in now.results] == [0]
        running = await driver.unit.get_running_command(GetRunningCommand(ACTIVITY))
        assert [command.command for command in running.commands] == ["Run"]
        (driver.workdir / "vol-1" / "go").touch()
        assert len(await driver.results(batch_id)) == 2


async def test_a_failed_command_wakes_who_waits_for_the_last(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        results = await driver.do(shell("false"), shell("true"), shell("true"))
        assert [result.is_batch_finished for result in results] == [True]


async def test_a_time_limit_ends_one_command(tmp_path: Path) -> None:
    driver = Driver(tmp_path, kill_timeout=0.2)
    async with driver.running():
        await driver.ready()
        # long enough for a shell to begin, also on a busy machine
        result = await driver.shell("trap '' TERM; echo on; while true; do sleep 0.01; done", timeout=2)
        assert result.message == "the command was ended: its time limit of 2 s was over"
        assert result.stdout == "on\n"
        assert (await driver.shell("echo fine")).stdout == "fine\n"


async def test_terminate_ends_what_runs(tmp_path: Path) -> None:
    driver = Driver(tmp_path, kill_timeout=0.2)
    async with driver.running():
        await driver.ready()
        batch_id = await driver.exec(
            shell("trap '' TERM; echo $$; while true; do sleep 0.01; done"), shell("true")
        )
        async for event in driver.unit.stream_exec_batch_results(StreamExecBatchResults(ACTIVITY, batch_id)):
            if isinstance(event.event.kind.stdout, str):
                pid = int(event.event.kind.stdout)
                await driver.unit.terminate(Terminate(ACTIVITY, "enough"))
        await driver.unit.wait_ended()
        (result,) = await driver.results(batch_id)
        assert result.message == "the activity was terminated: enough"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(Refused, match="terminated"):
            await driver.exec(shell("true"))
    assert driver.reports.states[-1].reason == "enough"


async def test_cancelling_cleans_up_too(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.unit.run)
        await driver.ready()
        await driver.exec(shell("exec sleep 600"))
        await trio.testing.wait_all_tasks_blocked()
        assert (driver.workdir / FILE_NAME).exists()
        nursery.cancel_scope.cancel()
    assert driver.last_state is State.TERMINATED
    assert os.listdir(driver.workdir) == []


async def test_a_node_that_is_gone_ends_the_activity(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        await driver.exec(shell("exec sleep 600"))
        driver.reports.fail = True
        await driver.unit.wait_ended()
        state = await driver.unit.get_activity_state(GetActivityState(ACTIVITY))
        assert (state.reason, state.error_message) == ("the node is gone", "no such activity")


async def test_transfers_in_and_out(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    driver.unit._schemes["http"] = driver.unit._schemes["file"]  # a script cannot name `file`
    source = tmp_path / "source"
    source.write_bytes(b"content")
    digest = hashlib.sha3_256(b"content").hexdigest()
    async with driver.running():
        await driver.ready()
        batch_id = await driver.exec(
            {
                "transfer": {
                    "from": f"hash:sha3:{digest}:http:{source}",
                    "to": "container:/work/deep/in",
                    "progress": {},
                }
            },
            shell("cat deep/in; tr a-z A-Z < deep/in > out"),
            {"transfer": {"from": "container:/work/out", "to": f"http:{tmp_path}/back"}},
        )
        results = await driver.results(batch_id)
        assert [result.message for result in results] == [None, None, None]
        assert results[1].stdout == "content"
        assert (tmp_path / "back").read_bytes() == b"CONTENT"
        events = await driver.events(batch_id)
        progress = [event.event.kind.progress for event in events if event.event.index == 0][1:-1]
        assert [getattr(step, "progress", None) for step in progress] == [(0, 7), (7, 7)]
        (result,) = await driver.do(
            {"transfer": {"from": f"hash:sha3:{'00' * 28}:http:{source}", "to": "/work/x"}}
        )
        assert result.message is not None
        assert "promised was sha3:0000" in result.message
        await driver.shell("ln -s /etc/passwd leak")
        (result,) = await driver.do({"transfer": {"from": "/work/leak", "to": f"http:{tmp_path}/stolen"}})
        assert result.message == "container:/work/leak: the path leaves its volume or crosses a symlink"
        assert not (tmp_path / "stolen").exists()


async def test_storage_limits_hold_for_transfers_and_end_greedy_runtimes(tmp_path: Path) -> None:
    driver = Driver(tmp_path, limits=Limits(storage_gib=1 / 1024))
    driver.unit._schemes["http"] = driver.unit._schemes["file"]
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    async with driver.running():
        await driver.ready()
        (result,) = await driver.do({"transfer": {"from": f"http:{tmp_path}/large", "to": "/work/x"}})
        assert result.message is not None
        assert "do not fit" in result.message
        # This runtime keeps no limits of its own, so the supervisor measures.
        driver.unit._counted = -100.0
        await driver.exec(shell("head -c 3000000 /dev/zero > x; exec sleep 600"))
        await driver.unit.wait_ended()
    assert driver.reports.states[-1].reason == "usage limit exceeded"
    assert "of storage" in (driver.reports.states[-1].error_message or "")


async def test_memory_limits_end_greedy_runtimes(tmp_path: Path) -> None:
    driver = Driver(tmp_path, limits=Limits(memory_gib=1 / 1024))
    async with driver.running():
        await driver.ready()
        await driver.exec(shell("exec python3 -c 'x = b\"x\" * (400 << 20); import time; time.sleep(600)'"))
        await driver.unit.wait_ended()
    assert driver.reports.states[-1].reason == "usage limit exceeded"


async def test_the_end_of_the_agreement_ends_the_activity(tmp_path: Path) -> None:
    driver = Driver(tmp_path, limits=Limits(expires=1.0))
    async with driver.running():
        await driver.unit.wait_ended()
    assert driver.reports.states[-1].reason == "the agreement's time is over"


async def test_usage_is_counted(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        await driver.ready()
        await driver.shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 2000000 /dev/zero > x")
        usage = await driver.unit.get_activity_usage(GetActivityUsage(ACTIVITY))
        assert usage.current_usage is not None
        cpu, duration, memory, _ = usage.current_usage
        assert cpu > 0.01
        assert duration >= cpu / 2
        assert 0.0005 < memory < 1
    last = driver.reports.usages[-1].current_usage
    assert last is not None
    assert 2_000_000 / 2**30 < last[3] < 0.01
    samples = [usage.current_usage for usage in driver.reports.usages if usage.current_usage]
    assert all(a <= b for first, second in itertools.pairwise(samples)
               for a, b in zip(first, second, strict=True))  # fmt: skip


async def test_requests_that_are_refused(tmp_path: Path) -> None:
    driver = Driver(tmp_path)
    async with driver.running():
        with pytest.raises(Refused, match="does not run here"):
            await driver.unit.get_activity_state(GetActivityState("other"))
        with pytest.raises(Refused, match="no commands") as refused:
            await driver.unit.exec(Exec(ACTIVITY, "b", ()))
        assert refused.value.code is ErrorCode.BAD_REQUEST
        with pytest.raises(Refused, match="no batch"):
            async for _ in driver.unit.stream_exec_batch_results(StreamExecBatchResults(ACTIVITY, "b")):
                pass


async def test_a_package_is_fetched_checked_and_shared(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"image")
    package = f"hash:sha3:{hashlib.sha3_224(b'image').hexdigest()}:file:{image}"
    driver = Driver(tmp_path, package=package)
    async with driver.running():
        first = await driver.exec(
            {"deploy": {"progress": {}}}, {"terminate": {}}, {"deploy": {"progress": {}}}
        )
        assert [result.message for result in await driver.results(first)] == [None, None, None]
        notes = [getattr(event.event.kind.progress, "message", None) for event in await driver.events(first)]
        assert "Deployed image from cache" in notes
        assert (driver.workdir / "package").read_bytes() == b"image"
    assert [path.read_bytes() for path in (tmp_path / "cache" / "images").iterdir()] == [b"image"]


@pytest.mark.parametrize(
    ("package", "says"),
    [("file:/x", "with its hash"), (f"hash:sha3:{'0' * 64}:file:/nowhere", "No such file"),
     ("hash:sha3:00:file:/x", "28, 32, 48 or 64"), (f"hash:sha3:{'0' * 64}:ftp://x", "'ftp' is not one of")],
)  # fmt: skip
async def test_packages_that_cannot_be_had(tmp_path: Path, package: str, says: str) -> None:
    driver = Driver(tmp_path, package=package)
    async with driver.running():
        (result,) = await driver.do({"deploy": {}})
        assert result.message is not None
        assert result.message.startswith("the task package cannot be had: ")
        assert says in result.message
