"""`RelayClient`: keeps places at relays, takes the circuits that come from there, and dials through relays of others.

The driver of `relay_choice`. The relays that are held and the addresses that lead through them are `relays`; whoever
makes this is told by `changed` when they are others.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import structlog
import trio

from p2p.clock import NANOSECONDS
from p2p.multiaddr import InvalidMultiaddr, parse
from p2p.overlay import OverlayError, PeerUnreachable
from p2p.protobuf import WireError
from p2p.reach import circuit
from p2p.reach.framing import Framed
from p2p.reach.judge import bare, network_of
from p2p.reach.relay_choice import Candidate, RelayChoice
from p2p.reach.relay_wire import (
    HOP,
    MAX_MESSAGE_BYTES,
    STOP,
    HopMessage,
    Kind,
    Reservation,
    Status,
    decode_hop,
    encode_hop,
    read_voucher,
)
from p2p.reach.verdict import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2p.clock import Clock
    from p2p.entropy import Entropy
    from p2p.overlay import Stream
    from p2p.reach.host import Link, ReachHost

REQUEST_TIMEOUT = 15.0
"""Seconds that a relay has to answer."""
ACCEPT_TIMEOUT = 20.0
"""Seconds that who comes by a circuit has to prove who it is."""
MAX_ADDRESSES = 2
"""Addresses of one relay that are announced."""
MAX_CIRCUITS = 32
"""Circuits that are taken from one relay at once. Each is a session of somebody whose address is not seen, so that
nothing else bounds how many one stranger makes."""
MAX_LIFE = 86_400.0

_log = structlog.get_logger("p2p.reach")


class RelayClient:
    """One node's relays.

    Args:
        changed: called when `relays` has changed.
    """

    def __init__(
        self, host: ReachHost, changed: Callable[[], None], *, clock: Clock, entropy: Entropy
    ) -> None:
        self._host = host
        self._changed = changed
        self._clock = clock
        self._chance = entropy.jitter
        self._choice = RelayChoice(0)
        self._relays: dict[str, Relay] = {}
        self._circuits: Counter[str] = Counter()
        self._news = trio.Event()

    @property
    def relays(self) -> tuple[Relay, ...]:
        """Return the relays that keep a place for this node."""
        return tuple(self._relays.values())

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return where this node is reached through them."""
        return tuple(address for relay in self._relays.values() for address in relay.addresses)

    def want(self, count: int) -> None:
        """Keep places at `count` relays; none when it is 0."""
        if count != self._choice.wanted:
            self._choice.wanted = count
            if not count:
                self._drop(self._choice.release())
            self._news.set()

    def know(self, serving: Iterable[Link]) -> None:
        """Say on which links a relay is at the other end; whoever is not among them is lost."""
        candidates = [
            Candidate(link.peer, network_of(link.address)) for link in serving if link.path == "direct"
        ]
        self._drop(self._choice.know(candidates))
        self._news.set()

    def start(self) -> None:
        """Take circuits from relays."""
        self._host.serve(STOP, self._take_circuit)

    async def run(self) -> None:
        """Keep as many places as are wanted, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                now = self._clock.monotonic()
                for peer in self._choice.ask(now, self._chance):
                    nursery.start_soon(self._reserve, peer)
                self._drop([peer for peer in self._relays if peer not in self._choice.held])
                with trio.move_on_after(max(self._choice.next_event() - now, 0.001)):
                    await self._news.wait()

    async def open_circuit(self, address: str) -> circuit.CircuitStream:
        """Return a byte stream through a relay, on which a session has to be made.

        Args:
            address: `<where the relay is>/p2p/<relay>/p2p-circuit/p2p/<target>`.

        Raises:
            OverlayError: the relay cannot be reached, or does not reach the target.
        """
        relay_address, relay, target = split(address)
        if target in (relay, self._host.peer_id):
            raise PeerUnreachable(f"{target} is not reached through {relay}")
        link = self._link_with(relay)
        if link is None:
            await self._host.connect(relay_address)
            link = self._link_with(relay)
            if link is None:
                raise PeerUnreachable(f"the relay {relay} hung up")
        return await circuit.dial(link, target)

    # Reserving.

    async def _reserve(self, peer: str) -> None:
        granted = False
        try:
            link = self._link_of(peer)
            if link is not None:
                with trio.move_on_after(REQUEST_TIMEOUT):
                    self._granted(link, await self._ask(link))
                    granted = True
        except (OverlayError, WireError) as error:
            _log.debug("a relay gives no place", peer=peer, error=str(error))
        finally:
            if not granted:
                self._choice.refused(self._clock.monotonic(), peer, self._chance)
            self._news.set()

    async def _ask(self, link: Link) -> Reservation:
        stream = await link.open_stream(HOP)
        try:
            framed = Framed(stream, MAX_MESSAGE_BYTES)
            await framed.send(encode_hop(HopMessage(Kind.RESERVE)))
            answer = decode_hop(await framed.receive())
        finally:
            stream.reset()
        if answer.status is not Status.OK or answer.reservation is None:
            raise PeerUnreachable(f"it said {answer.status.name}")
        if (
            answer.reservation.voucher
        ):  # not enforced by the specification, but one that lies is not relied on
            voucher = read_voucher(answer.reservation.voucher)
            if (voucher.relay, voucher.peer) != (link.peer_id, self._host.peer_id):
                raise WireError("the voucher is for somebody else")
        return answer.reservation

    def _granted(self, link: Link, reservation: Reservation) -> None:
        life = min(reservation.expire - self._clock.utc_ns() / NANOSECONDS, MAX_LIFE)
        addresses = [a for a in reservation.addresses if self._host.acceptable(a) and "/p2p-circuit" not in a]
        if link.direction == "out" and bare(link.address):  # this is where it answered
            addresses.insert(0, bare(link.address))
        ours = dict.fromkeys(_circuit(address, link.peer_id, self._host.peer_id) for address in addresses)
        if not ours:
            raise PeerUnreachable("it does not say where it is reached")
        given_up = self._choice.granted(self._clock.monotonic(), link.peer, life)
        if link.peer in self._choice.held:
            if link.peer not in self._relays:
                _log.info("a relay keeps a place for this node", peer=link.peer, seconds=round(life))
            expires = reservation.expire * NANOSECONDS
            self._relays[link.peer] = Relay(link.peer, tuple(ours)[:MAX_ADDRESSES], expires)
            self._changed()
        self._drop(given_up)

    def _drop(self, peers: Iterable[str]) -> None:
        dropped = [peer for peer in peers if self._relays.pop(peer, None) is not None]
        if dropped:
            _log.info("relays no longer kept", peers=dropped)
            self._changed()

    # Circuits that come.

    async def _take_circuit(self, stream: Stream, link: Link) -> None:
        self._circuits[link.peer] += 1
        try:
            await self._carry_circuit(stream, link)
        finally:
            self._circuits[link.peer] -= 1
            if not self._circuits[link.peer]:
                del self._circuits[link.peer]

    def _willing(self, relay: str) -> bool:
        return relay in self._choice.held and self._circuits[relay] <= MAX_CIRCUITS

    async def _carry_circuit(self, stream: Stream, link: Link) -> None:
        try:
            with trio.fail_after(ACCEPT_TIMEOUT):
                taken = await circuit.answer(stream, willing=self._willing(link.peer))
                if taken is None:
                    return
                peer, carried = taken
                await self._host.establish(
                    carried, initiator=False, address=_through(link), expected=peer, path="relayed"
                )
        except (OverlayError, WireError, trio.TooSlowError) as error:
            _log.debug("a circuit came to nothing", relay=link.peer, error=str(error))
            stream.reset()
            return
        await carried.closed.wait()

    def _link_of(self, peer: str) -> Link | None:
        links = (one for one in self._host.links() if one.peer == peer and one.path == "direct")
        return next(links, None)

    def _link_with(self, peer_id: str) -> Link | None:
        links = (one for one in self._host.links() if one.peer_id == peer_id and one.path == "direct")
        return next((one for one in links if not one.closed), None)


def split(address: str) -> tuple[str, str, str]:
    """Return (where the relay is, relay, target) of a circuit address. Raises PeerUnreachable if it is none."""
    before, found, after = address.partition("/p2p-circuit")
    try:
        relay, target = parse(before).value_of("p2p"), parse(after).value_of("p2p") if after else None
    except InvalidMultiaddr as error:
        raise PeerUnreachable(f"{address[:128]!r} is not an address through a relay: {error}") from error
    if not found or relay is None or target is None:
        raise PeerUnreachable(f"{address[:128]!r} is not an address through a relay")
    return before, relay, target


def _circuit(relay_address: str, relay: str, me: str) -> str:
    where = relay_address.partition("/p2p/")[0]
    return f"{where}/p2p/{relay}/p2p-circuit/p2p/{me}"


def _through(link: Link) -> str:
    where = bare(link.address)
    return f"{where}/p2p/{link.peer_id}/p2p-circuit"
