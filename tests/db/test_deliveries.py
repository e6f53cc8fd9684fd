"""What becomes of a delivery does not depend on which others share its transaction."""

from dataclasses import replace
from decimal import Decimal

from reward_relay.contracts import Item, RewardOrder
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
