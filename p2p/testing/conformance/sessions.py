"""Checks of sessions: who is there, told once, and what happens when it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.identity import NodeId
from p2p.overlay import PeerChange, PeerUnreachable, StreamBroken, protocol_id
from p2p.testing.conformance.exchanges import (
    ask,
    broken,
    connect,
    echo,
    eventually,
    receive_all,
    send_now_and_then,
    serve,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from p2p.overlay import Overlay, Stream


async def check_sessions(a: Overlay, b: Overlay) -> None:
    """A dial proves who is there; both sides list the other once, with the right direction."""
    assert not a.peers()
    assert not b.peers()
    assert await a.connect(b.listen_addresses()[0]) == b.node_id
    await eventually(lambda: bool(b.peers()))
    (there,), (here,) = a.peers(), b.peers()
    assert (there.node_id, there.direction) == (b.node_id, "out")
    assert (here.node_id, here.direction) == (a.node_id, "in")
    assert there.since_ns > 0
    assert there.address
    assert await a.connect(b.listen_addresses()[0]) == b.node_id
    assert len(a.peers()) == 1
    assert a.network == b.network


async def check_unreachable(a: Overlay, b: Overlay) -> None:
    """Nobody at an id or an address is PeerUnreachable, and so is this node itself."""
    stranger = NodeId("0x" + "00" * 19 + "01")
    for attempt in (
        lambda: a.open_stream(stranger, protocol_id(a.network, "any", 1)),
        lambda: a.open_stream(a.node_id, protocol_id(a.network, "any", 1)),
        lambda: a.connect(a.listen_addresses()[0]),
        lambda: a.connect("/nonsense/1"),
        lambda: a.connect(""),
    ):
        try:
            await attempt()
        except PeerUnreachable:
            continue
        raise AssertionError("somebody was reached where nobody is")
    await connect(a, b)


async def check_peer_changes(a: Overlay, b: Overlay) -> None:
    """Listeners hear of a session's begin and end, on both sides, once, until they stop."""
    heard: dict[NodeId, list[PeerChange]] = {a.node_id: [], b.node_id: []}
    stops = [overlay.subscribe_peers(heard[overlay.node_id].append) for overlay in (a, b)]
    await connect(a, b)
    await a.disconnect(b.node_id)
    await a.disconnect(b.node_id)
    await eventually(lambda: all(len(changes) == 2 for changes in heard.values()))
    for me, other in ((a, b), (b, a)):
        assert heard[me.node_id] == [PeerChange(other.node_id, True), PeerChange(other.node_id, False)]
        assert not me.peers()
    for stop in stops:
        stop()
        stop()
    await connect(a, b)
    assert [len(changes) for changes in heard.values()] == [2, 2]


async def check_disconnect(a: Overlay, b: Overlay) -> None:
    """Disconnecting breaks the streams at both ends; the peer can be reached again by its id."""
    ended: list[str] = []

    async def wait_for_end(stream: Stream) -> None:
        await stream.send_all(b"!")
        try:
            await receive_all(stream)
            ended.append("end")
        except StreamBroken:
            ended.append("broken")

    protocol = serve(b, "end", wait_for_end)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    await stream.receive_some(1)
    await a.disconnect(b.node_id)
    await broken(stream.receive_some)
    await broken(lambda: stream.send_all(b"x"))
    await eventually(lambda: bool(ended))
    assert ended == ["broken"]
    again = await a.open_stream(b.node_id, protocol)
    assert await again.receive_some(1) == b"!"
    again.reset()


async def check_one_session_for_many(a: Overlay, b: Overlay) -> None:
    """Streams that are asked for at once, without a session, make one session and no more."""
    changes: list[PeerChange] = []
    protocol = serve(b, "one", echo)
    await connect(a, b)
    await a.disconnect(b.node_id)
    await eventually(lambda: not a.peers() and not b.peers())
    a.subscribe_peers(changes.append)

    async def talk() -> None:
        assert await ask(await a.open_stream(b.node_id, protocol), b"x") == b"x"

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(talk)
    assert changes == [PeerChange(b.node_id, True)]


async def check_vanished_peer(a: Overlay, b: Overlay, vanish: Callable[[], None], *, within: float) -> None:
    """A peer that vanishes without a word is found to be gone: its streams break, its session ends, once.

    Args:
        a: stays.
        b: is connected with `a`, and vanishes.
        vanish: lets nothing that `a` and `b` say reach the other any more, and ends nothing.
        within: seconds in which `a` has to notice.
    """
    changes: list[PeerChange] = []
    protocol = serve(b, "gone", echo)
    a.subscribe_peers(changes.append)
    waiting, asking = await a.open_stream(b.node_id, protocol), await a.open_stream(b.node_id, protocol)
    await asking.send_all(b"here?")
    assert await asking.receive_some() == b"here?"
    vanish()
    with trio.fail_after(within):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broken, waiting.receive_some)
            await broken(lambda: send_now_and_then(asking))
    await eventually(lambda: bool(changes))
    assert changes == [PeerChange(b.node_id, False)]
    assert not a.peers()
