"""The conformance suite of payment drivers: what every implementation must do alike.

A third party runs `check_payment_driver` on its own driver in its tests; ours pass it too, the ERC-20 driver
on the embedded chain (and on anvil where there is one) and the model driver. Each check is a function of its
own, so that a test can name them one by one; all take the driver and a `Bench`, which can do what a driver
cannot: make keys, hold blocks back, make a transaction fail. Checks leave the chain mining and may run in any
order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from protocols.payment.drivers.base import Transfer
from protocols.payment.drivers.errors import (
    BadTransfer,
    CantSign,
    DriverError,
    InsufficientGas,
    InsufficientToken,
    NoMatchingTransfer,
    NonceTooLow,
    TransactionFailed,
    TransactionUnknown,
    Underpriced,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from protocols.payment.drivers.base import PaymentDriver, Receipt, SignedTransaction, Signer

TOKEN: Final = 10**18
_POLL_S: Final = 0.02
_POLLS: Final = 1000
UNKNOWN_HASH: Final = "0x" + "ab" * 32


class Bench(Protocol):
    """What a check needs besides the driver."""

    def signer(self) -> Signer:
        """Make a new key whose address has nothing."""
        ...

    async def give_coin(self, address: str) -> None:
        """Make sure that an address can pay fees."""
        ...

    async def hold_blocks(self) -> None:
        """Let transactions wait from now on."""
        ...

    async def release_blocks(self) -> None:
        """Mine what waits, and from now on each transaction as it comes."""
        ...

    async def failing_transaction(self, signer: Signer) -> SignedTransaction:
        """Sign a transaction that the chain takes, mines and reverts."""
        ...


class _Stubborn:
    """A signer that refuses."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id

    def sign(self, digest: bytes) -> bytes:
        raise PermissionError("locked")


async def check_payment_driver(driver: PaymentDriver, bench: Bench) -> None:
    """Run the whole suite; the first deviation raises AssertionError."""
    for check in CHECKS:
        await check(driver, bench)


async def check_identity(driver: PaymentDriver, bench: Bench) -> None:
    """Names agree with each other, and the platform with its network."""
    _same(driver.platform.driver, driver.name, "platform and driver name")
    _same(driver.network.name, driver.platform.network, "platform and network")
    _same(driver.network.token_symbol, driver.platform.token, "platform and token")


async def check_funding(driver: PaymentDriver, bench: Bench) -> None:
    """A new address has nothing; funding gives it coin and tokens; repeating it takes no transaction."""
    signer = bench.signer()
    empty = await driver.balance(signer.node_id)
    _same((empty.token_wei, empty.gas_wei), (0, 0), "balance of a new address")
    _same(await driver.next_nonce(signer.node_id), 0, "nonce of a new address")
    await _funded(driver, bench, signer)
    balance = await driver.balance(signer.node_id)
    _true(balance.token_wei >= 400 * TOKEN, "funding gives at least 400 tokens")
    _true(balance.gas_wei > 0, "funding leaves coin")
    _true(balance.block_number >= empty.block_number, "blocks go forward")
    again = await driver.fund(signer, await driver.next_nonce(signer.node_id))
    _same(again.minted, None, "a second funding")


async def check_single_transfer(driver: PaymentDriver, bench: Bench) -> None:
    """One payee: one transaction, nothing sent before `broadcast`, exact amounts after it."""
    payer, payee = bench.signer(), bench.signer().node_id
    await _funded(driver, bench, payer)
    before = await driver.balance(payer.node_id)
    nonce = await driver.next_nonce(payer.node_id)
    transfer = Transfer("t1", payee, 3 * TOKEN + 1)
    (signed,) = await driver.prepare([transfer], nonce, payer)
    _same(
        (signed.nonce, signed.transfers, signed.sender),
        (nonce, (transfer,), payer.node_id),
        "what was signed",
    )
    _same(await driver.balance(payer.node_id), before, "balance after prepare")
    _same(await driver.receipt(signed.tx_hash), None, "receipt before broadcast")
    await driver.broadcast(signed.raw)
    receipt = await _mined(driver, signed)
    _true(receipt.succeeded and receipt.confirmations >= 1, "the transfer succeeds")
    after = await driver.balance(payer.node_id)
    _same(before.token_wei - after.token_wei, transfer.amount_wei, "what the payer paid")
    _same(before.gas_wei - after.gas_wei, receipt.fee_wei, "the fee")
    _true(receipt.fee_wei <= signed.max_cost_wei, "the fee is within what was signed")
    _same((await driver.balance(payee)).token_wei, transfer.amount_wei, "what the payee got")
    _same(await driver.next_nonce(payer.node_id), nonce + 1, "the next nonce")
    verified = await driver.verify(signed.tx_hash, payer.node_id, payee)
    _same(verified.amount_wei, transfer.amount_wei, "the verified amount")
    _same(
        (verified.block_number, verified.block_hash), (receipt.block_number, receipt.block_hash), "the block"
    )


