"""A chain in memory, and a payment driver on it, for tests and simulations on virtual time.

It models what the payment core can notice: balances, nonces, blocks, a pool with replacement, fees, failing
transactions, blocks taken back, and a chain that does not answer. It has neither EVM nor signatures: a signer
is asked to sign (so that one may refuse), but nobody checks. Everything follows from what it is told: hashes
derive from content, time comes from the given function, chance is not used.

`ModelChain` is the world, shared by all nodes of a test; `ModelDriver` is one node's access to it and passes
`check_payment_driver` as the real driver does.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from protocols.payment.drivers.base import (
    Balance,
    Block,
    Funding,
    Incoming,
    Receipt,
    SignedTransaction,
    TransactionKind,
    Transfer,
    Verified,
)
from protocols.payment.drivers.errors import (
    BadTransfer,
    CantSign,
    ChainUnavailable,
    FeeCeiling,
    InsufficientGas,
    InsufficientToken,
    NoMatchingTransfer,
    NonceTooHigh,
    NonceTooLow,
    TransactionFailed,
    TransactionRefused,
    TransactionUnknown,
    Underpriced,
)
from protocols.payment.networks import NETWORKS, Network, Platform, parse_platform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protocols.payment.drivers.base import Signer

GAS: Final[dict[TransactionKind, int]] = {"approve": 46_000, "transfer": 51_000, "mint": 55_000}
_BATCH_GAS: Final = 33_000
_PAYEE_GAS: Final = 24_000
_MOST_WEI: Final = (1 << 96) - 1
_MINT_WEI: Final = 1000 * 10**18
_RICH_WEI: Final = 400 * 10**18
_COIN_GRANT_WEI: Final = 10**19
_COIN_ENOUGH_WEI: Final = 9 * 10**15
_LONGEST_RANGE: Final = 5_000


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    """What a model transaction's raw bytes hold."""

    chain_id: int
    sender: str
    nonce: int
    kind: TransactionKind
    gas_limit: int
    max_fee_wei: int
    priority_fee_wei: int
    payments: tuple[tuple[str, int], ...]


class _Mined(msgspec.Struct, frozen=True):
    content: _Content
    raw: bytes
    succeeded: bool
    price_wei: int


class _Block(msgspec.Struct, frozen=True):
    number: int
    hash: str
    timestamp: int
    transactions: tuple[_Mined, ...]


class _Account:
    def __init__(self) -> None:
        self.coin_wei = 0
        self.token_wei = 0
        self.nonce = 0
        self.approved = False


