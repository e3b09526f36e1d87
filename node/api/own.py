"""REST, our own family: `/golem-p2p/v1`, for the node's owner. The command line stands on it.

Every route but `status` and `id` wants the owner's token, which the node writes to `rest.json` in its data
folder at each start: an application key lets a program work, not change the node.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec

from node.api.web import ApiError, ApiRequest, Routes, answer, error, text
from node.app_keys import AppKey, AppKeyError
from node.netcheck import probe
from node.netcheck.judge import summary
from p2p.identity.peer_id import peer_id_of
from protocols.ground.money import MoneyError, format_amount, linear_price
from protocols.ground.times import format_time
from protocols.market.errors import MarketError
from protocols.market.messages import AgreementState, Role
from protocols.payment.drivers.errors import DriverError
from protocols.payment.errors import PaymentError
from protocols.payment.networks import UnknownPlatform, network_of, resolve_platform

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.responses import Response

    from node.api.web import Handler
    from node.app import Node
    from protocols.market.subscriptions import SubscriptionView
    from protocols.payment.networks import Platform
    from protocols.payment.records import Wallet

PREFIX = "/golem-p2p/v1"
OWNER = "owner"
"""Role of the session that the owner's token opens; application keys never have it."""
MAX_OFFERS = 1000
"""Most offers that are listed at a time."""


class _NewKey(msgspec.Struct):
    name: str
    origins: list[str] = []


class _Account(msgspec.Struct):
    network: str | None = None
    send: bool = True
    receive: bool = True


def routes(node: Node) -> Routes:
    """Return the family's table."""
    table = Routes("identity", PREFIX)
    own = _Own(node)
    table.add("GET", "/status", own.status)
    table.add("GET", "/id", own.identity)
    for method, template, handler in (
        ("POST", "/shutdown", own.shutdown),
        ("GET", "/app-keys", own.list_keys),
        ("POST", "/app-keys", own.create_key),
        ("DELETE", "/app-keys/{name}", own.drop_key),
        ("GET", "/payment/status", own.payment_status),
        ("POST", "/payment/fund", own.payment_fund),
        ("POST", "/payment/init", own.payment_init),
        ("GET", "/offers", own.offers),
        ("GET", "/agreements", own.agreements),
        ("GET", "/peers", own.peers),
    ):
        table.add(method, template, owner_only(handler))
    return table


def owner_only(handler: Handler) -> Handler:
    """Return a handler that refuses whoever shows anything but the owner's token."""

    async def checked(request: ApiRequest) -> Response:
        if request.session.role != OWNER:
            raise error(403, "only the node's owner may do this; use the golem-p2p command on its machine")
        return await handler(request)

    return checked


