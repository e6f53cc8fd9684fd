"""Talkable rewards: a reward webhook becomes an order; closing it is nothing, or a note on the person."""

from typing import Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError

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
    RewardOrder,
    SourceSettings,
    Withdrawn,
)
from reward_relay.errors import PartyRefusesUs, Rejected, Unauthenticated, Unreadable
from reward_relay.fields import HeaderSecret, HttpUrl
from reward_relay.inbound import check_signature, is_one_of
from reward_relay.outbound import Answer, Outbound
from reward_relay.platforms.talkable import key, wire
from reward_relay.states import Outcome

MAX_ID_CHARS = 200


class Settings(SourceSettings):
    """`[sources.NAME]` with `platform = "talkable"`."""

    platform: Literal["talkable"] = Field(description="The loyalty platform: Talkable.")
    api_url: HttpUrl = Field(
        default="https://www.talkable.com/api/v2", description="Address of Talkable's API, version 2."
    )
    api_token: HeaderSecret | None = Field(
        default=None, description='Talkable API key (Account Settings); needed for close = "custom_property".'
    )
    site_slug: str | None = Field(
        default=None, min_length=1, description='Your Talkable Site ID; needed for close = "custom_property".'
    )
    close: Literal["nothing", "custom_property"] = Field(
        default="nothing",
        description="What Talkable is told when a reward has ended: nothing, or a custom property of the person.",
    )
    property_name: str = Field(
        default="reward_relay", min_length=1, description="Name of the custom property that the relay writes."
    )


class Adapter:
    """One Talkable site; `name` is its name in the configuration."""

    enriches: Literal["never", "when_unreachable", "always"] = "never"

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        self._name = name
        self._where = f"sources.{name}"
        self._settings = settings
        self._caller = outbound.caller(f"source {name}", settings.api_url)

    def verify(self, request: InboundRequest) -> bytes:
        """Check the Custom App's signature where there is one, else the classic webhook's `key`.

        Returns:
            The body with the key's value as stars, everything else byte for byte.

        Raises:
            Unauthenticated: neither, or one that none of the source's secrets explains.
        """
        secrets = self._settings.secrets
        given = request.headers.get(wire.SIGNATURE_HEADER)
        if given is None:
            self._check_key(request.body)
            return key.without_key(request.body, secrets)
        if not check_signature(given, [request.body], secrets, "base64-of-hex"):
            raise Unauthenticated(
                f"{wire.SIGNATURE_HEADER} fits none of {self._where}.secrets; copy the Webhook security key from "
                "Talkable (Menu, Webhooks), and check that nothing on the way rewrites the body"
            )
        return key.without_secrets(request.body, secrets)

    def _check_key(self, body: bytes) -> None:
        given = key.key_of(body)
        if given is None:
            raise Unauthenticated(
                f"nothing authenticates this call: no header {wire.SIGNATURE_HEADER} (Custom App), and no readable "
                f"`key` in the body (classic webhook, form or JSON) to compare with {self._where}.secrets; is it "
                "Talkable that posts here?"
            )
        if not is_one_of(given, self._settings.secrets):
            raise Unauthenticated(
                f"the `key` in the body is none of {self._where}.secrets; copy the Webhook security key from Talkable "
                "(Menu, Webhooks); was it changed on one side only?"
            )

    # --- what a payload asks for -------------------------------------------------------------------------

    def parse(self, body: bytes, content_type: str) -> Parsed:
        """Understand a classic webhook, a Custom App body or a bare payload; the body decides, not `content_type`.

        Raises:
            Unreadable: no reward id, an unknown incentive type or status, or an amount that is no money.
        """
        fields = wire.read_fields(body)
        other = wire.other_webhook(fields)
        if other is not None:
            return Informational(f"a webhook of type {other[:80]!r}, not {wire.REWARD_WEBHOOK!r}: no reward to send")
        event = wire.RewardEvent(wire.payload_of(fields, bare=wire.is_json(body)))
        reward_id = _reward_id(event)
        if event.incentive_type == wire.COUPON:
            return Informational(f"reward {reward_id} is a discount coupon, which Talkable gives itself", reward_id)
        if event.status == wire.VOIDED:
            return Withdrawn(reward_id, f"Talkable voided reward {reward_id}", self._order_or_none(event, reward_id))
        if event.status == wire.UNPAID:
            return Informational(f"reward {reward_id} is Unpaid: recorded; waits for Paid", reward_id)
        if event.status not in (wire.PAID, None):
            raise Unreadable(f"reward {reward_id} has status {event.status[:80]!r}, not Paid, Unpaid or Voided")
        return self._order(event, reward_id)

    def _order_or_none(self, event: wire.RewardEvent, reward_id: str) -> RewardOrder | None:
        try:
            return self._order(event, reward_id)
        except Unreadable:
            return None

    def _order(self, event: wire.RewardEvent, reward_id: str) -> RewardOrder:
        if event.names_nobody:
            raise Unreadable(f"reward {reward_id} comes without anybody who gets it; {wire.TEMPLATE_ADVICE}")
        recipient = event.recipient()
        reference = {"email": recipient.email, "reason": event.reason}
        try:
            return RewardOrder(
                source=self._name,
                external_id=reward_id,
                recipient=recipient,
                items=(_item(event, reward_id),),
                reference={name: value for name, value in reference.items() if value},
                attributes=event.payload,
            )
        except ValidationError as error:
            raise _unreadable(reward_id, error) from None

    # --- the platform's side -----------------------------------------------------------------------------

    async def enrich(self, order: RewardOrder) -> RewardOrder | Withdrawn:
        """The order as it is: Talkable's webhook holds all that its API has."""
        return order

    async def poll(self) -> list[bytes]:
        """Nothing: Talkable pushes its rewards."""
        return []

    def preview_close(self, order: RewardOrder, ending: Ending) -> OutboundRequest | NothingToDo | ByHand:
        """`PUT /people/{email}` with a custom property, where that is configured."""
        if ending.outcome is Outcome.CANCELLED:
            return NothingToDo(f"reward {order.external_id} was taken back or ended by a person: nobody to tell")
        if self._settings.close == "nothing":
            return NothingToDo(
                "Talkable has no call that ends a reward; "
                f'{self._where}.close = "custom_property" would note it on the person'
            )
        note = f"reward {order.external_id}: {ending.outcome.value}"
        return self._obstacle(order, note) or self._note_on_person(order.reference["email"], note)

    def _obstacle(self, order: RewardOrder, note: str) -> ByHand | None:
        """Why the note cannot be written, and what to do about it."""
        values = {"api_token": self._settings.api_token, "site_slug": self._settings.site_slug}
        missing = [f"{self._where}.{name}" for name, value in values.items() if value is None]
        if missing:
            return ByHand(f'set {" and ".join(missing)}, or note "{note}" on the person in Talkable by hand')
        if "@" not in order.reference.get("email", ""):
            return ByHand(f'Talkable names people by e-mail address and sent none; note "{note}" in Talkable by hand')
        return None

    def _note_on_person(self, email: str, note: str) -> OutboundRequest:
        settings = self._settings
        token = settings.api_token.get_secret_value() if settings.api_token else ""
        return OutboundRequest(
            "PUT",
            self._caller.url(f"/people/{quote(email, safe='')}"),
            json={"site_slug": settings.site_slug, "data": {"custom_properties": {settings.property_name: note}}},
            secret_headers={"Authorization": SecretStr(f"Bearer {token}")},
        )

    async def close(self, order: RewardOrder, ending: Ending, *, again: bool) -> ClosingResult:
        """Write the note. A repeat writes the same one, so `again` changes nothing.

        Raises:
            CallFailed: as `outbound` gives it; PartyRefusesUs for a refused API key.
        """
        request = self.preview_close(order, ending)
        if not isinstance(request, OutboundRequest):
            return request
        answer = await self._send(request)
        name = self._settings.property_name
        return Closed(f"custom property {name} of the person says how the reward ended", status=answer.status)

    async def _send(self, request: OutboundRequest) -> Answer:
        try:
            answer = await self._caller.send(request)
        except Rejected as failure:
            if failure.status not in (401, 403):
                raise
            detail = f"{failure.detail}: it refuses the API key; check {self._where}.api_token"
            raise PartyRefusesUs(detail, status=failure.status, answer=failure.answer) from None
        reply = answer.json()
        if isinstance(reply, dict) and reply.get("ok") is False:
            said = wire.text(reply, "error_message") or "without a reason"
            raise Rejected(f"{self._caller.party} refused: {said[:200]}", status=answer.status, answer=answer.kept())
        return answer


