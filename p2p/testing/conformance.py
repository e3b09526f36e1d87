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

import hashlib
from typing import TYPE_CHECKING

import trio

from p2p.identity import NodeId
from p2p.overlay import (
    Overlay,
    PeerChange,
    PeerUnreachable,
    ProtocolRefused,
    Stream,
    StreamBroken,
    StreamHandler,
    protocol_id,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

CHECK_TIMEOUT = 30.0
"""Seconds that one check may take."""
MAX_UNREAD_BYTES = 32 * 2**20
"""What a sender may push into a reader that does not read, all buffers on the way included."""
BULK_BYTES = 24 * 2**20
"""What each of some streams moves while others ask; more than all buffers on the way hold."""


async def check_overlay(
    make_pair: Callable[[], AbstractAsyncContextManager[tuple[Overlay, Overlay]]],
) -> None:
    """Run every check of `CHECKS`, each on a fresh pair."""
    for check in CHECKS:
        with trio.fail_after(CHECK_TIMEOUT):
            async with make_pair() as (a, b):
                await check(a, b)


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


async def check_back_pressure(a: Overlay, b: Overlay) -> None:
    """A reader that stalls stops the sender, within bounds; when it reads on, nothing is missing."""
    go_on = trio.Event()
    done: list[int] = []

    async def stall(stream: Stream) -> None:
        await go_on.wait()
        count = 0
        while piece := await stream.receive_some():
            count += len(piece)
        done.append(count)

    protocol = serve(b, "stall", stall)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    sent = [0]

    async def send() -> None:
        while not go_on.is_set():
            await stream.send_all(bytes(65_536))
            sent[0] += 65_536

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await settled(lambda: sent[0], limit=MAX_UNREAD_BYTES)
        go_on.set()
    await stream.aclose()
    await eventually(lambda: bool(done))
    assert done == sent


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


async def check_stalled_reader_beside_others(a: Overlay, b: Overlay) -> None:
    """Readers that do not read stop their own streams alone: others open, ask and move much meanwhile."""
    go_on = trio.Event()
    read: list[int] = []

    async def stall(stream: Stream) -> None:
        await go_on.wait()
        read.append(len(await receive_all(stream)))

    stalled, good = serve(b, "stalled", stall), serve(b, "good", echo)
    await connect(a, b)
    sent = [0] * 3

    async def fill(number: int) -> None:
        stream = await a.open_stream(b.node_id, stalled)
        while not go_on.is_set():
            await stream.send_all(bytes(65_536))
            sent[number] += 65_536
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        for number in range(len(sent)):
            nursery.start_soon(fill, number)
        await settled(lambda: sum(sent), limit=len(sent) * MAX_UNREAD_BYTES)
        for number in range(20):
            stream = await a.open_stream(b.node_id, good)
            assert await ask(stream, b"%d" % number) == b"%d" % number
        much = bytes(range(256)) * 8192
        assert await ask(await a.open_stream(b.node_id, good), much) == much
        assert not read
        go_on.set()
    await eventually(lambda: len(read) == len(sent))
    assert sorted(read) == sorted(sent)


async def check_calls_beside_bulk(a: Overlay, b: Overlay) -> None:
    """A question on one stream is answered while others carry as much as they can."""
    moved = [0]

    async def count(stream: Stream) -> None:
        while data := await stream.receive_some(262_144):
            moved[0] += len(data)

    bulk, good = serve(b, "bulk", count), serve(b, "good", echo)
    await connect(a, b)

    async def fill(stream: Stream) -> None:
        for _ in range(BULK_BYTES // 262_144):
            await stream.send_all(bytes(262_144))
        await stream.aclose()

    call = await a.open_stream(b.node_id, good)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(fill, await a.open_stream(b.node_id, bulk))
        for _ in range(10):
            before = moved[0]
            await call.send_all(b"?")
            assert await call.receive_some() == b"?"
            assert moved[0] - before <= BULK_BYTES, "a question waits until others have sent what they want"
    await eventually(lambda: moved[0] == 4 * BULK_BYTES)
    call.reset()


async def check_stalled_reader(a: Overlay, b: Overlay, seconds: float = 1.0) -> None:
    """A reader that stalls for `seconds` keeps its stream, and reads on without loss. A minute is nothing special."""
    digests: list[bytes] = []

    async def stall(stream: Stream) -> None:
        hash_ = hashlib.sha256(await stream.receive_some(1))
        await trio.sleep(seconds)
        while piece := await stream.receive_some():
            hash_.update(piece)
        digests.append(hash_.digest())

    protocol = serve(b, "pause", stall)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    hash_ = hashlib.sha256()
    for number in range(64):
        block = number.to_bytes(2, "big") * 32_768
        hash_.update(block)
        await stream.send_all(block)
    await stream.aclose()
    await eventually(lambda: bool(digests), timeout=seconds + 10)
    assert digests == [hash_.digest()]
    assert len(a.peers()) == 1


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


async def check_large_transfer(a: Overlay, b: Overlay) -> None:
    """Megabytes arrive whole and in order, whatever the sizes of writes and reads."""
    total = 8 * 2**20
    digests: list[bytes] = []

    async def digest(stream: Stream) -> None:
        hash_ = hashlib.sha256()
        while piece := await stream.receive_some(10_007):
            assert len(piece) <= 10_007
            hash_.update(piece)
        digests.append(hash_.digest())
        await stream.send_all(hash_.digest())

    protocol = serve(b, "large", digest)
    await connect(a, b)
    stream = await a.open_stream(b.node_id, protocol)
    hash_, sent, size = hashlib.sha256(), 0, 1
    while sent < total:
        block = hashlib.sha256(sent.to_bytes(8, "big")).digest() * (size // 32 + 1)
        hash_.update(block)
        await stream.send_all(block)
        sent += len(block)
        size = size * 3 % 1_500_007 + 1
    await stream.send_eof()
    assert await receive_all(stream) == hash_.digest()
    await stream.aclose()


async def check_cancelled_read(a: Overlay, b: Overlay) -> None:
    """A read that is given up loses nothing, on its own stream or another."""
    go_on = trio.Event()

    async def wait_then_greet(stream: Stream) -> None:
        await go_on.wait()
        await stream.send_all(b"late")

    late, good = serve(b, "late", wait_then_greet), serve(b, "good", echo)
    await connect(a, b)
    stream, beside = await a.open_stream(b.node_id, late), await a.open_stream(b.node_id, good)
    for _ in range(5):
        with trio.move_on_after(0.01) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
    go_on.set()
    assert await ask(beside, b"x" * 100_000) == b"x" * 100_000
    assert await receive_all(stream) == b"late"


async def check_cancelled_write(a: Overlay, b: Overlay) -> None:
    """A write that is given up half-way breaks at most its own stream."""

    async def never_read(stream: Stream) -> None:
        await stream.send_all(b"!")
        await trio.sleep_forever()

    async def read_slowly(stream: Stream) -> None:
        while await stream.receive_some(20_000):  # noqa: ASYNC110 - it waits for nothing, it is slow
            await trio.sleep(0.001)

    stalled, slow, good = (
        serve(b, "stalled", never_read),
        serve(b, "slow", read_slowly),
        serve(b, "good", echo),
    )
    await connect(a, b)
    beside = await a.open_stream(b.node_id, good)
    for protocol in (stalled, slow, slow, slow):
        stream = await a.open_stream(b.node_id, protocol)
        with trio.move_on_after(0.05) as scope:
            await stream.send_all(bytes(MAX_UNREAD_BYTES))
        assert scope.cancelled_caught
        stream.reset()
    assert await ask(beside, b"x" * 100_000) == b"x" * 100_000
    assert len(a.peers()) == 1


async def check_cancelled_open(a: Overlay, b: Overlay) -> None:
    """Opening that is given up harms nothing."""
    protocol = serve(b, "open", echo)
    await connect(a, b)
    beside = await a.open_stream(b.node_id, protocol)
    for patience in (0.0, 0.0001, 0.001, 0.002, 0.004):
        with trio.move_on_after(patience):
            (await a.open_stream(b.node_id, protocol)).reset()
    assert await ask(beside, b"whole") == b"whole"
    assert await ask(await a.open_stream(b.node_id, protocol), b"new") == b"new"


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


# What tests of protocols need as well.


async def connect(a: Overlay, b: Overlay) -> None:
    """Connect `a` to `b` and wait until both know."""
    await a.connect(b.listen_addresses()[0])
    await eventually(lambda: any(peer.node_id == a.node_id for peer in b.peers()))


def serve(overlay: Overlay, name: str, handler: StreamHandler) -> str:
    """Serve `handler` under a protocol id made of `name`; returns the id."""
    protocol = protocol_id(overlay.network, f"check/{name}", 1)
    overlay.serve(protocol, handler)
    return protocol


async def echo(stream: Stream) -> None:
    """Send back what comes, until the end."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def ask(stream: Stream, question: bytes) -> bytes:
    """Send `question`, finish, and return all that comes back."""
    answer = bytearray()

    async def receive() -> None:
        answer.extend(await receive_all(stream))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await stream.send_all(question)
        await stream.send_eof()
    await stream.aclose()
    return bytes(answer)


async def receive_all(stream: Stream) -> bytes:
    """Return all that comes until the end."""
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


async def send_forever(stream: Stream) -> None:
    """Send until it fails."""
    while True:
        await stream.send_all(bytes(1024))


async def send_now_and_then(stream: Stream) -> None:
    """Send a little, again and again, until it fails."""
    while True:
        await stream.send_all(b"still there?")
        await trio.sleep(0.05)


async def broken(use: Callable[[], Awaitable[object]]) -> None:
    """Assert that `use` raises StreamBroken."""
    try:
        await use()
    except StreamBroken:
        return
    raise AssertionError("the stream is not broken")


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until `condition` holds. Raises `trio.TooSlowError`."""
    with trio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110 - an overlay has no event for every condition
            await trio.sleep(0.005)


async def settled(value: Callable[[], int], limit: int) -> None:
    """Wait until `value` has stopped to grow, below `limit`."""
    before = -1
    while value() != before:
        before = value()
        assert before <= limit, f"{before} bytes went out to a reader that does not read"
        await trio.sleep(0.5)
