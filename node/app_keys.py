"""Application keys: what a REST client shows to act for an identity.

A key is 32 hexadecimal digits, or whatever the operator configured. They are kept readable, not hashed,
because `yagna app-key list` has always printed them and scripts read them from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from node.api.web import Session
from p2p.entropy import hex32
from p2p.identity import NodeId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.storage import Connection, Database

AUTOCONFIGURED = "autoconfigured"
MAX_ORIGINS = 64

MIGRATIONS = [
    """
    CREATE TABLE identity_app_key(
        name TEXT PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        identity TEXT NOT NULL,
        role TEXT NOT NULL,
        origins TEXT NOT NULL,
        created_ns INTEGER NOT NULL
    ) STRICT
    """,
]


class AppKeyError(Exception):
    """A key that cannot be made or removed; the message says why."""


class AppKey(msgspec.Struct, frozen=True):
    """One application key."""

    name: str
    key: str
    identity: str
    role: str
    origins: tuple[str, ...]
    """Web origins that may use it."""
    created_ns: int


class AppKeys:
    """The application keys of this node."""

    def __init__(self, database: Database, clock: Clock, entropy: Entropy) -> None:
        self._database = database
        self._clock = clock
        self._entropy = entropy
        self._by_key: dict[str, AppKey] = {}

    async def open(self) -> None:
        """Make the table and read what is there."""
        await self._database.migrate("identity", MIGRATIONS)
        await self._refresh()

    async def session(self, key: str) -> Session | None:
        """Return whom a key acts for."""
        found = self._by_key.get(key)
        return Session(NodeId(found.identity), found.name, found.role) if found else None

    async def origins(self, key: str | None) -> Sequence[str]:
        """Return the origins allowed for a key, or for any key."""
        if key is None:
            return [origin for entry in self._by_key.values() for origin in entry.origins]
        found = self._by_key.get(key)
        return found.origins if found else ()

    def list(self) -> list[AppKey]:
        """Return all keys, oldest first."""
        return sorted(self._by_key.values(), key=lambda entry: (entry.created_ns, entry.name))

    async def create(self, name: str, identity: str, *, key: str = "", origins: Sequence[str] = ()) -> AppKey:
        """Make a key, or return the one of that name.

        Raises:
            AppKeyError: the name is taken by another identity, or it or an origin cannot be one.
        """
        if not name or len(name) > 256 or not name.isprintable():
            raise AppKeyError("an application key needs a printable name of at most 256 characters")
        if len(origins) > MAX_ORIGINS or not all(_is_origin(origin) for origin in origins):
            raise AppKeyError(
                f"a key may have at most {MAX_ORIGINS} web origins, each such as https://example.org"
            )
        made = AppKey(
            name, key or hex32(self._entropy), identity, "manager", tuple(origins), self._clock.utc_ns()
        )

        def insert(c: Connection) -> AppKey:
            row = c.execute(f"SELECT {_COLUMNS} FROM identity_app_key WHERE name = ?", (name,)).fetchone()  # noqa: S608 - our own columns
            if row is not None:
                entry = _key(row)
                if entry.identity != identity:
                    raise AppKeyError(f"the name {name!r} is taken by identity {entry.identity}")
                if not key or entry.key == key:
                    return entry
            c.execute("DELETE FROM identity_app_key WHERE name = ? OR key = ?", (name, made.key))
            c.execute(
                "INSERT INTO identity_app_key VALUES (?, ?, ?, ?, ?, ?)",
                (name, made.key, identity, made.role, "\n".join(origins), made.created_ns),
            )
            return made

        found = await self._database.write(insert, durable=True)
        await self._refresh()
        return found

    async def drop(self, name: str) -> None:
        """Remove a key. Raises AppKeyError if there is none of that name, or it is configured."""
        if name == AUTOCONFIGURED:
            raise AppKeyError("the autoconfigured key comes from the configuration; change it there")
        if not any(entry.name == name for entry in self._by_key.values()):
            raise AppKeyError(f"there is no application key named {name!r}")

        def delete(c: Connection) -> None:
            c.execute("DELETE FROM identity_app_key WHERE name = ?", (name,))

        await self._database.write(delete, durable=True)
        await self._refresh()

    async def _refresh(self) -> None:
        def read(c: Connection) -> list[AppKey]:
            return [_key(row) for row in c.execute(f"SELECT {_COLUMNS} FROM identity_app_key")]  # noqa: S608 - our own columns

        self._by_key = {entry.key: entry for entry in await self._database.read(read)}


_COLUMNS = "name, key, identity, role, origins, created_ns"


def _key(row: tuple[Any, ...]) -> AppKey:
    name, key, identity, role, origins, created_ns = row
    return AppKey(name, key, identity, role, tuple(origins.split("\n")) if origins else (), created_ns)


def _is_origin(text: str) -> bool:
    return 0 < len(text) <= 256 and text.isprintable() and " " not in text
