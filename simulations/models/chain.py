"""A model chain as the payment protocol gets it: the kind of driver that reaches it, and the maker of its blocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

import trio

from protocols.payment.networks import parse_platform
from protocols.payment.testing import ModelDriver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from protocols.payment.drivers.base import PaymentDriver
    from protocols.payment.networks import Platform
    from protocols.payment.testing import ModelChain

BLOCK_TIME = 1.0
"""Seconds between two blocks."""


class ModelDrivers:
    """Gives out drivers on one chain, to any number of nodes; a `DriverFactory`."""

    def __init__(self, chain: ModelChain) -> None:
        self._chain = chain
        self._platform = parse_platform(chain.network.platform)

    @property
    def name(self) -> str:
        return self._platform.driver

    def platforms(self) -> tuple[Platform, ...]:
        return (self._platform,)

    @contextlib.asynccontextmanager
    async def open(self, platform: Platform, settings: Mapping[str, str]) -> AsyncIterator[PaymentDriver]:
        yield ModelDriver(self._chain)


async def make_blocks(chain: ModelChain, note: Callable[[str], None]) -> NoReturn:
    """Make a block every `BLOCK_TIME` seconds until cancelled.

    Args:
        note: told of each transfer that a block carries.
    """
    while True:
        await trio.sleep(BLOCK_TIME)
        number = chain.mine().number
        for block, _, mined, (payee, amount_wei) in chain.transfers(number, number):
            note(f"block {block.number} pays {amount_wei} wei from {mined.content.sender} to {payee}")
