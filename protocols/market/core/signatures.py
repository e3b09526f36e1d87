"""What the two sides of an agreement sign, and the checking of it.

The requestor signs the terms; the provider signs the agreement's id, that signature and the time of its
approval; the requestor signs the id and the approval. Whoever ends an agreement signs how, why and when. So
the three signatures prove the deal to anyone who has the terms, and no signature can be used for another
agreement, another step, or another network (the terms name it).
"""

from __future__ import annotations

from p2p import codec
from p2p.identity import InvalidSignature, NodeId, record_digest, recover
from protocols.market.errors import Forbidden
from protocols.market.messages import AgreementEnd, AgreementState, AgreementTerms, Role


def terms_digest(terms: AgreementTerms) -> bytes:
    """Return what the requestor signs to propose."""
    return record_digest("agreement/proposed/1", codec.encode(terms))


def approval_digest(agreement_id: str, proposed: bytes, approved_ns: int) -> bytes:
    """Return what the provider signs to approve."""
    return record_digest("agreement/approved/1", codec.encode([agreement_id, proposed, approved_ns]))


def commitment_digest(agreement_id: str, approved: bytes) -> bytes:
    """Return what the requestor signs to be bound."""
    return record_digest("agreement/committed/1", codec.encode([agreement_id, approved]))


def end_digest(agreement_id: str, state: AgreementState, by: Role, at_ns: int, reason: str | None) -> bytes:
    """Return what a side signs to reject, cancel or terminate."""
    content = [agreement_id, state.value, by.value, at_ns, reason]
    return record_digest("agreement/ended/1", codec.encode(content))


def side_of(terms: AgreementTerms, role: Role) -> NodeId:
    """Return who is on that side of an agreement."""
    return NodeId(terms.requestor_id if role is Role.REQUESTOR else terms.provider_id)


def check_signature(digest: bytes, signature: bytes, signer: NodeId, what: str) -> None:
    """Return if `signer` made the signature.

    Raises:
        Forbidden: somebody else did, or nobody.
    """
    try:
        who = recover(digest, signature)
    except InvalidSignature as error:
        raise Forbidden(f"the signature of the {what} is not one: {error}") from error
    if who != signer:
        raise Forbidden(f"the {what} is signed by {who}, not by {signer}")


def check_end(agreement_id: str, terms: AgreementTerms, state: AgreementState, end: AgreementEnd) -> None:
    """Return if the side that is said to have ended the agreement has signed so. Raises Forbidden."""
    digest = end_digest(agreement_id, state, end.by, end.at_ns, end.reason)
    check_signature(digest, end.signature, side_of(terms, end.by), f"end ({state.value})")
