"""The node's one database: SQLite behind a single writer.

A transaction is a plain function `f(connection)`, never an open scope that awaits. `await db.write(f)` queues
it; the writer takes all that is queued, runs each in a savepoint of one transaction in a worker thread, and
answers after the commit. What raises is rolled back alone. With `durable=True` the commit is synced to disk
before `write` returns (SQLite's `synchronous=FULL`): for promises and money.

`open_database` gives the real one; `InlineDatabase` runs `f` on the spot, for simulations and tests.

Migrations are numbered per protocol: `await db.migrate("market", ["CREATE TABLE ...", ...])` runs those
that this file has not seen, each once, in order. The list only ever grows.

Errors:
    StorageError
    ├── StorageFull         the disk or its quota is full; nothing of the transaction was kept
    └── NewerSchema         the file was written by a later version of the software
What `f` itself raises comes out of `write` unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import apsw
import trio

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
Connection = apsw.Connection
Transaction = Callable[["Connection"], T]

MAX_QUEUED_WRITES = 1000
"""Writers that may wait; the next one waits for a place."""
_MAX_BATCH = 200


class StorageError(Exception):
    """The database cannot do what was asked."""


class StorageFull(StorageError):
    """The disk, or its quota, is full."""


class NewerSchema(StorageError):
    """The file was written by a later version of the software."""


class Database(Protocol):
    """Runs transactions."""

    async def write(self, f: Transaction[T], *, durable: bool = False) -> T:
        """Run `f` in a transaction and return its result after the commit.

        Args:
            durable: whether the commit must be on disk, not only in the system's cache, on return.
        """
        ...

    async def read(self, f: Transaction[T]) -> T:
        """Run `f`, which only reads, on the last committed state."""
        ...

    async def migrate(self, protocol: str, migrations: Sequence[str]) -> None:
        """Bring the tables of `protocol` up to date."""
        ...


class _Write:
    __slots__ = ("done", "durable", "error", "f", "result")

    def __init__(self, f: Transaction[Any], durable: bool) -> None:
        self.f = f
        self.durable = durable
        self.done = trio.Event()
        self.result: Any = None
        self.error: BaseException | None = None


class _ThreadedDatabase:
    """The real one: one writing connection and one reading connection, each used by one thread at a time."""

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._reading = trio.Lock()
        self._send, self._receive = trio.open_memory_channel[_Write](MAX_QUEUED_WRITES)
        self._threads = trio.CapacityLimiter(2)

    async def write(self, f: Transaction[T], *, durable: bool = False) -> T:
        write = _Write(f, durable)
        await self._send.send(write)
        # Once queued it will be committed, so a cancelled caller must not believe otherwise: it waits.
        with trio.CancelScope(shield=True):
            await write.done.wait()
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    async def read(self, f: Transaction[T]) -> T:
        async with self._reading:
            return await trio.to_thread.run_sync(_read, self._reader, f, limiter=self._threads)

    async def migrate(self, protocol: str, migrations: Sequence[str]) -> None:
        await self.write(lambda c: _migrate(c, protocol, migrations), durable=True)

    async def run(self) -> None:
        """Commit what is queued until closed."""
        async for first in self._receive:
            batch = [first]
            while len(batch) < _MAX_BATCH:
                try:
                    batch.append(self._receive.receive_nowait())
                except (trio.WouldBlock, trio.EndOfChannel):
                    break
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_commit, self._writer, batch, limiter=self._threads)
            for write in batch:
                write.done.set()

    def close(self) -> None:
        self._send.close()


@contextlib.asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open, or make, the database at `path`; what was queued is committed before it closes.

    Raises:
        StorageError: not a database, or not writable.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        writer = _connect(str(path))
        reader = _connect(str(path))
    except apsw.Error as error:
        raise StorageError(f"cannot open the database {path}: {error}") from error
    database = _ThreadedDatabase(writer, reader)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run_shielded, database)
            try:
                yield database
            finally:
                database.close()
    finally:
        reader.close()
        writer.close()


async def _run_shielded(database: _ThreadedDatabase) -> None:
    with trio.CancelScope(shield=True):  # ends when the queue is closed and empty, not when cancelled
        await database.run()


class InlineDatabase:
    """Runs transactions on the spot: no thread, no queue, so that virtual time sees all of it."""

    def __init__(self, path: str = ":memory:") -> None:
        self._connection = _connect(path)

    async def write(self, f: Transaction[T], *, durable: bool = False) -> T:
        await trio.lowlevel.checkpoint()
        write = _Write(f, durable)
        _commit(self._connection, [write])
        if write.error is not None:
            raise write.error
        result: T = write.result
        return result

    async def read(self, f: Transaction[T]) -> T:
        await trio.lowlevel.checkpoint()
        return f(self._connection)

    async def migrate(self, protocol: str, migrations: Sequence[str]) -> None:
        await self.write(lambda c: _migrate(c, protocol, migrations))

    def close(self) -> None:
        """Close the connection; the data of `:memory:` is gone."""
        self._connection.close()


def _connect(path: str) -> Connection:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(5000)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _commit(connection: Connection, batch: Sequence[_Write]) -> None:
    """Run each write of the batch in a savepoint of one transaction. Errors are left in the writes."""
    durable = any(write.durable for write in batch)
    connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
    try:
        connection.execute("BEGIN IMMEDIATE")
        for write in batch:
            _run_in_savepoint(connection, write)
        connection.execute("COMMIT")
    except BaseException as error:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
        mapped = _map_error(error)
        for write in batch:
            if write.error is None:
                write.error = mapped


def _run_in_savepoint(connection: Connection, write: _Write) -> None:
    connection.execute("SAVEPOINT write")
    try:
        write.result = write.f(connection)
    except apsw.FullError:
        raise  # SQLite has rolled the whole transaction back
    except Exception as error:
        write.error = _map_error(error)
        connection.execute("ROLLBACK TO write")
    connection.execute("RELEASE write")


def _read(connection: Connection, f: Transaction[T]) -> T:
    connection.execute("BEGIN")  # one snapshot for the whole of f
    try:
        return f(connection)
    finally:
        connection.execute("ROLLBACK")


def _map_error(error: BaseException) -> BaseException:
    if isinstance(error, apsw.FullError):
        return StorageFull("the disk is full: free some space; nothing of this change was kept")
    return error


def _migrate(connection: Connection, protocol: str, migrations: Sequence[str]) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS storage_migration"
        "(protocol TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID"
    )
    row = connection.execute(
        "SELECT version FROM storage_migration WHERE protocol = ?", (protocol,)
    ).fetchone()
    done = row[0] if row else 0
    if done > len(migrations):
        raise NewerSchema(
            f"the tables of {protocol} have version {done}, this software knows {len(migrations)}: "
            "start the newer version, or use another data folder"
        )
    for statement in migrations[done:]:
        connection.execute(statement)
    connection.execute(
        "INSERT INTO storage_migration VALUES (?, ?) ON CONFLICT DO UPDATE SET version = excluded.version",
        (protocol, len(migrations)),
    )
