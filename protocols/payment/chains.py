"""`Chains`: the payment drivers that this node has, one open driver a platform, opened when first needed.

A driver is an async context, so each lives in a task of its own: it is closed by the task that opened it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import trio

from protocols.payment.drivers.errors import (
    CantSign,
    ChainUnavailable,
    DriverError,
    InsufficientGas,
    InsufficientToken,
    WrongChain,
)
from protocols.payment.errors import AccountUnusable, NotFound, Unavailable
from protocols.payment.networks import Platform, UnknownPlatform, parse_platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from protocols.payment.drivers.base import DriverFactory, PaymentDriver


class Chains:
    """Gives open drivers by platform."""

    def __init__(self, factories: Sequence[DriverFactory], environment: Mapping[str, str]) -> None:
        self._factories = {factory.name: factory for factory in factories}
        self._environment = environment
        self._open: dict[str, _Slot] = {}
        self._nursery: trio.Nursery

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep drivers open while the context is."""
        async with trio.open_nursery() as self._nursery:
            yield
            self._nursery.cancel_scope.cancel()

    def platforms(self) -> tuple[Platform, ...]:
        """List the platforms that can be served."""
        return tuple(platform for f in self._factories.values() for platform in f.platforms())

    def check_known(self, driver: str | None, network: str | None) -> None:
        """Refuse a driver or network that is not served here. Raises NotFound, in words that clients know."""
        if driver is not None and driver not in self._factories:
            raise NotFound(f"Requested driver not registered {driver}")
        served = {p.network for p in self.platforms() if driver in (None, p.driver)}
        if network is not None and network not in served:
            raise NotFound(f"Requested network not supported {network}")

    def check_served(self, platform: Platform) -> None:
        """Refuse a platform that is not served here. Raises AccountUnusable."""
        if platform not in self.platforms():
            raise AccountUnusable(f"this node has no payment driver for {platform}")

    async def driver(self, platform: Platform | str) -> PaymentDriver:
        """Return the open driver of a platform.

        Raises:
            AccountUnusable: there is none.
            Unavailable: it could not be opened.
        """
        if isinstance(platform, str):
            try:
                platform = parse_platform(platform)
            except UnknownPlatform as error:
                raise AccountUnusable(str(error)) from error
        self.check_served(platform)
        slot = self._open.get(str(platform))
        if slot is None:
            slot = self._open[str(platform)] = _Slot()
            self._nursery.start_soon(self._keep_open, platform, slot)
        await slot.ready.wait()
        if slot.driver is None:
            raise Unavailable(f"the payment driver for {platform} did not start: {slot.error}")
        return slot.driver

    async def _keep_open(self, platform: Platform, slot: _Slot) -> None:
        try:
            async with self._factories[platform.driver].open(platform, self._environment) as driver:
                slot.driver = driver
                slot.ready.set()
                await trio.sleep_forever()
        except (DriverError, UnknownPlatform, OSError, ValueError) as error:
            slot.error = error
            self._open.pop(str(platform), None)  # the next caller tries again
        finally:
            slot.ready.set()


class _Slot:
    def __init__(self) -> None:
        self.ready = trio.Event()
        self.driver: PaymentDriver | None = None
        self.error: Exception | None = None


@contextlib.contextmanager
def chain_answers() -> Iterator[None]:
    """Turn what a chain says to a question into Unavailable."""
    try:
        yield
    except DriverError as error:
        raise Unavailable(str(error)) from error


def trouble_kind(error: Exception) -> str:
    """Name what keeps payments from going out, in the words of REST's status property."""
    match error:
        case InsufficientGas():
            return "InsufficientGas"
        case InsufficientToken():
            return "InsufficientToken"
        case CantSign() | AccountUnusable():
            return "CantSign"
        case WrongChain():
            return "InvalidChainId"
        case ChainUnavailable() | Unavailable():
            return "RpcError"
        case _:
            return "TxStuck"


def network_name(platform: str) -> str:
    """Return the network's part of a platform's name."""
    return platform.split("-")[1] if platform.count("-") == 2 else ""
