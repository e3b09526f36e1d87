"""`CircuitStream`: a stream through a relay as the byte stream that a session is made on.

`dial` asks a relay for one; `answer` is the other end's part. What is on it is encrypted between the ends: the
relay sees who talks, how much and when, and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from p2p.overlay import OverlayError, PeerUnreachable, StreamBroken
from p2p.protobuf import WireError
from p2p.reach.framing import Framed
from p2p.reach.relay_wire import (
    HOP,
    MAX_MESSAGE_BYTES,
    HopMessage,
    Kind,
    Status,
    StopMessage,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
)

if TYPE_CHECKING:
    from p2p.overlay import Stream
    from p2p.reach.host import Link

ANSWER_TIMEOUT = 10.0
"""Seconds that a relay has to arrange a circuit, its target's answer included."""
READ_BYTES = 65_536


class CircuitStream(trio.abc.HalfCloseableStream):
    """An overlay's stream in the form of trio's.

    Args:
        first: what was received already.
    """

    def __init__(self, stream: Stream, first: bytes = b"") -> None:
        self._stream = stream
        self._first = first
        self.closed = trio.Event()
        """Set when this end was closed."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(bytes(data))
        except StreamBroken as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = max_bytes or READ_BYTES
        if self._first:
            await trio.lowlevel.checkpoint()
            data, self._first = self._first[:limit], self._first[limit:]
            return data
        try:
            return await self._stream.receive_some(limit)
        except StreamBroken as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def send_eof(self) -> None:
        try:
            await self._stream.send_eof()
        except StreamBroken as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def aclose(self) -> None:
        """Close; what was sent and not taken may be lost, as a session has said goodbye before."""
        self._stream.reset()
        self.closed.set()
        await trio.lowlevel.checkpoint()


async def dial(link: Link, target: str) -> CircuitStream:
    """Return a byte stream to `target`, a PeerId, through the relay at the other end of `link`.

    Raises:
        PeerUnreachable: the relay does not relay, or not to there.
    """
    try:
        with trio.fail_after(ANSWER_TIMEOUT):
            stream = await link.open_stream(HOP)
            try:
                framed = Framed(stream, MAX_MESSAGE_BYTES)
                await framed.send(encode_hop(HopMessage(Kind.CONNECT, peer=target)))
                answer = decode_hop(await framed.receive())
                if answer.kind is not Kind.STATUS or answer.status is not Status.OK:
                    raise PeerUnreachable(f"the relay {link.peer} said {answer.status.name} to {target}")
                return CircuitStream(stream, framed.unread)
            except BaseException:
                stream.reset()
                raise
    except PeerUnreachable:
        raise
    except (OverlayError, WireError) as error:
        raise PeerUnreachable(f"the relay {link.peer} does not relay: {error}") from error
    except trio.TooSlowError as error:
        raise PeerUnreachable(f"the relay {link.peer} did not answer within {ANSWER_TIMEOUT:g} s") from error


async def answer(stream: Stream, *, willing: bool) -> tuple[str, CircuitStream] | None:
    """Take a circuit that a relay brings on a stop stream; return the other end's PeerId and the byte stream.

    Args:
        willing: whether this node wants circuits from that relay; others are told so, and None is returned.

    Raises:
        StreamBroken, WireError: the relay hung up or broke the rules.
    """
    framed = Framed(stream, MAX_MESSAGE_BYTES)
    message = decode_stop(await framed.receive())
    status = Status.OK
    if message.kind is not Kind.CONNECT or message.peer is None:
        status = Status.UNEXPECTED_MESSAGE
    elif not willing:
        status = Status.PERMISSION_DENIED
    await framed.send(encode_stop(StopMessage(Kind.STATUS, status=status)))
    if status is not Status.OK or message.peer is None:
        await stream.aclose()
        return None
    return message.peer, CircuitStream(stream, framed.unread)
