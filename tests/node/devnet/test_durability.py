"""The chain process is killed, and what it acknowledged is there when it comes back; payments end right all the same."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel

from node.devnet import control
from protocols.payment.drivers.base import Transfer
from protocols.payment.drivers.erc20.driver import Erc20Driver
from protocols.payment.drivers.errors import ChainUnavailable, TransactionUnknown
from protocols.payment.networks import parse_platform
from tests.node.devnet.bench import RpcBench, network_at, new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

TOKEN = 10**18


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    control.down(tmp_path)


@asynccontextmanager
async def driver_at(info: control.ChainInfo) -> AsyncIterator[Erc20Driver]:
    async with Erc20Driver.open(parse_platform("erc20-devnet-tglm"), network_at(info.rpc_url)) as driver:
        yield driver


async def kill(info: control.ChainInfo) -> None:
    os.kill(info.pid, signal.SIGKILL)
    with trio.fail_after(10):
        while control.start_time(info.pid) is not None:  # noqa: ASYNC110  (another process has no event)
            await trio.sleep(0.01)


async def test_fund_batch_kill_restart_verify(folder: Path) -> None:
    info = control.up(folder, 0)
    payer, payees = new_key(), [new_key().node_id for _ in range(3)]
    transfers = [Transfer(f"t{i}", payee, (i + 1) * TOKEN) for i, payee in enumerate(payees)]
    async with driver_at(info) as driver:
        funding = await driver.fund(payer, 0)
        assert funding.balance.token_wei == 1000 * TOKEN
        signed = await driver.prepare(transfers, 1, payer)
        for tx in signed:
            await driver.broadcast(tx.raw)
        addresses = [payer.node_id, *payees]
        balances = [await driver.balance(address) for address in addresses]
        receipt = await driver.receipt(signed[-1].tx_hash)
        await kill(info)
        with pytest.raises(ChainUnavailable):
            await driver.head()
    async with driver_at(control.up(folder, 0)) as driver:
        assert [await driver.balance(address) for address in addresses] == balances
        assert await driver.receipt(signed[-1].tx_hash) == receipt
        for transfer in transfers:
            verified = await driver.verify(signed[-1].tx_hash, payer.node_id, transfer.payee)
            assert verified.amount_wei == transfer.amount_wei
        for tx in signed:
            await driver.broadcast(tx.raw)  # a payer that does not know what became of it
        assert [await driver.balance(address) for address in addresses] == balances


async def test_waiting_transaction_survives_and_pays_once(folder: Path) -> None:
    info = control.up(folder, 0)
    payer, payee = new_key(), new_key().node_id
    async with driver_at(info) as driver:
        await driver.fund(payer, 0)
        await RpcBench(info.rpc_url).hold_blocks()
        (signed,) = await driver.prepare([Transfer("t", payee, TOKEN)], 1, payer)
        await driver.broadcast(signed.raw)
        with pytest.raises(TransactionUnknown):
            await driver.verify(signed.tx_hash, payer.node_id, payee)
        await kill(info)
    async with driver_at(control.up(folder, 0)) as driver:  # mines on demand again, what waited too
        assert (await driver.verify(signed.tx_hash, payer.node_id, payee)).amount_wei == TOKEN
        await driver.broadcast(signed.raw)
        assert (await driver.balance(payee)).token_wei == TOKEN


@pytest.mark.slow
async def test_killed_in_the_middle_of_many_payments(folder: Path) -> None:
    """Whatever was acknowledged is there; what was not is sent again; nothing is paid twice."""
    info = control.up(folder, 0)
    payer, payee = new_key(), new_key().node_id
    raws: list[bytes] = []
    acknowledged = 0
    async with driver_at(info) as driver:
        await driver.fund(payer, 0)
        for nonce in range(1, 61):
            (signed,) = await driver.prepare([Transfer("t", payee, 1)], nonce, payer)
            raws.append(signed.raw)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kill_after, info, driver, payee, 20)
            for raw in raws:
                try:
                    await driver.broadcast(raw)
                except ChainUnavailable:
                    break
                acknowledged += 1
    assert 20 <= acknowledged < 60
    async with driver_at(control.up(folder, 0)) as driver:
        kept = (await driver.balance(payee)).token_wei
        assert acknowledged <= kept <= acknowledged + 1
        for raw in raws:
            await driver.broadcast(raw)
        assert (await driver.balance(payee)).token_wei == 60
        assert await driver.next_nonce(payer.node_id) == 61


async def _kill_after(info: control.ChainInfo, driver: Erc20Driver, payee: str, payments: int) -> None:
    while (await driver.balance(payee)).token_wei < payments:
        await trio.lowlevel.checkpoint()
    await kill(info)
