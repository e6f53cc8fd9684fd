"""Retry or release many orders: first a plan of what would happen to which, then exactly that, or why not.

A plan pins each order as it was, and its way. Acting takes the plan's token, goes through the orders in batches, each
in one transaction, and skips whatever is no longer as it was. A batch writes down its result with what it does: after
a crash the plan says what was done, and a new plan covers the rest.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.actions import BUSY, Actions, Refused, Way, go
from reward_relay.db import plans, queries
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import DatabaseUnavailable, Invalid, NotFound, Unavailable
from reward_relay.releasing import Passing
from reward_relay.states import State

MOST = 5_000
BATCH = 100
LOOK_FIRST = "order {0} may be at {1} already: look for it there, then release it by itself, or close it"
STATES = {"retry": (State.RECEIVED, State.PLACED, State.SETTLED), "release": (State.ON_HOLD,)}
FILTERS = ("state", "source", "vendor", "party", "q", "hold_reason", "created_after", "created_before")
Progress = Callable[[int, int], None]


class Bulk:
    """Plans and acts over one database; what an action is, `Actions` knows."""

    def __init__(self, database: Database, actions: Actions) -> None:
        self._database = database
        self._actions = actions

    async def plan(self, action: str, filters: Mapping[str, Any], actor: str, note: str = "") -> Row:
        """What `retry` or `release` would do to the orders that match now: the oldest 5,000, `cut` if there are more.

        Raises:
            Invalid: there is no such action or filter, or it asks for a state that the action is not for.
        """
        wanted = _wanted(action, filters)
        would: list[Row] = []
        wont: list[Row] = []
        passed: list[Passing] = []
        async with self._database.transaction() as connection:
            last, cut = None, False
            while not cut and (rows := await queries.select_orders(connection, wanted, BATCH, last)):
                last, room = rows[-1]["id"], MOST - len(would) - len(wont)
                cut, rows = len(rows) > room, rows[:room]
                for row, way in zip(rows, await self._actions.forecast(connection, action, rows), strict=True):
                    if isinstance(way, Refused):
                        wont.append({**_named(row), "why": way.why})
                        continue
                    if way.looked:
                        wont.append({**_named(row), "why": LOOK_FIRST.format(row["po_number"], row["vendor"])})
                        continue
                    would.append({**_named(row), "does": way.does, "way": way.pinned(), "pin": _pin(row)})
                    passed += [way.passing] if way.passing else []
            kept = {name: value for name, value in wanted.items() if name in FILTERS}
            kept |= {name: kept[name].isoformat() for name in queries.TIMES if name in kept}
            content = {"filters": kept, "would": would, "wont": wont, "cut": cut, **worth(passed)}
            token = await plans.keep(connection, f"bulk {action}", actor, note, content)
            return _shown(await plans.find(connection, token))

    async def find(self, token: str) -> Row:
        """A plan, and what became of it so far.

        Raises:
            NotFound: there is none with this token.
        """
        async with self._database.transaction() as connection:
            return _shown(await _find(connection, token))

    async def act(self, token: str, actor: str, on_progress: Progress | None = None) -> Row:
        """Do what the plan says; an order that is no longer as it was is skipped, with the reason.

        A plan that takes two persons is carried out by another than who made it.

        Raises:
            NotFound: there is no plan with this token.
            NotAllowed: it is somebody else's, has been used, or is too old.
            Unavailable: PostgreSQL went away; says how many were done.
        """
        result: Row = {"done": [], "skipped": []}
        plan: Row = {}
        try:
            async with self._database.transaction() as connection:
                plan = await _find(connection, token)
                await self._use(connection, plan, token, actor)
                would = plan["content"]["would"]
                result = await self._batch(connection, plan, would[:BATCH], result)
            for start in range(BATCH, len(would) + BATCH, BATCH):
                if on_progress:
                    on_progress(min(start, len(would)), len(would))
                if start < len(would):
                    async with self._database.transaction() as connection:
                        result = await self._batch(connection, plan, would[start : start + BATCH], result)
        except DatabaseUnavailable as error:
            if not result["done"] and not result["skipped"]:
                raise
            raise Unavailable(
                f"PostgreSQL went away: {len(result['done'])} of {len(plan['content']['would'])} are known to be done; "
                f"ask for the plan {token} when it is back, and make a new plan for what is left ({error})"
            ) from error
        return result

    async def _use(self, connection: AsyncConnection, plan: Row, token: str, actor: str) -> None:
        """Take the plan for this actor; `by` then says who acts, and for whom."""
        second = plan["content"].get("second_person")
        if second and not plan["used_at"]:
            self._actions.releases.agreed(plan["actor"], actor, second)
        await plans.use(connection, token, plan["actor"] if second else actor)
        asked = f"planned by {plan['actor']}" if second else ""
        plan |= {"by": actor, "note": "; ".join(filter(None, (plan["note"], asked)))}

    async def _batch(self, connection: AsyncConnection, plan: Row, batch: Sequence[Row], before: Row) -> Row:
        """One transaction's part; returns the result so far, which it writes down too."""
        action = plan["action"].removeprefix("bulk ")
        done, skipped = list(before["done"]), list(before["skipped"])
        rows = await queries.take_orders(connection, [each["id"] for each in batch])
        ways = await self._actions.forecast(connection, action, list(rows.values()), lock=True)
        now = dict(zip(rows, ways, strict=True))
        for pinned in batch:
            row = rows.get(pinned["id"])
            way = now.get(pinned["id"])
            why = BUSY if row is None or way is None else _moved(pinned, row, way)
            if why is None and _needs_second(way) and not plan["content"].get("second_person"):
                why = "takes a second person by now; make a new plan"
            if row is not None and isinstance(way, Way) and why is None:
                if await go(connection, action, row, way, plan["by"], plan["note"]):
                    done.append(_named(row) | {"does": pinned["does"]})
                    continue
                why = "moved meanwhile"
            skipped.append({name: pinned[name] for name in ("id", "po_number")} | {"why": why})
        result = {"done": done, "skipped": skipped}
        await plans.note_result(connection, str(plan["id"]), result)
        return result


