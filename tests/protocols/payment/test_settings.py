"""Settings, and what the operator's environment makes of them."""

from __future__ import annotations

import pytest

from protocols.payment.errors import BadRequest
from protocols.payment.networks import NETWORKS
from protocols.payment.settings import Settings, from_environment, from_mapping


def test_cycles_follow_the_network() -> None:
    settings = Settings()
    assert [settings.interval_of(NETWORKS[n]) for n in ("devnet", "hoodi", "polygon")] == [5, 300, 86_400]
    assert [settings.extra_of(NETWORKS[n]) for n in ("devnet", "hoodi", "polygon")] == [60, 240, 3600]
    assert settings.interval_of(None) == 86_400
    assert settings.margin_of(NETWORKS["devnet"]) < settings.margin_of(NETWORKS["polygon"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300", 300), ("30s", 30), ("5m", 300), ("24h", 86_400), ("10min", 600), ("15sec", 15)],
)
def test_times_of_the_environment(text: str, seconds: float) -> None:
    settings = from_environment(Settings(), {"PAYMENT_CYCLE_DEFAULT_INTERVAL": text})
    assert settings.interval_of(NETWORKS["polygon"]) == seconds


def test_the_other_variables() -> None:
    environment = {
        "PAYMENT_CYCLE_DEFAULT_EXTRA_PAY_TIME": "1m",
        "MIN_PAYMENT_AMOUNT_GLM": "0.5",
        "YAGNA_DEV_SKIP_ALLOCATION_VALIDATION": "1",
        "DEVNET_GETH_ADDR": "http://127.0.0.1:1",
    }
    settings = from_environment(Settings(), environment)
    assert (settings.extra_s, settings.least_payment_wei, settings.check_funds) == (60, 5 * 10**17, False)
    assert settings.environment["DEVNET_GETH_ADDR"] == "http://127.0.0.1:1"
    assert from_environment(Settings(), {"YAGNA_DEV_SKIP_ALLOCATION_VALIDATION": "0"}).check_funds


@pytest.mark.parametrize(
    "environment",
    [
        {"PAYMENT_CYCLE_DEFAULT_INTERVAL": "soon"},
        {"PAYMENT_CYCLE_DEFAULT_INTERVAL": "0"},
        {"MIN_PAYMENT_AMOUNT_GLM": "much"},
    ],
)
def test_nonsense_names_the_variable(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(environment))):
        from_environment(Settings(), environment)


def test_a_section_of_the_configuration() -> None:
    assert from_mapping({"cycle_s": 30}).cycle_s == 30
    with pytest.raises(BadRequest, match="cycle_s"):
        from_mapping({"cycle_s": "soon"})
