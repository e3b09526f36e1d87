"""The driver against chains that word things differently, or answer nonsense; whole walks are in tests/node/devnet."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from p2p.identity.keys import PrivateKey
from protocols.payment.drivers.base import PaymentDriver, Transfer
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.driver import FACTORY, Erc20Driver
from protocols.payment.drivers.errors import (
    BadTransfer,
    ChainUnavailable,
    FeeCeiling,
    InsufficientGas,
    InsufficientToken,
    NoMatchingTransfer,
    NonceTooHigh,
    NonceTooLow,
    TransactionFailed,
    TransactionRefused,
    TransactionUnknown,
    Underpriced,
)
from protocols.payment.networks import NETWORKS, UnknownPlatform, parse_platform
from tests.protocols.payment.drivers.erc20.endpoints import Endpoint, Refusal, client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

DEVNET = NETWORKS["devnet"]
PAYER = PrivateKey(b"\x07" * 32)
PAYEE, OTHER = "0x" + "11" * 20, "0x" + "22" * 20
HASH = "0x" + "ab" * 32
BLOCK_HASH = "0x" + "cd" * 32
TRANSFER = Transfer("t", PAYEE, 5)
VIEWS = {
    abi.selector("balanceOf(address)"): 1000,
    abi.selector("decimals()"): 18,
    abi.selector("allowance(address,address)"): 0,
}


def word(number: int) -> str:
    return f"0x{number:064x}"


def chain(**views: int) -> Endpoint:
    """A chain on which everything is in order."""
    table = VIEWS | {abi.selector(f"{name}()"): value for name, value in views.items()}
    endpoint = Endpoint()
    endpoint["eth_call"] = lambda call, tag: word(table[bytes.fromhex(call["data"][2:10])])
    endpoint["eth_getBalance"] = hex(10**18)
    endpoint["eth_feeHistory"] = {"baseFeePerGas": ["0x9", "0xa"], "reward": [["0x1"]]}
    endpoint["eth_estimateGas"] = "0xc000"
    endpoint["eth_getTransactionCount"] = "0x7"
    endpoint["eth_getBlockByNumber"] = {"number": "0x63", "hash": BLOCK_HASH, "timestamp": "0x65000000"}
    return endpoint


@asynccontextmanager
async def driver_at(endpoint: Endpoint, network: Any = DEVNET) -> AsyncIterator[PaymentDriver]:
    async with client(a=endpoint) as http:
        network = msgspec.structs.replace(network, rpc_urls=("http://a/",))
        yield Erc20Driver(parse_platform("erc20-devnet-tglm"), network, http)


def log(source: str, target: str, amount: int, token: str = DEVNET.token) -> dict[str, Any]:
    topics = ["Transfer(address,address,uint256)", source, target]
    return {
        "address": token.upper().replace("0X", "0x"),
        "topics": [abi.topic(topics[0]), *("0x" + "0" * 24 + who[2:] for who in topics[1:])],
        "data": word(amount),
    }


def receipt(*logs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "transactionHash": HASH,
        "blockHash": BLOCK_HASH,
        "blockNumber": "0x63",
        "from": PAYER.node_id,
        "to": DEVNET.token,
        "status": "0x1",
        "gasUsed": "0x64",
        "effectiveGasPrice": "0x3",
        "logs": list(logs),
    } | changes


async def test_prepared_transaction_says_what_it_costs() -> None:
    async with driver_at(chain()) as driver:
        (signed,) = await driver.prepare([TRANSFER], 7, PAYER)
    assert (signed.kind, signed.nonce, signed.gas_limit) == ("transfer", 7, 0xC000 + 20_000)
    assert (signed.max_fee_wei, signed.priority_fee_wei) == (2 * 10 + 10**6, 10**6)
    assert signed.max_cost_wei == signed.gas_limit * signed.max_fee_wei


async def test_batch_without_allowance_approves_first() -> None:
    async with driver_at(chain()) as driver:
        approve, batch = await driver.prepare([TRANSFER, Transfer("u", OTHER, 6)], 7, PAYER)
    assert (approve.kind, approve.nonce, batch.kind, batch.nonce) == ("approve", 7, "batch", 8)
    assert (approve.transfers, [t.transfer_id for t in batch.transfers]) == ((), ["t", "u"])


@pytest.mark.parametrize("allowance", [10, 11])
async def test_batch_needs_an_allowance_of_its_sum(allowance: int) -> None:
    endpoint = chain()
    table = VIEWS | {abi.selector("allowance(address,address)"): allowance}
    endpoint["eth_call"] = lambda call, tag: word(table[bytes.fromhex(call["data"][2:10])])
    async with driver_at(endpoint) as driver:
        signed = await driver.prepare([TRANSFER, Transfer("u", OTHER, 6)], 7, PAYER)
    assert len(signed) == (1 if allowance == 11 else 2)


async def test_token_with_other_decimals_is_never_paid_in() -> None:
    async with driver_at(chain(decimals=6)) as driver:
        with pytest.raises(BadTransfer, match="6 decimals"):
            await driver.prepare([TRANSFER], 7, PAYER)
        with pytest.raises(BadTransfer, match="6 decimals"):
            await driver.balance(PAYEE)


async def test_missing_contract_is_unavailable() -> None:
    endpoint = chain()
    endpoint["eth_call"] = "0x"
    async with driver_at(endpoint) as driver:
        with pytest.raises(ChainUnavailable, match="not on this chain"):
            await driver.balance(PAYEE)


async def test_too_few_tokens() -> None:
    async with driver_at(chain()) as driver:
        with pytest.raises(InsufficientToken) as caught:
            await driver.prepare([Transfer("t", PAYEE, 1001)], 7, PAYER)
    assert (caught.value.needed_wei, caught.value.available_wei) == (1001, 1000)


async def test_too_little_coin() -> None:
    endpoint = chain()
    endpoint["eth_getBalance"] = "0x5"
    async with driver_at(endpoint) as driver:
        with pytest.raises(InsufficientGas) as caught:
            await driver.prepare([TRANSFER], 7, PAYER)
    assert caught.value.available_wei == 5


async def test_dear_chain() -> None:
    endpoint = chain()
    endpoint["eth_feeHistory"] = {"baseFeePerGas": [hex(10**12)]}
    async with driver_at(endpoint) as driver:
        with pytest.raises(FeeCeiling):
            await driver.prepare([TRANSFER], 7, PAYER)


async def test_call_that_would_fail_says_why() -> None:
    endpoint = chain()
    data = "0x08c379a0" + abi.encode(("string",), ("paused",)).hex()
    endpoint["eth_estimateGas"] = Refusal(3, "execution reverted", data)
    async with driver_at(endpoint) as driver:
        with pytest.raises(TransactionRefused, match="would fail: paused"):
            await driver.prepare([TRANSFER], 7, PAYER)


REFUSALS = [
    ("already known", None),
    ("Transaction already imported.", None),
    ("ALREADY_EXISTS: already known", None),
    ("known transaction: ab", None),
    ("nonce too high", NonceTooHigh),
    ("replacement transaction underpriced", Underpriced),
    ("transaction underpriced", Underpriced),
    ("max fee per gas less than block base fee", Underpriced),
    ("FeeTooLow, MaxFeePerGas too low", Underpriced),
    ("insufficient funds for gas * price + value", InsufficientGas),
    ("InsufficientFunds, Account balance: 0", InsufficientGas),
    ("exceeds block gas limit", TransactionRefused),
]


@pytest.mark.parametrize(("message", "expected"), REFUSALS)
async def test_refusals_are_told_apart_by_their_words(message: str, expected: type[Exception] | None) -> None:
    endpoint = chain()
    async with driver_at(endpoint) as driver:
        (signed,) = await driver.prepare([TRANSFER], 7, PAYER)
        endpoint["eth_sendRawTransaction"] = Refusal(-32000, message)
        if expected is None:
            await driver.broadcast(signed.raw)
        else:
            with pytest.raises(expected) as caught:
                await driver.broadcast(signed.raw)
            assert type(caught.value) is expected


async def test_used_nonce_is_success_for_the_very_transaction_alone() -> None:
    endpoint = chain()
    endpoint["eth_sendRawTransaction"] = Refusal(-32000, "nonce too low: next nonce 8, tx nonce 7")
    async with driver_at(endpoint) as driver:
        (signed,) = await driver.prepare([TRANSFER], 7, PAYER)
        endpoint["eth_getTransactionByHash"] = lambda tx_hash: {} if tx_hash == signed.tx_hash else None
        await driver.broadcast(signed.raw)
        endpoint["eth_getTransactionByHash"] = None
        with pytest.raises(NonceTooLow):
            await driver.broadcast(signed.raw)


async def test_receipt_counts_depth_and_fee() -> None:
    endpoint = chain()
    endpoint["eth_getTransactionReceipt"] = receipt()
    async with driver_at(endpoint) as driver:
        found = await driver.receipt(HASH)
        assert found is not None
        assert (found.confirmations, found.fee_wei, found.succeeded) == (2, 300, True)
        endpoint["eth_getTransactionReceipt"] = receipt(status="0x0")
        failed = await driver.receipt(HASH)
        assert failed is not None
        assert not failed.succeeded
        for pending in (None, {}, receipt(blockNumber=None, blockHash=None)):
            endpoint["eth_getTransactionReceipt"] = pending
            assert await driver.receipt(HASH) is None


async def verified(endpoint: Endpoint, payer: str = PAYER.node_id, payee: str = PAYEE) -> int:
    async with driver_at(endpoint) as driver:
        return (await driver.verify(HASH, payer, payee)).amount_wei


async def test_verification_adds_up_the_tokens_own_logs() -> None:
    endpoint = chain()
    me = PAYER.node_id
    foreign = log(me, PAYEE, 1000, token=OTHER)
    other_event = log(me, PAYEE, 1000) | {"topics": [abi.topic("Approval(address,address,uint256)")] * 3}
    taken_back = log(me, PAYEE, 1000) | {"removed": True}
    logs = [log(me, PAYEE, 5), foreign, log(me, PAYEE, 6), other_event, taken_back, log(OTHER, PAYEE, 7)]
    endpoint["eth_getTransactionReceipt"] = receipt(*logs)
    assert await verified(endpoint) == 11
    assert await verified(endpoint, payer=OTHER) == 7
    assert await verified(endpoint, payer=me.upper().replace("0X", "0x")) == 11


async def test_verification_of_a_pulled_batch_and_of_a_deposit() -> None:
    endpoint = chain()
    multi, lock, me = DEVNET.multi_transfer or "", DEVNET.lock or "", PAYER.node_id
    pulled = receipt(log(OTHER, multi, 5), log(multi, PAYEE, 5), to=multi)
    endpoint["eth_getTransactionReceipt"] = pulled
    assert await verified(endpoint, payer=OTHER) == 5
    endpoint["eth_getTransactionReceipt"] = receipt(log(lock, PAYEE, 5), to=lock)
    assert await verified(endpoint, payer=me) == 5


async def test_verification_tells_unknown_from_rejected() -> None:
    endpoint = chain()
    endpoint["eth_getTransactionReceipt"] = None
    with pytest.raises(TransactionUnknown):
        await verified(endpoint)
    endpoint["eth_getTransactionReceipt"] = receipt(status="0x0")
    with pytest.raises(TransactionFailed):
        await verified(endpoint)
    endpoint["eth_getTransactionReceipt"] = receipt(log(OTHER, PAYEE, 5))
    with pytest.raises(NoMatchingTransfer):
        await verified(endpoint)
    endpoint["eth_getTransactionReceipt"] = receipt(log(PAYER.node_id, PAYEE, 5), blockHash="0x" + "ee" * 32)
    with pytest.raises(TransactionUnknown):  # the block was taken back while we asked
        await verified(endpoint)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "0x",
        receipt(logs=None),
        receipt(logs=[1]),
        receipt(status=1),
        receipt(status="one"),
        receipt(log(PAYER.node_id, PAYEE, 5) | {"data": "0x05"}),
        receipt(
            log(PAYER.node_id, PAYEE, 5) | {"topics": [abi.topic("Transfer(address,address,uint256)"), 1, 2]}
        ),
        receipt(blockNumber="sixty"),
        Refusal(-32000, "header not found"),
    ],
)
async def test_nonsense_is_no_rejection(answer: object) -> None:
    endpoint = chain()
    endpoint["eth_getTransactionReceipt"] = answer
    with pytest.raises(ChainUnavailable):
        await verified(endpoint)


@pytest.mark.parametrize("answer", [None, "x", [1], [log(OTHER, PAYEE, 5)]])
async def test_nonsense_logs_are_no_money(answer: object) -> None:
    endpoint = chain()
    endpoint["eth_getLogs"] = answer
    async with driver_at(endpoint) as driver:
        with pytest.raises(ChainUnavailable):
            await driver.incoming(PAYEE, 0, 10)


async def test_replacement_is_the_same_call_for_more() -> None:
    endpoint = chain()
    async with driver_at(endpoint) as driver:
        (old,) = await driver.prepare([TRANSFER], 7, PAYER)
        new = await driver.replace(old, PAYER)
        assert (new.nonce, new.gas_limit, new.kind, new.transfers) == (
            7,
            old.gas_limit,
            old.kind,
            (TRANSFER,),
        )
        assert new.max_fee_wei * 8 >= old.max_fee_wei * 9
        dear = msgspec.structs.replace(old, max_fee_wei=DEVNET.gas.max_fee_wei)
        with pytest.raises(FeeCeiling):
            await driver.replace(dear, PAYER)


async def test_funding_on_production_is_refused_before_anything_is_asked() -> None:
    endpoint = chain()
    async with driver_at(endpoint, msgspec.structs.replace(DEVNET, production=True)) as driver:
        with pytest.raises(BadTransfer, match="bought, not minted"):
            await driver.fund(PAYER, 0)
    assert endpoint.asked == []


async def test_faucet_that_gives_nothing_ends_patience(autojump_clock: MockClock) -> None:
    endpoint = chain()
    endpoint["eth_getBalance"] = "0x0"
    steps: list[str] = []
    async with driver_at(endpoint, msgspec.structs.replace(DEVNET, faucet_url="http://a/donate")) as driver:
        endpoint.fault = lambda request: _faucet_or_chain(endpoint, request)
        with pytest.raises(TransactionRefused, match="did not arrive"):
            await driver.fund(PAYER, 0, steps.append)
    assert steps == ["asking the devnet faucet for dETH"]


@pytest.mark.parametrize(("status", "expected"), [(429, TransactionRefused), (503, ChainUnavailable)])
async def test_faucet_refusal_is_passed_on(status: int, expected: type[Exception]) -> None:
    endpoint = chain()
    endpoint["eth_getBalance"] = "0x0"
    endpoint.fault = lambda request: _faucet_or_chain(endpoint, request, status)
    async with driver_at(endpoint, msgspec.structs.replace(DEVNET, faucet_url="http://a/donate")) as driver:
        with pytest.raises(expected, match=str(status)):
            await driver.fund(PAYER, 0)


def _faucet_or_chain(endpoint: Endpoint, request: httpx.Request, status: int = 200) -> httpx.Response:
    if request.url.path.startswith("/donate"):
        return httpx.Response(status, text="so it is")
    endpoint.fault, fault = None, endpoint.fault
    try:
        return endpoint.handle(request)
    finally:
        endpoint.fault = fault


async def test_factory_opens_every_live_network_and_no_other() -> None:
    names = {str(platform) for platform in FACTORY.platforms()}
    assert "erc20-devnet-tglm" in names
    assert "erc20-goerli-tglm" not in names
    platform = parse_platform("erc20-devnet-tglm")
    async with FACTORY.open(platform, {"DEVNET_GETH_ADDR": "http://127.0.0.1:1"}) as driver:
        assert driver.network.rpc_urls == ("http://127.0.0.1:1",)
        assert (driver.name, driver.platform) == ("erc20", platform)
        with pytest.raises(ChainUnavailable):
            await driver.head()
    with pytest.raises(UnknownPlatform):
        FACTORY.open(parse_platform("erc20-goerli-tglm"), {})


def test_import_brings_in_no_heavy_library() -> None:
    code = (
        "import sys, protocols.payment.drivers.erc20.driver\n"
        "heavy = {'eth', 'web3', 'eth_account', 'eth_abi', 'eth_keys', 'eth_utils', 'rlp', 'libp2p'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
