"""Supervisors as processes: what they are given, how they end, and that what was granted ends with them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import structlog
import trio

from node.provider import exeunits
from node.provider.exeunits import SupervisorLauncher, SupervisorProcess
from node.provider.runtimes import RuntimeDescriptor
from p2p.bus import Caller
from p2p.entropy import SystemEntropy
from protocols.activity.launcher import LaunchError
from protocols.market.messages import AgreementState, AgreementView, Role

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTOR, PROVIDER, STRANGER = ("0x" + digit * 40 for digit in "123")
ACTIVITY = "ab" * 16


class Grants:
    """Stands for the door and the bulk socket; remembers who is let in."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "some.sock"
        self.open: set[str] = set()
        self.issued: dict[str, Any] = {}
        self.serves: Callable[[Caller], bool] | None = None

    def issue(self, subject: str, **rights: Any) -> str:
        self.serves = rights.pop("serves")
        self.issued = {"subject": subject, **rights}
        self.open.add("bus token")
        return "bus token"

    def revoke(self, token: str) -> None:
        self.open.discard(token)

    def allow(self, token: str) -> None:
        self.open.add(token)

    def forbid(self, token: str) -> None:
        self.open.discard(token)


class House:
    """A launcher whose supervisor is a Python program of the test's own."""

    def __init__(self, folder: Path, program: str, command: str = sys.executable) -> None:
        grants: Any = Grants(folder)
        self.grants = grants
        self.folder = folder
        runtime = RuntimeDescriptor(
            name="test", version="1", supervisor_program=(command, "-c", program), supervisor_arguments=(),
            counters=(), properties={},
        )  # fmt: skip
        self.launcher = SupervisorLauncher(
            folder, grants, grants, {"test": runtime}, SystemEntropy(), structlog.get_logger("test")
        )

    async def launch(self, runtime: str = "test", activity: str = ACTIVITY) -> SupervisorProcess:
        return await self.launcher.launch(activity, agreement(runtime))

    def log(self) -> str:
        return next(self.folder.glob("work/*/*.log")).read_text()


def agreement(runtime: str) -> AgreementView:
    return AgreementView(
        agreement_id="c" * 64,
        role=Role.PROVIDER,
        requestor_id=REQUESTOR,
        provider_id=PROVIDER,
        demand_id="d",
        offer_id="o",
        demand_properties='{"golem.srv.comp.task_package": "hash:sha3:x"}',
        demand_constraints="()",
        offer_properties=json.dumps({"golem.runtime.name": runtime}),
        offer_constraints="(x=1)",
        state=AgreementState.APPROVED,
        created_ns=0,
        valid_to_ns=1,
    )


TELL = """
import json, os, sys
print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "sid": os.getsid(0),
                  "pid": os.getpid(), "stdin": sys.stdin.read()}))
"""


async def test_what_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOLEM_P2P_PASSWORD", "YAGNA_AUTOCONF_ID_SECRET", "YAGNA_APPKEY", "LD_PRELOAD_NOT"):
        monkeypatch.setenv(name, "secret")
    house = House(tmp_path, TELL)
    unit = await house.launch()
    assert await unit.wait() == "the exe-unit ended"
    told = json.loads(house.log())
    work = tmp_path / "work" / ("c" * 64) / ACTIVITY
    document = work.parent / "agreement.json"
    assert told["argv"] == [
        "service-bus", ACTIVITY, "/local/activity", "-a", str(document), "-w", str(work), "-c", str(tmp_path / "cache"),
    ]  # fmt: skip
    assert told["cwd"] == str(work)
    assert told["sid"] == told["pid"], "a session of its own, so that Ctrl-C does not reach it"
    assert told["stdin"] == ""
    environment = told["env"]
    assert environment["GSB_URL"] == f"unix:{house.grants.path}"
    assert environment["GOLEM_P2P_BUS_TOKEN"] == "bus token"
    assert environment["GOLEM_P2P_BULK"] == str(house.grants.path)
    assert len(environment["GOLEM_P2P_BULK_TOKEN"]) == 64
    assert "secret" not in environment.values()
    assert not {"GOLEM_P2P_PASSWORD", "YAGNA_AUTOCONF_ID_SECRET", "YAGNA_APPKEY"} & environment.keys()
    written = msgspec.json.decode(await trio.Path(document).read_bytes())
    assert written["demand"]["properties"] == {"golem.srv.comp.task_package": "hash:sha3:x"}
    assert written["offer"]["constraints"] == "(x=1)"
    assert (await trio.Path(work).stat()).st_mode & 0o777 == 0o700


