"""Ids have the form that clients know, are functions of what they name, and bad ones are named exactly."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.identity import NodeId
from protocols.market import ids
from protocols.market.errors import InvalidId
from protocols.market.messages import Role

NODE = NodeId("0x" + "12" * 20)


def test_a_subscription_id_is_a_function_of_its_slot_and_use() -> None:
    first = ids.subscription_id("offer", NODE, 0, 1)
    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{64}", first)
    assert ids.check_subscription_id(first) == ids.subscription_id("offer", NODE, 0, 1)
    others = {
        ids.subscription_id("demand", NODE, 0, 1),
        ids.subscription_id("offer", NodeId("0x" + "13" * 20), 0, 1),
        ids.subscription_id("offer", NODE, 1, 1),
        ids.subscription_id("offer", NODE, 0, 2),
    }
    assert len(others | {first}) == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nope", "Subscription id [nope] has invalid format."),
        ("a-b-c", "has invalid format."),
        ("nope-nope", "contains non hexadecimal characters."),
        ("ab-cd", "has invalid length. Should be |32|-|64|"),
        ("", "has invalid format."),
        ("é" * 32 + "-" + "0" * 64, "non hexadecimal"),
    ],
)
def test_what_is_no_subscription_id(text: str, says: str) -> None:
    with pytest.raises(InvalidId, match=re.escape(says)):
        ids.check_subscription_id(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zzz", "Id [zzz] has invalid format."),
        ("X-" + "0" * 64, "has invalid format."),
        ("R-zz", "contains non hexadecimal characters."),
        ("P-abcd", "hash has invalid length. Should be |64|"),
    ],
)
def test_what_is_no_proposal_id(text: str, says: str) -> None:
    with pytest.raises(InvalidId, match=re.escape(says)):
        ids.split_proposal_id(text)


@pytest.mark.parametrize("role", list(Role))
def test_a_proposal_id_says_on_whose_side_it_is_shown(role: Role) -> None:
    shown = ids.proposal_id(role, "0" * 64)
    assert shown == role.value[0] + "-" + "0" * 64
    assert ids.split_proposal_id(shown) == (role, "0" * 64)


def test_an_agreement_id_has_no_letter() -> None:
    assert ids.check_agreement_id("a" * 64)
    for text, says in (("R-" + "a" * 64, "non hexadecimal"), ("abcd", "invalid length")):
        with pytest.raises(InvalidId, match=says):
            ids.check_agreement_id(text)


Field = st.text(max_size=5)


@given(st.tuples(Field, Field, Field, Field), st.tuples(Field, Field, Field, Field))
def test_a_proposals_hash_binds_all_that_it_says(
    one: tuple[str, str, str, str], other: tuple[str, str, str, str]
) -> None:
    def hashed(texts: tuple[str, str, str, str]) -> str:
        offer, demand, prev, properties = texts
        return ids.proposal_hash(offer, demand, prev, Role.PROVIDER, 1, properties, "()")

    assert (hashed(one) == hashed(other)) == (one == other)
