"""What a netcheck makes of facts: levels, words, and what to do."""

from __future__ import annotations

import itertools
from typing import get_args

import msgspec
import pytest

from node.netcheck.facts import Bootstrap, Directory, Dropped, Facts, Listening
from node.netcheck.judge import Check, judge, summary, worst
from p2p.events import Refusal
from p2p.reach.judge import DialBack, Sighting
from p2p.reach.judge import Facts as ReachFacts
from p2p.reach.judge import judge as judge_reach
from p2p.reach.verdict import UNKNOWN, Relay

OPEN = "/ip4/0.0.0.0/tcp/4001"
HERE = "/ip4/198.51.100.7/tcp/4001"
FIRST = "/ip4/192.0.2.1/tcp/4001/p2p/16Uiu2HAm"
WHO = "0x" + "11" * 20
RELAYS = tuple(Relay(f"0x{n:040x}", (f"{FIRST}/p2p-circuit",), 0) for n in range(3))

GOOD = Facts(
    "main",
    (OPEN,),
    running=True,
    joined=True,
    listening=(Listening(HERE),),
    bootstrap=(Bootstrap(FIRST, WHO, connected=True),),
    peers_in=4,
    peers_out=5,
    known=40,
    verdict=judge_reach(ReachFacts((HERE,), dial_backs=[DialBack("a", HERE, True)])),
    directory=Directory(12, published=True),
)


def with_(**changes: object) -> dict[str, list[Check]]:
    """The outcome of the good facts with some changed, by name."""
    checks = judge(msgspec.structs.replace(GOOD, **changes))
    return {name: list(some) for name, some in itertools.groupby(checks, key=lambda check: check.name)}


def test_a_node_that_is_well() -> None:
    checks = judge(GOOD)
    assert worst(checks) == "ok"
    assert all(not check.do for check in checks), "nothing to do"
    said = {check.name: check.says for check in checks}
    assert said["peers"] == "9 peers: 5 dialled, 4 came in; 40 nodes in the address book"
    assert said["reach"] == "public: others can dial this node"
    assert said["IPv4"] == f"open, others see {HERE}"
    assert said["IPv6"] == "not in use here"
    assert said["directory"] == "12 nodes in the directory's table; this node's addresses are published"


def test_what_is_wrong_always_comes_with_what_to_do() -> None:
    broken = (
        {"running": False},
        {"joined": False},
        {"listening": ()},
        {"listening": (Listening(HERE, "Connection refused"),)},
        {"running": False, "listening": (Listening(OPEN, "port 4001 is taken"),)},
        {"listen": ("/ip4/127.0.0.1/tcp/4001",)},
        {"listen": ("/ip4/0.0.0.0/tcp/0",)},
        {"bootstrap": (Bootstrap(FIRST, problem="strange"),)},
        {"bootstrap": (), "peers_in": 0, "peers_out": 0, "known": 0},
        {"peers_in": 0, "peers_out": 0},
        {"peers_in": 0, "peers_out": 1},
        {"verdict": UNKNOWN},
        {"directory": Directory(0, published=False)},
        {"dropped": (Dropped("version", 1, "it needs 2"),)},
    )
    for changes in broken:
        checks = judge(msgspec.structs.replace(GOOD, **changes))
        assert worst(checks) != "ok", changes
        assert all(check.do for check in checks if check.level != "ok"), changes


def test_nothing_is_claimed_of_a_node_that_does_not_run() -> None:
    assert set(with_(running=False)) == {"node", "listen", "bootstrap"}
    assert set(with_(joined=False, listening=(), bootstrap=())) == {"node", "bootstrap"}
    assert "is free" in with_(running=False)["listen"][0].says


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (f"no session with {FIRST}: [Errno 111] Connection refused", "Nothing listens there"),
        (f"nobody answered at {FIRST} within 10 s", "firewall"),
        ("no session came about within 15 s", "firewall"),
        ("0x1 was reached, but it is on network 'test', this node on 'main'", "overlay.network"),
        (
            "... it needs version 3 of the protocols (x), this node speaks 1: this node needs an update",
            "Update this",
        ),
        (
            "... it speaks version 1 ..., this node needs at least 2: the peer needs an update",
            "owner has to update",
        ),
        ("[Errno -2] Name or service not known", "DNS"),
        ("[Errno 101] Network is unreachable", "no way there"),
        ("something else", "another bootstrap"),
    ],
)
def test_each_reason_for_failing_has_its_remedy(problem: str, words: str) -> None:
    (check,) = with_(bootstrap=(Bootstrap(FIRST, problem=problem),))["bootstrap"]
    assert problem in check.says
    assert words in check.do[0]


def test_one_first_peer_that_is_up_is_enough() -> None:
    down, up = Bootstrap(FIRST, problem="refused"), Bootstrap(FIRST, WHO)
    alone = {"peers_in": 0, "peers_out": 0}
    assert [c.level for c in with_(bootstrap=(down, up), **alone)["bootstrap"]] == ["warn", "ok"]
    assert [c.level for c in with_(bootstrap=(down, down), **alone)["bootstrap"]] == ["fail", "fail"]
    assert [c.level for c in with_(bootstrap=(down,))["bootstrap"]] == ["warn"], (
        "there are peers all the same"
    )
    assert with_(bootstrap=(Bootstrap(FIRST),))["bootstrap"][0].says.endswith("is this node itself")


