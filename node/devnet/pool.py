"""Which transactions wait to be mined, and which may come in.

An account's transactions come in without gaps: the next nonce after those that wait, or the nonce of one that
waits, which the newcomer replaces if it pays at least 10 % more on both fees (as geth demands). Pure; `chain`
asks it and stores what it admits.

    Refused                 the transaction is not taken; the text is what geth says in that case, for clients
                            tell cases apart by it
"""

from __future__ import annotations

from typing import Final

import msgspec

PER_SENDER: Final = 64
TOTAL: Final = 4096
_BUMP_PERCENT: Final = 10


class Refused(Exception):
    """The transaction is not taken."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction as the pool sees it."""

    hash: bytes
    sender: bytes
    nonce: int
    max_fee_wei: int
    priority_fee_wei: int
    gas_limit: int
    value_wei: int
    raw: bytes

    @property
    def cost_wei(self) -> int:
        """The coin that the sender must hold for it."""
        return self.gas_limit * self.max_fee_wei + self.value_wei


class Pool:
    """The transactions that wait."""

    def __init__(self) -> None:
        self._by_sender: dict[bytes, dict[int, Waiting]] = {}
        self._by_hash: dict[bytes, Waiting] = {}

    def __len__(self) -> int:
        return len(self._by_hash)

    def get(self, hash_: bytes) -> Waiting | None:
        """Look a transaction up by its hash."""
        return self._by_hash.get(hash_)

    def next_nonce(self, sender: bytes, mined: int) -> int:
        """Give the nonce after the sender's mined and waiting transactions."""
        return mined + len(self._by_sender.get(sender, ()))

    def admit(self, tx: Waiting, mined_nonce: int, balance_wei: int) -> Waiting | None:
        """Take a transaction in; return the one that it replaced.

        Args:
            tx: the newcomer, of which signature, chain and gas are checked already.
            mined_nonce: the sender's next nonce on the chain.
            balance_wei: the sender's coin.

        Raises:
            Refused: it is known, has a wrong nonce, pays too little for a replacement, or cannot be afforded.
        """
        if tx.hash in self._by_hash:
            raise Refused("already known")
        mine = self._by_sender.get(tx.sender, {})
        expected = self.next_nonce(tx.sender, mined_nonce)
        if tx.nonce < mined_nonce:
            raise Refused(f"nonce too low: next nonce {mined_nonce}, tx nonce {tx.nonce}")
        if tx.nonce > expected:
            raise Refused(f"nonce too high: next nonce {expected}, tx nonce {tx.nonce}")
        old = mine.get(tx.nonce)
        if old is not None and not _outbids(tx, old):
            raise Refused("replacement transaction underpriced")
        owed = sum(other.cost_wei for other in mine.values() if other.nonce != tx.nonce)
        if balance_wei < owed + tx.cost_wei:
            raise Refused(
                f"insufficient funds for gas * price + value: balance {balance_wei}, tx cost {tx.cost_wei}, "
                f"overshot {owed + tx.cost_wei - balance_wei}"
            )
        if old is None and (len(mine) >= PER_SENDER or len(self) >= TOTAL):
            raise Refused("txpool is full")
        if old is not None:
            del self._by_hash[old.hash]
        self._by_sender.setdefault(tx.sender, {})[tx.nonce] = tx
        self._by_hash[tx.hash] = tx
        return old

    def drop(self, tx: Waiting) -> list[Waiting]:
        """Take out a transaction that cannot be mined, and those that follow it; return them all."""
        mine = self._by_sender.get(tx.sender, {})
        gone = [other for other in mine.values() if other.nonce >= tx.nonce]
        for other in gone:
            self.remove(other)
        return gone

    def remove(self, tx: Waiting) -> None:
        """Take out a transaction that was mined."""
        if self._by_hash.pop(tx.hash, None) is not None:
            mine = self._by_sender[tx.sender]
            del mine[tx.nonce]
            if not mine:
                del self._by_sender[tx.sender]

    def ready(self, base_fee: int, gas_limit: int) -> list[Waiting]:
        """Choose what the next block takes: best tip first, each sender's in order of nonce."""
        queues = {
            sender: sorted(txs.values(), key=lambda t: t.nonce) for sender, txs in self._by_sender.items()
        }
        chosen: list[Waiting] = []
        left = gas_limit
        while queues:
            sender = max(queues, key=lambda s: (_tip(queues[s][0], base_fee), queues[s][0].hash))
            tx = queues[sender].pop(0)
            if tx.max_fee_wei < base_fee or tx.gas_limit > left:
                del queues[sender]
                continue
            if not queues[sender]:
                del queues[sender]
            chosen.append(tx)
            left -= tx.gas_limit
        return chosen


def _outbids(new: Waiting, old: Waiting) -> bool:
    return (
        new.max_fee_wei * 100 >= old.max_fee_wei * (100 + _BUMP_PERCENT)
        and new.priority_fee_wei * 100 >= old.priority_fee_wei * (100 + _BUMP_PERCENT)
    )  # fmt: skip


def _tip(tx: Waiting, base_fee: int) -> int:
    return min(tx.priority_fee_wei, tx.max_fee_wei - base_fee)
