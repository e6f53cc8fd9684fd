"""Storing what arrived: a group of deliveries, and the orders that come of them, in one transaction."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.contracts import Plan, RewardOrder
from reward_relay.db import steering
from reward_relay.db.engine import notify
from reward_relay.jobs import source_party
from reward_relay.routing import completed, differences
from reward_relay.sealing import Stored
from reward_relay.states import State, Step


@dataclass(frozen=True, slots=True)
class NewOrder:
    """The order that a delivery asks for, as it would enter the table."""

    id: str
    po_number: str
    callback_token: str
    reward: RewardOrder
    state: State
    event: str
    step: Step | None = None
    party: str | None = None
    hold_reason: str | None = None
    outcome: str | None = None
    message: str | None = None
    plan: Plan | None = None
    route: str | None = None
    vendor: str | None = None
    cap: str | None = None


@dataclass(frozen=True, slots=True)
class Arrival:
    """One delivery, understood or not. `withdrawn` holds the reason where the platform takes the reward back.

    `received_at` is None for one that comes just now; `traceparent`, the sender's own trace, is not stored.
    """

    id: str
    source: str
    via: str
    content_type: str
    headers: Mapping[str, str]
    body: Stored
    verdict: str
    reason: str | None = None
    external_id: str | None = None
    order: NewOrder | None = None
    withdrawn: str | None = None
    received_at: datetime | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery. `spooled`: it is on this machine's disk, and the database gets it later."""

    delivery_id: str
    verdict: str
    order_id: str | None = None
    reason: str | None = None
    spooled: bool = False
    forgotten: bool = False
    """Nothing personal of it was kept: its order's had been removed before."""


INSERT_ORDERS = text("""
INSERT INTO orders (id, po_number, callback_token, source, external_id, delivery_id, state, step, party, due_at,
  hold_reason, held_from, outcome, message, reward, route, vendor, plan, cap, created_at, updated_at)
SELECT id, po, token, source, external_id, delivery, state, step, party, CASE WHEN step IS NOT NULL THEN now() END,
  hold, CASE WHEN hold IS NOT NULL THEN 'received' END, outcome, message, CAST(reward AS jsonb), route, vendor,
  CAST(plan AS jsonb), cap, now(), now()
FROM unnest(CAST(:id AS uuid[]), CAST(:po AS text[]), CAST(:token AS text[]), CAST(:source AS text[]),
  CAST(:external_id AS text[]), CAST(:delivery AS uuid[]), CAST(:state AS text[]), CAST(:step AS text[]),
  CAST(:party AS text[]), CAST(:hold AS text[]), CAST(:outcome AS text[]), CAST(:message AS text[]),
  CAST(:reward AS text[]), CAST(:route AS text[]), CAST(:vendor AS text[]), CAST(:plan AS text[]),
  CAST(:cap AS text[]))
  AS n(id, po, token, source, external_id, delivery, state, step, party, hold, outcome, message, reward, route,
       vendor, plan, cap)
ON CONFLICT (source, external_id) DO NOTHING
RETURNING id
""")
INSERT_EVENTS = text("""
INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason)
SELECT id, now(), NULL, state, actor, reason
FROM unnest(CAST(:id AS uuid[]), CAST(:state AS text[]), CAST(:actor AS text[]), CAST(:reason AS text[]))
  AS n(id, state, actor, reason)
""")
INSERT_DELIVERIES = text("""
INSERT INTO deliveries
  (id, source, received_at, via, content_type, headers, body, verdict, reason, external_id, order_id, sealed, purged_at)
SELECT id, source, COALESCE(received_at, now()), via, content_type, CAST(headers AS jsonb), body, verdict, reason,
  external_id, order_id, sealed, CASE WHEN forgotten THEN now() END
FROM unnest(CAST(:id AS uuid[]), CAST(:source AS text[]), CAST(:via AS text[]), CAST(:content_type AS text[]),
  CAST(:headers AS text[]), CAST(:body AS bytea[]), CAST(:verdict AS text[]), CAST(:reason AS text[]),
  CAST(:external_id AS text[]), CAST(:order_id AS uuid[]), CAST(:received_at AS timestamptz[]),
  CAST(:sealed AS text[]), CAST(:forgotten AS boolean[]))
  AS n(id, source, via, content_type, headers, body, verdict, reason, external_id, order_id, received_at, sealed,
       forgotten)
ON CONFLICT (id) DO UPDATE SET verdict = excluded.verdict, reason = excluded.reason, via = excluded.via,
  external_id = excluded.external_id, order_id = excluded.order_id
WHERE excluded.via = 'replay' AND deliveries.order_id IS NULL
""")
"""A delivery that is replayed keeps its row: the conflict is with itself. So it is with one from the spool whose first
commit did reach the database: what was said of it then stands."""
KNOWN = text("SELECT id, verdict, reason, order_id FROM deliveries WHERE id = ANY(CAST(:ids AS uuid[]))")
EXISTING = text("""
SELECT id, source, external_id, CAST(reward AS text) AS reward, purged_at IS NOT NULL AS purged FROM orders
WHERE (source, external_id) IN (SELECT * FROM unnest(CAST(:sources AS text[]), CAST(:external_ids AS text[])))
""")


