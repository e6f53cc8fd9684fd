"""The shapes of the ops API's requests and answers, as OpenAPI shows them."""

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reward_relay.contracts import Item, OptionalText, Recipient
from reward_relay.states import Outcome


class Error(BaseModel):
    """Every error."""

    error: str = Field(examples=["not_allowed"])
    detail: str = Field(examples=["order RR-0123456789ABCDEF is closed (fulfilled)"])


class Note(BaseModel):
    """Why a person does it; goes into the order's events."""

    model_config = ConfigDict(extra="forbid")
    note: Annotated[OptionalText, Field(max_length=1000, examples=["customer called, address confirmed"])] = None


class Refusal(Note):
    """`message` is for the person who redeemed the reward."""

    message: Annotated[OptionalText, Field(max_length=1000, examples=["This reward is out of stock."])] = None


class Closing(Note):
    """`outcome` is how a person knows that it ended."""

    outcome: Outcome | None = Field(None, examples=["fulfilled"])


class Explain(BaseModel):
    """A payload to try: the JSON itself, or the body as text (a form)."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(examples=["loyalty"])
    payload: dict[str, Any] | list[Any] | str


class Diff(BaseModel):
    """A changed configuration file, or its `[[routes]]` alone, at most 256 KiB."""

    model_config = ConfigDict(extra="forbid")
    toml: str = Field(examples=['[[routes]]\nname = "gift cards"\nvendor = "cards"\nproduct = "CVS"\n'])
    days: float = Field(7, gt=0, le=3650, description="How far back to look.")
    limit: int = Field(5000, ge=1, le=5000, description="Deliveries at most, the newest first.")


class DiffExample(BaseModel):
    """One reward, before and after. Without `po_number` it is not understood today."""

    po_number: str | None
    external_id: str | None
    source: str
    at: datetime
    before: str
    after: str


class DiffGroup(BaseModel):
    """Rewards that would change in the same way. Sums are of those whose value is known."""

    kind: str = Field(examples=["other_vendor"])
    title: str
    count: int
    route_before: str | None
    route_after: str | None
    sum_before: Decimal | None
    sum_after: Decimal | None
    examples: list[DiffExample]


class DiffHeld(BaseModel):
    """The orders on hold now: how many a release would free that it does not free today."""

    looked_at: int
    freed: int
    no_longer_freed: int
    examples: list[DiffExample]


class RoutesDiff(BaseModel):
    """What would have been. `cut` says what ended the look early (limit or time), `oldest` how far it got.

    `purged` are deliveries without a body, `repeats` those that are not understood today and would be duplicates.
    """

    note: str
    since: datetime
    looked_at: int
    changed: int
    purged: int
    repeats: int
    cut: Literal["limit", "time"] | None
    oldest: datetime | None
    routes: list[str]
    warnings: list[str]
    groups: list[DiffGroup]
    on_hold: DiffHeld


class Event(BaseModel):
    """A line of an order's history."""

    id: int
    at: datetime
    from_state: str | None
    to_state: str
    actor: str
    reason: str | None


class Call(BaseModel):
    """One outbound attempt. Without `finished_at`: under way, or its process died."""

    id: int
    party: str
    purpose: str
    key: str
    started_at: datetime
    finished_at: datetime | None
    verdict: str | None
    status: int | None
    answer: str | None


class Order(BaseModel):
    """An order. `next_step` is due at `due_at`; `in_doubt`: an earlier call may have arrived."""

    id: uuid.UUID
    po_number: str
    source: str
    external_id: str
    delivery_id: uuid.UUID
    state: str
    outcome: str | None
    message: str | None
    hold_reason: str | None
    held_from: str | None
    route: str | None
    vendor: str | None
    plan: dict[str, Any] | None
    vendor_order_id: str | None
    vendor_status: str | None
    recipient: Recipient
    items: list[Item]
    occurred_at: datetime | None
    attempts: int
    polls: int
    next_step: str | None
    party: str | None
    due_at: datetime | None
    claimed: bool
    in_doubt: bool
    last_error: str | None
    created_at: datetime
    updated_at: datetime


class OrderDetail(Order):
    """An order with everything that happened to it."""

    events: list[Event]
    calls: list[Call]


class Orders(BaseModel):
    """A page of orders, newest first; pass `next_cursor` as `cursor` for the next."""

    items: list[Order]
    next_cursor: str | None


class Delivery(BaseModel):
    """What arrived. `bytes` is the size of the body."""

    id: uuid.UUID
    source: str
    received_at: datetime
    via: str
    content_type: str
    verdict: str
    reason: str | None
    external_id: str | None
    order_id: uuid.UUID | None
    bytes: int | None = None


class DeliveryDetail(Delivery):
    """With the body verbatim, but for a platform's own secret in it."""

    headers: dict[str, str]
    body: str


class Deliveries(BaseModel):
    """A page of deliveries, newest first."""

    items: list[Delivery]
    next_cursor: str | None


class Alert(BaseModel):
    """Something is wrong. `sent_at` is null where nobody was told yet."""

    key: str = Field(examples=["paused/vendor:cards"])
    severity: str = Field(examples=["critical"])
    text: str = Field(examples=["vendor:cards is paused, 12 orders waiting for it. It refuses us: account empty"])
    since: datetime
    seen_at: datetime
    sent_at: datetime | None


class Alerts(BaseModel):
    """What is wrong just now, critical first; `looked_at` is null where nobody has looked yet."""

    items: list[Alert]
    looked_at: datetime | None


class Receipt(BaseModel):
    """What became of a delivery."""

    delivery_id: str
    order_id: str | None
    verdict: str = Field(examples=["accepted"])
    reason: str | None = None
