"""What the original daemon answered to payment requests, and what this node answers to the same.

`tests/data/rest/payment-probe.jsonl` are our own recordings of requests to the original and of its answers, and
`payment-clients.jsonl` those of real clients (yapapi, golem-js) at work. They are sent again on the recorded
clock, with our ids in place of the recorded ones. Status, content type, the members of the JSON, amounts,
states and the wording of errors have to be the same.
"""

from __future__ import annotations

import decimal
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import trio

from node.api import payment as payment_api
from node.api.server import RestServer
from node.api.web import Session
from p2p.testing.clock import EPOCH_NS
from protocols.ground.times import parse_time
from protocols.payment.networks import NETWORKS
from protocols.payment.records import Rejection
from protocols.payment.settings import Settings
from tests.node.api.client import Answer, MarketClient
from tests.protocols.payment.world import Node, World

if TYPE_CHECKING:
    from trio.testing import MockClock

    from p2p.identity import NodeId
    from protocols.payment.handler import PaymentProtocol

DATA = Path(__file__).parents[2] / "data/rest"
_ID = re.compile(
    r"(?<![0-9a-f-])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|0x[0-9a-f]{40}|[0-9a-f]{32})(?![0-9a-f-])"
)
REQUESTOR, PROVIDER = (
    "0x219149eb90bc9c3d3aea73cccf4d32abac67b1d0",
    "0x0d6ead3f76f5af392ab3c0a97f210fa3f27c4650",
)
AGREEMENT = "1318718c67a70f856abf2687c8343c4c3f21c1a8c6417a4f05277fc87c771770"
ACTIVITY = "1f871c6219d34ef18ddcba9139dabc93"
INVOICE = "c78b8d67-f488-4b93-83c6-c65ab92938ce"
ALLOCATION = "d4901eb1-288e-4cd4-9ceb-811f3e170ca1"

_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{6}Z")
AMOUNTS = re.compile(r"(Amount|Due|Accepted|Scheduled|Paid|Funds)$|^amount$")
SAME = (
    "status",
    "eventType",
    "role",
    "paymentPlatform",
    "kind",
    "type",
    "instance",
    "rejectionReason",
    "key",
)

DIFFERENT = {
    165: (200, "a platform that nobody knows has the production cycle; ours is rounded otherwise"),
    201: (400, "this node pays from no deposits and says so; the original failed to read the contract"),
    1044: (200, "an invoice that was never sent is cancelled without asking anybody's leave"),
    1045: (200, "and is cancelled then"),
    850: (200, "the filter by network works"),
    860: (200, "the filter by network works"),
}
"""Answers that differ on purpose, with our status; their bodies are not compared."""
DEFAULT_NETWORK_DIFFERS = {175, 180, 203, 204, 217, 218}
"""The original's requests without a platform meant holesky; the registry's default is hoodi."""


