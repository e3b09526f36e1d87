"""An embedded chain inside the test's process, and short words to use it with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from node.devnet.addresses import CHAIN_ID, FAUCET_KEY, TOKEN
from node.devnet.chain import Chain
from node.devnet.evm import Request, Reverted
from node.devnet.storage import Storage
from p2p.identity.keys import PrivateKey
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import Call, address_bytes, sign
from tests.node.devnet.bench import new_key

if TYPE_CHECKING:
    from pathlib import Path

    from node.devnet.storage import TxRow
    from protocols.payment.drivers.base import SignedTransaction

TOKENS = 10**18
START = 1_800_000_000
FAUCET = PrivateKey(FAUCET_KEY)


class World:
    """A chain on a file of its own, with a clock that stands still."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.settings = settings
        self.now = START
        self.storage = Storage(path)
        self.chain = Chain(self.storage, lambda: self.now, **settings)

    def reopen(self) -> None:
        """Open the file anew, as a restarted process does."""
        self.storage.close()
        self.storage = Storage(self.path)
        self.chain = Chain(self.storage, lambda: self.now, **self.settings)

    def rich(self, tokens: int = 1000 * TOKENS) -> PrivateKey:
        """A new key with coin and tokens."""
        key = new_key()
        self.pay(key.node_id, 10**18)
        if tokens:
            self.send(FAUCET, TOKEN, "transfer(address,uint256)", key.node_id, tokens)
        return key

    def pay(self, address: str, coin_wei: int) -> None:
        self.chain.submit(self.signed(FAUCET, address, value_wei=coin_wei).raw)

    def signed(self, key: PrivateKey, to: str, data: bytes = b"", **changes: Any) -> SignedTransaction:
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "nonce": self.chain.pending_nonce(address_bytes(key.node_id)),
            "priority_fee_wei": 1_000,
            "max_fee_wei": 10**10,
            "gas_limit": 3_000_000 if data else 21_000,
            "to": to,
            "data": data,
        }
        return sign(Call(**(fields | changes)), key, "transfer")

    def send(self, key: PrivateKey, to: str, signature: str, *values: Any) -> TxRow:
        """Call a contract in a transaction that must succeed; return its receipt."""
        row = self.storage.transaction(
            self.chain.submit(self.signed(key, to, abi.call(signature, *values)).raw)
        )
        assert row is not None
        if not row.status:
            raise AssertionError(f"{signature} failed: {self.why_not(key, to, signature, *values)}")
        return row

    def why_not(self, key: PrivateKey, to: str, signature: str, *values: Any) -> str | None:
        """Try a call; give the reason of its revert, or None when it would succeed."""
        try:
            self._call(key.node_id, to, signature, *values)
        except Reverted as error:
            return str(abi.decode(("string",), error.output[4:])[0]) if error.output else "no reason"
        return None

    def view(self, to: str, result: str, signature: str, *values: Any) -> Any:
        """Ask a contract for one value."""
        return abi.decode((result,), self._call(FAUCET.node_id, to, signature, *values))[0]

    def _call(self, sender: str, to: str, signature: str, *values: Any) -> bytes:
        request = Request(
            sender=address_bytes(sender),
            to=address_bytes(to),
            data=abi.call(signature, *values),
            value_wei=0,
            gas_limit=5_000_000,
        )
        return self.chain.call(request, self.chain.head)

    def tokens(self, address: str) -> int:
        return int(self.view(TOKEN, "uint256", "balanceOf(address)", address))
