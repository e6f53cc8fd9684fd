"""GiftCard Partners B2B API v1 in its own words: what an order looks like, and what of an answer may be read.

The documentation writes PascalCase; answers are read in any letter case, because a sister API answers camelCase.
Answers can hold claim links and codes, which are worth money: only the fields named here ever leave this module.
"""

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal

from reward_relay.contracts import clean_text, read_json
from reward_relay.errors import CallFailed, Unreadable
from reward_relay.inbound import folded, pick, text_of
from reward_relay.outbound import Answer, retry_after, trim

STATUS = ("Status", "OrderStatus", "State")
FIRST_ORDER = ("PreviousOrderIds", "PreviousOrderId", "OrderId", "Id")
ENVELOPES = ("Order", "PreviousOrder", "Data", "Result", "Error")
REASON = ("Reason", "StatusReason", "Message")
COMPLAINT = ("Message", "Error", "ErrorMessage", "Reason", "Detail", "Title", "Description", "Errors")
KEPT = ("Id", "OrderId", "Status", "OrderStatus", "State", "PONumber", "Total", "CreatedAt")
MAX_ID_CHARS = 200
MAX_COMPLAINTS = 10
MAX_DIGITS = 12


class Payload(BaseModel):
    """Something we send; fields without a value are left out."""

    model_config = ConfigDict(alias_generator=to_pascal, populate_by_name=True, frozen=True)

    def as_json(self) -> dict[str, Any]:
        """The JSON object with the vendor's names, in the order of its documentation."""
        return self.model_dump(by_alias=True, exclude_none=True)


class DigitalAddress(Payload):
    """Where a digital card goes: an e-mail address, or a phone number for a text message."""

    email: str | None = None
    sms: str | None = None


class PhysicalAddress(Payload):
    """Where a parcel goes, and how."""

    shipping_method_id: int | str
    carrier_id: int | str
    name: str
    address_line1: str
    city: str
    state: str | None
    zip: str
    country: str


class Personalization(Payload):
    """What the card says besides its value."""

    to: str | None = None
    from_name: str | None = None
    from_email: str | None = None
    message: str | None = None


class LineItem(Payload):
    """One product for one recipient."""

    product_id: str
    value: int | float
    quantity: int
    branding_id: int | str | None = None
    digital_delivery_address: DigitalAddress | None = None
    physical_delivery_address: PhysicalAddress | None = None
    personalization: Personalization | None = None


class WebhookSettings(Payload):
    """Where the vendor calls when an order completes later than its answer."""

    fulfillment_complete: str


class Order(Payload):
    """The body of `POST /v1/Orders`."""

    type: Literal["DigitalDelivery", "Links", "PhysicalShipment"]
    line_items: list[LineItem]
    webhook_settings: WebhookSettings | None = None
    po_number: str = Field(alias="PONumber")


def read(body: bytes) -> Any:
    """The JSON of an answer, None where it is none."""
    try:
        return read_json(body)
    except Unreadable:
        return None


def _layers(data: Any) -> list[Any]:
    """The answer's object, and those it may be wrapped in."""
    return [data, *(pick(data, name) for name in ENVELOPES)]


def _scalar(value: Any) -> str | None:
    """A scalar as clean text of sensible length."""
    text = clean_text(text_of(value))
    return text if isinstance(text, str) and len(text) <= MAX_ID_CHARS else None


def _first_scalar(data: Any, names: tuple[str, ...]) -> str | None:
    """The first scalar found under one of the names, at the top before one level down."""
    for layer in _layers(data):
        for name in names:
            found = _scalar(pick(layer, name))
            if found is not None:
                return found
    return None


def order_id(data: Any) -> str | None:
    """The id of an order that was just created or read."""
    return _first_scalar(data, ("Id", "OrderId"))


def other_key(data: Any, key: str) -> str | None:
    """The PONumber of an answer that is about another order than `key`; None where it is ours, or not told."""
    found = _first_scalar(data, ("PONumber",))
    return None if found is None or folded(key) in folded(found) else found


