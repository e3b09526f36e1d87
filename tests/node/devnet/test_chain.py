"""The chain takes, mines, refuses and remembers; the same on every machine, and across restarts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from eth_account import Account
from eth_utils import to_checksum_address

from node.devnet.addresses import CHAIN_ID, CHANNEL, FAUCET, LOCK, MULTI_TRANSFER, TOKEN
from node.devnet.chain import GENESIS_TIME
from node.devnet.evm import BadRaw, Halted, Request, parse
from node.devnet.pool import Refused
from node.devnet.storage import Storage, UnusableFile
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import address_bytes
from tests.node.devnet.bench import new_key
from tests.node.devnet.world import FAUCET as FAUCET_KEY
from tests.node.devnet.world import START, World

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "0x" + "99" * 20


def test_first_blocks_are_the_same_everywhere(world: World, tmp_path: Path) -> None:
    other = World(tmp_path / "other.sqlite3")
    for number in (0, 1):
        assert world.storage.block(number) == other.storage.block(number)
    # Changes only when the contracts or the genesis block do: then every devnet must be reset.
    assert world.chain.head.hash.hex() == "19a91bae3397c526e0e529445ee7b96e6b5c5a79271d6a93e0f3a8bbb9f5f589"
    other.storage.close()


def test_contracts_stand_at_their_addresses(world: World) -> None:
    for address in (TOKEN, MULTI_TRANSFER, LOCK, CHANNEL):
        assert len(world.chain.evm.code(address_bytes(address), world.chain.head)) > 1000
    for contract in (MULTI_TRANSFER, LOCK, CHANNEL):
        assert world.view(contract, "address", "GLM()") == TOKEN
    assert [tx.status for tx in world.storage.transactions(1)] == [1] * 4


def test_transfer_is_mined_at_once(world: World) -> None:
    before = world.chain.head
    hash_ = world.chain.submit(world.signed(FAUCET_KEY, NOBODY, value_wei=5).raw)
    row = world.storage.transaction(hash_)
    assert row is not None
    assert (row.block, row.status, row.gas_used, row.sender) == (2, 1, 21_000, address_bytes(FAUCET))
    head = world.chain.head
    assert (head.number, head.parent, head.timestamp) == (before.number + 1, before.hash, START)
    assert world.chain.evm.balance(address_bytes(NOBODY), head) == 5
    assert world.chain.evm.balance(address_bytes(NOBODY), before) == 0


def test_blocks_have_growing_times_even_when_the_clock_stands_or_goes_back(world: World) -> None:
    times = []
    for step in (0, 0, -100, 1000):
        world.now += step
        world.pay(NOBODY, 1)
        times.append(world.chain.head.timestamp)
    assert times == [START, START + 1, START + 2, START + 900]
    assert GENESIS_TIME < START


def test_restart_changes_nothing(world: World) -> None:
    key = world.rich()
    world.send(key, TOKEN, "transfer(address,uint256)", NOBODY, 7)
    head, logs = world.chain.head, world.storage.logs(0, 100, [], [], 100)
    world.reopen()
    assert world.chain.head == head
    assert world.storage.logs(0, 100, [], [], 100) == logs
    assert world.tokens(NOBODY) == 7
    world.send(key, TOKEN, "transfer(address,uint256)", NOBODY, 7)
    assert world.tokens(NOBODY) == 14


def test_waiting_transactions_survive_a_restart(world: World) -> None:
    world.settings["automine"] = False
    world.chain.automine = False
    first = world.chain.submit(world.signed(FAUCET_KEY, NOBODY, value_wei=5).raw)
    second = world.chain.submit(world.signed(FAUCET_KEY, NOBODY, value_wei=6).raw)
    world.reopen()
    assert world.chain.waiting(first) is not None
    assert world.chain.waiting(second) is not None
    world.chain.mine()
    assert len(world.storage.transactions(world.chain.head.number)) == 2
    assert world.storage.pool() == []
    assert world.chain.evm.balance(address_bytes(NOBODY), world.chain.head) == 11


def test_failed_block_leaves_no_trace(world: World) -> None:
    head = world.chain.head
    bad = world.signed(FAUCET_KEY, NOBODY, value_wei=1, nonce=50).raw
    with pytest.raises(Exception, match="nonce"):
        world.chain.evm.mine([bad], START)
    assert world.chain.head == head
    world.pay(NOBODY, 5)
    assert world.chain.head.number == head.number + 1


def test_block_that_cannot_be_stored_is_undone_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    head = world.chain.head
    raw = world.signed(FAUCET_KEY, NOBODY, value_wei=5).raw

    def full(*rows: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(world.storage, "add_block", full)
        with pytest.raises(OSError, match="disk full"):
            world.chain.evm.mine([raw], START)
    other = world.storage.node(b"v1:canonical_head_hash")
    assert other == head.hash
    assert world.chain.head == head
    world.chain.evm.mine([raw], START)
    assert world.chain.head.parent == head.hash
    assert world.chain.evm.balance(address_bytes(NOBODY), world.chain.head) == 5


def test_reverted_transaction_is_mined_and_moves_nothing(world: World) -> None:
    key = world.rich(tokens=0)
    data = abi.call("transfer(address,uint256)", NOBODY, 1)
    row = world.storage.transaction(world.chain.submit(world.signed(key, TOKEN, data).raw))
    assert row is not None
    assert row.status == 0
    assert world.storage.logs_of(row.hash) == []
    assert world.tokens(NOBODY) == 0


def legacy(**changes: Any) -> bytes:
    fields = {
        "nonce": 0,
        "gasPrice": 10**10,
        "gas": 21_000,
        "to": to_checksum_address(NOBODY),
        "value": 5,
        "data": b"",
        "chainId": CHAIN_ID,
    } | changes
    return bytes(Account.sign_transaction(fields, FAUCET_KEY.secret).raw_transaction)


def test_old_transactions_are_taken_too(world: World) -> None:
    with_access_list = legacy(accessList=[], type=1, nonce=1)
    for kind, raw in enumerate((legacy(), with_access_list)):
        row = world.storage.transaction(world.chain.submit(raw))
        assert row is not None
        assert (row.status, row.price, parse(raw).kind) == (1, 10**10, kind)


def test_refusals_are_said_as_geth_says_them(world: World) -> None:
    poor = new_key()

    def refusal(raw: bytes) -> str:
        with pytest.raises(Refused) as caught:
            world.chain.submit(raw)
        return str(caught.value)

    def signed(**changes: Any) -> bytes:
        return world.signed(FAUCET_KEY, NOBODY, **changes).raw

    world.pay(NOBODY, 1)
    good = signed(value_wei=1)
    assert refusal(signed(nonce=0)).startswith("nonce too low: next nonce 1, tx nonce 0")
    assert refusal(signed(nonce=9)).startswith("nonce too high")
    assert refusal(signed(chain_id=1)) == f"invalid chain id for signer: have 1 want {CHAIN_ID}"
    assert "have none" in refusal(_without_chain_id())
    assert refusal(signed(max_fee_wei=1, priority_fee_wei=0)).startswith(
        "max fee per gas less than block base fee"
    )
    assert refusal(signed(priority_fee_wei=10**11)).startswith("max priority fee per gas higher")
    assert refusal(signed(gas_limit=20_999)).startswith("intrinsic gas too low")
    assert refusal(signed(gas_limit=30_000_001)).startswith("exceeds block gas limit")
    assert refusal(world.signed(poor, NOBODY, value_wei=1).raw).startswith("insufficient funds")
    assert refusal(good[:-1]).startswith("rlp")
    assert refusal(b"") == "empty transaction"
    assert refusal(b"\x02" + bytes(200_000)).startswith("oversized")
    world.chain.submit(good)
    assert refusal(good).startswith("nonce too low")


def _without_chain_id() -> bytes:
    fields = {"nonce": 0, "gasPrice": 10**10, "gas": 21_000, "to": to_checksum_address(NOBODY), "value": 5}
    return bytes(Account.sign_transaction(fields | {"data": b""}, FAUCET_KEY.secret).raw_transaction)


def test_replacement_of_what_waits(world: World) -> None:
    world.chain.automine = False
    first = world.chain.submit(world.signed(FAUCET_KEY, NOBODY, value_wei=5, nonce=0).raw)
    cheap = world.signed(FAUCET_KEY, NOBODY, value_wei=6, nonce=0).raw
    with pytest.raises(Refused, match="replacement transaction underpriced"):
        world.chain.submit(cheap)
    dear = world.signed(
        FAUCET_KEY, NOBODY, value_wei=7, nonce=0, max_fee_wei=2 * 10**10, priority_fee_wei=2_000
    )
    second = world.chain.submit(dear.raw)
    world.chain.mine()
    assert world.storage.transaction(first) is None
    assert world.storage.transaction(second) is not None
    assert world.chain.evm.balance(address_bytes(NOBODY), world.chain.head) == 7


def test_what_cannot_pay_the_base_fee_waits(world: World) -> None:
    world.chain.automine = False
    raw = world.signed(FAUCET_KEY, NOBODY, value_wei=5, max_fee_wei=1_000, priority_fee_wei=0).raw
    hash_ = world.chain.submit(raw)
    world.chain.mine()
    assert world.storage.transaction(hash_) is None
    for _ in range(130):  # empty blocks bring the base fee down by an eighth each
        world.chain.mine()
    assert world.storage.transaction(hash_) is not None


def test_one_block_holds_many(world: World) -> None:
    world.chain.automine = False
    hashes = [world.chain.submit(world.signed(FAUCET_KEY, NOBODY, value_wei=1).raw) for _ in range(20)]
    block = world.chain.mine()
    rows = world.storage.transactions(block.number)
    assert [row.hash for row in rows] == hashes
    assert [row.gas_total for row in rows] == [21_000 * (i + 1) for i in range(20)]
    assert block.gas_used == 21_000 * 20


def test_call_sees_a_state_and_changes_none(world: World) -> None:
    key = world.rich()
    before = world.chain.head
    request = Request(
        sender=address_bytes(key.node_id),
        to=address_bytes(TOKEN),
        data=abi.call("transfer(address,uint256)", NOBODY, 5),
        value_wei=0,
        gas_limit=1_000_000,
    )
    assert int.from_bytes(world.chain.call(request, before), "big") == 1
    assert world.tokens(NOBODY) == 0
    assert world.chain.head == before
    world.send(key, TOKEN, "transfer(address,uint256)", NOBODY, 5)
    assert world.tokens(NOBODY) == 5
    balance = Request(
        sender=bytes(20),
        to=address_bytes(TOKEN),
        data=abi.call("balanceOf(address)", NOBODY),
        value_wei=0,
        gas_limit=100_000,
    )
    assert int.from_bytes(world.chain.call(balance, before), "big") == 0


def test_estimate_suffices_and_is_tight(world: World) -> None:
    key = world.rich()
    data = abi.call("transfer(address,uint256)", NOBODY, 5)
    request = Request(
        sender=address_bytes(key.node_id),
        to=address_bytes(TOKEN),
        data=data,
        value_wei=0,
        gas_limit=30_000_000,
    )
    gas = world.chain.estimate(request, world.chain.head)
    row = world.storage.transaction(world.chain.submit(world.signed(key, TOKEN, data, gas_limit=gas).raw))
    assert row is not None
    assert row.status == 1
    assert row.gas_used <= gas <= row.gas_used * 1.05


def test_estimate_of_a_refund_covers_the_peak(world: World) -> None:
    key = world.rich()
    world.send(key, TOKEN, "approve(address,uint256)", NOBODY, 5)
    data = abi.call("approve(address,uint256)", NOBODY, 0)  # clearing a slot is refunded afterwards
    request = Request(
        sender=address_bytes(key.node_id), to=address_bytes(TOKEN), data=data, value_wei=0, gas_limit=10**7
    )
    gas = world.chain.estimate(request, world.chain.head)
    row = world.storage.transaction(world.chain.submit(world.signed(key, TOKEN, data, gas_limit=gas).raw))
    assert row is not None
    assert row.status == 1
    assert row.gas_used < gas


def test_calls_that_cannot_be(world: World) -> None:
    poor = address_bytes(new_key().node_id)
    for changes in ({"value_wei": 5}, {"gas_limit": 100}, {"gas_limit": 10**9}):
        fields: dict[str, Any] = {"value_wei": 0, "gas_limit": 10**6} | changes
        with pytest.raises(Halted):
            world.chain.call(Request(sender=poor, to=poor, data=b"", **fields), world.chain.head)


def test_time_goes_forward_on_demand_and_stays(world: World) -> None:
    assert world.chain.skip_time(3600) == 3600
    world.pay(NOBODY, 1)
    assert world.chain.head.timestamp == START + 3600
    world.reopen()
    assert world.chain.time == START + 3600
    for seconds in (-1, 10**12):
        with pytest.raises(ValueError, match="forward"):
            world.chain.skip_time(seconds)


def test_file_of_something_else_is_refused(tmp_path: Path, world: World) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"no database " * 1000)
    with pytest.raises(UnusableFile, match="no chain of ours"):
        Storage(junk)
    with pytest.raises(UnusableFile, match="in use"):
        Storage(world.path)


@pytest.mark.parametrize("raw", [b"\x02", b"\x03\xc0", b"\x7f", b"\xc0", b"\x02\xc0", b"\x05abc", b"\xf8"])
def test_malformed_transactions(raw: bytes) -> None:
    with pytest.raises(BadRaw):
        parse(raw)
