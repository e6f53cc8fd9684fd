"""Voucherify rewards: a redeemed reward becomes an order; fulfilled is told as configured, refused by a rollback."""

import re
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from reward_relay.contracts import (
    ByHand,
    Closed,
    ClosingResult,
    Ending,
    InboundRequest,
    Informational,
    Item,
    NothingToDo,
    OutboundRequest,
    Parsed,
    Recipient,
    RewardOrder,
    SourceSettings,
    Withdrawn,
)
from reward_relay.errors import PartyRefusesUs, Rejected, Unauthenticated, Unreadable
from reward_relay.fields import HeaderSecret, HeaderText, RootUrl, TextList
from reward_relay.inbound import check_signature
from reward_relay.outbound import Answer, Outbound, failure_of
from reward_relay.platforms.voucherify import wire
from reward_relay.states import Outcome

MAX_REASON_CHARS = 250
DEFAULT_REASON = "The reward could not be delivered"


class Settings(SourceSettings):
    """`[sources.NAME]` with `platform = "voucherify"`."""

    platform: Literal["voucherify"] = Field(description="The loyalty platform: Voucherify.")
    api_url: RootUrl = Field(
        default="https://api.voucherify.io",
        description="Address of your Voucherify cluster, without /v1: api, us1.api or as1.api.voucherify.io.",
    )
    app_id: HeaderText | None = Field(
        default=None, description="Application ID of a server-side API key (Project settings)."
    )
    app_token: HeaderSecret | None = Field(
        default=None, description="Secret key that belongs to app_id; it can give points back, keep it secret."
    )
    reward_types: TextList = Field(
        default=["MATERIAL"], description="Voucherify reward types that are ordered; all others are only recorded."
    )
    close: Literal["order_status", "event", "customer_metadata", "by_hand"] = Field(
        default="order_status",
        description="How Voucherify hears of a fulfilled reward; by_hand makes no call at all, not even a rollback.",
    )
    event_name: str = Field(
        default="reward_fulfilled", min_length=1, description='Name of the custom event sent for close = "event".'
    )
    metadata_key: str = Field(
        default="reward_relay", min_length=1, description='Metadata key written for close = "customer_metadata".'
    )


