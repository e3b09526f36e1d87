"""Hole punching: who says what when, and which end speaks first on what comes of it."""

from __future__ import annotations

import pytest
import trio

from p2p.protobuf import WireError
from p2p.reach.punch import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    LONGEST_ROUND_TRIP,
    MAX_TARGETS,
    PATIENCE,
    Answering,
    Asking,
    pauses,
    targets,
)
from p2p.reach.punch_wire import HolePunch
from p2p.reach.puncher import _silent
from tests.p2p.session.ends import sockets

HERE, THERE = "/ip4/203.0.113.5/tcp/4001", "/ip4/203.0.113.6/tcp/4001"


def test_both_dial_half_a_round_trip_after_the_answer() -> None:
    asking = Asking(10.0, [HERE])
    assert asking.hello == HolePunch("connect", (HERE,))
    assert asking.heard(10.3, HolePunch("connect", (THERE,))) == pytest.approx(0.15)


def test_a_peer_cannot_make_this_node_wait_for_long() -> None:
    assert Asking(0.0, []).heard(10**6, HolePunch("connect")) == LONGEST_ROUND_TRIP / 2


def test_sync_is_no_answer() -> None:
    with pytest.raises(WireError, match="sync where"):
        Asking(0.0, []).heard(1.0, HolePunch("sync"))


def test_the_other_end_dials_at_sync_what_it_was_told_last() -> None:
    answering = Answering()
    assert answering.heard(HolePunch("connect", (HERE,))) is None
    assert answering.heard(HolePunch("connect", (THERE,))) is None
    assert answering.heard(HolePunch("sync")) == (THERE,)
    with pytest.raises(WireError, match="before it said"):
        answering.heard(HolePunch("sync"))


def test_attempts_are_counted() -> None:
    answering = Answering()
    for _ in range(ATTEMPTS):
        answering.heard(HolePunch("connect", (HERE,)))
        answering.heard(HolePunch("sync"))
    with pytest.raises(WireError, match="more than"):
        answering.heard(HolePunch("connect", (HERE,)))


def test_an_address_is_dialled_often_at_first_and_then_less() -> None:
    dials, spent = 0, 0.0
    for pause in pauses():
        dials, spent = dials + 1, spent + pause
        if spent >= ATTEMPT_SECONDS:
            break
    assert 5 <= dials <= 10


def test_only_what_is_worth_it_is_dialled() -> None:
    told = [
        HERE,
        HERE + "/p2p/16Uiu2HAmKLBTjFFHsUoKCvkRBJqaVmDA5SqBXr25Q9dbKQLnRCvE",
        "/ip6/2001:db8::1/tcp/1",
        "/ip4/192.168.0.1/tcp/1",
        "/ip4/203.0.113.9/udp/1/quic-v1",
        THERE + "/p2p-circuit",
        "nonsense",
        THERE,
    ]
    assert targets(told, lambda a: "192.168" not in a, ["ip4"]) == [HERE, THERE]
    many = [f"/ip4/203.0.113.5/tcp/{port}" for port in range(100)]
    assert len(targets(many, lambda _: True, ["ip4"])) == MAX_TARGETS


async def test_an_end_that_should_answer_hears_the_other_and_takes_nothing_of_it() -> None:
    near, far = sockets()
    await far.send_all(b"hello")
    assert await _silent(near) is False
    assert await near.receive_some() == b"hello"


async def test_where_both_would_answer_one_speaks_first_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = sockets()
    monkeypatch.setattr("p2p.reach.puncher.PATIENCE", 0.01)
    assert await _silent(near) is True
    assert PATIENCE > 1
    async with near, far:
        pass


async def test_an_end_that_hung_up_is_noticed_and_the_socket_closed() -> None:
    near, far = sockets()
    await far.aclose()
    with pytest.raises(OSError, match="hung up"):
        await _silent(near)
    assert near.socket.fileno() == -1
    await trio.lowlevel.checkpoint()
