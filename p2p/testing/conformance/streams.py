"""Checks of streams: both directions, their ends, and the handlers that serve them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.overlay import ProtocolRefused, StreamBroken, protocol_id
from p2p.testing.conformance.exchanges import (
    ask,
    broken,
    connect,
    echo,
    eventually,
    receive_all,
    send_forever,
    serve,
)

if TYPE_CHECKING:
    from p2p.identity import NodeId
    from p2p.overlay import Overlay, Stream


async def check_both_directions(a: Overlay, b: Overlay) -> None:
    """Either side may open streams, whoever dialled; a handler sees who opened."""
    seen: list[NodeId] = []

    async def echo_and_note(stream: Stream) -> None:
        seen.append(stream.peer)
        await echo(stream)

    protocol = serve(a, "both", echo_and_note)
    serve(b, "both", echo_and_note)
    await connect(a, b)
    for opener, other in ((a, b), (b, a)):
        stream = await opener.open_stream(other.node_id, protocol)
        assert stream.peer == other.node_id
        assert await ask(stream, b"ping") == b"ping"
    assert seen == [a.node_id, b.node_id]


async def check_half_close(a: Overlay, b: Overlay) -> None:
    """One side may finish and still receive; the end is told once and stays."""

    async def reply_after_end(stream: Stream) -> None:
        request = await receive_all(stream)
        assert await stream.receive_some() == b""
        await stream.send_all(request[::-1])

    protocol = serve(b, "half", reply_after_end)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    await stream.send_all(b"abc")
    await stream.send_all(b"")
    await stream.send_all(b"def")
    await stream.send_eof()
    assert await stream.receive_some(4) == b"fedc"
    assert await receive_all(stream) == b"ba"
    assert await stream.receive_some() == b""
    await stream.aclose()


async def check_close_flushes(a: Overlay, b: Overlay) -> None:
    """What was sent before `aclose` arrives, and then the end; a closed stream refuses further use."""
    got: list[bytes] = []

    async def collect(stream: Stream) -> None:
        got.append(await receive_all(stream))

    protocol = serve(b, "close", collect)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    await stream.send_all(b"x" * 200_000)
    await stream.aclose()
    await stream.aclose()
    await eventually(lambda: bool(got))
    assert len(got[0]) == 200_000
    for use in (lambda: stream.send_all(b"x"), lambda: stream.receive_some()):
        try:
            await use()
        except trio.ClosedResourceError:
            continue
        raise AssertionError("a closed stream could be used")


async def check_close_drops_unread(a: Overlay, b: Overlay) -> None:
    """Who closes is not sent to in vain: the other's sending ends, or goes nowhere, but does not hang."""
    sent = trio.Event()

    async def send_much(stream: Stream) -> None:
        try:
            await stream.send_all(b"x" * 4_000_000)
        except StreamBroken:
            pass
        finally:
            sent.set()

    protocol = serve(b, "unread", send_much)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    await stream.receive_some(1)
    await stream.aclose()
    await sent.wait()


async def check_reset(a: Overlay, b: Overlay) -> None:
    """A reset is seen at the other end, in either direction, as StreamBroken and not as the end."""
    outcome: list[str] = []

    async def wait_for_end(stream: Stream) -> None:
        await stream.send_all(b"!")
        try:
            await receive_all(stream)
            outcome.append("end")
        except StreamBroken:
            outcome.append("broken")
            raise

    async def reset_at_once(stream: Stream) -> None:
        await stream.receive_some(1)
        stream.reset()

    mine, theirs = serve(b, "reset/mine", wait_for_end), serve(b, "reset/theirs", reset_at_once)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, mine)
    await stream.receive_some(1)
    stream.reset()
    await broken(stream.receive_some)
    await broken(lambda: stream.send_all(b"x"))
    await eventually(lambda: bool(outcome))
    assert outcome == ["broken"]
    stream = await a.open_stream(b.node_id, theirs)
    await stream.send_all(b"?")
    await broken(stream.receive_some)
    await broken(lambda: send_forever(stream))


async def check_protocol_refused(a: Overlay, b: Overlay) -> None:
    """An unserved protocol is refused, and the session stays usable."""
    protocol = serve(b, "known", echo)
    await connect(a, b)
    refused = ""
    try:
        await a.open_stream(b.node_id, protocol_id(a.network, "unknown", 1))
    except ProtocolRefused as error:
        refused = str(error)
    assert b.node_id in refused, "an unserved protocol was accepted, or the error does not say by whom"
    assert await ask(await a.open_stream(b.node_id, protocol), b"still") == b"still"


async def check_failing_handler(a: Overlay, b: Overlay) -> None:
    """What a handler raises breaks its own stream and nothing else."""

    async def fail(stream: Stream) -> None:
        await stream.receive_some(1)
        raise ValueError("a handler that fails, as this check wants it to")

    good, bad = serve(b, "good", echo), serve(b, "bad", fail)
    await connect(a, b)
    beside = await a.open_stream(b.node_id, good)
    for _ in range(3):
        stream = await a.open_stream(b.node_id, bad)
        await stream.send_all(b"x")
        await broken(stream.receive_some)
    assert await ask(beside, b"unharmed") == b"unharmed"
    assert len(a.peers()) == 1


async def check_returning_handler(a: Overlay, b: Overlay) -> None:
    """A handler that returns has finished: the other end reads what it sent, then the end."""

    async def greet(stream: Stream) -> None:
        await stream.send_all(b"hello")

    protocol = serve(b, "greet", greet)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    assert await receive_all(stream) == b"hello"
    await stream.aclose()


async def check_many_streams(a: Overlay, b: Overlay) -> None:
    """Many streams at once, from both sides, do not disturb each other; one session carries them."""
    protocol = serve(a, "many", echo)
    serve(b, "many", echo)
    await connect(a, b)

    async def talk(opener: Overlay, other: Overlay, number: int) -> None:
        stream = await opener.open_stream(other.node_id, protocol)
        text = f"stream {number} ".encode() * 500
        assert await ask(stream, text) == text

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(talk, a, b, number)
            nursery.start_soon(talk, b, a, number)
    assert len(a.peers()) == 1


async def check_streams_from_both_at_once(a: Overlay, b: Overlay) -> None:
    """Both sides may dial each other, and open streams, in the same moment; what is opened works."""
    protocol = serve(a, "cross", echo)
    serve(b, "cross", echo)
    await connect(a, b)
    await a.disconnect(b.node_id)
    await eventually(lambda: not a.peers() and not b.peers())
    answers: list[bytes] = []

    async def meet(one: Overlay, other: Overlay) -> None:
        await one.connect(other.listen_addresses()[0])

    async def talk(opener: Overlay, other: Overlay, number: int) -> None:
        stream = await opener.open_stream(other.node_id, protocol)
        answers.append(await ask(stream, b"%d" % number))

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(meet, a, b)
            nursery.start_soon(meet, b, a)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(talk, a, b, number)
                nursery.start_soon(talk, b, a, number)
        assert sorted(answers) == sorted(b"%d" % number for number in range(10) for _ in range(2))
        answers.clear()
        for one, other in ((a, b), (b, a)):
            assert [peer.node_id for peer in one.peers()] == [other.node_id]
