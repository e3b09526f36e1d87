# pragma version 0.4.3
"""
@title Test Golem token
@license Apache-2.0
@notice An ERC-20 token worth nothing, for the embedded chain. Whoever holds less than 400 may grant itself
        1000 with `create()`, as on the public Golem test networks.
"""

event Transfer:
    sender: indexed(address)
    receiver: indexed(address)
    amount: uint256

event Approval:
    owner: indexed(address)
    spender: indexed(address)
    amount: uint256

name: public(constant(String[32])) = "Test Golem Network Token"
symbol: public(constant(String[8])) = "tGLM"
decimals: public(constant(uint8)) = 18

GRANT: constant(uint256) = 1000 * 10 ** 18
RICH: constant(uint256) = 400 * 10 ** 18

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])


@deploy
def __init__(treasury: address, stock: uint256):
    """
    @param treasury Who gives tokens away over HTTP.
    @param stock What it may give.
    """
    self._mint(treasury, stock)


@external
def create():
    """
    @notice Grant the caller 1000 tokens; refused from 400 tokens on.
    """
    assert self.balanceOf[msg.sender] < RICH, "faucet: balance is 400 or more"
    self._mint(msg.sender, GRANT)


@external
def transfer(receiver: address, amount: uint256) -> bool:
    self._move(msg.sender, receiver, amount)
    return True


@external
def transferFrom(sender: address, receiver: address, amount: uint256) -> bool:
    allowed: uint256 = self.allowance[sender][msg.sender]
    # An allowance of the maximum is for ever: it is not counted down, which spares a write a transfer.
    if allowed != max_value(uint256):
        assert allowed >= amount, "ERC20: transfer amount exceeds allowance"
        self.allowance[sender][msg.sender] = allowed - amount
    self._move(sender, receiver, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    log Approval(owner=msg.sender, spender=spender, amount=amount)
    return True


@internal
def _move(sender: address, receiver: address, amount: uint256):
    assert receiver != empty(address), "ERC20: transfer to the zero address"
    held: uint256 = self.balanceOf[sender]
    assert held >= amount, "ERC20: transfer amount exceeds balance"
    self.balanceOf[sender] = held - amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=sender, receiver=receiver, amount=amount)


@internal
def _mint(receiver: address, amount: uint256):
    self.totalSupply += amount
    self.balanceOf[receiver] += amount
    log Transfer(sender=empty(address), receiver=receiver, amount=amount)
