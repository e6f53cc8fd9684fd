"""The reckoning: what was lost, doubled, left without an end, or told wrongly. Counted at the far side.

The relay's own word is used for three things only: that every order is closed, which events it went through, and that
a reward which its platform took back was ended without an order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any

from chaos.far import Far, Told
from chaos.plan import Reward
from chaos.posting import Posted
from reward_relay.states import State, can_go

DECLINED = "Declined"
SOONEST_S = 3.9
"""No repeat comes sooner: neither the first retry nor the end of the shortest lease of a run."""
ACCEPTED = ("accepted", "duplicate")


@dataclass(frozen=True, slots=True)
class Struck:
    """When something was killed or paused, and when the relay was ready again; seconds since 1970."""

    sort: str
    at: float
    until: float


@dataclass(slots=True)
class Reckoning:
    """Everything that should be empty, each entry a sentence; and the closing calls that came again, by cause."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    not_ended: list[str] = field(default_factory=list)
    not_told: list[str] = field(default_factory=list)
    told_wrongly: list[str] = field(default_factory=list)
    told_again_without_cause: list[str] = field(default_factory=list)
    mixed_up: list[str] = field(default_factory=list)
    not_answered: list[str] = field(default_factory=list)
    illegal: list[str] = field(default_factory=list)
    not_as_written: list[str] = field(default_factory=list)
    repeats: Counter[str] = field(default_factory=Counter)

    def mistakes(self) -> dict[str, list[str]]:
        """The lists, by what they are about."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "repeats"}

    @property
    def good(self) -> bool:
        """Whether every list is empty."""
        return not any(self.mistakes().values())


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is reckoned with. `orders` are the relay's by id, `events` their (from, to) in order of time.

    `flaws` is what `verify` says of the ledger.
    """

    rewards: Sequence[Reward]
    posted: Posted
    far: Far
    orders: Mapping[str, Mapping[str, Any]]
    events: Mapping[str, Sequence[tuple[str | None, str]]]
    struck: Sequence[Struck]
    deadline_s: float
    flaws: Sequence[str] = ()


def reckon(seen: Seen) -> Reckoning:
    """Look at every reward."""
    found = Reckoning(mixed_up=list(seen.far.strangers), not_answered=list(seen.posted.refused))
    found.not_as_written += seen.flaws
    by_reward = {(order["source"], order["external_id"]): order for order in seen.orders.values()}
    for reward in seen.rewards:
        order = by_reward.pop((reward.source, reward.external_id), None)
        if not seen.posted.taken[reward.name]:
            found.not_answered.append(f"{reward.name}: no delivery was ever taken")
        elif reward.kind == "informational":
            _should_be_nothing(found, seen, reward, order)
        else:
            _count(found, seen, reward, order)
        _repeats(found, seen, reward)
    found.mixed_up += [f"{order['po_number']} is for no reward that was sent" for order in by_reward.values()]
    found.illegal += [each for key, order in seen.orders.items() for each in _path(order, seen.events.get(key, ()))]
    return found


def _should_be_nothing(found: Reckoning, seen: Seen, reward: Reward, order: Any) -> None:
    if seen.far.made[reward.name] or seen.far.told[reward.name] or order:
        found.mixed_up.append(f"{reward.name} asks for nothing, and something came of it")


def _count(found: Reckoning, seen: Seen, reward: Reward, order: Mapping[str, Any] | None) -> None:
    """One reward whose webhook was taken: one order, one end, and the platform knows it."""
    made, told = seen.far.made[reward.name], seen.far.told[reward.name]
    cancelled = reward.kind == "withdrawn" and not made and order is not None and order["outcome"] == "cancelled"
    ids = {taken.order_id for taken in seen.posted.taken[reward.name] if taken.order_id}
    if len(ids) > 1 or (ids and order is not None and ids != {order["id"]}):
        found.mixed_up.append(f"{reward.name} was answered with the orders {', '.join(sorted(ids))}")
    if unlike := {taken.verdict for taken in seen.posted.taken[reward.name]} - {*ACCEPTED}:
        found.mixed_up.append(f"{reward.name} was taken as {', '.join(sorted(unlike))}")
    if len(made) > 1:
        found.doubled.append(f"{reward.name}: the vendor made {len(made)} orders")
    if not made and not cancelled:
        found.lost.append(f"{reward.name}: its webhook was answered 2xx, and the vendor never got an order")
    if order is None or order["state"] != State.CLOSED:
        found.not_ended.append(f"{reward.name} is {order['state'] if order else 'unknown to the relay'}")
    if not told and not cancelled:
        found.not_told.append(f"{reward.name}: its platform was never told how it ended")
    should = {"refused" if status == DECLINED else "fulfilled" for status in made}
    if told and {each.outcome for each in told} != should:
        said = ", ".join(sorted({each.outcome for each in told}))
        found.told_wrongly.append(f"{reward.name}: told {said}, and the vendor says {', '.join(made) or 'nothing'}")


def _repeats(found: Reckoning, seen: Seen, reward: Reward) -> None:
    """A closing call may come again only where nobody could know that the one before had worked."""
    told = sorted(seen.far.told[reward.name], key=lambda each: each.at)
    for before, after in pairwise(told):
        cause = _cause(before, after, seen)
        if cause is None:
            found.told_again_without_cause.append(f"{reward.name}: told {len(told)} times, without a reason")
        else:
            found.repeats[cause] += 1


def _cause(told: Told, after: Told, seen: Seen) -> str | None:
    """Why a closing call came again. Without a fault or a kill, only a lease that ended lets another worker repeat."""
    if told.unheard:
        return "the platform's answer was lost"
    if told.took_s > seen.deadline_s * 0.8:
        return "the platform answered too late"
    if any(each.at - 2 <= told.at <= each.until + 1 for each in seen.struck):
        return "killed before it was recorded"
    if after.at - told.at > SOONEST_S:
        return "not heard or recorded in time, on a busy machine"
    return None


def _path(order: Mapping[str, Any], events: Sequence[tuple[str | None, str]]) -> list[str]:
    """What is wrong with an order's events: each must go on where the one before ended, by a way that there is."""
    wrong, now = [], None
    for number, (start, end) in enumerate(events):
        if start != now:
            wrong.append(f"{order['po_number']}: event {number} begins at {start}, and the order was {now}")
        elif start is not None and not can_go(State(start), State(end)):
            wrong.append(f"{order['po_number']}: event {number} goes from {start} to {end}")
        now = end
    if now != order["state"]:
        wrong.append(f"{order['po_number']} is {order['state']}, and its events end with {now}")
    return wrong
