"""Aliases of peers: kept by the table, shown by hello, used to open streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from p2p.codec import encode
from p2p.discovery import DiscoverySettings
from p2p.discovery.aliases import MAX_PEERS, AliasTable
from p2p.discovery.exchange import greet
from p2p.discovery.messages import Hello
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey
from p2p.identity.alias import LIFETIME_NS, AliasRecord, OwnAliases, issue_alias
from p2p.overlay import PeerChange, PeerUnreachable, protocol_id
from p2p.testing.clock import VirtualClock
from p2p.testing.conformance import ask, echo, eventually, serve
from p2p.testing.overlay import MemoryNetwork, MemoryOverlay

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio.testing import MockClock

ALIAS, MAIN, OTHER = (PrivateKey.generate(SeededEntropy(seed)) for seed in range(3))
NOW = 1_800_000_000 * 10**9


def record(signer: PrivateKey = ALIAS, main: PrivateKey = MAIN, now: int = NOW) -> AliasRecord:
    return issue_alias(signer, main.node_id, "devnet", now)


# The table.


def test_each_hello_replaces_what_was_shown() -> None:
    table = AliasTable("devnet")
    table.shown(MAIN.node_id, (record(), record(OTHER)), NOW)
    assert table.of(MAIN.node_id, NOW) == {ALIAS.node_id, OTHER.node_id}
    table.shown(MAIN.node_id, (record(),), NOW)
    assert table.of(MAIN.node_id, NOW) == {ALIAS.node_id}
    assert table.main_of(ALIAS.node_id, NOW) == MAIN.node_id
    assert table.main_of(OTHER.node_id, NOW) is None
    table.shown(MAIN.node_id, (), NOW)
    assert not table.of(MAIN.node_id, NOW)
    assert table.main_of(ALIAS.node_id, NOW) is None


def test_records_expire() -> None:
    table = AliasTable("devnet")
    table.shown(MAIN.node_id, (record(),), NOW)
    assert not table.of(MAIN.node_id, NOW + LIFETIME_NS)
    assert table.main_of(ALIAS.node_id, NOW + LIFETIME_NS) is None


def test_a_record_that_does_not_hold_is_left_out_and_the_rest_counts() -> None:
    table = AliasTable("devnet")
    table.shown(MAIN.node_id, (record(main=OTHER), record(OTHER)), NOW)
    assert table.of(MAIN.node_id, NOW) == {OTHER.node_id}


def test_of_two_that_show_an_alias_the_later_record_counts() -> None:
    table = AliasTable("devnet")
    table.shown(MAIN.node_id, (record(now=NOW + 1),), NOW)
    table.shown(OTHER.node_id, (record(main=OTHER),), NOW)
    assert table.main_of(ALIAS.node_id, NOW) == MAIN.node_id
    table.forget(MAIN.node_id)
    assert table.main_of(ALIAS.node_id, NOW) == OTHER.node_id


def test_the_table_is_bounded_and_the_longest_silent_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.discovery.aliases.MAX_PEERS", 3)
    assert MAX_PEERS > 3
    table, mains = AliasTable("devnet"), [PrivateKey.generate(SeededEntropy(n, "m")) for n in range(4)]
    for main in mains[:3]:
        table.shown(main.node_id, (record(main=main),), NOW)
    table.shown(mains[0].node_id, (record(main=mains[0]),), NOW)
    table.shown(mains[3].node_id, (record(main=mains[3]),), NOW)
    assert [bool(table.of(main.node_id, NOW)) for main in mains] == [True, False, True, True]


# Overlays.


def overlay(
    network: MemoryNetwork, key: PrivateKey, aliases: Callable[[], Sequence[AliasRecord]] = tuple
) -> MemoryOverlay:
    return network.overlay(
        key,
        discovery=DiscoverySettings(target_peers=0),
        entropy=SeededEntropy(1, key.node_id),
        aliases=aliases,
    )


def world() -> tuple[MemoryNetwork, OwnAliases]:
    network = MemoryNetwork(VirtualClock(), SeededEntropy(1), directory=False)
    return network, OwnAliases(MAIN.node_id, "devnet", network.clock)


async def test_both_sides_learn_aliases_with_hello(autojump_clock: MockClock) -> None:
    network, own = world()
    own.add(ALIAS)
    a, b = overlay(network, MAIN, own.records), overlay(network, OTHER)
    known_when_told: list[frozenset[NodeId]] = []

    def changed(change: PeerChange) -> None:
        known_when_told.append(b.aliases_of(NodeId(change.node_id)))

    async with a.running(), b.running():
        b.subscribe_peers(changed)
        await a.connect(b.listen_addresses()[0])
        await eventually(lambda: b.aliases_of(a.node_id) == {ALIAS.node_id})
        assert known_when_told == [{ALIAS.node_id}]
        assert a.aliases_of(b.node_id) == frozenset()
        own.remove(ALIAS.node_id)
        await eventually(lambda: not b.aliases_of(a.node_id), timeout=100)


async def test_streams_to_an_alias_reach_the_node_that_proved_it(autojump_clock: MockClock) -> None:
    network, own = world()
    own.add(ALIAS)
    a, b = overlay(network, MAIN, own.records), overlay(network, OTHER)
    async with a.running(), b.running():
        protocol = serve(a, "echo", echo)
        with pytest.raises(PeerUnreachable):
            await b.open_stream(ALIAS.node_id, protocol)
        await b.connect(a.listen_addresses()[0])
        await b.disconnect(a.node_id)
        stream = await b.open_stream(ALIAS.node_id, protocol)  # and makes the session again
        assert stream.peer == MAIN.node_id
        assert await ask(stream, b"x") == b"x"


async def test_who_is_met_itself_is_not_taken_for_an_alias(autojump_clock: MockClock) -> None:
    network, own = world()
    own.add(ALIAS)
    a, itself, b = overlay(network, MAIN, own.records), overlay(network, ALIAS), overlay(network, OTHER)
    async with a.running(), itself.running(), b.running():
        protocol = serve(itself, "echo", echo)
        await b.connect(a.listen_addresses()[0])
        await b.connect(itself.listen_addresses()[0])
        assert (await b.open_stream(ALIAS.node_id, protocol)).peer == ALIAS.node_id


async def test_a_peer_that_shows_a_foreign_alias_keeps_its_session_and_gains_nothing(
    autojump_clock: MockClock,
) -> None:
    network, _ = world()
    stolen = issue_alias(ALIAS, OTHER.node_id, "devnet", network.clock.utc_ns())
    a, b = overlay(network, MAIN, lambda: (stolen,)), overlay(network, OTHER)
    async with a.running(), b.running():
        await a.connect(b.listen_addresses()[0])
        await eventually(lambda: bool(b.peers()))
        assert b.aliases_of(a.node_id) == frozenset()
        with pytest.raises(PeerUnreachable):
            await b.open_stream(ALIAS.node_id, protocol_id("devnet", "echo", 1))


async def test_a_peer_that_knows_no_aliases_is_admitted(autojump_clock: MockClock) -> None:
    network, _ = world()
    a, plain = overlay(network, MAIN), network.overlay(OTHER)
    async with a.running(), plain.running():
        await plain.connect(a.listen_addresses()[0])
        stream = await plain.open_stream(a.node_id, protocol_id("devnet", "hello", 1))
        body = encode({"network": "devnet", "agent": "old", "version": 1, "oldest": 1})
        await stream.send_all(len(body).to_bytes(4, "big") + body)
        await stream.send_eof()
        await eventually(lambda: bool(a.peers()))
        again = await plain.open_stream(a.node_id, protocol_id("devnet", "hello", 1))
        assert (await greet(again, Hello(network="devnet", agent="old", version=1, oldest=1))).aliases == ()
