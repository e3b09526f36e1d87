"""multistream-select over streams in memory."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from p2p.entropy import SeededEntropy
from p2p.host.multistream import MAX_PROPOSALS, respond, select
from p2p.identity import NodeId
from p2p.overlay import ProtocolRefused, Stream, StreamBroken
from p2p.testing.clock import VirtualClock
from p2p.testing.conformance import eventually, receive_all
from p2p.testing.overlay import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

SERVED = {"/echo/1", "/" + "x" * 300}


def line(text: str) -> bytes:
    body = text.encode() + b"\n"
    return bytes([len(body)]) + body


@asynccontextmanager
async def negotiating(outcome: list[object]) -> AsyncIterator[Stream]:
    """Yield a stream whose other end responds, and notes what came of it."""

    async def serve(stream: Stream) -> None:
        try:
            outcome.append(await respond(stream, SERVED))
        except (ProtocolRefused, StreamBroken) as error:
            outcome.append(type(error))
            raise
        await stream.send_all(await receive_all(stream))

    network = MemoryNetwork(VirtualClock(), SeededEntropy(1))
    a, b = network.overlay(NodeId("0x" + "a" * 40)), network.overlay(NodeId("0x" + "b" * 40))
    async with a.running(), b.running():
        b.serve("raw", serve)
        yield await a.open_stream(b.node_id, "raw")


@pytest.mark.parametrize("protocol", sorted(SERVED))
async def test_a_served_protocol_is_agreed_and_the_stream_is_clean(
    protocol: str, autojump_clock: MockClock
) -> None:
    outcome: list[object] = []
    async with negotiating(outcome) as stream:
        await select(stream, protocol)
        await stream.send_all(b"\x05data")
        await stream.send_eof()
        assert await receive_all(stream) == b"\x05data"
    assert outcome == [protocol]


async def test_an_unserved_protocol_is_refused_and_another_may_follow(autojump_clock: MockClock) -> None:
    outcome: list[object] = []
    async with negotiating(outcome) as stream:
        with pytest.raises(ProtocolRefused, match="/nope"):
            await select(stream, "/nope")
        await stream.send_all(line("/echo/1"))
        await eventually(lambda: outcome == ["/echo/1"])


async def test_a_dialler_that_takes_turns_is_answered(autojump_clock: MockClock) -> None:
    outcome: list[object] = []
    async with negotiating(outcome) as stream:
        await stream.send_all(line("/multistream/1.0.0"))
        assert await stream.receive_some() == line("/multistream/1.0.0")
        await stream.send_all(line("/echo/1"))
        assert await stream.receive_some() == line("/echo/1")


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x13/multistream/1.0.0",
        b"\x00",
        b"\xff\xff\xff\xff",
        b"\x80\x7f",
        b"\x01\n",
        b"\x02hi",
        line("/multistream/2.0.0"),
        line("/multistream/1.0.0") + b"\xff\x7f",
        line("/multistream/1.0.0") + line("/nope") * MAX_PROPOSALS,
        line("/multistream/1.0.0") + line("\udcff".encode("utf-8", "surrogatepass").decode("latin-1")),
    ],
    ids=lambda g: repr(g[:24]),
)
async def test_garbage_ends_the_stream(garbage: bytes, autojump_clock: MockClock) -> None:
    outcome: list[object] = []
    async with negotiating(outcome) as stream:
        await stream.send_all(garbage)
        await stream.send_eof()
        await eventually(lambda: bool(outcome))
    assert outcome[0] in (StreamBroken, ProtocolRefused)


@pytest.mark.parametrize("answer", [b"", b"\x00", line("hello"), line("/multistream/1.0.0") + line("/other")])
async def test_a_listener_that_talks_nonsense_is_broken_off(answer: bytes, autojump_clock: MockClock) -> None:
    async def babble(stream: Stream) -> None:
        await stream.send_all(answer)

    network = MemoryNetwork(VirtualClock(), SeededEntropy(1))
    a, b = network.overlay(NodeId("0x" + "a" * 40)), network.overlay(NodeId("0x" + "b" * 40))
    async with a.running(), b.running():
        b.serve("raw", babble)
        with pytest.raises(StreamBroken):
            await select(await a.open_stream(b.node_id, "raw"), "/echo/1")