def _recorded(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


PROBES = _recorded("payment-probe.jsonl")


class PaymentClient(MarketClient):
    """One identity's requests to the payment family of its node."""

    def __init__(self, protocol: PaymentProtocol, identity: NodeId) -> None:
        async def session_of(key: str) -> Session | None:
            return Session(identity, "test")

        self.server = RestServer(session_of, structlog.get_logger("rest"))
        self.server.add(payment_api.routes(protocol))


class Replay:
    """Sends recorded requests and compares the answers."""

    def __init__(self, clients: dict[str, PaymentClient], ours: dict[str, str]) -> None:
        self._clients = clients
        self.ours = ours
        self._times: dict[str, str] = {}
        """Recorded times of day as clients send them back, and ours."""

    async def step(self, record: dict[str, Any]) -> Answer:
        answer = await self._send(record)
        status, _ = DIFFERENT.get(record["seq"], (record["status"], None))
        where = f"{record['seq']} {record['label']}: {answer.status} {answer.body[:600]!r}"
        assert answer.status == status, where
        await trio.sleep(0.2)  # as long as the nodes need to hear of it
        if record["seq"] in DIFFERENT:
            return answer
        assert answer.content_type == (record["content_type"] or None), where
        if record["body"] and "json" in (record["content_type"] or ""):
            recorded = json.loads(record["body"])
            if record["seq"] not in DEFAULT_NETWORK_DIFFERS:
                self._compare(recorded, answer.json(), where)
            self._learn_all(recorded, answer.json())
        elif not record["body"]:
            assert answer.body == b"", where
        return answer

    async def _send(self, record: dict[str, Any]) -> Answer:
        body = record["request_body"]
        return await self._clients[record["as"]](
            record["method"],
            self.in_ours(record["path"]),
            raw=b"" if body is None else self.in_ours(body).encode(),
            headers=record["request_headers"],
        )

    def in_ours(self, text: str) -> str:
        for recorded, ours in self._times.items():
            text = text.replace(recorded, ours)
        return _ID.sub(lambda match: self.ours.get(match[0], match[0]), text)

    def _compare(self, recorded: Any, ours: Any, where: str) -> None:
        assert type(recorded) is type(ours), (where, recorded, ours)
        if isinstance(recorded, dict):
            assert recorded.keys() == ours.keys() - {"message"} | recorded.keys() & {"message"}, (
                where,
                recorded.keys() ^ ours.keys(),
            )
            for key, value in recorded.items():
                if isinstance(value, str) and AMOUNTS.search(key):
                    assert _to_the_wei(value) == decimal.Decimal(ours[key]), (where, key, value)
                elif key in SAME:
                    assert value == ours[key], (where, key)
                elif key == "message" and isinstance(value, str):
                    assert self.in_ours(value) == ours[key], where
                elif key not in ("parseError", "signature", "signedBytes"):
                    self._compare(value, ours[key], f"{where} {key}")
        elif isinstance(recorded, list):
            assert len(recorded) == len(ours), (where, len(recorded), ours)
            for one, other in zip(recorded, ours, strict=True):
                self._compare(one, other, where)
        elif isinstance(recorded, str) and not recorded.startswith("20"):
            assert bool(_ID.search(recorded)) == bool(_ID.search(ours)), (where, recorded, ours)

    def _learn_all(self, recorded: Any, ours: Any) -> None:
        if isinstance(recorded, dict) and isinstance(ours, dict):
            for key in recorded.keys() & ours.keys():
                self._learn_all(recorded[key], ours[key])
        elif isinstance(recorded, list) and isinstance(ours, list):
            for one, other in zip(recorded, ours, strict=False):
                self._learn_all(one, other)
        elif isinstance(recorded, str) and _TIME.match(recorded):
            for colon in (":", "%3A"):
                recorded_time, our_time = (
                    text[11:].rstrip("Z").replace(":", colon) for text in (recorded, ours)
                )
                self._times.setdefault(recorded_time, our_time)
        elif isinstance(recorded, str) and isinstance(ours, str):
            for one, other in zip(_ID.findall(recorded), _ID.findall(ours), strict=False):
                self.ours.setdefault(one, other)


def _start_before(clock: MockClock, text: str) -> None:
    clock.jump((parse_time(text) - EPOCH_NS) / 1e9)


def _probes(setup: str, section: str) -> list[dict[str, Any]]:
    return [r for r in PROBES if (r["setup"], r["section"]) == (setup, section)]


async def test_lists_cycles_and_status_of_a_fresh_node(autojump_clock: MockClock) -> None:
    _start_before(autojump_clock, "2026-11-22T10:57:00Z")
    networks = [n for n in NETWORKS.values() if not n.dead and n.name not in ("devnet", "sepolia")]
    world = World(*networks)
    node = Node(world, "requestor")
    async with node.serving() as protocol:
        replay = Replay({"requestor": PaymentClient(protocol, node.id)}, {})
        for record in _probes("one-daemon", "payment-basic"):
            if record["seq"] == 159:
                cycles = (await replay._send(record)).json()
                assert {tuple(sorted(c)) for c in cycles} == {
                    tuple(sorted(c)) for c in json.loads(record["body"])
                }
            else:
                await replay.step(record)


async def test_allocations(autojump_clock: MockClock) -> None:
    _start_before(autojump_clock, "2026-11-22T10:57:10Z")
    world = World(NETWORKS["hoodi"], NETWORKS["holesky"], NETWORKS["polygon"])
    node = Node(world, "requestor", rich=True)
    other = Node(world, "provider")
    # What the recording's default, holesky, reserved besides, counts for hoodi here.
    world.chain.give(node.id, token_wei=1_750_000_000_000_000_000)
    async with node.serving() as protocol:
        clients = {
            "requestor": PaymentClient(protocol, node.id),
            "provider": PaymentClient(protocol, other.id),
        }
        replay = Replay(clients, {})
        for record in _probes("one-daemon", "payment-allocations"):
            if record["seq"] == 230:  # another order, and without holesky
                (await replay._send(record)).json()
                continue
            if record["seq"] in (195, 210):  # the last digit of a sum of amounts that are finer than a wei
                assert (await replay._send(record)).status == 400
                continue
            await replay.step(record)


async def test_notes_and_their_settlement(autojump_clock: MockClock) -> None:
    _start_before(autojump_clock, "2026-11-22T11:09:38Z")
    world = World(NETWORKS["hoodi"], NETWORKS["polygon"])
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    for node in (requestor, provider):
        node.settings = Settings(poll_s=0.25)
    world.agree(
        requestor, provider, AGREEMENT, activities=(ACTIVITY,), session_id="sess-R1", payment_timeout_s=3600.0
    )
    async with requestor.serving() as r, provider.serving() as p:
        await p.service.init_account(provider.id, world.platform, send=False, receive=True)
        clients = {"requestor": PaymentClient(r, requestor.id), "provider": PaymentClient(p, provider.id)}
        replay = Replay(clients, {REQUESTOR: requestor.id, PROVIDER: provider.id})
        for record in _probes("two-daemons", "flow-negotiation"):
            await replay.step(record)
        await trio.sleep(max(0.0, (parse_time("2026-11-22T11:10:04Z") - world.clock.utc_ns()) / 1e9))
        for record in _probes("two-daemons", "flow-debit-notes"):
            if record["seq"] == 741:  # the requestor's node knows the activity here, and who its provider is
                continue
            await replay.step(record)

        # What the recording leaves out: the invoice, first rejected, then accepted.
        invoice = await p.service.issue_invoice(
            provider.id, agreement_id=AGREEMENT, amount_wei=5 * 10**16, activity_ids=[ACTIVITY]
        )
        await p.service.send_invoice(provider.id, invoice.invoice_id)
        await r.service.reject_invoice(
            requestor.id, invoice.invoice_id, Rejection("INCORRECT_AMOUNT", 0, "too much")
        )
        await trio.sleep(0.5)
        await r.service.accept_invoice(
            requestor.id,
            invoice.invoice_id,
            amount_wei=5 * 10**16,
            allocation_id=replay.ours[ALLOCATION],
        )
        replay.ours[INVOICE] = invoice.invoice_id
        await trio.sleep(max(0.0, (parse_time("2026-11-22T11:10:46Z") - world.clock.utc_ns()) / 1e9))

        for record in _probes("two-daemons", "flow-settlement"):
            if record["seq"] in (857, 858, 862):
                # The provider's RECEIVED events are of the acknowledgement here and of the issue there, and the
                # recording has a second invoice and a note after it.
                continue
            await replay.step(record)
            if "process now" in record["label"]:
                for _ in range(10):
                    world.chain.mine()
                    await trio.sleep(1.0)


async def test_cancelling_invoices(autojump_clock: MockClock) -> None:
    _start_before(autojump_clock, "2026-11-22T11:13:30Z")
    world = World(NETWORKS["hoodi"])
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    world.agree(
        requestor, provider, "05444e342395885c7c9151ae716bf275a6ac4ac7d96bd96af0d4fdb6a700d408", activities=()
    )
    async with requestor.serving() as r, provider.serving() as p:
        clients = {"requestor": PaymentClient(r, requestor.id), "provider": PaymentClient(p, provider.id)}
        replay = Replay(clients, {REQUESTOR: requestor.id, PROVIDER: provider.id})
        allocation = await r.service.create_allocation(
            requestor.id, platform=world.platform, total_wei=10**18
        )
        replay.ours["0e13686c-7677-4d5d-b23b-f0ca72584622"] = allocation.allocation_id
        for record in _probes("two-daemons", "flow-cancel-invoice"):
            if record["seq"] == 1051:  # shows events of earlier recordings too
                events = (await replay._send(record)).json()
                assert [e["eventType"] for e in events] == [
                    "InvoiceReceivedEvent",
                    "InvoiceCancelledEvent",
                ]
            else:
                await replay.step(record)


async def test_what_real_clients_ask(autojump_clock: MockClock) -> None:
    """The requests of yapapi and golem-js, each with a provider's bills when the recording had them."""
    _start_before(autojump_clock, "2026-11-22T11:23:26Z")
    world = World(NETWORKS["hoodi"])
    requestor, provider = Node(world, "requestor", rich=True), Node(world, "provider")
    async with requestor.serving() as r, provider.serving() as p:
        for client in ("yapapi", "golem-js"):
            clients = {"requestor": PaymentClient(r, requestor.id)}
            replay = Replay(clients, {REQUESTOR: requestor.id, PROVIDER: provider.id})
            for record in _recorded("payment-clients.jsonl"):
                if record["client"] == client:
                    await _bill_as_recorded(world, requestor, provider, p, replay, record)
                    record |= {"as": "requestor", "label": client, "content_type": "application/json"}
                    await replay.step(record)


async def _bill_as_recorded(
    world: World, requestor: Node, provider: Node, p: PaymentProtocol, replay: Replay, record: dict[str, Any]
) -> None:
    """Let the provider send the document whose event the client is about to see."""
    if "Events?" not in record["path"] or record["body"] == "[]":
        return
    when = parse_time(json.loads(record["body"])[0]["eventDate"])
    await trio.sleep(max(0.0, (when - world.clock.utc_ns()) / 1e9))
    (event,) = json.loads(record["body"])
    id_ = event.get("debitNoteId") or event["invoiceId"]
    path = "/debitNotes/" if "debitNoteId" in event else "/invoices/"
    shown = next(
        json.loads(r["body"])
        for r in _recorded("payment-clients.jsonl")
        if r["method"] == "GET" and r["path"].endswith(path + id_)
    )
    agreement_id = shown["agreementId"]
    if agreement_id not in world.agreements:
        session = "17097911-4a9a-496b-b540-2e21f8b8a77b" if record["client"] == "golem-js" else None
        world.agree(requestor, provider, agreement_id, activities=(), session_id=session)
    if path == "/debitNotes/":
        world.activities[shown["activityId"]] = agreement_id
        note = await p.service.issue_debit_note(
            provider.id,
            activity_id=shown["activityId"],
            total_due_wei=_wei(shown["totalAmountDue"]),
            usage=shown["usageCounterVector"],
        )
        await p.service.send_debit_note(provider.id, note.debit_note_id)
        replay.ours[id_] = note.debit_note_id
    else:
        invoice = await p.service.issue_invoice(
            provider.id,
            agreement_id=agreement_id,
            amount_wei=_wei(shown["amount"]),
            activity_ids=shown["activityIds"],
        )
        await p.service.send_invoice(provider.id, invoice.invoice_id)
        replay.ours[id_] = invoice.invoice_id


def _to_the_wei(text: str) -> decimal.Decimal:
    return decimal.Decimal(text).quantize(decimal.Decimal(1).scaleb(-18), decimal.ROUND_DOWN)


def _wei(text: str) -> int:
    return int(decimal.Decimal(text) * 10**18)
