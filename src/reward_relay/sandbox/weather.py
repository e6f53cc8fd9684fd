"""Misbehaviour by chance: what a whole storm does to each call, drawn from a seed.

A call draws by its party, its operation, the reward that it is about and how often it came before. So the same reward
meets the same trouble in every run with the same seed, however the calls of different rewards are interleaved.
"""

import random
import re
from collections import Counter
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reward_relay.sandbox.modes import OPERATIONS, Mode, Rule, modes_of


class Gust(BaseModel):
    """One kind of misbehaviour, with its chance at each call. The other fields are a rule's."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode
    chance: float = Field(gt=0, le=1)
    delay_s: float | None = Field(default=None, ge=0, le=300)
    retry_after_s: int = Field(default=1, ge=0)
    reason: str = "Out of stock"


class Weather(BaseModel):
    """What may go wrong at which operation, written `party.operation`; rules go before it."""

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    reward: str = Field(min_length=1, max_length=200, description="Pattern of what names a reward in a call.")
    gusts: dict[str, list[Gust]]
    most: int = Field(default=3, ge=1, description="How often calls of one operation go wrong for one reward.")

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        try:
            re.compile(self.reward)
        except re.error as error:
            raise ValueError(f"reward is no pattern: {error}") from None
        for place, gusts in self.gusts.items():
            party, _, operation = place.partition(".")
            if operation not in OPERATIONS.get(party, ()):
                raise ValueError(f"there is no {place!r}; write party.operation")
            for gust in gusts:
                if gust.mode not in modes_of(operation):
                    raise ValueError(f"{gust.mode} means nothing for {place}")
            if sum(gust.chance for gust in gusts) > 1:
                raise ValueError(f"the chances of {place} are more than 1 together")
        return self


class Skies:
    """The weather in force, and what it has done so far; fair at first."""

    def __init__(self) -> None:
        self.change(None)

    def change(self, weather: Weather | None) -> None:
        """Another weather from now on, None for a fair one."""
        self.weather = weather
        self.counted: Counter[str] = Counter()
        self._came: Counter[tuple[str, str]] = Counter()
        self._struck: Counter[tuple[str, str]] = Counter()
        self._reward = re.compile(weather.reward) if weather else None

    def take(self, party: str, operation: str, text: str) -> Rule | None:
        """What happens to this call; a call that names no reward draws, too, and is struck as often as it comes."""
        gusts = self.weather.gusts.get(f"{party}.{operation}") if self.weather else None
        if self.weather is None or self._reward is None or not gusts:
            return None
        found = self._reward.search(text)
        place, name = f"{party}.{operation}", found[0] if found else ""
        self._came[place, name] += 1
        if name and self._struck[place, name] >= self.weather.most:
            return None
        drawn = random.Random(f"{self.weather.seed}/{place}/{name}/{self._came[place, name]}").random()
        for gust in gusts:
            drawn -= gust.chance
            if drawn < 0:
                self._struck[place, name] += 1
                self.counted[f"{place}: {gust.mode}"] += 1
                return Rule.model_validate(
                    {"party": party, "operation": operation, **gust.model_dump(exclude={"chance"})}
                )
        return None
