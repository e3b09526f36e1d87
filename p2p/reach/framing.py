"""`Framed`: messages with their length before them, on a stream that may become something else afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.overlay import StreamBroken
from p2p.protobuf import WireError, frame

if TYPE_CHECKING:
    from p2p.overlay import Stream

_MAX_LENGTH_BYTES = 5


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
        while (message := self._take()) is None:
            data = await self.stream.receive_some()
            if not data:
                raise StreamBroken(f"{self.stream.peer} finished where a message should have come")
            self._buffer += data
        return message

    def _take(self) -> bytes | None:
        length = 0
        for index, byte in enumerate(self._buffer[:_MAX_LENGTH_BYTES]):
            length |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                break
        else:
            if len(self._buffer) >= _MAX_LENGTH_BYTES:
                raise WireError("a message's length does not end")
            return None
        if length > self._max_bytes:
            raise WireError(f"a message of {length} bytes is over the limit of {self._max_bytes}")
        start = index + 1
        if len(self._buffer) < start + length:
            return None
        message = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return message