class ModelChain:
    """The world: accounts, a pool and blocks.

    Attributes that a test may set at any time:
        automine: mine each transaction as it comes; else they wait for `mine`.
        base_fee_wei: what gas costs.
        available: when false, every question is answered by `ChainUnavailable`.
        failing: senders whose transactions revert when mined.
    """

    def __init__(
        self, now: Callable[[], int], *, network: Network = NETWORKS["devnet"], automine: bool = True
    ) -> None:
        """Make a chain with an empty genesis block; `now` gives seconds since 1970."""
        self.network = network
        self.automine = automine
        self.base_fee_wei = 10**9
        self.available = True
        self.failing: set[str] = set()
        self._now = now
        self._reorganisations = 0
        self._accounts: dict[str, _Account] = {}
        self._pool: dict[tuple[str, int], tuple[_Content, bytes]] = {}
        self._blocks = [_Block(0, _hash(b"genesis"), now(), ())]
        self._places: dict[str, tuple[int, _Mined]] = {}
        self._history: list[dict[str, tuple[int, int, int, bool]]] = []

    def __repr__(self) -> str:
        return f"<ModelChain block={self.head.number} accounts={len(self._accounts)} pool={len(self._pool)}>"

    @property
    def head(self) -> Block:
        """Give the newest block."""
        return Block(self._blocks[-1].number, self._blocks[-1].timestamp)

    def give(self, address: str, *, coin_wei: int = 0, token_wei: int = 0) -> None:
        """Put coin and tokens into an account, from nowhere."""
        account = self.account(address)
        account.coin_wei += coin_wei
        account.token_wei += token_wei

    def account(self, address: str) -> _Account:
        """Look an account up; an unknown one is empty."""
        return self._accounts.setdefault(address.lower(), _Account())

    def find(self, tx_hash: str) -> tuple[_Block, _Mined] | None:
        """Look a mined transaction up, with its block."""
        place = self._places.get(tx_hash)
        return (self._blocks[place[0]], place[1]) if place else None

    def transfers(self, first: int, last: int) -> list[tuple[_Block, int, _Mined, tuple[str, int]]]:
        """List what was paid in a range of blocks: block, place in it, transaction, payee and amount."""
        found: list[tuple[_Block, int, _Mined, tuple[str, int]]] = []
        for block in self._blocks[max(first, 0) : last + 1]:
            good = [mined for mined in block.transactions if mined.succeeded]
            paid = [(mined, payment) for mined in good for payment in mined.content.payments]
            found += [(block, place, mined, payment) for place, (mined, payment) in enumerate(paid)]
        return found

    def submit(self, raw: bytes) -> None:
        """Take a transaction as a node of a real chain would.

        Raises:
            TransactionRefused: by its subclasses.
        """
        try:
            content = msgspec.msgpack.decode(raw, type=_Content)
        except msgspec.DecodeError as error:
            raise TransactionRefused(f"the chain refused the transaction: {error}") from error
        account = self.account(content.sender)
        key = content.sender, content.nonce
        waiting = self._pool.get(key)
        if _hash(raw) in self._places or (waiting is not None and waiting[1] == raw):
            return
        if content.nonce < account.nonce:
            raise NonceTooLow(f"nonce {content.nonce} of {content.sender} is used; next is {account.nonce}")
        if content.nonce > account.nonce and (content.sender, content.nonce - 1) not in self._pool:
            raise NonceTooHigh(f"nonce {content.nonce - 1} of {content.sender} is missing")
        if content.max_fee_wei < self.base_fee_wei and self.automine:
            raise Underpriced(f"{content.max_fee_wei} wei per gas is below the base fee {self.base_fee_wei}")
        if waiting is not None and not _outbids(content, waiting[0]):
            raise Underpriced("a replacement must pay 10 % more on both fees")
        needed = content.gas_limit * content.max_fee_wei
        if account.coin_wei < needed:
            raise InsufficientGas(content.sender, needed, account.coin_wei)
        self._pool[key] = content, raw
        if self.automine:
            self.mine()

    def mine(self) -> Block:
        """Make a block of what waits and pays the base fee; it may be empty."""
        self._history.append(
            {a: (x.coin_wei, x.token_wei, x.nonce, x.approved) for a, x in self._accounts.items()}
        )
        chosen: list[_Mined] = []
        for key in sorted(self._pool):
            content, raw = self._pool[key]
            if (
                content.nonce == self.account(content.sender).nonce
                and content.max_fee_wei >= self.base_fee_wei
            ):
                chosen.append(self._execute(content, raw))
                del self._pool[key]
        number = len(self._blocks)
        seed = [self._blocks[-1].hash, *(_hash(mined.raw) for mined in chosen), str(self._reorganisations)]
        timestamp = max(self._now(), self._blocks[-1].timestamp + 1)
        self._blocks.append(_Block(number, _hash("".join(seed).encode()), timestamp, tuple(chosen)))
        self._places |= {_hash(mined.raw): (number, mined) for mined in chosen}
        return self.head

    def take_back(self, blocks: int, *, forget: bool = False) -> None:
        """Undo the newest blocks, as a reorganisation does.

        Their transactions wait again, or are forgotten. What `give` gave since then is undone as well.
        """
        for _ in range(blocks):
            block = self._blocks.pop()
            accounts = self._history.pop()
            for address, account in self._accounts.items():
                state = accounts.get(address, (0, 0, 0, False))
                account.coin_wei, account.token_wei, account.nonce, account.approved = state
            for mined in block.transactions:
                del self._places[_hash(mined.raw)]
                if not forget:
                    self._pool.setdefault(
                        (mined.content.sender, mined.content.nonce), (mined.content, mined.raw)
                    )
        self._reorganisations += 1

    def drop_pool(self) -> None:
        """Forget all that waits, as a restarted node does."""
        self._pool.clear()

    def _execute(self, content: _Content, raw: bytes) -> _Mined:
        account = self.account(content.sender)
        account.nonce += 1
        price = min(content.max_fee_wei, self.base_fee_wei + content.priority_fee_wei)
        account.coin_wei -= gas_of(content.kind, len(content.payments)) * price
        total = sum(amount for _, amount in content.payments)
        succeeded = content.sender not in self.failing and account.token_wei >= total
        succeeded = succeeded and (content.kind != "batch" or account.approved)
        succeeded = succeeded and (content.kind != "mint" or account.token_wei < _RICH_WEI)
        if succeeded:
            account.approved |= content.kind == "approve"
            account.token_wei += _MINT_WEI if content.kind == "mint" else 0
            account.token_wei -= total
            for payee, amount in content.payments:
                self.account(payee).token_wei += amount
        return _Mined(content, raw, succeeded, price)


