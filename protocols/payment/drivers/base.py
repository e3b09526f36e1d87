"""The payment driver interface: what the payment core asks of a chain.

A driver object serves one platform (one token on one network). It keeps no state that matters: what must
survive a crash are the values it returns, which the payment core stores. It never chooses a nonce, never
waits for a confirmation of money and never sends what the core has not stored. The core's walk for a batch
is:

    nonce = max(await driver.next_nonce(payer), own highest stored nonce + 1)   # rules in reference §12
    signed = await driver.prepare(transfers, nonce, signer)     # one or two transactions, nothing sent
    ... commit `signed` to the database ...                     # write-ahead
    for tx in signed: await driver.broadcast(tx.raw)            # safe to repeat, also after a restart
    receipt = await driver.receipt(tx.tx_hash)                  # None until mined; compare `confirmations`

Amounts are wei (10^-18 token), addresses are lower case `0x` text, hashes are `0x` text of 32 bytes. All
`async` methods may raise `ChainUnavailable`; other errors are named where they arise (tree in `errors`).

Implementations: `erc20.driver` on JSON-RPC, `protocols.payment.testing.model_chain` in memory. A third party
registers a `DriverFactory` under the entry-point group `golem_p2p.payment_drivers` and runs
`protocols.payment.testing.check_payment_driver` on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from protocols.payment.networks import Network, Platform


class Signer(Protocol):
    """Holds one identity's key."""

    @property
    def node_id(self) -> str:
        """The address of the key: `0x` and 40 lower-case hex digits."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest; return r, s and v (0 or 1), 65 bytes, with s in the lower half."""
        ...


class Balance(msgspec.Struct, frozen=True):
    """What an address holds, at one block."""

    token_wei: int
    gas_wei: int
    """The chain's own coin, which pays fees."""
    block_number: int
    block_timestamp: int
    """Seconds since 1970."""


class Block(msgspec.Struct, frozen=True):
    """The chain's newest block."""

    number: int
    timestamp: int
    """Seconds since 1970."""


class Transfer(msgspec.Struct, frozen=True):
    """One payment that the core wants made."""

    transfer_id: str
    """The core's own key; the driver only carries it."""
    payee: str
    amount_wei: int
    """At least 1."""


TransactionKind = Literal["approve", "transfer", "batch", "mint", "deposit_transfer", "deposit_close"]


class SignedTransaction(msgspec.Struct, frozen=True, kw_only=True):
    """A signed transaction, to be stored before it is broadcast."""

    tx_hash: str
    """Known before sending: it is the hash of `raw`."""
    raw: bytes
    """What `broadcast` sends; sending it again is always safe."""
    nonce: int
    kind: TransactionKind
    sender: str
    gas_limit: int
    max_fee_wei: int
    """Per gas, base fee and tip together."""
    priority_fee_wei: int
    """Per gas, the tip."""
    transfers: tuple[Transfer, ...] = ()
    """What is paid once this transaction has succeeded; empty for an approval."""

    @property
    def max_cost_wei(self) -> int:
        """Coin that the sender must hold for the fee."""
        return self.gas_limit * self.max_fee_wei


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """The fate of a mined transaction, as the chain tells it now; a reorganisation can take it back."""

    tx_hash: str
    succeeded: bool
    block_number: int
    block_hash: str
    confirmations: int
    """1 in the newest block, 2 below it, and so on."""
    gas_used: int
    fee_wei: int
    """Coin that it cost the sender."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction paid from one payer to one payee, all its transfers summed."""

    tx_hash: str
    payer: str
    payee: str
    amount_wei: int
    block_number: int
    block_hash: str
    block_timestamp: int
    confirmations: int
    """As in `Receipt`; the caller compares it with the platform's depth."""


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer of the token to an address, found in the chain's log."""

    tx_hash: str
    log_index: int
    source: str
    """Who the token contract says paid: for a routed batch perhaps the contract. `verify` tells the payer."""
    payee: str
    amount_wei: int
    block_number: int


class Funding(msgspec.Struct, frozen=True):
    """The outcome of `fund`."""

    balance: Balance
    minted: SignedTransaction | None
    """The mint transaction, when one was needed; it is mined."""


