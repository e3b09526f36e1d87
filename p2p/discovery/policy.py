"""Whom to know and whom to dial: the address book and the decisions, without I/O.

Bootstrap addresses are dialled again whenever their peer is not connected; others only until there are
`target_peers`, and those that were met before come first of all. What peers tell is a claim: it is bounded for each
teller, evicted first, tried last, and becomes a fact when a dial proves it. `now` (monotonic seconds), `now_ns`
(UTC) and the random generator are arguments. The driver (`p2p.discovery.driver`) does what `dials` and `refreshes`
return and reports back.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from p2p.clock import NANOSECONDS
from p2p.discovery.messages import MAX_ADDRESSES, MAX_TOLD_PEERS, KnownPeer
from p2p.discovery.peer_store import PeerRecord, ProvenAddress
from p2p.identity import NodeId

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Sequence


class DiscoverySettings(msgspec.Struct, frozen=True):
    """How many peers to know and how eagerly. Times are in seconds."""

    target_peers: int = 12
    """Peers that the node tries to be connected to; bootstrap peers count."""
    refresh: float = 180.0
    """Between two exchanges of hello on a session, give or take a quarter. An exchange takes 1.5 kB; that peers are
    there is seen by the sessions' own pings, and what changes of this node is told at once."""
    parallel_dials: int = 4
    """Dials under way at once."""
    first_retry: float = 1.0
    """After the first failure; doubles with each further one."""
    bootstrap_retry: float = 60.0
    """Longest wait before a bootstrap address is tried again."""
    longest_retry: float = 900.0
    """Longest wait before any other address is tried again."""
    max_book: int = 1024
    """Nodes in the address book."""
    max_told: int = 64
    """Nodes in the address book that one peer alone told of."""
    forget_after: float = 14 * 86_400.0
    """Since an address was last proven."""


class Dial(msgspec.Struct, frozen=True):
    """An address to dial now."""

    address: str
    """A multiaddr."""
    expected: NodeId | None
    """Who should be there, if that is known."""
    bootstrap: bool
    """Whether it comes from the bootstrap list."""


class KnownAddress(msgspec.Struct, frozen=True):
    """What the address book has of one address of a node."""

    address: str
    """A multiaddr."""
    proven_ns: int
    """When a session last proved the node to be there, UTC nanoseconds; 0 if none has."""
    failures: int
    """Dials in a row that failed."""
    told_by: str
    """Who alone told of the node; empty if it was met, or told of itself."""


def _same(a: Dial, b: Dial) -> bool:
    return a.address == b.address or (a.expected is not None and a.expected == b.expected)


class _Target:
    """Something to dial, and when it may be tried again."""

    def __init__(self) -> None:
        self.failures = 0
        """Dials in a row that failed."""
        self.short_sessions = 0
        """Sessions in a row that ended soon: a peer that takes dials and hangs up is not dialled each second."""
        self.due = -math.inf


class _Address(_Target):
    def __init__(self) -> None:
        super().__init__()
        self.proven_ns = 0
        """When a dial last found the node here; UTC."""
        self.told_ns = 0
        """When the node itself last said, in a session that proved who it is, that it is here; UTC."""


class _Node:
    def __init__(self, teller: NodeId | None) -> None:
        self.teller = teller
        self.addresses: dict[str, _Address] = {}

    def proven_ns(self) -> int:
        return max((a.proven_ns for a in self.addresses.values()), default=0)


class _Bootstrap(_Target):
    def __init__(self) -> None:
        super().__init__()
        self.node: NodeId | None = None


class _Connection(msgspec.Struct):
    since: float
    refresh_at: float


FORGET_UNPROVEN_AFTER = 3
"""Failures after which an address that nobody ever proved is dropped."""
SHORT_SESSION = 10.0
"""Seconds; a session that lasted less counts against whoever was dialled."""
TOLD_AGAIN = 3
"""Others that a hello tells of when it is not the first on a session. Telling of 32 each time was nine tenths of what
an idle node with 50 peers said."""
MIN_TELLING_INTERVAL = 5.0
"""Seconds within which a peer's further tellings are not taken in."""


