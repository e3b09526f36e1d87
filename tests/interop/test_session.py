"""Our sessions with foreign peers: who they are, ping, identify, and 16 MiB there and back, in both directions."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from p2p.session.identity import decode_key
from tests.interop.foreign import ForeignPeer, running
from tests.interop.matrix import ECHO, ECHO_BYTES, IDENTIFY, KEYS, PING, KeyKind
from tests.interop.ours import SessionPeer, call_echo, identify, pattern_hash, ping, session_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

dialled_by = pytest.mark.parametrize("we_dial", [True, False], ids=["we-dial", "they-dial"])
their_key = pytest.mark.parametrize("theirs", KEYS)
our_key = pytest.mark.parametrize("ours", KEYS)


@asynccontextmanager
async def met(
    kind: str, ours: KeyKind, theirs: KeyKind, we_dial: bool
) -> AsyncIterator[tuple[SessionPeer, ForeignPeer]]:
    async with session_peer(ours) as near, running(kind, theirs) as far:
        if we_dial:
            assert await near.dial(far.address) == far.peer_id
            await far.has_met(near.peer_id)
        else:
            assert await far.do("dial", address=near.address) == near.peer_id
            await near.has_met(far.peer_id)
        yield near, far


@our_key
@their_key
@dialled_by
async def test_ping_identify_and_echo(
    kind: str, ours: KeyKind, theirs: KeyKind, we_dial: bool, cell: Callable[[str, str], Any]
) -> None:
    row = f"session {kind:4} {theirs:9} {'dialled' if we_dial else 'dials':7} our {ours}"
    cell(row, "ping")
    cell(row, "identify")
    cell(row, "16 MiB echo")
    async with met(kind, ours, theirs, we_dial) as (near, far):
        await ping(await near.open_stream(far.peer_id, PING))
        assert await far.do("ping", peer=near.peer_id) is not None

        said = await identify(await near.open_stream(far.peer_id, IDENTIFY))
        assert decode_key(said["key"][-1]).peer_id == far.peer_id
        assert ECHO.encode() in said["protocols"]
        heard = await far.do("identify", peer=near.peer_id)
        assert heard["agent"] == "interop"
        assert ECHO in heard["protocols"]

        await call_echo(await near.open_stream(far.peer_id, ECHO), ECHO_BYTES)
        assert await far.do("echo", peer=near.peer_id, bytes=ECHO_BYTES) == pattern_hash(ECHO_BYTES)


async def test_many_streams_at_once(kind: str) -> None:
    """Thirty echoes each way on one session: js serves 32 of a protocol."""
    async with met(kind, "secp256k1", "ed25519", True) as (near, far), trio.open_nursery() as nursery:
        opening = trio.Lock()

        async def here() -> None:
            async with opening:  # rust-libp2p drops what is opened while it has not taken the last one
                stream = await near.open_stream(far.peer_id, ECHO, lazy=False)
            await call_echo(stream, 300_000)

        async def there() -> None:
            assert await far.do("echo", peer=near.peer_id, bytes=300_000) == pattern_hash(300_000)

        for _ in range(30):
            nursery.start_soon(here)
            nursery.start_soon(there)
