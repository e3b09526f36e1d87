"""The records that a node keeps for others: judged, bounded, expiring. No I/O.

Only what the directory's rules let pass is taken, and of one key only the newest. When full, the record that lies
farthest from our own key gives way: others are asked for that one first. Records expire by the time of their
signing, so that nobody can keep an old one alive by handing it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.discovery.kademlia.contact import key_of
from p2p.discovery.records import RecordRefused

if TYPE_CHECKING:
    from p2p.discovery.records import NodeRecord, RecordRules


class RecordStore:
    """Keeps node records.

    Args:
        me: our own PeerId, in binary.
        max_records: how many.
    """

    def __init__(self, me: bytes, rules: RecordRules, max_records: int) -> None:
        self._key = key_of(me)
        self._rules = rules
        self._max_records = max_records
        self._records: dict[bytes, NodeRecord] = {}

    def __repr__(self) -> str:
        return f"<RecordStore {len(self._records)} records>"

    def __len__(self) -> int:
        return len(self._records)

    def put(self, key: bytes, value: bytes, now_ns: int) -> bool:
        """Take in a record; False if there is no place for it, or a newer one is held. Raises RecordRefused."""
        held = self._records.get(key)
        if held is not None and held.value == value:  # handed on by many, and costly to verify
            return True
        record = self._rules.judge(key, value, now_ns)
        if held is not None and held.seq >= record.seq:
            return False
        if held is None and len(self._records) >= self._max_records and not self._make_room(key, now_ns):
            return False
        self._records[key] = record
        return True

    def get(self, key: bytes, now_ns: int) -> bytes | None:
        """Return the record under `key`, if it is held and has not expired."""
        held = self._records.get(key)
        if held is None:
            return None
        try:
            self._rules.check_age(held.seq, now_ns)
        except RecordRefused:
            del self._records[key]
            return None
        return held.value

    def expire(self, now_ns: int) -> None:
        """Drop the records that are too old."""
        for key in list(self._records):
            self.get(key, now_ns)

    def _make_room(self, key: bytes, now_ns: int) -> bool:
        self.expire(now_ns)
        if len(self._records) < self._max_records:
            return True
        farthest = max(self._records, key=self._distance)
        if self._distance(farthest) <= self._distance(key):
            return False
        del self._records[farthest]
        return True

    def _distance(self, key: bytes) -> int:
        return key_of(key) ^ self._key
