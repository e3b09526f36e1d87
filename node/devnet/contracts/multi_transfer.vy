# pragma version 0.4.3
"""
@title Multi-transfer
@license Apache-2.0
@notice Pay many in one transaction, with an allowance that the caller gave this contract before. "Direct" moves
        tokens from the caller to each payee; "indirect" pulls the total once and then pushes.
        A packed payment is one word: the payee's 20 bytes, then the amount in 96 bits.
        Function names and forms are those of the Golem contract, so that one driver serves both.
"""

interface Token:
    def transfer(receiver: address, amount: uint256) -> bool: nonpayable
    def transferFrom(sender: address, receiver: address, amount: uint256) -> bool: nonpayable

MOST: constant(uint256) = 256

GLM: public(immutable(address))


@deploy
def __init__(token: address):
    GLM = token


@external
def golemTransferDirectPacked(payments: DynArray[bytes32, MOST]):
    for payment: bytes32 in payments:
        word: uint256 = convert(payment, uint256)
        self._pull(convert(word >> 96, address), word & convert(max_value(uint96), uint256))


@external
def golemTransferIndirectPacked(payments: DynArray[bytes32, MOST], totalTransferred: uint256):
    """
    @param totalTransferred The sum of the payments; anything else is refused, so that nothing stays here.
    """
    self._pull(self, totalTransferred)
    sent: uint256 = 0
    for payment: bytes32 in payments:
        word: uint256 = convert(payment, uint256)
        amount: uint256 = word & convert(max_value(uint96), uint256)
        sent += amount
        self._push(convert(word >> 96, address), amount)
    assert sent == totalTransferred, "total is not the sum of the payments"


@external
def golemTransferDirect(recipients: DynArray[address, MOST], amounts: DynArray[uint256, MOST]):
    assert len(recipients) == len(amounts), "recipients and amounts differ in number"
    for i: uint256 in range(len(recipients), bound=MOST):
        self._pull(recipients[i], amounts[i])


@external
def golemTransferIndirect(recipients: DynArray[address, MOST], amounts: DynArray[uint256, MOST]):
    assert len(recipients) == len(amounts), "recipients and amounts differ in number"
    total: uint256 = 0
    for amount: uint256 in amounts:
        total += amount
    self._pull(self, total)
    for i: uint256 in range(len(recipients), bound=MOST):
        self._push(recipients[i], amounts[i])


@internal
def _pull(receiver: address, amount: uint256):
    assert extcall Token(GLM).transferFrom(msg.sender, receiver, amount), "transferFrom failed"


@internal
def _push(receiver: address, amount: uint256):
    assert extcall Token(GLM).transfer(receiver, amount), "transfer failed"
