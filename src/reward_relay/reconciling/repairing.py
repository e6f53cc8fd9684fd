"""The repair: what a report says can be repaired, order by order. What moved since is left alone, with the reason."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from reward_relay.capabilities import ListsOpen
from reward_relay.contracts import RewardOrder
from reward_relay.db import plans, reconcile, steering
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import CallFailed, Invalid, Unreadable
from reward_relay.intake import Intake
from reward_relay.reconciling.findings import Repair, hold_reason
from reward_relay.states import State
from reward_relay.steps import Parties

LIST_DEADLINE_S = 120.0
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
        async with self._database.transaction() as connection:
            plan = await plans.find(connection, token)
            if plan["action"] != reconcile.REPORT:
                raise Invalid(f"the plan {token} is no report of reconcile; make one, and act with its token")
            plan = await plans.use(connection, token, actor)
        wanted = [each for each in plan["content"]["findings"] if each["repair"]]
        results = [await self._one(each, actor, note) for each in wanted if each["repair"] != Repair.TAKE]
        missing: dict[str, list[Found]] = {}
        for each in wanted:
            if each["repair"] == Repair.TAKE:
                missing.setdefault(each["party"].partition(":")[2], []).append(each)
        for source, some in missing.items():
            results += await self._take(source, some, actor, note)
        done = sum(each["done"] for each in results)
        repaired = {"token": token, "done": done, "skipped": len(results) - done, "results": results}
        async with self._database.transaction() as connection:
            await plans.note_result(connection, token, repaired)
        return repaired

    async def _one(self, found: Found, actor: str, note: str) -> Row:
        """Repair one order, if it is as it was in the report."""
        async with self._database.transaction() as connection:
            row = await reconcile.locked(connection, found["order_id"])
            if row is None:
                return _result(found, False, "the order is gone")
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

    async def _take(self, source: str, wanted: Sequence[Found], actor: str, note: str) -> list[Row]:
        """Take rewards that we lack from the open list, as it is now."""
        platform = self._adapters.platforms.get(source)
        try:
            async with asyncio.timeout(LIST_DEADLINE_S):
                listed = await platform.open_list() if isinstance(platform, ListsOpen) else None
        except (CallFailed, TimeoutError) as error:
            return [_result(each, False, f"the open list was not read: {str(error) or 'no answer'}") for each in wanted]
        bodies = self._by_id(source, listed[0] if listed else [])
        ids = {each["external_id"] for each in wanted} & bodies.keys()
        receipts = await self._intake.feed(source, [bodies[external_id] for external_id in sorted(ids)])
        became = {}
        async with self._database.transaction() as connection:
            orders = await reconcile.by_external_ids(connection, source, sorted(ids))
            fresh = {receipt.order_id for receipt in receipts if receipt.verdict == "accepted"}
            for external_id, row in orders.items():
                became[external_id] = str(row["id"]) in fresh
                if became[external_id]:
                    reason = f"reconcile: taken from the open list of {source}" + (f"; {note}" if note else "")
                    await steering.note(connection, str(row["id"]), actor, reason)
        return [_taken(each, became, ids) for each in wanted]

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


def _taken(found: Found, became: Mapping[str, bool], listed: set[str]) -> Row:
    external_id = found["external_id"]
    if external_id not in listed:
        return _result(found, False, "the platform does not wait for it any more")
    if external_id not in became:
        return _result(found, False, "it was not accepted; its delivery says why")
    return _result(found, became[external_id], "taken" if became[external_id] else "its order came meanwhile")


def _result(found: Found, done: bool, why: str) -> Row:
    names = ("kind", "party", "repair", "po_number", "external_id", "order_id")
    return {**{name: found[name] for name in names}, "done": done, "why": why}
