"""The committed code belongs to the sources; token and multi-transfer do what the Golem ones do."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from node.devnet import contracts
from node.devnet.addresses import MULTI_TRANSFER, TOKEN
from protocols.payment.drivers.erc20.transaction import address_bytes

if TYPE_CHECKING:
    from tests.node.devnet.world import World

TOKENS = 10**18


def test_every_source_is_compiled_and_deployed() -> None:
    assert {path.stem for path in contracts.FOLDER.glob("*.vy")} == set(contracts.NAMES)
    assert {path.stem for path in contracts.FOLDER.glob("*.json")} == set(contracts.NAMES)


@pytest.mark.parametrize("name", contracts.NAMES)
def test_compiled_code_belongs_to_its_source(name: str) -> None:
    source = (contracts.FOLDER / f"{name}.vy").read_bytes()
    contract = contracts.load(name)
    assert contract.source_sha256 == hashlib.sha256(source).hexdigest(), f"{name}.vy changed: make contracts"
    assert (contract.vyper, contract.evm_version) == ("0.4.3", "paris")
    assert contract.bytecode
    assert json.dumps(contract.abi)


def test_token_presents_itself(world: World) -> None:
    assert world.view(TOKEN, "string", "name()") == "Test Golem Network Token"
    assert world.view(TOKEN, "string", "symbol()") == "tGLM"
    assert world.view(TOKEN, "uint8", "decimals()") == 18


def test_create_grants_1000_below_400(world: World) -> None:
    key = world.rich(tokens=0)
    supply = world.view(TOKEN, "uint256", "totalSupply()")
    world.send(key, TOKEN, "create()")
    assert world.tokens(key.node_id) == 1000 * TOKENS
    assert world.view(TOKEN, "uint256", "totalSupply()") == supply + 1000 * TOKENS
    assert world.why_not(key, TOKEN, "create()") == "faucet: balance is 400 or more"
    world.send(key, TOKEN, "transfer(address,uint256)", MULTI_TRANSFER, 600 * TOKENS)
    assert world.why_not(key, TOKEN, "create()") is not None
    world.send(key, TOKEN, "transfer(address,uint256)", MULTI_TRANSFER, 1)
    world.send(key, TOKEN, "create()")


def test_transfer_rules(world: World) -> None:
    a, b = world.rich(), world.rich(tokens=0)
    too_much = "ERC20: transfer amount exceeds balance"
    assert world.why_not(b, TOKEN, "transfer(address,uint256)", a.node_id, 1) == too_much
    assert world.why_not(a, TOKEN, "transfer(address,uint256)", "0x" + "0" * 40, 1) is not None
    spend = "transferFrom(address,address,uint256)"
    exceeded = "ERC20: transfer amount exceeds allowance"
    assert world.why_not(b, TOKEN, spend, a.node_id, b.node_id, 1) == exceeded
    world.send(a, TOKEN, "approve(address,uint256)", b.node_id, 5)
    world.send(b, TOKEN, spend, a.node_id, b.node_id, 3)
    assert world.view(TOKEN, "uint256", "allowance(address,address)", a.node_id, b.node_id) == 2
    assert world.why_not(b, TOKEN, spend, a.node_id, b.node_id, 3) == exceeded
    assert world.tokens(b.node_id) == 3
    world.send(a, TOKEN, "transfer(address,uint256)", a.node_id, 7)
    assert world.tokens(a.node_id) == 1000 * TOKENS - 3


def packed(payments: dict[str, int]) -> list[bytes]:
    return [address_bytes(payee) + amount.to_bytes(12, "big") for payee, amount in payments.items()]


@pytest.mark.parametrize("count", [1, 10, 50])
@pytest.mark.parametrize(
    "form",
    ["direct packed", "indirect packed", "direct", "indirect"],
    ids=lambda form: form.replace(" ", "-"),
)
def test_multi_transfer_pays_each(world: World, form: str, count: int) -> None:
    payer = world.rich()
    payments = {f"0x{i + 1:040x}": i + 7 for i in range(count)}
    total = sum(payments.values())
    world.send(payer, TOKEN, "approve(address,uint256)", MULTI_TRANSFER, total)
    plain = [list(payments), list(payments.values())]
    calls = {
        "direct packed": ("golemTransferDirectPacked(bytes32[])", packed(payments)),
        "indirect packed": ("golemTransferIndirectPacked(bytes32[],uint256)", packed(payments), total),
        "direct": ("golemTransferDirect(address[],uint256[])", *plain),
        "indirect": ("golemTransferIndirect(address[],uint256[])", *plain),
    }
    signature, *values = calls[form]
    world.send(payer, MULTI_TRANSFER, str(signature), *values)
    assert {payee: world.tokens(payee) for payee in payments} == payments
    assert world.tokens(payer.node_id) == 1000 * TOKENS - total
    assert world.tokens(MULTI_TRANSFER) == 0


def test_multi_transfer_pays_all_or_nobody(world: World) -> None:
    payer = world.rich()
    payments = packed({"0x" + "01" * 20: 5, "0x" + "02" * 20: 6})
    direct, indirect = (
        "golemTransferDirectPacked(bytes32[])",
        "golemTransferIndirectPacked(bytes32[],uint256)",
    )
    world.send(payer, TOKEN, "approve(address,uint256)", MULTI_TRANSFER, 10)
    assert (
        world.why_not(payer, MULTI_TRANSFER, direct, payments) == "ERC20: transfer amount exceeds allowance"
    )
    world.send(payer, TOKEN, "approve(address,uint256)", MULTI_TRANSFER, 100)
    for wrong_total in (10, 12):
        assert world.why_not(payer, MULTI_TRANSFER, indirect, payments, wrong_total) is not None
    uneven = "golemTransferDirect(address[],uint256[])"
    assert "differ" in str(world.why_not(payer, MULTI_TRANSFER, uneven, ["0x" + "01" * 20], [1, 2]))
    assert world.tokens("0x" + "01" * 20) == 0
