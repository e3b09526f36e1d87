"""The address book on disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from p2p.discovery import FilePeerStore, MemoryPeerStore, PeerRecord, PeerStore, ProvenAddress
from p2p.discovery import peer_store as module

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = (
    PeerRecord(
        node_id="0x" + "1" * 40, addresses=(ProvenAddress("/memory/1", 5), ProvenAddress("/memory/2", 6))
    ),
    PeerRecord(node_id="0x" + "2" * 40, addresses=()),
)


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PeerStore:
    return FilePeerStore(tmp_path / "deep" / "peers.json") if request.param == "file" else MemoryPeerStore()


async def test_starts_empty_and_returns_what_was_saved_last(store: PeerStore) -> None:
    assert list(await store.load()) == []
    await store.save(RECORDS)
    assert tuple(await store.load()) == RECORDS
    await store.save(RECORDS[:1])
    assert tuple(await store.load()) == RECORDS[:1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"version": 2, "peers": []}',
        b'{"version": 1, "peers": [{"node_id": "me", "addresses": []}]}',
        b'{"version": 1, "peers": null}',
        b"[" * 100_000,
    ],
)
async def test_a_bad_file_is_set_aside_with_a_warning(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    path.write_bytes(content)
    store = FilePeerStore(path)
    with capture_logs() as logs:
        assert list(await store.load()) == []
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert (tmp_path / "peers.json.bad").read_bytes() == content
    await store.save(RECORDS)
    assert tuple(await store.load()) == RECORDS


async def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 100)
    (tmp_path / "peers.json").write_bytes(b" " * 101)
    assert list(await FilePeerStore(tmp_path / "peers.json").load()) == []


async def test_a_save_that_fails_leaves_the_old_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FilePeerStore(tmp_path / "peers.json")
    await store.save(RECORDS)

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        await store.save(RECORDS[:1])
    monkeypatch.undo()
    assert tuple(await store.load()) == RECORDS
    assert os.listdir(tmp_path) == ["peers.json"]
