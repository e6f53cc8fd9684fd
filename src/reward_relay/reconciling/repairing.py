"""The repair: what a report says can be repaired, order by order. What moved since is left alone, with the reason.

A part of it is one transaction, and writes down its result with what it does: after a crash the report says what was
done, and a new one covers the rest.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.capabilities import ListsOpen
from reward_relay.contracts import RewardOrder
from reward_relay.db import plans, reconcile, steering
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import CallFailed, DatabaseUnavailable, Invalid, Unavailable, Unreadable
from reward_relay.intake import Intake
from reward_relay.reconciling.findings import Repair, hold_reason
from reward_relay.states import State
from reward_relay.steps import Parties

LIST_DEADLINE_S = 120.0
BATCH = 20
Found = Mapping[str, Any]


class Repairs:
    """Carries out plans of reconciliation."""

    def __init__(self, database: Database, intake: Intake, adapters: Parties) -> None:
        self._database = database
        self._intake = intake
        self._adapters = adapters

    async def carry_out(self, token: str, actor: str, note: str) -> Row:
        """Do it; says of every order what was done, or why not.

        Raises:
            NotFound, NotAllowed: as `db.plans.use`.
            Invalid: the plan is one of something else.
        """
        results: list[Row] = []
        async with self._database.transaction() as connection:
            plan = await plans.find(connection, token)
            if plan["action"] != reconcile.REPORT:
                raise Invalid(f"the plan {token} is no report of reconcile; make one, and act with its token")
            plan = await plans.use(connection, token, actor)
            wanted = [each for each in plan["content"]["findings"] if each["repair"]]
            await plans.note_result(connection, token, _so_far(token, results, wanted))
        try:
            ours = [each for each in wanted if each["repair"] != Repair.TAKE]
            for start in range(0, len(ours), BATCH):
                async with self._database.transaction() as connection:
                    some = [await self._one(connection, each, actor, note) for each in ours[start : start + BATCH]]
                    await plans.note_result(connection, token, _so_far(token, [*results, *some], wanted))
                results += some
            missing: dict[str, list[Found]] = {}
            for each in wanted:
                if each["repair"] == Repair.TAKE:
                    missing.setdefault(each["party"].partition(":")[2], []).append(each)
            for source, lacking in missing.items():
                became, listed = await self._take(source, lacking)
                async with self._database.transaction() as connection:
                    some = [await self._taken(connection, each, became, listed, actor, note) for each in lacking]
                    await plans.note_result(connection, token, _so_far(token, [*results, *some], wanted))
                results += some
        except DatabaseUnavailable as error:
            raise Unavailable(
                f"PostgreSQL went away: {len(results)} of {len(wanted)} are known to be seen to; look at the report "
                f"when it is back, and reconcile again for what is left ({error})"
            ) from error
        return _so_far(token, results, wanted)

    async def _one(self, connection: AsyncConnection, found: Found, actor: str, note: str) -> Row:
        """Repair one order, if it is as it was in the report."""
        row = await reconcile.locked(connection, found["order_id"])
        if row is None:
            return _result(found, False, "it is changed by somebody just now, or gone; reconcile again in a minute")
        if row["claimed"]:
            return _result(found, False, "a call for it runs just now; reconcile again in a minute")
        if row["state"] != found["state"] or row["updated_at"].isoformat() != found["updated_at"]:
            return _result(found, False, f"it moved since the report, and is {row['state']} now")
        because = f"reconcile, {found['kind']}: {found['theirs']}" + (f"; {note}" if note else "")
        if found["repair"] == Repair.HOLD:
            open_ = (State.RECEIVED, State.PLACED)
            reason = hold_reason(found, row)
            change = steering.Move(State.ON_HOLD, actor, f"held ({because}): {reason}", hold_reason=reason)
            done = await steering.move(connection, found["order_id"], open_, change)
            return _result(found, done, "held" if done else "it cannot be held just now")
        done = await steering.soon(connection, found["order_id"], actor, because)
        return _result(found, done, "its next step is due now" if done else "it has no next step")

    async def _take(self, source: str, wanted: Sequence[Found]) -> tuple[set[str | None], set[str] | str]:
        """Take rewards that we lack from the open list, as it is now.

        Returns:
            The ids of the orders that are new, and what of the wanted is listed; or why the list was not read.
        """
        platform = self._adapters.platforms.get(source)
        try:
            async with asyncio.timeout(LIST_DEADLINE_S):
                listed = await platform.open_list() if isinstance(platform, ListsOpen) else None
        except (CallFailed, TimeoutError) as error:
            return set(), f"the open list was not read: {str(error) or 'no answer'}"
        bodies = self._by_id(source, listed[0] if listed else [])
        ids = {each["external_id"] for each in wanted} & bodies.keys()
        receipts = await self._intake.feed(source, [bodies[external_id] for external_id in sorted(ids)], by_hand=True)
        return {receipt.order_id for receipt in receipts if receipt.verdict == "accepted"}, ids

    async def _taken(
        self,
        connection: AsyncConnection,
        found: Found,
        fresh: Collection[str | None],
        listed: Collection[str] | str,
        actor: str,
        note: str,
    ) -> Row:
        """What became of one reward that we lacked; its order says who took it."""
        source, external_id = found["party"].partition(":")[2], found["external_id"]
        if isinstance(listed, str):
            return _result(found, False, listed)
        if external_id not in listed:
            return _result(found, False, "the platform does not wait for it any more")
        orders = await reconcile.by_external_ids(connection, source, [external_id])
        if external_id not in orders:
            return _result(found, False, "it was not accepted; its delivery says why")
        order_id = str(orders[external_id]["id"])
        if order_id not in fresh:
            return _result(found, False, "its order came meanwhile")
        reason = f"reconcile: taken from the open list of {source}" + (f"; {note}" if note else "")
        await steering.note(connection, order_id, actor, reason)
        return _result(found, True, "taken")

    def _by_id(self, source: str, bodies: Sequence[bytes]) -> dict[str, bytes]:
        found = {}
        for body in bodies:
            try:
                parsed = self._intake.parse(source, body, "application/json")
            except Unreadable:
                continue
            if isinstance(parsed, RewardOrder):
                found[parsed.external_id] = body
        return found


def _so_far(token: str, results: Sequence[Row], wanted: Sequence[Found]) -> Row:
    done = sum(each["done"] for each in results)
    skipped, left = len(results) - done, len(wanted) - len(results)
    return {"token": token, "done": done, "skipped": skipped, "left": left, "results": list(results)}


def _result(found: Found, done: bool, why: str) -> Row:
    names = ("kind", "party", "repair", "po_number", "external_id", "order_id")
    return {**{name: found[name] for name in names}, "done": done, "why": why}
