"""A line keeps to its bounds and ends when the other end does not keep to the rules."""

from __future__ import annotations

import contextlib
import itertools
import random
from typing import TYPE_CHECKING

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from p2p.bus import frames, line, requests
from p2p.bus.api import BadContent, BusClosed, Busy, RemoteError
from p2p.bus.frames import (
    ITEM_COST,
    Cancel,
    Credit,
    End,
    Failure,
    Frame,
    FrameReader,
    Item,
    Register,
    Reply,
    Request,
    Welcome,
)
from p2p.bus.line import Line
from tests.p2p.bus.test_outbox import socket_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Owner:
    """Answers calls as their address says, and remembers the rest."""

    def __init__(self) -> None:
        self.hanging = 0
        self.cancelled = 0
        self.items = 0
        self.frames: list[Frame] = []
        self.has_ended = 0

    async def answer(self, request: Request) -> bytes:
        if request.address.endswith("/Hang"):
            self.hanging += 1
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled += 1
        return request.body

    @contextlib.asynccontextmanager
    async def answer_stream(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        async def items() -> AsyncIterator[bytes]:
            while True:
                self.items += 1
                yield request.body

        made = items()
        try:
            yield made
        finally:
            self.cancelled += 1
            await made.aclose()  # type: ignore[attr-defined]

    def receive(self, frame: Frame) -> None:
        if isinstance(frame, Welcome):
            raise BadContent("a Welcome has no place here")
        self.frames.append(frame)

    def ended(self) -> None:
        self.has_ended += 1


class RawEnd:
    """The other end, which says what the test wants."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = FrameReader()

    async def send(self, *messages: Frame) -> None:
        await self.stream.send_all(b"".join(frames.encode(message) for message in messages))

    async def receive(self) -> Frame:
        while (frame := self._reader.next_frame()) is None:
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._reader.feed(data)
        return frame


@pytest.fixture
def owner() -> Owner:
    return Owner()


@pytest.fixture
async def ends(owner: Owner, nursery: trio.Nursery) -> tuple[Line, RawEnd]:
    near, far = memory_stream_pair()
    made = Line(near, owner, name="the other end")
    nursery.start_soon(made.run)
    return made, RawEnd(far)


def request(request_id: int, address: str = "/local/a/Echo", body: bytes = b"", **rest: object) -> Request:
    return Request(request_id, address, body, **rest)  # type: ignore[arg-type]


async def expect_end(made: Line, raw: RawEnd, owner: Owner) -> None:
    await made.closed.wait()
    with contextlib.suppress(EOFError):
        while True:
            await raw.receive()
    assert owner.has_ended == 1


async def test_calls_are_answered_out_of_order(ends: tuple[Line, RawEnd]) -> None:
    _, raw = ends
    await raw.send(request(0, "/local/a/Hang"), request(1, body=b"x"))
    assert await raw.receive() == Reply(1, b"x")


async def test_who_reads_outlasts_the_time_of_calls(autojump_clock: MockClock, owner: Owner) -> None:
    near, far = memory_stream_pair()
    made, raw = Line(near, owner, name="the other end"), RawEnd(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        for i, milliseconds in enumerate((1000, 0, 1, 30_000, 2000)):
            await raw.send(request(2 * i, "/local/a/Hang", timeout_ms=milliseconds))
            late = await raw.receive()
            assert isinstance(late, Failure)
            assert (late.id, late.error) == (2 * i, "timeout")
            await raw.send(request(2 * i + 1, body=b"x", timeout_ms=milliseconds))
            assert (await raw.receive()).id == 2 * i + 1  # type: ignore[union-attr]
            await trio.sleep(3600)
        half = frames.encode(request(100, body=b"x"))
        await raw.send(request(99, timeout_ms=1000))
        await raw.stream.send_all(half[:9])
        await raw.receive()
        await trio.sleep(100)
        await raw.stream.send_all(half[9:])
        assert await raw.receive() == Reply(100, b"x"), "half a frame was lost with who had read it"
        nursery.cancel_scope.cancel()


async def test_a_cancelled_call_tells_the_other_end(ends: tuple[Line, RawEnd]) -> None:
    made, raw = ends
    with trio.move_on_after(60) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.call, "/local/a/M", b"x")
            sent = await raw.receive()
            assert isinstance(sent, Request)
            assert sent.timeout_ms is not None
            assert 0 < sent.timeout_ms <= 60_000, "the far end is not told the effective deadline"
            scope.cancel()
    assert await raw.receive() == Cancel(sent.id)
    await raw.send(Reply(sent.id, b"too late"), Failure(sent.id, "busy"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.call, "/local/a/M", b"y")
        again = await raw.receive()
        assert isinstance(again, Request)
        await raw.send(Reply(again.id, b""))


async def test_cancel_from_the_other_end_cancels_the_handler(owner: Owner, ends: tuple[Line, RawEnd]) -> None:
    _, raw = ends
    await raw.send(request(0, "/local/a/Hang"), Cancel(0), Cancel(7), request(1))
    assert await raw.receive() == Reply(1)
    await wait_all_tasks_blocked()
    assert owner.hanging == owner.cancelled


async def test_the_end_of_the_line_cancels_handlers_and_fails_calls(
    owner: Owner, ends: tuple[Line, RawEnd]
) -> None:
    made, raw = ends
    await raw.send(request(0, "/local/a/Hang"))
    async with trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()

        async def call() -> None:
            with pytest.raises(BusClosed, match="has ended"):
                await made.call("/local/a/M", b"")

        async def follow() -> None:
            async with made.stream("/local/a/M", b"") as items:
                assert await anext(items) == b"first"
                with pytest.raises(BusClosed):
                    await anext(items)

        nursery.start_soon(call)
        nursery.start_soon(follow)
        for _ in range(2):
            sent = await raw.receive()
            assert isinstance(sent, Request)
            if sent.streaming:
                await raw.send(Item(sent.id, b"first"))
        await wait_all_tasks_blocked()
        await raw.stream.aclose()
    assert owner.cancelled == 1
    assert owner.has_ended == 1
    for again in (made.call("/local/a/M", b""), made.stream("/local/a/M", b"").__aenter__()):
        with pytest.raises(BusClosed):
            await again


@pytest.mark.parametrize(
    "offence",
    [
        pytest.param([Reply(5)], id="an answer to nothing"),
        pytest.param([request(3), request(3)], id="an id twice"),
        pytest.param([request(3), Register(2, "/local/x")], id="an id that goes back"),
        pytest.param([Welcome("0x")], id="what the owner does not take"),
    ],
)
async def test_offences_end_the_line(owner: Owner, ends: tuple[Line, RawEnd], offence: list[Frame]) -> None:
    made, raw = ends
    with capture_logs() as log:
        await raw.send(*offence)
        await expect_end(made, raw, owner)
    assert "broke its rules" in log[0]["event"]


@pytest.mark.parametrize("streaming", [False, True])
async def test_an_answer_of_the_wrong_kind_ends_the_line(
    owner: Owner, ends: tuple[Line, RawEnd], streaming: bool
) -> None:
    made, raw = ends

    async def ask() -> None:
        with pytest.raises(BusClosed):  # noqa: PT012
            if streaming:
                async with made.stream("/local/a/M", b"") as items:
                    await anext(items)
            else:
                await made.call("/local/a/M", b"")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        sent = await raw.receive()
        assert isinstance(sent, Request)
        with capture_logs():
            await raw.send(Reply(sent.id) if streaming else Item(sent.id, b""))
            await expect_end(made, raw, owner)


async def test_items_stop_where_credit_does(owner: Owner, ends: tuple[Line, RawEnd]) -> None:
    _, raw = ends
    cost = 100 + ITEM_COST
    await raw.send(request(0, body=bytes(100), streaming=True, credit=3 * cost))
    for _ in range(3):
        assert await raw.receive() == Item(0, bytes(100))
    await wait_all_tasks_blocked()
    produced = owner.items
    assert produced <= 4, "the service runs ahead of its credit"
    await raw.send(request(1, body=b"others go on"))
    assert await raw.receive() == Reply(1, b"others go on")
    await raw.send(Credit(0, 1))
    assert await raw.receive() == Item(0, bytes(100))
    await raw.send(Cancel(0), request(2))
    assert await raw.receive() == Reply(2)
    assert owner.cancelled == 1


async def test_empty_items_are_paced_too(owner: Owner, ends: tuple[Line, RawEnd]) -> None:
    _, raw = ends
    await raw.send(request(0, streaming=True, credit=ITEM_COST * 2))
    for _ in range(2):
        await raw.receive()
    await wait_all_tasks_blocked()
    assert owner.items <= 3


async def test_an_item_beyond_its_credit_ends_the_line(owner: Owner, ends: tuple[Line, RawEnd]) -> None:
    made, raw = ends
    with capture_logs():
        async with made.stream("/local/a/M", b"") as items:
            sent = await raw.receive()
            assert isinstance(sent, Request)
            assert sent.credit == requests.WINDOW_BYTES
            await raw.send(Item(sent.id, bytes(requests.WINDOW_BYTES)), Item(sent.id, b"one too many"))
            await expect_end(made, raw, owner)
            assert len(await anext(items)) == requests.WINDOW_BYTES, "what had arrived is lost"
            with pytest.raises(BusClosed):
                await anext(items)


async def test_credit_comes_as_items_are_read(ends: tuple[Line, RawEnd]) -> None:
    made, raw = ends
    async with made.stream("/local/a/M", b"") as items:
        sent = await raw.receive()
        half = bytes(requests.WINDOW_BYTES // 2)
        for _ in range(10):
            await raw.send(Item(sent.id, half))  # type: ignore[union-attr]
            await anext(items)
            assert await raw.receive() == Credit(sent.id, len(half) + ITEM_COST)  # type: ignore[union-attr]
        await raw.send(End(sent.id))  # type: ignore[union-attr]
        assert [item async for item in items] == []
    await raw.send(request(0))
    assert await raw.receive() == Reply(0), "a stream that had ended was cancelled"


async def test_too_many_calls_are_busy(
    owner: Owner, ends: tuple[Line, RawEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MAX_CALLS", 4)
    made, raw = ends
    await raw.send(*(request(i, "/local/a/Hang") for i in range(5)))
    refused = await raw.receive()
    assert isinstance(refused, Failure)
    assert (refused.id, refused.error) == (4, "busy")
    await raw.send(Cancel(0), Cancel(1))
    await wait_all_tasks_blocked()
    await raw.send(request(5))
    assert await raw.receive() == Reply(5)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(made.call, "/local/a/M", b"")
        await wait_all_tasks_blocked()
        with pytest.raises(Busy, match="in flight"):
            await made.call("/local/a/M", b"")
        nursery.cancel_scope.cancel()


async def test_too_many_bytes_of_calls_are_busy(
    ends: tuple[Line, RawEnd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MAX_REQUEST_BYTES", 1000)
    _, raw = ends
    await raw.send(request(0, "/local/a/Hang", bytes(900)), request(1, body=bytes(200)))
    refused = await raw.receive()
    assert isinstance(refused, Failure)
    assert refused.error == "busy"
    await raw.send(Cancel(0))
    await wait_all_tasks_blocked()
    await raw.send(request(2, body=bytes(200)))
    assert await raw.receive() == Reply(2, bytes(200)), "the bytes were not given back"


async def test_an_end_that_never_reads_is_dropped(
    owner: Owner, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "SEND_LIMIT_BYTES", 2 * 1024 * 1024)
    near, far = socket_pair()
    made = Line(near, owner, name="the other end")
    nursery.start_soon(made.run)
    await trio.lowlevel.checkpoint()
    with capture_logs() as log:
        while not made.closed.is_set():
            made.send_nowait(Cancel(0))
    assert "does not read" in log[0]["event"]
    await far.aclose()


async def test_a_send_that_was_given_up_tears_nothing(owner: Owner, nursery: trio.Nursery) -> None:
    near, far = socket_pair()
    made, raw = Line(near, owner, name="the other end"), RawEnd(far)
    nursery.start_soon(made.run)
    body = random.Random(1).randbytes(3_000_000)
    async with trio.open_nursery() as callers:
        callers.start_soon(made.call, "/local/a/M", body)
        await wait_all_tasks_blocked()  # part of it is in the socket, and the rest does not fit
        assert 0 < made.backlog < len(body)
        callers.cancel_scope.cancel()
    first = await raw.receive()
    assert isinstance(first, Request)
    assert first.body == body
    assert await raw.receive() == Cancel(first.id)
    await raw.send(request(0, body=b"x"))
    assert await raw.receive() == Reply(0, b"x")
    await far.aclose()
    await made.closed.wait()


async def test_ten_thousand_garbage_frames(owner: Owner, nursery: trio.Nursery) -> None:
    chance = random.Random(3)
    with capture_logs() as log:
        for _ in range(100):
            near, far = memory_stream_pair()
            made = Line(near, owner, name="garbage")
            nursery.start_soon(made.run)
            with contextlib.suppress(trio.BrokenResourceError):
                for _ in range(100):
                    garbage = chance.randbytes(chance.randrange(1, 60))
                    await far.send_all(len(garbage).to_bytes(4, "big") + garbage)
            await made.closed.wait()
    assert len(log) == 100
    assert owner.has_ended == 100


async def test_a_registration_is_answered_once(ends: tuple[Line, RawEnd]) -> None:
    made, raw = ends
    answers: list[object] = []
    for _ in range(2):
        made.request(lambda i: Register(i, "/local/x"), answers.append)
    first, second = await raw.receive(), await raw.receive()
    assert isinstance(first, Register)
    assert isinstance(second, Register)
    await raw.send(
        Reply(first.id), frames.failure(second.id, RemoteError("forbidden", "no")), Reply(first.id)
    )
    await wait_all_tasks_blocked()
    assert answers[0] is None
    assert isinstance(answers[1], RemoteError)
    made.request(lambda i: Register(i, "/local/x"), answers.append)
    made.drop()
    assert isinstance(answers[2], BusClosed)
    assert len(answers) == 3


async def test_a_flood_of_small_frames_lets_others_run(owner: Owner, ends: tuple[Line, RawEnd]) -> None:
    _, raw = ends
    seen: list[int] = []

    async def watch() -> None:
        while len(owner.frames) < 3000:
            await trio.lowlevel.checkpoint()
            seen.append(len(owner.frames))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await raw.stream.send_all(frames.encode(frames.Unregister(0)) * 3000)
    gaps = [after - before for before, after in itertools.pairwise([0, *seen])]
    assert max(gaps) <= 2 * line.FRAMES_AT_A_TIME, "one end's flood holds the whole process up"
