"""What agreements say about paying, read from their properties."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from p2p.bus import BusError, RemoteError
from p2p.codec import decode, encode
from protocols.activity.messages import ActivityAgreement, GetActivityAgreement
from protocols.market.messages import AgreementState, AgreementView, GetAgreement, Role
from protocols.payment.errors import BadRequest, Unavailable
from protocols.payment.facts import BusFacts, terms_of

if TYPE_CHECKING:
    from collections.abc import Callable

REQUESTOR, PROVIDER, WALLET = "0x" + "aa" * 20, "0x" + "bb" * 20, "0x" + "CC" * 20
PLATFORM = "erc20-devnet-tglm"
ADDRESS = f"golem.com.payment.platform.{PLATFORM}.address"


def view(
    demand: dict[str, Any] | str = "", offer: dict[str, Any] | None = None, **changes: Any
) -> AgreementView:
    demand_text = demand if isinstance(demand, str) and demand else json.dumps(demand or {})
    fields: dict[str, Any] = {
        "agreement_id": "a1",
        "role": Role.REQUESTOR,
        "requestor_id": REQUESTOR,
        "provider_id": PROVIDER,
        "demand_id": "d",
        "offer_id": "o",
        "demand_properties": demand_text,
        "demand_constraints": "",
        "offer_properties": json.dumps(offer or {}),
        "offer_constraints": "",
        "state": AgreementState.APPROVED,
        "created_ns": 1,
        "valid_to_ns": 2,
        "approved_ns": 1,
        "app_session_id": "s",
    }
    return AgreementView(**fields | changes)


CHOSEN = {"golem.com.payment.chosen-platform": PLATFORM}


def test_addresses_are_the_wallets_that_were_named() -> None:
    facts = terms_of(view(CHOSEN | {ADDRESS: "0x" + "dd" * 20}, {ADDRESS: WALLET}))
    assert (facts.platform, facts.payer_addr, facts.payee_addr) == (
        PLATFORM,
        "0x" + "dd" * 20,
        WALLET.lower(),
    )
    assert facts.session_id == "s"


def test_and_otherwise_the_parties_themselves() -> None:
    facts = terms_of(view(CHOSEN | {"golem.com.scheme.payu.payment-timeout-sec?": 3600}))
    assert (facts.payer_addr, facts.payee_addr) == (REQUESTOR, PROVIDER)
    assert facts.payment_timeout_s == 3600.0


@pytest.mark.parametrize(
    ("demand", "offer"),
    [
        ({}, {}),
        ({"golem.com.payment.chosen-platform": 7}, {}),
        ({"golem.com.payment.chosen-platform": "x" * 101}, {}),
        (CHOSEN, {ADDRESS: "elsewhere"}),
        (CHOSEN | {ADDRESS: 7}, {}),
    ],
)
def test_what_cannot_be_paid(demand: dict[str, Any], offer: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        terms_of(view(demand, offer))


class OneService:
    """A bus that answers every call by one function."""

    def __init__(self, answer: Callable[[str, bytes], Any]) -> None:
        self._answer = answer

    async def call(self, address: str, body: bytes, *, timeout: float = 0.0, acting: str = "") -> bytes:
        return encode(self._answer(address, body))


def market(address: str, body: bytes) -> AgreementView:
    assert address == "/local/market/GetAgreement"
    asked = decode(body, GetAgreement)
    if asked.agreement_id != "a1":
        raise RemoteError("notFound", "no such agreement")
    return view(CHOSEN, role=asked.role)


async def test_the_market_is_asked_for_one_side() -> None:
    facts = BusFacts(OneService(market))  # type: ignore[arg-type]
    found = await facts.agreement(REQUESTOR, "R", "a1")
    assert found is not None
    assert found.provider_id == PROVIDER
    assert await facts.agreement(PROVIDER, "P", "a1") is not None
    assert await facts.agreement(PROVIDER, "R", "a1") is None
    assert await facts.agreement(REQUESTOR, "R", "a2") is None


async def test_what_is_not_approved_is_not_billed() -> None:
    pending = OneService(
        lambda address, body: msgspec.structs.replace(market(address, body), approved_ns=None)
    )
    assert await BusFacts(pending).agreement(REQUESTOR, "R", "a1") is None  # type: ignore[arg-type]


async def test_activities_are_asked_for() -> None:
    def activity(address: str, body: bytes) -> ActivityAgreement:
        assert address == "/local/activity/GetActivityAgreement"
        if decode(body, GetActivityAgreement).activity_id != "x1":
            raise RemoteError("notFound", "no such activity")
        return ActivityAgreement("a1")

    facts = BusFacts(OneService(activity))  # type: ignore[arg-type]
    assert await facts.agreement_of_activity("x1") == "a1"
    assert await facts.agreement_of_activity("x2") is None


@pytest.mark.parametrize("error", [BusError("gone"), RemoteError("internal", "broken")])
async def test_silence_is_not_an_answer(error: BusError) -> None:
    def broken(address: str, body: bytes) -> Any:
        raise error

    facts = BusFacts(OneService(broken))  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        await facts.agreement(REQUESTOR, "R", "a1")
    with pytest.raises(Unavailable):
        await facts.agreement_of_activity("x1")
