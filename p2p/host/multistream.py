"""multistream-select 1.0.0: agree on a stream's protocol, in one round trip.

The dialler sends the header and its protocol in one go (as go-libp2p's lazy negotiation does); the answers are
the same two lines, or `na`. Written here because the stock one reads messages of any length and needs two round
trips. Works on any `Stream`; never reads past the negotiation. Callers bound the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.overlay import ProtocolRefused, Stream, StreamBroken

if TYPE_CHECKING:
    from collections.abc import Container

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_LINE_BYTES = 1024
MAX_PROPOSALS = 16
"""Protocols that a dialler may try on one stream."""


async def select(stream: Stream, protocol: str) -> None:
    """Agree on `protocol` as the one who opened the stream.

    Raises:
        ProtocolRefused: the peer does not serve it.
        StreamBroken: the stream broke, or what came is not multistream-select.
    """
    await stream.send_all(_line(HEADER) + _line(protocol))
    if await _read_line(stream) != HEADER:
        raise StreamBroken(f"{stream.peer} does not speak multistream-select")
    answer = await _read_line(stream)
    if answer == NOT_AVAILABLE:
        raise ProtocolRefused(f"{stream.peer} does not serve {protocol}")
    if answer != protocol:
        raise StreamBroken(f"{stream.peer} answered {answer[:64]!r} to {protocol}")


async def respond(stream: Stream, served: Container[str]) -> str:
    """Agree on a protocol as the one who accepted the stream; returns it.

    Raises:
        ProtocolRefused: the peer gave up, or tried too many that are not served.
        StreamBroken: the stream broke, or what came is not multistream-select.
    """
    if await _read_line(stream) != HEADER:
        raise StreamBroken(f"{stream.peer} does not speak multistream-select")
    pending = _line(HEADER)
    for _ in range(MAX_PROPOSALS):
        await stream.send_all(pending)
        proposal = await _read_line(stream)
        if proposal in served:
            await stream.send_all(_line(proposal))
            return proposal
        pending = _line(NOT_AVAILABLE)
    raise ProtocolRefused(f"{stream.peer} proposed {MAX_PROPOSALS} protocols that are not served")


def _line(text: str) -> bytes:
    body = text.encode() + b"\n"
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


async def _read_line(stream: Stream) -> str:
    length = (await _exactly(stream, 1))[0]
    if length & 0x80:
        high = (await _exactly(stream, 1))[0]
        length = length & 0x7F | high << 7
    if not 0 < length <= MAX_LINE_BYTES:
        raise StreamBroken(f"{stream.peer} announced a line of {length} bytes in its negotiation")
    line = await _exactly(stream, length)
    if line[-1:] != b"\n":
        raise StreamBroken(f"{stream.peer} does not speak multistream-select")
    return line[:-1].decode("utf-8", "replace")


async def _exactly(stream: Stream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        if not piece:
            raise StreamBroken(f"{stream.peer} finished in the middle of the negotiation")
        data += piece
    return bytes(data)
