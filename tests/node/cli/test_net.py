"""The verbs about the network, on a node without peers; with peers they are seen in `tests/e2e/test_net.py`."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from node.cli import net
from p2p.clock import SystemClock
from p2p.entropy import SeededEntropy
from p2p.identity import PrivateKey
from p2p.identity.peer_id import peer_id_of
from p2p.testing.clock import EPOCH_NS
from tests.node.cli.conftest import House, Ran, start, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., Ran]

STRANGER = "0x" + "77" * 20
SOMEBODY = str(peer_id_of(PrivateKey.generate(SeededEntropy(1)).public_key))


@pytest.mark.parametrize(
    "argv",
    [
        ("peers",),
        ("ping", STRANGER),
        ("net", "events"),
        ("net", "events", "--follow"),
        ("net", "find", STRANGER),
    ],
)
def test_no_node_is_3(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert (ran.code, ran.out) == (3, "")
    assert "golem-p2p node run" in ran.err


@pytest.mark.parametrize(
    "argv",
    [
        ("ping",),
        ("ping", STRANGER, "-c", "0"),
        ("ping", STRANGER, "-c", "x"),
        ("peers", "surplus"),
        ("netcheck", "surplus"),
        ("net",),
        ("net", "bogus"),
        ("net", "events", "-n", "x"),
    ],
)
def test_usage_is_2(run: Run, argv: tuple[str, ...]) -> None:
    assert run(*argv).code == 2


def test_nobody_there(run: Run, house: House) -> None:
    ran = run("peers", "--data-dir", house.folder)
    assert ran.code == 0
    assert ran.out.split("\t")[0] == "peer"
    assert "netcheck" in ran.err
    document = json.loads(run("peers", "--json", "--data-dir", house.folder).out)
    assert document == {"schema": "golem-p2p/peers/1", "peers": [], "guests": []}


def test_find_of_who_is_nowhere(run: Run, house: House) -> None:
    ran = run("net", "find", STRANGER, "--data-dir", house.folder)
    assert (ran.code, ran.out) == (4, f"{STRANGER} is not connected\n")
    assert "no address" in ran.err
    ran = run("net", "find", STRANGER, "--connect", "--json", "--data-dir", house.folder)
    assert ran.code == 6
    document = json.loads(ran.out)
    assert document["addresses"] == []
    assert "no address" in document["attempt"]["problem"]
    ran = run("net", "find", "attic", "--data-dir", house.folder)
    assert (ran.code, ran.out) == (1, "")


def test_what_is_found_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    place = {"address": "/ip4/192.0.2.1/tcp/1"}
    book = {"source": "book", **place, "failures": 0, "toldBy": None, "provenAt": None}
    document: dict[str, Any] = {
        "nodeId": STRANGER,
        "connected": True,
        "directory": True,
        "addresses": [
            {"source": "session", **place, "direction": "in", "path": "relayed"},
            {**book, "provenAt": "2026-01-01T00:00:00Z"},
            {**book, "failures": 2, "toldBy": "0xab"},
            {"source": "directory", **place},
        ],
        "attempt": {"problem": "", "seconds": 0.5, "path": "direct", **place},
    }
    net._show_found(document)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[-1] for line in lines[2:]] == [
        "dialled by it, relayed",
        "it was there at 2026-01-01T00:00:00Z",
        "not proven, failed 2 times since, told by 0xab",
        "signed by the node",
        "reached at /ip4/192.0.2.1/tcp/1, direct, in 0.500 s",
    ]


def test_events_of_a_node(run: Run, house: House) -> None:
    document = json.loads(run("net", "events", "--json", "--data-dir", house.folder).out)
    assert document["schema"] == "golem-p2p/events/1"
    assert run("net", "events", "--data-dir", house.folder).code == 0


def test_events_are_followed_until_the_node_stops(tmp_path: Path) -> None:
    """A first peer that is not there is news again and again."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    nobody = f"/ip4/127.0.0.1/tcp/{free}/p2p/{SOMEBODY}"
    folder = str(tmp_path)
    settings = ("api.url=http://127.0.0.1:0", f"overlay.bootstrap={nobody}", "overlay.network=devnet")
    flags = [word for setting in settings for word in ("--set", setting)]
    node = start("node.cli.main", "node", "run", "--data-dir", folder, *flags)
    following = None
    try:
        until((tmp_path / "rest.json").exists, "the node starts")
        command = ("net", "events", "--follow", "--json", "-n", "0", "--data-dir", folder)
        following = start("node.cli.main", *command)
        assert following.stdout is not None
        events = [json.loads(following.stdout.readline()) for _ in range(2)]
        assert [event["event"] for event in events] == ["dial-failed"] * 2
        assert events[0]["address"] == nobody
        assert events[0]["bootstrap"] is True
        node.terminate()
        out, err = following.communicate(timeout=30)
        assert (following.returncode, err) == (0, b"the node has stopped\n"), out
    finally:
        for process in (node, following):
            if process is not None:
                process.kill()
                process.communicate()


def test_an_event_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    event: dict[str, Any] = {
        "seq": 3,
        "at": "2026-01-01T00:00:00Z",
        "event": "peer-dropped",
        "peer": STRANGER,
        "why": "network",
        "reason": "it is on 'te\x1b[0mst'",
    }
    net._show_events([event])
    out = capsys.readouterr().out
    assert out == (
        f"2026-01-01T00:00:00Z  peer-dropped       peer={STRANGER} why=network  it is on 'te\ufffd[0mst'\n"
    )