def _wanted(action: str, filters: Mapping[str, Any]) -> Row:
    """The filters as `queries` takes them."""
    if action not in STATES:
        raise Invalid(f"there is no bulk action {action!r}; there is {' and '.join(STATES)}")
    if unknown := [name for name in filters if name not in FILTERS]:
        raise Invalid(f"there is no filter {unknown[0]!r}; the filters are {', '.join(FILTERS)}")
    wanted = queries.cleaned(filters)
    if wanted.get("state", STATES[action][0]) not in STATES[action]:
        raise Invalid(f"{action} is for orders that are {', '.join(STATES[action])}, not for {wanted['state']!r}")
    if action == "release":
        return wanted | {"state": State.ON_HOLD}
    return wanted | {"waiting": True}


async def _find(connection: AsyncConnection, token: str) -> Row:
    plan = await plans.find(connection, token)
    if plan["action"].removeprefix("bulk ") not in STATES or not plan["action"].startswith("bulk "):
        raise NotFound(f"plan {token!r} is none of bulk work, but of {plan['action']}")
    return plan


def _named(row: Row) -> Row:
    named = {name: row[name] for name in ("po_number", "source", "external_id", "state")}
    return {"id": str(row["id"]), **named}


def _pin(row: Row) -> str:
    """A digest of all that is known of an order: the same only while nothing of it changed."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, default=str).encode()).hexdigest()


def _moved(pinned: Row, row: Row, way: Way | Refused) -> str | None:
    """Why an order is no longer the one of the plan, None where it is."""
    if row["claimed"]:
        return BUSY
    if row["state"] != pinned["state"]:
        return f"moved meanwhile: now {row['state']}"
    if _pin(row) != pinned["pin"]:
        held = f" ({row['hold_reason']})" if row["hold_reason"] else ""
        return f"changed meanwhile: still {row['state']}{held}, but not as it was planned; look again"
    if isinstance(way, Refused):
        return f"the routes changed since the plan: {way.why}"
    if way.pinned() != pinned["way"]:
        return f"the routes changed since the plan: it {way.does} now; make a new plan"
    return None


def _needs_second(way: Way | Refused | None) -> bool:
    return isinstance(way, Way) and way.passing is not None and way.passing.second is not None


def worth(passed: Sequence[Passing]) -> Row:
    """What releases are worth together, how far they go beyond which caps, and why they take a second person."""
    beyond: dict[str, Decimal] = {}
    for over in (over for each in passed for over in each.overs):
        single = over.cap.endswith("order_value")  # the others are counted one after the other
        beyond[over.cap] = beyond.get(over.cap, Decimal()) + over.beyond if single else over.beyond
    second = [each.second for each in passed if each.second]
    more = f" (and {len(second) - 1} more)" if len(second) > 1 else ""
    return {
        "value": str(sum((each.value for each in passed), Decimal())),
        "beyond": {cap: str(amount) for cap, amount in beyond.items()},
        "second_person": f"an order: {second[0]}{more}" if second else None,
    }


def _shown(plan: Row) -> Row:
    """A plan as people see it."""
    content, result = plan["content"], plan["result"] or {"done": [], "skipped": []}
    would = [{name: value for name, value in each.items() if name not in ("way", "pin")} for each in content["would"]]
    groups = Counter(each["does"] for each in would)
    return {
        "token": str(plan["id"]),
        "action": plan["action"].removeprefix("bulk "),
        "actor": plan["actor"],
        "note": plan["note"],
        "filters": content["filters"],
        "made_at": plan["made_at"],
        "expires_at": plan["expires_at"],
        "used_at": plan["used_at"],
        "count": len(would),
        "refused": len(content["wont"]),
        "cut": content["cut"],
        "value": Decimal(content.get("value", "0")),
        "beyond": {cap: Decimal(amount) for cap, amount in content.get("beyond", {}).items()},
        "second_person": content.get("second_person"),
        "groups": [{"does": does, "count": count} for does, count in groups.most_common()],
        "would": would,
        "wont": content["wont"],
        **result,
        "left": len(would) - len(result["done"]) - len(result["skipped"]),
    }
