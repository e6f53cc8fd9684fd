"""What people do: find, read, retry, hold, release, refuse, close, replay, explain, resume.

API, console and command line are skins over `Ops`. Every action has an actor and a note, is one conditional change,
and where the order's state does not allow it says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from reward_relay import explaining
from reward_relay.actions import Actions, because, changed, go, named, obstacles, stopped_by
from reward_relay.db import alerts, overview, parties, processes, queries, steering
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.db.search import as_uuid
from reward_relay.db.steering import Move
from reward_relay.errors import Invalid, KeyMissing, NotAllowed, NotFound
from reward_relay.intake import Intake
from reward_relay.jobs import source_party, vendor_party
from reward_relay.placing import Placing
from reward_relay.reloading import Reloading
from reward_relay.shelter import Shelter
from reward_relay.states import Outcome, State
from reward_relay.steps import Parties
from reward_relay.timeline import timeline

MAX_PAGE = 200
VERDICTS = ("accepted", "duplicate", "informational", "quarantined", "rejected")


class Ops:
    """The operators' service over one database and one configuration."""

    def __init__(
        self, database: Database, intake: Intake, adapters: Parties, reloading: Reloading, shelter: Shelter
    ) -> None:
        self._database = database
        self._shelter = shelter
        self._intake = intake
        self._adapters = adapters
        self._reloading = reloading
        self.actions = Actions(intake, adapters.platforms, lambda: reloading.routes, lambda: reloading.guards)
        self.placing = Placing(database, lambda: reloading.guards)

    async def orders(self, filters: Mapping[str, Any], limit: int = 50, cursor: str | None = None) -> Row:
        """A page of orders, newest first, and the cursor of the next page.

        Raises:
            Invalid: an unknown state, or a cursor that is none of ours.
        """
        if (state := filters.get("state")) and state not in list(State):
            raise Invalid(f"there is no state {state!r}; the states are {', '.join(State)}")
        limit, wanted = _page(limit), queries.cleaned(filters) | {"before": _cursor(cursor)}
        async with self._database.transaction() as connection:
            rows = await queries.list_orders(connection, wanted, limit + 1)
        following = str(rows[limit - 1]["id"]) if len(rows) > limit else None
        return {"items": [shown_order(row) for row in rows[:limit]], "next_cursor": following}

    async def order(self, key: str) -> Row:
        """One order by id, PO number or external id: its events, its calls, both and the deliveries as `timeline`.

        `actions` says of each action whether it is allowed now, and what it would do or why it is not.

        Raises:
            NotFound: there is none.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key)
            events, calls = await queries.history(connection, row["id"])
            arrived = await queries.list_deliveries(connection, {"order_id": row["id"]}, MAX_PAGE)
            told = timeline(str(row["delivery_id"]), events, calls, arrived)
            stopped = await obstacles(connection) | await self.placing.obstacle(connection)
            allowed = await self.actions.allowed(connection, row, stopped)
        waits_for = stopped_by(row["step"], row["party"], stopped)
        past = {"events": events, "calls": calls, "timeline": told}
        return {**shown_order(row), **past, "actions": allowed, "waits_for": waits_for}

    async def retry(self, key: str, actor: str, note: str) -> Row:
        """Make the next step due now, with all its attempts."""
        return await self._act("retry", key, actor, note)

    async def release(self, key: str, actor: str, note: str) -> Row:
        """Let a held order go on from where it was; one that is not placed yet is routed again.

        Where that takes two persons, the first only asks: the order comes back as it was, with `asked`.
        """
        return await self._act("release", key, actor, note)

    async def withdraw(self, key: str, actor: str, note: str) -> Row:
        """Take back what was asked of a second person."""
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key, lock=True)
            await self.actions.check(connection, "withdraw", row)
            reason = because(f"takes back what {row['asked']['by']} asked of a second person", note)
            if not await steering.withdraw(connection, str(row["id"]), actor, reason):
                raise changed(row)
        return await self.order(str(row["id"]))

    async def _act(self, action: str, key: str, actor: str, note: str) -> Row:
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key, lock=True)
            way = await self.actions.check(connection, action, row)
            agreed = await self.actions.releases.agree(connection, row, way.passing, actor, note)
            if agreed is not None and not await go(connection, action, row, way, actor, agreed):
                raise changed(row)
        return await self.order(str(row["id"]))

    async def hold(self, key: str, actor: str, note: str) -> Row:
        """Stop an open order until a person releases it; while a call runs, as soon as it ends."""
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key, lock=True)
            await self.actions.check(connection, "hold", row)
            reason = f"{because(f'held by {actor}', note)}; release lets it go on"
            if not await steering.hold(connection, str(row["id"]), actor, reason):
                raise changed(row)
        return await self.order(str(row["id"]))

    async def refuse(self, key: str, actor: str, note: str, message: str | None = None) -> Row:
        """End an order that is not at the vendor; the platform gets `message` for the person who redeemed it."""
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key, lock=True)
            way = await self.actions.check(connection, "refuse", row)
            change = Move(
                State.SETTLED,
                actor,
                because("refused, with a message for the person" if message else "refused", note),
                step=way.step,
                party=way.party,
                outcome=Outcome.REFUSED,
                message=message,
            )
            if not await steering.move(connection, str(row["id"]), (State.RECEIVED, State.ON_HOLD), change):
                raise changed(row)
        return await self.order(str(row["id"]))

    async def close(self, key: str, actor: str, note: str, outcome: Outcome | None = None) -> Row:
        """End an order without telling the platform: a person has seen to it, and knows its `outcome`.

        Raises:
            NotAllowed: also where the outcome is already known, and is another one.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key, lock=True)
            await self.actions.check(connection, "close", row)
            if outcome and row["outcome"] not in (None, outcome):
                raise NotAllowed(f"{named(row)} is {row['outcome']} already; close it without another outcome")
            decided = None if row["outcome"] else outcome or Outcome.CANCELLED
            reason = because(f"closed by hand as {decided or row['outcome']}", note)
            change = Move(State.CLOSED, actor, reason, outcome=decided)
            if not await steering.move(connection, str(row["id"]), (State.SETTLED, State.ON_HOLD), change):
                raise changed(row)
        return await self.order(str(row["id"]))

    async def resume(self, party: str, actor: str, note: str) -> Row:
        """Call a paused party again, and release the orders that were held because it refused us.

        An order that cannot be released stays on hold under `kept`, with the reason.

        Raises:
            NotFound: there is no such party.
            NotAllowed: it is neither paused nor broken.
        """
        party = party.replace("\x00", "")
        async with self._database.transaction() as connection:
            self._check_party(party, [each["party"] for each in await parties.all_parties(connection)])
            if not await parties.resume(connection, party):
                raise NotAllowed(f"{party} is neither paused nor waiting for a probe")
            released, kept = [], {}
            for order_id in await queries.held_for(connection, party):
                row = await queries.find_order(connection, order_id, lock=True)
                try:
                    way = await self.actions.check(connection, "release", row)
                    said = note or f"{party} resumed"
                    agreed = await self.actions.releases.agree(connection, row, way.passing, actor, said)
                    if agreed is None:
                        raise NotAllowed(f"{named(row)} needs a second person; {actor} has asked, another releases it")
                    if not await go(connection, "release", row, way, actor, agreed):
                        raise changed(row)
                    released.append(order_id)
                except NotAllowed as error:
                    kept[order_id] = error.detail
        return {"party": party, "released": released, "kept": kept}

    async def pause(self, party: str, actor: str, note: str) -> Row:
        """Stop calling a party until it is resumed; its orders wait.

        Raises:
            NotFound: no such source or vendor is configured.
        """
        self._check_party(party)
        async with self._database.transaction() as connection:
            await parties.pause(connection, party, because(f"paused by {actor}", note))
        return {"party": party, "paused": True}

    async def deliveries(self, filters: Mapping[str, Any], limit: int = 50, cursor: str | None = None) -> Row:
        """A page of deliveries without their bodies, newest first.

        Raises:
            Invalid: an unknown verdict, an order id that is none, or a cursor that is none of ours.
        """
        if (verdict := filters.get("verdict")) and verdict not in VERDICTS:
            raise Invalid(f"there is no verdict {verdict!r}; the verdicts are {', '.join(VERDICTS)}")
        if (order := filters.get("order_id")) and as_uuid(str(order)) is None:
            raise Invalid(f"order_id is {order!r}, which is no order's id; find the order first")
        limit, wanted = _page(limit), queries.cleaned(filters) | {"before": _cursor(cursor)}
        async with self._database.transaction() as connection:
            rows = await queries.list_deliveries(connection, wanted, limit + 1)
        following = str(rows[limit - 1]["id"]) if len(rows) > limit else None
        return {"items": rows[:limit], "next_cursor": following}

    async def delivery(self, delivery_id: str) -> Row:
        """One delivery with its body as text, as it came; without it, `no_body` says why.

        Raises:
            NotFound: there is none.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_delivery(connection, delivery_id)
        if row is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        try:
            body, why = self._intake.opened(row["body"]), _why_empty(row)
        except KeyMissing as error:
            body, why = b"", error.detail
        return {**row, "body": body.decode("utf-8", "replace"), "no_body": why}

    async def replay(self, delivery_id: str, actor: str, note: str) -> Row:
        """Take a delivery once more, after a fix of configuration or adapter; the order that comes of it says who did.

        Raises:
            NotAllowed: an order came of it already, it was never authenticated, or its body is gone or sealed.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_delivery(connection, delivery_id)
        if row is None:
            raise NotFound(f"there is no delivery {delivery_id}")
        if row["order_id"] is not None:
            raise NotAllowed(f"delivery {delivery_id} became order {row['order_id']} already; retry or release that")
        if row["verdict"] == "rejected" or not row["body"]:
            raise NotAllowed(f"delivery {delivery_id} has no body to replay; the platform must send it again")
        receipt = await self._intake.replay(
            delivery_id, row["source"], row["body"], row["content_type"], row["headers"]
        )
        if receipt.order_id is not None:
            async with self._database.transaction() as connection:
                reason = because(f"delivery {delivery_id} replayed", note)
                await steering.note(connection, receipt.order_id, actor, reason)
        return asdict(receipt)

    async def events(self, after: int | None = None, limit: int = MAX_PAGE) -> list[Row]:
        """What happened to any order since event `after`, oldest first; without it the newest `limit`."""
        async with self._database.transaction() as connection:
            return await queries.events_after(connection, after, limit)

    async def summary(self) -> Row:
        """Counts by state, the oldest due order, parties and processes, what is wrong, the configuration in use."""
        async with self._database.transaction() as connection:
            found = await overview.summary(connection)
            sick = {row["party"]: row for row in await parties.all_parties(connection)}
            found["alerts"] = await alerts.present(connection)
            found["processes"] = await processes.all_processes(connection)
            found["placing"] = await self.placing.seen(connection)
            found["caps"] = await self.placing.caps(connection)
        waiting = found.pop("waiting")
        names = self._parties()
        names += [name for name in sorted({*waiting, *sick}) if name not in names and not name.startswith("poll:")]
        healthy = {"breaker": "closed", "failures": 0, "open_until": None, "paused": False, "since": None, "why": None}
        healthy["recovering"] = False
        none = {"waiting": 0, "due": 0, "claimed": 0}
        found["states"] = {state: found["states"].get(state, 0) for state in State}
        found["parties"] = [
            {**healthy, **none, **waiting.get(name, {}), **sick.get(name, {}), "party": name} for name in names
        ]
        found["configuration"] = self._reloading.summary()
        found["spool"] = (await self._shelter.look()).shown()
        return found

    async def alerts(self) -> Row:
        """What is wrong just now, critical first, and when it was last looked at; whether or not anybody is told."""
        async with self._database.transaction() as connection:
            return {"items": await alerts.present(connection), "looked_at": await alerts.looked_at(connection)}

    def explain(self, source: str, body: bytes, content_type: str) -> Row:
        """What would become of a payload: route, the vendor's request, the closing call. Nothing is stored or sent."""
        return explaining.explain(self._intake, self._adapters, source, body, content_type)

    def _parties(self) -> list[str]:
        sources = [source_party(name) for name in self._adapters.platforms]
        return sources + [vendor_party(name) for name in self._adapters.vendors]

    def _check_party(self, party: str, others: Sequence[str] = ()) -> None:
        if party not in self._parties() and party not in others:
            raise NotFound(f"there is no party {party!r}; there is: {', '.join(self._parties()) or 'none'}")


def shown_order(row: Row) -> Row:
    """An order as the API shows it."""
    reward = row["reward"]
    return {
        **{name: value for name, value in row.items() if name not in ("reward", "step", "interrupted")},
        "recipient": reward.get("recipient"),
        "items": reward.get("items"),
        "occurred_at": reward.get("occurred_at"),
        "next_step": row["step"],
        "asked": {name: row["asked"][name] for name in ("by", "note", "at")} if row["asked"] else None,
    }


def _why_empty(row: Row) -> str | None:
    if row["purged_at"] is not None:
        return f"its personal data was removed on {row['purged_at']:%Y-%m-%d}"
    return None if row["body"] else "it was not kept"


def _page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise Invalid(f"limit is {limit}; it must be 1 to {MAX_PAGE}")
    return limit


def _cursor(cursor: str | None) -> Any:
    if cursor is None:
        return None
    if (found := as_uuid(cursor)) is None:
        raise Invalid(f"{cursor!r} is not a cursor of ours; take next_cursor of the page before")
    return found
