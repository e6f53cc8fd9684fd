"""Forgetting a person on request: first what would go and what cannot, then exactly the doing of it.

An order that has not ended cannot forget: the vendor needs the address, and the platform is still to be told. By e-mail
address every stored body is opened and looked at, also of webhooks that made no order, and of other people's rewards
that name the person: those lose the webhook, and keep their own recipient.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from reward_relay.contracts import Recipient
from reward_relay.db import plans, purging, queries
from reward_relay.db.engine import Database
from reward_relay.db.purging import FIRST, Place
from reward_relay.db.queries import Row
from reward_relay.errors import Invalid, KeyMissing, NotAllowed
from reward_relay.intake import Intake
from reward_relay.personal import Address
from reward_relay.states import State

AT_ONCE = 100
OPEN = "it has not ended ({}); refuse or close it first, then purge it"


@dataclass(slots=True)
class Found:
    """What is known of a person: closed `orders` and `deliveries` that can forget, and what is `kept`, each with `why`.

    `sealed` counts bodies that could not be looked at: their keys are missing.
    """

    orders: list[Row] = field(default_factory=list)
    deliveries: list[Row] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    plans: int = 0
    sealed: int = 0
    looked_at: int = 0


class Purging:
    """The service; `intake` opens the stored bodies."""

    def __init__(self, database: Database, intake: Intake) -> None:
        self._database = database
        self._intake = intake

    async def about_order(self, key: str) -> Found:
        """What one order and its deliveries would forget.

        Raises:
            NotFound: there is none.
            NotAllowed: several have this id, or it has not ended.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key)
            if row["state"] != State.CLOSED:
                raise NotAllowed(f"order {row['po_number']} cannot forget its person: {OPEN.format(row['state'])}")
            others = await purging.without_order(connection, row["source"], row["external_id"])
            own = await queries.list_deliveries(connection, {"order_id": row["id"]}, purging.BATCH)
        deliveries = [*(each for each in own if each["purged_at"] is None), *others]
        return Found([_named(row)], [_arrived(each) for each in deliveries])

    async def about_email(self, email: str) -> Found:
        """What names this address, in any case of letters: orders, and every stored body.

        Raises:
            Invalid: it is no address.
        """
        address = Address(email)
        if "@" not in address.email.strip("@") or " " in address.email:
            raise Invalid(f"{email!r} is no e-mail address; purge needs a whole one, such as ana@example.com")
        found = Found()
        await self._orders(address, found)
        await self._bodies(address, found)
        async with self._database.transaction() as connection:
            found.plans = await plans.count_naming(connection, address.email)
        return found

    async def forget(self, found: Found, actor: str, note: str, email: str | None = None) -> Row:
        """Do it; an order that is no longer closed is left alone. Returns how much was forgotten."""
        reason = "personal data removed on request" + (f": {note}" if note else "")
        orders = deliveries = 0
        for some in _parts([each["id"] for each in found.orders]):
            async with self._database.transaction() as connection:
                done = await purging.of_orders(connection, some, actor, reason)
            orders, deliveries = orders + done[0], deliveries + done[1]
        for some in _parts([each["id"] for each in found.deliveries]):
            async with self._database.transaction() as connection:
                deliveries += await purging.of_deliveries(connection, some)
        if email and found.plans:
            async with self._database.transaction() as connection:
                await plans.forget_naming(connection, Address(email).email)
        return {"orders": orders, "deliveries": deliveries, "plans": found.plans}

    async def _orders(self, address: Address, found: Found) -> None:
        after = None
        while True:
            async with self._database.transaction() as connection:
                rows = await purging.candidates(connection, address.email, after)
            for row in rows:
                if _is_about(row, address):
                    closed = row["state"] == State.CLOSED
                    why = {} if closed else {"why": OPEN.format(row["state"])}
                    (found.orders if closed else found.kept).append(_named(row) | why)
            if len(rows) < purging.BATCH:
                return
            after = rows[-1]["id"]

    async def _bodies(self, address: Address, found: Found) -> None:
        """Walk all bodies; of orders that forget anyway they need not be named."""
        place, going = FIRST, {each["id"] for each in found.orders}
        while True:
            async with self._database.transaction() as connection:
                rows = await purging.bodies_after(connection, place)
            for row in rows:
                found.looked_at += 1
                try:
                    named = address.is_in(self._intake.opened(row["body"]))
                except KeyMissing:
                    found.sealed += 1
                    continue
                if not named:
                    continue
                if row["state"] not in (None, State.CLOSED):
                    why = f"order {row['po_number']} needs it: {OPEN.format(row['state'])}"
                    found.kept.append(_arrived(row) | {"why": why})
                elif str(row["order_id"]) not in going:
                    found.deliveries.append(_arrived(row))
            if len(rows) < purging.BODIES:
                return
            place = Place(rows[-1]["received_at"], rows[-1]["id"])


def _is_about(row: Row, address: Address) -> bool:
    """Whether the order's own person, or what the platform calls them, is meant."""
    reward = row["reward"]
    email = Recipient.model_validate(reward.get("recipient") or {}).email or ""
    return address.is_in_text(email) or any(address.is_in_text(str(each)) for each in reward["reference"].values())


def _named(row: Row) -> Row:
    return {name: str(row[name]) for name in ("id", "po_number", "source", "external_id", "state")}


def _arrived(row: Row) -> Row:
    order_id = row["order_id"] and str(row["order_id"])
    told = {name: row[name] for name in ("source", "received_at", "verdict", "external_id")}
    return {"id": str(row["id"]), **told, "order_id": order_id}


def _parts(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + AT_ONCE] for start in range(0, len(ids), AT_ONCE)]
