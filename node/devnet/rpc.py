"""JSON-RPC of the embedded chain: the `eth_` methods that payment drivers and wallets use.

Names, forms and error texts are those of the Ethereum JSON-RPC specification and of geth, so that a client
cannot tell this chain from another. Blocks are never taken back here: `safe` and `finalized` mean the newest.
Besides: `evm_mine`, `evm_setAutomine` and `evm_increaseTime`, for tests that need blocks and time on demand.

`answer` takes a request body and gives the answer's body; it never raises for what a client sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from node.devnet import form
from node.devnet.addresses import CHAIN_ID
from node.devnet.evm import CALL_GAS, Halted, Request, Reverted, parse
from node.devnet.pool import Refused
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import address_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.devnet.chain import Chain
    from node.devnet.storage import BlockRow

BATCH_LIMIT: Final = 1000
LOG_LIMIT: Final = 10_000
_CHOICE_LIMIT: Final = 256
_DEPTH_LIMIT: Final = 64
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_HISTORY_LIMIT: Final = 1024
_TIP_WEI: Final = 1_000_000
"""What `eth_maxPriorityFeePerGas` proposes; anything above nothing is mined at once."""


class Fault(Exception):
    """What a JSON-RPC error object says."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


def answer(chain: Chain, body: bytes) -> bytes:
    """Answer a request or a batch of them."""
    try:
        if _depth(body) > _DEPTH_LIMIT:
            raise Fault(-32700, f"parse error: nested more than {_DEPTH_LIMIT} deep")
        asked = msgspec.json.decode(body)
    except Fault as fault:
        return _json(_error(None, fault))
    except msgspec.DecodeError:
        return _json(_error(None, Fault(-32700, "parse error: the body is no JSON")))
    if not isinstance(asked, list):
        return _json(_one(chain, asked))
    if not 0 < len(asked) <= BATCH_LIMIT:
        return _json(
            _error(None, Fault(-32600, f"a batch has 1 to {BATCH_LIMIT} requests, not {len(asked)}"))
        )
    return _json([_one(chain, one) for one in asked])


def _depth(body: bytes) -> int:
    """Count how deeply brackets nest, before anything recurses into them.

    The EVM raises Python's recursion limit to 100,000 (py_ecc does at import), and a JSON decoder that
    recurses on the C stack under that limit dies with the process. Brackets in strings are left out; where
    the body is no JSON, the count is right up to the place at which a decoder stops.
    """
    outside_strings = body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    deepest = depth = 0
    for char in b"".join(outside_strings).translate(None, _NO_BRACKETS):
        depth += 1 if char in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _one(chain: Chain, asked: object) -> dict[str, Any]:
    if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
        return _error(None, Fault(-32600, "invalid request: an object with a method is needed"))
    params = asked.get("params") or []
    try:
        method = _METHODS.get(asked["method"])
        if method is None:
            raise Fault(-32601, f"the method {asked['method'][:80]} does not exist")
        if not isinstance(params, list):
            raise Fault(-32602, "params must be a list")
        result = method(chain, params)
    except Fault as fault:
        return _error(asked.get("id"), fault)
    except Refused as error:
        return _error(asked.get("id"), Fault(-32000, str(error)))
    except Reverted as error:
        return _error(asked.get("id"), Fault(3, _reason(error.output), form.data(error.output)))
    except Halted as error:
        return _error(asked.get("id"), Fault(-32000, str(error)))
    except (ValueError, TypeError, OverflowError) as error:
        return _error(asked.get("id"), Fault(-32602, f"invalid params: {error}"))
    return {"jsonrpc": "2.0", "id": asked.get("id"), "result": result}


def _error(id_: object, fault: Fault) -> dict[str, Any]:
    error: dict[str, Any] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": id_ if isinstance(id_, str | int | float) else None, "error": error}


def _json(answered: object) -> bytes:
    return msgspec.json.encode(answered)


def _reason(output: bytes) -> str:
    """Say why a call was reverted, where the contract says so (`Error(string)`)."""
    if output[:4] == abi.selector("Error(string)"):
        try:
            return f"execution reverted: {abi.decode(('string',), output[4:])[0]}"
        except abi.AbiError:
            pass
    return "execution reverted"


# Reading parameters ---------------------------------------------------------------------------------------


def _param(params: list[Any], index: int, default: Any = None) -> Any:
    return params[index] if index < len(params) and params[index] is not None else default


def _address(value: object) -> bytes:
    if not isinstance(value, str):
        raise Fault(-32602, "invalid params: an address is needed")
    return address_bytes(value)


