"""What a person may do to an order: whether it is allowed, what it would do, and the doing of it.

Single actions, the list of what is allowed now and bulk plans all ask here, so that they cannot disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.contracts import Plan, Platform, RewardOrder
from reward_relay.db import caps, parties, queries, steering
from reward_relay.db.queries import Row
from reward_relay.db.steering import Move
from reward_relay.errors import KeyMissing, NotAllowed
from reward_relay.guards import Guards
from reward_relay.intake import Intake
from reward_relay.jobs import BLIND, source_party, vendor_party
from reward_relay.releasing import Passing, Releases
from reward_relay.routing import route_order, start_of
from reward_relay.settings import Route
from reward_relay.states import Outcome, State, Step

ACTIONS = ("retry", "hold", "release", "refuse", "close")
DONE = {"retry": "retried", "hold": "held", "release": "released", "refuse": "refused", "close": "closed"}
BUSY = "a call for it runs just now; try again in a few seconds"
STORED = "this version cannot read the stored order; upgrade to the one that wrote it, then release"


@dataclass(frozen=True, slots=True)
class Way:
    """Where an action takes an order. `does` is the sentence for who asks first, and then for the order's event.

    `looked` marks a release by which a person says: I looked, and the vendor does not have it.
    `passing`, of a release, is about this moment; two ways that differ in nothing else are the same.
    """

    does: str
    to: str
    step: str | None = None
    party: str | None = None
    route: str | None = None
    vendor: str | None = None
    plan: str | None = None
    looked: bool = False
    passing: Passing | None = field(default=None, compare=False)

    def pinned(self) -> dict[str, Any]:
        """All but what is about this moment."""
        return {name: getattr(self, name) for name in Way.__slots__ if name != "passing"}


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an action is not allowed, as a sentence."""

    why: str