class _Own:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def status(self, request: ApiRequest) -> Response:
        node = self._node
        level, line = summary(probe.glance(node.overlay, **probe.known_of(node)))
        return answer(
            {
                "schema": "golem-p2p/status/1",
                "nodeId": node.key.node_id,
                "name": node.name,
                "version": version("golem-p2p"),
                "pid": os.getpid(),
                "since": format_time(node.started_ns // 10**9 * 10**9),
                "dataDir": str(node.config.data_dir),
                "api": node.api_url,
                "roles": ["requestor", *(["provider"] if node.config["provider.enabled"] else [])],
                "overlay": {
                    "network": node.overlay.network,
                    "joined": node.overlay.joined,
                    "listen": list(node.overlay.listen_addresses()),
                    "peers": len(node.overlay.peers()),
                    "netcheck": {"level": level, "summary": line},
                },
                "market": await self._market(),
                "activities": await node.activity.count_alive(),
                "payment": await self._money(),
                "plugins": node.plugins,
                "problems": node.problems,
            }
        )

    async def identity(self, request: ApiRequest) -> Response:
        node = self._node
        return answer(
            {
                "schema": "golem-p2p/id/1",
                "nodeId": node.key.node_id,
                "peerId": peer_id_of(node.key.public_key),
                "publicKey": node.key.public_key.hex(),
                "addresses": list(node.overlay.listen_addresses()),
            }
        )

    async def shutdown(self, request: ApiRequest) -> Response:
        self._node.stop_requested.set()
        return answer({"Ok": None})

    async def peers(self, request: ApiRequest) -> Response:
        return answer([msgspec.to_builtins(peer) for peer in self._node.overlay.peers()])

    # --- application keys -------------------------------------------------------------------------------

    async def list_keys(self, request: ApiRequest) -> Response:
        return answer([_key(key) for key in self._node.app_keys.list()])

    async def create_key(self, request: ApiRequest) -> Response:
        body = await request.body_as(_NewKey)
        try:
            made = await self._node.app_keys.create(body.name, request.identity, origins=body.origins)
        except AppKeyError as problem:
            raise error(400, str(problem)) from problem
        return answer(_key(made), 201)

    async def drop_key(self, request: ApiRequest) -> Response:
        try:
            await self._node.app_keys.drop(request.path["name"])
        except AppKeyError as problem:
            raise error(404, str(problem)) from problem
        return answer(None)

    # --- money ------------------------------------------------------------------------------------------

    async def payment_status(self, request: ApiRequest) -> Response:
        platform = self._platform(request.query_text("network"))
        try:
            wallet = await self._node.payment.service.wallet(request.identity, platform)
        except (PaymentError, DriverError) as problem:
            raise error(504, f"the chain does not answer: {problem}") from problem
        return answer(_wallet(wallet, platform))

    async def payment_fund(self, request: ApiRequest) -> Response:
        body = await request.body_as(_Account)
        platform = self._platform(body.network)
        try:
            funding = await self._node.payment.service.fund(request.identity, platform)
        except (PaymentError, DriverError) as problem:
            raise error(504, str(problem)) from problem
        network = network_of(platform)
        return answer(
            {
                "address": request.identity,
                "network": network.name,
                "amount": format_amount(funding.balance.token_wei),
                "token": _token(platform),
                "gas": format_amount(funding.balance.gas_wei),
            }
        )

    async def payment_init(self, request: ApiRequest) -> Response:
        body = await request.body_as(_Account)
        platform = self._platform(body.network)
        try:
            account = await self._node.payment.service.init_account(
                request.identity, platform, send=body.send, receive=body.receive
            )
        except (PaymentError, DriverError) as problem:
            raise error(400, str(problem)) from problem
        return answer({"address": account.address, "platform": account.platform})

    def _platform(self, network: str | None) -> Platform:
        try:
            return resolve_platform(network=network or self._node.config.text("payment.network"))
        except UnknownPlatform as problem:
            raise ApiError(text(400, str(problem))) from problem

    async def _money(self) -> dict[str, Any]:
        platform = resolve_platform(network=self._node.config.text("payment.network"))
        try:
            wallet = await self._node.payment.service.wallet(self._node.key.node_id, platform)
        except (PaymentError, DriverError) as problem:
            return {"network": platform.network, "error": str(problem)}
        return _wallet(wallet, platform)

    # --- market -----------------------------------------------------------------------------------------

    async def _market(self) -> dict[str, int]:
        market, owner = self._node.market.service, self._node.key.node_id
        active = await market.agreements(owner, states=(AgreementState.APPROVED,))
        return {
            "ownOffers": len(market.offers(owner)),
            "offers": len(market.offers_of_all.catalogue),
            "demands": len(market.demands(owner)),
            "agreements": len(active),
        }

    async def offers(self, request: ApiRequest) -> Response:
        market, owner = self._node.market.service, self._node.key.node_id
        constraints = request.query_text("filter")
        try:
            scan = market.begin_scan(owner, "offer", constraints)
        except MarketError as problem:
            raise error(400, str(problem)) from problem
        try:
            page = await market.scan(owner, scan, timeout=0.0, limit=MAX_OFFERS)
        finally:
            market.end_scan(owner, scan)
        own = () if constraints else market.offers(owner)
        return answer([_offer(offer) for offer in (*own, *page.offers)])

    async def agreements(self, request: ApiRequest) -> Response:
        state = request.query_text("state")
        try:
            states = (AgreementState(state),) if state else ()
        except ValueError as problem:
            known = ", ".join(s.value for s in AgreementState)
            raise error(400, f"there is no state {state!r}; states are {known}") from problem
        found = await self._node.market.service.agreements(request.identity, states=states)
        listed = []
        for view in found:
            rows = await self._node.payment.service.agreement_ledger(view.owner_id, view.agreement_id)
            paid = sum(row.totals.paid for row in rows)
            listed.append(
                {
                    "id": view.agreement_id,
                    "role": view.role.value,
                    "state": view.state.value,
                    "peer": view.provider_id if view.role is Role.REQUESTOR else view.requestor_id,
                    "created": format_time(view.created_ns),
                    "approved": format_time(view.approved_ns) if view.approved_ns else None,
                    "paid": format_amount(paid),
                }
            )
        return answer(listed)


def _key(key: AppKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "key": key.key,
        "identity": key.identity,
        "role": key.role,
        "created": format_time(key.created_ns),
        "allowOrigins": list(key.origins),
    }


def _token(platform: Platform) -> str:
    return "GLM" if platform.token == "glm" else "tGLM"  # noqa: S105 - a currency


def _wallet(wallet: Wallet, platform: Platform) -> dict[str, Any]:
    """Return the figures of `payment status`, in the shape that scripts of the Golem daemon read."""
    network = network_of(platform)

    def figures(requested: int, accepted: int, confirmed: int) -> dict[str, Any]:
        amounts = {"requested": requested, "accepted": accepted, "confirmed": confirmed}
        return {
            name: {"agreementsCount": 0, "totalAmount": format_amount(wei)} for name, wei in amounts.items()
        }

    return {
        "address": wallet.address,
        "platform": wallet.platform,
        "amount": format_amount(wallet.token_wei),
        "reserved": format_amount(wallet.reserved_wei),
        "token": _token(platform),
        "driver": platform.driver,
        "network": network.name,
        "block_datetime": format_time(wallet.block_timestamp * 10**9),
        "block_number": wallet.block_number,
        "gas": {
            "balance": format_amount(wallet.gas_wei),
            "currency_long_name": network.coin_name,
            "currency_short_name": network.coin,
        },
        "incoming": figures(wallet.incoming_due_wei, wallet.incoming_accepted_wei, wallet.incoming_paid_wei),
        "outgoing": figures(wallet.outgoing_due_wei, wallet.outgoing_accepted_wei, wallet.outgoing_paid_wei),
    }


def _offer(offer: SubscriptionView) -> dict[str, Any]:
    properties: Mapping[str, Any] = msgspec.json.decode(offer.properties)
    return {
        "offerId": offer.id,
        "provider": offer.owner_id,
        "name": properties.get("golem.node.id.name", ""),
        "runtime": properties.get("golem.runtime.name", ""),
        "threads": properties.get("golem.inf.cpu.threads"),
        "memGib": properties.get("golem.inf.mem.gib"),
        "storageGib": properties.get("golem.inf.storage.gib"),
        "price": price_in_words(properties),
        "expires": format_time(offer.expires_ns) if offer.expires_ns else None,
    }


_LONGEST_PRICE = 120
_UNITS = {"golem.usage.duration_sec": "h", "golem.usage.cpu_sec": "CPU-h"}


def price_in_words(properties: Mapping[str, Any]) -> str:
    """Return an offer's price for people: `0.03/h + 0.12/CPU-h`, in GLM."""
    try:
        words = _price_in_words(
            msgspec.convert(properties.get("golem.com.usage.vector", []), list[str]),
            msgspec.convert(properties.get("golem.com.pricing.model.linear.coeffs", []), list[float]),
        )
    except (msgspec.ValidationError, MoneyError):
        return "?"  # anybody may offer anything
    return words if len(words) <= _LONGEST_PRICE else "?"


def _rounded(wei: int) -> int:
    """Return an amount to nine digits: a price for a second, times 3600, has none beyond."""
    grain = int(10 ** max(0, len(str(wei)) - 9))
    return (wei + grain // 2) // grain * grain


def _price_in_words(vector: Sequence[str], coefficients: Sequence[float]) -> str:
    if len(coefficients) != len(vector) + 1:
        return "?"
    parts = []
    for counter, coefficient in zip(vector, coefficients, strict=False):
        unit = _UNITS.get(counter)
        scale = 3600.0 if unit else 1.0
        amount = format_amount(_rounded(linear_price([coefficient, 0.0], [scale])))
        if coefficient:
            parts.append(f"{amount}/{unit or counter.rsplit('.', 1)[-1]}")
    if coefficients[-1]:
        parts.append(f"{format_amount(linear_price([coefficients[-1]], []))} to start")
    return " + ".join(parts) or "free"
