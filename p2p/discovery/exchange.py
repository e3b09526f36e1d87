"""Hello over a stream: one frame each way, bounded in size. Callers bound the time.

Errors:
    HelloRefused    the peer cannot or does not talk to us; the message says why
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.codec import CodecError, decode, encode
from p2p.discovery.messages import MAX_FRAME_BYTES, Hello, mismatch
from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.events import Refusal
    from p2p.overlay import Stream

_LENGTH_BYTES = 4


class HelloRefused(Exception):
    """The peer is not one that this node can talk to.

    Args:
        words: for people.
        why: in a word.
    """

    def __init__(self, words: str, why: Refusal = "broken") -> None:
        super().__init__(words)
        self.why: Refusal = why


async def greet(stream: Stream, ours: Hello) -> Hello:
    """Say hello on a stream that this node opened, and return the answer. The caller closes the stream.

    Not finished before the answer has come: js-libp2p breaks a stream off whose end comes while it still hands the
    stream over from the negotiation to who serves it.

    Raises:
        HelloRefused: what came is no hello, or not one that fits ours.
        StreamBroken: the session or the stream died.
    """
    await _send(stream, ours)
    theirs = await _receive(stream)
    _check(ours, theirs)
    return theirs


async def receive_greeting(stream: Stream) -> Hello:
    """Return what the peer that opened `stream` says first. Raises HelloRefused, StreamBroken."""
    return await _receive(stream)


async def answer(stream: Stream, ours: Hello, theirs: Hello) -> None:
    """Answer a greeting, and finish. The answer goes out even if the two do not fit, for the peer to see why.

    Raises:
        HelloRefused: theirs does not fit ours.
        StreamBroken: the session or the stream died.
    """
    try:
        await _send(stream, ours)
        await stream.send_eof()
    except StreamBroken:
        _check(ours, theirs)  # who does not fit may have hung up already
        raise
    _check(ours, theirs)


def _check(ours: Hello, theirs: Hello) -> None:
    unfit = mismatch(ours, theirs)
    if unfit is not None:
        raise HelloRefused(unfit.words, unfit.why)


async def _send(stream: Stream, hello: Hello) -> None:
    body = encode(hello)
    await stream.send_all(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


async def _receive(stream: Stream) -> Hello:
    length = int.from_bytes(await _receive_exactly(stream, _LENGTH_BYTES), "big")
    if not 0 < length <= MAX_FRAME_BYTES:
        raise HelloRefused(f"its hello claims {length} bytes, {MAX_FRAME_BYTES} are allowed")
    body = await _receive_exactly(stream, length)
    try:
        return decode(body, Hello)
    except CodecError as error:
        raise HelloRefused(f"its hello cannot be read: {error}") from error


async def _receive_exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise HelloRefused("it finished before its hello was whole")
        data += piece
    return bytes(data)