async def check_batch(driver: PaymentDriver, bench: Bench) -> None:
    """Three payees, one of them twice: each gets its sum, and each payee can verify its own."""
    payer, payees = bench.signer(), [bench.signer().node_id for _ in range(3)]
    await _funded(driver, bench, payer)
    amounts = [(payees[0], 1), (payees[1], 2 * TOKEN), (payees[2], 3 * TOKEN), (payees[1], 5)]
    transfers = [Transfer(f"t{i}", payee, amount) for i, (payee, amount) in enumerate(amounts)]
    expected = {payees[0]: 1, payees[1]: 2 * TOKEN + 5, payees[2]: 3 * TOKEN}
    for round_ in (1, 2):  # the second needs no approval
        signed = await _pay(driver, payer, transfers)
        _same(signed[-1].transfers, tuple(transfers), "transfers of the last transaction")
        _true(all(not tx.transfers for tx in signed[:-1]), "an approval pays nobody")
        _true(len(signed) == 1 or round_ == 1, "one approval is enough")
        for payee, amount in expected.items():
            _same((await driver.balance(payee)).token_wei, amount * round_, "balance of a payee")
            verified = await driver.verify(signed[-1].tx_hash, payer.node_id, payee)
            _same(verified.amount_wei, amount, "verified sum of a payee")


async def check_broadcast_again(driver: PaymentDriver, bench: Bench) -> None:
    """The same bytes may be sent again, while they wait and after they are mined, and pay once."""
    payer, payee = bench.signer(), bench.signer().node_id
    await _funded(driver, bench, payer)
    (signed,) = await driver.prepare(
        [Transfer("t", payee, TOKEN)], await driver.next_nonce(payer.node_id), payer
    )
    await bench.hold_blocks()
    try:
        await driver.broadcast(signed.raw)
        await driver.broadcast(signed.raw)
        _same(await driver.receipt(signed.tx_hash), None, "receipt while it waits")
        _same(await driver.next_nonce(payer.node_id), signed.nonce, "waiting transactions are not counted")
        await _raises(TransactionUnknown, driver.verify(signed.tx_hash, payer.node_id, payee))
    finally:
        await bench.release_blocks()
    await _mined(driver, signed)
    await driver.broadcast(signed.raw)
    _same((await driver.balance(payee)).token_wei, TOKEN, "paid once")


async def check_replacement(driver: PaymentDriver, bench: Bench) -> None:
    """A replacement has the same nonce and takes the place of what waits; the replaced one never counts."""
    payer, payee = bench.signer(), bench.signer().node_id
    await _funded(driver, bench, payer)
    (first,) = await driver.prepare(
        [Transfer("t", payee, TOKEN)], await driver.next_nonce(payer.node_id), payer
    )
    await bench.hold_blocks()
    try:
        await driver.broadcast(first.raw)
        second = await driver.replace(first, payer)
        _same((second.nonce, second.transfers), (first.nonce, first.transfers), "what the replacement keeps")
        _true(second.tx_hash != first.tx_hash, "a replacement has another hash")
        _true(second.max_fee_wei * 8 >= first.max_fee_wei * 9, "it pays an eighth more")
        await driver.broadcast(second.raw)
        await _raises(Underpriced, driver.broadcast(first.raw))
    finally:
        await bench.release_blocks()
    _true((await _mined(driver, second)).succeeded, "the replacement succeeds")
    _same(await driver.receipt(first.tx_hash), None, "receipt of what was replaced")
    _same((await driver.balance(payee)).token_wei, TOKEN, "paid once")
    await _raises(NonceTooLow, driver.broadcast(first.raw))
    await _raises(TransactionUnknown, driver.verify(first.tx_hash, payer.node_id, payee))


async def check_verification(driver: PaymentDriver, bench: Bench) -> None:
    """Unknown, foreign and failed transactions are told apart, and pay nobody."""
    payer, payee, other = bench.signer(), bench.signer().node_id, bench.signer().node_id
    await _funded(driver, bench, payer)
    (paid,) = await _pay(driver, payer, [Transfer("t", payee, TOKEN)])
    await _raises(TransactionUnknown, driver.verify(UNKNOWN_HASH, payer.node_id, payee))
    await _raises(NoMatchingTransfer, driver.verify(paid.tx_hash, other, payee))
    await _raises(NoMatchingTransfer, driver.verify(paid.tx_hash, payer.node_id, other))
    await _raises(NoMatchingTransfer, driver.verify(paid.tx_hash, payee, payer.node_id))
    failing = await bench.failing_transaction(payer)
    await driver.broadcast(failing.raw)
    _true(not (await _mined(driver, failing)).succeeded, "it failed")
    await _raises(TransactionFailed, driver.verify(failing.tx_hash, payer.node_id, payee))


