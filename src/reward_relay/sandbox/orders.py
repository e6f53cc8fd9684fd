"""An order at the simulated vendor: what is taken, and how it is told."""

import time
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from operator import getitem
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_pascal

from reward_relay.sandbox.far_side import read_json

Word = Annotated[str, Field(min_length=1)]


class Body(BaseModel):
    """Part of an order as it is posted."""

    model_config = ConfigDict(alias_generator=to_pascal)


class DigitalAddress(Body):
    """E-mail address or phone number."""

    email: str | None = None
    sms: str | None = None

    @model_validator(mode="after")
    def _reaches_somebody(self) -> Self:
        if not self.email and not self.sms:
            raise ValueError("needs Email or Sms")
        return self


class PhysicalAddress(Body):
    """Where a parcel goes."""

    shipping_method_id: int | Word
    carrier_id: int | Word
    name: Word
    address_line1: Word
    city: Word
    state: str | None = None
    zip: Word
    country: Word


class LineItem(Body):
    """One product for one recipient."""

    product_id: Word
    value: Decimal = Field(gt=0, max_digits=14)
    quantity: int = Field(ge=1)
    digital_delivery_address: DigitalAddress | None = None
    physical_delivery_address: PhysicalAddress | None = None


class WebhookSettings(Body):
    """Where to call when the order completes."""

    fulfillment_complete: str | None = None


class OrderBody(Body):
    """The body of `POST /v1/Orders`. The length of PONumber is our own limit: the real one is not published."""

    type: Literal["DigitalDelivery", "Links", "PhysicalShipment"]
    line_items: list[LineItem] = Field(min_length=1)
    po_number: str = Field(alias="PONumber", min_length=1, max_length=20)
    webhook_settings: WebhookSettings = WebhookSettings()

    @model_validator(mode="after")
    def _has_addresses(self) -> Self:
        for line in self.line_items:
            if self.type == "DigitalDelivery" and line.digital_delivery_address is None:
                raise ValueError("each line item needs DigitalDeliveryAddress")
            if self.type == "PhysicalShipment" and line.physical_delivery_address is None:
                raise ValueError("each line item needs PhysicalDeliveryAddress")
        return self


@dataclass(slots=True)
class Order:
    """An order the vendor has taken. `complete_at` is on the clock of `time.monotonic`."""

    id: str
    body: OrderBody
    lines: list[dict[str, Any]]
    created_at: str
    complete_at: float
    refused_for: str | None = None
    callbacks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        """The vendor's word for it just now."""
        if time.monotonic() < self.complete_at:
            return "Pending"
        return "Declined" if self.refused_for else "Completed"

    def head(self) -> dict[str, Any]:
        """The order without its line items."""
        total = sum((line.value * line.quantity for line in self.body.line_items), Decimal())
        shown = {"Id": self.id, "Status": self.status, "PONumber": self.body.po_number, "Type": self.body.type}
        reason = {"Reason": self.refused_for} if self.status == "Declined" else {}
        return {**shown, "Total": float(total), "CreatedAt": self.created_at, **reason}

    def answer(self, claims: list[dict[str, str]]) -> dict[str, Any]:
        """The order as the vendor tells it: with claim data once it is complete."""
        done = self.status == "Completed"
        lines = [{**line, **(claim if done else {})} for line, claim in zip(self.lines, claims, strict=True)]
        return {**self.head(), "LineItems": lines}


def peek(body: bytes) -> tuple[str | None, str | None]:
    """PONumber and first e-mail address of an order that may be anything; None for what it lacks."""
    try:
        order = read_json(body)
    except ValueError:
        return None, None
    po_number, email = _at(order, "PONumber"), _at(order, "LineItems", 0, "DigitalDeliveryAddress", "Email")
    return po_number if isinstance(po_number, str) else None, email if isinstance(email, str) else None


def _at(value: Any, *path: str | int) -> Any:
    try:
        return reduce(getitem, path, value)
    except (LookupError, TypeError):
        return None


def by_field(mistakes: ValidationError) -> dict[str, list[str]]:
    """The mistakes of an order, by the field that has them."""
    found: dict[str, list[str]] = {}
    for mistake in mistakes.errors(include_url=False, include_context=False):
        found.setdefault(".".join(str(part) for part in mistake["loc"]) or "Order", []).append(mistake["msg"])
    return found
