"""`yagna`: exit codes and JSON as the original's, by our own recordings of it in `yagna-cli.jsonl`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from node.cli import node as node_verb
from node.cli.yagna import main

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.node.cli.conftest import House, Ran

    Run = Callable[..., Ran]

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/rest/yagna-cli.jsonl").read_text().splitlines()
]
DIFFERENT = {
    ("app-key", "drop", "cliprobe", "--json"): (0, 1),  # the second time; the original panicked with 101
}


@pytest.fixture
def yagna(run: Run) -> Callable[..., Ran]:
    return lambda *argv: run(*argv, command=main)


def test_the_recorded_commands(yagna: Run, house: House) -> None:
    """In the order of the recording: what was created is shown, and dropped once."""
    drops = iter(DIFFERENT["app-key", "drop", "cliprobe", "--json"])
    for record in (r for r in RECORDED if r["running"]):
        argv = record["argv"][1:]
        ours = [word.replace("hoodi", "devnet").replace("polygon", "devnet") for word in argv]
        ran = yagna(*ours, "-d", house.folder)
        expected = next(drops) if tuple(argv) in DIFFERENT else record["exit_code"]
        assert ran.code == expected, (argv, ran.err)
        assert bool(ran.out) == bool(record["stdout"]), (argv, ran.out)
        if record["exit_code"] == 0 and record["stdout"]:
            compare(json.loads(record["stdout"]), json.loads(ran.out), argv)
        if expected and not record["stdout"]:
            assert ran.err
    assert yagna("app-key", "drop", "cliprobe2", "-d", house.folder).code == 0


def compare(recorded: Any, ours: Any, where: Any) -> None:
    """Ours has the same members, of the same types, with texts of the same form."""
    assert type(recorded) is type(ours), (where, recorded, ours)
    if isinstance(recorded, dict):
        assert list(recorded) == sorted(recorded), "the original sorts"
        assert recorded.keys() == ours.keys(), (where, recorded.keys() ^ ours.keys())
        for name, value in recorded.items():
            compare(value, ours[name], (*where, name))
    elif isinstance(recorded, list):
        for one, other in zip(recorded, ours, strict=False):
            compare(one, other, where)
    elif isinstance(recorded, str):
        assert form(recorded) == form(ours), (where, recorded, ours)


def form(text: str) -> str:
    for pattern in (
        r"0x[0-9a-f]{40}",
        r"[0-9a-f]{32}",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?",
        r"\d+(\.\d+)?",
    ):
        if re.fullmatch(pattern, text):
            return pattern
    return "text"


def test_without_a_daemon(yagna: Run) -> None:
    for record in (r for r in RECORDED if not r["running"]):
        ran = yagna(*record["argv"][1:])
        assert ran.code == record["exit_code"]
        assert bool(ran.out) == bool(record["stdout"])
        assert bool(ran.out) != bool(ran.err)
    assert re.match(r"yagna 0\.17\.6 ", yagna("--version").out)
    assert re.match(r"yagna 0\.17\.6 ", yagna("-V").out)


def test_what_scripts_pick_out(yagna: Run, house: House) -> None:
    folder = ("-d", house.folder)
    made = json.loads(yagna("app-key", "create", "script", "--json", *folder).out)
    listed = json.loads(yagna("app-key", "list", "--json", *folder).out)
    (entry,) = (entry for entry in listed if entry["name"] == "script")
    assert entry["key"] == made
    assert entry.keys() == {"name", "key", "id", "role", "created"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", entry["created"]), "without a zone"
    assert made in yagna("app-key", "list", *folder).out
    assert yagna("app-key", "create", "script", *folder).out == f"{made}\n"
    assert json.loads(yagna("id", "show", "--json", *folder).out)["Ok"]["nodeId"] == house.node_id
    assert json.loads(yagna("id", "show", house.node_id, "--json", *folder).out)["Ok"]["isDefault"]
    assert house.node_id in yagna("id", "show", *folder).out
    amount = json.loads(yagna("payment", "status", "--network=devnet", "--json", *folder).out)["amount"]
    assert re.fullmatch(r"\d+(\.\d+)?", amount)
    current = json.loads(yagna("version", "show", "--json", *folder).out)["current"]
    assert current["version"] == "0.17.6"
    assert "0.17.6" in yagna("version", "show", *folder).out
    assert yagna("payment", "fund", "--network", "devnet", *folder).code == 0
    assert yagna("app-key", "drop", "script", *folder).out == ""


def test_origins(yagna: Run, house: House) -> None:
    folder = (f"--datadir={house.folder}",)
    made = yagna("app-key", "create", "web", "--allow-origins", "http://a", "http://b", "--json", *folder)
    assert made.code == 0
    shown = json.loads(yagna("app-key", "show", "web", "--json", *folder).out)
    assert shown["allowOrigins"] == ["http://a", "http://b"]
    assert "http://b" in yagna("app-key", "show", "web", *folder).out
    assert yagna("app-key", "drop", "web", *folder).code == 0
    assert yagna("app-key", "show", "web", *folder).code == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("payment", "status", "--bogus"),
        ("payment", "status", "--network"),
        ("payment", "status", "--network", "--json"),
        ("-x",),
        ("app-key",),
        ("id",),
        ("market", "agreements", "list"),
        ("app-key", "create"),
        ("app-key", "create", "a", "b"),
        (),
    ],
)
def test_what_it_does_not_understand_is_1(yagna: Run, house: House, argv: tuple[str, ...]) -> None:
    for folder in ((), ("-d", str(house.folder))):
        ran = yagna(*argv, *folder)
        assert ran.code == 1, (ran.out, ran.err)
        assert ran.out or ran.err
        assert "Traceback" not in ran.err


def test_help(yagna: Run) -> None:
    for argv in (("--help",), ("-h",), ("app-key", "--help")):
        ran = yagna(*argv)
        assert ran.code == 0
        assert "yagna service run" in ran.out


def test_service_run_is_node_run(yagna: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def note(argv: Sequence[str]) -> int:
        started.append(list(argv))
        return 7

    monkeypatch.setattr(node_verb, "main", note)
    ran = yagna(
        "service", "run", "-d", "/some/where", "--api-url=http://127.0.0.1:1", "--gsb-url", "unix:/x.sock",
        "--api-allow-origin", "http://a", "--api-allow-origin", "http://b", "--disable-metrics-push", "--debug",
        "--max-rest-timeout", "30", "--log-dir", "/tmp",
    )  # fmt: skip
    assert ran.code == 7
    assert started == [
        [
            "run", "--data-dir", "/some/where", "--api-url", "http://127.0.0.1:1",
            "--set", "bus.url=unix:/x.sock", "--set", "api.allow-origin=http://a,http://b",
        ]
    ]  # fmt: skip
