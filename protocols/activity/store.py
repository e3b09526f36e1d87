"""Activities in the node's database: who they belong to, their last state and usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from protocols.activity.messages import ActivityState, State

if TYPE_CHECKING:
    from p2p.storage import Connection, Database

MIGRATIONS = [
    """
    CREATE TABLE activity_activity(
        id TEXT PRIMARY KEY,
        role TEXT NOT NULL CHECK (role IN ('P', 'R')),
        agreement_id TEXT NOT NULL,
        peer TEXT NOT NULL,
        owner TEXT NOT NULL,
        state TEXT NOT NULL,
        alive INTEGER NOT NULL,
        usage TEXT NOT NULL,
        usage_ns INTEGER NOT NULL,
        created_ns INTEGER NOT NULL
    ) STRICT
    """,
    "CREATE INDEX activity_by_agreement ON activity_activity(agreement_id)",
    """
    CREATE TABLE activity_event(
        id INTEGER PRIMARY KEY,
        activity_id TEXT NOT NULL REFERENCES activity_activity(id),
        kind TEXT NOT NULL CHECK (kind IN ('CreateActivity', 'DestroyActivity')),
        time_ns INTEGER NOT NULL
    ) STRICT
    """,
]


class ActivityRow(msgspec.Struct, frozen=True):
    """One activity as stored."""

    id: str
    role: str
    """`P` on the provider's node, `R` on the requestor's."""
    agreement_id: str
    peer: str
    """The other side's NodeId."""
    owner: str
    """Our NodeId in this deal."""
    state: ActivityState
    usage: tuple[float, ...]
    usage_ns: int
    created_ns: int


class ActivityEventRow(msgspec.Struct, frozen=True):
    """One entry of the provider's event log."""

    activity_id: str
    agreement_id: str
    kind: str
    time_ns: int


_COLUMNS = "id, role, agreement_id, peer, owner, state, usage, usage_ns, created_ns"


class ActivityStore:
    """Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def migrate(self) -> None:
        """Make the tables."""
        await self._database.migrate("activity", MIGRATIONS)

    async def add(self, row: ActivityRow) -> bool:
        """Insert an activity, durably; a provider's also as a create event. Return whether its id was new."""

        def insert(c: Connection) -> bool:
            c.execute(
                "INSERT INTO activity_activity VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(id) DO NOTHING",
                (
                    row.id,
                    row.role,
                    row.agreement_id,
                    row.peer,
                    row.owner,
                    _encode(row.state),
                    row.state.alive,
                    _encode(row.usage),
                    row.usage_ns,
                    row.created_ns,
                ),
            )
            added = c.changes() > 0
            if added and row.role == "P":
                _log(c, row.id, "CreateActivity", row.created_ns)
            return added

        return await self._database.write(insert, durable=True)

    async def set_state(self, activity_id: str, state: ActivityState, now_ns: int) -> None:
        """Store a state; the end is durable, and an event on the provider's side."""
        ended = state.state[0] is State.TERMINATED

        def update(c: Connection) -> None:
            c.execute(
                "UPDATE activity_activity SET state = ?, alive = ? WHERE id = ?",
                (_encode(state), not ended, activity_id),
            )
            if ended:
                _log(c, activity_id, "DestroyActivity", now_ns)

        await self._database.write(update, durable=ended)

    async def set_usage(self, activity_id: str, usage: tuple[float, ...], now_ns: int) -> None:
        """Store a usage sample."""

        def update(c: Connection) -> None:
            c.execute(
                "UPDATE activity_activity SET usage = ?, usage_ns = ? WHERE id = ?",
                (_encode(usage), now_ns, activity_id),
            )

        await self._database.write(update)

    async def get(self, activity_id: str) -> ActivityRow | None:
        """Return one activity."""

        def read(c: Connection) -> ActivityRow | None:
            query = f"SELECT {_COLUMNS} FROM activity_activity WHERE id = ?"  # noqa: S608 - our own columns
            row = c.execute(query, (activity_id,)).fetchone()
            return _row(row) if row else None

        return await self._database.read(read)

    async def of_agreement(self, agreement_id: str, role: str) -> list[ActivityRow]:
        """Return the activities under an agreement, oldest first."""

        def read(c: Connection) -> list[ActivityRow]:
            query = (
                f"SELECT {_COLUMNS} FROM activity_activity"  # noqa: S608 - our own columns
                " WHERE agreement_id = ? AND role = ? ORDER BY created_ns, id"
            )
            return [_row(row) for row in c.execute(query, (agreement_id, role))]

        return await self._database.read(read)

    async def alive(self, role: str) -> list[ActivityRow]:
        """Return the activities that have not ended, oldest first."""

        def read(c: Connection) -> list[ActivityRow]:
            query = (
                f"SELECT {_COLUMNS} FROM activity_activity"  # noqa: S608 - our own columns
                " WHERE alive AND role = ? ORDER BY created_ns, id"
            )
            return [_row(row) for row in c.execute(query, (role,))]

        return await self._database.read(read)

    async def events(self, after_ns: int, limit: int) -> list[ActivityEventRow]:
        """Return the provider's events strictly after a time, oldest first."""

        def read(c: Connection) -> list[ActivityEventRow]:
            rows = c.execute(
                "SELECT e.activity_id, a.agreement_id, e.kind, e.time_ns FROM activity_event e"
                " JOIN activity_activity a ON a.id = e.activity_id"
                " WHERE e.time_ns > ? AND a.role = 'P' ORDER BY e.time_ns, e.id LIMIT ?",
                (after_ns, limit),
            )
            return [ActivityEventRow(*row) for row in rows]

        return await self._database.read(read)


def _log(c: Connection, activity_id: str, kind: str, now_ns: int) -> None:
    # The event's time is the clients' cursor, with microseconds at the edge: no two may share one.
    c.execute(
        "INSERT INTO activity_event(activity_id, kind, time_ns)"
        " SELECT ?, ?, max(?, coalesce(max(time_ns) + 1000, 0)) FROM activity_event",
        (activity_id, kind, now_ns // 1000 * 1000),
    )


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _row(row: tuple[object, ...]) -> ActivityRow:
    id_, role, agreement_id, peer, owner, state, usage, usage_ns, created_ns = row
    return msgspec.convert(
        {
            "id": id_,
            "role": role,
            "agreement_id": agreement_id,
            "peer": peer,
            "owner": owner,
            "state": msgspec.json.decode(str(state)),
            "usage": msgspec.json.decode(str(usage)),
            "usage_ns": usage_ns,
            "created_ns": created_ns,
        },
        ActivityRow,
    )
