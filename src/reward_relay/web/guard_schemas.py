"""The shapes of the ops API's answers about caps, the switch that stops placing, and the second person."""

from datetime import date, datetime
from decimal import Decimal

from pydantic import BaseModel, Field


class Asked(BaseModel):
    """Who has asked for a release that needs a second person; it is good for 24 hours, and for nothing else."""

    by: str = Field(examples=["alice"])
    note: str
    at: datetime


class Cap(BaseModel):
    """A cap on a day, and what is used of it today (UTC). `part` is 1 where all is; `held`: orders held back today."""

    cap: str = Field(examples=['routes."gift cards".caps.day_value'])
    limit: Decimal
    used: Decimal
    part: float
    held: int


class Seen(BaseModel):
    """Whether orders are placed; while `paused` they are taken and wait."""

    paused: bool
    by: str | None = Field(examples=["alice"])
    note: str | None
    since: datetime | None


class Placing(Seen):
    """With the number of orders that wait to be placed."""

    waiting: int


class CapDays(BaseModel):
    """What recorded rewards would have used of a cap: the fullest day, and on how many days orders had been held."""

    cap: str
    limit: Decimal
    most: Decimal
    day: date
    days_over: int
