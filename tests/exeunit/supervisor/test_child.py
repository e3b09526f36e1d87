"""Processes of the runtime: their output, their end, and that nothing of them is left (process tests)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from exeunit.supervisor.child import CannotStart, Ended, run_child


class Watcher:
    def __init__(self) -> None:
        self.pids: list[int] = []
        self.ended: list[Ended] = []
        self.began = trio.Event()

    def child_started(self, pid: int) -> None:
        self.pids.append(pid)
        self.began.set()

    def child_ended(self, pid: int, ended: Ended) -> None:
        assert self.pids[-1] == pid
        self.ended.append(ended)


class Box:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.watcher = Watcher()
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.heard = trio.Event()

    def take(self, stream: str, data: bytes) -> None:
        self.output[stream] += data
        self.heard.set()

    async def run(self, code: str, *arguments: str, kill_timeout: float = 30.0) -> Ended:
        return await run_child(
            [sys.executable, "-c", code, *arguments],
            cwd=self.directory, environment={"PATH": os.environ["PATH"]}, on_output=self.take,
            watcher=self.watcher, kill_timeout=kill_timeout,
        )  # fmt: skip


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


async def test_output_exit_code_and_usage(box: Box) -> None:
    ended = await box.run(
        "import sys, os; sys.stdout.write('o' * 300_000); sys.stderr.write(os.getcwd()); sum(range(2_000_000)); sys.exit(3)"
    )
    assert ended.code == 3
    assert len(box.output["stdout"]) == 300_000
    assert box.output["stderr"].decode() == str(box.directory)
    assert ended.cpu_s > 0.01
    assert ended.peak_bytes > 5 << 20
    assert box.watcher.ended == [ended]


async def test_death_by_signal(box: Box) -> None:
    assert (await box.run("import os; os.kill(os.getpid(), 11)")).code == -11


async def test_what_cannot_be_started(box: Box) -> None:
    with pytest.raises(CannotStart, match="cannot start /nowhere"):
        await run_child(
            ["/nowhere"],
            cwd=box.directory,
            environment={},
            on_output=box.take,
            watcher=box.watcher,
            kill_timeout=1,
        )
    with pytest.raises(CannotStart, match="too long"):
        await box.run("", "x" * 200_000)
    assert box.watcher.pids == []


DAEMON = """
import os, sys, time
reader, writer = os.pipe()
if os.fork() == 0:
    if sys.argv[1] == "session":
        os.setsid()
    print(os.getpid(), flush=True)
    os.write(writer, b"x")
    time.sleep(600)
os.read(reader, 1)
os._exit(0)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Wait for a process to end: a signal that was sent has not necessarily arrived."""
    with trio.fail_after(10):
        while alive(pid):  # noqa: ASYNC110 - the end of another's child sets no event
            await trio.sleep(0.01)


async def test_a_daemon_left_in_the_group_is_killed(box: Box) -> None:
    with trio.fail_after(10):
        assert (await box.run(DAEMON, "group")).code == 0
    await gone(int(box.output["stdout"]))


async def test_one_that_left_the_group_does_not_hold_the_command(box: Box) -> None:
    with trio.fail_after(10):
        assert (await box.run(DAEMON, "session")).code == 0
    stray = int(box.output["stdout"])
    assert alive(stray)
    os.kill(stray, 9)


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"


@pytest.mark.parametrize(
    ("code", "signal"), [("import time; print('on', flush=True); time.sleep(600)", 15), (STUBBORN, 9)]
)
async def test_cancelled_it_is_asked_and_then_killed(box: Box, code: str, signal: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: box.run(code, kill_timeout=0.2 if signal == 9 else 30.0))
        await box.heard.wait()
        nursery.cancel_scope.cancel()
    assert [ended.code for ended in box.watcher.ended] == [-signal]
    await gone(box.watcher.pids[0])


async def test_it_dies_with_its_supervisor(box: Box) -> None:
    """The supervisor is another process here, and is killed; its child must follow at once."""
    supervisor = f"""
import os, sys, trio
from pathlib import Path
from exeunit.supervisor.child import run_child
class Watcher:
    def child_started(self, pid): print(pid, flush=True)
    def child_ended(self, pid, ended): pass
async def main():
    await run_child([{sys.executable!r}, "-c", "import time; time.sleep(600)"], cwd=Path("/"), environment={{}},
                    on_output=print, watcher=Watcher(), kill_timeout=1)
trio.run(main)
"""
    pid = -1

    def take(stream: str, data: bytes) -> None:
        nonlocal pid
        box.take(stream, data)
        if stream == "stdout":
            pid = int(data)

    watcher = Watcher()
    async with trio.open_nursery() as nursery:

        async def supervise() -> None:
            environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()}
            await run_child(
                [sys.executable, "-c", supervisor], cwd=box.directory, environment=environment,
                on_output=take, watcher=watcher, kill_timeout=1,
            )  # fmt: skip

        nursery.start_soon(supervise)
        await box.heard.wait()
        assert pid > 0, box.output
        pidfd = os.pidfd_open(pid)
        os.kill(watcher.pids[0], 9)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
