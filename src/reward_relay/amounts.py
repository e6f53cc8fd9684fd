"""Money, and how much of it may be sent before a person must look."""

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Money = Annotated[Decimal, Field(ge=0, max_digits=14, decimal_places=4, allow_inf_nan=False)]
"""An amount in major units."""


class Caps(BaseModel):
    """Limits on orders before they are sent; over one of them an order is held. A day is a calendar day in UTC."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order_value: Money | None = Field(None, description="An order that is worth more is held.")
    day_value: Money | None = Field(None, description="Orders that would take the day's sum above this are held.")
    day_count: Annotated[int, Field(ge=0)] | None = Field(None, description="So many orders a day; more are held.")

    @property
    def daily(self) -> bool:
        """Whether anything must be counted."""
        return self.day_value is not None or self.day_count is not None
