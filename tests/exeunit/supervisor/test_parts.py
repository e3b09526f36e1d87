"""Agreement, usage and the runtime's command line: what is read, counted and said."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from exeunit.supervisor.agreement import Agreement, BadAgreement, Limits, parse_agreement, read_agreement
from exeunit.supervisor.runtime import (
    BadAnswer,
    RuntimeCommand,
    child_environment,
    deploy_answer,
    offer_template,
)
from exeunit.supervisor.usage import Usage, read_process, start_time
from exeunit.transfer.container import Volume
from protocols.activity.messages import Deploy, Run, Start

COUNTERS = ["golem.usage.duration_sec", "golem.usage.cpu_sec"]


def agreement(offer: dict[str, Any], demand: dict[str, Any] | None = None, **more: Any) -> Agreement:
    document = {
        "agreementId": "a1",
        "offer": {"properties": {"golem.com.usage.vector": COUNTERS, **offer}},
        "demand": {"properties": demand or {}, "requestorId": "0xABC", **more},
    }
    return parse_agreement(document)


def test_flat_and_nested_properties_are_the_same() -> None:
    flat = agreement({"golem.inf.mem.gib": 0.5, "golem.inf.storage.gib": 2, "golem.inf.cpu.threads": 4})
    nested = agreement({"golem": {"inf": {"mem.gib": "0.5", "storage": {"gib": 2.0}, "cpu": {"threads": 4}}}})
    assert flat == nested
    assert flat.limits == Limits(0.5, 2.0, 4, None)
    assert flat.counters == tuple(COUNTERS)
    assert (flat.id, flat.requestor) == ("a1", "0xabc")


def test_the_demand_brings_the_package_and_the_end() -> None:
    found = agreement(
        {}, {"golem.srv.comp.task_package": "hash:sha3:00:x", "golem.srv.comp.expiration": 1_790_000_000_500}
    )
    assert (found.task_package, found.limits.expires) == ("hash:sha3:00:x", 1_790_000_000.5)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ([], "not a JSON object"),
        ({}, "usage vector"),
        ({"offer": {"properties": {"golem.com.usage.vector": "x"}}}, "usage vector"),
        ({"offer": {"properties": {"golem.com.usage.vector": ["x"] * 99}}}, "99 counters"),
        (
            {"offer": {"properties": {"golem.com.usage.vector": [], "golem.inf.mem.gib": "lots"}}},
            "not a number",
        ),
        (
            {"offer": {"properties": {"golem.com.usage.vector": [], "golem.inf.mem.gib": -1}}},
            "not a positive",
        ),
    ],
)
def test_agreements_that_cannot_be_used(document: Any, says: str) -> None:
    with pytest.raises(BadAgreement, match=says):
        parse_agreement(document)


def test_agreement_files(tmp_path: Path) -> None:
    path = tmp_path / "agreement.json"
    with pytest.raises(BadAgreement, match="cannot read"):
        read_agreement(path)
    path.write_text("{")
    with pytest.raises(BadAgreement, match="not JSON"):
        read_agreement(path)
    path.write_text('{"offer": {"properties": {"golem": {"com": {"usage": {"vector": ["a"]}}}}}}')
    assert read_agreement(path).counters == ("a",)


def test_usage_never_goes_down() -> None:
    usage = Usage(100.0)
    names = (
        "golem.usage.cpu_sec",
        "golem.usage.duration_sec",
        "golem.usage.gib",
        "golem.usage.storage_gib",
        "x",
    )
    assert usage.vector(names, 100.0) == (0.0, 0.0, 0.0, 0.0, 0.0)
    usage.child_lives(2.0, 1 << 30)
    usage.storage(2 << 30)
    assert usage.vector(names, 103.5) == (2.0, 3.5, 1.0, 2.0, 0.0)
    usage.child_ended(1.5, 1 << 20)  # its last figure was a little less than was seen alive
    usage.storage(0)
    assert usage.vector(names, 104.0) == (2.0, 4.0, 1.0, 2.0, 0.0)
    usage.child_ended(3.0, 0)
    assert usage.vector(names, 104.0)[0] == 4.5


def test_processes_are_read() -> None:
    seen = read_process(os.getpid())
    assert seen is not None
    assert seen[1] > 1 << 20
    assert start_time(os.getpid()) == start_time(os.getpid())
    assert read_process(2**22 + 1) is None
    assert start_time(2**22 + 1) is None


def test_command_lines_of_a_program(tmp_path: Path) -> None:
    limits = Limits(0.5, 2.0, 4, None)
    runtime = RuntimeCommand("/bin/rt", ("--flag",), Path("/w"), Path("/c"), limits)
    image = Path("/image")
    assert runtime.deploy(image, Deploy()) == [
        "/bin/rt", "--workdir", "/w", "--task-package", "/image", "--flag", "deploy", "--",
    ]  # fmt: skip
    assert runtime.start(None, Start(("a", "--b"))) == [
        "/bin/rt", "--workdir", "/w", "--flag", "start", "--", "a", "--b",
    ]  # fmt: skip
    run = runtime.run(image, Run("ep", ("x",), env={"A": "1"}), {"B": "2"})
    assert run[-6:] == ["--flag", "run", "--entrypoint", "ep", "--", "x"]
    assert runtime.subcommand("test") == ["/bin/rt", "--flag", "test"]
    managed = RuntimeCommand("/bin/rt", (), Path("/w"), Path("/c"), limits, managed_hardware=True)
    assert managed.start(None, Start())[3:9] == [
        "--cpu-cores",
        "4",
        "--mem-gib",
        "0.5",
        "--storage-gib",
        "2.0",
    ]


def test_command_lines_of_a_module() -> None:
    runtime = RuntimeCommand("module:some.runtime", (), Path("/w"), Path("/c"), Limits(storage_gib=1.0))
    deploy = Deploy(volumes={"/data": {"host": {}}}, hostname="box")
    assert runtime.deploy(None, deploy) == [
        sys.executable, "-P", "-m", "some.runtime", "--workdir", "/w", "--storage-gib", "1.0",
        "--cache-dir", "/c/compiled", "--volume-override", '{"/data":{"host":{}}}', "--hostname", "box", "deploy", "--",
    ]  # fmt: skip
    line = runtime.run(None, Run("ep", ("--", "x"), env={"A": "2"}), {"A": "1", "B": "b"})
    assert line[-9:] == ["--entrypoint", "ep", "--env", "A=2", "--env", "B=b", "--", "--", "x"]


def test_the_environment_holds_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GSB_URL", "GOLEM_P2P_BUS_TOKEN", "GOLEM_P2P_PASSWORD", "YAGNA_APPKEY"):
        monkeypatch.setenv(name, "secret")
    assert "secret" not in child_environment("token").values()
    assert child_environment("token")["GOLEM_P2P_ACTIVITY"] == "token"


def test_deploy_answers() -> None:
    text = b'noise\n{"valid": {"Ok": ""}, "vols": [{"name": "vol-1", "path": "work"}], "startMode": "empty"}\nbye'
    assert deploy_answer(text, Path("/w")) == (Volume("/work", "/w/vol-1"),)
    assert deploy_answer(b"", Path("/w")) == ()
    assert deploy_answer(b"all is well\n", Path("/w")) == ()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('{"startMode": "blocking"}', "only 'empty' is offered"),
        ('{"valid": {"Err": "bad image"}}', "bad image"),
        ('{"vols": [{"name": "../etc", "path": "/x"}]}', "no directory of the work directory"),
        ('{"vols": [{"name": "..", "path": "/x"}]}', "no directory of the work directory"),
        ('{"vols": [{"path": "/x"}]}', "no directory of the work directory"),
        ('{"vols": 3}', "not understood"),
        ("{", "not understood"),
        (json.dumps({"vols": [{"name": "v", "path": "/"}] * 99}), "99 volumes"),
    ],
)
def test_deploy_answers_that_are_refused(answer: str, says: str) -> None:
    with pytest.raises(BadAnswer, match=says):
        deploy_answer(answer.encode(), Path("/w"))


def test_offer_templates_are_merged() -> None:
    template = offer_template(b'log\n{"properties": {"a": 1}, "constraints": "(x=1)"}\n', COUNTERS)
    assert template["properties"]["a"] == 1
    assert template["properties"]["golem.com.usage.vector"] == COUNTERS
    assert template["constraints"] == "(x=1)"
    for nonsense in (b"", b"{", b'{"properties": 3}', b"[]"):
        assert offer_template(nonsense, COUNTERS)["constraints"] == ""
