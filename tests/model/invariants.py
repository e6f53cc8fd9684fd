"""What must hold after every step, whatever happened: the database's story against itself and against the books."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from model.far import Books
from model.world import World
from reward_relay.contracts import Progress
from reward_relay.states import STEPS, State, can_go

Row = dict[str, Any]
ORDERS = "SELECT *, now() AS now, claim IS NOT NULL AND claim_until >= now() AS claimed FROM orders ORDER BY id"
EVENTS = "SELECT * FROM order_events ORDER BY order_id, seq"
DELIVERIES = "SELECT id, source, verdict, external_id, order_id, body FROM deliveries ORDER BY id"
CALLS = "SELECT * FROM calls ORDER BY id"
FAR_AWAY = timedelta(days=2)


class Seen:
    """All tables at one moment."""

    def __init__(self, orders: list[Row], events: list[Row], deliveries: list[Row], calls: list[Row]) -> None:
        self.orders, self.events, self.deliveries, self.calls = orders, events, deliveries, calls
        self.by_id = {row["id"]: row for row in orders}

    def same(self) -> object:
        """What no refused action may change."""
        orders = [{name: value for name, value in row.items() if name not in ("now", "claimed")} for row in self.orders]
        return orders, self.events, self.deliveries, self.calls


async def look(world: World) -> Seen:
    """The tables as they are."""
    return Seen(*[await world.rows(query) for query in (ORDERS, EVENTS, DELIVERIES, CALLS)])


def broken(seen: Seen, books: Books) -> list[str]:
    """Every invariant that does not hold, as a sentence."""
    found = [*books.breaches]
    events, calls = defaultdict(list), defaultdict(list)
    for event in seen.events:
        events[event["order_id"]].append(event)
    for call in seen.calls:
        calls[call["order_id"]].append(call)
    for order in seen.orders:
        name = f"order {order['external_id']} ({order['state']})"
        for each in (
            _story(order, events[order["id"]]),
            _waiting(order),
            _claims(order),
            _outside(order, books),
            _intentions(order, calls[order["id"]], books),
        ):
            found += [f"{name} {what}" for what in each]
    found += _strangers(seen, books)
    return found + list(_deliveries(seen, books))


def _story(order: Row, events: list[Row]) -> Iterator[str]:
    """The events are a way through the table of transitions, and end where the order is."""
    if not events:
        yield "has no events"
        return
    before = None
    for event in events:
        if event["from_state"] != before:
            yield f"went from {before}, but its next event says {event['from_state']}: {event['reason']}"
        if before is not None and not can_go(State(before), State(event["to_state"])):
            yield f"went from {before} to {event['to_state']}, which is no way"
        before = event["to_state"]
    if before != order["state"]:
        yield f"has no event for its state; the last says {before}"


def _waiting(order: Row) -> Iterator[str]:
    """Every order that is not closed is due, claimed, or held for a reason."""
    state, open_ = State(order["state"]), bool(STEPS[State(order["state"])])
    if open_ != (order["due_at"] is not None) or open_ != (order["step"] is not None):
        yield f"has the step {order['step']}, due at {order['due_at']}"
    if open_ != (order["party"] is not None):
        yield f"waits for {order['party']}"
    if order["due_at"] is not None and order["due_at"] > order["now"] + FAR_AWAY:
        yield f"sleeps until {order['due_at']}"
    if (state is State.ON_HOLD) != bool(order["hold_reason"] and order["held_from"]):
        yield f"is held for {order['hold_reason']!r}, from {order['held_from']}"


def _claims(order: Row) -> Iterator[str]:
    if (order["claim"] is None) != (order["claim_until"] is None):
        yield f"has the claim {order['claim']} until {order['claim_until']}"
    if order["claim"] is not None and order["step"] is None:
        yield "is claimed, and nothing is to be done"
    if order["interrupt"] is not None and order["claim"] is None:
        yield f"has a wish that nobody will carry out: {order['interrupt']}"
    calling = order["claimed"] and order["interrupt"] is None and order["step"] in ("place", "close")
    if calling and not order["in_doubt"]:
        yield "is being called about, and not in doubt"


def _outside(order: Row, books: Books) -> Iterator[str]:
    """What we know of the vendor and the platform is true, and where we do not know we doubt."""
    bought = books.bought.get(order["po_number"], [])
    if len(bought) > 1:
        yield f"was bought {len(bought)} times: {bought}"
    known = order["vendor_order_id"]
    if known and known not in [each.vendor_order_id for each in bought]:
        yield f"is said to be {known} at the vendor, which has {bought}"
    may_be_there = bought or any(key == order["po_number"] for _, key, _ in books.under_way)
    by_hand = order["state"] == State.CLOSED
    if may_be_there and not known and not order["in_doubt"] and not by_hand:
        yield "is at a vendor, and we neither know nor doubt it"
    told = books.told.get(order["external_id"], [])
    if len(set(told)) > 1:
        yield f"was told as {told}"
    if told and order["outcome"] != told[0]:
        yield f"was told as {told[0]}, and is {order['outcome']}"
    if "fulfilled" in told and [each.progress for each in bought] != [Progress.FULFILLED]:
        yield f"was told as fulfilled, and the vendor has {bought}"


def _intentions(order: Row, calls: list[Row], books: Books) -> Iterator[str]:
    """No call without its row, written before."""
    for purpose, made in (
        ("place", books.placings[order["po_number"]]),
        ("close", books.attempted[order["external_id"]]),
    ):
        if made > (noted := sum(call["purpose"] == purpose for call in calls)):
            yield f"was called {made} times to {purpose}, and {noted} are noted"
    for call in calls:
        if (call["finished_at"] is None) != (call["verdict"] is None):
            yield f"has a call that ended with {call['verdict']} at {call['finished_at']}"


def _strangers(seen: Seen, books: Books) -> Iterator[str]:
    """At a vendor and a platform is nothing that is not ours; each reward has one order."""
    keys = {order["po_number"] for order in seen.orders}
    yield from (f"{key} is at a vendor, and no order has it" for key in books.bought if key not in keys)
    rewards = Counter((order["source"], order["external_id"]) for order in seen.orders)
    yield from (f"{reward} has {count} orders" for reward, count in rewards.items() if count > 1)


def _deliveries(seen: Seen, books: Books) -> Iterator[str]:
    """Each accepted delivery has its order, each order the delivery that made it, and what was bought is of that."""
    for row in seen.deliveries:
        name = f"delivery {row['id']} ({row['verdict']})"
        order = seen.by_id.get(row["order_id"])
        if (row["verdict"] in ("accepted", "duplicate")) != (order is not None):
            yield f"{name} has the order {row['order_id']}"
        if order and (order["source"], order["external_id"]) != (row["source"], row["external_id"]):
            yield f"{name} has the order of another reward"
    made = {row["id"]: row for row in seen.deliveries}
    for order in seen.orders:
        maker = made.get(order["delivery_id"])
        if maker is None or maker["order_id"] != order["id"] or maker["verdict"] != "accepted":
            yield f"order {order['external_id']} was made by {maker and (maker['verdict'], maker['order_id'])}"
        elif (asked := quantity_of(maker)) is not None:
            for each in books.bought.get(order["po_number"], []):
                if each.quantity != asked:
                    yield f"order {order['external_id']} asked for {asked}, and {each.quantity} were bought"


def quantity_of(row: Mapping[str, Any]) -> int | None:
    """What a delivery asked for; None where its body was purged."""
    return int(json.loads(row["body"])["quantity"]) if row["body"] else None
