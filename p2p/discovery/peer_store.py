"""The address book on disk: what earlier runs had proven, as one small JSON file.

Losing it costs a node nothing but a slower start, so a file that cannot be read is set aside, with a warning,
and the book starts empty. Only addresses that were proven, or told by peers of themselves, are kept;
`DiscoveryPolicy.load` decides what is too old.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Protocol

import msgspec
import structlog
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_FILE_BYTES = 4 * 2**20
MAX_RECORDS = 4096

_log = structlog.get_logger("p2p.discovery")


class ProvenAddress(msgspec.Struct, frozen=True):
    """An address where a session proved the node to be, or where it said itself that it is."""

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    """A multiaddr."""
    proven_ns: int
    """When, last; UTC nanoseconds."""
    told: bool = False
    """Whether it was not dialled, but told by the node itself in a session that proved who it is."""


class PeerRecord(msgspec.Struct, frozen=True):
    """A node and where it was met."""

    node_id: Annotated[str, msgspec.Meta(pattern=r"^0x[0-9a-f]{40}\Z")]
    """Who it is."""
    addresses: Annotated[tuple[ProvenAddress, ...], msgspec.Meta(max_length=64)]
    """Where."""


class PeerStore(Protocol):
    """Keeps the address book between runs."""

    async def load(self) -> Sequence[PeerRecord]:
        """Return what was saved last; empty when there is nothing that can be read."""
        ...

    async def save(self, records: Sequence[PeerRecord]) -> None:
        """Replace what was saved."""
        ...


class MemoryPeerStore:
    """Keeps the address book for as long as the object lives: for tests and simulations."""

    def __init__(self) -> None:
        self._records: tuple[PeerRecord, ...] = ()

    async def load(self) -> Sequence[PeerRecord]:
        return self._records

    async def save(self, records: Sequence[PeerRecord]) -> None:
        self._records = tuple(records)


class _Document(msgspec.Struct, frozen=True):
    version: int
    peers: Annotated[tuple[PeerRecord, ...], msgspec.Meta(max_length=MAX_RECORDS)]


class FilePeerStore:
    """Keeps the address book in a JSON file, replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def load(self) -> Sequence[PeerRecord]:
        return await trio.to_thread.run_sync(self._load)

    async def save(self, records: Sequence[PeerRecord]) -> None:
        await trio.to_thread.run_sync(self._save, tuple(records[:MAX_RECORDS]))

    def _load(self) -> Sequence[PeerRecord]:
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                raise msgspec.ValidationError(f"larger than {MAX_FILE_BYTES} bytes")
            document = msgspec.json.decode(self._path.read_bytes(), type=_Document)
            if document.version != 1:
                raise msgspec.ValidationError(
                    f"of version {document.version}, which this program cannot read"
                )
        except FileNotFoundError:
            return ()
        except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
            self._set_aside(error)
            return ()
        return document.peers

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(self._path.name + ".bad")
        try:
            os.replace(self._path, aside)
        except OSError as failure:
            _log.warning(
                "the address book cannot be read nor moved", path=str(self._path), error=str(failure)
            )
            return
        _log.warning(
            "the address book cannot be read; starting with an empty one",
            path=str(self._path),
            error=str(error),
            kept_as=str(aside),
        )

    def _save(self, records: tuple[PeerRecord, ...]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(_Document(version=1, peers=records)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
