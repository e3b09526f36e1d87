"""`Discovery`: drives the policy on an overlay, and says hello for it.

An overlay makes one, hands it new sessions (as its `Admission`) and runs it beside its own tasks. It dials by
`Overlay.connect`, which says hello on its own; here, hello is said again every few minutes, which carries
news of other peers and notices a peer that has gone silent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import trio

from p2p.discovery.admission import ThisNode
from p2p.discovery.aliases import AliasTable
from p2p.discovery.exchange import HelloRefused, answer, greet, receive_greeting
from p2p.discovery.messages import (
    HELLO,
    HELLO_MAJOR,
    MAX_ADDRESSES,
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    Hello,
    mismatch,
)
from p2p.discovery.policy import DiscoveryPolicy, DiscoverySettings
from p2p.discovery.skew import ClockSkew
from p2p.events import DialFailed, PeerDropped, logged
from p2p.identity import NodeId
from p2p.identity.alias import MAX_ALIASES
from p2p.overlay import Overlay, OverlayError, PeerChange, PeerUnreachable, is_guest, protocol_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.clock import Clock
    from p2p.discovery.peer_store import PeerStore
    from p2p.discovery.policy import Dial
    from p2p.entropy import Entropy
    from p2p.events import Report
    from p2p.identity.alias import AliasRecord
    from p2p.overlay import Stream

REFRESH_TIMEOUT = 30.0
"""Seconds within which a peer has to answer a repeated hello before its session is ended."""
LOOK_INTERVAL = 30.0
"""Seconds between two looks at whether what this node says of itself has changed; then peers hear of it soon."""
SAVE_INTERVAL = 60.0
"""Seconds between two savings of the address book."""
LAST_SAVE_TIMEOUT = 1.0

_log = structlog.get_logger("p2p.discovery")


class Discovery:
    """Finds peers for one overlay, and admits them.

    Args:
        me: this node.
        network: the overlay's network; peers of another are dropped.
        listen: returns the addresses to tell peers.
        bootstrap: multiaddrs to keep dialling.
        agent: what this node calls itself, for people to read.
        store: where the address book is kept between runs, if anywhere.
        acceptable: whether an address that a peer told may be tried.
        version, oldest: the versions of the protocols that this node speaks.
        aliases: returns the records of further NodeIds that this node speaks for.
        report: is told of dials that fail and of peers that stop answering.
    """

    def __init__(
        self,
        me: NodeId,
        network: str,
        listen: Callable[[], Sequence[str]],
        *,
        clock: Clock,
        entropy: Entropy,
        bootstrap: Sequence[str] = (),
        settings: DiscoverySettings = DiscoverySettings(),  # noqa: B008 - frozen
        agent: str = "golem-p2p",
        store: PeerStore | None = None,
        acceptable: Callable[[str], bool] = lambda _: True,
        version: int = PROTOCOL_VERSION,
        oldest: int = OLDEST_VERSION,
        aliases: Callable[[], Sequence[AliasRecord]] = tuple,
        report: Report = logged,
    ) -> None:
        self.policy = DiscoveryPolicy(me, bootstrap, settings, acceptable)
        self._log = _log.bind(node=me)
        self._network = network
        self._listen = listen
        self._clock = clock
        self._chance = entropy.jitter
        self._agent = agent[:128]
        self._store = store
        self._version, self._oldest = version, oldest
        self._own_aliases = aliases
        self._aliases = AliasTable(network)
        self._report = report
        self.skew = ClockSkew()
        """How far this node's clock is from its peers'."""
        self._news = trio.Event()

    # As `Admission`.

    @property
    def protocol(self) -> str:
        """Return the protocol id of hello."""
        return protocol_id(self._network, HELLO, HELLO_MAJOR)

    @property
    def network(self) -> str:
        """Return the network that peers have to be of."""
        return self._network

    async def greet(self, stream: Stream) -> str:
        """Say hello on a stream that this node opened; return the peer's agent. Raises HelloRefused."""
        asked_ns = self._clock.utc_ns()
        theirs = await greet(stream, self._hello(stream.peer))
        self.skew.told(stream.peer, theirs.utc_ms, (asked_ns + self._clock.utc_ns()) // 2)
        self._show_aliases(stream.peer, theirs)
        self._take_in(stream.peer, theirs)
        return theirs.agent

    async def answer(self, stream: Stream, admit: Callable[[str], None]) -> None:
        """Answer a hello; `admit` is called before the answer goes out, if it fits. Raises HelloRefused."""
        theirs = await receive_greeting(stream)
        ours = self._hello(stream.peer)
        if mismatch(ours, theirs) is None:
            self._show_aliases(stream.peer, theirs)  # first, for whoever hears of the peer now
            self.skew.told(stream.peer, theirs.utc_ms, self._clock.utc_ns())
            admit(theirs.agent)
            self._take_in(stream.peer, theirs)
        await answer(stream, ours, theirs)

    def _hello(self, peer: NodeId) -> Hello:
        return Hello(
            network=self._network,
            agent=self._agent,
            version=self._version,
            oldest=self._oldest,
            addresses=tuple(self._listen())[:MAX_ADDRESSES],
            peers=tuple(self.policy.tell(peer, self._chance)),
            aliases=tuple(self._own_aliases())[:MAX_ALIASES],
            utc_ms=self._clock.utc_ns() // 1_000_000,
        )

    def _show_aliases(self, peer: NodeId, hello: Hello) -> None:
        self._aliases.shown(peer, hello.aliases, self._clock.utc_ns())

    def _take_in(self, peer: NodeId, hello: Hello) -> None:
        now = self._clock.monotonic()
        self.policy.told(now, peer, hello.addresses, hello.peers, self._clock.utc_ns())
        self.policy.greeted(now, peer, self._chance)
        self._news.set()

    # For the overlay.

    def aliases_of(self, peer: NodeId) -> frozenset[NodeId]:
        """Return the further NodeIds that `peer` has proven to speak for."""
        return self._aliases.of(peer, self._clock.utc_ns())

    def resolve(self, peer: str) -> str:
        """Return the node that speaks for `peer`: itself, unless it is known only as another's alias."""
        if self.policy.knows(NodeId(peer)):
            return peer
        return self._aliases.main_of(peer, self._clock.utc_ns()) or peer

    # As a task of the overlay.

    async def run(self, overlay: Overlay) -> None:
        """Keep the overlay in peers until cancelled; saves the address book at the end."""
        if self._store is not None:
            self.policy.load(await self._store.load(), self._clock.utc_ns())

        def changed(change: PeerChange) -> None:
            self._changed(NodeId(change.node_id), change.connected)

        stop = overlay.subscribe_peers(changed)
        for peer in overlay.peers():
            self._changed(NodeId(peer.node_id), connected=True)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._save_now_and_then)
                nursery.start_soon(self._look_at_ourselves)
                while True:
                    self._news = trio.Event()
                    now = self._clock.monotonic()
                    for dial in self.policy.dials(now, self._chance):
                        nursery.start_soon(self._dial, overlay, dial)
                    for stale in self.policy.refreshes(now, self._chance):
                        nursery.start_soon(self._refresh, overlay, stale)
                    with trio.move_on_after(max(self.policy.next_event() - now, 0.001)):
                        await self._news.wait()
        finally:
            stop()
            with trio.move_on_after(LAST_SAVE_TIMEOUT) as scope:
                scope.shield = True
                await self._save()

    def _changed(self, peer: NodeId, connected: bool) -> None:
        report = self.policy.connected if connected else self.policy.disconnected
        report(self._clock.monotonic(), peer, self._chance)
        if not connected:
            self.skew.gone(peer)
        self._news.set()

    def dialled(self, address: str, peer: NodeId) -> None:
        """Note that a dial of `address`, whoever asked for it, proved `peer` to be there."""
        if is_guest(peer):  # no node to know, nor to tell of
            self.failed(address)
        else:
            self.policy.dialled(self._clock.utc_ns(), address, peer)

    def failed(self, address: str) -> None:
        """Note that nobody, or not the right one, answered at `address`."""
        self.policy.dial_failed(self._clock.monotonic(), address, self._chance)

    def suggest(self, peer: NodeId, address: str) -> None:
        """Take in a claim that came from elsewhere than a peer, such as the local network."""
        self.policy.suggest(peer, address)
        self._news.set()

    def signed(self, peer: NodeId, addresses: Sequence[str]) -> None:
        """Take in where a signed record says that `peer` is."""
        self.policy.signed(peer, addresses)
        self._news.set()

    async def _dial(self, overlay: Overlay, dial: Dial) -> None:
        found = None
        try:
            found = await overlay.connect(dial.address)
        except ThisNode:
            found = overlay.node_id
        except PeerUnreachable as error:
            self._report(DialFailed(dial.address, dial.bootstrap, str(error)))
        finally:
            if found is None:
                self.failed(dial.address)
            else:
                self.dialled(dial.address, found)
            self._news.set()

    async def _refresh(self, overlay: Overlay, peer: NodeId) -> None:
        try:
            with trio.fail_after(REFRESH_TIMEOUT):
                stream = await overlay.open_stream(peer, self.protocol)
                try:
                    await self.greet(stream)
                    await stream.aclose()
                except BaseException:
                    stream.reset()
                    raise
        except (OverlayError, HelloRefused, trio.TooSlowError) as error:
            reason = str(error) or f"no answer within {REFRESH_TIMEOUT:g} s"
            why = error.why if isinstance(error, HelloRefused) else "silent"
            dialled = any(info.node_id == peer and info.direction == "out" for info in overlay.peers())
            self._report(PeerDropped(peer, dialled, why, f"when hello was said again: {reason}"))
            await overlay.disconnect(peer)

    async def _look_at_ourselves(self) -> None:
        said = self._of_ourselves()
        while True:
            await trio.sleep(LOOK_INTERVAL)
            if said != (said := self._of_ourselves()):
                self.policy.refresh_all(self._clock.monotonic())
                self._news.set()

    def _of_ourselves(self) -> tuple[Sequence[str], Sequence[AliasRecord]]:
        return tuple(self._listen()), tuple(self._own_aliases())

    async def _save_now_and_then(self) -> None:
        while True:
            await trio.sleep(SAVE_INTERVAL)
            await self._save()

    async def _save(self) -> None:
        if self._store is None:
            return
        try:
            await self._store.save(self.policy.records())
        except OSError as error:
            self._log.warning("the address book cannot be saved", error=str(error))
