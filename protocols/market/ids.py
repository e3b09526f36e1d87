"""Ids of the market: made from what they name, and checked as the REST API demands.

A subscription (an offer or a demand) is `h32-h64`, a proposal `R-h64` or `P-h64`, an agreement `h64`, in
lower-case hexadecimal. The letter of a proposal id says on whose node it is shown: both sides share the hash,
which alone crosses the wire.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Literal

from p2p import codec
from protocols.market.errors import InvalidId
from protocols.market.messages import AgreementTerms, Role

if TYPE_CHECKING:
    from p2p.identity import NodeId

_HEX = re.compile(r"[0-9a-fA-F]*\Z")
_LETTERS = {"R": Role.REQUESTOR, "P": Role.PROVIDER}


def subscription_id(kind: Literal["offer", "demand"], node: NodeId, slot: int, incarnation: int) -> str:
    """Return the id of a subscription: a function of who, which slot, and which use of that slot."""
    first = _sha3(codec.encode(["subscription/1", kind, node, slot, incarnation]))
    return f"{first[:16].hex()}-{_sha3(first).hex()}"


def check_subscription_id(text: str) -> str:
    """Return `text` if it has the form of a subscription id. Raises InvalidId."""
    parts = text.split("-")
    if len(parts) != 2:
        raise InvalidId(f"Subscription id [{_cut(text)}] has invalid format.")
    if not all(_HEX.match(part) for part in parts):
        raise InvalidId(f"Subscription id [{_cut(text)}] contains non hexadecimal characters.")
    if [len(part) for part in parts] != [32, 64]:
        raise InvalidId(f"Subscription id [{_cut(text)}] has invalid length. Should be |32|-|64|")
    return text


def initial_hash(offer_id: str, demand_id: str, body_hash: bytes, created_ns: int) -> str:
    """Return the hash of the Initial proposal that a requestor's node makes of an offer."""
    return _sha3(codec.encode(["initial/1", offer_id, demand_id, body_hash, created_ns])).hex()


def proposal_hash(
    offer_id: str,
    demand_id: str,
    prev_proposal: str,
    issuer: Role,
    created_ns: int,
    properties: str,
    constraints: str,
) -> str:
    """Return the hash of a counter-proposal: of all that it says, and of what it answers."""
    content = [offer_id, demand_id, prev_proposal, issuer.value, created_ns, properties, constraints]
    return _sha3(codec.encode(["proposal/1", *content])).hex()


def proposal_id(side: Role, proposal: str) -> str:
    """Return a proposal's hash with the letter of the side that it is shown on."""
    return f"{side.value[0]}-{proposal}"


def split_proposal_id(text: str) -> tuple[Role, str]:
    """Return the side and the hash of a proposal id. Raises InvalidId."""
    letter, separator, proposal = text.partition("-")
    if not separator or letter not in _LETTERS:
        raise InvalidId(f"Id [{_cut(text)}] has invalid format.")
    return _LETTERS[letter], _check_hash(text, proposal)


def agreement_id(terms: AgreementTerms) -> str:
    """Return the id of an agreement: the hash of what is agreed."""
    return _sha3(b"agreement/1\0" + codec.encode(terms)).hex()


def check_agreement_id(text: str) -> str:
    """Return `text` if it has the form of an agreement id. Raises InvalidId."""
    return _check_hash(text, text)


def _check_hash(text: str, part: str) -> str:
    if not _HEX.match(part):
        raise InvalidId(f"Id [{_cut(text)}] contains non hexadecimal characters.")
    if len(part) != 64:
        raise InvalidId(f"Id [{_cut(text)}] hash has invalid length. Should be |64|")
    return part


def _cut(text: str) -> str:
    return text[:128]


def _sha3(data: bytes) -> bytes:
    return hashlib.sha3_256(data).digest()
