"""The EVM behind the embedded chain: py-evm on our storage, behind a narrow interface.

The only module that imports py-evm. It executes transactions into blocks, answers calls and reads accounts;
which transactions, when, and what the outside sees of it is `chain`'s business. Everything runs synchronously
on the caller's thread, about 10 ms a block.

The rules are those of the Shanghai fork. The first two blocks have fixed times and contents, so they have the
same hashes on every machine: the genesis block gives coin to the faucet and the deployer, the next one
deploys the contracts.

    BadRaw              bytes that are no signed transaction
    Reverted            a call came to a revert; carries what the contract returned
    Halted              a call failed otherwise, such as by lack of gas
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import rlp
from eth.chains.base import MiningChain
from eth.db.atomic import AtomicDB
from eth.db.backends.base import BaseDB
from eth.exceptions import PyEVMError, Revert
from eth.vm.forks.shanghai import ShanghaiVM
from eth.vm.spoof import SpoofTransaction
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError
from rlp.exceptions import RLPException

from node.devnet.addresses import CHAIN_ID
from node.devnet.pool import Waiting
from node.devnet.storage import BlockRow, LogRow, TxRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from node.devnet.storage import Storage

GAS_LIMIT: Final = 30_000_000
CALL_GAS: Final = 30_000_000
_COINBASE: Final = bytes.fromhex("00000000000000000000000000000000000c01ba")
_RAW_LIMIT: Final = 128 * 1024
"""As geth: a transaction of more bytes is refused."""


class BadRaw(ValueError):
    """The bytes are no signed transaction that this chain takes."""


class Reverted(Exception):
    """A call came to a revert."""

    def __init__(self, output: bytes) -> None:
        super().__init__("execution reverted")
        self.output = output


class Halted(Exception):
    """A call failed otherwise than by a revert."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A call to be tried out, without signature or fee."""

    sender: bytes
    to: bytes
    """Empty to try a deployment."""
    data: bytes
    value_wei: int
    gas_limit: int


class Mined(msgspec.Struct, frozen=True):
    """What became of a block's transactions."""

    block: BlockRow
    txs: list[TxRow]
    logs: list[LogRow]


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """A signed transaction taken apart."""

    kind: int
    """0, 1 or 2."""
    chain_id: int | None
    hash: bytes
    sender: bytes
    nonce: int
    max_fee_wei: int
    priority_fee_wei: int
    gas_limit: int
    intrinsic_gas: int
    to: bytes
    value_wei: int
    data: bytes
    signature: tuple[int, int, int]
    """v (or parity), r, s."""
    raw: bytes

    @property
    def waiting(self) -> Waiting:
        """Give what the pool needs to know of it."""
        return Waiting(
            hash=self.hash,
            sender=self.sender,
            nonce=self.nonce,
            max_fee_wei=self.max_fee_wei,
            priority_fee_wei=self.priority_fee_wei,
            gas_limit=self.gas_limit,
            value_wei=self.value_wei,
            raw=self.raw,
        )


