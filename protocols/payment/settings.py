"""Payment's settings: one struct with its defaults, and how the operator's environment changes it.

Variables are those of the Golem daemon where it has them: `PAYMENT_CYCLE_DEFAULT_INTERVAL` and
`PAYMENT_CYCLE_DEFAULT_EXTRA_PAY_TIME` (seconds, or 30s, 5m, 24h), `MIN_PAYMENT_AMOUNT_GLM`,
`YAGNA_DEV_SKIP_ALLOCATION_VALIDATION`. Those of networks and drivers are read by `networks.configured`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from protocols.ground.money import MoneyError, parse_amount
from protocols.payment.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocols.payment.networks import Network

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DEVNET_INTERVAL_S: Final = 5.0
_TEST_INTERVAL_S: Final = 300.0
_PRODUCTION_INTERVAL_S: Final = 86_400.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may change."""

    cycle_s: float | None = None
    """Length of a payment cycle; None takes the network's: devnet 5 s, test networks 300 s, others a day."""
    extra_s: float | None = None
    """How long paying may take after a cycle's end; None: devnet 60 s, test networks 240 s, others an hour."""
    least_payment_wei: int = 0
    """Payees with less are paid later, when more has come together."""
    enough_wei: int | None = None
    """Sum of debts at which paying need not wait for the cycle."""
    unpromised_s: float = 86_400.0
    """After this time an accepted debit note without a due date, and without an invoice, is paid anyhow."""
    check_funds: bool = True
    """Whether allocations must be covered by the wallet's balance."""
    poll_s: float | None = None
    """Pause between two looks for a receipt; None takes the network's: devnet 0.25 s, others 5 s."""
    accounts: tuple[str, ...] = ()
    """Platforms on which the node's own identity can send and receive from the start.

    Some clients list accounts before they do anything else, and give up if there is none.
    """
    sync_at_start: bool = True
    """Whether a provider asks its requestors at start what they have accepted and paid meanwhile."""
    environment: dict[str, str] = {}
    """The operator's environment, handed to the drivers."""

    def interval_of(self, network: Network | None) -> float:
        """Return the default cycle of a network; an unknown one is taken for a production network."""
        if self.cycle_s is not None:
            return self.cycle_s
        return _by_network(network, _DEVNET_INTERVAL_S, _TEST_INTERVAL_S, _PRODUCTION_INTERVAL_S)

    def extra_of(self, network: Network | None) -> float:
        """Return how long paying may take on a network."""
        return self.extra_s if self.extra_s is not None else _by_network(network, 60.0, 240.0, 3600.0)

    def margin_of(self, network: Network | None) -> float:
        """Return how long before a due date a payment goes out: time to be mined twice over, and to sink in."""
        if network is None:
            return 600.0
        return 2 * network.transaction_timeout_s + 15.0 * (network.confirmations - 1)

    def poll_of(self, network: Network) -> float:
        """Return the pause between two looks for a receipt."""
        return self.poll_s if self.poll_s is not None else _by_network(network, 0.25, 5.0, 5.0)


def from_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return the settings with what the environment says. Raises ValueError that names the variable."""
    changes: dict[str, object] = {"environment": dict(environment)}
    if text := environment.get("PAYMENT_CYCLE_DEFAULT_INTERVAL"):
        changes["cycle_s"] = _seconds("PAYMENT_CYCLE_DEFAULT_INTERVAL", text)
    if text := environment.get("PAYMENT_CYCLE_DEFAULT_EXTRA_PAY_TIME"):
        changes["extra_s"] = _seconds("PAYMENT_CYCLE_DEFAULT_EXTRA_PAY_TIME", text)
    if text := environment.get("MIN_PAYMENT_AMOUNT_GLM"):
        try:
            changes["least_payment_wei"] = parse_amount(text)
        except MoneyError as error:
            raise ValueError(f"MIN_PAYMENT_AMOUNT_GLM: {error}") from error
    if environment.get("YAGNA_DEV_SKIP_ALLOCATION_VALIDATION", "") in ("1", "true"):
        changes["check_funds"] = False
    return msgspec.structs.replace(settings, **changes)


def from_mapping(settings: Mapping[str, object]) -> Settings:
    """Read the protocol's section of the configuration. Raises BadRequest that says which field is wrong."""
    try:
        return msgspec.convert(dict(settings), Settings)
    except msgspec.ValidationError as error:
        raise BadRequest(f"settings of payment: {error}") from error


def _by_network(network: Network | None, devnet: float, test: float, production: float) -> float:
    if network is None or network.production:
        return production
    return devnet if network.name == "devnet" else test


def _seconds(variable: str, text: str) -> float:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)(?:ec|in)?", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{variable} is {text!r}; it must be a time such as 300, 30s, 5m or 24h")
    return float(match[1]) * _UNITS[match[2]]
