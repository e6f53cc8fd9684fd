"""A reward that arrives more than once, differently, or is taken back: one order, and nothing is lost."""

import asyncio
from pathlib import Path

import httpx

from reward_relay.wiring import Relay
from support.relays import client_of, ended, relay_of, settings, working
from support.steered import TALKABLE_ID, Steered, accepted, post, reasons, roster, talkable

OTHER = "somebody-else@example.com"


async def state_of(relay: Relay, order_id: str) -> tuple[str, str | None]:
    order = await relay.ops.order(order_id)
    return order["state"], order["outcome"]


# --- the same reward again -------------------------------------------------------------------------------


async def test_five_deliveries_of_one_reward_are_one_order(relay: Relay, client: httpx.AsyncClient) -> None:
    answers = [(await post(client, "talkable", talkable())).json() for _ in range(5)]
    assert [answer["verdict"] for answer in answers] == ["accepted"] + ["duplicate"] * 4
    assert len({answer["order_id"] for answer in answers}) == 1
    assert len({answer["delivery_id"] for answer in answers}) == 5
    assert len((await relay.ops.deliveries({}))["items"]) == 5


async def test_twenty_parallel_deliveries_of_one_reward_are_one_order(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async with relay_of(settings(tmp_path), database_url) as second, client_of(second) as other:
        posts = [post(each, "talkable", talkable()) for each in (client, other) for _ in range(10)]
        answers = [answer.json() for answer in await asyncio.gather(*posts)]
    assert sorted(answer["verdict"] for answer in answers) == ["accepted"] + ["duplicate"] * 19
    assert len({answer["order_id"] for answer in answers}) == 1
    assert len((await relay.ops.orders({}))["items"]) == 1


async def test_many_rewards_at_once_each_in_both_processes_are_one_order_each(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async with relay_of(settings(tmp_path), database_url) as second, client_of(second) as other:
        forwards = [post(client, "roster", roster(f"R-{number}")) for number in range(30)]
        backwards = [post(other, "roster", roster(f"R-{number}")) for number in reversed(range(30))]
        answers = [answer.json() for answer in await asyncio.gather(*forwards, *backwards)]
    assert sorted(answer["verdict"] for answer in answers) == ["accepted"] * 30 + ["duplicate"] * 30
    assert len((await relay.ops.orders({}, 200))["items"]) == 30


async def test_the_same_id_at_two_platforms_is_two_rewards(client: httpx.AsyncClient) -> None:
    first = await accepted(client, "talkable", talkable())
    assert await accepted(client, "roster", roster(TALKABLE_ID)) != first


# --- the same reward, told otherwise ---------------------------------------------------------------------


async def test_another_address_holds_an_order_that_is_not_placed(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "talkable", talkable())
    again = (await post(client, "talkable", talkable(lambda p: p["person"].update(email=OTHER)))).json()
    order = await relay.ops.order(order_id)
    assert (again["verdict"], again["order_id"]) == ("duplicate", order_id)
    assert (order["state"], order["held_from"]) == ("on_hold", "received")
    assert "recipient.email" in order["hold_reason"]
    assert again["delivery_id"] in order["hold_reason"]
    assert OTHER not in order["hold_reason"]
    assert order["recipient"]["email"] == "referrer@example.com"


async def test_another_address_is_noted_on_an_order_that_is_placed(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await ended(relay, order_id, "placed")
        await post(client, "talkable", talkable(lambda p: p["person"].update(email=OTHER)))
        assert await state_of(relay, order_id) == ("placed", None)
        assert "says otherwise: recipient.email" in await reasons(relay, order_id)
        far.word = "Completed"
        await ended(relay, order_id)
    assert len(far.placed) == 1


# --- taken back ------------------------------------------------------------------------------------------


async def test_voided_before_paid_places_nothing(relay: Relay, client: httpx.AsyncClient, far: Steered) -> None:
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable(status="Voided"))
        late = (await post(client, "talkable", talkable())).json()
        await ended(relay, order_id)
    assert (late["verdict"], late["order_id"]) == ("duplicate", order_id)
    assert await state_of(relay, order_id) == ("closed", "cancelled")
    assert far.placed == []


async def test_voided_after_paid_cancels_what_is_not_placed(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    order_id = await accepted(client, "talkable", talkable())
    voided = (await post(client, "talkable", talkable(status="Voided"))).json()
    assert (voided["verdict"], voided["order_id"]) == ("accepted", order_id)
    assert await state_of(relay, order_id) == ("settled", "cancelled")
    async with working(relay):
        await ended(relay, order_id)
    assert far.placed == []


async def test_voided_cancels_a_held_order_too(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "talkable", talkable())
    await client.post(f"/api/v1/orders/{order_id}/hold", json={"note": "wait"})
    await post(client, "talkable", talkable(status="Voided"))
    assert await state_of(relay, order_id) == ("settled", "cancelled")


async def test_voided_after_placing_holds_the_order_and_says_where_it_is(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await ended(relay, order_id, "placed")
        await post(client, "talkable", talkable(status="Voided"))
        order = await ended(relay, order_id, "on_hold")
    assert f"voided reward {TALKABLE_ID}" in order["hold_reason"]
    assert "the vendor has it as G1" in order["hold_reason"]


async def test_voided_while_the_order_is_being_placed_holds_it_as_soon_as_the_vendor_has_answered(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.gate.clear()
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await far.asked.wait()
        assert (await post(client, "talkable", talkable(status="Voided"))).status_code == 202
        assert await state_of(relay, order_id) == ("received", None)
        far.gate.set()
        order = await ended(relay, order_id, "on_hold")
    assert (order["held_from"], order["vendor_order_id"]) == ("placed", "G1")
    assert "the vendor has it as G1" in order["hold_reason"]


async def test_voided_while_a_placing_fails_for_good_cancels_the_order(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.place_status = 400
    far.gate.clear()
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await far.asked.wait()
        await post(client, "talkable", talkable(status="Voided"))
        far.gate.set()
        order = await ended(relay, order_id)
    assert order["outcome"] == "cancelled"


async def test_a_person_who_holds_a_claimed_order_does_not_undo_that_it_was_taken_back(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.place_status = 400
    far.gate.clear()
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        await far.asked.wait()
        await post(client, "talkable", talkable(status="Voided"))
        assert (await client.post(f"/api/v1/orders/{order_id}/hold", json={"note": "wait"})).status_code == 200
        far.gate.set()
        order = await ended(relay, order_id)
    assert order["outcome"] == "cancelled"


async def test_unpaid_waits_and_paid_places(relay: Relay, client: httpx.AsyncClient) -> None:
    unpaid = (await post(client, "talkable", talkable(status="Unpaid"))).json()
    assert (unpaid["verdict"], unpaid["order_id"]) == ("informational", None)
    assert "waits for Paid" in unpaid["reason"]
    order_id = await accepted(client, "talkable", talkable(status="Paid"))
    assert await state_of(relay, order_id) == ("received", None)


async def test_a_reward_without_any_address_is_held_and_says_so(relay: Relay, client: httpx.AsyncClient) -> None:
    def nobody(payload: dict[str, object]) -> None:
        payload.update(person=None, advocate_origin=None, offer=None)

    order_id = await accepted(client, "talkable", talkable(nobody))
    order = await relay.ops.order(order_id)
    assert order["state"] == "on_hold"
    assert "neither an e-mail address nor a phone number" in order["hold_reason"]
