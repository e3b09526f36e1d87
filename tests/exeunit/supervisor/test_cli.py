"""The supervisor's command line, with the real WASM runtime and without a node (process tests)."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from exeunit.supervisor.cli import _with_runtime_arguments
from exeunit.supervisor.journal import FILE_NAME
from exeunit.supervisor.usage import start_time
from tests.exeunit.runtimes.wasm import guests
from tests.exeunit.supervisor.units import shell_runtime

if TYPE_CHECKING:
    from pathlib import Path

WASM = "module:exeunit.runtimes.wasm"


class Supervisor:
    def __init__(self, directory: Path, module: bytes = guests.ECHO, **inf: float) -> None:
        self.directory = directory
        self.module = directory / "module.wasm"
        self.module.write_bytes(module)
        digest = hashlib.sha3_224(module).hexdigest()
        properties = {"golem.com.usage.vector": ["golem.usage.cpu_sec"]}
        self.agreement = directory / "agreement.json"
        self.agreement.write_text(
            json.dumps(
                {
                    "agreementId": "a", "offer": {"properties": {**properties, "golem": {"inf": inf}}},
                    "demand": {"properties": {"golem.srv.comp.task_package": f"hash:sha3:{digest}:file:{self.module}"}},
                }
            )
        )  # fmt: skip

    def command(self, script: list[Any]) -> list[str]:
        path = self.directory / "script.json"
        path.write_text(json.dumps(script))
        return [
            sys.executable, "-m", "exeunit.supervisor", "-b", WASM, "from-file", str(path),
            "-a", str(self.agreement), "-w", str(self.directory / "work"), "-c", str(self.directory / "cache"),
        ]  # fmt: skip

    def run(self, *commands: Any) -> tuple[int, list[dict[str, Any]]]:
        script = [{"deploy": {}}, {"start": {}}, *commands]
        done = subprocess.run(self.command(script), capture_output=True, timeout=60, check=False)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def run(*args: str, **more: Any) -> dict[str, Any]:
    capture: dict[str, Any] = {"stdout": {"atEnd": {}}, "stderr": {"atEnd": {}}}
    return {"run": {"entry_point": "main", "args": args, "capture": capture, **more}}


def test_a_whole_script(tmp_path: Path) -> None:
    code, results = Supervisor(tmp_path).run(run("one", "two"), {"terminate": {}})
    assert code == 0
    assert [result["result"] for result in results] == ["Ok"] * 4
    assert json.loads(results[0]["stdout"])["vols"][0]["path"] == "/work"
    assert results[2]["stdout"] == "main.wasm\0one\0two\0"
    assert not (tmp_path / "work" / FILE_NAME).exists()
    assert not list((tmp_path / "work").glob("vol-*"))


def test_environment_of_deploy_and_run(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, guests.ENVIRONMENT)
    script = [{"deploy": {"env": {"A": "1", "B": "1"}}}, {"start": {}}, run(env={"B": "2"})]
    done = subprocess.run(supervisor.command(script), capture_output=True, timeout=60, check=False)
    assert json.loads(done.stdout.splitlines()[2])["stdout"] == "A=1\0B=2\0"


@pytest.mark.parametrize(
    ("module", "inf", "says"),
    [
        (guests.HOG, {"mem.gib": 0.0625}, "exit code 137: golem-p2p-wasm: the guest trapped"),
        (guests.EXIT_42, {}, "exit code 42"),
        (
            guests.until_refused("(call $write (local.get $fd) (i32.const 65536))", guests.made_file()),
            {"storage.gib": 0.002},
            "exit code 51: golem-p2p-wasm: the disk quota of 2.0 MiB was full while this command ran",
        ),
    ],
    ids=["memory hog", "exit code", "full disk"],
)
def test_failures_reach_the_requestor(
    tmp_path: Path, module: bytes, inf: dict[str, float], says: str
) -> None:
    code, results = Supervisor(tmp_path, module, **inf).run(run())
    assert code == 1
    assert results[-1]["result"] == "Error"
    assert says in results[-1]["message"]


def test_an_endless_loop_is_ended_by_its_timeout(tmp_path: Path) -> None:
    code, results = Supervisor(tmp_path, guests.LOOP).run(run(timeout=0.5))
    assert code == 1
    assert results[-1]["message"] == "the command was ended: its time limit of 0.5 s was over"


def test_a_module_that_does_not_compile(tmp_path: Path) -> None:
    code, results = Supervisor(tmp_path, b"\0asm\1\0\0\0garbage").run()
    assert code == 1
    assert "exit code 65: golem-p2p-wasm: the module does not compile" in results[0]["message"]


def _running_loop(tmp_path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a supervisor whose guest loops, and return it with the runtime's pid."""
    supervisor = Supervisor(tmp_path, guests.LOOP)
    process = subprocess.Popen(
        supervisor.command([{"deploy": {}}, {"start": {}}, run()]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    journal = tmp_path / "work" / FILE_NAME
    for line in process.stderr:
        if b"command=run" in line:
            break
    while True:  # the line comes just before the process
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        ended = {entry["pid"] for entry in entries if entry["type"] == "ended"}
        living = [
            entry["pid"] for entry in entries if entry["type"] == "process" and entry["pid"] not in ended
        ]
        if living:
            return process, living[0]


def _wait_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)


def test_sigterm_ends_everything_in_good_order(tmp_path: Path) -> None:
    process, runtime = _running_loop(tmp_path)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert json.loads(stdout.splitlines()[2])["message"] == (
        "the activity was terminated: the supervisor was told to end by SIGTERM"
    )
    assert b"'Terminated'" in stderr
    assert start_time(runtime) is None
    assert not (tmp_path / "work" / FILE_NAME).exists()


def test_a_killed_supervisor_takes_its_runtime_along_and_is_swept(tmp_path: Path) -> None:
    process, runtime = _running_loop(tmp_path)
    process.kill()
    process.communicate(timeout=20)
    _wait_gone(runtime)
    assert list((tmp_path / "work").glob("vol-*"))
    sweep = [sys.executable, "-m", "exeunit.supervisor", "sweep", str(tmp_path)]
    done = subprocess.run(sweep, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0
    assert "removed" in done.stdout
    assert not list((tmp_path / "work").glob("vol-*"))
    assert not (tmp_path / "work" / FILE_NAME).exists()
    assert subprocess.run(sweep, capture_output=True, text=True, timeout=20, check=False).stdout == ""


def _supervisor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exeunit.supervisor", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_offer_template_and_self_test(tmp_path: Path) -> None:
    program = shell_runtime(tmp_path)
    template = json.loads(_supervisor("-b", program, "offer-template").stdout)
    assert template["properties"]["golem.runtime.x"] == 1
    assert template["properties"]["golem.activity.caps.transfer.protocol"] == ["gftp", "http", "https"]
    assert template["constraints"] == "(a=1)"
    done = _supervisor("-b", program, "test")
    assert (done.returncode, done.stdout) == (0, "tested\n")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    assert _supervisor("-b", str(broken), "test").returncode == 1
    assert json.loads(_supervisor("-b", str(broken), "offer-template").stdout)["constraints"] == ""


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    arguments = ("-a", str(tmp_path / "none"), "-w", str(tmp_path / "w"), "-c", str(tmp_path / "c"))
    done = _supervisor("-b", WASM, "service-bus", "id", "/local/activity", *arguments)
    assert done.returncode == 1
    assert done.stderr == f"exe-unit: cannot read the agreement {tmp_path}/none: No such file or directory\n"
    assert _supervisor("offer-template").returncode == 2
    assert "cannot start" in _supervisor("-b", "/nowhere", "test").stderr


def test_runtime_arguments_may_begin_with_a_dash() -> None:
    assert _with_runtime_arguments(["-b", "x", "-r", "--flag", "--runtime-arg", "y", "-r"]) == [
        "-b", "x", "--runtime-arg=--flag", "--runtime-arg=y", "-r",
    ]  # fmt: skip
