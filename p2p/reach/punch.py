"""Hole punching, sans-IO: who says what in DCUtR, and when both dial. Driven by `puncher`.

B, whom A has reached through a relay, asks: both say where others see them, B measures the round trip, says `sync`
and waits half of it, so that both dial at the same time and each one's SYN finds the hole that the other's has made.
A, who had dialled the relay, is the client of what comes of it and speaks first in Noise; B answers (libp2p/specs
relay/DCUtR). Where a SYN came in at a listener, since that NAT let it pass, its end answers as well: so an end that
should answer, and hears nothing for `PATIENCE`, speaks first after all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2p.protobuf import WireError
from p2p.reach.judge import bare, place_of
from p2p.reach.punch_wire import HolePunch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

ATTEMPTS = 3
"""The specification's: one, and two more."""
ATTEMPT_SECONDS = 5.0
"""Of dialling. TCP repeats its SYN after 1 and 3 seconds, so that a clumsy start is made good."""
PATIENCE = 1.5
"""Seconds."""
MAX_TARGETS = 8
LONGEST_ROUND_TRIP = 10.0


def pauses() -> Iterator[float]:
    """Yield the seconds between two dials of one address in one attempt: short at first, when a hole may just open.

    They grow, because the addresses are the peer's word: it must not be able to have this node knock at somebody's
    door a hundred times.
    """
    pause = 0.05
    while True:
        yield pause
        pause = min(pause * 2, 2.0)


class Asking:
    """B's part in one attempt.

    Args:
        addresses: where others see this node.
    """

    def __init__(self, now: float, addresses: Sequence[str]) -> None:
        self._began = now
        self.hello = HolePunch("connect", tuple(addresses)[:MAX_TARGETS])
        """What to say first."""

    def heard(self, now: float, message: HolePunch) -> float:
        """Take the answer, after which `sync` is to be said at once; return the seconds to wait until dialling.

        Raises:
            WireError: it is no answer.
        """
        if message.kind != "connect":
            raise WireError("the peer said sync where it should have said where it is")
        return min(max(now - self._began, 0.0), LONGEST_ROUND_TRIP) / 2


class Answering:
    """A's part in all attempts of one stream."""

    def __init__(self) -> None:
        self._attempts = 0
        self._targets: tuple[str, ...] | None = None

    def heard(self, message: HolePunch) -> tuple[str, ...] | None:
        """Take a message; return None when it asks for an answer, or what to dial now.

        Raises:
            WireError: it is out of order, or there have been enough attempts.
        """
        if message.kind == "connect":
            self._attempts += 1
            if self._attempts > ATTEMPTS:
                raise WireError(f"the peer wants more than {ATTEMPTS} attempts")
            self._targets = message.addresses
            return None
        if self._targets is None:
            raise WireError("the peer said sync before it said where it is")
        targets, self._targets = self._targets, None
        return targets


def targets(told: Iterable[str], acceptable: Callable[[str], bool], families: Iterable[str]) -> list[str]:
    """Return which of the addresses that a peer told are worth dialling: `/ip4|ip6/.../tcp/...`.

    Args:
        acceptable: whether an address may be dialled in this network at all.
        families: which of `ip4` and `ip6` this node has.
    """
    own = set(families)
    good = [
        bare(address)
        for address in told
        if (place := place_of(address)) is not None
        and place[0] in own
        and "/p2p-circuit" not in address
        and acceptable(bare(address))
    ]
    return list(dict.fromkeys(good))[:MAX_TARGETS]
