"""The transactions that put the contracts on a fresh chain, at the addresses of the registry.

The embedded chain's first block is made of them; on another test chain with the same chain id, whose deployer has
coin and sent nothing yet, they give the same addresses. Imports no EVM.
"""

from __future__ import annotations

from typing import Final

from node.devnet import contracts
from node.devnet.addresses import CHAIN_ID, DEPLOYER_KEY, FAUCET, TOKEN
from p2p.identity.keys import PrivateKey
from protocols.payment.drivers.erc20 import abi
from protocols.payment.drivers.erc20.transaction import Call, sign

STOCK_WEI: Final = 10**27
"""What the faucet has of the token; the embedded chain gives it as much coin."""
_GAS: Final = 5_000_000
_MAX_FEE_WEI: Final = 10**10


def deployments() -> list[bytes]:
    """Sign the deployments, in the order that gives each contract its address."""
    key = PrivateKey(DEPLOYER_KEY)
    raws = []
    for nonce, name in enumerate(contracts.NAMES):
        arguments = abi.encode(("address",), (TOKEN,))
        if name == "token":
            arguments = abi.encode(("address", "uint256"), (FAUCET, STOCK_WEI))
        call = Call(
            chain_id=CHAIN_ID,
            nonce=nonce,
            priority_fee_wei=0,
            max_fee_wei=_MAX_FEE_WEI,
            gas_limit=_GAS,
            to="",
            data=contracts.load(name).bytecode + arguments,
        )
        raws.append(sign(call, key, "transfer").raw)
    return raws
