"""The provider's answers, rule by rule and as a chain (reference: Golem's provider agent)."""

from __future__ import annotations

from typing import Any

import pytest

from node.provider.negotiators import (
    ACCEPT_TIMEOUT,
    CHOSEN_PLATFORM,
    COEFFICIENTS,
    EXPIRATION,
    NOTE_INTERVAL,
    PAYMENT_TIMEOUT,
    Negotiating,
    Ready,
    Reject,
    Situation,
    default_chain,
    negotiate,
)

NOW = 1_000 * 10**9
OFFER: dict[str, Any] = {
    "golem.com.payment.platform.erc20-devnet-tglm.address": "0xabc",
    ACCEPT_TIMEOUT: 240,
    NOTE_INTERVAL: 120,
    PAYMENT_TIMEOUT: 120,
    COEFFICIENTS: [0.1, 0.2, 0.0],
}
DEMAND: dict[str, Any] = {
    CHOSEN_PLATFORM: "erc20-devnet-tglm",
    EXPIRATION: (1_000 + 1_200) * 1000,
    ACCEPT_TIMEOUT: 240,
    NOTE_INTERVAL: 120,
    PAYMENT_TIMEOUT: 120,
}


def answer(free: int = 1, **changes: Any) -> Ready | Negotiating | Reject:
    demand = {**DEMAND, **{_NAMES[name]: value for name, value in changes.items()}}
    demand = {name: value for name, value in demand.items() if value is not None}
    return negotiate(default_chain(), demand, OFFER, Situation(NOW, "0xrequestor", free))


_NAMES = {
    "platform": CHOSEN_PLATFORM,
    "expiration": EXPIRATION,
    "accept": ACCEPT_TIMEOUT,
    "interval": NOTE_INTERVAL,
    "payment": PAYMENT_TIMEOUT,
    "bid": COEFFICIENTS,
}


def test_the_same_values_are_ready() -> None:
    assert answer() == Ready(OFFER)


@pytest.mark.parametrize(
    ("changes", "final"),
    [
        ({"platform": None}, False),
        ({"platform": "erc20-mainnet-glm"}, True),
        ({"free": 0}, False),
        ({"expiration": None}, True),
        ({"expiration": "soon"}, True),
        ({"expiration": (1_000 + 60) * 1000}, True),
        ({"expiration": (1_000 + 3_600) * 1000, "accept": None}, False),
        ({"accept": 241}, True),
        ({"accept": 4}, True),
        ({"interval": 0}, False),
        ({"interval": 100_000}, False),
        ({"payment": None, "expiration": (1_000 + 11 * 3600) * 1000}, True),
        ({"bid": [0.1, 0.1, 0.0]}, True),
        ({"bid": [0.1]}, False),
    ],
)
def test_rejections(changes: dict[str, Any], final: bool) -> None:
    verdict = answer(**changes)
    assert isinstance(verdict, Reject)
    assert verdict.final is final
    assert verdict.message


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"accept": 30}, ACCEPT_TIMEOUT, 30),
        ({"interval": 60}, NOTE_INTERVAL, 60),
        ({"payment": 3600}, PAYMENT_TIMEOUT, 3600),
        ({"bid": [0.1, 0.3, 0.1]}, COEFFICIENTS, [0.1, 0.3, 0.1]),
        ({"accept": None}, ACCEPT_TIMEOUT, None),
        ({"interval": None}, NOTE_INTERVAL, None),
        ({"payment": None}, PAYMENT_TIMEOUT, None),
    ],
)
def test_adopts_what_is_in_range(changes: dict[str, Any], name: str, value: Any) -> None:
    verdict = answer(**changes)
    assert isinstance(verdict, Negotiating)
    assert verdict.offer.get(name) == value
    assert OFFER[name] is not None


def test_a_long_agreement_needs_a_promise_to_accept() -> None:
    assert isinstance(answer(expiration=(1_000 + 9 * 3600) * 1000), Ready)
