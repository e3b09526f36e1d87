"""A `Bench` for the driver suite on a chain behind JSON-RPC: the embedded one, or anvil."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from p2p.identity.keys import PrivateKey
from p2p.identity.node_id import keccak256
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import Call, sign
from protocols.payment.networks import NETWORKS

if TYPE_CHECKING:
    from protocols.payment.drivers.base import SignedTransaction, Signer
    from protocols.payment.networks import Network

_numbers = itertools.count(1)


def new_key() -> PrivateKey:
    """A key that no other test of this process has."""
    return PrivateKey(keccak256(b"bench %d" % next(_numbers)))


def network_at(url: str) -> Network:
    """The devnet as its registry entry, at another URL."""
    return msgspec.structs.replace(NETWORKS["devnet"], rpc_urls=(url,), faucet_url=f"{url}/donate")


class RpcBench:
    """Holds blocks and makes failing transactions by JSON-RPC."""

    def __init__(self, url: str) -> None:
        self.url = url

    def signer(self) -> Signer:
        return new_key()

    async def ask(self, method: str, *params: Any) -> Any:
        async with httpx.AsyncClient() as client:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            answer = (await client.post(self.url, json=body)).json()
        assert "error" not in answer, answer
        return answer["result"]

    async def give_coin(self, address: str) -> None:
        pass  # the driver's own funding asks the embedded chain's faucet

    async def hold_blocks(self) -> None:
        await self.ask("evm_setAutomine", False)

    async def release_blocks(self) -> None:
        await self.ask("evm_setAutomine", True)
        await self.ask("evm_mine")

    async def failing_transaction(self, signer: Signer) -> SignedTransaction:
        nonce = int(await self.ask("eth_getTransactionCount", signer.node_id, "latest"), 16)
        devnet = NETWORKS["devnet"]
        call = Call(
            chain_id=devnet.chain_id,
            nonce=nonce,
            priority_fee_wei=devnet.gas.priority_fee_wei,
            max_fee_wei=devnet.gas.max_fee_wei,
            gas_limit=100_000,
            to=devnet.token,
            data=abi.call("transfer(address,uint256)", "0x" + "77" * 20, 1 << 200),
        )
        return sign(call, signer, "transfer")


class AnvilBench(RpcBench):
    """The same on anvil, which has no faucet."""

    async def give_coin(self, address: str) -> None:
        if int(await self.ask("eth_getBalance", address, "latest"), 16) == 0:
            await self.ask("anvil_setBalance", address, hex(10**19))

    async def hold_blocks(self) -> None:
        await self.ask("evm_setAutomine", False)
