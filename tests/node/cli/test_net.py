"""The verbs about the network, on a node without peers; with peers they are seen in `tests/e2e/test_net.py`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from node.cli import net

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.node.cli.conftest import House, Ran

    Run = Callable[..., Ran]

STRANGER = "0x" + "77" * 20


@pytest.mark.parametrize("argv", [("peers",), ("ping", STRANGER)])
def test_no_node_is_3(run: Run, argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert (ran.code, ran.out) == (3, "")
    assert "golem-p2p node run" in ran.err


@pytest.mark.parametrize(
    "argv", [("ping",), ("ping", STRANGER, "-c", "0"), ("ping", STRANGER, "-c", "x"), ("peers", "surplus")]
)
def test_usage_is_2(run: Run, argv: tuple[str, ...]) -> None:
    assert run(*argv).code == 2


def test_nobody_there(run: Run, house: House) -> None:
    ran = run("peers", "--data-dir", house.folder)
    assert ran.code == 0
    assert ran.out.split("\t")[0] == "peer"
    assert "netcheck" in ran.err
    document = json.loads(run("peers", "--json", "--data-dir", house.folder).out)
    assert (document["schema"], document["peers"]) == ("golem-p2p/peers/1", [])


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


def test_a_ping_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    document: dict[str, Any] = {
        "peer": STRANGER,
        "address": "/ip4/192.0.2.1/tcp/4001",
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
    assert "  2  no answer\n" in out
    assert "3 sent, 2 answered (33.3 % lost); min/avg/max 1.500/2.000/2.500 ms" in out
    assert "\x1b" not in out
