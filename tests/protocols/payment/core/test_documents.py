"""The state table of documents."""

from __future__ import annotations

import pytest

from protocols.payment.core.documents import OPEN, OWNED, TRANSITIONS, Action, follow
from protocols.payment.errors import WrongState
from protocols.payment.records import Status


def test_every_state_is_reached_and_every_action_leads_somewhere() -> None:
    assert set(TRANSITIONS.values()) | {Status.ISSUED} == set(Status)
    assert {action for _, action in TRANSITIONS} == set(Action)


@pytest.mark.parametrize(
    "action", [Action.DELIVER, Action.ACCEPT, Action.REJECT, Action.CANCEL, Action.SETTLE]
)
def test_doing_it_again_changes_nothing(action: Action) -> None:
    for (_, done), following in TRANSITIONS.items():
        if done is action and (following, action) in TRANSITIONS:
            assert follow(following, action, "Invoice") is TRANSITIONS[following, action]
            again = TRANSITIONS[following, action]
            assert again is following or action is Action.ACCEPT


def test_what_is_owned_to_is_never_rejected_or_cancelled() -> None:
    for status in OWNED - {Status.FAILED}:
        for action in (Action.REJECT, Action.CANCEL):
            with pytest.raises(WrongState):
                follow(status, action, "Invoice")


def test_nothing_leaves_cancelled() -> None:
    for action in (Action.ACCEPT, Action.REJECT, Action.SETTLE, Action.FAIL):
        with pytest.raises(WrongState, match=r"^Invoice cancelled$"):
            follow(Status.CANCELLED, action, "Invoice")


def test_acceptance_after_rejection_is_allowed() -> None:
    assert follow(Status.REJECTED, Action.ACCEPT, "Invoice") is Status.ACCEPTED


def test_settled_is_left_only_when_the_chain_takes_it_back() -> None:
    left = {a for (s, a), to in TRANSITIONS.items() if s is Status.SETTLED and to is not s}
    assert left == {Action.REOPEN}


def test_sets() -> None:
    assert OPEN.isdisjoint({Status.SETTLED, Status.CANCELLED})
