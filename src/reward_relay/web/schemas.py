"""The shapes of the ops API's answers, as OpenAPI shows them."""

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from reward_relay.contracts import Item, Recipient
from reward_relay.states import State
from reward_relay.web.guard_schemas import Asked, Cap, Seen


class Error(BaseModel):
    """Every error."""

    error: str = Field(examples=["not_allowed"])
    detail: str = Field(examples=["order RR-0123456789ABCDEF is closed (fulfilled)"])


class Explained(BaseModel):
    """What would become of a payload. `vendor_request` is exactly what would be sent, secrets as stars."""

    source: str
    sentence: str = Field(examples=["This would be ordered from cards by route 'gift cards'."])
    verdict: str
    reason: str | None
    external_id: str | None
    reward: dict[str, Any] | None
    route: str | None
    vendor: str | None
    hold_reason: str | None
    next_step: str | None
    vendor_request: dict[str, Any] | None
    closing_call: dict[str, Any] | None


class Event(BaseModel):
    """A line of an order's history: the `seq`th. `hash` is over the hash before and this line (docs/guarantees.md)."""

    id: int
    at: datetime
    from_state: str | None
    to_state: str
    actor: str
    reason: str | None
    seq: int
    hash: str


class Call(BaseModel):
    """One outbound attempt. Without `finished_at`: under way, or its process died.

    `exchanges`: each request of it, with the SHA-256 of the body that was sent.
    """

    id: int
    party: str
    purpose: str
    key: str
    started_at: datetime
    finished_at: datetime | None
    verdict: str | None
    status: int | None
    answer: str | None
    exchanges: list[dict[str, Any]] | None


class Order(BaseModel):
    """An order. `next_step` is due at `due_at`; `in_doubt`: an earlier call may have arrived.

    `cap` holds it; `counted_on`: for this day's caps it counts; `asked`: a second person must agree.
    """

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
    cap: str | None
    counted_on: date | None
    asked: Asked | None
    created_at: datetime
    updated_at: datetime
    purged_at: datetime | None


class Entry(BaseModel):
    """A line of the timeline. `who` is the actor of an event, the party of a call, the source of a delivery."""

    at: datetime
    kind: Literal["event", "call", "delivery"]
    who: str = Field(examples=["alice"])
    text: str = Field(examples=["released: route added; goes on as received: place at vendor:cards"])
    from_state: str | None
    to_state: str | None
    purpose: str | None
    verdict: str | None
    status: int | None
    took_s: float | None
    answer: str | None
    delivery_id: uuid.UUID | None


class Action(BaseModel):
    """Whether a person may do it now: what it would do, or why not, in the words of the 409."""

    action: Literal["retry", "hold", "release", "refuse", "close", "withdraw"]
    allowed: bool
    does: str | None = Field(examples=["place at vendor:cards is due now, with all its attempts"])
    why_not: str | None
    asked_by: str | None = Field(description="Has asked for it; another person's key does it", examples=["alice"])


class OrderDetail(Order):
    """An order with everything that happened to it, and what may be done to it now.

    `waits_for`: the party of the next step is paused or fails, and why.
    """

    events: list[Event]
    calls: list[Call]
    timeline: list[Entry]
    actions: list[Action]
    waits_for: str | None


class Orders(BaseModel):
    """A page of orders, newest first; pass `next_cursor` as `cursor` for the next."""

    items: list[Order]
    next_cursor: str | None


class Delivery(BaseModel):
    """What arrived. `bytes` is the size of the body as it is stored; at `purged_at` it was removed."""

    id: uuid.UUID
    source: str
    received_at: datetime
    via: str
    content_type: str
    verdict: str
    reason: str | None
    external_id: str | None
    order_id: uuid.UUID | None
    purged_at: datetime | None
    bytes: int | None = None


class DeliveryDetail(Delivery):
    """With the body verbatim, but for a platform's own secret in it. Without it, `no_body` says why."""

    headers: dict[str, str]
    body: str
    no_body: str | None


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
    """What became of a delivery. Without `order_id` and with a `reason` an accepted one waits for PostgreSQL."""

    delivery_id: str
    order_id: str | None
    verdict: str = Field(examples=["accepted"])
    reason: str | None = None


class Taken(BaseModel):
    """A vendor's callback was taken: its order is looked at soon."""

    verdict: Literal["accepted"]


class Health(BaseModel):
    """How a process does; `detail` where it does not."""

    status: Literal["ok", "ready", "unavailable"]
    detail: str | SkipJsonSchema[None] = None
    warning: str | SkipJsonSchema[None] = None


class Oldest(BaseModel):
    """The order that has been due for longest."""

    id: uuid.UUID
    po_number: str
    party: str
    late_s: float


class Party(BaseModel):
    """A platform or vendor: what waits for it, and its health. `recovering`: it is called a little at first."""

    party: str = Field(examples=["vendor:cards"])
    waiting: int
    due: int
    claimed: int
    breaker: Literal["closed", "open"]
    failures: int
    open_until: datetime | None
    paused: bool
    recovering: bool
    since: datetime | None
    why: str | None


class Summary(BaseModel):
    """The whole at a glance; `trouble` counts deliveries that were quarantined or rejected."""

    states: dict[State, int]
    oldest_due: Oldest | None
    trouble: dict[str, int]
    placing: Seen
    caps: list[Cap]
    asked: int = Field(description="Held orders whose release somebody has asked a second person for")
    parties: list[Party]
    alerts: list[Alert]
    configuration: dict[str, Any]
    processes: list[dict[str, Any]] = Field(description="The relay's own processes: which run, which routes they use")
    spool: dict[str, Any] = Field(description="Webhooks that wait on this machine's disk, PostgreSQL being away")


class Paused(BaseModel):
    """A party that is not called."""

    party: str
    paused: bool


class Resumed(BaseModel):
    """A party that is called again: the orders that were released, and why the others stay on hold."""

    party: str
    released: list[uuid.UUID]
    kept: dict[str, str]


class Planned(BaseModel):
    """An order of a plan, as it was then."""

    id: uuid.UUID
    po_number: str
    source: str
    external_id: str
    state: State


class Would(Planned):
    """What would happen to it, in the words of its event."""

    does: str = Field(examples=["goes on as received: place at vendor:cards by route 'gift cards'"])


class Wont(Planned):
    """Why nothing would happen to it."""

    why: str


class Group(BaseModel):
    """How many orders the same would happen to."""

    does: str
    count: int


class Skipped(BaseModel):
    """An order that was no longer as it was planned."""

    id: uuid.UUID
    po_number: str
    why: str = Field(examples=["moved meanwhile: now placed"])


class BulkResult(BaseModel):
    """What became of a plan."""

    done: list[Would]
    skipped: list[Skipped]


class BulkPlan(BulkResult):
    """What would happen, to which orders; and, once it is carried out, what did. `cut`: more than 5,000 match."""

    token: str
    action: Literal["retry", "release"]
    actor: str
    note: str
    filters: dict[str, str]
    made_at: datetime
    expires_at: datetime
    used_at: datetime | None
    count: int
    refused: int
    cut: bool
    value: Decimal = Field(description="What the vendors would get together")
    beyond: dict[str, Decimal] = Field(description="Caps that it goes beyond, and how far")
    second_person: str | None = Field(description="Why another than who made the plan must act on it")
    groups: list[Group]
    would: list[Would]
    wont: list[Wont]
    left: int
