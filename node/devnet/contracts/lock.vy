# pragma version 0.4.3
"""
@title Deposits that somebody else may spend
@license Apache-2.0
@notice A funder locks tokens for a spender until a time. The spender pays third parties out of the deposit, and
        closes it: the rest goes back to the funder and the flat fee to the spender. The funder takes everything
        back only when the time is over. A closed id is never used again.
        Functions, events and the deposit's form are those of the Golem lock contract of 2024-04.
"""

interface Token:
    def transfer(receiver: address, amount: uint256) -> bool: nonpayable
    def transferFrom(sender: address, receiver: address, amount: uint256) -> bool: nonpayable

event DepositCreated:
    id: indexed(uint256)
    spender: address

event DepositExtended:
    id: indexed(uint256)
    spender: address

event DepositClosed:
    id: indexed(uint256)
    spender: address

event DepositTerminated:
    id: indexed(uint256)
    spender: address

event DepositFeeTransfer:
    id: indexed(uint256)
    spender: address
    amount: uint128

event DepositTransfer:
    id: indexed(uint256)
    spender: address
    recipient: address
    amount: uint128

struct Deposit:
    spender: address
    validTo: uint64
    amount: uint128
    feeAmount: uint128

struct DepositView:
    id: uint256
    nonce: uint64
    funder: address
    spender: address
    amount: uint128
    validTo: uint64

CONTRACT_ID: public(constant(uint256)) = 6028800000  # 0x167583000
CONTRACT_VERSION: public(constant(uint256)) = 2
CONTRACT_ID_AND_VERSION: public(constant(uint256)) = 6028800002  # 0x167583002

MOST: constant(uint256) = 256
BURNED: constant(address) = 0x0000000000000000000000000000000000000Bad

GLM: public(immutable(address))
deposits: public(HashMap[uint256, Deposit])


@deploy
def __init__(token: address):
    GLM = token


@external
@view
def idFromNonce(nonce: uint64) -> uint256:
    return self._id(nonce, msg.sender)


@external
@view
def idFromNonceAndFunder(nonce: uint64, funder: address) -> uint256:
    return self._id(nonce, funder)


@external
@pure
def nonceFromId(id: uint256) -> uint64:
    return self._nonce(id)


@external
@pure
def funderFromId(id: uint256) -> address:
    return self._funder(id)


@external
@view
def getDeposit(id: uint256) -> DepositView:
    return self._look(id)


@external
@view
def getDepositByNonce(nonce: uint64, funder: address) -> DepositView:
    return self._look(self._id(nonce, funder))


@external
@view
def getValidateDepositSignature() -> String[160]:
    """
    @notice Tell which named arguments `validateDeposit` takes, as JSON.
    """
    return '[{"type": "uint256", "name": "id"}, {"type": "uint128", "name": "amount"}, {"type": "uint128", "name": "flatFeeAmount"}]'


@external
@view
def validateDeposit(id: uint256, amount: uint128, flatFeeAmount: uint128) -> String[64]:
    """
    @return `valid`, or why the deposit is not what the spender was promised.
    """
    deposit: Deposit = self.deposits[id]
    if deposit.spender == empty(address) or deposit.spender == BURNED:
        return "failed due to wrong deposit id"
    if deposit.amount != amount:
        return "failed due to amount mismatch"
    if deposit.feeAmount != flatFeeAmount:
        return "failed due to fee amount mismatch"
    return "valid"


@external
def createDeposit(
    nonce: uint64, spender: address, amount: uint128, flatFeeAmount: uint128, validToTimestamp: uint64
) -> uint256:
    id: uint256 = self._id(nonce, msg.sender)
    assert self.deposits[id].spender == empty(address), "deposit id is used already"
    assert amount > 0, "amount must be above 0"
    assert spender != empty(address) and spender != BURNED, "spender is no usable address"
    assert spender != msg.sender, "spender must not be the funder"
    self.deposits[id] = Deposit(
        spender=spender, validTo=validToTimestamp, amount=amount, feeAmount=flatFeeAmount
    )
    self._pull(convert(amount, uint256) + convert(flatFeeAmount, uint256))
    log DepositCreated(id=id, spender=spender)
    return id