def test_reach_is_told_with_its_evidence() -> None:
    seen = [
        Sighting("a", "/ip4/192.0.2.1/tcp/1", "/ip4/203.0.113.9/tcp/7000"),
        Sighting("b", "/ip4/198.18.0.1/tcp/1", "/ip4/203.0.113.9/tcp/7001"),
    ]
    inside = ("/ip4/192.168.1.5/tcp/4001",)
    relayed = judge_reach(ReachFacts(inside, seen, relays=RELAYS))
    found = with_(verdict=relayed)
    (reach,) = found["reach"]
    assert (reach.level, reach.says) == ("warn", "reached through relays only")
    assert any("203.0.113.9/tcp/7000" in line for line in reach.details)
    assert any("forward TCP port 4001" in line for line in reach.do)
    (ipv4,) = found["IPv4"]
    assert (ipv4.level, "endpoint-dependent" in ipv4.says) == ("warn", True)
    assert [(c.level, c.says) for c in found["relays"]] == [("ok", "3 relays keep a place for this node")]

    (relay,) = with_(verdict=msgspec.structs.replace(relayed, relays=RELAYS[:1]))["relays"]
    assert (relay.level, relay.says) == ("warn", "1 relay keeps a place for this node")

    lost = with_(verdict=judge_reach(ReachFacts(inside, seen)))
    assert [c.level for c in (*lost["reach"], *lost["relays"])] == ["fail", "fail"]

    agreed = [*seen[:1], msgspec.structs.replace(seen[1], seen=seen[0].seen)]
    punchable = with_(verdict=judge_reach(ReachFacts(inside, agreed, relays=RELAYS)))
    assert [c.level for c in punchable["reach"]] == ["ok"]
    assert "keeps the port" in punchable["IPv4"][0].says


@pytest.mark.parametrize("state", ["public", "punchable", "relayed", "unreachable", "unknown"])
def test_every_verdict_has_its_level(state: str) -> None:
    verdict = msgspec.structs.replace(UNKNOWN, state=state)
    (reach,) = with_(verdict=verdict)["reach"]
    assert reach.level == {"public": "ok", "punchable": "ok", "unreachable": "fail"}.get(state, "warn")


def test_a_devnet_needs_no_reach() -> None:
    found = judge(
        msgspec.structs.replace(GOOD, network="devnet", verdict=UNKNOWN, listen=("/ip4/127.0.0.1/tcp/0",))
    )
    assert worst(found) == "ok"
    alone = judge(
        Facts("devnet", ("/ip4/127.0.0.1/tcp/0",), running=True, joined=True, listening=(Listening(HERE),))
    )
    assert worst(alone) == "warn"


def test_the_outcome_in_a_line() -> None:
    assert summary(GOOD) == (
        "ok",
        "9 peers: 5 dialled, 4 came in; 40 nodes in the address book; public: others can dial this node",
    )
    for changes, expected in (
        ({"joined": False}, ("warn", "running, but has not joined main yet")),
        ({"peers_in": 0, "peers_out": 0, "known": None, "verdict": None}, ("fail", "0 peers: 0 dialled, 0 came in")),
        ({"verdict": msgspec.structs.replace(UNKNOWN, state="unreachable"), "known": None}, (
            "fail", "9 peers: 5 dialled, 4 came in; not reachable: only peers that this node dials itself"
        )),
    ):  # fmt: skip
        assert summary(msgspec.structs.replace(GOOD, **changes)) == expected


def test_a_wrong_clock_is_told_by_its_direction() -> None:
    for skew, level, words in (
        (0.3, "ok", "agrees"),
        (-4.9, "ok", "agrees"),
        (12.0, "warn", "12 s behind"),
        (-12.0, "warn", "12 s ahead of"),
        (-3600.0, "fail", "3600 s ahead of"),
    ):
        (check,) = with_(skew=skew)["clock"]
        assert (check.level, words in check.says) == (level, True), check
        assert bool(check.do) == (level != "ok")
    assert "clock" not in with_(skew=None)


@pytest.mark.parametrize("why", get_args(Refusal))
def test_dropped_peers_are_told_with_the_latest_reason(why: Refusal) -> None:
    (check,) = with_(dropped=(Dropped(why, 3, "it is on network 'test'"),))["dropped"]
    assert "3 sessions" in check.says
    assert check.details == ("the latest: it is on network 'test'",)
    assert check.level == ("warn" if why == "version" else "ok")
    assert bool(check.do) == (check.level != "ok")


def test_other_networks_mean_something_to_who_has_no_peers() -> None:
    (check,) = with_(dropped=(Dropped("network", 3, "it is on 'test'"),), peers_in=0, peers_out=0)["dropped"]
    assert check.level == "warn"
    assert "overlay.network" in check.do[0]
