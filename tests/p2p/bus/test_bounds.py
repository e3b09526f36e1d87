"""What is in work for peers: bounded for each and for all, and nobody is kept out by others."""

from __future__ import annotations

import pytest

from p2p.bus import Busy
from p2p.bus.bounds import BYTES_OF_RIGHT, CALLS_OF_RIGHT, Held, Work


def test_a_peer_has_so_much_and_no_more() -> None:
    peer, everybody = Work(2, 1000), Work(100, 10**6)
    first, second = Held(peer, everybody), Held(peer, everybody)
    first.take(calls=1, size=600)
    with pytest.raises(Busy, match="1000 bytes"):
        second.take(calls=1, size=600)
    assert (peer.calls, everybody.calls) == (1, 1), "what is refused takes nothing"
    second.take(calls=1)
    with pytest.raises(Busy, match="2 calls"):
        Held(peer, everybody).take(calls=1)
    first.give_back()
    assert (peer.calls, peer.bytes, everybody.calls, everybody.bytes) == (1, 0, 1, 0)


def test_peers_that_let_their_calls_hang_keep_nobody_else_out() -> None:
    everybody = Work(8, 10**6)
    greedy = [Work(4, 10**6) for _ in range(2)]
    for work in greedy:
        Held(work, everybody).take(calls=4, size=500_000)
    modest = Work(100, 10**6)
    for _ in range(CALLS_OF_RIGHT):
        Held(modest, everybody).take(calls=1, size=BYTES_OF_RIGHT // CALLS_OF_RIGHT)
    with pytest.raises(Busy, match="8 calls"):
        Held(modest, everybody).take(calls=1)
    with pytest.raises(Busy, match="1000000 bytes"):
        Held(modest, everybody).take(size=1)
    assert everybody.calls == 8 + CALLS_OF_RIGHT


def test_what_counts_against_nothing_is_never_refused() -> None:
    held = Held()
    held.take(calls=1, size=10**9)
    held.give_back()