def test_netcheck_of_a_lonely_node(run: Run, house: House) -> None:
    ran = run("netcheck", "--data-dir", house.folder)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["OK", "node", "running,", "has", "joined", "devnet"]
    assert any(line.startswith("WARN  peers") for line in lines)
    assert any(line.startswith("OK    listen") and "accepts connections" in line for line in lines)
    assert lines[-1] == "0 failed, 1 to look at"
    document = json.loads(run("netcheck", "--json", "--data-dir", house.folder).out)
    assert (document["schema"], document["level"]) == ("golem-p2p/netcheck/1", "warn")
    assert document["facts"]["running"] is True
    assert {check["name"] for check in document["checks"]} >= {"node", "listen", "bootstrap", "peers"}


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str, str], Path]:
    """The data folder of a node that does not run."""

    def make(listen: str, bootstrap: str) -> Path:
        settings = f'[overlay]\nlisten = ["{listen}"]\nbootstrap = ["{bootstrap}"]\n'
        (tmp_path / "config.toml").write_text(settings)
        return tmp_path

    return make


def test_netcheck_without_a_node_dials_the_first_peers(
    run: Run, house: House, configured: Callable[[str, str], Path]
) -> None:
    address = house.client.get("/golem-p2p/v1/id")["addresses"][0]
    folder = configured("/ip4/127.0.0.1/tcp/0", address)
    ran = run("netcheck", "--json", "--data-dir", folder)
    assert ran.code == 0, ran.out
    document = json.loads(ran.out)
    assert document["facts"]["running"] is False
    assert document["facts"]["bootstrap"][0]["peer"] == house.node_id
    assert [check["level"] for check in document["checks"]] == ["warn", "ok", "ok"]
    assert "golem-p2p node run" in document["checks"][0]["do"][0]
    assert sorted(path.name for path in folder.iterdir()) == ["config.toml"], "nothing is left behind"


def test_netcheck_without_a_node_says_what_is_in_the_way(
    run: Run, house: House, configured: Callable[[str, str], Path]
) -> None:
    address = house.client.get("/golem-p2p/v1/id")["addresses"][0]
    port = address.split("/")[4]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    folder = configured(f"/ip4/127.0.0.1/tcp/{port}", address.replace(f"/tcp/{port}/", f"/tcp/{free}/"))
    ran = run("netcheck", "--data-dir", folder)
    assert ran.code == 1
    assert "FAIL  listen" in ran.out
    assert f"port {port} is taken" in ran.out
    assert "FAIL  bootstrap" in ran.out
    assert "Connection refused" in ran.out
    assert "Nothing listens there" in ran.out


@pytest.mark.parametrize(
    ("peer", "code", "words"),
    [
        (STRANGER, 6, "no address"),
        ("attic", 1, "not a node id"),
        ("/ip4/127.0.0.1/udp/1/quic", 6, "not an address to dial"),
    ],
)
def test_ping_of_who_is_not_there_is_one_line(
    run: Run, house: House, peer: str, code: int, words: str
) -> None:
    ran = run("ping", peer, "--data-dir", house.folder)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.startswith("golem-p2p: ")
    assert ran.err.count("\n") == 1
    assert words in ran.err


def test_peers_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "utc_ns", lambda self: EPOCH_NS + 11 * 86_400 * 10**9)
    session: dict[str, Any] = {
        "address": "/ip4/192.0.2.1/tcp/4001",
        "direction": "in",
        "path": "relayed",
        "rttMs": 12.345,
        "since": "2026-01-01T00:00:00Z",
        "agent": "golem-p2p/1\x1b[31m",
    }
    guest = {**session, "peerId": "12D3KooWxyz", "rttMs": None, "agent": ""}
    net._show_peers({"peers": [{"nodeId": STRANGER, **session}], "guests": [guest]})
    headers, first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert dict(zip(headers, first, strict=True)) == {
        "peer": STRANGER,
        "address": "/ip4/192.0.2.1/tcp/4001",
        "dialled": "in",
        "path": "relayed",
        "rtt": "12.3 ms",
        "for": "11 d",
        "software": "golem-p2p/1\ufffd[31m",
    }
    assert (second[0], second[4]) == ("12D3KooWxyz", "")


def test_ages() -> None:
    for seconds, words in (
        (-5, "0 s"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ):
        assert net._age("2026-01-01T00:00:00.123456789Z", EPOCH_NS + seconds * 10**9) == words


def test_a_ping_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = {
        "peer": STRANGER,
        "address": "/ip4/192.0.2.1/tcp/4001",
        "path": "relayed",
        "agent": "x",
        "sent": 3,
        "answered": 2,
        "lossPercent": 33.3,
        "rttMs": [1.5, None, 2.5],
        "minMs": 1.5,
        "avgMs": 2.0,
        "maxMs": 2.5,
        "problem": "the \x1b[31msession ended",
    }
    net._show_ping(document)
    out = capsys.readouterr().out
    assert out.startswith(f"{STRANGER} at /ip4/192.0.2.1/tcp/4001, relayed\n")
    assert "  2  no answer\n" in out
    assert "3 sent, 2 answered (33.3 % lost); min/avg/max 1.500/2.000/2.500 ms" in out
    assert "\x1b" not in out
