"""Orders from GiftCard Partners. A repeated order under the same `PONumber` is answered 409 with the first one's id."""

from dataclasses import replace
from typing import Literal, Self
from urllib.parse import quote

from pydantic import (
    Field,
    SecretStr,
    model_validator,
)

from reward_relay.contracts import (
    Delivery,
    OptionalText,
    OutboundRequest,
    Placement,
    Progress,
    Recipient,
    VendorOrder,
    VendorSettings,
    as_number,
)
from reward_relay.errors import CallFailed, PartyRefusesUs, Rejected, Unknown, Unreadable
from reward_relay.fields import HeaderSecret, HeaderText, RootUrl, TextList
from reward_relay.inbound import folded
from reward_relay.outbound import Answer, Outbound, failure_of
from reward_relay.vendors.giftcard_partners import wire
from reward_relay.vendors.giftcard_partners.tokens import Token, Tokens

PENDING_WORD = "Pending"
COUNTRIES_WITH_STATES = frozenset({"us", "usa", "unitedstates", "unitedstatesofamerica", "ca", "can", "canada"})


class Settings(VendorSettings):
    """`[vendors.NAME]` with `kind = "giftcard_partners"`."""

    kind: Literal["giftcard_partners"] = Field(description="The vendor's API: GiftCard Partners B2B API, version 1.")
    base_url: RootUrl = Field(description="Address of the API as GiftCard Partners gave it to you, without /v1.")
    email: HeaderText = Field(description="E-mail address of your API account.")
    access_token: HeaderSecret = Field(description="Access token of the account; it buys gift cards, keep it secret.")
    from_name: OptionalText = Field(default=None, description="Sender's name printed with each gift card.")
    from_email: OptionalText = Field(default=None, description="Sender's e-mail address given with each gift card.")
    branding_id: int | str | None = Field(default=None, description="Branding used for gift cards (GET /v1/Brandings).")
    shipping_method_id: int | str | None = Field(
        default=None, description="Shipping method of parcels (GET /v1/ShippingMethods); needed for PhysicalShipment."
    )
    carrier_id: int | str | None = Field(
        default=None, description="Carrier of parcels (GET /v1/ShippingMethods); needed for PhysicalShipment."
    )
    done_words: TextList = Field(
        default=["Complete", "Completed", "Fulfilled"], description="Order statuses that mean delivered."
    )
    refused_words: TextList = Field(
        default=["Failed", "Cancelled", "Canceled", "Rejected", "Declined"],
        description="Order statuses that mean the vendor will not deliver.",
    )

    @model_validator(mode="after")
    def _no_word_means_both(self) -> Self:
        both = {folded(word) for word in self.done_words} & {folded(word) for word in self.refused_words}
        if both:
            raise ValueError(f"{', '.join(sorted(both))} cannot be in done_words and in refused_words")
        return self


