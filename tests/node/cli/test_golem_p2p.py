"""`golem-p2p`: help, exit codes, output, and what it does not load."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from node.cli.common import printable
from node.cli.main import GROUP
from tests.node.cli.conftest import House, Ran, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Run = Callable[..., Ran]

VERBS = sorted(entry.name for entry in importlib.metadata.entry_points(group=GROUP))
OWN_VERBS = (
    "node", "status", "id", "app-key", "payment", "offers", "agreements", "config", "run", "demo", "devnet"
)  # fmt: skip

_LOADED = """
import json, sys
from node.cli.main import main
codes = {}
for argv in json.loads(sys.argv[1]):
    codes[" ".join(argv)] = main(argv)
sys.stderr.write("\\n" + json.dumps([codes, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def loaded_by(*commands: list[str]) -> tuple[dict[str, int], set[str]]:
    """Run commands in one fresh process; return their exit codes and what packages were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, json.dumps(commands)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    codes, modules = json.loads(done.stderr.splitlines()[-1])
    return codes, set(modules)


def test_help_loads_nothing_heavy(house: House) -> None:
    assert set(OWN_VERBS) <= set(VERBS)
    folder = ["--data-dir", str(house.folder)]
    codes, modules = loaded_by(
        ["--help"],
        ["--version"],
        *([verb, "--help"] for verb in VERBS),
        ["status", *folder],
        ["status", "--json", *folder],
        ["id", *folder],
        ["config", *folder],
    )
    assert set(codes.values()) == {0}, codes
    assert not modules & {
        "trio",
        "libp2p",
        "multiaddr",
        "numpy",
        "pandas",
        "eth_keys",
        "coincurve",
        "wasmtime",
    }


@pytest.mark.parametrize(
    "argv",
    [
        ("status",),
        ("id",),
        ("offers",),
        ("agreements",),
        ("node", "stop"),
        ("app-key", "create", "x"),
        ("app-key", "list"),
        ("app-key", "drop", "x"),
        ("payment", "status"),
        ("payment", "init"),
    ],
)
def test_no_node_is_3(run: Run, argv: tuple[str, ...], tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        (tmp_path / "rest.json").write_text("[]")
        ran = run(*argv, "--data-dir", folder)
        assert (ran.code, ran.out) == (3, ""), ran.err
        assert "golem-p2p node run" in ran.err
        assert str(folder) in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("nonsense",),
        ("status", "--bogus"),
        ("status", "surplus"),
        ("node",),
        ("app-key", "create"),
        ("app-key", "bogus"),
        ("node", "run", "--set", "nonsense"),
        ("node", "run", "--set", "no.such=1"),
        ("node", "run", "--set", "api.url=ftp://x"),
        ("node", "run", "--set", "market.ttl=-1"),
        ("run",),
        ("run", "no-such-file.wasm"),
        ("run", "x.wasm", "--tasks", "many"),
        ("run", "x.wasm", "--input", "nocolon"),
        ("run", "x.wasm", "--budget", "much"),
        ("devnet", "up", "--providers", "x"),
    ],
)
def test_usage_is_2(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert ran.code == 2, (ran.out, ran.err)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("no", (), "there is no program"),
        ("text", (), "neither a .wasm module nor a .ywasi image"),
        ("module", ("--budget", "much"), "--budget: 'much' is not an amount"),
        ("module", ("--budget", "0"), "--budget"),
        ("module", ("--timeout", "0"), "--timeout"),
        ("module", ("--tasks", "0"), "--tasks"),
        ("module", ("--input", "gone:/work/in"), "there is no file"),
        ("module", ("--tasks", "3", "--input", "in-{i}:/work/in"), "in-1"),
        ("module", ("--tasks", "2", "--output", "/work/out:out"), "put {i} into the name"),
    ],
)
def test_what_cannot_be_run_is_said_before_anybody_is_hired(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "module").write_bytes(b"\0asm\1\0\0\0")
    (tmp_path / "in-0").touch()
    ran = run("run", name, *options)
    assert ran.code == 2, (ran.out, ran.err)
    assert says in ran.err


def test_refusals_are_one_line(run: Run, house: House) -> None:
    for argv, code in (
        (("app-key", "drop", "no such key"), 4),
        (("app-key", "drop", "a/b?c#d é"), 4),
        (("app-key", "drop", "autoconfigured"), 4),
        (("app-key", "create", "x" * 257), 1),
        (("agreements", "--state", "Nonsense"), 1),
        (("offers", "--filter", "(((("), 1),
        (("payment", "status", "--network", "nope"), 1),
    ):
        ran = run(*argv, "--data-dir", house.folder)
        assert (ran.code, ran.out) == (code, ""), (argv, ran.err)
        assert ran.err.startswith("golem-p2p: ")
        assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "schema"),
    [
        (("status",), "golem-p2p/status/1"),
        (("id",), "golem-p2p/id/1"),
        (("offers",), "golem-p2p/offers/1"),
        (("agreements",), "golem-p2p/agreements/1"),
        (("app-key", "list"), "golem-p2p/app-keys/1"),
        (("payment", "status"), "golem-p2p/payment-status/1"),
        (("payment", "init"), "golem-p2p/payment-init/1"),
        (("payment", "fund"), "golem-p2p/payment-fund/1"),
        (("config",), "golem-p2p/config/1"),
    ],
)
def test_json_is_one_document(run: Run, house: House, argv: tuple[str, ...], schema: str) -> None:
    ran = run(*argv, "--json", "--data-dir", house.folder)
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["schema"] == schema
    people = run(*argv, "--data-dir", house.folder)
    assert people.code == 0
    assert not people.out.startswith("{")


def test_what_status_says(run: Run, house: House) -> None:
    document = json.loads(run("status", "--json", "--data-dir", house.folder).out)
    assert document["nodeId"] == house.node_id
    assert document["dataDir"] == str(house.folder)
    assert document["roles"] == ["requestor"]
    assert document["overlay"]["joined"] is True
    assert document["overlay"]["listen"]
    assert document["overlay"]["netcheck"]["summary"].startswith("0 peers")
    assert document["problems"] == []
    lines = run("status", "--data-dir", house.folder).out.splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith(house.node_id)
    assert any(line.startswith("overlay    devnet: 0 peers") and "netcheck" in line for line in lines)


def test_secrets_are_not_shown(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("YAGNA_AUTOCONF_APPKEY", "YAGNA_AUTOCONF_ID_SECRET", "GOLEM_P2P_PASSWORD"):
        monkeypatch.setenv(name, "very secret")
    for flags in ((), ("--json",)):
        ran = run("config", "--data-dir", tmp_path, *flags)
        assert ran.code == 0
        assert "very secret" not in ran.out
        assert "(hidden)" in ran.out


def test_keys(run: Run, house: House) -> None:
    folder = ("--data-dir", house.folder)
    name = "a/b c?d=é%2F"
    made = run("app-key", "create", name, "--allow-origin", "http://a", "--allow-origin", "http://b", *folder)
    key = made.out.strip()
    assert len(key) == 32
    again = json.loads(run("app-key", "create", name, "--json", *folder).out)
    assert (again["key"], again["allowOrigins"]) == (key, ["http://a", "http://b"])
    listed = json.loads(run("app-key", "list", "--json", *folder).out)["keys"]
    assert [entry["key"] for entry in listed if entry["name"] == name] == [key]
    assert key in run("app-key", "list", *folder).out
    assert run("app-key", "drop", name, *folder).code == 0
    assert run("app-key", "drop", name, *folder).code == 4


def test_control_sequences_of_others_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b]0;owned\x07b\tc\nd\u202e") == "a\ufffd]0;owned\ufffdb\ufffdc\ufffdd\ufffd"
    assert printable("naïve 節点 ✓") == "naïve 節点 ✓"


# --- something else answers in the node's place -------------------------------------------------------------


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Callable[[bytes], Path]]:
    """A data folder whose node is another program, that says the same to everyone."""
    listening = socket.create_server(("127.0.0.1", 0))
    answer = b""

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.recv(65536)
                client.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def make(says: bytes) -> Path:
        nonlocal answer
        answer = says
        port = listening.getsockname()[1]
        access: dict[str, Any] = {"url": f"http://127.0.0.1:{port}", "token": "t", "pid": 1}
        (tmp_path / "rest.json").write_text(json.dumps(access))
        return tmp_path

    yield make
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\ncontent-length: 600\r\n\r\n{}",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_an_impostor_is_one_line(run: Run, impostor: Callable[[bytes], Path], says: bytes) -> None:
    ran = run("status", "--data-dir", impostor(says))
    assert ran.code in (1, 3)
    assert ran.out == ""
    assert ran.err.startswith("golem-p2p: ")
    assert "Traceback" not in ran.err