async def test_what_it_may(tmp_path: Path) -> None:
    house = House(tmp_path, "")
    unit = await house.launch()
    await unit.wait()
    assert house.grants.issued == {
        "subject": ACTIVITY,
        "may_register": [f"/public/exeunit/{ACTIVITY}"],
        "may_call": ["/local/activity"],
    }
    admits = house.grants.serves
    assert admits(Caller(REQUESTOR, local=False))
    assert admits(Caller(PROVIDER, local=True))
    assert admits(Caller(PROVIDER, local=True, child=ACTIVITY))
    assert not admits(Caller(STRANGER, local=False))
    assert not admits(Caller(PROVIDER, local=False))
    assert not admits(Caller(PROVIDER, local=True, child="another activity"))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("", "the exe-unit ended"),
        ("raise SystemExit(3)", "failed with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        (
            f"import os; os.kill(os.getpid(), {signal.SIGRTMIN + 1})",
            f"killed by signal {signal.SIGRTMIN + 1}",
        ),
    ],
)
async def test_how_it_ended(tmp_path: Path, program: str, words: str) -> None:
    house = House(tmp_path, program)
    unit = await house.launch()
    assert house.grants.open
    assert words in await unit.wait()
    assert not house.grants.open


OBEDIENT = "import time\nprint('up', flush=True)\ntime.sleep(1000)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + OBEDIENT
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}])
print("child", child.pid, flush=True)
child.wait()
"""


async def up(house: House, word: str = "up") -> str:
    for _ in range(1000):
        if word in house.log():
            return house.log()
        await trio.sleep(0.01)
    pytest.fail("the supervisor did not begin")


@pytest.mark.parametrize("program", [OBEDIENT, STUBBORN])
async def test_stopping(tmp_path: Path, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exeunits, "STOP_GRACE", 0.3)
    house = House(tmp_path, program)
    unit = await house.launch()
    await up(house)
    ends: list[str] = []

    async def wait() -> None:
        ends.append(await unit.wait())

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(unit.stop)
            nursery.start_soon(unit.stop)
    assert ends == [f"the exe-unit was killed by {'SIGTERM' if program == OBEDIENT else 'SIGKILL'}"]
    assert not house.grants.open
    await unit.stop()


async def test_its_children_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exeunits, "STOP_GRACE", 0.3)
    house = House(tmp_path, PARENT)
    unit = await house.launch()
    log = await up(house, "child")
    await up(house)
    child = int(log.split()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(unit.wait)
        await unit.stop()
    for _ in range(1000):
        if not _runs(child):
            return
        await trio.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its supervisor")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def test_what_cannot_be_launched(tmp_path: Path) -> None:
    house = House(tmp_path, "", command="/no/such/program")
    with pytest.raises(LaunchError, match="/no/such/program"):
        await house.launch()
    assert not house.grants.open
    with pytest.raises(LaunchError, match="no runtime 'vm'"):
        await house.launch("vm")
    with pytest.raises(LaunchError, match="work folder"):
        await house.launch()  # its folder is there already
    assert not house.grants.open


async def test_a_launch_that_is_given_up(tmp_path: Path) -> None:
    house = House(tmp_path, OBEDIENT)
    with trio.CancelScope() as scope:
        scope.cancel()
        await house.launch()
    assert scope.cancelled_caught
    assert not house.grants.open


async def test_sweeping_is_the_supervisors_own(tmp_path: Path) -> None:
    note = tmp_path / "note"
    house = House(
        tmp_path, f"import sys; open({str(note)!r}, 'w').write(' '.join(sys.argv[1:])); print('left')"
    )
    await house.launcher.sweep()
    assert await trio.Path(note).read_text() == f"sweep {tmp_path}"
    await House(tmp_path, "", command="/no/such/program").launcher.sweep()
