"""The shapes of the ops API's answers about a comparison of configurations."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, Field

from reward_relay.web.guard_schemas import CapDays


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

    `purged` are deliveries without a body, `sealed` those whose key is missing, `repeats` those that are not understood
    today and would be duplicates.
    """

    note: str
    since: datetime
    looked_at: int
    changed: int
    purged: int
    sealed: int
    repeats: int
    cut: Literal["limit", "time"] | None
    oldest: datetime | None
    routes: list[str]
    warnings: list[str]
    groups: list[DiffGroup]
    caps: list[CapDays]
    on_hold: DiffHeld