class Adapter:
    """One Voucherify project; `name` is its name in the configuration."""

    enriches: Literal["never", "when_unreachable", "always"] = "when_unreachable"

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        self._name = name
        self._where = f"sources.{name}"
        self._settings = settings
        self._caller = outbound.caller(f"source {name}", settings.api_url)
        self._types = {kind.upper() for kind in settings.reward_types}

    def verify(self, request: InboundRequest) -> bytes:
        """Check the signature over the raw body, then over the body without insignificant white space.

        Returns:
            The body verbatim.

        Raises:
            Unauthenticated: no signature, or one that none of the source's secrets explains.
        """
        given = request.headers.get(wire.SIGNATURE_HEADER)
        if not given:
            raise Unauthenticated(
                f"no header {wire.SIGNATURE_HEADER}: take the secret key in Voucherify (Project settings, Webhooks) "
                f"and put it into {self._where}.secrets; is it Voucherify that posts here?"
            )
        if not (self._signs(given, request.body) or self._signs(given, wire.compact(request.body))):
            raise Unauthenticated(
                f"{wire.SIGNATURE_HEADER} fits none of {self._where}.secrets; compare them with the secret key in "
                "Voucherify (Project settings, Webhooks), and check that nothing on the way rewrites the body"
            )
        return request.body

    def _signs(self, given: str, body: bytes) -> bool:
        return check_signature(given.lower(), [body], self._settings.secrets, "hex")

    # --- what an event asks for --------------------------------------------------------------------------

    def parse(self, body: bytes, content_type: str) -> Parsed:
        """Understand an event with its envelope, or its data alone (a distribution in raw mode).

        Raises:
            Unreadable: no redemption id, or no reward.
        """
        event = wire.read_event(body)
        if event.kind is wire.Kind.OTHER:
            name = (event.name or "redemption rollback that failed")[:80]
            return Informational(f"event {name!r} asks for no reward; customer.rewarded does")
        kind = event.reward_type
        if kind is not None and kind not in self._types:
            reason = f"reward type {kind[:80]} is not in {self._where}.reward_types: Voucherify gives it itself"
            return Informational(reason, event.redemption_id)
        redemption_id = _redemption_id(event)
        if event.kind is wire.Kind.ROLLED_BACK or event.status == wire.ROLLED_BACK:
            order = self._order_or_none(event, redemption_id)
            return Withdrawn(redemption_id, f"Voucherify rolled redemption {redemption_id} back", order)
        if event.status is not None and event.status not in wire.SUCCEEDED:
            return Informational(f"redemption {redemption_id} is {event.status[:80]}, not SUCCEEDED", redemption_id)
        return self._order(event, redemption_id)

    def _order_or_none(self, event: wire.Event, redemption_id: str) -> RewardOrder | None:
        try:
            return self._order(event, redemption_id)
        except Unreadable:
            return None

    def _order(self, event: wire.Event, redemption_id: str) -> RewardOrder:
        """The order; without money, because the event's amounts are points and the product's price."""
        if event.reward_type is None:
            raise Unreadable(
                f"redemption {redemption_id} does not say what was redeemed: redemption.reward.type is missing"
            )
        try:
            return RewardOrder(
                source=self._name,
                external_id=redemption_id,
                occurred_at=event.occurred_at,
                recipient=wire.recipient_of(event.customer),
                items=(Item(sku=event.sku, name=event.product_name),),
                reference=event.reference(),
                attributes=event.data,
            )
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise Unreadable(f"redemption {redemption_id}: {field} does not fit: {first['msg']}") from None

    # --- the platform's side -----------------------------------------------------------------------------

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        """The order with what the customer's record adds (`GET /v1/customers/{id}`); nothing known is replaced.

        Raises:
            CallFailed: as `outbound` gives it; Rejected also for an answer that is no customer.
        """
        customer_id = order.reference.get("customer_id")
        if customer_id is None or self._missing_credentials():
            return order
        answer = await self._send(self._request("GET", f"/v1/customers/{_in_path(customer_id)}"), read=True)
        customer = answer.json()
        if not isinstance(customer, dict):
            detail = f"{self._caller.party} answered without a customer; check {self._where}.api_url"
            raise Rejected(detail, status=answer.status)
        known, found = order.recipient, wire.recipient_of(customer)
        recipient = Recipient(
            name=known.name or found.name,
            email=known.email or found.email,
            phone=known.phone or found.phone,
            address=known.address or found.address,
        )
        return order.model_copy(update={"recipient": recipient})

    async def poll(self) -> list[bytes]:
        """Nothing: Voucherify pushes its rewards."""
        return []

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        """Fulfilled: the call that `close` in the settings names. Refused: a rollback, which gives the points back."""
        if ending.outcome is Outcome.CANCELLED:
            return NothingToDo(f"redemption {order.external_id} was rolled back or ended by a person: nobody to tell")
        if self._settings.close == "by_hand":
            return ByHand(_instruction(order, ending))
        missing = self._missing_credentials()
        if missing:
            return ByHand(f"set {missing} to let the relay do it, or: {_instruction(order, ending)}")
        if ending.outcome is Outcome.REFUSED:
            reason = _reason(ending.message)
            path = f"/v1/redemptions/{_in_path(order.external_id)}/rollback?reason={quote(reason, safe='')}"
            return self._request("POST", path)
        return self._fulfilled(order) or self._no_id(order, ending)

    def _fulfilled(self, order: RewardOrder) -> OutboundRequest | None:
        """The configured call, None where the event lacked the id it needs."""
        settings = self._settings
        order_id, customer_id = order.reference.get("order_id"), order.reference.get("customer_id")
        if settings.close == "order_status":
            path = f"/v1/orders/{_in_path(order_id or '')}"
            return self._request("PUT", path, {"status": "FULFILLED"}) if order_id else None
        if customer_id is None:
            return None
        if settings.close == "event":
            metadata = {"redemption_id": order.external_id, "outcome": Outcome.FULFILLED.value}
            event = {"event": settings.event_name, "customer": {"id": customer_id}, "metadata": metadata}
            return self._request("POST", "/v1/events", event)
        note = {settings.metadata_key: f"{order.external_id}: {Outcome.FULFILLED.value}"}
        return self._request("PUT", f"/v1/customers/{_in_path(customer_id)}", {"metadata": note})

    def _no_id(self, order: RewardOrder, ending: Ending) -> ByHand:
        what = "order" if self._settings.close == "order_status" else "customer"
        return ByHand(
            f'no {what} came along with this redemption, and {self._where}.close = "{self._settings.close}" needs its '
            f"id; {_instruction(order, ending)}"
        )

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        """Make the call. Only a rollback minds being repeated: its documented answer to that counts as told.

        Raises:
            CallFailed: as `outbound` gives it; PartyRefusesUs for refused credentials.
        """
        request = self.preview_close(order, ending)
        if not isinstance(request, OutboundRequest):
            return request
        answer = await self._caller.exchange(request)
        reply = answer.json() if ending.outcome is Outcome.REFUSED else None
        if again and answer.status < 500 and wire.says_already_rolled_back(reply):
            return Closed("an earlier attempt had rolled the redemption back already", status=answer.status)
        self._raise_for(answer)
        failure = wire.failure_in(reply)
        if failure is not None:
            detail = f"{self._caller.party} did not roll the redemption back: {failure[:200]}"
            raise Rejected(detail, status=answer.status, answer=answer.kept())
        return Closed(f"told by {_shown(request)}", status=answer.status)

    # --- calls -------------------------------------------------------------------------------------------

    def _missing_credentials(self) -> str:
        values = {"app_id": self._settings.app_id, "app_token": self._settings.app_token}
        return " and ".join(f"{self._where}.{name}" for name, value in values.items() if value is None)

    def _request(self, method: str, path: str, json: Any = None) -> OutboundRequest:
        app_id, app_token = self._settings.app_id, self._settings.app_token
        return OutboundRequest(
            method,
            self._caller.url(path),
            json=json,
            headers={"X-App-Id": app_id} if app_id else {},
            secret_headers={"X-App-Token": app_token} if app_token else {},
        )

    async def _send(self, request: OutboundRequest, *, read: bool) -> Answer:
        answer = await self._caller.exchange(request, read=read)
        self._raise_for(answer)
        return answer

    def _raise_for(self, answer: Answer) -> None:
        failure = failure_of(self._caller.party, answer)
        if failure is None:
            return
        causes = {
            401: f"it refuses our key; check {self._where}.app_id and {self._where}.app_token",
            402: "the plan's limit is reached; look at the subscription in Voucherify",
            403: f"it refuses our key; check the rights of {self._where}.app_id",
        }
        if answer.status in causes:
            failure = PartyRefusesUs(f"{failure.detail}: {causes[answer.status]}", status=answer.status)
        failure.answer = answer.kept()
        raise failure


