"""`Puncher`: makes direct links of relayed ones, and retires those that have become needless. The driver of `punch`."""

from __future__ import annotations

import functools
import socket
from collections import deque
from typing import TYPE_CHECKING, Literal

import structlog
import trio

from p2p.overlay import OverlayError, StreamBroken
from p2p.protobuf import WireError
from p2p.reach import punch_wire
from p2p.reach.framing import Framed
from p2p.reach.identify import identify
from p2p.reach.judge import place_of
from p2p.reach.punch import ATTEMPT_SECONDS, ATTEMPTS, PATIENCE, Answering, Asking, pauses, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.clock import Clock
    from p2p.overlay import Stream
    from p2p.reach.host import Link, ReachHost

DIRECT_SECONDS = 4.0
"""That a plain dial of a peer's public addresses may take, before holes are punched."""
MESSAGE_TIMEOUT = 15.0
ANSWER_WINDOW = 30.0
"""Seconds in which a peer may ask as often as there are attempts, each time on another stream if it likes."""
SETTLE = 0.05
"""Seconds to let links gather before looking at them."""
MAX_AT_ONCE = 16
"""Peers with whom this node punches at the same time."""

MAX_REMEMBERED = 128
"""Peers of whom it is known how the last attempt went."""

Outcome = Literal["dialled", "punched", "relayed"]
"""How a relayed session that a peer made went on: a plain dial of the peer worked, a hole did, or neither."""

_log = structlog.get_logger("p2p.reach")


