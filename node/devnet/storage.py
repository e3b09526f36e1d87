"""The embedded chain's file: trie nodes, and indexes of what was mined.

One SQLite file. A block, its receipts, its logs and every trie node it made are one transaction (`unit`), so
a process that is killed comes back with the last acknowledged block whole. The journal is synced by the
operating system, not at each block: a power cut may cost the last blocks of a chain whose coin is worth
nothing, and saves a disk flush for each payment.

Only `chain` and `evm` use it, on one thread.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import apsw
import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE meta (version INTEGER NOT NULL, clock_offset INTEGER NOT NULL) STRICT;
CREATE TABLE node (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE block (
    number INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, parent BLOB NOT NULL, timestamp INTEGER NOT NULL,
    base_fee INTEGER NOT NULL, gas_used INTEGER NOT NULL, gas_limit INTEGER NOT NULL, state_root BLOB NOT
    NULL, header BLOB NOT NULL
) STRICT;
CREATE TABLE tx (
    hash BLOB PRIMARY KEY, block INTEGER NOT NULL, position INTEGER NOT NULL, sender BLOB NOT NULL, receiver
    BLOB, created BLOB, status INTEGER NOT NULL, gas_used INTEGER NOT NULL, gas_total INTEGER NOT NULL, price
    TEXT NOT NULL, tip TEXT NOT NULL, raw BLOB NOT NULL
) STRICT;
CREATE INDEX tx_block ON tx (block, position);
CREATE TABLE log (
    block INTEGER NOT NULL, position INTEGER NOT NULL, tx BLOB NOT NULL, address BLOB NOT NULL,
    topic0 BLOB, topic1 BLOB, topic2 BLOB, topic3 BLOB, data BLOB NOT NULL, PRIMARY KEY (block, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_tx ON log (tx);
CREATE INDEX log_address ON log (address, block);
CREATE INDEX log_topic1 ON log (topic1, block) WHERE topic1 IS NOT NULL;
CREATE INDEX log_topic2 ON log (topic2, block) WHERE topic2 IS NOT NULL;
CREATE TABLE pool (hash BLOB PRIMARY KEY, serial INTEGER NOT NULL, raw BLOB NOT NULL) STRICT;
CREATE TABLE grant_ (address BLOB PRIMARY KEY, times INTEGER NOT NULL) STRICT;
"""


class UnusableFile(Exception):
    """The file is no chain of this version."""


class BlockRow(msgspec.Struct, frozen=True):
    """A block, without its transactions."""

    number: int
    hash: bytes
    parent: bytes
    timestamp: int
    base_fee: int
    gas_used: int
    gas_limit: int
    state_root: bytes
    header: bytes
    """RLP."""


class TxRow(msgspec.Struct, frozen=True):
    """A mined transaction and its receipt."""

    hash: bytes
    block: int
    position: int
    sender: bytes
    receiver: bytes | None
    created: bytes | None
    """The contract that it deployed."""
    status: int
    gas_used: int
    gas_total: int
    """Of the block, up to and with this transaction."""
    price: int
    """Wei paid per gas."""
    tip: int
    """Wei per gas that went to the block's maker."""
    raw: bytes


class LogRow(msgspec.Struct, frozen=True):
    """An event that a contract logged."""

    block: int
    position: int
    """Within the block."""
    tx: bytes
    address: bytes
    topics: tuple[bytes, ...]
    data: bytes


