"""Which relays to keep a place at: at least three, in different networks where there are such. Sans-IO.

Driven by `relay_client`. `now` is monotonic seconds. A relay may vanish or refuse at any time; others take its
place as long as there are candidates.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

WANTED = 3
REFRESH_AT = 0.6
"""Share of a reservation's life after which it is refreshed, so that a refusal leaves time to find another."""
SHORTEST_LIFE = 30.0
"""Seconds; relays that promise less are not worth their refreshing."""
FIRST_RETRY, LONGEST_RETRY = 15.0, 1800.0
MAX_CANDIDATES = 256


class Candidate(msgspec.Struct, frozen=True):
    """A peer that says it relays."""

    peer: str
    network: str
    """Its /24 or /48."""


class _Tried(msgspec.Struct):
    failures: int = 0
    not_before: float = -math.inf


class _Held(msgspec.Struct, frozen=True):
    network: str
    refresh_at: float
    expires: float


class RelayChoice:
    """Keeps count of candidates and reservations.

    Args:
        wanted: how many relays to keep; 0 while none are needed.
    """

    def __init__(self, wanted: int = WANTED) -> None:
        self.wanted = wanted
        self._candidates: dict[str, Candidate] = {}
        self._tried: dict[str, _Tried] = {}
        self._held: dict[str, _Held] = {}
        self._asked: set[str] = set()

    @property
    def held(self) -> tuple[str, ...]:
        """Return the peers that keep a place for this node, the earliest first."""
        return tuple(self._held)

    def know(self, candidates: Iterable[Candidate]) -> list[str]:
        """Replace the candidates by those that are connected now; return the relays that were lost by that."""
        self._candidates = {c.peer: c for c in list(candidates)[:MAX_CANDIDATES]}
        lost = [peer for peer in self._held if peer not in self._candidates]
        for peer in lost:
            del self._held[peer]
        for peer in [peer for peer in self._tried if peer not in self._candidates]:
            del self._tried[peer]
        return lost

    def ask(self, now: float, chance: random.Random) -> list[str]:
        """Return whom to ask for a place now; each has to be reported by `granted` or `refused`."""
        self._drop_expired(now)
        due = [
            peer for peer, held in self._held.items() if held.refresh_at <= now and peer not in self._asked
        ]
        if not self.wanted:
            due = []
        networks = Counter(held.network for held in self._held.values())
        networks.update(self._candidates[p].network for p in self._asked if p in self._candidates)
        open_ = self.wanted - len(set(self._held) | self._asked)
        free = [c for c in self._candidates.values() if self._may_ask(now, c.peer)]
        chance.shuffle(free)
        for candidate in sorted(free, key=lambda c: self._failures(c.peer)):
            if candidate.network not in networks and (open_ > 0 or self._crowded(networks)):
                networks[candidate.network] += 1
                due.append(candidate.peer)
                open_ -= 1
        for candidate in free:
            if open_ > 0 and candidate.peer not in due:
                due.append(candidate.peer)
                open_ -= 1
        self._asked.update(due)
        return due

    def granted(self, now: float, peer: str, life: float) -> list[str]:
        """Note that `peer` keeps a place for `life` seconds; return the relays that are given up in its favour."""
        self._asked.discard(peer)
        candidate = self._candidates.get(peer)
        if candidate is None:
            return []
        if life < SHORTEST_LIFE:
            self._put_off(now, peer, LONGEST_RETRY)
            return []
        self._tried.pop(peer, None)
        self._held[peer] = _Held(candidate.network, now + life * REFRESH_AT, now + life)
        if len(self._held) <= max(self.wanted, 0):
            return []
        networks = Counter(held.network for held in self._held.values())
        surplus = max(self._held, key=lambda p: (networks[self._held[p].network], p != peer))
        del self._held[surplus]
        return [surplus]

    def refused(self, now: float, peer: str, chance: random.Random) -> None:
        """Note that `peer` gives no place; a place that is held stays until it expires."""
        self._asked.discard(peer)
        if peer not in self._candidates:
            return
        tried = self._tried.setdefault(peer, _Tried())
        wait = min(FIRST_RETRY * 2.0 ** min(tried.failures, 20), LONGEST_RETRY)
        self._put_off(now, peer, wait * (0.5 + chance.random()))
        held = self._held.get(peer)
        if held is not None:
            self._held[peer] = msgspec.structs.replace(held, refresh_at=max(held.expires, now))

    def release(self) -> list[str]:
        """Give up all places; return whose they were."""
        given_up = list(self._held)
        self._held.clear()
        return given_up

    def next_event(self) -> float:
        """Return when `ask` may next return something, if nothing else happens."""
        times = [held.expires for held in self._held.values()]
        if self.wanted:
            times += [held.refresh_at for peer, held in self._held.items() if peer not in self._asked]
        if len(set(self._held) | self._asked) < self.wanted:
            times += [tried.not_before for peer, tried in self._tried.items() if peer not in self._asked]
        return min(times, default=math.inf)

    def _may_ask(self, now: float, peer: str) -> bool:
        tried = self._tried.get(peer)
        return (
            self.wanted > 0
            and peer not in self._held
            and peer not in self._asked
            and (tried is None or tried.not_before <= now)
        )

    def _failures(self, peer: str) -> int:
        tried = self._tried.get(peer)
        return tried.failures if tried else 0

    def _crowded(self, networks: Counter[str]) -> bool:
        """Return whether two relays share a network, so that one in another would be better."""
        return any(count > 1 for count in networks.values()) and not self._asked

    def _put_off(self, now: float, peer: str, wait: float) -> None:
        tried = self._tried.setdefault(peer, _Tried())
        tried.failures += 1
        tried.not_before = now + wait

    def _drop_expired(self, now: float) -> None:
        for peer in [peer for peer, held in self._held.items() if held.expires <= now]:
            del self._held[peer]
