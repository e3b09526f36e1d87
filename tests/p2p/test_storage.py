"""One writer: transactions do not mix, failures fall alone, what was promised is there after a crash."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import apsw
import pytest
import trio

from p2p.storage import (
    Connection,
    Database,
    InlineDatabase,
    NewerSchema,
    StorageError,
    StorageFull,
    open_database,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CREATE = "CREATE TABLE t(id INTEGER PRIMARY KEY, writer INTEGER NOT NULL, step INTEGER NOT NULL) STRICT"


@pytest.fixture(params=["threaded", "inline"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    if request.param == "inline":
        inline = InlineDatabase()
        await inline.migrate("t", [CREATE])
        yield inline
        inline.close()
        return
    async with open_database(tmp_path / "a" / "node.sqlite3") as threaded:
        await threaded.migrate("t", [CREATE])
        yield threaded


class Boom(Exception):
    pass


async def test_twenty_writers_of_which_half_fail(database: Database) -> None:
    failed = []

    async def write(writer: int) -> None:
        for step in range(20):

            def f(c: Connection, step: int = step) -> None:
                c.execute("INSERT INTO t(writer, step) VALUES (?, ?)", (writer, step))
                c.execute("INSERT INTO t(writer, step) VALUES (?, ?)", (writer, step))
                if writer % 2:
                    raise Boom

            try:
                await database.write(f, durable=step % 5 == 0)
            except Boom:
                failed.append((writer, step))

    async with trio.open_nursery() as nursery:
        for writer in range(20):
            nursery.start_soon(write, writer)

    rows = await database.read(lambda c: c.execute("SELECT writer, step FROM t ORDER BY id").fetchall())
    assert len(failed) == 10 * 20
    assert sorted(rows) == sorted((w, s) for w in range(0, 20, 2) for s in range(20) for _ in range(2))
    # each transaction's rows stand together: nobody else's came between
    assert all(rows[i] == rows[i + 1] for i in range(0, len(rows), 2))


async def test_write_returns_what_f_returns(database: Database) -> None:
    assert await database.write(lambda c: c.execute("SELECT 5").fetchone()[0]) == 5


async def test_errors_of_sql_come_out(database: Database) -> None:
    with pytest.raises(apsw.SQLError):
        await database.write(lambda c: c.execute("INSERT INTO nothing VALUES (1)"))
    assert await database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0]) == 0


async def test_migrations_run_once_and_in_order(database: Database) -> None:
    first = ["CREATE TABLE m(a INTEGER) STRICT", "INSERT INTO m VALUES (1)"]
    await database.migrate("m", first)
    await database.migrate("m", first)
    await database.migrate("m", [*first, "UPDATE m SET a = a + 1"])
    assert await database.read(lambda c: c.execute("SELECT a FROM m").fetchall()) == [(2,)]
    with pytest.raises(NewerSchema, match="newer version"):
        await database.migrate("m", first)


async def test_a_failed_migration_leaves_nothing(database: Database) -> None:
    with pytest.raises(apsw.SQLError):
        await database.migrate("m", ["CREATE TABLE m(a INTEGER) STRICT", "nonsense"])
    await database.migrate("m", ["CREATE TABLE m(a INTEGER) STRICT"])


async def test_a_full_disk_keeps_the_database_whole(tmp_path: Path) -> None:
    async with open_database(tmp_path / "node.sqlite3") as database:
        await database.migrate("t", ["CREATE TABLE b(data BLOB) STRICT"])
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 40"))
        with pytest.raises(StorageFull, match="disk is full"):
            await database.write(
                lambda c: c.execute("INSERT INTO b VALUES (zeroblob(1000000))"), durable=True
            )
        await database.write(lambda c: c.execute("INSERT INTO b VALUES (x'00')"), durable=True)
        assert await database.read(lambda c: c.execute("SELECT count(*) FROM b").fetchone()[0]) == 1


async def test_what_is_no_database_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "node.sqlite3"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StorageError, match=r"node\.sqlite3"):
        async with open_database(path):
            pass


async def test_a_cancelled_writer_waits_for_its_commit(tmp_path: Path) -> None:
    async with open_database(tmp_path / "node.sqlite3") as database:
        await database.migrate("t", [CREATE])
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.write(lambda c: c.execute("INSERT INTO t(writer, step) VALUES (1, 1)"))
        rows = await database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0])
        assert rows in (0, 1)  # refused before it was queued, or committed: never in between


async def test_what_write_returned_survives_kill_9(tmp_path: Path) -> None:
    program = f"""
import sys, trio, pathlib
from p2p.storage import open_database
async def main():
    async with open_database(pathlib.Path({str(tmp_path / "node.sqlite3")!r})) as db:
        await db.migrate("t", [{CREATE!r}])
        for i in range(100000):
            await db.write(lambda c: c.execute("INSERT INTO t(writer, step) VALUES (1, ?)", (i,)), durable=True)
            sys.stdout.write(f"{{i}}\\n"); sys.stdout.flush()
trio.run(main)
"""
    process = await trio.lowlevel.open_process([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    seen = b""
    async for chunk in process.stdout:
        seen += chunk
        if seen.count(b"\n") >= 20:
            process.kill()
            break
    async for chunk in process.stdout:
        seen += chunk
    await process.wait()
    promised = int(seen[: seen.rindex(b"\n")].split(b"\n")[-1])
    async with open_database(tmp_path / "node.sqlite3") as database:
        stored = await database.read(lambda c: c.execute("SELECT max(step), count(*) FROM t").fetchone())
    assert stored[0] >= promised
    assert stored[1] == stored[0] + 1
