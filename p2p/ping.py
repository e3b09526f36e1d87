"""Ping, libp2p's `/ipfs/ping/1.0.0`: how long a few bytes take to a peer and back.

Over a stream of the overlay, so it says what calls feel: the same connection, the same queues, the same path.
Payloads of 32 random bytes, each echoed as it is; whoever opened the stream decides when it ends
(libp2p/specs, ping/ping.md). Guests may ask and be asked, since every libp2p program speaks it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from p2p.overlay import StreamBroken

if TYPE_CHECKING:
    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.overlay import Overlay, Stream

PROTOCOL: Final = "/ipfs/ping/1.0.0"
PAYLOAD_BYTES: Final = 32
IDLE_TIMEOUT: Final = 60.0
"""Seconds for which a peer's ping stream may be silent, or leave its answers unread, before it is closed."""
MAX_ANSWERED_BYTES: Final = 2**20
"""Bytes that are echoed on one stream: nine hours of a ping a second."""


class PingReport(msgspec.Struct, frozen=True):
    """What became of some pings on one stream."""

    rtts: tuple[float | None, ...]
    """Seconds for each that was sent, in order; None where no answer came in time."""
    problem: str = ""
    """Why it ended early, if it did."""

    @property
    def answered(self) -> tuple[float, ...]:
        """Return the seconds of those that were answered."""
        return tuple(rtt for rtt in self.rtts if rtt is not None)


async def answer(stream: Stream) -> None:
    """Serve a peer's pings until it ends the stream, is silent for long, or has had enough."""
    left = MAX_ANSWERED_BYTES
    with trio.CancelScope() as patience:
        while left > 0:
            patience.deadline = trio.current_time() + IDLE_TIMEOUT
            data = await stream.receive_some(min(left, PAYLOAD_BYTES))
            if not data:
                return
            await stream.send_all(data)
            left -= len(data)


async def ping(
    overlay: Overlay,
    peer: str,
    *,
    count: int,
    interval: float,
    timeout: float,
    clock: Clock,
    entropy: Entropy,
) -> PingReport:
    """Send `count` pings to `peer`, each when the one before was answered or given up.

    Args:
        peer: a NodeId, or the PeerId of a guest that there is a session with.
        interval: seconds between the beginnings of two pings, at least.
        timeout: seconds to wait for each answer.

    Raises:
        OverlayError: there is no session and none could be made, or the peer answers no pings.
    """
    stream = await overlay.open_stream(peer, PROTOCOL)
    asker = _Asker(stream, clock, entropy)
    rtts: list[float | None] = []
    problem = ""
    try:
        while len(rtts) < count:
            next_at = trio.current_time() + interval
            rtts.append(None)
            rtts[-1] = await asker.ask(timeout)
            if len(rtts) < count:
                await trio.sleep_until(next_at)
    except StreamBroken as error:
        problem = str(error)
        stream.reset()
    except BaseException:
        stream.reset()
        raise
    else:
        with trio.move_on_after(timeout) as patience:
            await stream.aclose()
        if patience.cancelled_caught:
            stream.reset()
    return PingReport(tuple(rtts), problem)


class _Asker:
    """One side of a ping stream; answers that come late are told from the one that is waited for."""

    def __init__(self, stream: Stream, clock: Clock, entropy: Entropy) -> None:
        self._stream = stream
        self._clock = clock
        self._entropy = entropy
        self._awaited: list[bytes] = []
        self._received = bytearray()

    async def ask(self, timeout: float) -> float | None:
        """Return the seconds until the answer; None if it did not come. Raises StreamBroken."""
        payload = self._entropy.token_bytes(PAYLOAD_BYTES)
        began = self._clock.monotonic()
        rtt: float | None = None
        sent = False
        with trio.move_on_after(timeout):
            await self._stream.send_all(payload)
            sent = True
            self._awaited.append(payload)
            while self._awaited:  # what was given up before is answered first
                await self._receive_one()
            rtt = self._clock.monotonic() - began
        if not sent:
            raise StreamBroken(f"{self._stream.peer} does not read what it is sent")
        return rtt

    async def _receive_one(self) -> None:
        while len(self._received) < PAYLOAD_BYTES:
            data = await self._stream.receive_some(PAYLOAD_BYTES - len(self._received))
            if not data:
                raise StreamBroken(f"{self._stream.peer} ended the ping stream")
            self._received += data
        if bytes(self._received) != self._awaited[0]:
            raise StreamBroken(f"{self._stream.peer} answered a ping with other bytes than it was sent")
        del self._awaited[0]
        self._received.clear()