def _redemption_id(event: wire.Event) -> str:
    redemption_id = event.redemption_id
    if redemption_id is None and event.kind is wire.Kind.ROLLED_BACK:
        raise Unreadable("a rollback that names no redemption; let Voucherify send redemption.rollback.succeeded")
    if redemption_id is None:
        raise Unreadable("redemption.id is missing (or is no id); without it nobody can tell two redemptions apart")
    return redemption_id


def _shown(request: OutboundRequest) -> str:
    """Which call it was. The id of a customer stays out of it: this is kept longer than the person's data."""
    where = request.url.partition("?")[0]
    return f"{request.method} {where.rpartition('/')[0] if '/v1/customers/' in where else where}"


def _instruction(order: RewardOrder, ending: Ending) -> str:
    """What a person does in Voucherify's dashboard."""
    if ending.outcome is Outcome.REFUSED:
        return f"roll redemption {order.external_id} back in Voucherify, which gives the points back"
    order_id = order.reference.get("order_id")
    what = f"order {order_id} as FULFILLED" if order_id else f"redemption {order.external_id} as fulfilled"
    return f"mark {what} in Voucherify by hand"


def _reason(message: str | None) -> str:
    """Why, for Voucherify: one line of at most 250 characters."""
    line = re.sub(r"[\x00-\x20]+", " ", message or "").strip() or DEFAULT_REASON
    return line[:MAX_REASON_CHARS].encode("utf-8", "replace").decode()


def _in_path(segment: str) -> str:
    return quote(segment, safe="")