def _block(chain: Chain, tag: object) -> BlockRow:
    """Find the block that a parameter names, by number, tag or hash."""
    head = chain.head
    if tag is None or tag in ("latest", "pending", "safe", "finalized"):
        return head
    if isinstance(tag, dict):
        tag = tag.get("blockHash", tag.get("blockNumber"))
    if isinstance(tag, str) and len(tag) == 66:
        found = chain.storage.block_by_hash(form.unhex(tag, 32))
    else:
        found = chain.storage.block(0 if tag == "earliest" else form.number(tag))
    if found is None:
        raise Fault(-32000, "header not found")
    return found


def _request(value: object) -> Request:
    if not isinstance(value, dict):
        raise Fault(-32602, "invalid params: a call object is needed")
    payload = value.get("input", value.get("data")) or "0x"
    return Request(
        sender=_address(value["from"]) if value.get("from") else bytes(20),
        to=_address(value["to"]) if value.get("to") else b"",
        data=form.unhex(payload),
        value_wei=form.number(value.get("value", "0x0")),
        gas_limit=min(form.number(value["gas"]), CALL_GAS) if value.get("gas") else CALL_GAS,
    )


# The methods ----------------------------------------------------------------------------------------------


def _chain_id(chain: Chain, params: list[Any]) -> str:
    return form.quantity(CHAIN_ID)


def _net_version(chain: Chain, params: list[Any]) -> str:
    return str(CHAIN_ID)


def _client_version(chain: Chain, params: list[Any]) -> str:
    return "golem-p2p-devnet/1"


def _syncing(chain: Chain, params: list[Any]) -> bool:
    return False


def _accounts(chain: Chain, params: list[Any]) -> list[str]:
    return []


def _block_number(chain: Chain, params: list[Any]) -> str:
    return form.quantity(chain.head.number)


def _get_block(chain: Chain, params: list[Any]) -> dict[str, Any] | None:
    try:
        block = _block(chain, _param(params, 0))
    except Fault as fault:
        if fault.code == -32000:
            return None
        raise
    return form.block(block, chain.storage.transactions(block.number), full=bool(_param(params, 1, False)))


def _get_balance(chain: Chain, params: list[Any]) -> str:
    return form.quantity(chain.evm.balance(_address(_param(params, 0)), _block(chain, _param(params, 1))))


def _get_code(chain: Chain, params: list[Any]) -> str:
    return form.data(chain.evm.code(_address(_param(params, 0)), _block(chain, _param(params, 1))))


def _get_storage(chain: Chain, params: list[Any]) -> str:
    address, slot = _address(_param(params, 0)), form.number(_param(params, 1))
    return form.data(
        chain.evm.storage_at(address, slot, _block(chain, _param(params, 2))).to_bytes(32, "big")
    )


def _get_nonce(chain: Chain, params: list[Any]) -> str:
    address, tag = _address(_param(params, 0)), _param(params, 1)
    if tag == "pending":
        return form.quantity(chain.pending_nonce(address))
    return form.quantity(chain.evm.nonce(address, _block(chain, tag)))


def _call(chain: Chain, params: list[Any]) -> str:
    return form.data(chain.call(_request(_param(params, 0)), _block(chain, _param(params, 1))))


def _estimate_gas(chain: Chain, params: list[Any]) -> str:
    return form.quantity(chain.estimate(_request(_param(params, 0)), _block(chain, _param(params, 1))))


def _gas_price(chain: Chain, params: list[Any]) -> str:
    return form.quantity(chain.evm.next_base_fee() + _TIP_WEI)


def _tip(chain: Chain, params: list[Any]) -> str:
    return form.quantity(_TIP_WEI)


def _fee_history(chain: Chain, params: list[Any]) -> dict[str, Any]:
    newest = _block(chain, _param(params, 1))
    asked = form.number(_param(params, 0))
    percentiles = [float(p) for p in _param(params, 2, [])]
    if len(percentiles) > 100 or any(not 0 <= p <= 100 for p in percentiles):
        raise Fault(-32602, "invalid params: percentiles are numbers from 0 to 100")
    count = min(asked, newest.number + 1, _HISTORY_LIMIT)
    numbers = range(newest.number - count + 1, newest.number + 1)
    blocks = [block for number in numbers if (block := chain.storage.block(number)) is not None]
    after = chain.storage.block(newest.number + 1)
    next_fee = after.base_fee if after else chain.evm.next_base_fee()
    history: dict[str, Any] = {
        "oldestBlock": form.quantity(numbers.start),
        "baseFeePerGas": [form.quantity(block.base_fee) for block in blocks] + [form.quantity(next_fee)],
        "gasUsedRatio": [block.gas_used / block.gas_limit for block in blocks],
    }
    if percentiles:
        tips = [form.percentiles(chain.storage.transactions(b.number), percentiles) for b in blocks]
        history["reward"] = [[form.quantity(tip) for tip in block] for block in tips]
    return history


