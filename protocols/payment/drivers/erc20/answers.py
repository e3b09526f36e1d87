"""Reading what a chain answered: receipts, logs, blocks and refusals, in our own terms.

Pure. What an endpoint sends is input from outside: anything malformed becomes `ChainUnavailable`, never a
wrong amount and never a rejection of somebody's payment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from protocols.payment.drivers.base import Incoming
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.attribution import Moved
from protocols.payment.drivers.erc20.fees import Market
from protocols.payment.drivers.erc20.rpc import RpcError
from protocols.payment.drivers.errors import (
    ChainUnavailable,
    NonceTooHigh,
    NonceTooLow,
    TransactionRefused,
    Underpriced,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

TRANSFER_TOPIC: Final = abi.topic("Transfer(address,address,uint256)")

# Clients word their refusals differently; these are the words of geth, erigon, nethermind, besu, reth and
# anvil.
_KNOWN: Final = ("already known", "already imported", "known transaction", "alreadyknown", "already exists")
_TOO_LOW: Final = ("nonce too low", "nonce is too low", "oldnonce", "nonce_too_low")
_TOO_HIGH: Final = ("nonce too high", "nonce gap", "nonce_too_high")
_CHEAP: Final = (
    "underpriced", "less than block base fee", "fee cap less than", "fee too low", "feetoolow",
    "gas price too low", "gas price below", "max fee per gas less", "replacement not allowed",
)  # fmt: skip
NO_COIN: Final = ("insufficient funds", "insufficientfunds", "insufficient balance for gas", "upfront cost")


class ChainReceipt(msgspec.Struct, frozen=True, rename="camel"):
    """The part of a receipt that matters here, as the wire has it."""

    transaction_hash: str
    block_hash: str
    block_number: str
    from_: str = msgspec.field(name="from")
    to: str | None
    status: str
    gas_used: str
    logs: list[dict[str, Any]]
    effective_gas_price: str = "0x0"


def checked(answer: Any) -> Any:
    """Give a batch's answer, or turn the chain's error into `ChainUnavailable`.

    For questions that have no lawful error, such as a balance.
    """
    if isinstance(answer, RpcError):
        raise ChainUnavailable(f"the chain answered an error to a plain question: {answer}") from answer
    return answer


def number(answer: Any) -> int:
    """Read a JSON-RPC number."""
    value = checked(answer)
    try:
        return int(_hex(value), 16)
    except ValueError as error:
        raise _nonsense(value) from error


def word(answer: Any) -> int:
    """Read a call's result of one number."""
    value = checked(answer)
    try:
        return int(abi.decode(("uint256",), bytes.fromhex(_hex(value)[2:]))[0])
    except (ValueError, abi.AbiError) as error:
        if value == "0x":
            raise ChainUnavailable("a contract gave no answer: it is not on this chain") from error
        raise _nonsense(value) from error


def block(answer: Any) -> tuple[int, str, int]:
    """Read a block's number, hash and timestamp."""
    value = checked(answer)
    if not isinstance(value, dict) or not isinstance(value.get("hash"), str):
        raise _nonsense(value)
    return number(value.get("number")), value["hash"].lower(), number(value.get("timestamp"))


def receipt(answer: Any) -> ChainReceipt | None:
    """Read a receipt; None when there is none, or when it is of a block not yet made."""
    value = checked(answer)
    if value is None or (isinstance(value, dict) and value.get("blockNumber") is None):
        return None
    try:
        return msgspec.convert(value, ChainReceipt)
    except msgspec.ValidationError as error:
        raise _nonsense(value) from error


def moves(logs: Sequence[dict[str, Any]], token: str) -> list[Moved]:
    """Read the token's transfers among a receipt's logs; other contracts' logs are passed over."""
    found = []
    for log in logs:
        topics = log.get("topics")
        if str(log.get("address")).lower() != token or not isinstance(topics, list):
            continue
        if len(topics) == 3 and str(topics[0]).lower() == TRANSFER_TOPIC and not log.get("removed"):
            found.append(Moved(_address(topics[1]), _address(topics[2]), word(log.get("data"))))
    return found


def incoming(answer: Any, token: str) -> list[Incoming]:
    """Read the token's transfers from what `eth_getLogs` gave."""
    logs = checked(answer)
    if not isinstance(logs, list) or not all(isinstance(log, dict) for log in logs):
        raise _nonsense(logs)
    return [
        Incoming(
            tx_hash=_hex(log.get("transactionHash")).lower(),
            log_index=number(log.get("logIndex")),
            source=move.source,
            payee=move.target,
            amount_wei=move.amount_wei,
            block_number=number(log.get("blockNumber")),
        )
        for log in logs
        for move in moves([log], token)
    ]


def market(answer: Any) -> Market:
    """Read `eth_feeHistory`."""
    value = checked(answer)
    try:
        base_fees, rewards = value["baseFeePerGas"], value.get("reward") or []
        return Market(number(base_fees[-1]), tuple(number(reward[0]) for reward in rewards))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _nonsense(value) from error


def is_known(error: RpcError) -> bool:
    """Tell whether a refused transaction waits already."""
    return says(error, _KNOWN)


def refusal(error: RpcError) -> TransactionRefused:
    """Turn a refusal of a transaction into our terms, save lack of coin, which needs figures."""
    text = f"the chain refused the transaction: {error.message}"
    for words, kind in ((_TOO_LOW, NonceTooLow), (_TOO_HIGH, NonceTooHigh), (_CHEAP, Underpriced)):
        if says(error, words):
            return kind(text)
    return TransactionRefused(text)


def says(error: RpcError, words: Sequence[str]) -> bool:
    """Tell whether an error's text, or the reason its data carries, holds one of some phrases."""
    text = f"{error.message} {reason(error)}".lower()
    return any(one in text for one in words)


def reason(error: RpcError) -> str:
    """Give the reason of a reverted call: the contract's own words where it gave some."""
    data = error.data.get("data") if isinstance(error.data, dict) else error.data
    if isinstance(data, str) and data.startswith("0x08c379a0"):
        try:
            return str(abi.decode(("string",), bytes.fromhex(data[10:]))[0])
        except (ValueError, abi.AbiError):
            pass
    return error.message


def _address(topic: Any) -> str:
    text = _hex(topic).lower()
    if len(text) != 66:
        raise _nonsense(topic)
    return "0x" + text[26:]


def _hex(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _nonsense(value)
    return value


def _nonsense(value: Any) -> ChainUnavailable:
    return ChainUnavailable(f"the chain's answer makes no sense: {str(value)[:120]}")