async def check_confirmations(driver: PaymentDriver, bench: Bench) -> None:
    """Depth counts from 1 and grows with the chain."""
    payer, payee = bench.signer(), bench.signer().node_id
    await _funded(driver, bench, payer)
    (first,) = await _pay(driver, payer, [Transfer("t", payee, 1)])
    receipt = await _mined(driver, first)
    head = await driver.head()
    _same(receipt.confirmations, head.number - receipt.block_number + 1, "confirmations")
    await _pay(driver, payer, [Transfer("t", payee, 1)])
    deeper = await driver.verify(first.tx_hash, payer.node_id, payee)
    _true(deeper.confirmations > receipt.confirmations, "a later block confirms")


async def check_incoming(driver: PaymentDriver, bench: Bench) -> None:
    """Transfers to an address are found in the chain's log, without being told their transactions."""
    payer, payee = bench.signer(), bench.signer().node_id
    await _funded(driver, bench, payer)
    start = (await driver.head()).number + 1
    (signed,) = await _pay(driver, payer, [Transfer("t", payee, 7)])
    end = (await driver.head()).number
    (found,) = await driver.incoming(payee, start, end)
    _same((found.tx_hash, found.amount_wei, found.payee), (signed.tx_hash, 7, payee), "the transfer found")
    _same(await driver.incoming(payee, 0, start - 1), (), "before it there was none")
    await _raises(BadTransfer, driver.incoming(payee, 0, 5_000))


async def check_refusals(driver: PaymentDriver, bench: Bench) -> None:
    """What cannot be paid is refused by its own error, before anything is signed or sent."""
    payer, payee = bench.signer(), bench.signer().node_id
    poor = bench.signer()
    await _funded(driver, bench, payer)
    nonce = await driver.next_nonce(payer.node_id)
    balance = await driver.balance(payer.node_id)
    for bad in (
        [],
        [Transfer("t", payee, 0)],
        [Transfer("t", payee, -1)],
        [Transfer("t", "0x" + "0" * 40, 1)],
        [Transfer("t", "somebody", 1)],
        [Transfer("t", payee, 1 << 96)],
        [Transfer(f"t{i}", f"0x{i + 1:040x}", 1) for i in range(driver.network.max_batch + 1)],
    ):
        await _raises(BadTransfer, driver.prepare(bad, nonce, payer))
    too_much = Transfer("t", payee, balance.token_wei + 1)
    await _raises(InsufficientToken, driver.prepare([too_much], nonce, payer))
    stubborn = _Stubborn(payer.node_id)
    await _raises(CantSign, driver.prepare([Transfer("t", payee, 1)], nonce, stubborn))
    await _pay(driver, payer, [Transfer("t", poor.node_id, TOKEN)])
    await _raises(InsufficientGas, driver.prepare([Transfer("t", payee, 1)], 0, poor))


CHECKS: Final[tuple[Callable[[PaymentDriver, Bench], Awaitable[None]], ...]] = (
    check_identity,
    check_funding,
    check_single_transfer,
    check_batch,
    check_broadcast_again,
    check_replacement,
    check_verification,
    check_confirmations,
    check_incoming,
    check_refusals,
)


async def _funded(driver: PaymentDriver, bench: Bench, signer: Signer) -> None:
    await bench.give_coin(signer.node_id)
    await driver.fund(signer, await driver.next_nonce(signer.node_id))


async def _pay(
    driver: PaymentDriver, payer: Signer, transfers: list[Transfer]
) -> tuple[SignedTransaction, ...]:
    signed = await driver.prepare(transfers, await driver.next_nonce(payer.node_id), payer)
    for tx in signed:
        await driver.broadcast(tx.raw)
        _true((await _mined(driver, tx)).succeeded, f"{tx.kind} succeeds")
    return signed


async def _mined(driver: PaymentDriver, tx: SignedTransaction) -> Receipt:
    """Wait for a receipt: chains mine when they like, also those that mine on demand."""
    for _ in range(_POLLS):
        receipt = await driver.receipt(tx.tx_hash)
        if receipt is not None:
            return receipt
        await trio.sleep(_POLL_S)
    raise AssertionError(f"{tx.kind} {tx.tx_hash} was not mined in {_POLLS * _POLL_S:.0f} s")


async def _raises(kind: type[DriverError], doing: Awaitable[object]) -> None:
    try:
        await doing
    except kind:
        return
    except DriverError as error:
        raise AssertionError(f"expected {kind.__name__}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {kind.__name__}, nothing was raised")


def _same(seen: object, expected: object, what: str) -> None:
    if seen != expected:
        raise AssertionError(f"{what}: expected {expected!r}, got {seen!r}")


def _true(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(f"not so: {what}")
