"""`Framed`: messages with their length before them, on a stream that may become something else afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.overlay import StreamBroken
from p2p.protobuf import frame, take_frame

if TYPE_CHECKING:
    from p2p.overlay import Stream


class Framed:
    """Sends and receives messages on a stream; keeps what follows the last one that was received.

    Args:
        max_bytes: longest message accepted.
    """

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self.stream = stream
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def unread(self) -> bytes:
        """Return what has come after the last message."""
        return bytes(self._buffer)

    async def send(self, message: bytes) -> None:
        """Send one message. Raises StreamBroken."""
        await self.stream.send_all(frame(message))

    async def receive(self) -> bytes:
        """Return the next message.

        Raises:
            WireError: it is too long, or its length does not end.
            StreamBroken: the stream broke, or ended before it.
        """
        while (message := take_frame(self._buffer, self._max_bytes)) is None:
            data = await self.stream.receive_some()
            if not data:
                raise StreamBroken(f"{self.stream.peer} finished where a message should have come")
            self._buffer += data
        return message