def first_order_id(data: Any) -> str | None:
    """The id of the order that already has our PONumber, out of a 409.

    The documentation says that the answer carries it, not under which name: the most telling name wins, wherever it is.
    """
    for name in FIRST_ORDER:
        for layer in _layers(data):
            value = pick(layer, name)
            value = value[0] if isinstance(value, list) else value
            found = _scalar(pick(value, "Id", "OrderId") if isinstance(value, Mapping) else value)
            if found is not None:
                return found
    return None


def status_word(data: Any) -> str | None:
    """The vendor's word for how the order is doing."""
    return _first_scalar(data, STATUS)


def amount(data: Any) -> Decimal | None:
    """The face value of all line items; None where one of them does not say its own, or none is listed."""
    found = next((lines for layer in _layers(data) if isinstance(lines := pick(layer, "LineItems"), list)), [])
    try:
        parts = [_number(pick(line, "Value")) * _number(pick(line, "Quantity") or 1) for line in found]
    except (ValueError, ArithmeticError):
        return None
    return sum(parts, Decimal()) if parts else None


def _number(value: Any) -> Decimal:
    number = Decimal(text_of(value) or "")
    if not number.is_finite() or number < 0 or abs(number.adjusted()) > MAX_DIGITS:
        raise ValueError("not an amount")
    return number


def reason(data: Any) -> str | None:
    """Why the vendor refused an order, in its words."""
    for layer in _layers(data):
        for name in REASON:
            found = clean_text(text_of(pick(layer, name)))
            if isinstance(found, str):
                return _without_links(found)
    return None


def complaint(data: Any) -> str:
    """What an error answer says, '' where it says nothing that is safe to repeat."""
    return _without_links("; ".join(_sentences(data, depth=0)[:MAX_COMPLAINTS]))


def _sentences(value: Any, depth: int) -> list[str]:
    if isinstance(value, str):
        text = clean_text(value)
        return [text] if isinstance(text, str) else []
    if isinstance(value, list) and depth < 4:
        return [sentence for each in value[:MAX_COMPLAINTS] for sentence in _sentences(each, depth + 1)]
    if not isinstance(value, Mapping) or depth >= 4:
        return []
    for name in COMPLAINT:
        found = _sentences(pick(value, name), depth + 1) or _by_field(name, pick(value, name))
        if found:
            return found
    return []


def _by_field(name: str, value: Any) -> list[str]:
    """`"Errors": {"LineItems[0].Value": ["too high"]}`, as ASP.NET words the mistakes of a request."""
    if name != "Errors" or not isinstance(value, Mapping):
        return []
    listed = {str(field): texts for field, texts in value.items() if isinstance(texts, list)}
    return [f"{field}: {text}" for field, texts in listed.items() for text in texts if isinstance(text, str)]


def kept(answer: Answer) -> str:
    """What of an answer may be recorded: named scalars only, and of an error what it complains of."""
    data, fields = read(answer.body), dict[str, str]()
    for layer in _layers(data):
        for name in KEPT:
            found = _scalar(pick(layer, name))
            if found is not None:
                fields.setdefault(name, found)
    if answer.status >= 300 and (said := complaint(data)):
        fields["Message"] = said
    return trim(json.dumps(fields, ensure_ascii=False)) if fields else ""


def failure(verdict: type[CallFailed], answer: Answer, detail: str) -> CallFailed:
    """A failed call with the vendor's own words after `detail`, and nothing else of its answer."""
    said = complaint(read(answer.body)) if answer.status >= 300 else ""
    return verdict(
        f"{detail}. It said: {said}" if said else detail,
        status=answer.status,
        retry_after_s=retry_after(answer.headers),
        answer=kept(answer),
    )


_LINK = re.compile(r"\w+://\S+|\S*/vendor-webhooks/\S*")


def _without_links(text: str) -> str:
    """A sentence of the vendor's without web addresses: one could be a claim link, or our own with its token."""
    return trim(_LINK.sub("[link removed]", text))
