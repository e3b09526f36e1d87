"""One iterative lookup: whom to ask next, and when it is over. No I/O.

The lookup runs on disjoint paths: the contacts it starts with are dealt to the paths, and whoever is heard of
belongs to the path that heard first. A path asks the nearest it knows, and ends when those nearest have answered.
So one who misleads spoils its own path. Who tells of contacts that do not answer is soon believed no more, so that
contacts that nobody else told of are not asked. All is bounded: contacts read of an answer, requests of a lookup,
subnets among the nearest.
"""

from __future__ import annotations

import bisect
import enum
from collections import Counter
from typing import TYPE_CHECKING

from p2p.discovery.kademlia.contact import Contact, Diversity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2p.discovery.kademlia.params import KademliaParams

MAX_REGION = 60
"""Contacts within the radius that count as the nearest, at most."""
MAX_HEARD = 1024
"""Contacts of which one lookup may hear."""


class _State(enum.Enum):
    HEARD = enum.auto()
    ASKED = enum.auto()
    ANSWERED = enum.auto()
    FAILED = enum.auto()


class _Path:
    def __init__(self) -> None:
        self.contacts: list[tuple[int, Contact]] = []
        """By distance, the nearest first."""


class Lookup:
    """The search for a key, or for the `k` contacts nearest to it.

    Args:
        target: the key, in the space of keys.
        me: our own PeerId, which is never asked.
        start: contacts to begin with, the nearest first.
        need: contacts that have to have answered before the lookup ends, such as `k` to store something.
        radius: distance within which all, up to a bound, count among the nearest: who makes keys that lie around
            the target can be in front of the honest, but not in their place.
        diverse: whether to bound how many contacts of one subnet count among the nearest.
    """

    def __init__(
        self,
        target: int,
        me: bytes,
        start: Sequence[Contact],
        params: KademliaParams,
        *,
        need: int,
        radius: int = 0,
        diverse: bool = True,
    ) -> None:
        self._target = target
        self._params = params
        self._need = need
        self._radius = radius
        self._limit = params.subnet_per_bucket if diverse else 0
        self._paths = [_Path() for _ in range(max(1, min(params.paths, len(start))))]
        self._states: dict[bytes, _State] = {}
        self._path_of: dict[bytes, _Path] = {}
        self._hops: dict[bytes, int] = {}
        self._tellers: dict[bytes, list[bytes]] = {}
        """Who told of a contact; our own PeerId for those it began with."""
        self._barren: Counter[bytes] = Counter()
        """How many of those that somebody told of failed since one last answered."""
        self._me = me
        self._asked = 0
        self._under_way = 0
        for index, contact in enumerate(start):
            self._hear(self._paths[index % len(self._paths)], contact, me, 1)

    def __repr__(self) -> str:
        return f"<Lookup {self._asked} asked, {self._under_way} under way, {len(self._states)} heard of>"

    @property
    def requests(self) -> int:
        """Return how many were asked."""
        return self._asked

    def hops_to(self, contact: Contact) -> int:
        """Return by how many steps `contact` was reached: 1 for one that was known before."""
        return self._hops.get(contact.peer_id, 0)

    def next(self) -> list[Contact]:
        """Return whom to ask now; each has to be reported with `answered` or `failed`."""
        chosen: list[Contact] = []
        waiting = self._wanted()
        while any(waiting):
            for queue in waiting:  # in turn, so that no path starves the others
                if not queue:
                    continue
                if self._under_way >= self._params.alpha or self._asked >= self._params.max_requests:
                    return chosen
                contact = queue.pop(0)
                self._states[contact.peer_id] = _State.ASKED
                self._asked += 1
                self._under_way += 1
                chosen.append(contact)
        return chosen

    def answered(self, contact: Contact, closer: Iterable[Contact] = ()) -> None:
        """Take in an answer, and whom it told of; more than `k` of those are not read."""
        if self._states.get(contact.peer_id) is not _State.ASKED:
            return
        self._states[contact.peer_id] = _State.ANSWERED
        self._under_way -= 1
        for teller in self._tellers[contact.peer_id]:
            self._barren[teller] = 0
        for _, heard in zip(range(self._params.k), closer, strict=False):
            self._hear(
                self._path_of[contact.peer_id], heard, contact.peer_id, self._hops[contact.peer_id] + 1
            )

    def failed(self, contact: Contact) -> None:
        """Note that there was no answer."""
        if self._states.get(contact.peer_id) is _State.ASKED:
            self._states[contact.peer_id] = _State.FAILED
            self._under_way -= 1
            self._barren.update(self._tellers[contact.peer_id])

    @property
    def done(self) -> bool:
        """Whether nobody is left to ask and nobody's answer is awaited."""
        return not self._under_way and (self._asked >= self._params.max_requests or not any(self._wanted()))

    def settled(self, count: int, answering: Contact) -> bool:
        """Return whether the `count` nearest that are heard of have answered, `answering` as good as that."""
        everyone = sorted(
            (item for path in self._paths for item in self._alive(path)), key=lambda item: item[0]
        )
        nearest = self._diverse(everyone, count)
        return all(c == answering or self._states[c.peer_id] is _State.ANSWERED for c in nearest)

    def region(self) -> list[Contact]:
        """Return the `k` nearest of those who answered, and all others within the radius, up to a bound."""
        return self._diverse(self._answered(), self._params.k, self._radius)

    def closest(self) -> list[Contact]:
        """Return the `k` nearest of those who answered, of all paths, the nearest first."""
        return self._diverse(self._answered(), self._params.k)

    def _answered(self) -> list[tuple[int, Contact]]:
        answered = [
            item
            for path in self._paths
            for item in path.contacts
            if self._states[item[1].peer_id] is _State.ANSWERED
        ]
        return sorted(answered, key=lambda item: item[0])

    # Within.

    def _hear(self, path: _Path, contact: Contact, teller: bytes, hops: int) -> None:
        if contact.peer_id in self._states:
            self._tellers[contact.peer_id].append(teller)
            return
        if contact.peer_id == self._me or len(self._states) >= MAX_HEARD:
            return
        self._tellers[contact.peer_id] = [teller]
        self._states[contact.peer_id] = _State.HEARD
        self._path_of[contact.peer_id] = path
        self._hops[contact.peer_id] = hops
        bisect.insort(path.contacts, (contact.key ^ self._target, contact), key=lambda item: item[0])

    def _wanted(self) -> list[list[Contact]]:
        """Return for each path whom to ask, the nearest first.

        Those among the nearest of all paths, so that the result is right; and those among the nearest of the path
        itself, so that a path whose contacts lie behind the lies of another goes on all the same.
        """
        alive = [self._alive(path) for path in self._paths]
        everyone = sorted((item for path in alive for item in path), key=lambda item: item[0])
        nearest = {contact.peer_id for contact in self._diverse(everyone, self._need, self._radius)}
        each = -(-self._need // len(self._paths))
        wanted = []
        for path in alive:
            own = {contact.peer_id for contact in self._diverse(path, each)} | nearest
            wanted.append(
                [c for _, c in path if c.peer_id in own and self._states[c.peer_id] is _State.HEARD]
            )
        return wanted

    def _alive(self, path: _Path) -> list[tuple[int, Contact]]:
        alive = []
        for item in path.contacts:
            state = self._states[item[1].peer_id]
            if state is not _State.FAILED and (state is not _State.HEARD or self._is_credible(item[1])):
                alive.append(item)
        return alive

    def _is_credible(self, contact: Contact) -> bool:
        tellers = self._tellers[contact.peer_id]
        return any(t == self._me or self._barren[t] < self._params.max_barren for t in tellers)

    def _diverse(self, contacts: Iterable[tuple[int, Contact]], count: int, radius: int = 0) -> list[Contact]:
        """Return the first `count` of `contacts` and those within `radius`.

        Left out are those of whose subnets there are enough before them.
        """
        taken: list[Contact] = []
        diversity = Diversity(self._limit)
        for distance, contact in contacts:
            if len(taken) >= count and (distance > radius or len(taken) >= MAX_REGION):
                break
            if diversity.admits(contact):
                diversity.add(contact)
                taken.append(contact)
        return taken