COMPLETE = text("""
UPDATE orders SET reward = CAST(:reward AS jsonb), updated_at = now()
WHERE id = CAST(:id AS uuid) AND state = 'on_hold' AND held_from = 'received' AND NOT in_doubt RETURNING id
""")
SAME = "the same reward arrived before"
FORGOTTEN = f"{SAME}; its personal data has been removed since, so nothing of this copy is kept"
NO_NEWS = (SAME, FORGOTTEN)


@dataclass(slots=True)
class _Group:
    """One transaction's work."""

    connection: AsyncConnection
    inserted: set[str] = field(default_factory=set)
    existing: dict[tuple[str, str], Any] = field(default_factory=dict)


async def store(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Receipt]:
    """Store the deliveries, make an order of each reward that is new, and wake the workers; receipts in their order."""
    group = _Group(connection)
    await _insert_orders(group, [each for each in arrivals if each.order is not None])
    await _find_existing(group, arrivals)
    receipts = [await _settle(group, arrival) for arrival in arrivals]
    await _insert_deliveries(connection, arrivals, receipts)
    if any(each.order and each.order.step and each.order.id in group.inserted for each in arrivals):
        await notify(connection)
    return receipts


async def store_spooled(connection: AsyncConnection, arrivals: Sequence[Arrival]) -> list[Receipt]:
    """Store deliveries that were answered while the database was away, but for those that it has already."""
    rows = await connection.execute(KNOWN, {"ids": [each.id for each in arrivals]})
    known = {str(row.id): row for row in rows}
    fresh = [each for each in arrivals if each.id not in known]
    receipts = {each.delivery_id: each for each in (await store(connection, fresh) if fresh else [])}
    for number, row in known.items():
        receipts[number] = Receipt(number, row.verdict, str(row.order_id) if row.order_id else None, row.reason)
    return [receipts[each.id] for each in arrivals]


async def _insert_orders(group: _Group, arrivals: list[Arrival]) -> None:
    if not arrivals:
        return
    # In one order everywhere, or two groups could wait for each other's unique keys for ever.
    arrivals = sorted(arrivals, key=lambda each: (each.source, each.external_id or ""))
    rows = await group.connection.execute(INSERT_ORDERS, _columns(arrivals))
    group.inserted = {str(row.id) for row in rows}
    made = [each.order for each in arrivals if each.order and each.order.id in group.inserted]
    if made:
        await group.connection.execute(
            INSERT_EVENTS,
            {
                "id": [order.id for order in made],
                "state": [order.state for order in made],
                "actor": [source_party(order.reward.source) for order in made],
                "reason": [order.event for order in made],
            },
        )


def _columns(arrivals: list[Arrival]) -> dict[str, list[Any]]:
    orders = [each.order for each in arrivals if each.order is not None]
    return {
        "id": [order.id for order in orders],
        "po": [order.po_number for order in orders],
        "token": [order.callback_token for order in orders],
        "source": [each.source for each in arrivals],
        "external_id": [each.external_id for each in arrivals],
        "delivery": [each.id for each in arrivals],
        "state": [order.state for order in orders],
        "step": [order.step for order in orders],
        "party": [order.party for order in orders],
        "hold": [order.hold_reason for order in orders],
        "outcome": [order.outcome for order in orders],
        "message": [order.message for order in orders],
        "reward": [order.reward.model_dump_json() for order in orders],
        "route": [order.route for order in orders],
        "vendor": [order.vendor for order in orders],
        "plan": [order.plan.model_dump_json() if order.plan else None for order in orders],
        "cap": [order.cap for order in orders],
    }


