"""What another configuration would have done with the rewards that were recorded. Nothing is stored, nothing is sent.

Both configurations read the stored bytes with the code that intake itself uses. Answers hold no personal data: of a
recipient only the names of what differs, of a reason nothing that was quoted from a payload.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from reward_relay.contracts import Plan, RewardOrder
from reward_relay.db import recorded
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import KeyMissing, TooLarge, Unavailable, UnknownSource
from reward_relay.explaining import goods, held_because
from reward_relay.guards import Guards, value_of
from reward_relay.intake import Intake
from reward_relay.routing import differences
from reward_relay.spending import Spending
from reward_relay.steps import Parties

MAX_TEXT_BYTES = 256 << 10
BATCH = 50
"""Rows that are read, and then compared in a thread, at a time."""
SLICE_S, PAUSE_S = 0.01, 0.005
ANSWER_WITHIN_S = 20.0
"""For a comparison that somebody waits for."""
EXAMPLES = 5
HELD_AT_MOST = 2_000
QUOTED = re.compile(r"'[^']*'|\"[^\"]*@[^\"]*\"")
NOTE = "This is what would have been. Orders that are placed keep the plan they were given."
KINDS = {
    "now_refused": "answered 404: their source is not in the new configuration",
    "now_quarantined": "no longer understood, and kept until replayed",
    "now_nothing": "nothing would be ordered any more",
    "now_held": "now held",
    "other_reward": "another id: a repeat would be taken for another reward",
    "other_vendor": "another vendor",
    "other_product": "another product",
    "other_value": "another value",
    "other_delivery": "another way of delivery",
    "other_recipient": "another recipient",
    "now_understood": "now understood",
    "now_free": "now ordered, and not held",
    "held_otherwise": "held for another reason",
    "other_route": "another route, and the same order",
}
"""What can change, worst first; each reward counts once, under the first that fits."""


@dataclass(frozen=True, slots=True)
class Side:
    """One configuration. `unusual` are sentences about it: warnings, and what would need a restart."""

    intake: Intake
    parties: Parties
    unusual: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    guards: Guards = field(default_factory=Guards)


@dataclass(frozen=True, slots=True)
class Fate:
    """What a configuration makes of one reward: `ordered`, `held`, `quarantined`, `nothing` or `refused`."""

    status: str
    reason: str | None = None
    reward: RewardOrder | None = field(default=None, repr=False)
    route: str | None = None
    plan: Plan | None = None

    @property
    def value(self) -> Decimal | None:
        """What the order is worth, None where there is none."""
        return value_of(self.plan) if self.plan else None

    def __str__(self) -> str:
        if self.status == "ordered" and self.plan is not None:
            lines = " and ".join(goods(line) for line in self.plan.lines)
            return f"{self.plan.vendor}: {lines}, {self.plan.delivery}"
        return f"{self.status}: {QUOTED.sub('…', self.reason)}" if self.reason else self.status


def fate_of(side: Side, source: str, body: bytes, content_type: str) -> Fate:
    """What a configuration makes of a body."""
    try:
        meaning = side.intake.understand(source, body, content_type)
    except UnknownSource:
        return Fate("refused", f"there is no [sources.{source}]")
    if meaning.verdict == "quarantined":
        return Fate("quarantined", meaning.reason)
    if meaning.order is None or meaning.withdrawn:
        return Fate("nothing", meaning.reason)
    return _fate_of_reward(side, meaning.order.reward)


def fates_of(old: Side, new: Side, source: str, body: bytes, content_type: str) -> tuple[Fate, Fate]:
    """What two configurations make of a body; it is read once where both read it with the same adapter."""
    before = fate_of(old, source, body, content_type)
    if old.parties.platforms.get(source) is not new.parties.platforms.get(source):
        return before, fate_of(new, source, body, content_type)
    return before, _fate_of_reward(new, before.reward) if before.reward else before


def _fate_of_reward(side: Side, reward: RewardOrder) -> Fate:
    order = side.intake.new_order(reward.source, reward)
    reason = held_because(side.parties, reward.source, order)
    return Fate("held" if reason else "ordered", reason, reward, order.route, None if reason else order.plan)


def kind_of(before: Fate, after: Fate) -> str | None:
    """The first of `KINDS` that fits, None where all stays as it was."""
    if after.status != before.status:
        if after.status == "ordered":
            return "now_free" if before.status == "held" else "now_understood"
        if after.status == "held" and before.status != "ordered":
            return "now_understood"
        return f"now_{after.status}"
    if before.reward and after.reward and before.reward.external_id != after.reward.external_id:
        return "other_reward"
    if after.status != "ordered":
        return None if before.reason == after.reason or after.status == "refused" else "held_otherwise"
    return _kind_of_order(before, after)


def _kind_of_order(before: Fate, after: Fate) -> str | None:
    one, other = before.plan, after.plan
    assert one and other and before.reward and after.reward  # noqa: S101 - what is ordered has both
    if one.vendor != other.vendor:
        return "other_vendor"
    if [line.product for line in one.lines] != [line.product for line in other.lines]:
        return "other_product"
    if one.lines != other.lines:
        return "other_value"
    if one.delivery != other.delivery:
        return "other_delivery"
    if before.reward.recipient != after.reward.recipient:
        return "other_recipient"
    return None if one.route == other.route else "other_route"


@dataclass(slots=True)
class _Group:
    """Rewards that change in the same way, from the same route to the same route."""

    count: int = 0
    before: Decimal | None = None
    after: Decimal | None = None
    examples: list[Row] = field(default_factory=list)

    def add(self, row: Row, before: Fate, after: Fate) -> None:
        """Count one more."""
        self.count += 1
        self.before = _added(self.before, before.value)
        self.after = _added(self.after, after.value)
        if len(self.examples) < EXAMPLES:
            self.examples.append({**_named(row), "before": str(before), "after": _told(before, after)})


def _added(total: Decimal | None, value: Decimal | None) -> Decimal | None:
    return total if value is None else (total or Decimal()) + value


def _told(before: Fate, after: Fate) -> str:
    """What it would be now; of a recipient, which parts differ."""
    if before.status == after.status == "ordered" and str(before) == str(after) and before.reward and after.reward:
        changed = [name for name in differences(before.reward, after.reward) if name.startswith("recipient")]
        return f"{after}; another {', '.join(changed)}" if changed else str(after)
    return str(after)


def _named(row: Row) -> Row:
    when = row.get("received_at") or row.get("created_at")
    return {"po_number": row["po_number"], "external_id": row["external_id"], "source": row["source"], "at": when}


@dataclass(slots=True)
class _Tally:
    """What has been looked at so far."""

    old: Side
    new: Side
    deadline: float
    spending: Spending
    looked_at: int = 0
    changed: int = 0
    purged: int = 0
    sealed: int = 0
    repeats: int = 0
    seen: set[tuple[str, str | None]] = field(default_factory=set)
    out_of_time: bool = False
    oldest: datetime | None = None
    groups: dict[tuple[str, str | None, str | None], _Group] = field(default_factory=dict)
    held: int = 0
    freed: int = 0
    no_longer_freed: int = 0
    freed_examples: list[Row] = field(default_factory=list)

    def add(self, rows: Sequence[Row]) -> Iterator[None]:
        """Compare deliveries, a pause possible after each; stops where the time is over."""
        for row in rows:
            if self._late():
                return
            self.looked_at += 1
            self.oldest = row["received_at"]
            if not row["body"]:
                self.purged += 1
                continue
            yield
            try:
                body = self.old.intake.opened(row["body"])
            except KeyMissing:
                self.sealed += 1
                continue
            before, after = fates_of(self.old, self.new, row["source"], body, row["content_type"])
            if self._is_repeat(row, after):
                self.repeats += 1
                continue
            if after.plan is not None:
                self.spending.add(row["received_at"], row["source"], after.plan)
            if kind := kind_of(before, after):
                self.changed += 1
                self.groups.setdefault((kind, before.route, after.route), _Group()).add(row, before, after)

    def _is_repeat(self, row: Row, after: Fate) -> bool:
        """Whether a delivery that is not understood today would be one more of a reward that was counted."""
        key = (row["source"], after.reward.external_id if after.reward else row["external_id"])
        if key[1] is None or key not in self.seen:
            self.seen.add(key)
            return False
        return row["external_id"] is None

    def add_held(self, rows: Sequence[Row]) -> Iterator[None]:
        """Ask of orders on hold whether a release would let them go on."""
        for row in rows:
            if self._late():
                return
            self.held += 1
            yield
            then, now = (_released(side, row) for side in (self.old, self.new))
            self.no_longer_freed += then.status == "ordered" != now.status
            if now.status == "ordered" != then.status:
                self.freed += 1
                if len(self.freed_examples) < EXAMPLES:
                    self.freed_examples.append({**_named(row), "before": str(then), "after": str(now)})

    def _late(self) -> bool:
        self.out_of_time = self.out_of_time or time.monotonic() > self.deadline
        return self.out_of_time


def _released(side: Side, row: Row) -> Fate:
    """What a release would make of an order on hold."""
    try:
        stored = RewardOrder.model_validate(row["reward"])
        reward = side.intake.reread(stored, row["body"], row["content_type"] or "")
        return _fate_of_reward(side, reward)
    except (KeyMissing, UnknownSource, ValidationError):
        return Fate("held")


class Diffing:
    """Compares the configuration in use with another; one comparison at a time in each process."""

    def __init__(self, database: Database, current: Callable[[], Side], propose: Callable[[bytes], Side]) -> None:
        self._database = database
        self._current = current
        self._propose = propose
        self._busy = False

    async def diff(self, text: str, *, days: float, limit: int, seconds: float = float("inf")) -> Row:
        """What would have become of the newest `limit` deliveries of `days`, as far as one gets in `seconds`.

        Raises:
            TooLarge: the text is over 256 KiB.
            ConfigurationError: it has mistakes, one line each.
            Unavailable: another comparison runs.
        """
        content = text.encode("utf-8", "replace")
        if len(content) > MAX_TEXT_BYTES:
            raise TooLarge(f"the configuration has {len(content)} bytes, at most {MAX_TEXT_BYTES} are read")
        if self._busy:
            raise Unavailable("another comparison runs in this process; try again in a few seconds")
        self._busy = True
        try:
            return await self._diff(content, days, limit, time.monotonic() + seconds)
        finally:
            self._busy = False

    async def _diff(self, content: bytes, days: float, limit: int, deadline: float) -> Row:
        new = await asyncio.to_thread(self._propose, content)
        tally = _Tally(self._current(), new, deadline, Spending(new.guards))
        since = datetime.now(UTC) - timedelta(days=days)
        more = await self._page(tally, since, limit)
        await self._held(tally)
        cut = "time" if tally.out_of_time else "limit" if more else None
        return {
            "note": NOTE,
            "since": since,
            "looked_at": tally.looked_at,
            "changed": tally.changed,
            "purged": tally.purged,
            "sealed": tally.sealed,
            "repeats": tally.repeats,
            "cut": cut,
            "oldest": tally.oldest,
            "routes": list(tally.new.changed),
            "warnings": list(tally.new.unusual),
            "groups": _shown(tally),
            "caps": tally.spending.shown(),
            "on_hold": {
                "looked_at": tally.held,
                "freed": tally.freed,
                "no_longer_freed": tally.no_longer_freed,
                "examples": tally.freed_examples,
            },
        }

    async def _page(self, tally: _Tally, since: datetime, limit: int) -> bool:
        """Look at all; whether there are more than `limit`."""
        before = None
        while not tally.out_of_time:
            wanted = min(BATCH, limit - tally.looked_at)
            async with self._database.transaction() as connection:
                rows = await recorded.arrivals(connection, since, before, wanted or 1)
            if not rows or not wanted:
                return bool(rows)
            await _in_slices(tally.add(rows))
            before = rows[-1]["id"]
        return True

    async def _held(self, tally: _Tally) -> None:
        before = None
        while not tally.out_of_time and tally.held < HELD_AT_MOST:
            async with self._database.transaction() as connection:
                rows = await recorded.held(connection, before, BATCH)
            if not rows:
                return
            await _in_slices(tally.add_held(rows))
            before = rows[-1]["id"]


async def _in_slices(work: Iterator[None]) -> None:
    """Do the work in a thread, with pauses: it computes only, and webhooks need the interpreter too."""
    more = True
    while more:
        more = await asyncio.to_thread(_slice, work)
        await asyncio.sleep(PAUSE_S)


def _slice(work: Iterator[None]) -> bool:
    end = time.monotonic() + SLICE_S
    return any(time.monotonic() > end for _ in work)


def _shown(tally: _Tally) -> list[dict[str, Any]]:
    """The groups, worst kind and greatest count first."""
    order = list(KINDS)
    found = sorted(tally.groups.items(), key=lambda each: (order.index(each[0][0]), -each[1].count))
    return [
        {
            "kind": kind,
            "title": KINDS[kind],
            "count": group.count,
            "route_before": before,
            "route_after": after,
            "sum_before": group.before,
            "sum_after": group.after,
            "examples": group.examples,
        }
        for (kind, before, after), group in found
    ]
