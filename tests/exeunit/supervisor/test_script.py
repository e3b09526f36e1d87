"""What a script may ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from exeunit.supervisor.capture import EVERYTHING, NOTHING, CaptureSpec
from exeunit.supervisor.script import Command, check_script, duration
from protocols.activity.messages import ScriptError, decode_exe_script


def check(*commands: Any) -> tuple[Command, ...]:
    return check_script(decode_exe_script(json.dumps(commands)))


def test_commands_are_understood() -> None:
    deploy, start, run, transfer, terminate = check(
        {
            "deploy": {
                "progress": {"updateInterval": "300ms"},
                "volumes": {"/data": {"storage": {"size": "10g"}}},
            }
        },
        {"start": {"args": ["x"]}},
        {
            "run": {
                "entry_point": "main",
                "args": ["a"],
                "capture": {"stdout": {"stream": {}}},
                "timeout": 2.5,
            }
        },
        {"transfer": {"from": f"gftp://0x{'1' * 40}/f", "to": "/work/in", "progress": {}}},
        {"terminate": {}},
    )
    assert (deploy.progress, deploy.stdout) == (0.3, EVERYTHING)
    assert start.params == ("x",)
    assert (run.stdout, run.stderr) == (CaptureSpec("both ends", stream=True), NOTHING)
    assert (run.timeout, run.params) == (2.5, ("main", "a"))
    assert transfer.places is not None
    assert [place.scheme for place in transfer.places] == ["gftp", "container"]
    assert transfer.progress == 1.0
    assert transfer.params == (f"gftp://0x{'1' * 40}/f", "container:/work/in")
    assert terminate.name == "terminate"


RUN: dict[str, Any] = {"entry_point": "main"}
TRANSFER = {"from": "http://h/x", "to": "container:/work/x"}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ({"run": {"entry_point": ""}}, "entry point is empty"),
        ({"run": {**RUN, "args": ["a\0b"]}}, "zero byte"),
        ({"run": {**RUN, "args": ["x" * 200_000]}}, "use a transfer"),
        ({"run": {**RUN, "env": {"A=B": "c"}}}, "environment variable"),
        ({"run": {**RUN, "timeout": 0}}, "timeout"),
        ({"run": {**RUN, "timeout": 1e300}}, "timeout"),
        ({"run": {**RUN, "capture": {"stdout": {}}}}, "atEnd"),
        ({"deploy": {"hostname": "a b"}}, "hostname"),
        ({"deploy": {"volumes": {"/": {"host": {}}}}}, "cannot be of the kind 'host'"),
        ({"deploy": {"volumes": {"/x": {"disk": {}}}}}, "not one of"),
        ({"deploy": {"volumes": [f"/{n}" for n in range(99)]}}, "more than 32 volumes"),
        ({"deploy": {"progress": {"updateInterval": "soon"}}}, "not a duration"),
        ({"transfer": {**TRANSFER, "from": "file:/etc/passwd"}}, "'file' is not one of"),
        ({"transfer": {**TRANSFER, "to": "container:/work/..%2fx"}}, "not a plain path"),
        ({"transfer": {**TRANSFER, "from": "hash:md5:00:http://h/"}}, "only sha3"),
        ({"transfer": {**TRANSFER, "format": "tar"}}, "archives"),
    ],
)
def test_what_could_never_work_is_refused_with_its_place(command: Any, says: str) -> None:
    with pytest.raises(ScriptError, match=rf"command 1 \(\w+\): .*{says}"):
        check({"start": {}}, command)


def test_an_empty_script_is_refused() -> None:
    with pytest.raises(ScriptError, match="no commands"):
        check()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("1s", 1), ("2m", 120), ("1h 30m", 5400), ("1m30s", 90), (" 5 sec ", 5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1 fortnight", "1s x", "-1s", "9" * 400 + "h"])
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration(text)
