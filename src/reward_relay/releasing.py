"""What the release of an order passes: the caps that hold it, and the second person whom much money needs.

The first release of such an order only asks: the order stays as it is, and the request is pinned to exactly what would
happen. The same release by another person's key does it. A key's name is the person, unless its entry says `person`.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.contracts import Plan
from reward_relay.db import caps, steering
from reward_relay.db.queries import Row
from reward_relay.errors import NotAllowed
from reward_relay.guards import Guards, Over, Scope, overs, value_of

ASKED_LASTS = timedelta(hours=24)
PROVE = "set RELAY_API_KEY to your own key, or use the console"


@dataclass(frozen=True, slots=True)
class Passing:
    """A release that leads to a vendor. `counts`: what is counted with it, since a cap holds the order; None = no cap.

    `second` says why it takes a second person; `pin` changes with all that was agreed to.
    """

    value: Decimal
    counts: tuple[str, ...] | None
    overs: tuple[Over, ...]
    second: str | None
    pin: str

    def told(self) -> str:
        """What it goes beyond, for the order's events; empty where it goes beyond nothing."""
        return "; ".join(
            f"goes beyond {each.cap} by {each.beyond:,.2f}" if each.is_money else f"goes beyond {each.cap}"
            for each in self.overs
        )


class Releases:
    """Judges releases; `guards` is asked anew each time."""

    def __init__(self, guards: Callable[[], Guards]) -> None:
        self._guards = guards

    async def judge(
        self,
        connection: AsyncConnection,
        rows: Sequence[Row],
        plans: Sequence[Plan | None],
        past: Sequence[bool],
        *,
        lock: bool,
    ) -> list[Passing | None]:
        """What each release would pass if all of them are made, one after the other; None where nothing is placed.

        `past`: it goes past caps. `lock` keeps what is counted today as it is until the transaction ends.
        """
        guards, pairs = self._guards(), list(zip(rows, plans, strict=True))
        held = {
            str(row["id"]): guards.of(row["source"], plan.route)
            for (row, plan), by in zip(pairs, past, strict=True)
            if plan is not None and by
        }
        daily = sorted({scope.name for scopes in held.values() for scope in scopes if scope.caps.daily})
        used = await (caps.lock if lock else caps.read)(connection, daily) if daily else {}
        found: list[Passing | None] = []
        for row, plan in pairs:
            scopes = held.get(str(row["id"]))
            passing = _passing(guards, row, plan, scopes, tuple(overs(scopes or (), _worth(plan), used)))
            found.append(passing)
            if passing is not None:
                used = used | {name: used[name].plus(passing.value) for name in passing.counts or () if name in used}
        return found

    def asked(self, row: Row, passing: Passing | None) -> Row | None:
        """Who has asked for just this release and may still be answered, None where nobody has."""
        asked: Row | None = row["asked"]
        if asked is None or passing is None or asked["pin"] != passing.pin or asked["by"] not in self._guards().persons:
            return None
        return asked if datetime.now(UTC) - datetime.fromisoformat(asked["at"]) < ASKED_LASTS else None

    async def agree(
        self, connection: AsyncConnection, row: Row, passing: Passing | None, actor: str, note: str
    ) -> str | None:
        """The note to release the order with; None where this release is now asked for, and another person must agree.

        Raises:
            NotAllowed: it takes two persons, and this is none, or the one who has asked.
        """
        if passing is None or passing.second is None:
            return note
        name = f"order {row['po_number']}"
        person = self.person(actor, f"{name} needs two persons ({passing.second})")
        asked = self.asked(row, passing)
        if asked is None:
            request = {"by": actor, "note": note, "pin": passing.pin}
            reason = f"release asked for{f': {note}' if note else ''}; it needs a second person, for {passing.second}"
            if not await steering.ask(connection, str(row["id"]), request, reason):
                raise NotAllowed(f"{name} changed meanwhile; look again")
            return None
        if self._guards().persons[asked["by"]] == person:
            raise NotAllowed(
                f"{name} waits for a second person: {asked['by']} has asked, another's key must release it"
            )
        told = f"asked for by {asked['by']}{': ' + asked['note'] if asked['note'] else ''}"
        return f"{note}; {told}" if note else told

    def person(self, actor: str, why: str) -> str:
        """The person behind an operator's key.

        Raises:
            NotAllowed: the actor has shown none.
        """
        try:
            return self._guards().persons[actor]
        except KeyError:
            raise NotAllowed(f"{why}, and {actor} has shown no operator's key; {PROVE}") from None

    def agreed(self, maker: str, actor: str, why: str) -> None:
        """See that a plan which takes two persons is carried out by another than who made it.

        Raises:
            NotAllowed: it is not.
        """
        what = f"this plan needs two persons ({why})"
        if self.person(actor, what) == self._guards().persons.get(maker):
            raise NotAllowed(f"{what}: {maker} has made it, another's key must act on it; give them its token")
        self.person(maker, f"{what}; make it anew")


def _worth(plan: Plan | None) -> Decimal:
    return value_of(plan) if plan is not None else Decimal()


def _passing(
    guards: Guards, row: Row, plan: Plan | None, scopes: Sequence[Scope] | None, over: tuple[Over, ...]
) -> Passing | None:
    if plan is None:
        return None
    value, counts = value_of(plan), None if scopes is None else tuple(each.name for each in scopes if each.caps.daily)
    second, limit = None, guards.second_person_above
    if limit is not None:
        far = max((each for each in over if each.is_money), key=lambda each: each.beyond, default=None)
        if value > limit:
            second = f"it is worth {value:,.2f}, above second_person_above ({limit:,.2f})"
        elif far is not None and far.beyond > limit:
            second = f"it takes {far.cap} {far.beyond:,.2f} beyond, more than second_person_above ({limit:,.2f})"
    content = [row["hold_reason"], row["reward"], row["held_from"], row["in_doubt"], plan.model_dump(mode="json")]
    pin = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return Passing(value, counts, over, second, pin)