class Adapter:
    """One account with GiftCard Partners; `name` is its name in the configuration."""

    takes_key = True
    can_find = False

    def __init__(self, name: str, settings: Settings, outbound: Outbound) -> None:
        self._where = f"vendors.{name}"
        self._settings = settings
        self._caller = outbound.caller(f"vendor {name}", settings.base_url)
        headers = {"Email": SecretStr(settings.email), "AccessToken": settings.access_token}
        token_call = OutboundRequest("POST", self._caller.url("/v1/Tokens"), secret_headers=headers)
        self._tokens = Tokens(self._caller, token_call, self._where)
        self._words = {folded(word): Progress.FULFILLED for word in settings.done_words}
        self._words |= {folded(word): Progress.REFUSED for word in settings.refused_words}
        self._words.setdefault(folded(PENDING_WORD), Progress.PENDING)

    def preview(self, placement: Placement, key: str) -> OutboundRequest:
        """`POST /v1/Orders`; the bearer token is put in when it is sent.

        Raises:
            Unreadable: recipient or settings lack what this kind of delivery needs.
        """
        callback = placement.callback_url
        order = wire.Order(
            type=placement.plan.delivery.value,
            line_items=self._line_items(placement),
            webhook_settings=wire.WebhookSettings(fulfillment_complete=callback) if callback else None,
            po_number=key,
        )
        bearer = {"Authorization": SecretStr("Bearer, fetched when the order is sent")}
        return OutboundRequest("POST", self._caller.url("/v1/Orders"), json=order.as_json(), secret_headers=bearer)

    async def place(self, placement: Placement, key: str) -> VendorOrder:
        """Place the order, or learn that it is there already (409).

        Raises:
            Unreadable: as `preview`; nothing was sent.
            CallFailed: NotSent, Rejected (PartyRefusesUs for 401, 403 and 422) or Unknown.
        """
        answer = await self._exchange(self.preview(placement, key))
        if answer.status == 409:
            return self._existing(answer, key)
        if answer.status == 422:
            detail = "the account has not enough funds for this order; top it up, then resume the vendor"
            raise self._failure(PartyRefusesUs, answer, detail)
        self._raise_for(answer)
        data = wire.read(answer.body)
        if (other := wire.other_key(data, key)) is not None:
            detail = f"the answer is about PONumber {other}, not about {key}; the next attempt will ask for ours"
            raise self._failure(Unknown, answer, detail)
        order_id = wire.order_id(data)
        if order_id is None:
            raise self._failure(Unknown, answer, "the answer holds no order id; the next attempt will ask for it")
        return self._order(order_id, answer)

    async def find(self, key: str) -> VendorOrder | None:
        """Not to be had here: the API looks up orders by their id only.

        Raises:
            Rejected: always; a repeat of `place` with the same key is the look-up.
        """
        raise Rejected(
            f"{self._caller.party} cannot look up PONumber {key}: place it again, the answer names the first"
        )

    async def check(self, vendor_order_id: str) -> VendorOrder:
        """How the order is doing, by `GET /v1/Orders/{id}`.

        Raises:
            CallFailed: Rejected for an unknown id; Unknown also where the answer has no status.
        """
        url = self._caller.url(f"/v1/Orders/{quote(vendor_order_id, safe='')}")
        answer = await self._exchange(OutboundRequest("GET", url), read=True)
        if answer.status == 404:
            detail = f"there is no order {vendor_order_id}; look for it in the vendor's portal"
            raise self._failure(Rejected, answer, detail)
        self._raise_for(answer)
        if wire.status_word(wire.read(answer.body)) is None:
            raise self._failure(Unknown, answer, f"the answer about order {vendor_order_id} holds no status")
        return self._order(vendor_order_id, answer)

    def progress_of(self, word: str) -> Progress | None:
        """What a status word means, also one of a statement; None for one that nobody has documented."""
        return self._words.get(folded(word))

    # --- the order's body --------------------------------------------------------------------------------

    def _line_items(self, placement: Placement) -> list[wire.LineItem]:
        recipient, delivery = placement.recipient, placement.plan.delivery
        digital = self._digital(recipient) if delivery is Delivery.DIGITAL else None
        physical = self._physical(recipient) if delivery is Delivery.PHYSICAL else None
        return [
            wire.LineItem(
                product_id=line.product,
                value=as_number(line.value),
                quantity=line.quantity,
                branding_id=self._settings.branding_id,
                digital_delivery_address=digital,
                physical_delivery_address=physical,
                personalization=self._personalization(placement),
            )
            for line in placement.plan.lines
        ]

    def _digital(self, recipient: Recipient) -> wire.DigitalAddress:
        if recipient.email:
            return wire.DigitalAddress(email=recipient.email)
        if recipient.phone:
            return wire.DigitalAddress(sms=recipient.phone)
        raise Unreadable(
            "DigitalDelivery needs the recipient's e-mail address or phone number, and the reward has neither; "
            "let the platform send one, or choose another delivery in the route"
        )

    def _physical(self, recipient: Recipient) -> wire.PhysicalAddress:
        settings, address = self._settings, recipient.address
        if settings.shipping_method_id is None or settings.carrier_id is None:
            missing = "shipping_method_id" if settings.shipping_method_id is None else "carrier_id"
            raise Unreadable(f"PhysicalShipment needs {self._where}.{missing}; GET /v1/ShippingMethods lists them")
        if address is None:
            raise Unreadable("PhysicalShipment needs a postal address, and the reward has none")
        line1 = _needed(address.line1, "first address line")
        country = _needed(address.country, "country")
        return wire.PhysicalAddress(
            shipping_method_id=settings.shipping_method_id,
            carrier_id=settings.carrier_id,
            name=_needed(recipient.name, "recipient's name"),
            address_line1=f"{line1}, {address.line2}" if address.line2 else line1,
            city=_needed(address.city, "city"),
            state=_needed(address.state, "state") if folded(country) in COUNTRIES_WITH_STATES else address.state,
            zip=_needed(address.postal_code, "postal code"),
            country=country,
        )

    def _personalization(self, placement: Placement) -> wire.Personalization | None:
        """Only where a sender is configured: a card without one is as the vendor makes it."""
        settings = self._settings
        if not settings.from_name and not settings.from_email:
            return None
        return wire.Personalization(
            to=placement.recipient.name,
            from_name=settings.from_name,
            from_email=settings.from_email,
            message=placement.message,
        )

    # --- calls and verdicts ------------------------------------------------------------------------------

    async def _exchange(self, request: OutboundRequest, *, read: bool = False) -> Answer:
        """Send with the bearer token; a refused token is renewed once, and the call repeated once."""
        token = await self._tokens.current()
        answer = await self._caller.exchange(_signed(request, token), read=read)
        if answer.status != 401:
            return answer
        token = await self._tokens.after_refusal(token)
        answer = await self._caller.exchange(_signed(request, token), read=read)
        if answer.status == 401:
            detail = f"a fresh token is refused as well; check {self._where}.access_token and the account's rights"
            raise self._failure(PartyRefusesUs, answer, detail)
        return answer

    def _existing(self, answer: Answer, key: str) -> VendorOrder:
        order_id = wire.first_order_id(wire.read(answer.body))
        if order_id is None:
            detail = (
                f"there is an order under PONumber {key} already, and the answer does not say its id; look it up in "
                "the vendor's portal: if it is this reward's, close the order by hand"
            )
            raise self._failure(Unknown, answer, detail)
        kept = wire.kept(answer)
        return VendorOrder(order_id, Progress.PENDING, existed=True, status=answer.status, answer=kept)

    def _order(self, order_id: str, answer: Answer) -> VendorOrder:
        data = wire.read(answer.body)
        word = wire.status_word(data)
        progress = self._words.get(folded(word or PENDING_WORD))
        return VendorOrder(
            order_id,
            progress or Progress.PENDING,
            word=word or "",
            known=progress is not None,
            detail=wire.reason(data) if progress is Progress.REFUSED else None,
            status=answer.status,
            answer=wire.kept(answer),
            amount=wire.amount(data),
        )

    def _raise_for(self, answer: Answer) -> None:
        failure = failure_of(self._caller.party, answer)
        if failure is None:
            return
        if answer.status == 403:
            detail = "API access is disabled for this account; ask GiftCard Partners to enable it"
            raise self._failure(PartyRefusesUs, answer, detail)
        raise wire.failure(type(failure), answer, failure.detail)

    def _failure(self, verdict: type[CallFailed], answer: Answer, detail: str) -> CallFailed:
        return wire.failure(verdict, answer, f"{self._caller.party} answered {answer.status}: {detail}")


def _signed(request: OutboundRequest, token: Token) -> OutboundRequest:
    bearer = SecretStr(f"Bearer {token.value.get_secret_value()}")
    return replace(request, secret_headers={**request.secret_headers, "Authorization": bearer})


def _needed(value: str | None, what: str) -> str:
    if value is None:
        raise Unreadable(
            f"PhysicalShipment needs the {what}, and the reward has none; let the platform send it, or choose another "
            "delivery in the route"
        )
    return value
