"""The ERC-20 driver: `PaymentDriver` on Ethereum JSON-RPC.

Builds, signs, sends, looks up; decides nothing that the payment core must remember. Opened by
`Erc20Driver.open` (or through the plug-in factory `FACTORY`), which holds the HTTP connections.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx

from p2p.identity.node_id import keccak256
from protocols.payment.drivers.base import (
    Balance,
    Block,
    Receipt,
    SignedTransaction,
    Verified,
)
from protocols.payment.drivers.erc20 import abi, answers, attribution, batches, funding
from protocols.payment.drivers.erc20.fees import Fees, outbid
from protocols.payment.drivers.erc20.rpc import Request, Rpc, RpcError
from protocols.payment.drivers.erc20.transaction import decode, sign
from protocols.payment.drivers.errors import (
    BadTransfer,
    InsufficientGas,
    NoMatchingTransfer,
    NonceTooLow,
    TransactionFailed,
    TransactionUnknown,
)
from protocols.payment.networks import UnknownPlatform, configured, live_networks, network_of, parse_platform

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from protocols.payment.drivers.base import Funding, Incoming, PaymentDriver, Signer, Transfer
    from protocols.payment.networks import Network, Platform

NAME: Final = "erc20"
LONGEST_RANGE: Final = 5_000
"""Blocks that `incoming` looks through at once; public nodes refuse more."""
FEE_BLOCKS: Final = 5


class Erc20Driver:
    """Pays and verifies in one network's token."""

    def __init__(self, platform: Platform, network: Network, client: httpx.AsyncClient) -> None:
        self._platform = platform
        self._network = network
        self._client = client
        self._rpc = Rpc(client, network.rpc_urls, network.chain_id)
        self._decimals_checked = False

    @classmethod
    @asynccontextmanager
    async def open(cls, platform: Platform, network: Network) -> AsyncIterator[Erc20Driver]:
        """Open a driver on a network as the operator configured it."""
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=4)
        async with httpx.AsyncClient(limits=limits) as client:
            yield cls(platform, network, client)

    def __repr__(self) -> str:
        return f"<Erc20Driver {self._platform} {self._rpc!r}>"

    @property
    def name(self) -> str:
        return NAME

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def network(self) -> Network:
        return self._network

    async def head(self) -> Block:
        number, _, timestamp = answers.block(await self._ask("eth_getBlockByNumber", "latest", False))
        return Block(number, timestamp)

    async def balance(self, address: str) -> Balance:
        token, coin, block, decimals = await self._rpc.batch(
            self._view(abi.call("balanceOf(address)", address)),
            Request("eth_getBalance", (address, "latest")),
            Request("eth_getBlockByNumber", ("latest", False)),
            self._view(abi.call("decimals()")),
        )
        self._check_decimals(answers.word(decimals))
        number, _, timestamp = answers.block(block)
        return Balance(answers.word(token), answers.number(coin), number, timestamp)

    async def next_nonce(self, address: str) -> int:
        return answers.number(await self._ask("eth_getTransactionCount", address, "latest"))

    async def prepare(
        self, transfers: Sequence[Transfer], nonce: int, signer: Signer
    ) -> tuple[SignedTransaction, ...]:
        sums = batches.by_payee(transfers, self._network)
        state = await self._state(signer.node_id, sums)
        calls = await batches.plan(self._rpc, self._network, signer.node_id, sums, state)
        return batches.sign_all(calls, self._network, state, nonce, signer, tuple(transfers))

    async def _state(self, payer: str, sums: Mapping[str, int]) -> batches.PayerState:
        """Ask at one moment for all that a batch's plan depends on."""
        multi = self._network.multi_transfer
        allowance = abi.call("allowance(address,address)", payer, multi or self._network.token)
        token, coin, history, allowed, decimals = await self._rpc.batch(
            self._view(abi.call("balanceOf(address)", payer)),
            Request("eth_getBalance", (payer, "latest")),
            Request("eth_feeHistory", (hex(FEE_BLOCKS), "latest", [50])),
            self._view(allowance),
            self._view(abi.call("decimals()")),
        )
        self._check_decimals(answers.word(decimals))
        return batches.PayerState(
            token_wei=answers.word(token),
            coin_wei=answers.number(coin),
            market=answers.market(history),
            allowance_wei=answers.word(allowed) if multi and len(sums) > 1 else 0,
        )

    async def replace(self, transaction: SignedTransaction, signer: Signer) -> SignedTransaction:
        history = await self._ask("eth_feeHistory", hex(FEE_BLOCKS), "latest", [50])
        old = Fees(transaction.max_fee_wei, transaction.priority_fee_wei)
        fees = outbid(old, answers.market(history), self._network.gas)
        call, _ = decode(transaction.raw)
        return sign(batches.with_fees(call, fees), signer, transaction.kind, transaction.transfers)

    async def broadcast(self, raw: bytes) -> None:
        try:
            await self._rpc.call("eth_sendRawTransaction", "0x" + raw.hex())
        except RpcError as error:
            if answers.is_known(error):
                return
            refusal = answers.refusal(error)
            if isinstance(refusal, NonceTooLow) and await self._is_known(raw):
                return
            if answers.says(error, answers.NO_COIN):
                call, sender = decode(raw)
                coin = answers.number(await self._ask("eth_getBalance", sender, "latest"))
                needed = call.gas_limit * call.max_fee_wei + call.value_wei
                raise InsufficientGas(sender, needed, coin) from error
            raise refusal from error

    async def _is_known(self, raw: bytes) -> bool:
        tx_hash = "0x" + keccak256(raw).hex()
        return await self._ask("eth_getTransactionByHash", tx_hash) is not None

    async def receipt(self, tx_hash: str) -> Receipt | None:
        found, head = await self._receipt(tx_hash)
        if found is None:
            return None
        block, gas_used = answers.number(found.block_number), answers.number(found.gas_used)
        return Receipt(
            tx_hash=tx_hash,
            succeeded=answers.number(found.status) == 1,
            block_number=block,
            block_hash=found.block_hash.lower(),
            confirmations=max(head - block + 1, 1),
            gas_used=gas_used,
            fee_wei=gas_used * answers.number(found.effective_gas_price),
        )

    async def verify(self, tx_hash: str, payer: str, payee: str) -> Verified:
        payer, payee = payer.lower(), payee.lower()
        found, head = await self._receipt(tx_hash)
        if found is None:
            raise TransactionUnknown(tx_hash)
        if answers.number(found.status) != 1:
            raise TransactionFailed(f"transaction {tx_hash} failed on the chain and moved nothing")
        number, block_hash, timestamp = answers.block(
            await self._ask("eth_getBlockByNumber", found.block_number, False)
        )
        if (number, block_hash) != (answers.number(found.block_number), found.block_hash.lower()):
            raise TransactionUnknown(tx_hash)  # its block was taken back between the two questions
        paid = attribution.payments(
            answers.moves(found.logs, self._network.token),
            called=found.to.lower() if found.to else None,
            sender=found.from_.lower(),
            lock=self._network.lock,
        )
        amount = paid.get((payer, payee), 0)
        if amount == 0:
            token = self._network.token_symbol
            raise NoMatchingTransfer(f"transaction {tx_hash} paid no {token} from {payer} to {payee}")
        return Verified(
            tx_hash=tx_hash,
            payer=payer,
            payee=payee,
            amount_wei=amount,
            block_number=number,
            block_hash=block_hash,
            block_timestamp=timestamp,
            confirmations=max(head - number + 1, 1),
        )

    async def incoming(self, payee: str, from_block: int, to_block: int) -> tuple[Incoming, ...]:
        if to_block - from_block + 1 > LONGEST_RANGE:
            raise BadTransfer(
                f"blocks {from_block} to {to_block} are more than {LONGEST_RANGE}; ask in parts"
            )
        wanted = {
            "address": self._network.token,
            "fromBlock": hex(from_block),
            "toBlock": hex(to_block),
            "topics": [answers.TRANSFER_TOPIC, None, "0x" + payee.lower()[2:].rjust(64, "0")],
        }
        return tuple(answers.incoming(await self._ask("eth_getLogs", wanted), self._network.token))

    async def fund(
        self, signer: Signer, nonce: int, progress: Callable[[str], None] | None = None
    ) -> Funding:
        return await funding.fund(self, self._client, signer, nonce, progress or (lambda _: None))

    async def sign_mint(self, nonce: int, signer: Signer) -> SignedTransaction:
        """Build and sign the transaction that grants test tokens; `funding` calls it.

        Raises:
            TransactionRefused, InsufficientGas, FeeCeiling: it would not work now.
        """
        state = await self._state(signer.node_id, {})
        call = await batches.estimated(
            self._rpc, self._network, signer.node_id, "mint", self._network.mint or "", abi.call("create()")
        )
        return batches.sign_all([call], self._network, state, nonce, signer, ())[0]

    async def _receipt(self, tx_hash: str) -> tuple[answers.ChainReceipt | None, int]:
        found, head = await self._rpc.batch(
            Request("eth_getTransactionReceipt", (tx_hash,)), Request("eth_blockNumber")
        )
        return answers.receipt(found), answers.number(head)

    async def _ask(self, method: str, *params: object) -> object:
        """Ask a question that has no lawful error."""
        (answer,) = await self._rpc.batch(Request(method, params))
        return answers.checked(answer)

    def _view(self, data: bytes) -> Request:
        return Request("eth_call", ({"to": self._network.token, "data": "0x" + data.hex()}, "latest"))

    def _check_decimals(self, decimals: int) -> None:
        if not self._decimals_checked and decimals != self._network.decimals:
            raise BadTransfer(
                f"token {self._network.token} has {decimals} decimals and the registry says "
                f"{self._network.decimals}; amounts would be wrong, so nothing is sent"
            )
        self._decimals_checked = True


class Erc20Factory:
    """The plug-in: opens drivers for every live network of the registry."""

    @property
    def name(self) -> str:
        return NAME

    def platforms(self) -> tuple[Platform, ...]:
        return tuple(parse_platform(network.platform) for network in live_networks())

    def open(
        self, platform: Platform, settings: Mapping[str, str]
    ) -> AbstractAsyncContextManager[PaymentDriver]:
        if platform not in self.platforms():
            raise UnknownPlatform(f"the {NAME} driver does not serve {platform}")
        return Erc20Driver.open(platform, configured(network_of(platform), settings))


FACTORY: Final = Erc20Factory()