class ModelDriver:
    """One node's `PaymentDriver` on a model chain."""

    def __init__(self, chain: ModelChain) -> None:
        self._chain = chain
        self._platform = parse_platform(chain.network.platform)

    @property
    def name(self) -> str:
        return self._platform.driver

    @property
    def platform(self) -> Platform:
        return self._platform

    @property
    def network(self) -> Network:
        return self._chain.network

    async def head(self) -> Block:
        return self._reached().head

    async def balance(self, address: str) -> Balance:
        chain = self._reached()
        account = chain.account(address)
        return Balance(account.token_wei, account.coin_wei, chain.head.number, chain.head.timestamp)

    async def next_nonce(self, address: str) -> int:
        return self._reached().account(address).nonce

    async def prepare(
        self, transfers: Sequence[Transfer], nonce: int, signer: Signer
    ) -> tuple[SignedTransaction, ...]:
        sums = self._by_payee(transfers)
        chain = self._reached()
        account, total = chain.account(signer.node_id), sum(sums.values())
        if account.token_wei < total:
            raise InsufficientToken(signer.node_id, total, account.token_wei)
        if len(sums) == 1:
            kinds: list[TransactionKind] = ["transfer"]
        else:
            kinds = ["batch"] if account.approved else ["approve", "batch"]
        signed = tuple(
            self._sign(kind, nonce + i, signer, sums if kind != "approve" else {}, tuple(transfers))
            for i, kind in enumerate(kinds)
        )
        needed = sum(tx.max_cost_wei for tx in signed)
        if account.coin_wei < needed:
            raise InsufficientGas(signer.node_id, needed, account.coin_wei)
        return signed

    async def replace(self, transaction: SignedTransaction, signer: Signer) -> SignedTransaction:
        chain = self._reached()
        content = msgspec.msgpack.decode(transaction.raw, type=_Content)
        max_fee = content.max_fee_wei + -(-content.max_fee_wei // 8)
        tip = content.priority_fee_wei + -(-content.priority_fee_wei // 8)
        ceiling = self.network.gas.max_fee_wei
        needed = max(max_fee, chain.base_fee_wei + tip)
        if needed > ceiling:
            raise FeeCeiling(needed, ceiling)
        max_fee = min(ceiling, max(max_fee, 2 * chain.base_fee_wei + tip))
        return _signed(
            msgspec.structs.replace(content, max_fee_wei=max_fee, priority_fee_wei=tip),
            signer,
            transaction.transfers,
        )

    async def broadcast(self, raw: bytes) -> None:
        self._reached().submit(raw)

    async def receipt(self, tx_hash: str) -> Receipt | None:
        chain = self._reached()
        found = chain.find(tx_hash)
        if found is None:
            return None
        block, mined = found
        gas_used = gas_of(mined.content.kind, len(mined.content.payments))
        return Receipt(
            tx_hash=tx_hash,
            succeeded=mined.succeeded,
            block_number=block.number,
            block_hash=block.hash,
            confirmations=chain.head.number - block.number + 1,
            gas_used=gas_used,
            fee_wei=gas_used * mined.price_wei,
        )

    async def verify(self, tx_hash: str, payer: str, payee: str) -> Verified:
        chain = self._reached()
        payer, payee = payer.lower(), payee.lower()
        found = chain.find(tx_hash)
        if found is None:
            raise TransactionUnknown(tx_hash)
        block, mined = found
        if not mined.succeeded:
            raise TransactionFailed(f"transaction {tx_hash} failed on the chain and moved nothing")
        amount = sum(a for to, a in mined.content.payments if to == payee and mined.content.sender == payer)
        if not amount:
            raise NoMatchingTransfer(f"transaction {tx_hash} paid nothing from {payer} to {payee}")
        return Verified(
            tx_hash=tx_hash,
            payer=payer,
            payee=payee,
            amount_wei=amount,
            block_number=block.number,
            block_hash=block.hash,
            block_timestamp=block.timestamp,
            confirmations=chain.head.number - block.number + 1,
        )

    async def incoming(self, payee: str, from_block: int, to_block: int) -> tuple[Incoming, ...]:
        if to_block - from_block + 1 > _LONGEST_RANGE:
            raise BadTransfer(
                f"blocks {from_block} to {to_block} are more than {_LONGEST_RANGE}; ask in parts"
            )
        return tuple(
            Incoming(
                tx_hash=_hash(mined.raw),
                log_index=place,
                source=mined.content.sender,
                payee=to,
                amount_wei=amount,
                block_number=block.number,
            )
            for block, place, mined, (to, amount) in self._reached().transfers(from_block, to_block)
            if to == payee.lower()
        )

    async def fund(
        self, signer: Signer, nonce: int, progress: Callable[[str], None] | None = None
    ) -> Funding:
        if self.network.production:
            raise BadTransfer(f"{self.network.name} is a production network: its token is bought, not minted")
        chain = self._reached()
        account = chain.account(signer.node_id)
        if account.coin_wei < _COIN_ENOUGH_WEI:
            account.coin_wei += _COIN_GRANT_WEI
        minted = None
        if account.token_wei < _RICH_WEI:
            minted = self._sign("mint", nonce, signer, {}, ())
            chain.submit(minted.raw)
            if not chain.automine:
                chain.mine()
        return Funding(await self.balance(signer.node_id), minted)

    def _reached(self) -> ModelChain:
        if not self._chain.available:
            raise ChainUnavailable("the model chain does not answer")
        return self._chain

    def _by_payee(self, transfers: Sequence[Transfer]) -> dict[str, int]:
        sums: dict[str, int] = {}
        for one in transfers:
            payee = one.payee.lower()
            if one.amount_wei < 1 or len(payee) != 42 or not payee.startswith("0x") or int(payee, 16) == 0:
                raise BadTransfer(f"transfer {one.transfer_id} of {one.amount_wei} wei to {payee[:64]!r}")
            sums[payee] = sums.get(payee, 0) + one.amount_wei
        if not sums or len(sums) > self.network.max_batch or max(sums.values()) > _MOST_WEI:
            raise BadTransfer(f"{len(sums)} payees, at least 1 and at most {self.network.max_batch}")
        return sums

    def _sign(
        self,
        kind: TransactionKind,
        nonce: int,
        signer: Signer,
        sums: dict[str, int],
        transfers: tuple[Transfer, ...],
    ) -> SignedTransaction:
        gas, base_fee = self.network.gas, self._chain.base_fee_wei
        if base_fee + gas.priority_fee_wei > gas.max_fee_wei:
            raise FeeCeiling(base_fee + gas.priority_fee_wei, gas.max_fee_wei)
        content = _Content(
            chain_id=self.network.chain_id,
            sender=signer.node_id,
            nonce=nonce,
            kind=kind,
            gas_limit=gas_of(kind, len(sums)) + 20_000,
            max_fee_wei=min(gas.max_fee_wei, 2 * base_fee + gas.priority_fee_wei),
            priority_fee_wei=gas.priority_fee_wei,
            payments=tuple(sums.items()),
        )
        return _signed(content, signer, transfers if sums else ())


def gas_of(kind: TransactionKind, payees: int) -> int:
    """Tell how much gas a transaction uses."""
    return GAS.get(kind, _BATCH_GAS + _PAYEE_GAS * payees)


def _signed(content: _Content, signer: Signer, transfers: tuple[Transfer, ...]) -> SignedTransaction:
    raw = msgspec.msgpack.encode(content)
    try:
        signer.sign(hashlib.sha256(raw).digest())
    except Exception as error:
        raise CantSign(signer.node_id, str(error) or type(error).__name__) from error
    return SignedTransaction(
        tx_hash=_hash(raw),
        raw=raw,
        nonce=content.nonce,
        kind=content.kind,
        sender=content.sender,
        gas_limit=content.gas_limit,
        max_fee_wei=content.max_fee_wei,
        priority_fee_wei=content.priority_fee_wei,
        transfers=transfers,
    )


def _hash(raw: bytes) -> str:
    return "0x" + hashlib.sha256(raw).hexdigest()


def _outbids(new: _Content, old: _Content) -> bool:
    return (
        new.max_fee_wei * 10 >= old.max_fee_wei * 11
        and new.priority_fee_wei * 10 >= old.priority_fee_wei * 11
    )
