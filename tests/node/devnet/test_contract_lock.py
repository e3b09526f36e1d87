"""Deposits: the spender pays others out of them, the funder gets the rest back, and ids are used once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from node.devnet.addresses import LOCK, TOKEN
from protocols.payment.drivers.erc20.transaction import address_bytes

if TYPE_CHECKING:
    from p2p.identity.keys import PrivateKey
    from tests.node.devnet.world import World

NONCE, AMOUNT, FEE = 77, 1000, 30
VIEW = "(uint256,uint64,address,address,uint128,uint64)"
PAYEE, OTHER = "0x" + "11" * 20, "0x" + "22" * 20


class Deposit:
    """An open deposit of 1000 for a day, and who holds its ends."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.funder, self.spender = world.rich(), world.rich(tokens=0)
        self.valid_to = world.chain.time + 86400
        world.send(self.funder, TOKEN, "approve(address,uint256)", LOCK, 10 * AMOUNT)
        self.create(NONCE)
        self.id = (int(self.funder.node_id, 16) << 96) ^ NONCE

    def create(self, nonce: int) -> None:
        create = "createDeposit(uint64,address,uint128,uint128,uint64)"
        self.world.send(self.funder, LOCK, create, nonce, self.spender.node_id, AMOUNT, FEE, self.valid_to)

    def amount(self) -> int:
        return int(self.world.view(LOCK, VIEW, "getDeposit(uint256)", self.id)[4])

    def spends(self, signature: str, *values: Any, by: PrivateKey | None = None) -> str | None:
        return self.world.why_not(by or self.spender, LOCK, signature, self.id, *values)


@pytest.fixture
def deposit(world: World) -> Deposit:
    return Deposit(world)


def test_deposit_presents_itself(world: World, deposit: Deposit) -> None:
    assert world.view(LOCK, "uint256", "CONTRACT_ID_AND_VERSION()") == 0x167583002
    funder, spender = deposit.funder.node_id, deposit.spender.node_id
    expected = (deposit.id, NONCE, funder, spender, AMOUNT, deposit.valid_to)
    assert world.view(LOCK, VIEW, "getDeposit(uint256)", deposit.id) == expected
    assert world.view(LOCK, VIEW, "getDepositByNonce(uint64,address)", NONCE, funder) == expected
    assert world.view(LOCK, "uint256", "idFromNonceAndFunder(uint64,address)", NONCE, funder) == deposit.id
    assert world.view(LOCK, "address", "funderFromId(uint256)", deposit.id) == funder
    assert world.view(LOCK, "uint64", "nonceFromId(uint256)", deposit.id) == NONCE
    assert world.tokens(LOCK) == AMOUNT + FEE


def test_validation(world: World, deposit: Deposit) -> None:
    assert '"name": "flatFeeAmount"' in world.view(LOCK, "string", "getValidateDepositSignature()")
    validate = "validateDeposit(uint256,uint128,uint128)"
    assert world.view(LOCK, "string", validate, deposit.id, AMOUNT, FEE) == "valid"
    assert "amount" in world.view(LOCK, "string", validate, deposit.id, AMOUNT + 1, FEE)
    assert "fee" in world.view(LOCK, "string", validate, deposit.id, AMOUNT, FEE + 1)
    assert "id" in world.view(LOCK, "string", validate, deposit.id + 1, AMOUNT, FEE)


def test_spender_pays_others_and_closes(world: World, deposit: Deposit) -> None:
    world.send(
        deposit.spender, LOCK, "depositSingleTransfer(uint256,address,uint128)", deposit.id, PAYEE, 100
    )
    words = [address_bytes(payee) + (50).to_bytes(12, "big") for payee in (PAYEE, OTHER)]
    world.send(deposit.spender, LOCK, "depositTransfer(uint256,bytes32[])", deposit.id, words)
    assert (world.tokens(PAYEE), world.tokens(OTHER), deposit.amount()) == (150, 50, AMOUNT - 200)
    before = world.tokens(deposit.funder.node_id)
    world.send(deposit.spender, LOCK, "closeDeposit(uint256)", deposit.id)
    assert world.tokens(deposit.funder.node_id) == before + AMOUNT - 200
    assert world.tokens(deposit.spender.node_id) == FEE
    assert world.tokens(LOCK) == 0


