"""REST, payment family: accounts and allocations. Refusals of allocations are RFC 7807 documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.api import payment_json as shape
from node.api.payment_edge import (
    PROBLEMS,
    echo_of,
    optional_text,
    optional_time,
    platform_echo,
    problem_of,
    read_count,
    read_object,
    required_budget,
    worded,
)
from node.api.web import ApiError, ApiRequest, answer, error, problem, text
from protocols.ground.money import format_amount
from protocols.payment.errors import AllocationProblem, BadRequest
from protocols.payment.networks import (
    DEFAULT_DRIVER,
    UnknownPlatform,
    network_of,
    parse_platform,
    resolve_platform,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.responses import Response

    from protocols.payment.api import PaymentService
    from protocols.payment.handler import PaymentProtocol
    from protocols.payment.networks import Platform

_MAX_IDS: Final = 100


class AllocationHandlers:
    """Accounts and allocations."""

    def __init__(self, payment: PaymentProtocol) -> None:
        self._payment = payment

    @property
    def _service(self) -> PaymentService:
        return self._payment.service

    async def requestor_accounts(self, request: ApiRequest) -> Response:
        found = await self._service.accounts(request.identity, send=True)
        return answer([shape.account(row) for row in found])

    async def provider_accounts(self, request: ApiRequest) -> Response:
        return answer([shape.account(row) for row in await self._service.accounts(receive=True)])

    async def create(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        total = required_budget(request, body)
        timeout = optional_time(request, body, "timeout")
        address = optional_text(request, body, "address")
        echo = echo_of(body, format_amount(total))
        platform = self._platform(body, echo)
        if body.get("deposit") is not None:
            raise self._no_deposits(request, body, echo, str(platform))
        with worded(echo):
            made = await self._service.create_allocation(
                request.identity, platform=platform, total_wei=total, timeout_ns=timeout, address=address
            )
        return answer(shape.allocation(made), 201)

    async def list(self, request: ApiRequest) -> Response:
        found = await self._service.allocations(
            request.identity,
            after_ns=request.query_time("afterTimestamp"),
            limit=read_count(request, "maxItems"),
        )
        return answer([shape.allocation(row) for row in found])

    async def get(self, request: ApiRequest) -> Response:
        with worded():
            return answer(
                shape.allocation(await self._service.allocation(request.identity, request.path["id"]))
            )

    async def amend(self, request: ApiRequest) -> Response:
        body = await read_object(request)
        total = required_budget(request, body) if body.get("totalAmount") is not None else None
        timeout = optional_time(request, body, "timeout")
        echo = echo_of(body, None if total is None else format_amount(total))
        with worded(echo):
            if body.get("deposit") is not None:
                await self._service.allocation(request.identity, request.path["id"])
                raise BadRequest("Cannot update deposit of an allocation created without one")
            amended = await self._service.amend_allocation(
                request.identity, request.path["id"], total_wei=total, timeout_ns=timeout
            )
        return answer(shape.allocation(amended))

    async def release(self, request: ApiRequest) -> Response:
        with worded():
            await self._service.release_allocation(request.identity, request.path["id"])
        return answer(None)

    async def expenditures(self, request: ApiRequest) -> Response:
        with worded():
            found = await self._service.expenditures(request.identity, request.path["id"])
        return answer([shape.expenditure(row) for row in found])

    async def orders(self, request: ApiRequest) -> Response:
        found = await self._service.order_entries(request.identity, allocation_id=request.path["id"])
        return answer([shape.order_entry(row) for row in found])

    async def decorations(self, request: ApiRequest) -> Response:
        raw = request.query_text("allocationIds")
        if raw is None:
            raise ApiError(text(400, "Query deserialize error: missing field `allocationIds`"))
        ids = raw.split(",")
        if len(ids) > _MAX_IDS:
            raise error(400, f"at most {_MAX_IDS} allocations")
        with worded():
            return answer(shape.decorations(await self._service.decorations(request.identity, ids)))

    def _platform(self, body: Mapping[str, Any], echo: dict[str, Any]) -> Platform:
        asked = body.get("paymentPlatform")
        try:
            platform = _read_platform(asked)
            drivers = {DEFAULT_DRIVER} | {p.driver for p in self._service.platforms()}
            if platform.driver not in drivers:
                raise UnknownPlatform(f"Invalid driver name {platform.driver}")
            network = network_of(platform)
            if network.dead:
                raise UnknownPlatform(f"{network.name} is no longer supported")
        except UnknownPlatform as unknown:
            raise problem(
                400,
                {
                    "type": PROBLEMS + "bad-payment-platform",
                    "detail": "Payment platform doesn't parse",
                    "message": str(unknown),
                    "parseError": str(unknown),
                    "requestBody": echo,
                    "requestedPaymentPlatform": platform_echo(body),
                },
            ) from unknown
        return platform

    def _no_deposits(
        self, request: ApiRequest, body: Mapping[str, Any], echo: dict[str, Any], platform: str
    ) -> ApiError:
        deposit = body["deposit"]
        if not isinstance(deposit, dict):
            return request.bad_body("Json deserialize error: deposit: expected an object")
        instance, detail = _judge_deposit(deposit)
        return problem_of(
            AllocationProblem(
                400,
                "validation-error",
                detail,
                instance=instance,
                address=body.get("address") or request.identity,
                paymentPlatform=platform,
            ),
            echo,
        )


def _read_platform(asked: Any) -> Platform:
    """Read a platform as allocation requests name it. Raises UnknownPlatform."""
    if asked is None:
        return resolve_platform()
    if isinstance(asked, str):
        if asked.count("-") != 2:
            raise UnknownPlatform(
                f"paymentPlatform must be of the form driver-network-token instead of {asked[:100]}"
            )
        return parse_platform(asked)
    if not isinstance(asked, dict):
        raise UnknownPlatform("paymentPlatform must be text, or an object of driver, network and token")
    parts: list[str | None] = []
    for name in ("driver", "network", "token"):
        part = asked.get(name)
        if part is not None and not isinstance(part, str):
            raise UnknownPlatform(f"paymentPlatform: {name} must be text")
        parts.append(part)
    driver, network, token = parts
    if token is not None and token != token.lower():
        raise UnknownPlatform(
            f"Uppercase token names are not supported. Use lowercase glm or tglm instead of {token[:20]}"
        )
    return resolve_platform(driver, network, token)


def _judge_deposit(deposit: Mapping[str, Any]) -> tuple[str, str]:
    """Return why a deposit cannot be used: (instance, detail)."""
    contract, deposit_id = str(deposit.get("contract", "")), str(deposit.get("id", ""))
    digits = "0123456789abcdefABCDEF"
    if len(contract) != 42 or not contract.startswith("0x") or any(c not in digits for c in contract[2:]):
        return "malformed-deposit-contract", "Invalid deposit contract address"
    number = deposit_id.removeprefix("0x")
    if not 0 < len(number) <= 64 or any(c not in digits for c in number):
        return "malformed-deposit-id", "Invalid deposit id"
    return "deposit-validation-error", "This node does not pay from deposits; allocate without one"
