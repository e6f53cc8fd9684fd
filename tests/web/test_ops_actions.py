"""What people do to orders and parties: each action leaves its actor and note, and says why where it is not allowed."""

from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, client_of, ended, relay_of, settings, until, working
from support.steered import Steered, accepted, post, roster, talkable

ACTIONS = ("retry", "hold", "release", "refuse", "close")


async def act(client: httpx.AsyncClient, order_id: str, action: str, **body: Any) -> httpx.Response:
    return await client.post(f"/api/v1/orders/{order_id}/{action}", json=body)


async def done(client: httpx.AsyncClient, order_id: str, action: str, **body: Any) -> dict[str, Any]:
    answer = await act(client, order_id, action, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refused(client: httpx.AsyncClient, order_id: str, action: str) -> str:
    """The sentence of a 409."""
    answer = await act(client, order_id, action)
    assert (action, answer.status_code, answer.json()["error"]) == (action, 409, "not_allowed")
    return str(answer.json()["detail"])


async def alter(relay: Relay, assignments: str) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(text(f"UPDATE orders SET {assignments}"))


# --- hold and release ------------------------------------------------------------------------------------


async def test_hold_and_release_leave_actor_and_note(client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    held = await done(client, order_id, "hold", note="address looks wrong")
    assert (held["state"], held["held_from"], held["next_step"], held["due_at"]) == ("on_hold", "received", None, None)
    assert "address looks wrong" in held["hold_reason"]
    free = await done(client, order_id, "release", note="confirmed by phone")
    assert (free["state"], free["hold_reason"], free["next_step"]) == ("received", None, "place")
    told = [(event["actor"], event["to_state"]) for event in free["events"]]
    assert told == [("source:roster", "received"), ("alice", "on_hold"), ("alice", "received")]
    assert "confirmed by phone" in free["events"][2]["reason"]


async def test_a_note_may_hold_anything_that_can_be_typed(client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    held = await done(client, order_id, "hold", note="O'Brien\x00 <b>100 %</b> 🎁")
    assert "O'Brien <b>100 %</b> 🎁" in held["hold_reason"]


async def test_a_held_order_is_not_placed(relay: Relay, client: httpx.AsyncClient, far: Steered) -> None:
    order_id = await accepted(client, "roster", roster("R-1"))
    await done(client, order_id, "hold")
    async with working(relay):
        await ended(relay, await accepted(client, "roster", roster("R-2")), "placed")
        assert len(far.placed) == 1
        await done(client, order_id, "release")
        await ended(relay, order_id, "placed")
    assert len(far.placed) == 2


async def test_hold_while_the_order_is_being_placed_takes_effect_when_the_call_ends(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.gate.clear()
    async with working(relay):
        order_id = await accepted(client, "roster", roster())
        await far.asked.wait()
        now = await done(client, order_id, "hold", note="wait")
        assert (now["state"], now["claimed"]) == ("received", True)
        far.gate.set()
        held = await ended(relay, order_id, "on_hold")
        assert (held["held_from"], held["vendor_order_id"], held["claimed"]) == ("placed", "G1", False)
        assert "held by alice: wait" in held["hold_reason"]
        far.word = "Completed"
        await done(client, order_id, "release")
        await ended(relay, order_id)
    assert len(far.placed) == 1


async def test_release_routes_again_after_a_change_of_the_configuration(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path, far: Steered
) -> None:
    order_id = await accepted(client, "roster", roster())
    held = await done(client, order_id, "hold")
    assert (held["route"], held["plan"]["lines"][0]["product"]) == ("gift cards", "CVS")
    changed = CONFIGURATION.replace('name = "gift cards"', 'name = "coffee"').replace('"CVS"', '"COFFEE"')
    async with relay_of(settings(tmp_path, changed), database_url, far.transport) as other, client_of(other) as second:
        free = await done(second, order_id, "release")
        assert (free["route"], free["plan"]["lines"][0]["product"]) == ("coffee", "COFFEE")
        async with working(other):
            await ended(other, order_id, "placed")
    assert far.placed[0]["LineItems"][0]["ProductId"] == "COFFEE"


async def test_an_order_without_a_route_is_held_until_there_is_one(
    database_url: str, tmp_path: Path, far: Steered
) -> None:
    narrow = CONFIGURATION.replace('name = "gift cards"', 'name = "gift cards"\nsources = ["talkable"]')
    async with relay_of(settings(tmp_path, narrow), database_url) as relay, client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
        assert "no route matches" in (await relay.ops.order(order_id))["hold_reason"]
        assert "no route matches" in await refused(client, order_id, "release")
    async with relay_of(settings(tmp_path), database_url) as relay, client_of(relay) as client:
        assert (await done(client, order_id, "release"))["state"] == "received"


async def test_a_route_that_looks_into_the_payload_still_does_at_release(
    database_url: str, tmp_path: Path, far: Steered
) -> None:
    condition = '\n[routes.when]\n"payload.reward.incentive_type" = "{}"\n'
    for kind, state in (("other", "on_hold"), ("rebate", "received")):
        text_ = CONFIGURATION.replace("value = 20\n", "value = 20" + condition.format(kind))
        async with relay_of(settings(tmp_path, text_), database_url) as relay, client_of(relay) as client:
            if kind == "other":
                order_id = await accepted(client, "talkable", talkable())
            else:
                await done(client, order_id, "release")
            assert (await relay.ops.order(order_id))["state"] == state


async def test_release_is_refused_with_what_is_still_missing(client: httpx.AsyncClient) -> None:
    def nobody(payload: dict[str, Any]) -> None:
        payload.update(person=None, advocate_origin=None, offer=None)

    order_id = await accepted(client, "talkable", talkable(nobody))
    assert "neither an e-mail address nor a phone number" in await refused(client, order_id, "release")


# --- retry, refuse, close --------------------------------------------------------------------------------


async def test_retry_makes_a_waiting_order_due_with_all_its_attempts(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.place_status = 429
    async with working(relay):
        order_id = await accepted(client, "roster", roster())

        async def tried() -> bool:
            return bool((await relay.ops.order(order_id))["attempts"])

        await until(tried)
        far.place_status = 201
        now = await done(client, order_id, "retry", note="vendor is back")
        assert now["attempts"] == 0
        order = await ended(relay, order_id, "placed")
    assert "retry: vendor is back; place at vendor:gcp is due now" in str(
        [event["reason"] for event in order["events"]]
    )


async def test_refuse_tells_the_platform_the_message(relay: Relay, client: httpx.AsyncClient, far: Steered) -> None:
    order_id = await accepted(client, "roster", roster())
    now = await done(client, order_id, "refuse", note="none left", message="Out of stock, sorry")
    assert (now["state"], now["outcome"], now["next_step"]) == ("settled", "refused", "close")
    async with working(relay):
        await ended(relay, order_id)
    (told,) = far.told
    assert b"Out of stock, sorry" in told.content
    assert b"none left" not in told.content
    assert far.placed == []


async def test_refuse_in_doubt_is_refused_and_names_the_number_to_look_for(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    order_id = await accepted(client, "roster", roster())
    await alter(relay, "in_doubt = true")
    detail = await refused(client, order_id, "refuse")
    assert f"look for {(await relay.ops.order(order_id))['po_number']} there" in detail
    await done(client, order_id, "hold")
    await refused(client, order_id, "refuse")
    assert (await done(client, order_id, "release"))["next_step"] == "place"


async def test_refuse_of_a_held_order_that_was_delivered_is_refused(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    await alter(relay, "state = 'settled', step = 'close', party = 'source:roster', outcome = 'fulfilled'")
    await done(client, order_id, "hold")
    assert "fulfilled" in await refused(client, order_id, "refuse")
    assert (await done(client, order_id, "release"))["outcome"] == "fulfilled"


async def test_close_ends_a_held_order_and_tells_nobody(relay: Relay, client: httpx.AsyncClient, far: Steered) -> None:
    order_id = await accepted(client, "roster", roster())
    await done(client, order_id, "hold")
    order = await done(client, order_id, "close", note="sent by hand")
    assert (order["state"], order["outcome"], order["next_step"]) == ("closed", "cancelled", None)
    assert order["events"][-1]["actor"] == "alice"
    assert order["events"][-1]["reason"] == "closed by hand as cancelled: sent by hand"
    assert (far.told, far.placed) == ([], [])


async def test_each_action_is_refused_where_the_state_does_not_allow_it(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    order_id = await accepted(client, "roster", roster())
    for action in ("release", "close"):
        assert "it is received" in await refused(client, order_id, action)
    await alter(relay, "state = 'placed', step = 'check', vendor_order_id = 'G1'")
    for action in ("release", "close", "refuse"):
        assert "it is placed" in await refused(client, order_id, action)
    await alter(relay, "state = 'settled', step = 'close', party = 'source:roster', outcome = 'fulfilled'")
    for action in ("release", "refuse"):
        assert "fulfilled" in await refused(client, order_id, action)
    await done(client, order_id, "hold", note="later")
    for action in ("retry", "hold"):
        assert "it is on hold (held by alice: later" in await refused(client, order_id, action)
    await done(client, order_id, "close")
    for action in ACTIONS:
        assert "it is closed (fulfilled)" in await refused(client, order_id, action)


async def test_while_a_call_runs_only_hold_is_taken(relay: Relay, client: httpx.AsyncClient, far: Steered) -> None:
    far.gate.clear()
    async with working(relay):
        order_id = await accepted(client, "roster", roster())
        await far.asked.wait()
        assert "a call for it runs just now" in await refused(client, order_id, "retry")
        await refused(client, order_id, "refuse")
        await refused(client, order_id, "close")
        far.gate.set()
        await ended(relay, order_id, "placed")


# --- parties ---------------------------------------------------------------------------------------------


async def party(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    found = (await client.get("/api/v1/summary")).json()["parties"]
    return next(each for each in found if each["party"] == name)


async def test_a_paused_vendor_is_not_called_until_it_is_resumed(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    paused = await client.post("/api/v1/parties/vendor:gcp/pause", json={"note": "invoice dispute"})
    assert paused.json() == {"party": "vendor:gcp", "paused": True}
    assert "invoice dispute" in (await party(client, "vendor:gcp"))["why"]
    async with working(relay):
        order_id = await accepted(client, "roster", roster())
        cancelled = await accepted(client, "talkable", talkable(status="Voided"))
        await ended(relay, cancelled)
        assert far.placed == []
        assert (await party(client, "vendor:gcp"))["due"] == 1
        await client.post("/api/v1/parties/vendor:gcp/resume", json={})
        await ended(relay, order_id, "placed")
    assert (await party(client, "vendor:gcp"))["paused"] is False


async def test_resume_releases_what_was_held_because_the_vendor_refused_us(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.place_status = 422
    async with working(relay):
        order_id = await accepted(client, "roster", roster("R-1"))
        await ended(relay, order_id, "on_hold")
        assert (await party(client, "vendor:gcp"))["paused"] is True
        by_hand = await accepted(client, "roster", roster("R-2"))
        await done(client, by_hand, "hold", note="mine")
        far.place_status = 201
        resumed = (await client.post("/api/v1/parties/vendor:gcp/resume", json={"note": "topped up"})).json()
        order = await ended(relay, order_id, "placed")
    assert (resumed["released"], resumed["kept"]) == ([order_id], {})
    assert "released: topped up" in str([event["reason"] for event in order["events"]])
    assert (await relay.ops.order(by_hand))["state"] == "on_hold"


async def test_one_order_that_cannot_be_released_does_not_keep_the_vendor_paused(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path, far: Steered
) -> None:
    far.place_status = 422
    async with working(relay):
        gone = await accepted(client, "talkable", talkable())
        await ended(relay, gone, "on_hold")
    narrow = CONFIGURATION.replace('name = "gift cards"', 'name = "gift cards"\nsources = ["roster"]')
    async with relay_of(settings(tmp_path, narrow), database_url) as other, client_of(other) as second:
        resumed = (await second.post("/api/v1/parties/vendor:gcp/resume", json={})).json()
        assert resumed["released"] == []
        assert "no route matches" in resumed["kept"][gone]
        assert (await party(second, "vendor:gcp"))["paused"] is False


async def test_resume_of_a_party_that_flows_or_is_unknown_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/parties/vendor:gcp/resume", json={})
    assert (answer.status_code, answer.json()["error"]) == (409, "not_allowed")
    for name in ("vendor:nope", "a%00b"):
        assert (await client.post(f"/api/v1/parties/{name}/resume", json={})).status_code == 404


# --- deliveries ------------------------------------------------------------------------------------------


async def test_a_delivery_that_became_an_order_is_not_replayed(client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    for row in (await client.get("/api/v1/deliveries")).json()["items"]:
        answer = await client.post(f"/api/v1/deliveries/{row['id']}/replay", json={})
        assert answer.status_code == 409
        assert order_id in answer.json()["detail"]
    assert (await post(client, "roster", roster())).json()["verdict"] == "duplicate"
