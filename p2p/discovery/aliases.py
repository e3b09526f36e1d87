"""`AliasTable`: which peers speak for which further NodeIds, as their hellos proved. No I/O.

Every hello replaces what the peer showed before. What was shown outlasts the session, until it expires: the
records are signed, and a node that is away can still be dialled by its alias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from p2p.identity import NodeId
from p2p.identity.alias import InvalidAlias, verify_alias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.identity.alias import AliasClaim, AliasRecord

MAX_PEERS = 4096
"""Peers whose aliases are kept; the one that said hello the longest ago gives way."""

_log = structlog.get_logger("p2p.discovery")


class AliasTable:
    """The aliases of peers.

    Args:
        network: this node's; records for another prove nothing.
    """

    def __init__(self, network: str) -> None:
        self._network = network
        self._shown: dict[NodeId, tuple[Sequence[AliasRecord], list[AliasClaim]]] = {}
        self._mains: dict[str, set[NodeId]] = {}

    def __repr__(self) -> str:
        return f"<AliasTable {len(self._mains)} aliases of {len(self._shown)} peers>"

    def shown(self, peer: NodeId, records: Sequence[AliasRecord], now_ns: int) -> None:
        """Take in what `peer`, proven by its session, showed; records that prove nothing are left out."""
        before = self._shown.get(peer)
        if before is not None and before[0] == records:  # said again and again, and costly to verify
            self._shown[peer] = self._shown.pop(peer)
            return
        self.forget(peer)
        claims: list[AliasClaim] = []
        for record in records:
            try:
                claims.append(verify_alias(record, peer, self._network, now_ns))
            except InvalidAlias as error:
                _log.debug("an alias that a peer showed does not hold", peer=peer, reason=str(error))
        if not claims:
            return
        if len(self._shown) >= MAX_PEERS:
            self.forget(next(iter(self._shown)))
        self._shown[peer] = (records, claims)
        for claim in claims:
            self._mains.setdefault(claim.alias, set()).add(peer)

    def forget(self, peer: NodeId) -> None:
        """Drop what `peer` showed."""
        _, claims = self._shown.pop(peer, ((), []))
        for claim in claims:
            mains = self._mains.get(claim.alias, set())
            mains.discard(peer)
            if not mains:
                self._mains.pop(claim.alias, None)

    def of(self, peer: NodeId, now_ns: int) -> frozenset[NodeId]:
        """Return the aliases that `peer` has proven and that hold now."""
        _, claims = self._shown.get(peer, ((), []))
        return frozenset(NodeId(claim.alias) for claim in claims if now_ns < claim.expires_ns)

    def main_of(self, alias: str, now_ns: int) -> NodeId | None:
        """Return who speaks for `alias` now; of several the one whose record was issued last."""
        latest = max(
            (
                (claim.issued_ns, main)
                for main in self._mains.get(alias, ())
                for claim in self._shown[main][1]
                if claim.alias == alias and now_ns < claim.expires_ns
            ),
            default=None,
        )
        return None if latest is None else latest[1]