def _reward_id(event: wire.RewardEvent) -> str:
    reward_id = event.reward_id
    if reward_id is None and event.is_flat:
        raise Unreadable(f"the body names no reward, so nobody can tell two rewards apart; {wire.TEMPLATE_ADVICE}")
    if reward_id is None:
        raise Unreadable("payload.reward.id is missing; without it nobody can tell two rewards apart")
    if len(reward_id) > MAX_ID_CHARS:
        raise Unreadable(f"payload.reward.id is longer than {MAX_ID_CHARS} characters; that is no id of Talkable's")
    return reward_id


def _item(event: wire.RewardEvent, reward_id: str) -> Item:
    """The one thing to send; money only for a rebate, whose currency is that of the purchase behind it."""
    kind = event.incentive_type
    if kind is None:
        raise Unreadable(f"reward {reward_id} does not say its incentive_type; {wire.TEMPLATE_ADVICE}")
    if kind not in (wire.REBATE, wire.OTHER):
        known = f"{wire.REBATE}, {wire.OTHER} or {wire.COUPON}"
        raise Unreadable(f"reward {reward_id} has incentive_type {kind[:80]!r}; the relay knows {known}")
    money = kind == wire.REBATE
    try:
        return Item.model_validate(
            {
                "sku": event.identifier,
                "name": event.description,
                "value": event.amount if money else None,
                "currency": event.currency if money else None,
            }
        )
    except ValidationError as error:
        raise _unreadable(reward_id, error) from None


def _unreadable(reward_id: str, error: ValidationError) -> Unreadable:
    """The first mistake in words; never the value, which may be personal."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    return Unreadable(f"reward {reward_id}: {field or 'the order'} does not fit: {first['msg']}")
