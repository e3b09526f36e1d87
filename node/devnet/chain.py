"""The embedded chain: takes signed transactions, mines them, and answers what is on it.

It joins the pool (what may wait), the EVM (what it does) and the storage (what was done). Normally each
transaction is mined as it comes, in a block of its own, before `submit` returns; with `automine` off they
wait for `mine`. `rpc` speaks to clients for it; `server` gives it the time. One thread, synchronous.

Errors: `pool.Refused` for a transaction that is not taken, `evm.Reverted` and `evm.Halted` for failed calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eth_utils.exceptions import ValidationError

from node.devnet.addresses import CHAIN_ID, DEPLOYER, FAUCET
from node.devnet.deployment import STOCK_WEI, deployments
from node.devnet.evm import GAS_LIMIT, BadRaw, Evm, Parsed, Request, parse
from node.devnet.pool import Pool, Refused
from protocols.payment.drivers.erc20.transaction import address_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.devnet.storage import BlockRow, Storage

GENESIS_TIME: Final = 1_735_689_600
"""2025-01-01, so that blocks 0 and 1 are the same everywhere."""
_TIME_SKIP_LIMIT: Final = 10 * 365 * 86400


class Chain:
    """The chain on one file."""

    def __init__(self, storage: Storage, now: Callable[[], int], *, automine: bool = True) -> None:
        """Open the stored chain, or make a new one with its contracts.

        Args:
            storage: the file.
            now: gives seconds since 1970.
            automine: mine each transaction as it comes.
        """
        self.storage = storage
        self.automine = automine
        self._now = now
        self._offset = storage.clock_offset()
        stock = {address_bytes(FAUCET): STOCK_WEI, address_bytes(DEPLOYER): 10**20}
        self.evm = Evm(storage, stock, GENESIS_TIME)
        self._pool = Pool()
        if self.head.number == 0:
            self.evm.mine(deployments(), GENESIS_TIME + 1)
        self._refill()

    def _refill(self) -> None:
        """Take the stored pool in again; what a block made impossible meanwhile is dropped."""
        for raw in self.storage.pool():
            tx = parse(raw).waiting
            try:
                self._pool.admit(tx, self.nonce(tx.sender), self.evm.balance(tx.sender, self.head))
            except Refused:
                self.storage.drop_from_pool(tx.hash)
        if self.automine and len(self._pool):
            self.mine()

    @property
    def head(self) -> BlockRow:
        """Give the newest block."""
        head = self.storage.head()
        assert head is not None, "the genesis block is there"
        return head

    @property
    def time(self) -> int:
        """Give the chain's time, seconds since 1970."""
        return self._now() + self._offset

    def skip_time(self, seconds: int) -> int:
        """Put the chain's clock forward; return by how much it is ahead in all.

        Raises:
            ValueError: backward, or further than ten years.
        """
        if not 0 <= seconds <= _TIME_SKIP_LIMIT:
            raise ValueError(f"time goes forward only, by at most {_TIME_SKIP_LIMIT} s")
        self._offset += seconds
        self.storage.set_clock_offset(self._offset)
        return self._offset

    def nonce(self, sender: bytes) -> int:
        """Count an account's mined transactions."""
        return self.evm.nonce(sender, self.head)

    def pending_nonce(self, sender: bytes) -> int:
        """Count an account's mined and waiting transactions."""
        return self._pool.next_nonce(sender, self.nonce(sender))

    def waiting(self, hash_: bytes) -> Parsed | None:
        """Look up a transaction that waits."""
        found = self._pool.get(hash_)
        return parse(found.raw) if found else None

    def submit(self, raw: bytes) -> bytes:
        """Take a signed transaction; return its hash once it is stored, or mined.

        Raises:
            Refused: it is not taken, and why.
        """
        try:
            tx = parse(raw)
        except BadRaw as error:
            raise Refused(str(error)) from error
        self._check(tx)
        mined_nonce, balance = self.nonce(tx.sender), self.evm.balance(tx.sender, self.head)
        replaced = self._pool.admit(tx.waiting, mined_nonce, balance)
        self.storage.add_to_pool(tx.hash, raw, replaced.hash if replaced else None)
        if self.automine:
            self.mine()
        return tx.hash

    def _check(self, tx: Parsed) -> None:
        if tx.chain_id != CHAIN_ID:
            given = "none" if tx.chain_id is None else str(tx.chain_id)
            raise Refused(f"invalid chain id for signer: have {given} want {CHAIN_ID}")
        if tx.gas_limit > GAS_LIMIT:
            raise Refused(f"exceeds block gas limit: {tx.gas_limit} of {GAS_LIMIT}")
        if tx.gas_limit < tx.intrinsic_gas:
            raise Refused(f"intrinsic gas too low: gas {tx.gas_limit}, minimum needed {tx.intrinsic_gas}")
        if tx.priority_fee_wei > tx.max_fee_wei:
            raise Refused("max priority fee per gas higher than max fee per gas")
        base_fee = self.evm.next_base_fee()
        if self.automine and tx.max_fee_wei < base_fee:
            raise Refused(
                f"max fee per gas less than block base fee: maxFeePerGas {tx.max_fee_wei}, baseFee {base_fee}"
            )

    def mine(self) -> BlockRow:
        """Make a block of what waits and can be paid for; it may be empty."""
        chosen = self._pool.ready(self.evm.next_base_fee(), GAS_LIMIT)
        time = max(self.time, self.head.timestamp + 1)
        while True:
            try:
                mined = self.evm.mine([tx.raw for tx in chosen], time)
                break
            except ValidationError:
                # The pool lets nothing in that cannot be mined; should it be wrong, one bad transaction must
                # not hold up the others for ever.
                if len(chosen) == 1:
                    for tx in self._pool.drop(chosen[0]):
                        self.storage.drop_from_pool(tx.hash)
                chosen = chosen[:1] if len(chosen) > 1 else []
        for tx in chosen:
            self._pool.remove(tx)
        return mined.block

    def call(self, request: Request, at: BlockRow) -> bytes:
        """Try a call on the state after block `at`, in the block to come."""
        return self.evm.call(request, at, self.time)

    def estimate(self, request: Request, at: BlockRow) -> int:
        """Find a sufficient gas limit for a call."""
        return self.evm.estimate(request, at, self.time)
