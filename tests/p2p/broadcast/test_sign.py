"""StrictSign and PeerIds against libp2p's."""

from __future__ import annotations

import coincurve
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from p2p.broadcast import Verdict, sign
from p2p.broadcast.wire import Message, Rpc, encode_unsigned
from p2p.identity import PrivateKey
from p2p.identity import peer_id as peer_ids
from tests.p2p.broadcast.oracle import ID, create_new_key_pair, signature_validator, to_libp2p

_secrets = st.binary(min_size=32, max_size=32).filter(lambda s: 0 < int.from_bytes(s, "big") < 2**255)
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _seal(secret: bytes = b"\x01" * 32) -> sign.StrictSign:
    return sign.StrictSign(PrivateKey(secret))


def _message(seal: sign.StrictSign, data: bytes = b"record", seqno: int = 7) -> Message:
    return seal.sign(Message(seal.author, data, seqno.to_bytes(8, "big"), "/golem-p2p/devnet/offers/1"))


@given(_secrets)
def test_peer_ids_are_those_of_libp2p(secret: bytes) -> None:
    pair = create_new_key_pair(secret)
    key = PrivateKey(secret)
    stock = ID.from_pubkey(pair.public_key)
    assert peer_ids.peer_id_bytes(key.public_key) == stock.to_bytes()
    assert peer_ids.node_id_of_peer(stock.to_base58()) == key.node_id


@given(_secrets, st.binary(min_size=1, max_size=200), st.integers(0, 2**64 - 1))
def test_libp2p_accepts_our_signatures(secret: bytes, data: bytes, seqno: int) -> None:
    message = _message(_seal(secret), data, seqno)
    assert signature_validator(to_libp2p(Rpc(publish=(message,))).publish[0])


@given(_secrets, st.binary(min_size=1, max_size=200), st.booleans())
def test_we_accept_signatures_of_libp2p(secret: bytes, data: bytes, with_key: bool) -> None:
    pair = create_new_key_pair(secret)
    author = ID.from_pubkey(pair.public_key).to_bytes()
    unsigned = Message(author, data, b"\0" * 8, "t")
    signature = pair.private_key.sign(
        b"libp2p-pubsub:" + to_libp2p(Rpc(publish=(unsigned,))).publish[0].SerializeToString()
    )
    key = pair.public_key.serialize() if with_key else b""
    message = Message(author, data, b"\0" * 8, "t", signature, key)
    assert _seal().check(message) is Verdict.ACCEPT


@pytest.mark.parametrize(
    "change",
    [
        {"data": b"another"},
        {"topic": "another"},
        {"seqno": b"\0" * 7 + b"\x08"},
        {"author": _seal(b"\x02" * 32).author},
        {"signature": b""},
        {"signature": b"\x30\x01\x02"},
        {"key": b"\x08\x02\x12\x21" + b"\x02" * 33},
        {"author": peer_ids._PREFIX + b"\x02" + b"\xff" * 32},
    ],
)
def test_a_forgery_is_rejected(change: dict[str, bytes | str]) -> None:
    message = msgspec.structs.replace(_message(_seal()), **change)
    assert _seal().check(message) is Verdict.REJECT


def test_a_sequence_number_has_eight_bytes() -> None:
    seal = _seal()
    message = seal.sign(Message(seal.author, b"d", b"\x07", "t"))
    assert seal.check(message) is Verdict.REJECT


def test_the_second_signature_that_anyone_can_make_is_rejected() -> None:
    message = _message(_seal())
    r_end = 4 + message.signature[3]
    s = int.from_bytes(message.signature[r_end + 2 :], "big")
    body = message.signature[2:r_end] + b"\x02\x21" + (_ORDER - s).to_bytes(33, "big")
    malleated = bytes((0x30, len(body))) + body
    normal = coincurve.ecdsa.signature_normalize(coincurve.ecdsa.der_to_cdata(malleated))[1]
    assert coincurve.ecdsa.cdata_to_der(normal) == message.signature
    assert _seal().check(msgspec.structs.replace(message, signature=malleated)) is Verdict.REJECT


def test_foreign_authors_sign_with_ed25519() -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
    author = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20)) + key.public_key().public_bytes_raw()
    message = msgspec.structs.replace(_message(_seal()), author=author)
    signature = key.sign(sign.SIGNING_PREFIX + encode_unsigned(message))
    genuine = msgspec.structs.replace(message, signature=signature)
    seal = _seal()
    assert seal.check(genuine) is Verdict.ACCEPT
    assert seal.check(msgspec.structs.replace(genuine, data=b"altered")) is Verdict.REJECT
    assert seal.check(message) is Verdict.REJECT
    assert peer_ids.key_in_peer_id(author) is None


def test_authors_with_other_keys_are_nobodys_fault() -> None:
    rsa = bytes((0x12, 0x20)) + b"\x05" * 32
    message = msgspec.structs.replace(_message(_seal()), author=rsa)
    assert _seal().check(message) is Verdict.IGNORE
    assert peer_ids.key_in_peer_id(rsa) is None


def test_keys_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign, "_KEYS_CACHED", 3)
    judge = _seal()
    for secret in range(1, 10):
        assert judge.check(_message(_seal(bytes((secret,)) * 32))) is Verdict.ACCEPT
    assert len(judge._keys) == 3
