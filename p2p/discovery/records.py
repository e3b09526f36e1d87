"""What the directory holds: for each NodeId where it is, signed by its own key. The rules, without I/O.

A record is kept under `/golem-p2p/<network>/node/` and the 20 bytes of the NodeId; its value is a signed peer
record (`p2p.identity.records`) whose key gives that very NodeId. Anything else, under this or any other key, is
refused. So a record can be copied by anyone and made by its owner only; the newest counts. Its `seq` is the time
of signing, which bounds how long a copy can be shown.

Errors:
    RecordRefused   a key or a value that has no place in the directory
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from p2p import base58, multiaddr
from p2p.clock import NANOSECONDS
from p2p.identity import NodeId, parse_node_id
from p2p.identity.peer_id import peer_id_bytes
from p2p.identity.records import MAX_ADDRESSES, InvalidRecord, sign_peer_record, verify_peer_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from p2p.identity import PrivateKey

MAX_AGE_NS = 48 * 3600 * NANOSECONDS
"""How old a record may be; its owner signs a new one every 12 hours."""
MAX_AHEAD_NS = 600 * NANOSECONDS
"""How far ahead of ours the clock of a record's owner may be."""
MAX_ADDRESS_CHARS = 256

_NODE_ID_BYTES = 20


class RecordRefused(ValueError):
    """A key or value that is not one of the directory's; the message says why."""


class NodeRecord(msgspec.Struct, frozen=True):
    """A good record."""

    node_id: NodeId
    """Whose it is."""
    seq: int
    """UTC nanoseconds of its signing, by its owner's clock."""
    addresses: tuple[str, ...]
    """Where the node may be dialled: multiaddrs that end in `/p2p/<peer id>`."""
    value: bytes
    """The signed bytes."""


class RecordRules:
    """Makes and judges the directory's records.

    Args:
        network: the overlay's network, part of every key.
        acceptable: whether an address may be dialled.
    """

    def __init__(self, network: str, acceptable: Callable[[str], bool]) -> None:
        self._namespace = f"/golem-p2p/{network}/node/".encode()
        self._acceptable = acceptable

    def key(self, node: NodeId) -> bytes:
        """Return under which key the record of `node` is."""
        return self._namespace + bytes.fromhex(node[2:])

    def owner(self, key: bytes) -> NodeId:
        """Return whose record is under `key`. Raises RecordRefused if it is no key of the directory."""
        if len(key) != len(self._namespace) + _NODE_ID_BYTES or not key.startswith(self._namespace):
            raise RecordRefused(f"{key[:64]!r} is not in the namespace {self._namespace.decode()}")
        return parse_node_id("0x" + key[len(self._namespace) :].hex())

    def sign(self, key: PrivateKey, seq: int, addresses: Sequence[str]) -> bytes | None:
        """Return the record of our own node; None when it has no address that others may dial."""
        suffix = f"/p2p/{base58.encode(peer_id_bytes(key.public_key))}"
        good = [multiaddr.parse(a.removesuffix(suffix)) for a in addresses if self._acceptable(a)]
        return sign_peer_record(key, seq, good[:MAX_ADDRESSES]) if good else None

    def serves(self, addresses: Sequence[str]) -> bool:
        """Return whether others can dial a node with these addresses, without a relay in between."""
        return any(self._acceptable(address) and "/p2p-circuit" not in address for address in addresses)

    def judge(self, key: bytes, value: bytes, now_ns: int) -> NodeRecord:
        """Return the record, if it may be under `key` now. Raises RecordRefused."""
        owner = self.owner(key)
        try:
            record = verify_peer_record(value)
        except InvalidRecord as error:
            raise RecordRefused(str(error)) from error
        if record.node_id != owner:
            raise RecordRefused(f"a record signed by {record.node_id} is not one of {owner}")
        self.check_age(record.seq, now_ns)
        addresses = tuple(self._dialable(record.addresses, base58.encode(record.peer_id)))
        if not addresses:
            raise RecordRefused("a record has no address that may be dialled")
        return NodeRecord(owner, record.seq, addresses, value)

    def check_age(self, seq: int, now_ns: int) -> None:
        """Raise RecordRefused if a record that was signed at `seq` does not count now."""
        if not now_ns - MAX_AGE_NS <= seq <= now_ns + MAX_AHEAD_NS:
            raise RecordRefused("a record is older than two days, or from the future")

    def _dialable(self, addresses: Iterable[multiaddr.Multiaddr], peer_id: str) -> Iterable[str]:
        """Yield those to dial. Others may be of a transport to come, so that they do no harm to the record."""
        for address in addresses:
            if address.value_of("p2p") not in (None, peer_id):
                continue
            text = str(address) if address.names[-1] == "p2p" else f"{address}/p2p/{peer_id}"
            if len(text) <= MAX_ADDRESS_CHARS and self._acceptable(text):
                yield text
