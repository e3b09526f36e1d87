"""Scans: looking through what is on offer without a demand.

A scan has a filter and a cursor: each reading goes on where the last delivered one ended. Scans that nobody
reads are dropped. Called by `service.Market`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import trio

from protocols.ground.wakeup import Signal
from protocols.market.errors import BadRequest, Forbidden, LimitReached, NotFound
from protocols.market.language import Constraint, ConstraintError
from protocols.market.subscriptions import Kind, SubscriptionView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from p2p.identity import NodeId
    from protocols.market.core.catalogue import Offer
    from protocols.market.offers import OfferExchange

DEFAULT_TIMEOUT = 300.0
"""Seconds after which a scan that nobody reads is dropped."""
LONGEST_TIMEOUT = 24 * 3600.0
MAX_SCANS = 1000
PEER_TIMEOUT = 30.0
"""Longest wait for a provider that is asked directly."""


@dataclasses.dataclass(frozen=True)
class ScanPage:
    """Offers that a scan found. Confirm it when they are delivered; unconfirmed, they are found again."""

    offers: tuple[SubscriptionView, ...]
    confirm: Callable[[], None]


@dataclasses.dataclass
class _Scan:
    owner: NodeId
    kind: Kind
    constraint: Constraint | None
    timeout: float
    used: float
    readers: int = 0
    cursor: int = 0


class Scans:
    """The open scans of this node's identities."""

    def __init__(self, offers: OfferExchange) -> None:
        self._offers = offers
        self._scans: dict[str, _Scan] = {}
        self._next = itertools.count()
        self._changes = Signal()

    def offers_changed(self) -> None:
        """Look again: something new is on offer."""
        self._changes.notify()

    def begin(self, owner: NodeId, kind: Kind, constraints: str | None, timeout: float | None) -> str:
        """Open a scan; return its id.

        Raises:
            BadRequest: the constraint is broken, or the timeout no time. LimitReached.
        """
        now = trio.current_time()
        for scan_id, scan in list(self._scans.items()):
            if not scan.readers and scan.used + scan.timeout <= now:
                del self._scans[scan_id]
        if len(self._scans) >= MAX_SCANS:
            raise LimitReached(f"{MAX_SCANS} scans are open; end some")
        seconds = DEFAULT_TIMEOUT if timeout is None else timeout
        if not 0 < seconds <= LONGEST_TIMEOUT:
            raise BadRequest(f"a scan's timeout is above 0 and at most {LONGEST_TIMEOUT:g} seconds")
        try:
            constraint = None if constraints is None else Constraint.parse(constraints)
        except ConstraintError as error:
            raise BadRequest(str(error)) from error
        scan_id = str(next(self._next))
        self._scans[scan_id] = _Scan(owner, kind, constraint, seconds, now)
        return scan_id

    async def collect(self, owner: NodeId, scan_id: str, *, timeout: float, limit: int) -> ScanPage:
        """Return what is on offer and was not delivered by this scan yet, waiting for the first of it.

        Raises:
            NotFound: unknown, ended or dropped, also while waiting. Forbidden: another identity's.
        """
        scan = self._find(owner, scan_id)
        deadline = trio.current_time() + timeout
        scan.readers += 1
        try:
            while True:
                ticket = self._changes.ticket()
                page = self._page(scan, limit)
                if page.offers or trio.current_time() >= deadline:
                    return page
                with trio.move_on_at(deadline):
                    await ticket.wait()
                self._find(owner, scan_id)
        finally:
            scan.readers -= 1
            scan.used = trio.current_time()

    async def ask(
        self, owner: NodeId, scan_id: str, provider: NodeId, *, timeout: float
    ) -> tuple[SubscriptionView, ...]:
        """Return what a provider's node itself offers now, by the scan's filter.

        Raises:
            NotFound, Forbidden: as `collect`. TimedOut, PeerSilent, PeerRefused: the provider's fault.
        """
        scan = self._find(owner, scan_id)
        if scan.kind == "demand":
            return ()
        found = await self._offers.ask_provider(provider, min(timeout, PEER_TIMEOUT))
        return tuple(view_of(offer) for offer in self._filter(scan, found))

    def end(self, owner: NodeId, scan_id: str) -> None:
        """Close a scan. Raises NotFound, Forbidden."""
        self._find(owner, scan_id)
        del self._scans[scan_id]
        self._changes.notify()

    def _page(self, scan: _Scan, limit: int) -> ScanPage:
        if scan.kind == "demand":
            return ScanPage((), lambda: None)  # demands do not travel
        found = self._filter(scan, self._offers.catalogue.arrived_after(scan.cursor))
        offers = tuple(itertools.islice(found, limit))

        def confirm() -> None:
            if offers:
                scan.cursor = max(scan.cursor, offers[-1].arrival)

        return ScanPage(tuple(view_of(offer) for offer in offers), confirm)

    def _filter(self, scan: _Scan, offers: Iterable[Offer]) -> Iterable[Offer]:
        for offer in offers:
            wanted = scan.constraint is None or scan.constraint.evaluate(offer.body.properties) is True
            if wanted and offer.node_id != scan.owner:
                yield offer

    def _find(self, owner: NodeId, scan_id: str) -> _Scan:
        scan = self._scans.get(scan_id)
        if scan is not None and not scan.readers and scan.used + scan.timeout <= trio.current_time():
            del self._scans[scan_id]
            scan = None
        if scan is None:
            raise NotFound(f"Scan [{scan_id[:64]}] not found.")
        if scan.owner != owner:
            raise Forbidden("the scan belongs to another identity")
        return scan


def view_of(offer: Offer) -> SubscriptionView:
    """Return an offer of anyone as clients are shown it."""
    return SubscriptionView(
        id=offer.offer_id,
        kind="offer",
        owner_id=offer.node_id,
        properties=offer.body.properties.text,
        constraints=offer.body.constraints,
        created_ns=offer.lease.created_ns,
        expires_ns=offer.lease.expires_ns,
    )
