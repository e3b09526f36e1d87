"""Alias records: what they prove, and all that they do not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from p2p.codec import encode
from p2p.entropy import SeededEntropy
from p2p.identity import NodeId, PrivateKey, record_digest
from p2p.identity.alias import (
    CLOCK_SKEW_NS,
    DOMAIN,
    LIFETIME_NS,
    MAX_ALIASES,
    MAX_LIFETIME_NS,
    AliasClaim,
    AliasRecord,
    InvalidAlias,
    OwnAliases,
    issue_alias,
    verify_alias,
)

ALIAS, MAIN, OTHER = (PrivateKey.generate(SeededEntropy(seed)) for seed in range(3))
NOW = 1_800_000_000 * 10**9


class FixedClock:
    def __init__(self) -> None:
        self.now = NOW

    def utc_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


def signed(signer: PrivateKey = ALIAS, domain: str = DOMAIN, **changes: Any) -> AliasRecord:
    claim = AliasClaim(
        alias=ALIAS.node_id, main=MAIN.node_id, network="devnet", issued_ns=NOW, expires_ns=NOW + LIFETIME_NS
    )
    payload = encode(msgspec.to_builtins(claim) | changes)
    return AliasRecord(claim=payload, signature=signer.sign(record_digest(domain, payload)))


def test_what_was_issued_holds_until_it_expires() -> None:
    record = issue_alias(ALIAS, MAIN.node_id, "devnet", NOW)
    assert record == signed()
    for now in (NOW - CLOCK_SKEW_NS, NOW, NOW + LIFETIME_NS - 1):
        assert verify_alias(record, MAIN.node_id, "devnet", now).alias == ALIAS.node_id
    with pytest.raises(InvalidAlias, match="expired"):
        verify_alias(record, MAIN.node_id, "devnet", NOW + LIFETIME_NS)
    with pytest.raises(InvalidAlias, match="future"):
        verify_alias(record, MAIN.node_id, "devnet", NOW - CLOCK_SKEW_NS - 1)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (signed(OTHER), "did not sign"),
        (signed(domain="offer/1"), "did not sign"),
        (signed(alias=OTHER.node_id), "did not sign"),
        (signed(main=OTHER.node_id), "of an alias of"),
        (signed(MAIN, alias=MAIN.node_id), "of an alias of"),
        (signed(network="main"), "for network 'main'"),
        (signed(expires_ns=NOW + MAX_LIFETIME_NS + 1), "too long"),
        (signed(expires_ns=NOW), "expired"),
        (signed(more=1), "cannot be read"),
        (signed(issued_ns=-1), "cannot be read"),
        (signed(main="0xAB"), "cannot be read"),
        (AliasRecord(claim=b"", signature=bytes(65)), "cannot be read"),
        (AliasRecord(claim=signed().claim, signature=bytes(65)), "cannot be read"),
        (AliasRecord(claim=signed().claim + b"\0", signature=signed().signature), "cannot be read"),
    ],
)
def test_what_proves_nothing_is_refused(record: AliasRecord, reason: str) -> None:
    with pytest.raises(InvalidAlias, match=reason):
        verify_alias(record, MAIN.node_id, "devnet", NOW)


def test_another_node_cannot_use_a_record_that_it_copied() -> None:
    with pytest.raises(InvalidAlias, match="of an alias of"):
        verify_alias(signed(), OTHER.node_id, "devnet", NOW)


def test_own_records_are_signed_anew_before_they_expire() -> None:
    clock = FixedClock()
    own = OwnAliases(MAIN.node_id, "devnet", clock)
    own.add(ALIAS)
    first = own.records()
    assert own.records() == first
    for _ in range(10):
        clock.now += LIFETIME_NS // 3
        (record,) = own.records()
        assert (
            verify_alias(record, MAIN.node_id, "devnet", clock.now).expires_ns > clock.now + LIFETIME_NS // 3
        )
    own.remove(NodeId(ALIAS.node_id))
    assert own.records() == ()


def test_own_aliases_are_as_many_as_can_be_told() -> None:
    own = OwnAliases(MAIN.node_id, "devnet", FixedClock())
    with pytest.raises(ValueError, match="the node itself"):
        own.add(MAIN)
    for seed in range(MAX_ALIASES):
        own.add(PrivateKey.generate(SeededEntropy(seed, "many")))
    with pytest.raises(ValueError, match="all are in use"):
        own.add(ALIAS)
    assert len(own.records()) == MAX_ALIASES