def _send_raw(chain: Chain, params: list[Any]) -> str:
    return form.data(chain.submit(form.unhex(_param(params, 0))))


def _get_transaction(chain: Chain, params: list[Any]) -> dict[str, Any] | None:
    hash_ = form.unhex(_param(params, 0), 32)
    row = chain.storage.transaction(hash_)
    if row is not None:
        block = chain.storage.block(row.block)
        assert block is not None, "a mined transaction has its block"
        return form.transaction(parse(row.raw), row, block)
    waiting = chain.waiting(hash_)
    return form.transaction(waiting, None, None) if waiting else None


def _get_receipt(chain: Chain, params: list[Any]) -> dict[str, Any] | None:
    row = chain.storage.transaction(form.unhex(_param(params, 0), 32))
    if row is None:
        return None
    block = chain.storage.block(row.block)
    assert block is not None, "a mined transaction has its block"
    return form.receipt(row, chain.storage.logs_of(row.hash), block)


def _get_block_receipts(chain: Chain, params: list[Any]) -> list[dict[str, Any]] | None:
    try:
        block = _block(chain, _param(params, 0))
    except Fault as fault:
        if fault.code == -32000:
            return None
        raise
    rows = chain.storage.transactions(block.number)
    return [form.receipt(row, chain.storage.logs_of(row.hash), block) for row in rows]


def _get_logs(chain: Chain, params: list[Any]) -> list[dict[str, Any]]:
    wanted = _param(params, 0)
    if not isinstance(wanted, dict):
        raise Fault(-32602, "invalid params: a filter object is needed")
    if "blockHash" in wanted:
        first = last = _block(chain, wanted["blockHash"]).number
    else:
        first, last = (_bound(chain, wanted.get(end)) for end in ("fromBlock", "toBlock"))
    topics = wanted.get("topics") or []
    if not isinstance(topics, list) or len(topics) > 4:
        raise Fault(-32602, "invalid params: topics is a list of at most 4")
    logs = chain.storage.logs(
        first, last, _choice(wanted.get("address"), 20), [_choice(t, 32) for t in topics], LOG_LIMIT + 1
    )
    if len(logs) > LOG_LIMIT:
        raise Fault(-32005, f"query returned more than {LOG_LIMIT} results; ask for fewer blocks")
    blocks = {number: chain.storage.block(number) for number in {log.block for log in logs}}
    places: dict[bytes, int] = {}
    for number in blocks:
        places |= {row.hash: row.position for row in chain.storage.transactions(number)}
    return [form.log(log, blocks[log.block], places[log.tx]) for log in logs]


def _bound(chain: Chain, tag: object) -> int:
    """Read an end of a block range; a number beyond the head is allowed."""
    if tag is None or tag in ("latest", "pending", "safe", "finalized"):
        return chain.head.number
    return 0 if tag == "earliest" else form.number(tag)


def _choice(value: object, size: int) -> list[bytes]:
    """Read one value or a list of alternatives; nothing means any."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if len(values) > _CHOICE_LIMIT:
        raise Fault(-32602, f"invalid params: at most {_CHOICE_LIMIT} alternatives")
    return [form.unhex(v, size) for v in values]


def _mine(chain: Chain, params: list[Any]) -> str:
    chain.mine()
    return "0x0"


def _set_automine(chain: Chain, params: list[Any]) -> bool:
    chain.automine = bool(_param(params, 0, True))
    return True


def _increase_time(chain: Chain, params: list[Any]) -> str:
    return form.quantity(chain.skip_time(form.number(_param(params, 0))))


_METHODS: Final[dict[str, Callable[[Chain, list[Any]], Any]]] = {
    "eth_chainId": _chain_id,
    "net_version": _net_version,
    "web3_clientVersion": _client_version,
    "eth_syncing": _syncing,
    "eth_accounts": _accounts,
    "eth_blockNumber": _block_number,
    "eth_getBlockByNumber": _get_block,
    "eth_getBlockByHash": _get_block,
    "eth_getBlockReceipts": _get_block_receipts,
    "eth_getBalance": _get_balance,
    "eth_getCode": _get_code,
    "eth_getStorageAt": _get_storage,
    "eth_getTransactionCount": _get_nonce,
    "eth_call": _call,
    "eth_estimateGas": _estimate_gas,
    "eth_gasPrice": _gas_price,
    "eth_maxPriorityFeePerGas": _tip,
    "eth_feeHistory": _fee_history,
    "eth_sendRawTransaction": _send_raw,
    "eth_getTransactionByHash": _get_transaction,
    "eth_getTransactionReceipt": _get_receipt,
    "eth_getLogs": _get_logs,
    "evm_mine": _mine,
    "evm_setAutomine": _set_automine,
    "evm_increaseTime": _increase_time,
}
