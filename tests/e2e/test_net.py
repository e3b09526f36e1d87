"""Seeing the network: two providers and a requestor of a devnet, through the commands that people type."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.conftest import BIN, Node, provider, until, with_commands

if TYPE_CHECKING:
    from node.devnet.local import LocalNetwork

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

STRANGER = "0x" + "77" * 20


def ran(node: Node, *argv: str, code: int = 0) -> str:
    """What a command prints about a node."""
    done = subprocess.run(
        [BIN / "golem-p2p", *argv, "--data-dir", node.config.data_dir],
        env=with_commands(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout


def told(node: Node, *argv: str, code: int = 0) -> Any:
    return json.loads(ran(node, *argv, "--json", code=code))


def figures(node: Node) -> dict[tuple[str, ...], float]:
    """What a scrape without a key finds: (name, label values in the order of their names ...) → value."""
    text = httpx.get(node.client.url + "/metrics", trust_env=False).raise_for_status().text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_network_is_seen(network: LocalNetwork, requestor: Node) -> None:
    first, second = provider(network, 1), provider(network, 2)
    ids = {node.name: told(node, "id")["nodeId"] for node in (first, second, requestor)}
    everyone = sorted(ids.values())

    def meets_all() -> bool:
        peers = told(requestor, "peers")["peers"]
        return sorted([ids["requestor"], *(peer["nodeId"] for peer in peers)]) == everyone

    until(meets_all, 60, "the requestor knows both providers")
    document = told(requestor, "peers")
    assert document["guests"] == []
    assert {peer["path"] for peer in document["peers"]} == {"direct"}
    assert all(peer["peerId"].startswith("16Uiu2") for peer in document["peers"])
    assert all(peer["agent"].startswith("golem-p2p/") for peer in document["peers"])
    assert ids["provider-1"] in ran(requestor, "peers")

    pinged = told(requestor, "ping", ids["provider-2"], "-c", "3", "-i", "0.1")
    assert (pinged["peer"], pinged["path"]) == (ids["provider-2"], "direct")
    assert (pinged["sent"], pinged["answered"], pinged["lossPercent"]) == (3, 3, 0)
    assert 0 < pinged["minMs"] <= pinged["avgMs"] <= pinged["maxMs"]
    assert "3 sent, 3 answered (0 % lost)" in ran(requestor, "ping", ids["provider-2"], "-c", "3", "-i", "0")

    found = told(requestor, "net", "find", ids["provider-1"])
    assert found["connected"] is True
    assert {"session", "book"} <= {address["source"] for address in found["addresses"]}
    assert ran(requestor, "net", "find", STRANGER, "--connect", code=6)

    checked = told(requestor, "netcheck")
    assert checked["facts"]["verdict"]["state"] == "public"
    assert checked["facts"]["directory"]["nodes"] >= 1
    assert checked["level"] == "ok", [check for check in checked["checks"] if check["level"] != "ok"]
    assert [b["problem"] for b in checked["facts"]["bootstrap"]] == ["", ""]
    assert ran(requestor, "netcheck").splitlines()[-1] == "all is well"

    seen = figures(requestor)
    peers = sum(value for (name, *_), value in seen.items() if name == "golem_p2p_peers")
    assert peers == 2
    assert seen["golem_p2p_rest_requests_total", "/golem-p2p/v1/net", "POST", "200"] >= 4
    assert seen["golem_p2p_traffic_bytes_total", "gossip", "out"] > 0
    assert seen["golem_p2p_known_nodes",] == 2
    assert not any(who in str(key) for key in seen for who in everyone)

    network_stop(network, second)
    until(lambda: len(told(requestor, "peers")["peers"]) == 1, 60, "it is noticed that a provider went")
    events = told(requestor, "net", "events")["events"]
    gone = [e for e in events if e["event"] == "peer-disconnected" and e["peer"] == ids["provider-2"]]
    assert gone
    assert gone[-1]["reason"]
    assert "public" in [e["verdict"] for e in events if e["event"] == "verdict-changed"]
    assert told(second, "netcheck")["facts"]["running"] is False


def network_stop(network: LocalNetwork, node: Node) -> None:
    """Stop one node of the network, as its owner would."""
    ran(node, "node", "stop")
    until(lambda: node.name not in [alive.name for alive in network.alive()], 30, "it stops")
