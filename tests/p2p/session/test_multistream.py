"""multistream-select between two ends in memory, and with ends that lie."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.overlay import ProtocolRefused
from p2p.session import ProtocolError
from p2p.session.multistream import MAX_PROPOSALS, Answering, Proposal

HEADER = b"\x13/multistream/1.0.0\n"


@given(
    st.integers(1, 40), st.integers(1, 40), st.binary(max_size=50), st.text("abc/", min_size=1, max_size=300)
)
def test_one_proposal_and_its_data_need_no_round_trip(
    near: int, far: int, data: bytes, protocol: str
) -> None:
    proposal, answering = Proposal(protocol), Answering({protocol, "/other"})
    said = proposal.hello + data
    answer = b"".join(answering.receive(said[at : at + near]) for at in range(0, len(said), near))
    if answering.protocol is not None and len(said) > near:
        answering = Answering({protocol})
        answering.receive(said)
    assert answering.protocol == protocol
    assert answering.unread == data
    rest = [proposal.receive(answer[at : at + far]) for at in range(0, len(answer), far)]
    assert rest[-1] == b""


def test_data_after_the_agreement_is_kept() -> None:
    proposal = Proposal("/a")
    assert proposal.receive(HEADER + b"\x03/a") is None
    assert proposal.receive(b"\nhello") == b"hello"


def test_the_header_is_answered_before_there_is_a_proposal() -> None:
    answering = Answering({"/b"})
    assert answering.receive(HEADER) == HEADER
    assert answering.receive(b"\x03/a\n") == b"\x03na\n"
    assert answering.protocol is None
    assert answering.receive(b"\x03/b\n") == b"\x03/b\n"
    assert answering.protocol == "/b"


def test_a_refusal_is_told_apart_from_nonsense() -> None:
    with pytest.raises(ProtocolRefused, match="does not serve /a"):
        Proposal("/a").receive(HEADER + b"\x03na\n")
    with pytest.raises(ProtocolError, match="answered '/b' to /a"):
        Proposal("/a").receive(HEADER + b"\x03/b\n")
    with pytest.raises(ProtocolError, match="does not speak"):
        Proposal("/a").receive(b"\x05HTTP\n")


def test_proposals_and_lines_are_bounded() -> None:
    answering = Answering(set())
    with pytest.raises(ProtocolRefused, match=f"{MAX_PROPOSALS} protocols"):
        answering.receive(HEADER + b"\x03/a\n" * MAX_PROPOSALS)
    for line in (b"\xff\xff\xff", b"\x80\x09", b"\x00"):
        with pytest.raises(ProtocolError, match="announced a line"):
            Answering(set()).receive(line)
    with pytest.raises(ValueError, match="at most 1023 bytes"):
        Proposal("x" * 1024)


def test_garbage_raises_nothing_else() -> None:
    chance = random.Random(1)
    for _ in range(10_000):
        garbage = chance.randbytes(chance.randrange(1, 60))
        if chance.random() < 0.5:
            garbage = HEADER + bytes([len(garbage)]) + garbage
        for end in (Proposal("/a"), Answering({"/a"})):
            with contextlib.suppress(ProtocolError, ProtocolRefused):
                end.receive(garbage)
