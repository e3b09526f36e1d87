"""What every implementation of `Overlay` has to do: checks that its tests run.

    async def test_my_overlay() -> None:
        await check_overlay(make_pair)

`make_pair` returns an async context manager that yields two running overlays of one network that are not
connected yet, of which the first can reach the second at its first listen address. Each check gets a fresh
pair. A check that fails raises AssertionError, or `trio.TooSlowError` when what it waits for never comes.
Works on virtual and on real time. Two checks need more than that and are called on their own: `check_stalled_reader`
with the seconds that a test can spend, and `check_vanished_peer` with a way to make a peer vanish.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.testing.conformance.cancelling import (
    check_cancelled_open,
    check_cancelled_read,
    check_cancelled_write,
)
from p2p.testing.conformance.exchanges import (
    ask,
    broken,
    connect,
    echo,
    eventually,
    receive_all,
    send_forever,
    send_now_and_then,
    serve,
    settled,
)
from p2p.testing.conformance.load import (
    check_back_pressure,
    check_calls_beside_bulk,
    check_large_transfer,
    check_stalled_reader,
    check_stalled_reader_beside_others,
)
from p2p.testing.conformance.sessions import (
    check_disconnect,
    check_one_session_for_many,
    check_peer_changes,
    check_sessions,
    check_unreachable,
    check_vanished_peer,
)
from p2p.testing.conformance.streams import (
    check_both_directions,
    check_close_drops_unread,
    check_close_flushes,
    check_failing_handler,
    check_half_close,
    check_many_streams,
    check_protocol_refused,
    check_reset,
    check_returning_handler,
    check_streams_from_both_at_once,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from p2p.overlay import Overlay

__all__ = [
    "CHECKS",
    "CHECK_TIMEOUT",
    "ask",
    "broken",
    "check_overlay",
    "check_stalled_reader",
    "check_vanished_peer",
    "connect",
    "echo",
    "eventually",
    "receive_all",
    "send_forever",
    "send_now_and_then",
    "serve",
    "settled",
]

CHECK_TIMEOUT = 30.0
"""Seconds that one check may take."""


async def check_overlay(
    make_pair: Callable[[], AbstractAsyncContextManager[tuple[Overlay, Overlay]]],
) -> None:
    """Run every check of `CHECKS`, each on a fresh pair."""
    for check in CHECKS:
        with trio.fail_after(CHECK_TIMEOUT):
            async with make_pair() as (a, b):
                await check(a, b)


CHECKS: tuple[Callable[[Overlay, Overlay], Awaitable[None]], ...] = (
    check_sessions,
    check_both_directions,
    check_half_close,
    check_close_flushes,
    check_close_drops_unread,
    check_reset,
    check_back_pressure,
    check_protocol_refused,
    check_unreachable,
    check_failing_handler,
    check_returning_handler,
    check_peer_changes,
    check_disconnect,
    check_many_streams,
    check_streams_from_both_at_once,
    check_stalled_reader_beside_others,
    check_calls_beside_bulk,
    check_stalled_reader,
    check_one_session_for_many,
    check_large_transfer,
    check_cancelled_read,
    check_cancelled_write,
    check_cancelled_open,
)
