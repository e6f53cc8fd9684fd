"""What becomes of a delivery does not depend on which others share its transaction."""

from dataclasses import replace
from decimal import Decimal

from reward_relay.contracts import Item, RewardOrder
from reward_relay.db import queries
from reward_relay.db.deliveries import Arrival, NewOrder, store
from reward_relay.db.engine import Database
from reward_relay.intake import new_id, po_number
from reward_relay.sealing import Stored
from reward_relay.states import State, Step


def arrival(verdict: str, order: NewOrder | None = None) -> Arrival:
    return Arrival(new_id(), "shop", "webhook", "", {}, Stored(b"{}"), verdict, external_id="1", order=order)


def new_order() -> NewOrder:
    order_id = new_id()
    reward = RewardOrder(source="shop", external_id="1", items=(Item(sku="card", value=Decimal(5)),))
    received = NewOrder(order_id, po_number(order_id), "token", reward, State.RECEIVED, "accepted")
    return replace(received, step=Step.PLACE, party="vendor:gcp")


async def test_an_informational_delivery_stays_so_beside_a_duplicate_of_the_same_reward(database: Database) -> None:
    async with database.transaction() as connection:
        (first,) = await store(connection, [arrival("accepted", new_order())])
    async with database.transaction() as connection:
        both = await store(connection, [arrival("informational"), arrival("accepted", new_order())])
    assert [(receipt.verdict, receipt.order_id) for receipt in both] == [
        ("informational", None),
        ("duplicate", first.order_id),
    ]


async def test_of_two_replays_at_once_the_delivery_keeps_the_word_of_the_one_that_made_the_order(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        (kept,) = await store(connection, [arrival("quarantined")])
    again = [replace(arrival("accepted", new_order()), id=kept.delivery_id, via="replay") for _ in range(2)]
    for each in again:
        async with database.transaction() as connection:
            await store(connection, [each])
    async with database.transaction() as connection:
        row = await queries.find_delivery(connection, kept.delivery_id)
    assert row is not None
    assert (row["verdict"], str(row["order_id"])) == ("accepted", again[0].order and again[0].order.id)
