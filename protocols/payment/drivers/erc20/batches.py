"""Which transactions pay a batch of transfers, and what they cost.

One payee: the token's `transfer`. More: the multi-transfer contract's packed direct form, which gas
measurements favour at every size, after an `approve` where its allowance is too low. The driver gathers the
payer's state and hands it in; only `plan` and `estimated` ask the chain (for gas).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from p2p.identity.node_id import InvalidNodeId, parse_node_id
from protocols.payment.drivers.base import TransactionKind
from protocols.payment.drivers.erc20 import abi, answers
from protocols.payment.drivers.erc20.fees import Market, offer
from protocols.payment.drivers.erc20.rpc import RpcError
from protocols.payment.drivers.erc20.transaction import Call, address_bytes, sign
from protocols.payment.drivers.errors import (
    BadTransfer,
    InsufficientGas,
    InsufficientToken,
    TransactionRefused,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocols.payment.drivers.base import SignedTransaction, Signer, Transfer
    from protocols.payment.drivers.erc20.fees import Fees
    from protocols.payment.drivers.erc20.rpc import Rpc
    from protocols.payment.networks import Network

MOST_WEI: Final = (1 << 96) - 1
"""A packed payment holds the amount in 96 bits."""
FOR_EVER: Final = (1 << 256) - 1
_GAS_MARGIN: Final = 20_000
"""State may change between estimate and execution: a payee's first tokens cost 17,000 more."""
_BATCH_GAS: Final = 100_000
_PAYEE_GAS: Final = 50_000
"""Upper bounds for a batch that cannot be estimated, because its approval is not mined. Measured with the test
token: 57,000 for one payee and 27,000 for each further one. Gas that is not used is not paid."""


class PayerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a payer has, and what gas costs, at one moment."""

    token_wei: int
    coin_wei: int
    market: Market
    allowance_wei: int
    """What the multi-transfer contract may take."""


class Planned(msgspec.Struct, frozen=True):
    """A transaction to be signed."""

    kind: TransactionKind
    to: str
    data: bytes
    gas_limit: int


def by_payee(transfers: Sequence[Transfer], network: Network) -> dict[str, int]:
    """Add transfers up by payee and check them.

    Raises:
        BadTransfer: as `PaymentDriver.prepare` says.
    """
    if not transfers:
        raise BadTransfer("there is nothing to pay")
    sums: dict[str, int] = {}
    for transfer in transfers:
        try:
            payee = parse_node_id(transfer.payee)
        except InvalidNodeId as error:
            raise BadTransfer(f"transfer {transfer.transfer_id}: {error}") from error
        if transfer.amount_wei < 1 or int(payee, 16) == 0:
            raise BadTransfer(
                f"transfer {transfer.transfer_id} of {transfer.amount_wei} wei to {payee}: amounts are at least "
                "1 wei, and the zero address is nobody"
            )
        sums[payee] = sums.get(payee, 0) + transfer.amount_wei
    if max(sums.values()) > MOST_WEI:
        raise BadTransfer(
            f"{max(sums.values())} wei to one payee is above 2^96 - 1, the most that can be sent"
        )
    if len(sums) > network.max_batch:
        raise BadTransfer(f"{len(sums)} payees at once; on {network.name} at most {network.max_batch}")
    return sums


async def plan(
    rpc: Rpc, network: Network, payer: str, sums: Mapping[str, int], state: PayerState
) -> list[Planned]:
    """Choose the transactions that pay these sums.

    Raises:
        InsufficientToken: the payer has less.
        TransactionRefused: the chain says that it would fail.
    """
    total = sum(sums.values())
    if state.token_wei < total:
        raise InsufficientToken(payer, total, state.token_wei)
    if len(sums) == 1:
        ((payee, amount),) = sums.items()
        data = abi.call("transfer(address,uint256)", payee, amount)
        return [await estimated(rpc, network, payer, "transfer", network.token, data)]
    assert network.multi_transfer is not None, "max_batch is 1 where there is no multi-transfer contract"
    words = [address_bytes(payee) + amount.to_bytes(12, "big") for payee, amount in sums.items()]
    data = abi.call("golemTransferDirectPacked(bytes32[])", words)
    if state.allowance_wei >= total:
        return [await estimated(rpc, network, payer, "batch", network.multi_transfer, data)]
    approval = abi.call("approve(address,uint256)", network.multi_transfer, FOR_EVER)
    return [
        await estimated(rpc, network, payer, "approve", network.token, approval),
        Planned("batch", network.multi_transfer, data, _BATCH_GAS + _PAYEE_GAS * len(sums)),
    ]


async def estimated(
    rpc: Rpc, network: Network, payer: str, kind: TransactionKind, to: str, data: bytes
) -> Planned:
    """Ask the chain for a call's gas and add a margin.

    Raises:
        InsufficientToken, TransactionRefused: the call would fail.
    """
    request = {"from": payer, "to": to, "data": "0x" + data.hex()}
    try:
        gas = answers.number(await rpc.call("eth_estimateGas", request))
    except RpcError as error:
        raise TransactionRefused(
            f"this {kind} on {network.name} would fail: {answers.reason(error)}"
        ) from error
    return Planned(kind, to, data, gas + _GAS_MARGIN)


def sign_all(
    planned: Sequence[Planned],
    network: Network,
    state: PayerState,
    nonce: int,
    signer: Signer,
    transfers: tuple[Transfer, ...],
) -> tuple[SignedTransaction, ...]:
    """Sign transactions with consecutive nonces; the last one carries the transfers.

    Raises:
        InsufficientGas: the payer's coin does not cover what they may cost together.
        FeeCeiling: gas is above the ceiling.
        CantSign: the signer refuses.
    """
    fees = offer(state.market, network.gas)
    needed = sum(one.gas_limit for one in planned) * fees.max_fee_wei
    if state.coin_wei < needed:
        raise InsufficientGas(signer.node_id, needed, state.coin_wei)
    last = len(planned) - 1
    return tuple(
        sign(
            Call(
                chain_id=network.chain_id,
                nonce=nonce + i,
                priority_fee_wei=fees.priority_fee_wei,
                max_fee_wei=fees.max_fee_wei,
                gas_limit=one.gas_limit,
                to=one.to,
                data=one.data,
            ),
            signer,
            one.kind,
            transfers if i == last else (),
        )
        for i, one in enumerate(planned)
    )


def with_fees(call: Call, fees: Fees) -> Call:
    """Give the same call with other fees."""
    return msgspec.structs.replace(call, max_fee_wei=fees.max_fee_wei, priority_fee_wei=fees.priority_fee_wei)
