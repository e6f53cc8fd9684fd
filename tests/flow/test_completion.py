"""A reward whose address comes with a later delivery, and polling that tells the same again and again."""

from pathlib import Path

from reward_relay.sandbox import senders
from support.far_side import far_side, send
from support.relays import CONFIGURATION, INFLUITIVE_TOKEN, ROSTER_TOKEN, client_of, relay_of, settings, working
from support.relays import ended as ended_order

PARCELS = CONFIGURATION.replace('sources = ["voucherify"]', 'sources = ["voucherify", "roster"]')


async def test_an_order_held_for_its_address_gets_it_from_a_later_delivery(database_url: str, tmp_path: Path) -> None:
    whole = senders.roster_order("77")
    bare = senders.roster_order("77")
    del bare["order"]["shipping_address"]
    async with far_side() as far, relay_of(settings(tmp_path, PARCELS), database_url, far.transport) as relay:
        far.calls_back(relay)
        async with client_of(relay) as client, working(relay):
            first = await send(client, "roster", senders.roster(bare, ROSTER_TOKEN))
            order_id = first.json()["order_id"]
            held = await relay.ops.order(order_id)
            assert (held["state"], held["held_from"]) == ("on_hold", "received")
            still = await client.post(f"/api/v1/orders/{order_id}/release", json={"note": "try"})
            assert still.status_code == 409
            again = await send(client, "roster", senders.roster(whole, ROSTER_TOKEN))
            assert again.json()["verdict"] == "duplicate"
            freed = await client.post(f"/api/v1/orders/{order_id}/release", json={"note": "address came"})
            assert freed.status_code == 200, freed.text
            order = await ended_order(relay, order_id)
        lines = (await far.state())["orders"][0]["LineItems"]
    assert order["outcome"] == "fulfilled"
    assert lines[0]["PhysicalDeliveryAddress"]["City"] == "Ames"


async def test_a_poll_that_lists_the_same_again_stores_nothing(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        owed = senders.influitive_redemption(41)
        await far.client.post("/sandbox/redemptions", json=owed)
        poller = relay.poller()
        assert await poller.poll_once("influitive") == 1
        assert await poller.poll_once("influitive") == 0
        async with client_of(relay) as client:
            hook = await send(client, "influitive", senders.influitive(owed, INFLUITIVE_TOKEN))
        found = await relay.ops.deliveries({}, 10)
    assert hook.json()["verdict"] == "duplicate"
    assert [(each["via"], each["verdict"]) for each in found["items"]] == [
        ("webhook", "duplicate"),
        ("poll", "accepted"),
    ]
