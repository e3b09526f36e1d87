"""The ERC-20 driver passes the conformance suite on the embedded chain, in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from node.devnet import control
from protocols.payment.drivers.erc20.driver import Erc20Driver
from protocols.payment.networks import parse_platform
from protocols.payment.testing import CHECKS
from tests.node.devnet.bench import RpcBench, network_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PLATFORM = parse_platform("erc20-devnet-tglm")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.ChainInfo]:
    folder = tmp_path_factory.mktemp("devnet")
    yield control.up(folder, 0)
    control.down(folder)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_driver_conforms(check: Callable[..., object], chain: control.ChainInfo) -> None:
    async with Erc20Driver.open(PLATFORM, network_at(chain.rpc_url)) as driver:
        await check(driver, RpcBench(chain.rpc_url))  # type: ignore[misc]
