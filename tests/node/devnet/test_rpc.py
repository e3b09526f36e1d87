"""JSON-RPC answers as the specification says, and answers whatever it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from eth_utils import event_abi_to_log_topic
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.devnet import contracts, rpc
from node.devnet.addresses import CHAIN_ID, DEPLOYER, FAUCET, MULTI_TRANSFER, TOKEN
from protocols.payment.drivers.erc20 import abi
from tests.node.devnet.bench import new_key

if TYPE_CHECKING:
    from tests.node.devnet.world import World

NOBODY = "0x" + "99" * 20
TOKENS = 10**18


def raw_answer(world: World, body: object) -> Any:
    encoded = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return msgspec.json.decode(rpc.answer(world.chain, encoded))


def ask(world: World, method: str, *params: Any) -> Any:
    answer = raw_answer(world, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    assert "error" not in answer, answer
    return answer["result"]


def error(world: World, method: str, *params: Any) -> dict[str, Any]:
    found: dict[str, Any] = raw_answer(world, {"id": 1, "method": method, "params": params})["error"]
    return found


def topic_of(address: str) -> str:
    return "0x" + "0" * 24 + address[2:]


def test_identity(world: World) -> None:
    assert ask(world, "eth_chainId") == hex(CHAIN_ID)
    assert ask(world, "net_version") == str(CHAIN_ID)
    assert ask(world, "eth_syncing") is False
    assert ask(world, "eth_accounts") == []
    assert "golem" in ask(world, "web3_clientVersion")


def test_blocks_by_number_tag_and_hash(world: World) -> None:
    world.pay(NOBODY, 1)
    assert ask(world, "eth_blockNumber") == "0x2"
    block = ask(world, "eth_getBlockByNumber", "0x2", False)
    for tag in ("latest", "safe", "finalized", "pending"):
        assert ask(world, "eth_getBlockByNumber", tag, False) == block
    assert ask(world, "eth_getBlockByHash", block["hash"], False) == block
    assert ask(world, "eth_getBlockByNumber", "earliest", False)["number"] == "0x0"
    assert ask(world, "eth_getBlockByNumber", "0x3", False) is None
    assert ask(world, "eth_getBlockByHash", "0x" + "00" * 32, False) is None
    parent = ask(world, "eth_getBlockByNumber", "0x1", False)
    assert block["parentHash"] == parent["hash"]
    assert int(block["timestamp"], 16) == world.chain.head.timestamp
    assert int(block["gasLimit"], 16) == 30_000_000
    (full,) = ask(world, "eth_getBlockByNumber", "0x2", True)["transactions"]
    assert full["hash"] == block["transactions"][0]
    assert full == ask(world, "eth_getTransactionByHash", full["hash"])


def test_accounts_now_and_then(world: World) -> None:
    world.pay(NOBODY, 5)
    assert ask(world, "eth_getBalance", NOBODY, "latest") == "0x5"
    assert ask(world, "eth_getBalance", NOBODY, "0x1") == "0x0"
    assert ask(world, "eth_getTransactionCount", FAUCET, "latest") == "0x1"
    assert ask(world, "eth_getTransactionCount", DEPLOYER) == "0x4"
    assert ask(world, "eth_getCode", NOBODY, "latest") == "0x"
    assert len(ask(world, "eth_getCode", TOKEN, "latest")) > 1000
    assert ask(world, "eth_getCode", TOKEN, "earliest") == "0x"
    supply = ask(world, "eth_getStorageAt", TOKEN, "0x1", "latest")
    assert int(supply, 16) == world.view(TOKEN, "uint256", "totalSupply()")


def test_pending_transactions_are_seen_apart(world: World) -> None:
    assert ask(world, "evm_setAutomine", False) is True
    signed = world.signed(_faucet(), NOBODY, value_wei=5)
    assert ask(world, "eth_sendRawTransaction", "0x" + signed.raw.hex()) == signed.tx_hash
    assert ask(world, "eth_getTransactionCount", FAUCET, "latest") == "0x0"
    assert ask(world, "eth_getTransactionCount", FAUCET, "pending") == "0x1"
    waiting = ask(world, "eth_getTransactionByHash", signed.tx_hash)
    assert (waiting["blockNumber"], waiting["value"]) == (None, "0x5")
    assert ask(world, "eth_getTransactionReceipt", signed.tx_hash) is None
    refused = error(world, "eth_sendRawTransaction", "0x" + signed.raw.hex())
    assert refused == {"code": -32000, "message": "already known"}
    ask(world, "evm_mine")
    mined = ask(world, "eth_getTransactionByHash", signed.tx_hash)
    assert mined["blockNumber"] == "0x2"


def test_receipts_and_logs_agree(world: World) -> None:
    key = world.rich()
    world.send(key, TOKEN, "approve(address,uint256)", MULTI_TRANSFER, 100)
    payees = [new_key().node_id for _ in range(3)]
    words = [bytes.fromhex(p[2:]) + (i + 1).to_bytes(12, "big") for i, p in enumerate(payees)]
    row = world.send(key, MULTI_TRANSFER, "golemTransferDirectPacked(bytes32[])", words)
    receipt = ask(world, "eth_getTransactionReceipt", "0x" + row.hash.hex())
    assert (receipt["status"], receipt["from"], receipt["to"]) == ("0x1", key.node_id, MULTI_TRANSFER)
    assert [int(log["data"], 16) for log in receipt["logs"]] == [1, 2, 3]
    assert [log["logIndex"] for log in receipt["logs"]] == ["0x0", "0x1", "0x2"]
    assert ask(world, "eth_getBlockReceipts", receipt["blockNumber"]) == [receipt]
    assert ask(world, "eth_getBlockReceipts", "0xff") is None
    wanted = {
        "fromBlock": "0x0",
        "address": TOKEN,
        "topics": [None, topic_of(key.node_id), topic_of(payees[1])],
    }
    (log,) = ask(world, "eth_getLogs", wanted)
    assert log == receipt["logs"][1]
    assert (log["transactionHash"], log["blockHash"]) == (receipt["transactionHash"], receipt["blockHash"])


def test_logs_of_a_block_with_several_transactions(world: World) -> None:
    keys = [world.rich() for _ in range(3)]
    ask(world, "evm_setAutomine", False)
    data = abi.call("transfer(address,uint256)", NOBODY, 1)
    hashes = [world.signed(key, TOKEN, data) for key in keys]
    for signed in hashes:
        ask(world, "eth_sendRawTransaction", "0x" + signed.raw.hex())
    ask(world, "evm_mine")
    logs = ask(world, "eth_getLogs", {"fromBlock": "latest"})
    assert [log["transactionIndex"] for log in logs] == ["0x0", "0x1", "0x2"]
    assert [log["logIndex"] for log in logs] == ["0x0", "0x1", "0x2"]
    for log in logs:
        receipt = ask(world, "eth_getTransactionReceipt", log["transactionHash"])
        assert receipt["logs"] == [log]
        assert receipt["transactionIndex"] == log["transactionIndex"]
    assert len({log["transactionHash"] for log in logs}) == 3


def test_log_filters(world: World) -> None:
    keys = [world.rich(tokens=5) for _ in range(3)]
    transfer = abi.topic("Transfer(address,address,uint256)")

    def found(**wanted: Any) -> int:
        return len(ask(world, "eth_getLogs", {"fromBlock": "0x2", "toBlock": "latest"} | wanted))

    targets = [topic_of(key.node_id) for key in keys]
    assert found() == 3
    assert found(topics=[transfer]) == 3
    assert found(topics=[[transfer, targets[0]]]) == 3
    assert found(topics=[None, None, targets[0]]) == 1
    assert found(topics=[[transfer], [], targets[:2]]) == 2
    assert found(topics=[targets[0]]) == 0
    assert found(address=[TOKEN, NOBODY]) == 3
    assert found(address=NOBODY) == 0
    assert found(fromBlock="latest") == 1
    assert found(toBlock="earliest") == 0
    assert found(toBlock="0xffff") == 3
    head = ask(world, "eth_getBlockByNumber", "latest", False)["hash"]
    assert len(ask(world, "eth_getLogs", {"blockHash": head})) == 1


def test_too_many_logs_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        world.rich(tokens=5)
    monkeypatch.setattr(rpc, "LOG_LIMIT", 2)
    assert error(world, "eth_getLogs", {"fromBlock": "0x2"})["code"] == -32005
    for wanted in (
        {"topics": [None] * 5},
        {"topics": "x"},
        {"address": "0x1"},
        {"fromBlock": "soon"},
        {"topics": [["0x" + "00" * 32] * 1000]},
    ):
        assert error(world, "eth_getLogs", wanted)["code"] == -32602


def test_calls_and_reverts(world: World) -> None:
    data = "0x" + abi.call("balanceOf(address)", FAUCET).hex()
    stock = ask(world, "eth_call", {"to": TOKEN, "data": data}, "latest")
    assert int(stock, 16) == 10**27
    assert ask(world, "eth_call", {"to": TOKEN, "input": data}, "latest") == stock
    assert ask(world, "eth_call", {"to": TOKEN, "data": data}, "earliest") == "0x"
    transfer = "0x" + abi.call("transfer(address,uint256)", FAUCET, 5).hex()
    for method in ("eth_call", "eth_estimateGas"):
        refused = error(world, method, {"from": NOBODY, "to": TOKEN, "data": transfer}, "latest")
        assert refused["code"] == 3
        assert refused["message"] == "execution reverted: ERC20: transfer amount exceeds balance"
        assert refused["data"].startswith("0x08c379a0")
    gas = int(ask(world, "eth_estimateGas", {"from": FAUCET, "to": TOKEN, "data": transfer}), 16)
    assert 21_000 < gas < 100_000
    assert int(ask(world, "eth_estimateGas", {"from": FAUCET, "to": NOBODY, "value": "0x5"}), 16) == 21_000
    deploy = "0x" + contracts.load("channel").bytecode.hex() + abi.encode(("address",), (TOKEN,)).hex()
    assert int(ask(world, "eth_estimateGas", {"from": FAUCET, "data": deploy}), 16) > 1_000_000


def test_fee_history(world: World) -> None:
    for _ in range(3):
        world.pay(NOBODY, 1)
    history = ask(world, "eth_feeHistory", "0x3", "latest", [0, 50, 100])
    assert history["oldestBlock"] == "0x2"
    assert len(history["baseFeePerGas"]) == 4
    assert history["reward"] == [[hex(1000)] * 3] * 3
    assert all(0 < ratio < 0.01 for ratio in history["gasUsedRatio"])
    base_fees = [int(fee, 16) for fee in history["baseFeePerGas"]]
    assert base_fees == sorted(base_fees, reverse=True)
    blocks = [ask(world, "eth_getBlockByNumber", hex(n), False)["baseFeePerGas"] for n in (2, 3, 4)]
    assert history["baseFeePerGas"][:3] == blocks
    world.pay(NOBODY, 1)
    assert ask(world, "eth_getBlockByNumber", "latest", False)["baseFeePerGas"] == history["baseFeePerGas"][3]
    past = ask(world, "eth_feeHistory", "0x1", "0x2", None)
    assert len(past["baseFeePerGas"]) == 2
    assert "reward" not in past
    assert len(ask(world, "eth_feeHistory", 5000, "latest")["gasUsedRatio"]) == 6
    for percentiles in ([101], ["x"], [float("1e400")], [0] * 101):
        body = msgspec.json.encode(percentiles).replace(b"null", b'"nan"')
        asked = b'{"id":1,"method":"eth_feeHistory","params":["0x1","latest",' + body + b"]}"
        assert raw_answer(world, asked)["error"]["code"] == -32602


def test_prices(world: World) -> None:
    assert int(ask(world, "eth_gasPrice"), 16) > int(ask(world, "eth_maxPriorityFeePerGas"), 16) > 0


def test_time_on_demand(world: World) -> None:
    before = world.chain.time
    assert ask(world, "evm_increaseTime", 100) == "0x64"
    assert ask(world, "evm_increaseTime", "0xa") == "0x6e"
    assert world.chain.time == before + 110
    assert error(world, "evm_increaseTime", -1)["code"] == -32602


def test_batches(world: World) -> None:
    calls = [{"id": i, "method": "eth_chainId"} for i in range(3)]
    answers = raw_answer(world, [*calls, {"id": "x", "method": "nothing"}, 7])
    assert [a["id"] for a in answers] == [0, 1, 2, "x", None]
    assert [a.get("error", {}).get("code") for a in answers] == [None, None, None, -32601, -32600]
    assert raw_answer(world, [])["error"]["code"] == -32600
    assert raw_answer(world, calls[:1] * (rpc.BATCH_LIMIT + 1))["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"[" * 200_000, -32700),
        (b'["]",' * 200_000, -32700),
        (b'["\\"]",' * 200_000, -32700),
        (b'{"a":' * 200_000, -32700),
        (b'"' + b"[" * 200_000, -32700),
        (b"\xff\xfe", -32700),
        (b"7", -32600),
        (b"{}", -32600),
        (b'{"method": 5}', -32600),
        (b'{"method": "[[[[' + b"[" * 100 + b'"}', -32601),
        (b'{"method": "eth_chainId", "params": 5}', -32602),
        (b'{"method": "eth_getBalance"}', -32602),
        (b'{"method": "eth_getBalance", "params": ["0x12"]}', -32602),
        (b'{"method": "eth_getBalance", "params": [{}]}', -32602),
        (b'{"method": "eth_call", "params": [5]}', -32602),
        (b'{"method": "eth_call", "params": [{"data": "0xz"}]}', -32602),
        (b'{"method": "eth_getBlockByNumber", "params": ["0xfffffffffffffffffffff"]}', -32602),
        (b'{"method": "eth_getTransactionReceipt", "params": ["0x12"]}', -32602),
        (b'{"method": "eth_sendRawTransaction", "params": ["12"]}', -32602),
        (b'{"method": "eth_sendRawTransaction", "params": ["0x"]}', -32000),
    ],
)
def test_malformed_requests(world: World, body: bytes, code: int) -> None:
    assert raw_answer(world, body)["error"]["code"] == code


words = st.one_of(
    st.sampled_from(
        ["latest", "earliest", "0x0", "0x1", "0x", "0xffffffffffffffffffff", TOKEN, FAUCET, NOBODY]
    ),
    st.binary(max_size=40).map(lambda raw: "0x" + raw.hex()),
    st.text(max_size=5),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "from",
                    "to",
                    "data",
                    "value",
                    "gas",
                    "fromBlock",
                    "toBlock",
                    "address",
                    "topics",
                    "blockHash",
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
methods = st.sampled_from(sorted(set(rpc._METHODS) - {"evm_increaseTime", "evm_mine", "evm_setAutomine"}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(method=methods, params=st.lists(values, max_size=4), id_=values)
def test_every_request_gets_an_answer(world: World, method: str, params: list[Any], id_: Any) -> None:
    answer = raw_answer(world, {"id": id_, "method": method, "params": params})
    assert ("result" in answer) != ("error" in answer)


def test_event_topics_of_the_contracts_are_ours() -> None:
    events = [one for one in contracts.load("token").abi if one["type"] == "event"]
    topics = {one["name"]: "0x" + event_abi_to_log_topic(one).hex() for one in events}
    assert topics["Transfer"] == abi.topic("Transfer(address,address,uint256)")


def _faucet() -> Any:
    from tests.node.devnet.world import FAUCET as KEY

    return KEY
