# pragma version 0.4.3
"""
@title One-way payment channels with signed vouchers
@license Apache-2.0
@notice A payer escrows tokens for one payee. It pays by signing vouchers, each with the total so far; the payee
        claims the newest when it likes. The payee may close at any time, the payer after it asked to and waited
        the challenge time. Nobody owns this contract, nothing can be changed, the token is fixed.

        A channel's settings come with every call and are hashed into its id, so that all its state is one word:
        deposit (96 bits), claimed (96 bits), closing (64 bits). `closing` is 0 while the channel runs, then the
        time from which the payer may close it, and the largest number when it is closed for good; a closed id
        cannot be opened again, or old vouchers would pay anew.
"""

interface Token:
    def transfer(receiver: address, amount: uint256) -> bool: nonpayable
    def transferFrom(sender: address, receiver: address, amount: uint256) -> bool: nonpayable

event Opened:
    channelId: indexed(bytes32)
    payer: indexed(address)
    payee: indexed(address)
    signer: address
    challengeSeconds: uint64
    salt: bytes32
    amount: uint256

event ToppedUp:
    channelId: indexed(bytes32)
    deposit: uint256

event Claimed:
    channelId: indexed(bytes32)
    payee: indexed(address)
    cumulative: uint256

event Closing:
    channelId: indexed(bytes32)
    payee: indexed(address)
    closableAt: uint256

event Closed:
    channelId: indexed(bytes32)
    payee: indexed(address)
    refund: uint256

struct Config:
    payer: address
    payee: address
    signer: address
    challengeSeconds: uint64
    salt: bytes32

struct Voucher:
    config: Config
    cumulative: uint96
    signature: Bytes[65]

struct State:
    deposit: uint256
    claimed: uint256
    closing: uint256

MOST: constant(uint256) = 64
MASK: constant(uint256) = 2 ** 96 - 1
CLOSED: constant(uint256) = 2 ** 64 - 1
LONGEST_CHALLENGE: constant(uint64) = 30 * 86400

DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
VOUCHER_TYPE: constant(bytes32) = keccak256("Voucher(bytes32 channelId,uint96 cumulative)")
CLOSE_TYPE: constant(bytes32) = keccak256("Close(bytes32 channelId,uint96 cumulative)")

GLM: public(immutable(address))
DOMAIN: immutable(bytes32)

_channels: HashMap[bytes32, uint256]


@deploy
def __init__(token: address):
    GLM = token
    DOMAIN = keccak256(
        abi_encode(DOMAIN_TYPE, keccak256("golem-p2p channel"), keccak256("1"), chain.id, self)
    )


@external
@view
def domainSeparator() -> bytes32:
    return DOMAIN


@external
@view
def channelId(config: Config) -> bytes32:
    return self._id(config)


@external
@view
def state(id: bytes32) -> State:
    """
    @return All zero: never opened. Deposit 0 and closing 2^64 - 1: closed.
    """
    return self._load(id)


@external
def open(config: Config, amount: uint96):
    """
    @notice Open a channel and escrow `amount`, taken from the caller's allowance. The caller is the payer.
    """
    self._open(config, convert(amount, uint256))
    self._pull(convert(amount, uint256))


@external
def openMany(configs: DynArray[Config, MOST], amounts: DynArray[uint96, MOST]):
    assert len(configs) == len(amounts), "configs and amounts differ in number"
    total: uint256 = 0
    for i: uint256 in range(len(configs), bound=MOST):
        amount: uint256 = convert(amounts[i], uint256)
        self._open(configs[i], amount)
        total += amount
    self._pull(total)


@external
def topUp(id: bytes32, amount: uint96):
    """
    @notice Add to a channel's escrow. Anyone may; what is left at the end goes to the payer.
    """
    channel: State = self._running(id)
    assert channel.closing == 0, "channel is closing"
    channel.deposit += convert(amount, uint256)
    assert channel.deposit <= MASK, "deposit would exceed 96 bits"
    self._store(id, channel)
    self._pull(convert(amount, uint256))
    log ToppedUp(channelId=id, deposit=channel.deposit)


@external
def claim(config: Config, cumulative: uint96, signature: Bytes[65]):
    """
    @notice Pay the payee up to `cumulative`. Anyone may send it: the money goes to the payee alone.
    """
    self._push(config.payee, self._claim(config, convert(cumulative, uint256), signature))


@external
def claimMany(payee: address, vouchers: DynArray[Voucher, MOST]):
    """
    @notice Claim from several payers for one payee with one payout.
    """
    total: uint256 = 0
    for voucher: Voucher in vouchers:
        assert voucher.config.payee == payee, "voucher is for another payee"
        total += self._claim(voucher.config, convert(voucher.cumulative, uint256), voucher.signature)
    self._push(payee, total)