@external
def extendDeposit(nonce: uint64, additionalAmount: uint128, additionalFlatFee: uint128, validToTimestamp: uint64):
    id: uint256 = self._id(nonce, msg.sender)
    deposit: Deposit = self._open(id)
    assert validToTimestamp >= deposit.validTo, "a deposit cannot be shortened"
    deposit.amount += additionalAmount
    deposit.feeAmount += additionalFlatFee
    deposit.validTo = validToTimestamp
    self.deposits[id] = deposit
    added: uint256 = convert(additionalAmount, uint256) + convert(additionalFlatFee, uint256)
    if added > 0:
        self._pull(added)
    log DepositExtended(id=id, spender=deposit.spender)


@external
def depositSingleTransfer(id: uint256, addr: address, amount: uint128):
    self._pay(id, addr, amount)


@external
def depositTransfer(id: uint256, payments: DynArray[bytes32, MOST]):
    self._pay_packed(id, payments)


@external
def depositSingleTransferAndClose(id: uint256, addr: address, amount: uint128):
    self._pay(id, addr, amount)
    self._close(id)


@external
def depositTransferAndClose(id: uint256, payments: DynArray[bytes32, MOST]):
    self._pay_packed(id, payments)
    self._close(id)


@external
def closeDeposit(id: uint256):
    self._close(id)


@external
def terminateDeposit(nonce: uint64):
    """
    @notice Take everything back, after the deposit's time.
    """
    id: uint256 = self._id(nonce, msg.sender)
    deposit: Deposit = self._open(id)
    assert block.timestamp > convert(deposit.validTo, uint256), "deposit is still valid"
    self._burn(id)
    self._push(msg.sender, convert(deposit.amount, uint256) + convert(deposit.feeAmount, uint256))
    log DepositTerminated(id=id, spender=deposit.spender)


@internal
def _pay_packed(id: uint256, payments: DynArray[bytes32, MOST]):
    for payment: bytes32 in payments:
        word: uint256 = convert(payment, uint256)
        amount: uint256 = word & convert(max_value(uint96), uint256)
        self._pay(id, convert(word >> 96, address), convert(amount, uint128))


@internal
def _pay(id: uint256, receiver: address, amount: uint128):
    deposit: Deposit = self._open(id)
    assert msg.sender == deposit.spender, "only the spender may pay out"
    assert receiver != deposit.spender, "the spender may not pay itself"
    assert deposit.amount >= amount, "deposit amount is too low"
    self.deposits[id].amount = deposit.amount - amount
    self._push(receiver, convert(amount, uint256))
    log DepositTransfer(id=id, spender=deposit.spender, recipient=receiver, amount=amount)


@internal
def _close(id: uint256):
    deposit: Deposit = self._open(id)
    assert msg.sender == deposit.spender, "only the spender may close"
    self._burn(id)
    if deposit.amount > 0:
        self._push(self._funder(id), convert(deposit.amount, uint256))
    if deposit.feeAmount > 0:
        self._push(deposit.spender, convert(deposit.feeAmount, uint256))
        log DepositFeeTransfer(id=id, spender=deposit.spender, amount=deposit.feeAmount)
    log DepositClosed(id=id, spender=deposit.spender)


@internal
def _burn(id: uint256):
    self.deposits[id] = Deposit(spender=BURNED, validTo=0, amount=0, feeAmount=0)


@internal
@view
def _open(id: uint256) -> Deposit:
    deposit: Deposit = self.deposits[id]
    assert deposit.spender != empty(address), "no such deposit"
    assert deposit.spender != BURNED, "deposit is closed"
    return deposit


@internal
@view
def _look(id: uint256) -> DepositView:
    deposit: Deposit = self.deposits[id]
    return DepositView(
        id=id,
        nonce=self._nonce(id),
        funder=self._funder(id),
        spender=deposit.spender,
        amount=deposit.amount,
        validTo=deposit.validTo,
    )


@internal
@pure
def _id(nonce: uint64, funder: address) -> uint256:
    return (convert(funder, uint256) << 96) ^ convert(nonce, uint256)


@internal
@pure
def _nonce(id: uint256) -> uint64:
    return convert(id & convert(max_value(uint64), uint256), uint64)


@internal
@pure
def _funder(id: uint256) -> address:
    return convert(id >> 96, address)


@internal
def _pull(amount: uint256):
    assert extcall Token(GLM).transferFrom(msg.sender, self, amount), "transferFrom failed"


@internal
def _push(receiver: address, amount: uint256):
    assert extcall Token(GLM).transfer(receiver, amount), "transfer failed"
