"""The same suite on anvil, an independent chain, where its binary is at hand.

Get it with `npm install @foundry-rs/anvil` in the project's folder, or put it into PATH. A driver that is tried on our
own chain alone proves little: there, chain and driver could share a mistake.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from node.devnet.addresses import CHAIN_ID, DEPLOYER
from node.devnet.deployment import deployments
from protocols.payment.drivers.base import Transfer
from protocols.payment.drivers.erc20.driver import Erc20Driver
from protocols.payment.drivers.errors import TransactionUnknown
from protocols.payment.networks import parse_platform
from protocols.payment.testing import CHECKS
from tests.node.devnet.bench import AnvilBench, network_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[3]
ANVIL = shutil.which("anvil") or shutil.which("anvil", path=str(ROOT / "node_modules" / ".bin"))
PLATFORM = parse_platform("erc20-devnet-tglm")

pytestmark = pytest.mark.skipif(
    ANVIL is None, reason="no anvil in PATH or node_modules: the driver was not tried on an independent chain"
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    assert ANVIL is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [ANVIL, "--port", str(port), "--chain-id", str(CHAIN_ID), "--silent", "--accounts", "1"]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield _prepared(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def _prepared(url: str) -> str:
    """Wait until it serves, and deploy the contracts."""
    with httpx.Client() as client:

        def ask(method: str, *params: object) -> object:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            answer = client.post(url, json=body).json()
            assert "error" not in answer, answer
            return answer["result"]

        deadline = time.monotonic() + 15
        while True:
            try:
                ask("eth_chainId")
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline, "anvil does not serve"
                time.sleep(0.02)
        ask("anvil_setBalance", DEPLOYER, hex(10**20))
        for raw in deployments():
            ask("eth_sendRawTransaction", "0x" + raw.hex())
    return url


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_driver_conforms(check: Callable[..., object], url: str) -> None:
    async with Erc20Driver.open(PLATFORM, network_at(url)) as driver:
        await check(driver, AnvilBench(url))  # type: ignore[misc]


async def test_reorganisation_unpays(url: str) -> None:
    bench = AnvilBench(url)
    async with Erc20Driver.open(PLATFORM, network_at(url)) as driver:
        payer, payee = bench.signer(), bench.signer().node_id
        await bench.give_coin(payer.node_id)
        await driver.fund(payer, 0)
        snapshot = await bench.ask("evm_snapshot")
        (signed,) = await driver.prepare([Transfer("t", payee, 5)], 1, payer)
        await driver.broadcast(signed.raw)
        assert (await driver.verify(signed.tx_hash, payer.node_id, payee)).amount_wei == 5
        await bench.ask("evm_revert", snapshot)
        assert await driver.receipt(signed.tx_hash) is None
        with pytest.raises(TransactionUnknown):
            await driver.verify(signed.tx_hash, payer.node_id, payee)
        await driver.broadcast(signed.raw)
        assert (await driver.verify(signed.tx_hash, payer.node_id, payee)).amount_wei == 5