class DiscoveryPolicy:
    """The address book of one node, and its decisions.

    Args:
        me: this node; never entered in the book.
        bootstrap: multiaddrs to keep dialling.
        acceptable: whether an address that a peer told may be entered (for instance not a private one).
    """

    def __init__(
        self,
        me: NodeId,
        bootstrap: Sequence[str] = (),
        settings: DiscoverySettings = DiscoverySettings(),  # noqa: B008 - frozen
        acceptable: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._me = me
        self._settings = settings
        self._acceptable = acceptable
        self._bootstrap = {address: _Bootstrap() for address in bootstrap}
        self._book: dict[NodeId, _Node] = {}
        self._connected: dict[NodeId, _Connection] = {}
        self._dialling: dict[str, Dial] = {}
        self._told_at: dict[NodeId, float] = {}
        """When who told something last, the earliest first; what is older than MIN_TELLING_INTERVAL is dropped."""

    def __repr__(self) -> str:
        return f"<DiscoveryPolicy {len(self._connected)} connected, {len(self._book)} known>"

    # What happened.

    def connected(self, now: float, peer: NodeId, chance: random.Random) -> None:
        """Note that there is a session with `peer`."""
        self._connected.setdefault(peer, _Connection(now, self._next_refresh(now, chance)))

    def disconnected(self, now: float, peer: NodeId, chance: random.Random) -> None:
        """Note that the last session with `peer` ended; it may be dialled again after a while."""
        connection = self._connected.pop(peer, None)
        settled = connection is not None and now - connection.since >= SHORT_SESSION
        node = self._book.get(peer)
        targets: list[_Target] = [b for b in self._bootstrap.values() if b.node == peer]
        for target in (*targets, *(node.addresses.values() if node else ())):
            target.short_sessions = 0 if settled else target.short_sessions + 1
            longest = self._settings.bootstrap_retry if target in targets else self._settings.longest_retry
            pause = self._backoff(max(target.short_sessions, target.failures, 1), longest, chance)
            target.due = max(target.due, now + pause)

    def dialled(self, now_ns: int, address: str, peer: NodeId) -> None:
        """Note that a dial of `address` proved `peer` to be there."""
        self._dialling.pop(address, None)
        if address in self._bootstrap:
            bootstrap = self._bootstrap[address]
            bootstrap.node, bootstrap.failures, bootstrap.due = peer, 0, -math.inf
        for other, node in self._book.items():
            if other != peer:
                node.addresses.pop(address, None)
        known = self._enter(peer, None, proven=True)
        if known is not None:
            known.teller = None
            entry = self._address(known, address)
            entry.proven_ns, entry.failures, entry.due = now_ns, 0, -math.inf

    def dial_failed(self, now: float, address: str, chance: random.Random) -> None:
        """Note that nobody, or not the right one, answered at `address`."""
        self._dialling.pop(address, None)
        if address in self._bootstrap:
            bootstrap = self._bootstrap[address]
            bootstrap.failures += 1
            bootstrap.due = now + self._backoff(bootstrap.failures, self._settings.bootstrap_retry, chance)
        for peer, node in list(self._book.items()):
            entry = node.addresses.get(address)
            if entry is None:
                continue
            entry.failures += 1
            entry.due = now + self._backoff(entry.failures, self._settings.longest_retry, chance)
            if not entry.proven_ns and entry.failures >= FORGET_UNPROVEN_AFTER:
                del node.addresses[address]
                if not node.addresses and peer not in self._connected:
                    del self._book[peer]

    def told(
        self,
        now: float,
        teller: NodeId,
        own: Sequence[str],
        others: Iterable[KnownPeer],
        now_ns: int = 0,
    ) -> None:
        """Take in what a peer says of itself and of others. Tellings in quick succession are not taken in.

        Args:
            now_ns: UTC; by it is judged, in a later run, whether the peer's own addresses are still worth a try.
        """
        while self._told_at and now - next(iter(self._told_at.values())) >= MIN_TELLING_INTERVAL:
            del self._told_at[next(iter(self._told_at))]
        if teller in self._told_at:
            return
        self._told_at[teller] = now
        self._claim(teller, own, teller)
        entered = self._book[teller].addresses if teller in self._book else {}
        for address in own:
            if address in entered:
                entered[address].told_ns = now_ns
        for other in others:
            self._claim(NodeId(other.node_id), other.addresses, teller)

    def greeted(self, now: float, peer: NodeId, chance: random.Random) -> None:
        """Note that hello was exchanged with `peer`, whoever began: neither end need do so again for a while."""
        connection = self._connected.get(peer)
        if connection is not None:
            connection.refresh_at = self._next_refresh(now, chance)

    def suggest(self, peer: NodeId, address: str) -> None:
        """Enter a claim that no peer made; bounded as if this node were its teller."""
        self._claim(peer, [address], self._me)

    def signed(self, peer: NodeId, addresses: Sequence[str]) -> None:
        """Enter where a signed record says that `peer` is: as good a claim as one that it makes at hello."""
        self._claim(peer, addresses, peer)

    # What to do.

    def dials(self, now: float, chance: random.Random) -> list[Dial]:
        """Return what to dial now; each has to be reported with `dialled` or `dial_failed`.

        Who was met before comes first, then the bootstrap list, then what was only told: a node that starts again
        finds its way by itself, and spares those on everybody's list. One dial is left for the list all the same,
        since a node that was away for long may know none but the gone.
        """
        free = self._settings.parallel_dials - len(self._dialling)
        missing = self._settings.target_peers - len(self._connected) - len(self._dialling)
        first = [
            Dial(address, bootstrap.node, bootstrap=True)
            for address, bootstrap in self._bootstrap.items()
            if bootstrap.due <= now and self._wanted(address, bootstrap.node)
        ]
        met, others = self._ranked(now, chance) if missing > 0 and free > 0 else ([], [])
        chosen = met[: max(min(missing, free - bool(first)), 0)]
        for wave, room in ((first, free), (met, min(free, missing)), (others, min(free, missing))):
            for dial in wave:
                if len(chosen) < room and not any(_same(dial, other) for other in chosen):
                    chosen.append(dial)
        self._dialling.update((dial.address, dial) for dial in chosen)
        return chosen

    def _ranked(self, now: float, chance: random.Random) -> tuple[list[Dial], list[Dial]]:
        """Return whom to dial, one address each, the likeliest first: those met where they were last, the others."""
        ranked = sorted(
            (
                not (entry.proven_ns or entry.told_ns),
                not entry.proven_ns,
                entry.failures,
                chance.random(),
                address,
                peer,
            )
            for peer, address, entry in self._candidates()
            if entry.due <= now
        )
        met: dict[NodeId, Dial] = {}
        others: dict[NodeId, Dial] = {}
        for never_met, _, failures, _, address, peer in ranked:
            if peer not in met and peer not in others:
                (others if never_met or failures else met)[peer] = Dial(address, peer, bootstrap=False)
        return list(met.values()), list(others.values())

    def refreshes(self, now: float, chance: random.Random) -> list[NodeId]:
        """Return the peers to exchange hello with now, and schedule their next exchange."""
        due = [peer for peer, connection in self._connected.items() if connection.refresh_at <= now]
        for peer in due:
            self._connected[peer].refresh_at = self._next_refresh(now, chance)
        return due

    def refresh_all(self, now: float) -> None:
        """Have hello said again to everybody at once: there is news of this node itself."""
        for connection in self._connected.values():
            connection.refresh_at = now

    def next_event(self) -> float:
        """Return when `dials` or `refreshes` may next return something, if nothing else happens."""
        due = [connection.refresh_at for connection in self._connected.values()]
        if len(self._dialling) < self._settings.parallel_dials:
            due += [b.due for address, b in self._bootstrap.items() if self._wanted(address, b.node)]
            if len(self._connected) + len(self._dialling) < self._settings.target_peers:
                due += [entry.due for _, _, entry in self._candidates()]
        return min(due, default=math.inf)

    def knows(self, peer: NodeId) -> bool:
        """Return whether `peer` is connected, or was found where it is said to be."""
        node = self._book.get(peer)
        return peer in self._connected or (node is not None and node.proven_ns() > 0)

    def addresses_of(self, peer: NodeId) -> list[str]:
        """Return where `peer` may be, the likeliest first."""
        node = self._book.get(peer)
        if node is None:
            return []
        entries = node.addresses.items()
        return [a for a, e in sorted(entries, key=lambda item: (item[1].failures, -item[1].proven_ns))]

    def known(self, peer: NodeId) -> list[KnownAddress]:
        """Return what the book has of `peer`, the likeliest address first."""
        node = self._book.get(peer)
        found = (
            []
            if node is None
            else [(address, node.addresses[address]) for address in self.addresses_of(peer)]
        )
        teller = "" if node is None or node.teller is None else node.teller
        return [KnownAddress(address, entry.proven_ns, entry.failures, teller) for address, entry in found]

    @property
    def size(self) -> int:
        """Return how many nodes are in the book."""
        return len(self._book)

    def tell(self, asker: NodeId, chance: random.Random) -> list[KnownPeer]:
        """Return what to tell `asker` of others: connected peers, and those proven before, in random order.

        A peer that is connected has been told before, and is told of a few.
        """
        most = TOLD_AGAIN if asker in self._connected else MAX_TOLD_PEERS
        worth = [
            peer
            for peer, node in self._book.items()
            if peer != asker and node.addresses and (peer in self._connected or node.proven_ns())
        ]
        chance.shuffle(worth)
        worth.sort(key=lambda peer: peer not in self._connected)
        return [
            KnownPeer(node_id=peer, addresses=tuple(self.addresses_of(peer)[:MAX_ADDRESSES]))
            for peer in worth[:most]
        ]

    # Across restarts.

    def load(self, records: Iterable[PeerRecord], now_ns: int) -> None:
        """Enter what an earlier run had proven, unless it is too old."""
        oldest = now_ns - round(self._settings.forget_after * NANOSECONDS)
        for record in records:
            fresh = [a for a in record.addresses if oldest <= a.proven_ns <= now_ns]
            node = self._enter(NodeId(record.node_id), None) if fresh else None
            for address in fresh[:MAX_ADDRESSES] if node else ():
                assert node is not None
                entry = self._address(node, address.address)
                if address.told:
                    entry.told_ns = address.proven_ns
                else:
                    entry.proven_ns = address.proven_ns

    def records(self) -> list[PeerRecord]:
        """Return what is proven, or told by peers of themselves, to be kept for the next run."""
        return [
            PeerRecord(
                node_id=peer,
                addresses=tuple(
                    ProvenAddress(
                        address=address,
                        proven_ns=entry.proven_ns or entry.told_ns,
                        told=not entry.proven_ns,
                    )
                    for address, entry in node.addresses.items()
                    if entry.proven_ns or entry.told_ns
                ),
            )
            for peer, node in self._book.items()
            if any(entry.proven_ns or entry.told_ns for entry in node.addresses.values())
        ]

    # Within.

    def _candidates(self) -> Iterable[tuple[NodeId, str, _Address]]:
        busy = {dial.expected for dial in self._dialling.values()}
        for peer, node in self._book.items():
            if peer not in self._connected and peer not in busy:
                for address, entry in node.addresses.items():
                    if address not in self._dialling:
                        yield peer, address, entry

    def _wanted(self, bootstrap: str, node: NodeId | None) -> bool:
        return bootstrap not in self._dialling and node != self._me and node not in self._connected

    def _claim(self, peer: NodeId, addresses: Iterable[str], teller: NodeId) -> None:
        good = [a for a in addresses if self._acceptable(a)][:MAX_ADDRESSES]
        node = self._enter(peer, None if peer == teller else teller) if good else None
        if node is None:
            return
        if peer == teller:  # it knows best: its older unproven claims go
            node.teller = None
            node.addresses = {a: e for a, e in node.addresses.items() if e.proven_ns or a in good}
        for address in good:
            if len(node.addresses) < MAX_ADDRESSES or peer == teller:
                self._address(node, address)

    def _enter(self, peer: NodeId, teller: NodeId | None, *, proven: bool = False) -> _Node | None:
        """Return the book's entry, made if there is room; only what is proven drives out what is proven."""
        if peer == self._me:
            return None
        node = self._book.get(peer)
        if node is None:
            if teller is not None and self._told_by(teller) >= self._settings.max_told:
                return None
            if len(self._book) >= self._settings.max_book and not self._evict(proven):
                return None
            node = self._book[peer] = _Node(teller)
        return node

    def _told_by(self, teller: NodeId) -> int:
        return sum(node.teller == teller for node in self._book.values())

    def _evict(self, also_proven: bool) -> bool:
        idle = [p for p in self._book if p not in self._connected]
        victim = next((p for p in idle if not self._book[p].proven_ns()), None)
        if victim is None and also_proven:
            victim = min(idle, key=lambda p: self._book[p].proven_ns(), default=None)
        if victim is None:
            return False
        del self._book[victim]
        return True

    def _address(self, node: _Node, address: str) -> _Address:
        """Return the node's entry for the address; the worst one gives way if there are too many."""
        if address not in node.addresses and len(node.addresses) >= MAX_ADDRESSES:
            worst = min(
                node.addresses, key=lambda a: (node.addresses[a].proven_ns, -node.addresses[a].failures)
            )
            del node.addresses[worst]
        return node.addresses.setdefault(address, _Address())

    def _next_refresh(self, now: float, chance: random.Random) -> float:
        return now + self._settings.refresh * (0.75 + chance.random() / 2)

    def _backoff(self, failures: int, longest: float, chance: random.Random) -> float:
        wait = min(self._settings.first_retry * 2.0 ** min(failures - 1, 30), longest)
        return float(wait * (0.5 + chance.random()))
