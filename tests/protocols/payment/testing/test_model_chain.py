"""The model driver passes the suite that the real one passes, and its chain can do what a test needs."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
import pytest

from p2p.identity.keys import PrivateKey
from p2p.identity.node_id import keccak256
from protocols.payment.drivers.base import PaymentDriver, SignedTransaction, Signer, Transfer
from protocols.payment.drivers.errors import ChainUnavailable, FeeCeiling, TransactionUnknown
from protocols.payment.testing import CHECKS, ModelChain, ModelDriver, check_payment_driver

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = 10**18


class ModelBench:
    def __init__(self, chain: ModelChain) -> None:
        self.chain = chain
        self._numbers = itertools.count(1)

    def signer(self) -> Signer:
        return PrivateKey(keccak256(b"model %d" % next(self._numbers)))

    async def give_coin(self, address: str) -> None:
        pass

    async def hold_blocks(self) -> None:
        self.chain.automine = False

    async def release_blocks(self) -> None:
        self.chain.automine = True
        self.chain.mine()

    async def failing_transaction(self, signer: Signer) -> SignedTransaction:
        self.chain.failing.add(signer.node_id)
        driver = ModelDriver(self.chain)
        nonce = self.chain.account(signer.node_id).nonce
        (signed,) = await driver.prepare([Transfer("failing", "0x" + "77" * 20, 1)], nonce, signer)
        return signed


@pytest.fixture
def chain() -> ModelChain:
    ticks = itertools.count(1_700_000_000)
    return ModelChain(lambda: next(ticks))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_model_driver_conforms(check: Callable[..., object], chain: ModelChain) -> None:
    driver: PaymentDriver = ModelDriver(chain)
    await check(driver, ModelBench(chain))  # type: ignore[misc]


async def test_whole_suite_runs_on_one_chain(chain: ModelChain) -> None:
    await check_payment_driver(ModelDriver(chain), ModelBench(chain))


async def test_same_commands_give_the_same_hashes() -> None:
    seen = []
    for _ in range(2):
        chain = ModelChain(lambda: 1_700_000_000)
        signer = ModelBench(chain).signer()
        chain.give(signer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
        (signed,) = await ModelDriver(chain).prepare([Transfer("t", "0x" + "11" * 20, 5)], 0, signer)
        chain.submit(signed.raw)
        receipt = await ModelDriver(chain).receipt(signed.tx_hash)
        seen.append((signed, receipt))
    assert seen[0] == seen[1]


async def test_block_taken_back_unpays_until_mined_again(chain: ModelChain) -> None:
    driver, payer, payee = ModelDriver(chain), ModelBench(chain).signer(), "0x" + "11" * 20
    chain.give(payer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
    chain.mine()
    (signed,) = await driver.prepare([Transfer("t", payee, 5)], 0, payer)
    await driver.broadcast(signed.raw)
    first = await driver.verify(signed.tx_hash, payer.node_id, payee)
    chain.take_back(1)
    assert await driver.receipt(signed.tx_hash) is None
    assert (await driver.balance(payee)).token_wei == 0
    assert await driver.next_nonce(payer.node_id) == 0
    with pytest.raises(TransactionUnknown):
        await driver.verify(signed.tx_hash, payer.node_id, payee)
    chain.mine()
    second = await driver.verify(signed.tx_hash, payer.node_id, payee)
    assert (second.amount_wei, second.block_number) == (5, first.block_number)
    assert second.block_hash != first.block_hash


async def test_forgotten_transaction_can_be_broadcast_again(chain: ModelChain) -> None:
    driver, payer, payee = ModelDriver(chain), ModelBench(chain).signer(), "0x" + "11" * 20
    chain.give(payer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
    chain.mine()
    (signed,) = await driver.prepare([Transfer("t", payee, 5)], 0, payer)
    await driver.broadcast(signed.raw)
    chain.take_back(1, forget=True)
    chain.mine()
    assert await driver.receipt(signed.tx_hash) is None
    await driver.broadcast(signed.raw)
    assert (await driver.balance(payee)).token_wei == 5


async def test_unavailable_chain_says_so_everywhere(chain: ModelChain) -> None:
    driver, signer = ModelDriver(chain), ModelBench(chain).signer()
    chain.give(signer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
    (signed,) = await driver.prepare([Transfer("t", "0x" + "11" * 20, 5)], 0, signer)
    chain.available = False
    for doing in (
        driver.head(),
        driver.balance(signer.node_id),
        driver.next_nonce(signer.node_id),
        driver.prepare([Transfer("t", "0x" + "11" * 20, 5)], 0, signer),
        driver.replace(signed, signer),
        driver.broadcast(signed.raw),
        driver.receipt(signed.tx_hash),
        driver.verify(signed.tx_hash, signer.node_id, signer.node_id),
        driver.incoming(signer.node_id, 0, 1),
        driver.fund(signer, 0),
    ):
        with pytest.raises(ChainUnavailable):
            await doing  # type: ignore[misc]
    chain.available = True
    await driver.broadcast(signed.raw)


async def test_fee_spike_makes_transactions_wait_and_replacement_gets_them_through(chain: ModelChain) -> None:
    driver, payer, payee = ModelDriver(chain), ModelBench(chain).signer(), "0x" + "11" * 20
    chain.give(payer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
    chain.automine = False
    (signed,) = await driver.prepare([Transfer("t", payee, 5)], 0, payer)
    await driver.broadcast(signed.raw)
    chain.base_fee_wei *= 5
    chain.mine()
    assert await driver.receipt(signed.tx_hash) is None
    better = await driver.replace(signed, payer)
    await driver.broadcast(better.raw)
    chain.mine()
    receipt = await driver.receipt(better.tx_hash)
    assert receipt is not None
    assert receipt.succeeded
    chain.base_fee_wei = driver.network.gas.max_fee_wei
    with pytest.raises(FeeCeiling):
        await driver.prepare([Transfer("t", payee, 5)], 1, payer)
    with pytest.raises(FeeCeiling):
        await driver.replace(msgspec.structs.replace(better), payer)


async def test_pool_lost_by_the_chain_is_sent_again(chain: ModelChain) -> None:
    driver, payer, payee = ModelDriver(chain), ModelBench(chain).signer(), "0x" + "11" * 20
    chain.give(payer.node_id, coin_wei=TOKEN, token_wei=TOKEN)
    chain.automine = False
    (signed,) = await driver.prepare([Transfer("t", payee, 5)], 0, payer)
    await driver.broadcast(signed.raw)
    chain.drop_pool()
    chain.mine()
    assert await driver.receipt(signed.tx_hash) is None
    await driver.broadcast(signed.raw)
    chain.mine()
    assert (await driver.balance(payee)).token_wei == 5