@external
def requestClose(config: Config):
    """
    @notice Announce that the payer wants its rest back; the payee has the challenge time to claim.
    """
    assert msg.sender == config.payer, "only the payer asks to close"
    id: bytes32 = self._id(config)
    channel: State = self._running(id)
    assert channel.closing == 0, "channel is closing already"
    channel.closing = block.timestamp + convert(config.challengeSeconds, uint256)
    self._store(id, channel)
    log Closing(channelId=id, payee=config.payee, closableAt=channel.closing)


@external
def close(config: Config):
    """
    @notice Refund the rest to the payer, for good. The payee may at any time, the payer after the challenge.
    """
    id: bytes32 = self._id(config)
    channel: State = self._running(id)
    if msg.sender != config.payee:
        assert msg.sender == config.payer, "only payee and payer close"
        assert channel.closing != 0, "request the close first"
        assert block.timestamp >= channel.closing, "challenge time is not over"
    self._finish(id, config, channel)


@external
def closeTogether(config: Config, cumulative: uint96, payeeSignature: Bytes[65]):
    """
    @notice Pay the payee up to `cumulative` and refund the rest at once, on the payee's signed word.
    """
    assert msg.sender == config.payer, "only the payer sends this"
    id: bytes32 = self._id(config)
    channel: State = self._running(id)
    total: uint256 = convert(cumulative, uint256)
    assert total >= channel.claimed and total <= channel.deposit, "cumulative amount out of range"
    assert self._signer(CLOSE_TYPE, id, total, payeeSignature) == config.payee, "not signed by the payee"
    due: uint256 = total - channel.claimed
    channel.claimed = total
    self._finish(id, config, channel)
    if due > 0:
        log Claimed(channelId=id, payee=config.payee, cumulative=total)
        self._push(config.payee, due)


@internal
def _open(config: Config, amount: uint256):
    assert msg.sender == config.payer, "only the payer opens"
    assert config.payee != empty(address) and config.signer != empty(address), "payee and signer must be set"
    assert config.challengeSeconds > 0 and config.challengeSeconds <= LONGEST_CHALLENGE, "challenge time"
    assert amount > 0, "amount must be above 0"
    id: bytes32 = self._id(config)
    assert self._channels[id] == 0, "channel exists already, or is closed"
    self._store(id, State(deposit=amount, claimed=0, closing=0))
    log Opened(
        channelId=id,
        payer=config.payer,
        payee=config.payee,
        signer=config.signer,
        challengeSeconds=config.challengeSeconds,
        salt=config.salt,
        amount=amount,
    )


@internal
def _claim(config: Config, cumulative: uint256, signature: Bytes[65]) -> uint256:
    id: bytes32 = self._id(config)
    channel: State = self._running(id)
    assert cumulative > channel.claimed, "claimed already"
    assert cumulative <= channel.deposit, "voucher exceeds the deposit"
    assert self._signer(VOUCHER_TYPE, id, cumulative, signature) == config.signer, "not signed by the signer"
    due: uint256 = cumulative - channel.claimed
    channel.claimed = cumulative
    self._store(id, channel)
    log Claimed(channelId=id, payee=config.payee, cumulative=cumulative)
    return due


@internal
def _finish(id: bytes32, config: Config, channel: State):
    refund: uint256 = channel.deposit - channel.claimed
    self._store(id, State(deposit=0, claimed=0, closing=CLOSED))
    log Closed(channelId=id, payee=config.payee, refund=refund)
    if refund > 0:
        self._push(config.payer, refund)


@internal
@view
def _signer(kind: bytes32, id: bytes32, cumulative: uint256, signature: Bytes[65]) -> address:
    assert len(signature) == 65, "signature must have 65 bytes"
    digest: bytes32 = keccak256(concat(b"\x19\x01", DOMAIN, keccak256(abi_encode(kind, id, cumulative))))
    r: uint256 = extract32(signature, 0, output_type=uint256)
    s: uint256 = extract32(signature, 32, output_type=uint256)
    v: uint256 = convert(slice(signature, 64, 1), uint256)
    if v < 27:
        v += 27
    # For a malformed signature ecrecover gives the zero address, which no channel has as signer or payee.
    return ecrecover(digest, v, r, s)


@internal
@view
def _id(config: Config) -> bytes32:
    return keccak256(abi_encode(chain.id, self, config))


@internal
@view
def _running(id: bytes32) -> State:
    channel: State = self._load(id)
    assert channel.deposit != 0, "channel is not open"
    return channel


@internal
@view
def _load(id: bytes32) -> State:
    word: uint256 = self._channels[id]
    return State(deposit=word >> 160, claimed=(word >> 64) & MASK, closing=word & CLOSED)


@internal
def _store(id: bytes32, channel: State):
    self._channels[id] = (channel.deposit << 160) | (channel.claimed << 64) | channel.closing


@internal
def _pull(amount: uint256):
    assert extcall Token(GLM).transferFrom(msg.sender, self, amount), "transferFrom failed"


@internal
def _push(receiver: address, amount: uint256):
    assert extcall Token(GLM).transfer(receiver, amount), "transfer failed"
