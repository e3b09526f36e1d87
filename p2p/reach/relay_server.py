"""`RelayServer`: relays for others, within limits; a volunteer. The driver of `relay_limits`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.clock import NANOSECONDS
from p2p.overlay import OverlayError, StreamBroken
from p2p.protobuf import WireError
from p2p.reach.framing import Framed
from p2p.reach.relay_limits import RelayLedger, RelayLimits, Throttle
from p2p.reach.relay_wire import (
    HOP,
    MAX_ADDRESSES,
    MAX_MESSAGE_BYTES,
    STOP,
    HopMessage,
    Kind,
    Reservation,
    Status,
    StopMessage,
    Voucher,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    sign_voucher,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.clock import Clock
    from p2p.overlay import Stream
    from p2p.reach.host import Link, ReachHost

REQUEST_TIMEOUT = 10.0
"""Seconds that a client has to say what it wants, and a target to answer."""
CHUNK_BYTES = 65_536

_log = structlog.get_logger("p2p.reach")


class RelayServer:
    """Serves hop while `started`.

    Args:
        addresses: returns where this node is reached, to be told to who gets a place.
        changed: called when somebody has got a place.
    """

    def __init__(
        self,
        host: ReachHost,
        addresses: Callable[[], Sequence[str]],
        changed: Callable[[], None],
        *,
        clock: Clock,
        limits: RelayLimits = RelayLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._host = host
        self._addresses = addresses
        self._changed = changed
        self._clock = clock
        self._limits = limits
        self._throttle = Throttle(limits.bytes_per_second)
        self.ledger = RelayLedger(limits)
        self.started = False

    def start(self) -> None:
        """Relay from now on."""
        if not self.started:
            self.started = True
            self._host.serve(HOP, self._serve)

    def stop(self) -> None:
        """Take no more requests; circuits that are open go on."""
        if self.started:
            self.started = False
            self._host.withdraw(HOP)

    def links_changed(self) -> None:
        """Forget the places of peers that are gone."""
        present = {link.peer_id for link in self._host.links()}
        for peer in self.ledger.peers() - present:
            self.ledger.gone(peer)

    async def _serve(self, stream: Stream, link: Link) -> None:
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        try:
            with trio.fail_after(REQUEST_TIMEOUT):
                request = decode_hop(await framed.receive())
        except (WireError, trio.TooSlowError):
            await _refuse(framed, Status.MALFORMED_MESSAGE)
            return
        if request.kind is Kind.RESERVE:
            await self._reserve(framed, link)
        elif request.kind is Kind.CONNECT and request.peer is not None:
            await self._connect(framed, link, request.peer)
        else:
            await _refuse(framed, Status.UNEXPECTED_MESSAGE)

    async def _reserve(self, framed: Framed, link: Link) -> None:
        status = self.ledger.reserve(self._clock.monotonic(), link.peer_id, link.address, link.path)
        if status is not Status.OK:
            _log.debug("refused a relay place", peer=link.peer, status=status.name)
            await _refuse(framed, status)
            return
        self._changed()
        expire = self._clock.utc_ns() // NANOSECONDS + self._limits.reservation_seconds
        voucher = sign_voucher(Voucher(self._host.peer_id, link.peer_id, expire), self._host.key)
        here = tuple(self._addresses())[:MAX_ADDRESSES]
        reservation = Reservation(expire, here, voucher)
        answer = HopMessage(Kind.STATUS, reservation=reservation, limit=self._limits.told, status=Status.OK)
        await framed.send(encode_hop(answer))
        await framed.stream.aclose()

    async def _connect(self, framed: Framed, link: Link, target: str) -> None:
        status = Status.PERMISSION_DENIED if link.path == "relayed" else Status.OK
        if status is Status.OK:
            status = self.ledger.open(self._clock.monotonic(), link.peer_id, target)
        if status is not Status.OK:
            await _refuse(framed, status)
            return
        try:
            far = await self._reach(link, target)
            if far is None:
                await _refuse(framed, Status.CONNECTION_FAILED)
                return
            try:
                ok = HopMessage(Kind.STATUS, limit=self._limits.told, status=Status.OK)
                await framed.send(encode_hop(ok))
                await self._join(framed, far)
            finally:
                far.stream.reset()
                framed.stream.reset()
        finally:
            self.ledger.close(link.peer_id, target)

    async def _reach(self, source: Link, target: str) -> Framed | None:
        """Open the second half of a circuit."""
        direct = (one for one in self._host.links() if one.peer_id == target and one.path == "direct")
        link = next(direct, None)
        if link is None:
            return None
        with trio.move_on_after(REQUEST_TIMEOUT):
            try:
                stream = await link.open_stream(STOP)
            except OverlayError as error:
                _log.debug("a relay place is of no use", peer=link.peer, error=str(error))
                return None
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            kept = False
            try:
                ask = StopMessage(Kind.CONNECT, peer=source.peer_id, limit=self._limits.told)
                await framed.send(encode_stop(ask))
                answer = decode_stop(await framed.receive())
                kept = answer.kind is Kind.STATUS and answer.status is Status.OK
                return framed if kept else None
            except (WireError, StreamBroken) as error:
                _log.debug("a target does not take a circuit", peer=link.peer, error=str(error))
            finally:
                if not kept:
                    stream.reset()
        return None

    async def _join(self, near: Framed, far: Framed) -> None:
        """Carry bytes both ways until both ends have finished, one breaks, or the limits are reached."""
        with trio.move_on_after(self._limits.circuit_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far, nursery.cancel_scope)
                nursery.start_soon(self._carry, far, near, nursery.cancel_scope)

    async def _carry(self, source: Framed, sink: Framed, both: trio.CancelScope) -> None:
        left = self._limits.circuit_bytes
        data = source.unread
        try:
            while True:
                if data:
                    left -= len(data)
                    if left < 0:
                        break
                    await sink.stream.send_all(data)
                    await trio.sleep(self._throttle.delay(self._clock.monotonic(), len(data)))
                data = await source.stream.receive_some(CHUNK_BYTES)
                if not data:
                    await sink.stream.send_eof()
                    return
        except StreamBroken:
            both.cancel()
            return
        both.cancel()


async def _refuse(framed: Framed, status: Status) -> None:
    with suppress(StreamBroken):
        await framed.send(encode_hop(HopMessage(Kind.STATUS, status=status)))
        await framed.stream.aclose()
