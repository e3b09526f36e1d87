"""How blocks, transactions and receipts look in Ethereum JSON-RPC, and how its hexadecimal texts are read.

Pure: rows of the storage in, JSON-ready values out. Only `rpc` calls it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.devnet.evm import parse
from p2p.identity.node_id import keccak256
from protocols.payment.drivers.erc20 import rlp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from node.devnet.evm import Parsed
    from node.devnet.storage import BlockRow, LogRow, TxRow

_HEADER: Final = (
    ("parentHash", "data"), ("sha3Uncles", "data"), ("miner", "data"), ("stateRoot", "data"),
    ("transactionsRoot", "data"), ("receiptsRoot", "data"), ("logsBloom", "bloom"), ("difficulty",
    "quantity"), ("number", "quantity"), ("gasLimit", "quantity"), ("gasUsed", "quantity"), ("timestamp",
    "quantity"), ("extraData", "data"), ("mixHash", "data"), ("nonce", "data"), ("baseFeePerGas", "quantity"),
    ("withdrawalsRoot", "data"),
)  # fmt: skip
"""A Shanghai header's fields, in the order of their RLP."""
_BLOOM_BYTES: Final = 256


def quantity(value: int) -> str:
    """Write a number as JSON-RPC has it: hexadecimal without leading zeros."""
    return hex(value)


def data(value: bytes) -> str:
    """Write bytes as JSON-RPC has them."""
    return "0x" + value.hex()


def number(value: object) -> int:
    """Read a number below 2^256; decimal JSON numbers are taken too.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("a 0x number is needed")
    if isinstance(value, str) and (not value.startswith("0x") or len(value) > 66):
        raise ValueError(f"{value[:80]!r} is no 0x number")
    result = int(value, 16) if isinstance(value, str) else value
    if not 0 <= result < 1 << 256:
        raise ValueError("number is out of range")
    return result


def unhex(value: object, size: int | None = None) -> bytes:
    """Read bytes, of a given size where one is given.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError("0x data is needed")
    raw = bytes.fromhex(value[2:])
    if size is not None and len(raw) != size:
        raise ValueError(f"{size} bytes are needed, not {len(raw)}")
    return raw


def block(row: BlockRow, txs: Sequence[TxRow], *, full: bool) -> dict[str, Any]:
    """Write a block, with its transactions whole or as hashes."""
    fields = rlp.decode(row.header)
    shown: dict[str, Any] = {"hash": data(row.hash)}
    for (name, kind), value in zip(_HEADER, fields, strict=True):
        assert isinstance(value, bytes), "a header has no lists"
        if kind == "quantity":
            shown[name] = quantity(rlp.decode_int(value))
        else:
            shown[name] = data(value.rjust(_BLOOM_BYTES, b"\0") if kind == "bloom" else value)
    shown["transactions"] = [transaction(parse(tx.raw), tx, row) if full else data(tx.hash) for tx in txs]
    shown |= {"uncles": [], "withdrawals": [], "totalDifficulty": "0x0", "size": quantity(len(row.header))}
    return shown


def transaction(tx: Parsed, row: TxRow | None, where: BlockRow | None) -> dict[str, Any]:
    """Write a transaction; without row and block it is one that waits."""
    v, r, s = tx.signature
    shown: dict[str, Any] = {
        "hash": data(tx.hash),
        "type": quantity(tx.kind),
        "chainId": quantity(tx.chain_id) if tx.chain_id is not None else None,
        "nonce": quantity(tx.nonce),
        "from": data(tx.sender),
        "to": data(tx.to) if tx.to else None,
        "value": quantity(tx.value_wei),
        "gas": quantity(tx.gas_limit),
        "gasPrice": quantity(row.price if row else tx.max_fee_wei),
        "input": data(tx.data),
        "v": quantity(v),
        "r": quantity(r),
        "s": quantity(s),
        "blockHash": data(where.hash) if where else None,
        "blockNumber": quantity(where.number) if where else None,
        "transactionIndex": quantity(row.position) if row else None,
    }
    if tx.kind == 2:
        shown["maxFeePerGas"] = quantity(tx.max_fee_wei)
        shown["maxPriorityFeePerGas"] = quantity(tx.priority_fee_wei)
    if tx.kind:
        shown["accessList"] = []
        shown["yParity"] = quantity(v)
    return shown


def receipt(row: TxRow, logs: Sequence[LogRow], where: BlockRow) -> dict[str, Any]:
    """Write a mined transaction's receipt."""
    kind = row.raw[0] if row.raw[0] < 0x7F else 0
    return {
        "transactionHash": data(row.hash),
        "transactionIndex": quantity(row.position),
        "blockHash": data(where.hash),
        "blockNumber": quantity(where.number),
        "from": data(row.sender),
        "to": data(row.receiver) if row.receiver else None,
        "contractAddress": data(row.created) if row.created else None,
        "cumulativeGasUsed": quantity(row.gas_total),
        "gasUsed": quantity(row.gas_used),
        "effectiveGasPrice": quantity(row.price),
        "status": quantity(row.status),
        "type": quantity(kind),
        "logsBloom": data(bytes(_BLOOM_BYTES)) if not logs else _bloom(logs),
        "logs": [log(one, where, row.position) for one in logs],
    }


def log(row: LogRow, where: BlockRow | None, place: int) -> dict[str, Any]:
    """Write a log; `place` is its transaction's index in the block."""
    assert where is not None, "a log has its block"
    return {
        "address": data(row.address),
        "topics": [data(topic) for topic in row.topics],
        "data": data(row.data),
        "blockHash": data(where.hash),
        "blockNumber": quantity(where.number),
        "blockTimestamp": quantity(where.timestamp),
        "transactionHash": data(row.tx),
        "transactionIndex": quantity(place),
        "logIndex": quantity(row.position),
        "removed": False,
    }


def percentiles(txs: Sequence[TxRow], wanted: Sequence[float]) -> list[int]:
    """Give the tips paid in a block at percentiles of its gas, as `eth_feeHistory` has them."""
    if not txs:
        return [0] * len(wanted)
    by_tip = sorted((tx.tip, tx.gas_used) for tx in txs)
    total = sum(gas for _, gas in by_tip)
    result: list[int] = []
    for percent in wanted:
        left = total * percent / 100
        tip = by_tip[-1][0]
        for one, gas in by_tip:
            left -= gas
            if left <= 0:
                tip = one
                break
        result.append(tip)
    return result


def _bloom(logs: Sequence[LogRow]) -> str:
    """Compute a receipt's bloom filter (yellow paper, section 4.4.1)."""
    bits = 0
    for one in logs:
        for item in (one.address, *one.topics):
            digest = keccak256(item)
            for at in (0, 2, 4):
                bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return data(bits.to_bytes(_BLOOM_BYTES, "big"))
