"""What can go wrong between the payment core and a chain.

    DriverError
    ├── BadTransfer                 ours: the request can never be sent as it stands
    ├── CantSign                    ours: the signer does not hold the key, or is locked
    ├── ChainUnavailable            nothing is known; try again later. Never grounds to reject a payment
    │   └── WrongChain              the endpoint serves another chain than the platform's
    ├── TransactionRefused          the chain (or we) would not take the transaction now
    │   ├── InsufficientGas         not enough coin for the fee
    │   ├── InsufficientToken       not enough tokens for the transfers
    │   ├── NonceTooLow             another transaction with that nonce is mined: look for receipts
    │   ├── NonceTooHigh            an earlier transaction is missing
    │   ├── Underpriced             the fee is too low for a replacement, or for the current block
    │   └── FeeCeiling              the fee needed is above the configured ceiling
    └── VerificationFailed          about a peer's payment
        ├── TransactionUnknown      no receipt (yet): retryable, until the payee's patience ends
        └── PaymentRejected         known, and it does not pay what it should: final at this depth
            ├── TransactionFailed   mined, but reverted
            └── NoMatchingTransfer  mined, but nothing of it went from payer to payee in this token

Only `PaymentRejected` may be answered to a peer as a rejection; `ChainUnavailable` and `TransactionUnknown`
must be answered so that the peer keeps its message and tries again.
"""

from __future__ import annotations


class DriverError(Exception):
    """Root of all errors that a payment driver raises."""


class BadTransfer(DriverError):
    """The request can never be sent as it stands: an amount, address or batch size out of range."""


class CantSign(DriverError):
    """The signer does not hold the key of `address`, or is locked."""

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"cannot sign for {address}: {why}")
        self.address = address


class ChainUnavailable(DriverError):
    """No endpoint gave a usable answer; nothing is known and the call may be repeated."""


class WrongChain(ChainUnavailable):
    """The endpoint serves chain `chain_id`, not `expected`."""

    def __init__(self, url: str, chain_id: int, expected: int) -> None:
        super().__init__(
            f"{url} serves chain {chain_id}, but the platform is on chain {expected}; check its RPC URL"
        )
        self.chain_id = chain_id
        self.expected = expected


class TransactionRefused(DriverError):
    """The transaction was not taken; nothing moved."""


class InsufficientGas(TransactionRefused):
    """`address` needs `needed_wei` of the chain's coin for the fee and has `available_wei`."""

    def __init__(self, address: str, needed_wei: int, available_wei: int) -> None:
        super().__init__(
            f"{address} has {available_wei} wei of coin and needs {needed_wei} for the fee; fund it"
        )
        self.address = address
        self.needed_wei = needed_wei
        self.available_wei = available_wei


class InsufficientToken(TransactionRefused):
    """`address` needs `needed_wei` of the token and has `available_wei`."""

    def __init__(self, address: str, needed_wei: int, available_wei: int) -> None:
        super().__init__(f"{address} has {available_wei} wei of the token and must pay {needed_wei}; fund it")
        self.address = address
        self.needed_wei = needed_wei
        self.available_wei = available_wei


class NonceTooLow(TransactionRefused):
    """Another transaction with this nonce is mined: a replacement, or a foreign one with the same key."""


class NonceTooHigh(TransactionRefused):
    """A transaction with a lower nonce is missing on the chain."""


class Underpriced(TransactionRefused):
    """The fee is below what the chain takes now, or below 110 % of the transaction that it would replace."""


class FeeCeiling(TransactionRefused):
    """The chain asks `needed_wei` per gas and the configured ceiling is `ceiling_wei`."""

    def __init__(self, needed_wei: int, ceiling_wei: int) -> None:
        super().__init__(
            f"the chain asks {needed_wei} wei per gas and the ceiling is {ceiling_wei}; wait or raise it"
        )
        self.needed_wei = needed_wei
        self.ceiling_wei = ceiling_wei


class VerificationFailed(DriverError):
    """A payment could not be verified."""


class TransactionUnknown(VerificationFailed):
    """No receipt is known for the transaction: not mined yet, dropped, replaced, or never sent."""

    def __init__(self, tx_hash: str) -> None:
        super().__init__(f"the chain has no receipt for transaction {tx_hash} (yet)")
        self.tx_hash = tx_hash


class PaymentRejected(VerificationFailed):
    """The transaction is on the chain and does not pay what it should."""


class TransactionFailed(PaymentRejected):
    """The transaction was mined and reverted; it moved nothing."""


class NoMatchingTransfer(PaymentRejected):
    """The transaction moved nothing of the platform's token from the payer to the payee."""
