"""`DialBackServer` dials back for others; `DialBackClient` has others dial this node. Drivers of `autonat`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.overlay import OverlayError, PeerUnreachable, StreamBroken
from p2p.protobuf import WireError
from p2p.reach.autonat import LEAST_DATA, MOST_DATA, DialBackDesk, Refused, ServerLimits
from p2p.reach.autonat_wire import (
    DIAL_BACK,
    DIAL_BACK_TAKEN,
    DIAL_REQUEST,
    MAX_DATA_BYTES,
    MAX_MESSAGE_BYTES,
    Answer,
    DialData,
    DialDataRequest,
    Dialled,
    DialRequest,
    DialResponse,
    decode,
    decode_dial_back,
    encode,
    encode_dial_back,
)
from p2p.reach.framing import Framed
from p2p.reach.judge import bare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.overlay import Stream
    from p2p.reach.host import Link, ReachHost

REQUEST_TIMEOUT = 15.0
DIAL_TIMEOUT = 10.0
ASK_TIMEOUT = 40.0
"""Seconds for all of a request, on the client's side."""
GRACE = 5.0
"""Seconds that a nonce may arrive after the server's word that it was brought."""

_log = structlog.get_logger("p2p.reach")


class DialBackServer:
    """Dials back for others, within limits."""

    def __init__(
        self,
        host: ReachHost,
        *,
        clock: Clock,
        entropy: Entropy,
        limits: ServerLimits = ServerLimits(),  # noqa: B008 - frozen
    ) -> None:
        self._host = host
        self._clock = clock
        self._chance = entropy.jitter
        self._desk = DialBackDesk(limits)

    def start(self) -> None:
        """Serve."""
        self._host.serve(DIAL_REQUEST, self._serve)

    async def _serve(self, stream: Stream, link: Link) -> None:
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        try:
            with trio.fail_after(REQUEST_TIMEOUT):
                request = decode(await framed.receive())
            if not isinstance(request, DialRequest) or link.path == "relayed":
                raise WireError("that is no request, or one of a peer whose place is not known")
        except (WireError, trio.TooSlowError):
            await _answer(framed, DialResponse(Answer.REJECTED))
            return
        now = self._clock.monotonic()
        dial = self._desk.begin(
            now, link.peer, link.address, request.addresses, self._host.acceptable, self._chance
        )
        if isinstance(dial, Refused):
            await _answer(framed, DialResponse(Answer.REJECTED if dial.busy else Answer.DIAL_REFUSED))
            return
        try:
            if dial.data:
                with trio.fail_after(REQUEST_TIMEOUT):
                    await framed.send(encode(DialDataRequest(dial.index, dial.data)))
                    await _receive_data(framed, dial.data)
                # Not at once, so that many servers asked together do not dial a target in the same moment.
                await trio.sleep(self._chance.random() * 3)
            dialled = await self._dial(link, dial.address, request.nonce)
        except (WireError, trio.TooSlowError):
            await _answer(framed, DialResponse(Answer.REJECTED))
            return
        finally:
            self._desk.end()
        await _answer(framed, DialResponse(Answer.OK, dial.index, dialled))

    async def _dial(self, link: Link, address: str, nonce: int) -> Dialled:
        result = Dialled.DIAL_ERROR
        with trio.move_on_after(DIAL_TIMEOUT):
            try:
                async with self._host.probe(address, link.peer_id, DIAL_BACK) as stream:
                    result = Dialled.DIAL_BACK_ERROR
                    framed = Framed(stream, MAX_MESSAGE_BYTES)
                    await framed.send(encode_dial_back(nonce))
                    await framed.receive()
                    result = Dialled.OK
            except (OSError, OverlayError, WireError) as error:
                _log.debug("a dial-back failed", peer=link.peer, address=address, error=str(error))
        return result


class DialBackClient:
    """Has peers dial this node."""

    def __init__(self, host: ReachHost, *, entropy: Entropy) -> None:
        self._host = host
        self._entropy = entropy
        self._awaited: dict[int, trio.Event] = {}

    def start(self) -> None:
        """Take nonces, from whoever brings one that was given out."""
        self._host.serve(DIAL_BACK, self._take, before_hello=True)

    async def ask(self, link: Link, addresses: Sequence[str]) -> tuple[str, bool]:
        """Have the peer dial the first of `addresses` that it can; return which it was, and whether it got in.

        Raises:
            OverlayError: it does not say, or says what is not so.
        """
        nonce = int.from_bytes(self._entropy.token_bytes(8), "little")
        arrived = self._awaited[nonce] = trio.Event()
        try:
            with trio.fail_after(ASK_TIMEOUT):
                response = await self._request(link, DialRequest(tuple(addresses), nonce))
                if response.answer is not Answer.OK or response.index >= len(addresses):
                    raise PeerUnreachable(f"{link.peer} did not dial back: it said {response.answer.name}")
                address = bare(addresses[response.index])
                if response.dialled is not Dialled.OK:
                    return address, arrived.is_set()
                with trio.move_on_after(GRACE):
                    await arrived.wait()
        except trio.TooSlowError as error:
            raise PeerUnreachable(f"{link.peer} did not say how its dial-back went") from error
        except WireError as error:
            raise StreamBroken(f"{link.peer} does not speak AutoNAT v2: {error}") from error
        finally:
            del self._awaited[nonce]
        if not arrived.is_set():
            raise PeerUnreachable(f"{link.peer} says that it got in, but its nonce has not come")
        return address, True

    async def _request(self, link: Link, request: DialRequest) -> DialResponse:
        stream = await link.open_stream(DIAL_REQUEST)
        try:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.send(encode(request))
            answer = decode(await framed.receive())
            if isinstance(answer, DialDataRequest):
                if not LEAST_DATA <= answer.count <= MOST_DATA or answer.index >= len(request.addresses):
                    raise PeerUnreachable(f"{link.peer} wants {answer.count} bytes for a dial-back")
                for left in range(answer.count, 0, -MAX_DATA_BYTES):
                    await framed.send(encode(DialData(bytes(min(left, MAX_DATA_BYTES)))))
                answer = decode(await framed.receive())
            if not isinstance(answer, DialResponse):
                raise WireError("the answer is none")
            return answer
        finally:
            stream.reset()

    async def _take(self, stream: Stream, link: Link) -> None:
        framed = Framed(stream, MAX_MESSAGE_BYTES)
        with trio.move_on_after(REQUEST_TIMEOUT):
            arrived = self._awaited.get(decode_dial_back(await framed.receive()))
            if arrived is not None and link.path == "direct":
                arrived.set()
                await framed.send(DIAL_BACK_TAKEN)
                await stream.aclose()
                return
        stream.reset()


async def _receive_data(framed: Framed, count: int) -> None:
    while count > 0:
        message = decode(await framed.receive())
        # Tiny pieces would cost this node more than the peer.
        if not isinstance(message, DialData) or not min(count, 100) <= len(message.data) <= MAX_DATA_BYTES:
            raise WireError("that is not the data that was asked for")
        count -= len(message.data)


async def _answer(framed: Framed, response: DialResponse) -> None:
    with suppress(StreamBroken):
        await framed.send(encode(response))
        await framed.stream.aclose()
