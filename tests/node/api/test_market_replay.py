"""What the original daemon answered, request by request, and what this node answers to the same.

`tests/data/rest/market-probe.jsonl` are our own recordings of requests to the original and of its answers. They
are sent again, ids and node ids put in place of the recorded ones as they become known, on the recorded
clock. Status, content type, shape of the JSON, states, and the wording of errors have to be the same.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from p2p.testing.clock import EPOCH_NS
from p2p.testing.nodes import memory_nodes
from protocols.ground.times import parse_time
from protocols.market.handler import MarketProtocol
from tests.node.api.client import Answer, MarketClient

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/rest/market-probe.jsonl").read_text().splitlines()
]
_ID = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{32}-[0-9a-f]{64}|[0-9a-f]{64}|0x[0-9a-f]{40})(?![0-9a-f])")
RECORDED_NODES = ("0x0d6ead3f76f5af392ab3c0a97f210fa3f27c4650", "0x219149eb90bc9c3d3aea73cccf4d32abac67b1d0")
"""The provider and the requestor of the recordings with two nodes."""
_TIMES = ("timestamp", "eventDate", "approvedDate")
_INTERNALS = re.compile(r" \(subscription \[.*\]\)")

DIFFERENT = {
    80: (404, "another identity's demand is not there for us; the original did not check"),
    946: (404, "nobody withdraws another's offer; the original allowed it on its own node"),
}
"""Answers that differ on purpose."""
OWN_WORDS = (
    # serde's and nom's explanations of what they could not parse
    "Json deserialize error",
    "Query deserialize error",
    "Can't match Proposal",
)
SKIPPED = {
    89: "made at the same time as the next one",
    618: "shows offers of earlier recordings too",
    621: "our offers are seen sooner",
    622: "our offers are seen sooner",
    951: "shows offers of earlier recordings only",
    963: "made at the same time as the next one",
}


class Replay:
    """Sends recorded requests and compares the answers."""

    def __init__(self, clients: dict[str, MarketClient], ours: dict[str, str]) -> None:
        self._clients = clients
        self._ours = ours

    async def step(self, record: dict[str, Any]) -> None:
        await self._reach(_latest(record["body"]))
        answer = await self._send(record)
        await trio.sleep(0.3)  # as long as the two nodes need to hear of it
        status, _ = DIFFERENT.get(record["seq"], (record["status"], None))
        where = f"{record['seq']} {record['label']}: {answer.body[:300]!r}"
        assert answer.status == status, where
        if status != record["status"]:
            return
        recorded_type = record["content_type"] or None
        assert answer.content_type == recorded_type, where
        if record["body"] and recorded_type and recorded_type.startswith("application/json"):
            self._compare(json.loads(record["body"]), answer.json(), where)
        elif (record["body"] or "").startswith('{"message":"Path'):
            assert answer.body.decode() == self._ours_in(record["body"]), where
        elif not record["body"]:
            assert answer.body == b"", where

    async def _reach(self, when_ns: int | None) -> None:
        """Let the clock be where it was in the recording, unless it is there already."""
        if when_ns is not None:
            ahead = (when_ns - EPOCH_NS) / 1e9 - trio.current_time()
            await trio.sleep(max(0.0, ahead - 0.05))

    async def _send(self, record: dict[str, Any]) -> Answer:
        body = record["request_body"]
        is_stream = record["request_headers"].get("Accept") == "text/event-stream"
        return await self._clients[record["as"]](
            record["method"],
            self._ours_in(record["path"]),
            raw=b"" if body is None else self._ours_in(body).encode(),
            headers=record["request_headers"],
            leaves_after=2.0 if is_stream else None,
        )

    def _ours_in(self, text: str) -> str:
        return _ID.sub(lambda match: self._ours.get(match[0], match[0]), text)

    def _compare(self, recorded: Any, ours: Any, where: str) -> None:
        assert _kind(recorded) == _kind(ours), (where, recorded, ours)
        if isinstance(recorded, dict):
            assert recorded.keys() == ours.keys(), (where, recorded, ours)
            for key, value in recorded.items():
                if key == "message" and not value.startswith(OWN_WORDS):
                    self._learn(value, ours[key])
                    assert _INTERNALS.sub("", self._ours_in(value)) == ours[key], where
                elif key in ("state", "eventType", "role", "terminator", "reason"):
                    assert value == ours[key], where
                elif key != "message":
                    self._compare(value, ours[key], f"{where} {key}")
        elif isinstance(recorded, list):
            assert bool(recorded) == bool(ours), (where, recorded, ours)
            for one, other in zip(recorded, ours, strict=False):
                self._compare(one, other, where)
        elif isinstance(recorded, str):
            self._learn(recorded, ours)

    def _learn(self, recorded: str, ours: str) -> None:
        for one, other in zip(_ID.findall(recorded), _ID.findall(ours), strict=False):
            self._ours.setdefault(one, other)


def _kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def _latest(body: str | None) -> int | None:
    found = re.findall(rf'"(?:{"|".join(_TIMES)})":"([^"]+Z)"', body or "")
    return max((parse_time(text) for text in found), default=None)


def _section(name: str) -> list[dict[str, Any]]:
    return [r for r in RECORDED if r["section"] == name and r["seq"] not in SKIPPED]


@pytest.mark.parametrize(
    "section",
    [
        "market-basic",
        "market-agreement-errors",
        "flow-negotiation",
        "flow-agreement",
        "flow-proposal-rejections",
        "flow-termination",
    ],
)
async def test_answers_as_the_original_did(section: str, autojump_clock: trio.testing.MockClock) -> None:
    records = _section(section)
    first = next((t for r in records if (t := _latest(r["body"]))), None)
    autojump_clock.jump(max(0.0, (first - EPOCH_NS) / 1e9 - 10) if first else 0.0)
    assert records
    async with memory_nodes(2, seed=7) as nodes:
        provider, requestor = MarketProtocol(), MarketProtocol()
        async with provider.running(nodes[0]), requestor.running(nodes[1]):
            replay = Replay(
                {
                    "provider": MarketClient(provider, nodes[0].node_id),
                    "requestor": MarketClient(requestor, nodes[1].node_id),
                },
                dict(zip(RECORDED_NODES, (node.node_id for node in nodes), strict=True)),
            )
            for record in records:
                await replay.step(record)
