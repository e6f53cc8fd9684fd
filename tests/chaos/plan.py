"""What a run will do, all of it drawn from the seed: rewards, deliveries, kills, and the far side's weather.

Times of a run differ from those of another with the same seed, and with them what a kill happens to interrupt. The
plan is the same: which rewards, how often each is posted, what strikes after which reward, which call goes wrong how.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

SOURCES = {"talkable": 4, "roster": 2, "voucherify": 2, "influitive": 2}
"""How many rewards of ten come from each platform."""
SORTS = ("api", "worker", "workers", "relay", "backend", "postmaster", "all")
"""What is killed: the API, one worker, all of them, both, a process of PostgreSQL, its parent, everything."""
LEAST_OF_A_SORT = 4
PAUSED = "pause"
NAME = r"chaos-[a-z]+-[0-9]+"
"""What a reward is called wherever people or parcels are named; the vendor's orders are counted by it."""


@dataclass(frozen=True, slots=True)
class Reward:
    """One reward as its platform knows it; `closing_key` is what its end is told under.

    `kind`: `order`, `withdrawn` (asked for, then taken back) or `informational` (none of our business).
    `copies` are posted at the same time, one more `again_s` after the first was taken, a withdrawal `taken_back_s`
    after the first was sent (before it, where that is negative).
    """

    number: int
    source: str
    kind: str
    copies: int
    again_s: float | None
    taken_back_s: float

    @property
    def name(self) -> str:
        """Unique, and readable at the far side."""
        return f"chaos-{self.source}-{self.number}"

    @property
    def external_id(self) -> str:
        """Its id on the platform."""
        if self.source in ("talkable", "influitive"):
            return str(7_000_000 + self.number)
        return f"r_{self.name}" if self.source == "voucherify" else self.name

    @property
    def by_asking(self) -> bool:
        """Whether it goes to the vendor that knows no key, but can be asked."""
        return self.source == "roster" or (self.source == "talkable" and self.number % 2 == 1)


@dataclass(frozen=True, slots=True)
class Kill:
    """What is killed once reward number `after` has been sent, and how long it stays away.

    `early` does not wait until the relay is ready again after the kill before.
    """

    sort: str
    after: int
    delay_s: float
    away_s: float
    early: bool
    draw: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    rewards: list[Reward]
    kills: list[Kill]
    weather: dict[str, Any]

    def sorts(self) -> Counter[str]:
        """How many kills there are of each sort."""
        return Counter(kill.sort for kill in self.kills)


def draw(seed: int, orders: int, kills: int, lease_s: float, deadline_s: float) -> Plan:
    """The plan of a seed: `orders` rewards that ask for an order, and a few besides that do not."""
    chance = random.Random(seed)
    rewards = [_reward(chance, number) for number in range(1, orders + 1)]
    for number in range(orders + 1, orders + 1 + orders // 25):
        rewards.append(_reward(chance, number, "informational"))
    chance.shuffle(rewards)
    return Plan(seed, rewards, _kills(chance, len(rewards), kills, lease_s), weather(seed, deadline_s))


def _reward(chance: random.Random, number: int, kind: str | None = None) -> Reward:
    source = chance.choices(list(SOURCES), list(SOURCES.values()))[0]
    if kind == "informational":
        source = "talkable"
    elif kind is None:
        kind = "withdrawn" if source in ("talkable", "roster") and chance.random() < 0.05 else "order"
    return Reward(
        number,
        source,
        kind,
        copies=chance.choices((1, 2, 3), (5, 3, 2))[0],
        again_s=chance.uniform(0.5, 8) if chance.random() < 0.15 else None,
        taken_back_s=chance.uniform(-0.5, 3),
    )


def _kills(chance: random.Random, rewards: int, kills: int, lease_s: float) -> list[Kill]:
    """At least four of each sort where there are enough, and a pause for every seventh kill; evenly over the run."""
    least = min(LEAST_OF_A_SORT, kills // len(SORTS))
    sorts = [sort for sort in SORTS for _ in range(least)]
    sorts += [chance.choice(SORTS) for _ in range(kills - len(sorts))]
    sorts += [PAUSED] * -(-kills // 7)
    chance.shuffle(sorts)
    found = []
    for place, sort in enumerate(sorts):
        after = round((place + chance.uniform(0.2, 0.8)) / (len(sorts) + 0.5) * rewards)
        away_s = lease_s * chance.uniform(1.3, 2) if sort == PAUSED else chance.uniform(0, 1)
        found.append(Kill(sort, after, chance.uniform(0, 0.5), away_s, chance.random() < 0.2, chance.random()))
    return found


def weather(seed: int, deadline_s: float) -> dict[str, Any]:
    """About four calls of ten go wrong at first, each reward's up to three times at each operation."""
    late = round(deadline_s * 1.4, 2)
    before = [("error_500", 0.03), ("rate_limit", 0.03), ("drop", 0.03), ("unavailable", 0.01)]
    after = [("lose_answer", 0.04), ("garbage", 0.03), ("half_answer", 0.03), ("error_500_after", 0.03)]
    after += [("error_504", 0.02)]
    calls = [{"mode": mode, "chance": chance} for mode, chance in before + after]
    calls += [
        {"mode": "lose_answer", "chance": 0.03, "delay_s": late},
        {"mode": "slow", "chance": 0.05, "delay_s": 0.4},
    ]
    place = [*calls, {"mode": "refuse", "chance": 0.05}, {"mode": "call_back_first", "chance": 0.05}]
    # A request that the vendor takes only after we gave it up is answered by its key; by asking it cannot be found.
    slowest = {"mode": "slow", "chance": 0.02, "delay_s": late}
    callback = [
        {"mode": "duplicate", "chance": 0.15},
        {"mode": "scatter", "chance": 0.15, "delay_s": 3},
        {"mode": "never_call_back", "chance": 0.15},
        {"mode": "slow", "chance": 0.15, "delay_s": 2},
    ]
    reads = [each for each in calls if each["mode"] != "garbage"]
    gusts: dict[str, Any] = {f"{source}.close": calls for source in SOURCES}
    for vendor in ("gcp", "keyless"):
        gusts |= {f"{vendor}.place": place, f"{vendor}.check": reads, f"{vendor}.callback": callback}
    gusts |= {"gcp.place": [*place, slowest], "keyless.find": reads, "voucherify.read": reads}
    return {"seed": seed, "reward": NAME, "gusts": gusts, "most": 3}