class Puncher:
    """Punches holes for one node.

    Args:
        addresses: returns where others see this node, likeliest first.
    """

    def __init__(self, host: ReachHost, addresses: Callable[[], Sequence[str]], *, clock: Clock) -> None:
        self._host = host
        self._addresses = addresses
        self._clock = clock
        self.outcomes: dict[str, Outcome] = {}
        """By peer; the latest of at most `MAX_REMEMBERED`."""
        self._tried: set[Link] = set()
        self._retired: set[Link] = set()
        self._busy: set[str] = set()
        self._answered: deque[tuple[float, str]] = deque()

    def start(self) -> None:
        """Answer peers that ask for a hole."""
        self._host.serve(punch_wire.DCUTR, self._answer)

    async def run(self) -> None:
        """Upgrade relayed links that peers have made, until cancelled."""
        async with trio.open_nursery() as nursery:
            news = trio.Event()
            stop = self._host.subscribe(lambda: news.set())
            try:
                while True:
                    self._links_changed(nursery)
                    await news.wait()
                    await trio.sleep(SETTLE)  # many may come at once
                    news = trio.Event()
            finally:
                stop()

    def _links_changed(self, nursery: trio.Nursery) -> None:
        links = self._host.links()
        direct = {link.peer for link in links if link.path == "direct" and not link.closed}
        self._tried &= set(links)
        self._retired &= set(links)
        for link in links:
            if link.path == "direct" or link.closed:
                continue
            if link.peer in direct:
                if link not in self._retired:
                    self._retired.add(link)
                    nursery.start_soon(link.retire)
            elif self._is_to_be_tried(link):
                self._tried.add(link)
                self._busy.add(link.peer)
                nursery.start_soon(self._upgrade, link)

    def _is_to_be_tried(self, link: Link) -> bool:
        """Return whether this node is to make a relayed link direct: whom a peer has reached does it, and once."""
        return (
            link.direction == "in"
            and link not in self._tried
            and link.peer not in self._busy
            and len(self._busy) < MAX_AT_ONCE
        )

    # B's part.

    async def _upgrade(self, link: Link) -> None:
        outcome: Outcome = "relayed"
        try:
            if await self._unilateral(link):
                outcome = "dialled"
            elif await self._ask(link):
                outcome = "punched"
        except (OverlayError, WireError, trio.TooSlowError) as error:
            _log.debug("hole punching came to nothing", peer=link.peer, error=str(error))
        finally:
            self._busy.discard(link.peer)
        _log.debug("a session through a relay was tried to be made direct", peer=link.peer, outcome=outcome)
        self.outcomes.pop(link.peer, None)
        self.outcomes[link.peer] = outcome
        if len(self.outcomes) > MAX_REMEMBERED:
            del self.outcomes[next(iter(self.outcomes))]

    async def _unilateral(self, link: Link) -> bool:
        """Dial the peer where it says that it listens, in case it can be dialled."""
        with trio.fail_after(MESSAGE_TIMEOUT):
            told = (await identify(link)).listening
        return await self._dial(link, self._targets(told), client=True, seconds=DIRECT_SECONDS, once=True)

    async def _ask(self, link: Link) -> bool:
        framed = None
        try:
            for _ in range(ATTEMPTS):
                with trio.fail_after(MESSAGE_TIMEOUT):
                    try:
                        framed = framed or await _opened(link)
                        told, wait = await self._agree(framed)
                    except (
                        StreamBroken
                    ):  # the specification keeps the stream for all attempts; go-libp2p does not
                        framed = await _opened(link)
                        told, wait = await self._agree(framed)
                await trio.sleep(wait)
                if await self._dial(link, self._targets(told), client=False):
                    return True
            return False
        finally:
            if framed is not None:
                framed.stream.reset()

    async def _agree(self, framed: Framed) -> tuple[Sequence[str], float]:
        """Agree on an attempt; return what to dial, and in how many seconds."""
        asking = Asking(self._clock.monotonic(), self._addresses())
        await framed.send(punch_wire.encode(asking.hello))
        answer = punch_wire.decode(await framed.receive())
        wait = asking.heard(self._clock.monotonic(), answer)
        await framed.send(punch_wire.encode(punch_wire.HolePunch("sync")))
        return answer.addresses, wait

    # A's part.

    async def _answer(self, stream: Stream, link: Link) -> None:
        if link.path != "relayed" or not self._may_ask(link.peer):
            stream.reset()
            return
        framed = Framed(stream, punch_wire.MAX_MESSAGE_BYTES)
        answering = Answering()
        done = False
        while not done:
            with trio.fail_after(MESSAGE_TIMEOUT + ATTEMPT_SECONDS):
                told = answering.heard(punch_wire.decode(await framed.receive()))
                if told is None:
                    ours = punch_wire.HolePunch(
                        "connect", tuple(self._addresses())[: punch_wire.MAX_ADDRESSES]
                    )
                    await framed.send(punch_wire.encode(ours))
                    continue
                done = await self._dial(link, self._targets(told), client=True)

    def _may_ask(self, peer: str) -> bool:
        """Return whether a peer may have this node dial what it likes; not often, for that costs others too."""
        now = self._clock.monotonic()
        while self._answered and self._answered[0][0] + ANSWER_WINDOW <= now:
            self._answered.popleft()
        asked = sum(other == peer for _, other in self._answered)
        if asked >= ATTEMPTS or len(self._answered) >= MAX_REMEMBERED:
            return False
        self._answered.append((now, peer))
        return True

    # Both.

    def _targets(self, told: Sequence[str]) -> list[str]:
        families = [place[0] for a in self._host.listening() if (place := place_of(a)) is not None]
        return targets(told, self._host.acceptable, families)

    async def _dial(
        self,
        link: Link,
        where: Sequence[str],
        *,
        client: bool,
        seconds: float = ATTEMPT_SECONDS,
        once: bool = False,
    ) -> bool:
        """Dial all of `where` until one leads to the peer or it comes by itself; return whether it did."""
        if not where:
            return self._is_direct(link)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                arrived = nursery.cancel_scope.cancel
                stop = self._host.subscribe(lambda: arrived() if self._is_direct(link) else None)
                try:
                    async with trio.open_nursery() as dials:
                        for address in where:
                            dial = functools.partial(self._dial_one, link, address, client=client, once=once)
                            dials.start_soon(dial)
                finally:
                    stop()
        return self._is_direct(link)

    async def _dial_one(self, link: Link, address: str, *, client: bool, once: bool) -> None:
        for pause in pauses():
            if self._is_direct(link):
                return
            try:
                stream = await self._host.dial_shared(address)
                first = client or await _silent(stream)
                await self._host.establish(
                    stream, initiator=first, address=address, expected=link.peer_id, path="direct"
                )
            except (OSError, OverlayError) as error:
                _log.debug("no direct link yet", peer=link.peer, address=address, error=str(error))
                if once:
                    return
                await trio.sleep(pause)

    def _is_direct(self, link: Link) -> bool:
        links = self._host.links()
        return any(one.peer == link.peer and one.path == "direct" and not one.closed for one in links)


async def _opened(link: Link) -> Framed:
    return Framed(await link.open_stream(punch_wire.DCUTR), punch_wire.MAX_MESSAGE_BYTES)


async def _silent(stream: trio.SocketStream) -> bool:
    """Return whether the other end has said nothing for `PATIENCE`. Raises OSError if it has hung up."""
    try:
        with trio.move_on_after(PATIENCE) as patience:
            if not await stream.socket.recv(1, socket.MSG_PEEK):
                raise OSError("the peer hung up")
    except BaseException:
        stream.socket.close()
        raise
    return patience.cancelled_caught