class _Database(BaseDB):  # type: ignore[misc]  # py-evm is untyped to us
    """The EVM's key-value database on the chain's file."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def __getitem__(self, key: bytes) -> bytes:
        value = self._storage.node(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self._storage.put_node(key, value)

    def __delitem__(self, key: bytes) -> None:
        if self._storage.node(key) is None:
            raise KeyError(key)
        self._storage.drop_node(key)

    def _exists(self, key: bytes) -> bool:
        return self._storage.node(key) is not None


class Evm:
    """Executes transactions on the chain's state."""

    def __init__(self, storage: Storage, balances: Mapping[bytes, int], genesis_time: int) -> None:
        """Go on with the stored chain, or make its genesis block."""
        self._storage = storage
        self._class = MiningChain.configure(
            __name__="Devnet", vm_configuration=((0, ShanghaiVM),), chain_id=CHAIN_ID
        )
        if storage.head() is None:
            with storage.unit():
                self._genesis(balances, genesis_time)
        self._chain: Any = self._class(AtomicDB(_Database(storage)))
        self._heads: dict[bytes, Any] = {}

    def _genesis(self, balances: Mapping[bytes, int], time: int) -> None:
        accounts = {a: {"balance": b, "nonce": 0, "code": b"", "storage": {}} for a, b in balances.items()}
        params = {
            "difficulty": 0, "gas_limit": GAS_LIMIT, "timestamp": time, "coinbase": _COINBASE,
            "nonce": bytes(8), "mix_hash": bytes(32), "extra_data": b"golem-p2p devnet",
        }  # fmt: skip
        chain = self._class.from_genesis(AtomicDB(_Database(self._storage)), params, accounts)
        self._storage.add_block(_block_row(chain.get_canonical_head()), [], [])

    # Blocks -----------------------------------------------------------------------------------------------

    def next_base_fee(self) -> int:
        """Give the base fee of the block to come."""
        return int(self._chain.header.base_fee_per_gas)

    def mine(self, raws: Sequence[bytes], time: int) -> Mined:
        """Execute transactions as the next block and store it, all in one transaction of the file.

        Raises:
            ValidationError: one of them cannot be in this block; nothing has changed.
        """
        txs = [_decode(raw) for raw in raws]
        header = self._chain.header.copy(gas_limit=GAS_LIMIT, coinbase=_COINBASE, timestamp=time)
        try:
            with self._storage.unit():
                self._chain.header = header
                result, receipts, computations = self._chain.mine_all(txs)
                mined = _mined(result.imported_block.header, raws, txs, receipts, computations)
                self._storage.add_block(mined.block, mined.txs, mined.logs)
        except BaseException:
            # The chain object may have seen what the file took back.
            self._chain = self._class(AtomicDB(_Database(self._storage)))
            raise
        finally:
            self._heads.clear()
        return mined

    # State ------------------------------------------------------------------------------------------------

    def balance(self, address: bytes, at: BlockRow) -> int:
        return int(self._state(at).get_balance(address))

    def nonce(self, address: bytes, at: BlockRow) -> int:
        return int(self._state(at).get_nonce(address))

    def code(self, address: bytes, at: BlockRow) -> bytes:
        return bytes(self._state(at).get_code(address))

    def storage_at(self, address: bytes, slot: int, at: BlockRow) -> int:
        return int(self._state(at).get_storage(address, slot))

    def call(self, request: Request, at: BlockRow, time: int) -> bytes:
        """Try a call in the block after `at`, and give what it returned.

        Raises:
            Reverted, Halted: it failed.
        """
        output, _ = self._try(request, at, time)
        return output

    def estimate(self, request: Request, at: BlockRow, time: int) -> int:
        """Find a gas limit with which a transaction succeeds, within 2 % of the least.

        Raises:
            Reverted, Halted: no limit is enough.
        """
        _, used = self._try(request, at, time)
        # What it used before refunds nearly always suffices; inner calls hold back a 64th, hence the search.
        low, high = used - 1, request.gas_limit
        guess = used
        while high - low > max(1, low // 50):
            try:
                self._try(msgspec.structs.replace(request, gas_limit=guess), at, time)
                high = guess
            except (Reverted, Halted):
                low = guess
            guess = min((low + high) // 2, low + low // 20 + 1)
        return high

    def _state(self, at: BlockRow) -> Any:
        if at.hash not in self._heads:
            self._heads.clear()
            header = self._chain.chaindb.get_block_header_by_hash(at.hash)
            self._heads[at.hash] = self._chain.get_vm(header).state
        return self._heads[at.hash]

    def _try(self, request: Request, at: BlockRow, time: int) -> tuple[bytes, int]:
        """Execute a call without a fee and forget it; return its output and the gas it needed."""
        parent = self._chain.chaindb.get_block_header_by_hash(at.hash)
        vm = self._chain.get_vm(self._chain.create_header_from_parent(parent))
        header = vm.get_header().copy(
            base_fee_per_gas=0, timestamp=max(time, at.timestamp + 1), gas_limit=CALL_GAS, coinbase=_COINBASE
        )
        state = vm.build_state(self._chain.chaindb.db, header, vm.chain_context, vm.previous_hashes)
        tx = SpoofTransaction(
            vm.create_unsigned_transaction(
                nonce=state.get_nonce(request.sender),
                gas_price=0,
                gas=request.gas_limit,
                to=request.to,
                value=request.value_wei,
                data=request.data,
            ),
            from_=request.sender,
        )
        if request.gas_limit < tx.intrinsic_gas:
            raise Halted(f"intrinsic gas too low: gas {request.gas_limit}, minimum needed {tx.intrinsic_gas}")
        if request.gas_limit > CALL_GAS:
            raise Halted(f"gas limit is too high: at most {CALL_GAS}")
        try:
            computation = state.apply_transaction(tx)
        except ValidationError as error:
            raise Halted(str(error)) from error
        if computation.is_error:
            if isinstance(computation.error, Revert):
                raise Reverted(bytes(computation.output))
            raise Halted(str(computation.error) or type(computation.error).__name__)
        return bytes(computation.output), int(tx.intrinsic_gas + computation.get_gas_used())


def parse(raw: bytes) -> Parsed:
    """Take a signed transaction apart and check its signature.

    Raises:
        BadRaw: it is malformed, of an unknown type, or signed by nobody.
    """
    if len(raw) > _RAW_LIMIT:
        raise BadRaw(f"oversized data: transaction size {len(raw)}, limit {_RAW_LIMIT}")
    tx = _decode(raw)
    try:
        tx.check_signature_validity()
        sender = bytes(tx.sender)
    except (ValidationError, BadSignature, ValueError) as error:
        raise BadRaw(f"invalid sender: {error}") from error
    kind = raw[0] if raw[0] < 0x7F else 0
    fields = tx._inner if kind else tx  # noqa: SLF001  (py-evm shows r and s of a typed transaction nowhere else)
    return Parsed(
        kind=kind,
        chain_id=tx.chain_id,
        hash=bytes(tx.hash),
        sender=sender,
        nonce=tx.nonce,
        max_fee_wei=tx.max_fee_per_gas,
        priority_fee_wei=tx.max_priority_fee_per_gas,
        gas_limit=tx.gas,
        intrinsic_gas=tx.intrinsic_gas,
        to=bytes(tx.to),
        value_wei=tx.value,
        data=bytes(tx.data),
        signature=(fields.y_parity if kind else fields.v, fields.r, fields.s),
        raw=raw,
    )


def _decode(raw: bytes) -> Any:
    if not raw:
        raise BadRaw("empty transaction")
    try:
        return ShanghaiVM.get_transaction_builder().decode(raw)
    except (RLPException, ValidationError, PyEVMError, ValueError, TypeError, NotImplementedError) as error:
        raise BadRaw(f"rlp: {error}") from error


def _block_row(header: Any) -> BlockRow:
    return BlockRow(
        number=header.block_number,
        hash=bytes(header.hash),
        parent=bytes(header.parent_hash),
        timestamp=header.timestamp,
        base_fee=header.base_fee_per_gas,
        gas_used=header.gas_used,
        gas_limit=header.gas_limit,
        state_root=bytes(header.state_root),
        header=rlp.encode(header),
    )


def _mined(header: Any, raws: Sequence[bytes], txs: Any, receipts: Any, computations: Any) -> Mined:
    rows: list[TxRow] = []
    logs: list[LogRow] = []
    total = 0
    base_fee = header.base_fee_per_gas
    for raw, tx, receipt, computation in zip(raws, txs, receipts, computations, strict=True):
        tip = min(tx.max_priority_fee_per_gas, tx.max_fee_per_gas - base_fee)
        created = bytes(computation.msg.storage_address) if not tx.to and computation.is_success else None
        rows.append(
            TxRow(
                hash=bytes(tx.hash),
                block=header.block_number,
                position=len(rows),
                sender=bytes(tx.sender),
                receiver=bytes(tx.to) or None,
                created=created,
                status=int(computation.is_success),
                gas_used=receipt.gas_used - total,
                gas_total=receipt.gas_used,
                price=base_fee + tip,
                tip=tip,
                raw=raw,
            )
        )
        total = receipt.gas_used
        for log in receipt.logs:
            topics = tuple(topic.to_bytes(32, "big") for topic in log.topics)
            logs.append(
                LogRow(
                    header.block_number,
                    len(logs),
                    bytes(tx.hash),
                    bytes(log.address),
                    topics,
                    bytes(log.data),
                )
            )
    return Mined(_block_row(header), rows, logs)
