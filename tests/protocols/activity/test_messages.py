"""The wire form of activity messages, and what counts as an exe script."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.activity.messages import (
    MAX_SCRIPT_BYTES,
    MAX_SCRIPT_COMMANDS,
    ActivityState,
    ActivityUsage,
    CommandProgress,
    CommandResult,
    CommandStarted,
    Exec,
    ExeScriptCommand,
    ExeScriptCommandResult,
    RuntimeEvent,
    RuntimeEventKind,
    ScriptError,
    State,
    StreamedEvent,
    decode_exe_script,
)

JS_SCRIPT = """[{"deploy":{"net":[{"id":"64d3","ip":"192.168.7.0","mask":"255.255.255.0",
"gateway":"192.168.7.1","nodes":{"192.168.7.1":"0x2191"},"nodeIp":"192.168.7.2"}]}},{"start":{}},
{"run":{"entry_point":"/bin/sh","args":["-c","echo hello"],"capture":{"stdout":{"atEnd":{"format":"string"}},
"stderr":{"stream":{}}},"unknown":1}},{"transfer":{"from":"gftp://0x21/33","to":"container:/golem/work/in.txt"}},
{"terminate":{}}]"""


def test_reads_what_sdks_send() -> None:
    deploy, start, run, transfer, terminate = decode_exe_script(JS_SCRIPT)
    assert [c.name for c in (deploy, start, run, transfer, terminate)] == [
        "deploy", "start", "run", "transfer", "terminate",
    ]  # fmt: skip
    assert isinstance(deploy.deploy, msgspec.Struct)
    assert deploy.deploy.net[0].node_ip == "192.168.7.2"
    assert isinstance(run.run, msgspec.Struct)
    assert run.run.args == ("-c", "echo hello")
    assert isinstance(transfer.transfer, msgspec.Struct)
    assert transfer.transfer.from_ == "gftp://0x21/33"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello", "not JSON"),
        ("{}", "not a JSON array"),
        ('[{"foo": {}}]', "unknown variant `foo`, expected one of `sign`, `deploy`"),
        ('[{"run": {"args": []}}]', "missing required field `entry_point`"),
        ('[{"transfer": {"from": "x"}}]', "missing required field `to`"),
        ("[{}]", "exactly one key"),
        ('[{"start": {}, "terminate": {}}]', "exactly one key"),
        ('[{"run": null}]', "got `null`"),
        ('[{"run": {"entry_point": 3}}]', "Expected `str`"),
        ("[" * 100_000, "not JSON"),
        ('["' + "x" * MAX_SCRIPT_BYTES + '"]', "bytes, at most"),
        ("[" + ",".join(['{"start":{}}'] * (MAX_SCRIPT_COMMANDS + 1)) + "]", "commands, at most"),
        ("\ud800", "not JSON"),
    ],
)
def test_refuses_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ScriptError, match=says.replace("(", r"\(")):
        decode_exe_script(text)


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
                    lambda c: st.lists(c, max_size=3) | st.dictionaries(
                        st.sampled_from(["run", "deploy", "env", "args", "entry_point", "capture", "x"]), c,
                        max_size=3), max_leaves=12))  # fmt: skip
def test_arbitrary_json_is_read_or_refused(value: Any) -> None:
    try:
        commands = decode_exe_script(msgspec.json.encode(value))
    except ScriptError:
        return
    assert decode_exe_script(msgspec.json.encode(commands)) == commands


def test_a_command_has_exactly_one_key() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        ExeScriptCommand()


def test_results_have_nulls_and_a_zone() -> None:
    result = ExeScriptCommandResult(
        0, CommandResult.OK, "hi", None, None, True, datetime(2026, 11, 22, 11, 23, 31, 461573, UTC)
    )
    assert msgspec.json.encode(result) == (
        b'{"index":0,"result":"Ok","stdout":"hi","stderr":null,"message":null,"isBatchFinished":true,'
        b'"eventDate":"2026-11-22T11:23:31.461573Z"}'
    )


def test_events_are_snake_case_naive_and_leave_out_what_is_absent() -> None:
    (command,) = decode_exe_script('[{"run":{"entry_point":"main"}}]')
    when = datetime(2026, 1, 1, 0, 0, 0, 123456)
    event = RuntimeEvent("b0", 0, when, RuntimeEventKind(started=CommandStarted(command)))
    assert msgspec.json.encode(event) == (
        b'{"batch_id":"b0","index":0,"timestamp":"2026-01-01T00:00:00.123456",'
        b'"kind":{"started":{"command":{"run":{"entry_point":"main"}}}}}'
    )
    progress = RuntimeEventKind(progress=CommandProgress((0, 1), None, (5, None), "Bytes"))
    assert msgspec.json.encode(progress) == (
        b'{"progress":{"step":[0,1],"message":null,"progress":[5,null],"unit":"Bytes"}}'
    )


@pytest.mark.parametrize(
    "message",
    [
        Exec("a", "b", decode_exe_script(JS_SCRIPT)),
        StreamedEvent(3, RuntimeEvent("b", 0, datetime(2026, 1, 1), RuntimeEventKind(stdout=(1, 255)))),
        ActivityState((State.INITIALIZED, State.DEPLOYED)),
        ActivityUsage((0.5, 1.25), 1795345571),
    ],
)
def test_survives_the_bus(message: msgspec.Struct) -> None:
    plain = msgspec.to_builtins(message, builtin_types=(bytes,))
    assert msgspec.convert(plain, type(message), builtin_types=(bytes,)) == message


def test_state_pair_is_what_clients_read() -> None:
    assert msgspec.json.encode(ActivityState((State.INITIALIZED, None))) == b'{"state":["Initialized",null]}'
    assert ActivityState((State.READY, None)).alive
    assert not ActivityState((State.READY, State.TERMINATED)).alive
