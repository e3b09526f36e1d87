"""Alias records: a second key says that it is spoken for by a node, for a while.

A session proves one NodeId, the main one. A node that holds more keys shows, for each, a record that the other
key signed: "main speaks for me on this network until then". Only the node that proves `main` can use it, so that
records may be copied by anyone. The signature is over `record_digest("alias/1", claim)`, the claim in canonical
CBOR. Carried by hello (`p2p.discovery.messages`), kept by `p2p.discovery.aliases`.

Errors:
    InvalidAlias    a record that proves nothing here; the message says why
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from p2p.clock import NANOSECONDS
from p2p.codec import CodecError, decode, encode
from p2p.identity.keys import SIGNATURE_BYTES, InvalidSignature, record_digest, recover

if TYPE_CHECKING:
    from p2p.clock import Clock
    from p2p.identity.keys import Signer
    from p2p.identity.node_id import NodeId

DOMAIN = "alias/1"
MAX_ALIASES = 8
"""Records that one node may show."""
MAX_CLAIM_BYTES = 512
LIFETIME_NS = 24 * 3600 * NANOSECONDS
"""For how long our own records hold: a key that is taken away from a node is free of it a day later."""
MAX_LIFETIME_NS = 30 * 86_400 * NANOSECONDS
"""Longest that a record may claim to hold."""
CLOCK_SKEW_NS = 600 * NANOSECONDS
"""How far ahead of ours the clock of whoever issued a record may be."""

_NodeIdText = Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{40}\Z")]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class InvalidAlias(ValueError):
    """A record that does not prove an alias of that node, now and here."""


class AliasClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the alias key signs."""

    alias: _NodeIdText
    """Whose key signs: the NodeId that is spoken for."""
    main: _NodeIdText
    """Who speaks for it: the NodeId that a session has to prove."""
    network: Annotated[str, msgspec.Meta(max_length=64)]
    """The overlay's network, such as `devnet`."""
    issued_ns: _Time
    """UTC nanoseconds; of two nodes that show the same alias, the later record counts."""
    expires_ns: _Time
    """UTC nanoseconds from which on it proves nothing."""


class AliasRecord(msgspec.Struct, frozen=True):
    """A claim with its signature, as it is sent."""

    claim: Annotated[bytes, msgspec.Meta(max_length=MAX_CLAIM_BYTES)]
    """An `AliasClaim` in canonical CBOR: the very bytes that were signed."""
    signature: Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
    """By the alias key, recoverable."""


def issue_alias(
    signer: Signer, main: NodeId, network: str, now_ns: int, lifetime_ns: int = LIFETIME_NS
) -> AliasRecord:
    """Sign that `main` speaks for `signer` from now on."""
    claim = encode(
        AliasClaim(
            alias=signer.node_id,
            main=main,
            network=network,
            issued_ns=now_ns,
            expires_ns=now_ns + lifetime_ns,
        )
    )
    return AliasRecord(claim=claim, signature=signer.sign(record_digest(DOMAIN, claim)))


def verify_alias(record: AliasRecord, main: NodeId, network: str, now_ns: int) -> AliasClaim:
    """Return what `record` proves of `main`, whom a session proved.

    Raises:
        InvalidAlias: it is of another node or network, is not valid now, or its signature is not the alias's.
    """
    try:
        claim = decode(record.claim, AliasClaim)
        signer = recover(record_digest(DOMAIN, record.claim), record.signature)
    except (CodecError, InvalidSignature) as error:
        raise InvalidAlias(f"an alias record cannot be read: {error}") from error
    if signer != claim.alias:
        raise InvalidAlias(f"{claim.alias} did not sign the record that says it is an alias")
    if claim.main != main or claim.alias == main:
        raise InvalidAlias(f"the record is of an alias of {claim.main}, not of {main}")
    if claim.network != network:
        raise InvalidAlias(f"the record is for network {claim.network!r}, not {network!r}")
    if claim.issued_ns > now_ns + CLOCK_SKEW_NS:
        raise InvalidAlias("the record was issued in the future: one of the two clocks is wrong")
    if not now_ns < claim.expires_ns <= claim.issued_ns + MAX_LIFETIME_NS:
        raise InvalidAlias("the record has expired, or claims to hold for too long")
    return claim


class OwnAliases:
    """The aliases that this node shows: signs a record for each key, and anew when half of its time is over.

    Args:
        main: this node.
    """

    def __init__(self, main: NodeId, network: str, clock: Clock) -> None:
        self._main = main
        self._network = network
        self._clock = clock
        self._shown: dict[NodeId, tuple[Signer, int, AliasRecord]] = {}

    def add(self, signer: Signer) -> None:
        """Show `signer` as an alias from now on. Raises ValueError if it is the node's own, or one too many."""
        if signer.node_id == self._main:
            raise ValueError(f"{signer.node_id} is the node itself, and so no alias of it")
        if signer.node_id not in self._shown and len(self._shown) >= MAX_ALIASES:
            raise ValueError(f"a node can show {MAX_ALIASES} aliases, and all are in use")
        now = self._clock.utc_ns()
        self._shown[signer.node_id] = (signer, now, issue_alias(signer, self._main, self._network, now))

    def remove(self, alias: NodeId) -> None:
        """Stop showing an alias; peers forget it with the next hello."""
        self._shown.pop(alias, None)

    def records(self) -> tuple[AliasRecord, ...]:
        """Return what to show now."""
        now = self._clock.utc_ns()
        for signer, issued_ns, _ in list(self._shown.values()):
            if not 0 <= now - issued_ns < LIFETIME_NS // 2:
                self.add(signer)
        return tuple(record for _, _, record in self._shown.values())