class Actions:
    """Knows the way of every action; `routes` and `guards` are asked anew each time."""

    def __init__(
        self,
        intake: Intake,
        platforms: Mapping[str, Platform],
        routes: Callable[[], Sequence[Route]],
        guards: Callable[[], Guards] = Guards,
    ) -> None:
        self.releases = Releases(guards)
        self._intake = intake
        self._platforms = platforms
        self._routes = routes

    async def forecast(
        self, connection: AsyncConnection, action: str, rows: Sequence[Row], *, lock: bool = False
    ) -> list[Way | Refused]:
        """What the action would do to each of these orders as they are now, or why it is not allowed.

        `lock` is for who then does it: what a release passes stays so until the transaction ends.
        """
        found: list[Way | Refused] = []
        bodies = await self._bodies(connection, action, rows)
        for row in rows:
            if obstacle := _obstacle(action, row):
                found.append(Refused(f"{named(row)} {obstacle}"))
            elif action == "release":
                found.append(self._way_on(row, bodies.get(str(row["delivery_id"]))))
            else:
                found.append(_way(action, row))
        return await self._with_passing(connection, rows, found, lock=lock) if action == "release" else found

    async def _with_passing(
        self, connection: AsyncConnection, rows: Sequence[Row], found: Sequence[Way | Refused], *, lock: bool
    ) -> list[Way | Refused]:
        """The ways with what each release passes. Only who releases what the cap has held passes the cap: another plan
        than then is judged anew when it is to be placed."""
        plans = [_plan_of(row, way) for row, way in zip(rows, found, strict=True)]
        past = [_is_past_cap(row, way) for row, way in zip(rows, found, strict=True)]
        judged = await self.releases.judge(connection, rows, plans, past, lock=lock)
        return [
            replace(way, passing=each, does=f"{way.does}, past the cap {row['cap']}, counted today" if by else way.does)
            if isinstance(way, Way)
            else way
            for row, way, by, each in zip(rows, found, past, judged, strict=True)
        ]

    async def check(self, connection: AsyncConnection, action: str, row: Row) -> Way:
        """The way of one order.

        Raises:
            NotAllowed: with the reason.
        """
        (found,) = await self.forecast(connection, action, [row], lock=True)
        if isinstance(found, Refused):
            raise NotAllowed(found.why)
        return found

    async def allowed(self, connection: AsyncConnection, row: Row, stopped: Mapping[str, str]) -> list[Row]:
        """Every action on an order: whether it is allowed now, and what it would do or why it is not.

        `stopped` is what `obstacles` found. `asked_by` has asked for it, and another person's key does it.
        """
        told: list[Row] = []
        for action in (*ACTIONS, *(["withdraw"] if row["asked"] else [])):
            (way,) = await self.forecast(connection, action, [row])
            does, why = (None, way.why) if isinstance(way, Refused) else (way.does, None)
            passing = way.passing if isinstance(way, Way) else None
            asked = self.releases.asked(row, passing)
            if isinstance(way, Way) and (stop := stopped_by(way.step, way.party, stopped)):
                does = f"{way.does}; it waits while {stop.partition(': ')[0]}"
            if passing is not None and passing.second:
                waits = f"waits for a second person; asked by {asked['by']}" if asked else "needs a second person"
                does = f"{does}; {waits}, for {passing.second}"
            by = asked["by"] if asked else None
            told.append({"action": action, "allowed": why is None, "does": does, "why_not": why, "asked_by": by})
        return told

    async def _bodies(self, connection: AsyncConnection, action: str, rows: Sequence[Row]) -> dict[str, Row]:
        """The deliveries of the orders that a release routes again."""
        wanted = [str(row["delivery_id"]) for row in rows if _routes_again(row)] if action == "release" else []
        found = await queries.find_deliveries(connection, wanted) if wanted else []
        return {str(each["id"]): each for each in found}

    def _way_on(self, row: Row, delivery: Row | None) -> Way | Refused:
        """Where a held order goes on: from where it was; where it is not placed yet, by today's routes."""
        came_from = State(row["held_from"])
        if came_from is State.PLACED:
            return _goes_on(came_from, Step.CHECK, vendor_party(row["vendor"]))
        if came_from is State.SETTLED:
            return _goes_on(came_from, Step.CLOSE, source_party(row["source"]))
        if not _routes_again(row) and BLIND in row["hold_reason"]:
            way = _goes_on(
                came_from, Step.PLACE, vendor_party(row["vendor"]), "once more: you say that it is not there"
            )
            return replace(way, looked=True)
        if not _routes_again(row):
            kept = "with the plan it had, for it may be there already"
            return _goes_on(came_from, Step.PLACE, vendor_party(row["vendor"]), kept)
        try:
            reward = RewardOrder.model_validate(row["reward"])
            if delivery is not None:
                reward = self._intake.reread(reward, delivery["body"], delivery["content_type"])
        except ValidationError:
            return Refused(f"{named(row)} stays on hold: {STORED}")
        except KeyMissing as error:
            return Refused(f"{named(row)} stays on hold: its webhook cannot be read again, {error.detail}")
        routed = route_order(reward, list(self._routes()))
        platform = self._platforms.get(row["source"])
        start = start_of(row["source"], routed, platform.enriches if platform else "never")
        if start.hold_reason or routed.plan is None or start.step is None or start.party is None:
            return Refused(f"{named(row)} stays on hold: {start.hold_reason}")
        way = _goes_on(came_from, start.step, start.party, f"by route {routed.route!r}")
        return Way(
            f"{way.does} for {routed.plan.vendor}" if start.step is Step.ENRICH else way.does,
            way.to,
            way.step,
            way.party,
            routed.route,
            routed.plan.vendor,
            routed.plan.model_dump_json(),
        )


def stopped_by(step: str | None, party: str | None, stopped: Mapping[str, str]) -> str | None:
    """Why a step waits although it is due, None where it does not; `stopped` is what `obstacles` found."""
    return stopped.get(party or "") or (stopped.get(Step.PLACE) if step == Step.PLACE else None)


async def obstacles(connection: AsyncConnection) -> dict[str, str]:
    """The parties that are not called as usual, and why: what is due for them waits."""
    found = {}
    for each in await parties.all_parties(connection):
        because_of = f": {each['why']}" if each["why"] else ""
        if each["paused"]:
            found[each["party"]] = f"{each['party']} is paused{because_of}"
        elif each["breaker"] == "open":
            found[each["party"]] = f"the breaker of {each['party']} is open{because_of}"
    return found


async def go(connection: AsyncConnection, action: str, row: Row, way: Way, actor: str, note: str) -> bool:
    """Retry or release an order in exactly this way; False where it is no longer as `row` says."""
    passing = way.passing if action == "release" else None
    beyond = f"; {passing.told()}" if passing and passing.overs else ""
    reason = f"{because('retry' if action == 'retry' else 'released', note)}; {way.does}{beyond}"
    if action == "retry":
        return await steering.soon(connection, str(row["id"]), actor, reason)
    change = Move(
        State(way.to),
        actor,
        reason,
        step=way.step,
        party=way.party,
        route=way.route,
        vendor=way.vendor,
        plan=way.plan,
        sure=way.looked,
        counted=passing is not None and passing.counts is not None,
    )
    moved = await steering.move(connection, str(row["id"]), (State.ON_HOLD,), change)
    if moved and passing is not None and passing.counts:
        await caps.add(connection, passing.counts, passing.value)
    return moved


