"""The shapes of what the ops API is asked, as OpenAPI shows them."""

import uuid
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Form
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from reward_relay.contracts import clean_text
from reward_relay.states import Outcome, State

Blank = BeforeValidator(clean_text)
"""An empty parameter is as a missing one."""
Word = Annotated[str | SkipJsonSchema[None], Blank]
Time = Annotated[datetime | SkipJsonSchema[None], Blank]
Verdict = Literal["accepted", "duplicate", "informational", "quarantined", "rejected"]


Said = Annotated[Annotated[str, Field(max_length=1000)] | None, Blank]
"""What a person says; an empty text counts as nothing."""
SaidInForm = Annotated[Said, Form()]


class Note(BaseModel):
    """Why a person does it; goes into the order's events."""

    model_config = ConfigDict(extra="forbid")
    note: Said = Field(None, examples=["customer called, address confirmed"])


class Refusal(Note):
    """`message` is for the person who redeemed the reward."""

    message: Said = Field(None, examples=["This reward is out of stock."])


class Closing(Note):
    """`outcome` is how a person knows that it ended."""

    outcome: Outcome | None = Field(None, examples=["fulfilled"])


class Explain(BaseModel):
    """A payload to try: the JSON itself, or the body as text (a form)."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(examples=["loyalty"])
    payload: dict[str, Any] | list[Any] | str = Field(examples=[{"id": "R-1", "email": "ana@example.com"}])


class Diff(BaseModel):
    """A changed configuration file, or its `[[routes]]` alone, at most 256 KiB."""

    model_config = ConfigDict(extra="forbid")
    toml: str = Field(examples=['[[routes]]\nname = "gift cards"\nvendor = "cards"\nproduct = "CVS"\n'])
    days: float = Field(7, gt=0, le=3650, description="How far back to look.")
    limit: int = Field(5000, ge=1, le=5000, description="Deliveries at most, the newest first.")


class Filters(BaseModel):
    """What chooses orders; every one that is given must hold."""

    model_config = ConfigDict(extra="forbid")
    source: Word = Field(None, description="A name of [sources]", examples=["loyalty"])
    vendor: Word = Field(None, description="A name of [vendors]", examples=["cards"])
    party: Word = Field(None, description="Whom the next step calls", examples=["vendor:cards"])
    q: Word = Field(
        None,
        description="Beginnings of words of name, e-mail, external id, PO number, vendor order id",
        examples=["ana d"],
    )
    hold_reason: Word = Field(None, description="Exactly this reason")
    created_after: Time = Field(None, examples=["2026-01-31T12:00:00Z"])
    created_before: Time = Field(None, examples=["2026-02-01T12:00:00Z"])


class Paging(BaseModel):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: Word = Field(None, description="`next_cursor` of the page before", json_schema_extra={"format": "uuid"})


class OrderQuery(Filters, Paging):
    """What a list of orders takes."""

    state: Annotated[State | SkipJsonSchema[None], Blank] = Field(None, examples=["on_hold"])


class DeliveryQuery(Paging):
    """What a list of deliveries takes."""

    source: Word = Field(None, description="A name of [sources]", examples=["loyalty"])
    verdict: Annotated[Verdict | SkipJsonSchema[None], Blank] = Field(None, examples=["quarantined"])
    order_id: Annotated[uuid.UUID | SkipJsonSchema[None], Blank] = Field(
        None, description="All that arrived for an order"
    )


class Waiting(Filters):
    """What chooses orders to retry: those with a next step."""

    state: Annotated[Literal["received", "placed", "settled"] | SkipJsonSchema[None], Blank] = None


class Held(Filters):
    """What chooses orders to release: those on hold."""

    state: Annotated[Literal["on_hold"] | SkipJsonSchema[None], Blank] = None


class BulkRetry(Note):
    """Make the next step due now, of every order that waits and matches."""

    action: Literal["retry"]
    filters: Waiting = Waiting()


class BulkRelease(Note):
    """Let every held order that matches go on."""

    action: Literal["release"]
    filters: Held = Field(Held(), examples=[{"source": "loyalty"}])


BulkAsk = Annotated[BulkRetry | BulkRelease, Field(discriminator="action")]


class BulkAct(BaseModel):
    """The token of a plan that you have looked at."""

    model_config = ConfigDict(extra="forbid")
    token: str = Field(examples=["0f9d3c1e-52a1-4c55-9d0b-5b6b1c0d7e11"])