async def _find_existing(group: _Group, arrivals: Sequence[Arrival]) -> None:
    """The orders that were there before. A new statement, so that it sees what others committed meanwhile."""
    wanted = {
        (each.source, each.external_id) for each in arrivals if each.order and each.order.id not in group.inserted
    }
    if not wanted:
        return
    keys = {"sources": [source for source, _ in wanted], "external_ids": [key for _, key in wanted]}
    for row in await group.connection.execute(EXISTING, keys):
        group.existing[row.source, row.external_id] = row


async def _settle(group: _Group, arrival: Arrival) -> Receipt:
    """The verdict on one delivery, and what it does to an order that was there before."""
    if arrival.order is None:
        return Receipt(arrival.id, arrival.verdict, None, arrival.reason)
    if arrival.order.id in group.inserted:
        return Receipt(arrival.id, "accepted", arrival.order.id, arrival.reason)
    row = group.existing[arrival.source, arrival.order.reward.external_id]
    order_id, actor = str(row.id), source_party(arrival.source)
    if arrival.withdrawn is not None:
        await steering.cancel(group.connection, order_id, actor, arrival.withdrawn)
        return Receipt(arrival.id, "accepted", order_id, arrival.withdrawn, forgotten=row.purged)
    if row.purged:
        return Receipt(arrival.id, "duplicate", order_id, FORGOTTEN, forgotten=True)
    try:
        first = RewardOrder.model_validate_json(row.reward)
    except ValidationError:
        return Receipt(arrival.id, "duplicate", order_id, f"{SAME}; this version cannot read the stored one")
    changed = differences(first, arrival.order.reward)
    if not changed:
        await _complete(group, order_id, actor, first, arrival.order.reward)
        return Receipt(arrival.id, "duplicate", order_id, SAME)
    reason = (
        f"delivery {arrival.id} of the same reward says otherwise: {', '.join(changed)}. Compare both deliveries; "
        f"release places the order as it first arrived, refuse ends it"
    )
    await steering.hold_unless_placed(group.connection, order_id, actor, reason)
    return Receipt(arrival.id, "duplicate", order_id, f"differs from the first delivery: {', '.join(changed)}")


def _is_old_news(arrival: Arrival, receipt: Receipt) -> bool:
    return arrival.via == "poll" and receipt.verdict == "duplicate" and receipt.reason in NO_NEWS


async def _complete(group: _Group, order_id: str, actor: str, first: RewardOrder, later: RewardOrder) -> None:
    """A later delivery knows more of the recipient: an order that is held for the lack of it gets it."""
    recipient = completed(first.recipient, later.recipient)
    if recipient == first.recipient:
        return
    reward = first.model_copy(update={"recipient": recipient}).model_dump_json()
    if (await group.connection.execute(COMPLETE, {"id": order_id, "reward": reward})).first():
        reason = "a later delivery of the same reward says more of the recipient; release lets the order go on"
        await steering.note(group.connection, order_id, actor, reason)


async def _insert_deliveries(
    connection: AsyncConnection, arrivals: Sequence[Arrival], receipts: Sequence[Receipt]
) -> None:
    """Every delivery, but for what polling lists again and again without news."""
    news = [pair for pair in zip(arrivals, receipts, strict=True) if not _is_old_news(*pair)]
    arrivals, receipts = [arrival for arrival, _ in news], [receipt for _, receipt in news]
    kept = [(arrival, receipt.forgotten) for arrival, receipt in news]
    await connection.execute(
        INSERT_DELIVERIES,
        {
            "id": [each.id for each in arrivals],
            "source": [each.source for each in arrivals],
            "via": [each.via for each in arrivals],
            "content_type": [each.content_type for each in arrivals],
            "headers": [json.dumps({} if gone else dict(each.headers)) for each, gone in kept],
            "body": [b"" if gone else each.body.body for each, gone in kept],
            "sealed": [None if gone else each.body.key for each, gone in kept],
            "forgotten": [gone for _, gone in kept],
            "verdict": [receipt.verdict for receipt in receipts],
            "reason": [receipt.reason for receipt in receipts],
            "external_id": [each.external_id for each in arrivals],
            "order_id": [receipt.order_id for receipt in receipts],
            "received_at": [each.received_at for each in arrivals],
        },
    )


def unstorable(arrival: Arrival, error: DBAPIError) -> Arrival:
    """The delivery as the database will take it, when it refused the order that came of it."""
    reason = (
        f"the database refused the order ({type(error.orig).__name__}); this is a fault of ours, "
        f"report it with the delivery and replay it after the fix"
    )
    return replace(
        arrival,
        verdict="quarantined",
        reason=reason,
        external_id=None,
        order=None,
        withdrawn=None,
        headers={},
        content_type=arrival.content_type.replace("\x00", ""),
    )