def named(row: Row) -> str:
    """An order as messages call it."""
    return f"order {row['po_number']}"


def because(what: str, note: str) -> str:
    """What was done, and the note where there is one."""
    return f"{what}: {note}" if note else what


def changed(row: Row) -> NotAllowed:
    """For an order that somebody else changed between our look and our change."""
    return NotAllowed(f"{named(row)} changed meanwhile; look again")


def _is_past_cap(row: Row, way: Way | Refused) -> bool:
    """Whether this way leads past the cap that holds the order, with the plan that it holds."""
    plan = _plan_of(row, way)
    return bool(row["cap"] and row["plan"]) and plan is not None and plan == Plan.model_validate(row["plan"])


def _plan_of(row: Row, way: Way | Refused) -> Plan | None:
    """What the vendor would get by this way, None where nothing would be placed."""
    if isinstance(way, Refused) or way.step not in (Step.ENRICH, Step.PLACE):
        return None
    kept = Plan.model_validate(row["plan"]) if row["plan"] else None
    return Plan.model_validate_json(way.plan) if way.plan else kept


def _routes_again(row: Row) -> bool:
    """A held order that is not placed is routed again, but keeps its plan in doubt: the vendor may have just that."""
    return row["held_from"] == State.RECEIVED and not (row["in_doubt"] and row["plan"])


def _goes_on(to: State, step: Step, party: str, how: str = "") -> Way:
    return Way(" ".join(f"goes on as {to}: {step} at {party} {how}".split()), to, step, party)


def _way(action: str, row: Row) -> Way:
    """The way of every other action than release."""
    if action == "retry":
        does = f"{row['step']} at {row['party']} is due now, with all its attempts"
        return Way(does, row["state"], row["step"], row["party"])
    if action == "withdraw":
        return Way("takes back what was asked of a second person; it stays on hold", State.ON_HOLD)
    if action == "hold":
        when = "as soon as the present call has ended" if row["claimed"] else "now"
        return Way(f"stops {when}, until it is released", State.ON_HOLD)
    if action == "refuse":
        return Way(f"ends as refused; {row['source']} is told", State.SETTLED, Step.CLOSE, source_party(row["source"]))
    ended = row["outcome"] or f"{Outcome.CANCELLED}, or as you say"
    return Way(f"ends as {ended}; {row['source']} is not told", State.CLOSED)


def _obstacle(action: str, row: Row) -> str | None:
    """What stands against an action, None where nothing does (but for the routes of a release)."""
    state, cannot = row["state"], f"cannot be {DONE.get(action, action)}"
    if row["claimed"] and action != "hold":
        return f"{cannot}: {BUSY}"
    if row["interrupted"] and not row["claimed"]:
        return f"{cannot}: what was asked for during its last call is being done; try again in a few seconds"
    if action == "withdraw":
        return None if row["asked"] else "waits for no second person"
    if action == "retry":
        return None if row["step"] else f"{cannot}: {_stands(row)}"
    if action == "hold":
        return None if state not in (State.ON_HOLD, State.CLOSED) else f"{cannot}: {_stands(row)}"
    if action == "release":
        return None if state == State.ON_HOLD else f"is not on hold: {_stands(row)}"
    if action == "close":
        return None if state in (State.SETTLED, State.ON_HOLD) else f"{cannot}: {_stands(row)}"
    if state not in (State.RECEIVED, State.ON_HOLD):
        return f"{cannot}: {_stands(row)}"
    if row["outcome"]:
        return f"has ended already: {row['outcome']}; release tells the platform that"
    if row["in_doubt"] and not row["vendor_order_id"]:
        return (
            f"may already be at {row['vendor']}; look for {row['po_number']} there. "
            f"Release asks the vendor; close ends it without telling the platform"
        )
    return None


def _stands(row: Row) -> str:
    if row["state"] == State.ON_HOLD:
        return f"it is on hold ({row['hold_reason']}); release, refuse or close it"
    if row["state"] == State.CLOSED:
        return f"it is closed ({row['outcome']})"
    return f"it is {row['state']}" + (f", outcome {row['outcome']}" if row["outcome"] else "")