class PaymentDriver(Protocol):
    """Move one platform's token and tell what moved."""

    @property
    def name(self) -> str:
        """The driver's part of platform names, e.g. `erc20`."""
        ...

    @property
    def platform(self) -> Platform:
        """The platform this object serves."""
        ...

    @property
    def network(self) -> Network:
        """The platform's network with the operator's settings: depth, batch size, gas, patience."""
        ...

    async def head(self) -> Block:
        """Give the chain's newest block."""
        ...

    async def balance(self, address: str) -> Balance:
        """Give what an address holds in the newest block."""
        ...

    async def next_nonce(self, address: str) -> int:
        """Count the address's mined transactions: the lowest nonce that the chain still takes.

        Transactions that wait unmined are not counted; nodes disagree about those.
        """
        ...

    async def prepare(
        self, transfers: Sequence[Transfer], nonce: int, signer: Signer
    ) -> tuple[SignedTransaction, ...]:
        """Build and sign what pays the transfers from `signer.node_id`, and send nothing.

        One payee makes a plain token transfer. More make one multi-transfer transaction, preceded by an
        `approve` transaction with the nonce before it while the contract's allowance is too low. Transfers to
        one payee are added up. Transactions have consecutive nonces from `nonce` and must be broadcast in
        order; the last one carries the transfers.

        Raises:
            BadTransfer: no transfer, an amount below 1 or above 2^96 - 1, a payee that is no address, or more
                payees than `network.max_batch`.
            CantSign: the signer refuses.
            InsufficientToken, InsufficientGas: the payer cannot pay this now.
            FeeCeiling: the chain is too dear now.
        """
        ...

    async def replace(self, transaction: SignedTransaction, signer: Signer) -> SignedTransaction:
        """Sign the same transaction again with higher fees (at least 12.5 % on both) and send nothing.

        It has the same nonce and transfers and another hash: of all versions at most one is mined, so the
        core keeps every version and asks for the receipts of all.

        Raises:
            FeeCeiling: the next step is above the ceiling.
            CantSign: the signer refuses.
        """
        ...

    async def broadcast(self, raw: bytes) -> None:
        """Send a stored transaction; sending one again that waits or is mined already is success.

        Raises:
            NonceTooLow: another transaction with that nonce is mined, a replacement or a foreign one.
            Underpriced: the fee is too low, or a replacement that pays more waits already.
            TransactionRefused: any other refusal, by its subclass where it is known.
        """
        ...

    async def receipt(self, tx_hash: str) -> Receipt | None:
        """Give a transaction's receipt, or None while it has none."""
        ...

    async def verify(self, tx_hash: str, payer: str, payee: str) -> Verified:
        """Add up all that a transaction paid from payer to payee in this platform's token.

        Who paid: the transfer's own `from`. Tokens that enter the called contract and leave it again in the
        same transaction are its who sent them in, in the order of entry. What the network's lock contract
        pays out when it is called directly is the transaction sender's. Each token is counted for one payer
        only.

        Raises:
            TransactionUnknown: there is no receipt (yet).
            TransactionFailed, NoMatchingTransfer: the transaction does not pay; this is a rejection.
        """
        ...

    async def incoming(self, payee: str, from_block: int, to_block: int) -> tuple[Incoming, ...]:
        """List transfers of the token to an address in a range of blocks, both ends included.

        Raises:
            BadTransfer: the range is longer than 5,000 blocks.
        """
        ...

    async def fund(
        self, signer: Signer, nonce: int, progress: Callable[[str], None] | None = None
    ) -> Funding:
        """Get test coin and test tokens for an address, and wait until they are there.

        Asks the network's faucet when coin is short, and mints tokens (with a transaction at `nonce`) when
        the balance is below 400. The caller holds the payer's lane: nothing else with that nonce is in
        flight. It may be repeated at any time. Patience: 120 s a step.

        Raises:
            BadTransfer: the network's token is worth money; its tokens are bought, not minted.
            TransactionRefused: a step was refused or came to nothing in time.
        """
        ...


class DriverFactory(Protocol):
    """A kind of driver, as a plug-in registers it."""

    @property
    def name(self) -> str:
        """The driver's part of platform names."""
        ...

    def platforms(self) -> tuple[Platform, ...]:
        """List the platforms that this kind of driver can serve."""
        ...

    def open(
        self, platform: Platform, settings: Mapping[str, str]
    ) -> AbstractAsyncContextManager[PaymentDriver]:
        """Open a driver for one platform; `settings` are the operator's environment variables.

        Nothing is asked of the chain before the first call.

        Raises:
            UnknownPlatform: the platform is not one of `platforms()`.
        """
        ...