class Storage:
    """The chain's file, opened for one process."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it when there is none.

        Raises:
            UnusableFile: it is something else, or was written by another version.
        """
        self._db = apsw.Connection(str(path))
        try:
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path) -> None:
        self._db.set_busy_timeout(0)
        try:
            # Exclusive first: then the write-ahead log needs no shared memory, and a second process is refused.
            self._db.execute(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL"
            )
            tables = self._rows("SELECT count(*) FROM sqlite_schema")[0][0]
            if not tables:
                with self.unit():
                    self._db.execute(_SCHEMA)
                    self._db.execute("INSERT INTO meta VALUES (?, 0)", (VERSION,))
            version = self._rows("SELECT version FROM meta")[0][0]
        except (apsw.SQLError, apsw.NotADBError) as error:
            raise UnusableFile(f"{path} is no chain of ours ({error}); reset the devnet") from error
        except apsw.BusyError as error:
            raise UnusableFile(f"{path} is in use by another chain process") from error
        if version != VERSION:
            raise UnusableFile(f"{path} is of version {version}, this is {VERSION}; reset the devnet")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Make what happens within one transaction: all of it is kept, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return cast("list[tuple[Any, ...]]", self._db.execute(query, values).fetchall())

    # Trie nodes -------------------------------------------------------------------------------------------

    def node(self, key: bytes) -> bytes | None:
        """Read a trie node or another value of the EVM's database."""
        rows = self._rows("SELECT value FROM node WHERE key = ?", key)
        return rows[0][0] if rows else None

    def put_node(self, key: bytes, value: bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO node VALUES (?, ?)", (key, value))

    def drop_node(self, key: bytes) -> None:
        self._db.execute("DELETE FROM node WHERE key = ?", (key,))

    # Blocks -----------------------------------------------------------------------------------------------

    def add_block(self, block: BlockRow, txs: Sequence[TxRow], logs: Sequence[LogRow]) -> None:
        """Index a mined block and take its transactions out of the pool."""
        self._db.execute("INSERT INTO block VALUES (?,?,?,?,?,?,?,?,?)", msgspec.structs.astuple(block))
        for tx in txs:
            row = list(msgspec.structs.astuple(tx))
            row[9:11] = str(tx.price), str(tx.tip)
            self._db.execute("INSERT INTO tx VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", row)
            self._db.execute("DELETE FROM pool WHERE hash = ?", (tx.hash,))
        for log in logs:
            topics = [*log.topics, None, None, None, None][:4]
            self._db.execute(
                "INSERT INTO log VALUES (?,?,?,?,?,?,?,?,?)",
                (log.block, log.position, log.tx, log.address, *topics, log.data),
            )

    def head(self) -> BlockRow | None:
        """Read the newest block."""
        return self._block("ORDER BY number DESC LIMIT 1", ())

    def block(self, number: int) -> BlockRow | None:
        return self._block("WHERE number = ?", (number,))

    def block_by_hash(self, hash_: bytes) -> BlockRow | None:
        return self._block("WHERE hash = ?", (hash_,))

    def _block(self, where: str, values: tuple[Any, ...]) -> BlockRow | None:
        rows = self._rows(f"SELECT * FROM block {where}", *values)  # noqa: S608
        return BlockRow(*rows[0]) if rows else None

    def transactions(self, block: int) -> list[TxRow]:
        """Read a block's transactions in order."""
        rows = self._rows("SELECT * FROM tx WHERE block = ? ORDER BY position", block)
        return [_tx(row) for row in rows]

    def transaction(self, hash_: bytes) -> TxRow | None:
        rows = self._rows("SELECT * FROM tx WHERE hash = ?", hash_)
        return _tx(rows[0]) if rows else None

    # Logs -------------------------------------------------------------------------------------------------

    def logs_of(self, tx: bytes) -> list[LogRow]:
        """Read a transaction's logs in order."""
        rows = self._rows("SELECT * FROM log WHERE tx = ? ORDER BY block, position", tx)
        return [_log(row) for row in rows]

    def logs(
        self,
        first: int,
        last: int,
        addresses: Sequence[bytes],
        topics: Sequence[Sequence[bytes]],
        limit: int,
    ) -> list[LogRow]:
        """Read logs of a range of blocks: each list is a choice, an empty one takes all."""
        where, values = ["block BETWEEN ? AND ?"], [first, last]
        choices = [("address", addresses), *((f"topic{i}", choice) for i, choice in enumerate(topics))]
        for column, choice in choices:
            if choice:
                where.append(f"{column} IN ({','.join('?' * len(choice))})")
                values += choice  # type: ignore[arg-type]
        query = f"SELECT * FROM log WHERE {' AND '.join(where)} ORDER BY block, position LIMIT ?"  # noqa: S608
        return [_log(row) for row in self._rows(query, *values, limit)]

    # Pool, clock and faucet -------------------------------------------------------------------------------

    def pool(self) -> list[bytes]:
        """Read the transactions that wait, in the order in which they came."""
        return [row[0] for row in self._rows("SELECT raw FROM pool ORDER BY serial")]

    def add_to_pool(self, hash_: bytes, raw: bytes, replaced: bytes | None) -> None:
        with self.unit():
            if replaced is not None:
                self._db.execute("DELETE FROM pool WHERE hash = ?", (replaced,))
            self._db.execute(
                "INSERT INTO pool SELECT ?, coalesce(max(serial), 0) + 1, ? FROM pool", (hash_, raw)
            )

    def drop_from_pool(self, hash_: bytes) -> None:
        self._db.execute("DELETE FROM pool WHERE hash = ?", (hash_,))

    def clock_offset(self) -> int:
        """Read by how many seconds the chain's clock was put forward."""
        return int(self._rows("SELECT clock_offset FROM meta")[0][0])

    def set_clock_offset(self, seconds: int) -> None:
        self._db.execute("UPDATE meta SET clock_offset = ?", (seconds,))

    def grants(self, address: bytes) -> int:
        """Count what the faucet gave an address."""
        rows = self._rows("SELECT times FROM grant_ WHERE address = ?", address)
        return rows[0][0] if rows else 0

    def add_grant(self, address: bytes) -> None:
        self._db.execute(
            "INSERT INTO grant_ VALUES (?, 1) ON CONFLICT (address) DO UPDATE SET times = times + 1",
            (address,),
        )


def _tx(row: tuple[Any, ...]) -> TxRow:
    # Prices are text in the file, because a fee may exceed 64 bits.
    return TxRow(*(*row[:9], int(row[9]), int(row[10]), row[11]))


def _log(row: Sequence[Any]) -> LogRow:
    topics = tuple(topic for topic in row[4:8] if topic is not None)
    return LogRow(row[0], row[1], row[2], row[3], topics, row[8])