@pytest.mark.parametrize("packed", [True, False])
def test_pay_and_close_at_once(world: World, deposit: Deposit, packed: bool) -> None:
    before = world.tokens(deposit.funder.node_id)
    if packed:
        word = address_bytes(PAYEE) + (100).to_bytes(12, "big")
        world.send(deposit.spender, LOCK, "depositTransferAndClose(uint256,bytes32[])", deposit.id, [word])
    else:
        single = "depositSingleTransferAndClose(uint256,address,uint128)"
        world.send(deposit.spender, LOCK, single, deposit.id, PAYEE, 100)
    assert world.tokens(PAYEE) == 100
    assert world.tokens(deposit.funder.node_id) == before + AMOUNT - 100


def test_closed_id_is_burned(world: World, deposit: Deposit) -> None:
    world.send(deposit.spender, LOCK, "closeDeposit(uint256)", deposit.id)
    assert deposit.spends("closeDeposit(uint256)") == "deposit is closed"
    assert deposit.spends("depositSingleTransfer(uint256,address,uint128)", PAYEE, 1) == "deposit is closed"
    create = "createDeposit(uint64,address,uint128,uint128,uint64)"
    values = (NONCE, deposit.spender.node_id, 1, 0, deposit.valid_to)
    assert world.why_not(deposit.funder, LOCK, create, *values) == "deposit id is used already"
    deposit.create(NONCE + 1)


def test_only_the_spender_spends_and_never_to_itself(world: World, deposit: Deposit) -> None:
    single = "depositSingleTransfer(uint256,address,uint128)"
    assert deposit.spends(single, PAYEE, 1, by=deposit.funder) == "only the spender may pay out"
    assert deposit.spends(single, deposit.spender.node_id, 1) == "the spender may not pay itself"
    assert deposit.spends(single, PAYEE, AMOUNT + 1) == "deposit amount is too low"
    assert deposit.spends("closeDeposit(uint256)", by=deposit.funder) == "only the spender may close"
    assert deposit.spends(single, PAYEE, AMOUNT) is None


def test_funder_takes_back_only_when_time_is_over(world: World, deposit: Deposit) -> None:
    terminate = "terminateDeposit(uint64)"
    assert world.why_not(deposit.funder, LOCK, terminate, NONCE) == "deposit is still valid"
    world.now += 86400 + 60
    assert world.why_not(deposit.spender, LOCK, terminate, NONCE) == "no such deposit"
    before = world.tokens(deposit.funder.node_id)
    world.send(deposit.funder, LOCK, terminate, NONCE)
    assert world.tokens(deposit.funder.node_id) == before + AMOUNT + FEE
    assert world.why_not(deposit.funder, LOCK, terminate, NONCE) == "deposit is closed"


def test_extension_adds_and_never_shortens(world: World, deposit: Deposit) -> None:
    extend = "extendDeposit(uint64,uint128,uint128,uint64)"
    shorter = deposit.valid_to - 1
    assert (
        world.why_not(deposit.funder, LOCK, extend, NONCE, 1, 0, shorter) == "a deposit cannot be shortened"
    )
    world.send(deposit.funder, LOCK, extend, NONCE, 5, 6, deposit.valid_to + 10)
    assert deposit.amount() == AMOUNT + 5
    assert world.tokens(LOCK) == AMOUNT + FEE + 11


def test_impossible_deposits_are_refused(world: World, deposit: Deposit) -> None:
    create = "createDeposit(uint64,address,uint128,uint128,uint64)"
    funder, spender = deposit.funder, deposit.spender.node_id
    for spender_, amount in ((spender, 0), ("0x" + "0" * 40, 1), (funder.node_id, 1)):
        assert world.why_not(funder, LOCK, create, 5, spender_, amount, 0, deposit.valid_to) is not None
    too_much = (5, spender, 10 * AMOUNT, 0, deposit.valid_to)
    assert world.why_not(funder, LOCK, create, *too_much) == "ERC20: transfer amount exceeds allowance"
