"""The plan of a bulk action is what then happens, while orders keep moving; what moved is skipped and says so."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from reward_relay import bulk
from reward_relay.db.engine import Database
from reward_relay.errors import DatabaseUnavailable, Invalid, NotAllowed, NotFound, Unavailable
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, ended, relay_of, settings, until, working
from support.steered import Steered, accepted, roster, talkable


async def held(relay: Relay, client: httpx.AsyncClient, *ids: str, note: str = "wait") -> list[str]:
    """New orders of Roster's that alice holds."""
    found = [await accepted(client, "roster", roster(each)) for each in ids]
    for order_id in found:
        await relay.ops.hold(order_id, "alice", note)
    return found


def numbers(rows: list[dict[str, Any]]) -> set[str]:
    return {row["po_number"] for row in rows}


async def released(relay: Relay, order_id: str) -> list[str]:
    """The reasons of the releases of an order, as its events tell them."""
    events = (await relay.ops.order(order_id))["events"]
    return [event["reason"] for event in events if "released" in event["reason"]]


# --- plans -----------------------------------------------------------------------------------------------


async def test_a_plan_says_how_many_which_and_what_and_does_nothing(relay: Relay, client: httpx.AsyncClient) -> None:
    first, second = await held(relay, client, "R-1", "R-2")
    await accepted(client, "roster", roster("R-3"))
    plan = await relay.bulk.plan("release", {"source": "roster"}, "alice", "all clear")
    assert (plan["count"], plan["refused"], plan["cut"], plan["left"]) == (2, 0, False, 2)
    assert [each["id"] for each in plan["would"]] == [first, second]
    does = "goes on as received: place at vendor:gcp by route 'gift cards'"
    assert plan["groups"] == [{"does": does, "count": 2}]
    assert (await relay.ops.order(first))["state"] == "on_hold"
    assert await relay.bulk.find(plan["token"]) == plan


async def test_what_cannot_be_released_is_named_with_its_reason(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    order_id = await accepted(client, "talkable", talkable())
    await relay.ops.hold(order_id, "alice", "wait")
    await held(relay, client, "R-1")
    narrow = CONFIGURATION.replace('name = "gift cards"', 'name = "gift cards"\nsources = ["roster"]')
    async with relay_of(settings(tmp_path, narrow), database_url) as other:
        plan = await other.bulk.plan("release", {}, "alice")
    assert (plan["count"], plan["refused"]) == (1, 1)
    assert "no route matches" in plan["wont"][0]["why"]
    assert plan["wont"][0]["id"] == order_id


async def test_filters_choose(relay: Relay, client: httpx.AsyncClient) -> None:
    first, second = await held(relay, client, "R-1", "R-2")
    (other,) = await held(relay, client, "R-3", note="address")
    waiting = await accepted(client, "talkable", talkable())
    reason = (await relay.ops.order(other))["hold_reason"]
    now = datetime.now(UTC)

    async def chosen(action: str, **filters: Any) -> list[str]:
        return [each["id"] for each in (await relay.bulk.plan(action, filters, "alice"))["would"]]

    assert await chosen("release") == [first, second, other]
    assert await chosen("release", hold_reason=reason) == [other]
    assert await chosen("release", q="R-2") == [second]
    assert await chosen("release", created_after=now + timedelta(hours=1)) == []
    assert await chosen("release", created_before=(now + timedelta(hours=1)).isoformat(), source="") != []
    assert await chosen("retry") == [waiting]
    assert await chosen("retry", party="vendor:gcp", vendor="gcp", state="received") == [waiting]
    assert await chosen("retry", source="roster") == []


@pytest.mark.parametrize(
    ("action", "filters"),
    [
        ("refuse", {}),
        ("release", {"stat": "on_hold"}),
        ("release", {"state": "placed"}),
        ("retry", {"state": "on_hold"}),
        ("retry", {"created_after": "soon"}),
    ],
)
async def test_a_wish_that_makes_no_sense_is_refused(relay: Relay, action: str, filters: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        await relay.bulk.plan(action, filters, "alice")


async def test_a_plan_takes_the_oldest_and_says_that_there_are_more(
    relay: Relay, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "MOST", 3)
    monkeypatch.setattr(bulk, "BATCH", 2)
    ids = await held(relay, client, "R-1", "R-2", "R-3")
    assert (await relay.bulk.plan("release", {}, "alice"))["cut"] is False
    await held(relay, client, "R-4")
    plan = await relay.bulk.plan("release", {}, "alice")
    assert (plan["cut"], [each["id"] for each in plan["would"]]) == (True, ids)


# --- acting ----------------------------------------------------------------------------------------------


async def test_acting_does_what_the_plan_says_and_the_events_say_the_same(
    relay: Relay, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    ids = await held(relay, client, *(f"R-{number}" for number in range(5)))
    plan = await relay.bulk.plan("release", {}, "alice", "all clear")
    (late,) = await held(relay, client, "late")
    told: list[tuple[int, int]] = []
    result = await relay.bulk.act(plan["token"], "alice", lambda done, of: told.append((done, of)))
    assert [each["id"] for each in result["done"]] == ids
    assert (result["skipped"], told) == ([], [(2, 5), (4, 5), (5, 5)])
    for each in plan["would"]:
        assert await released(relay, each["id"]) == [f"released: all clear; {each['does']}"]
    assert (await relay.ops.order(late))["state"] == "on_hold"
    assert (await relay.bulk.find(plan["token"]))["left"] == 0


async def test_a_token_is_for_one_person_and_one_time(relay: Relay, client: httpx.AsyncClient) -> None:
    await held(relay, client, "R-1")
    token = (await relay.bulk.plan("release", {}, "alice"))["token"]
    with pytest.raises(NotAllowed, match="alice's"):
        await relay.bulk.act(token, "bob")
    assert len((await relay.bulk.act(token, "alice"))["done"]) == 1
    with pytest.raises(NotAllowed, match="carried out already"):
        await relay.bulk.act(token, "alice")
    for nothing in ("nope", "01890000-0000-7000-8000-000000000000"):
        with pytest.raises(NotFound):
            await relay.bulk.act(nothing, "alice")


async def test_an_old_plan_is_not_believed(relay: Relay, client: httpx.AsyncClient) -> None:
    await held(relay, client, "R-1")
    token = (await relay.bulk.plan("release", {}, "alice"))["token"]
    async with relay.database.transaction() as connection:
        await connection.execute(text("UPDATE plans SET made_at = made_at - interval '31 minutes'"))
    with pytest.raises(NotAllowed, match="older than"):
        await relay.bulk.act(token, "alice")


async def test_a_plan_of_nothing_can_be_carried_out(relay: Relay) -> None:
    plan = await relay.bulk.plan("retry", {}, "alice")
    assert await relay.bulk.act(plan["token"], "alice") == {"done": [], "skipped": []}


async def test_what_moved_is_skipped_with_the_reason(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    gone, again, kept = await held(relay, client, "R-1", "R-2", "R-3")
    plan = await relay.bulk.plan("release", {}, "alice")
    await relay.ops.close(gone, "bob", "by hand")
    await relay.ops.release(again, "bob", "")
    await relay.ops.hold(again, "bob", "wait")
    result = await relay.bulk.act(plan["token"], "alice")
    assert [each["id"] for each in result["done"]] == [kept]
    why = {each["id"]: each["why"] for each in result["skipped"]}
    assert why[gone] == "moved meanwhile: now closed"
    assert "changed meanwhile: still on_hold" in why[again]


async def test_a_change_of_the_routes_stops_what_was_planned_with_the_old(
    relay: Relay, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    await held(relay, client, "R-1")
    plans = [await relay.bulk.plan("release", {}, "alice") for _ in range(2)]
    for plan, old, new in (
        (plans[0], 'product = "CVS"', 'product = "COFFEE"'),
        (plans[1], 'name = "gift cards"', 'name = "gift cards"\nsources = ["talkable"]'),
    ):
        changed = settings(tmp_path, CONFIGURATION.replace(old, new))
        async with relay_of(changed, database_url) as other:
            result = await other.bulk.act(plan["token"], "alice")
        assert (result["done"], len(result["skipped"])) == ([], 1)
        assert "the routes changed since the plan" in result["skipped"][0]["why"]


async def test_an_order_that_is_being_called_or_changed_just_now_is_skipped(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    called = await accepted(client, "roster", roster("R-1"))
    locked = await accepted(client, "roster", roster("R-2"))
    plan = await relay.bulk.plan("retry", {}, "alice")
    far.gate.clear()
    await relay.ops.pause("vendor:gcp", "alice", "")
    async with relay.database.transaction() as other:
        await other.execute(text("SELECT 1 FROM orders WHERE id = :id FOR UPDATE"), {"id": locked})
        await other.execute(
            text(
                "UPDATE orders SET claim = gen_random_uuid(), claim_until = now() + interval '1 minute' WHERE id = :id"
            ),
            {"id": called},
        )
        result = await relay.bulk.act(plan["token"], "alice")
    assert result["done"] == []
    assert {each["why"] for each in result["skipped"]} == {"a call for it runs just now; try again in a few seconds"}


async def test_a_broken_plan_says_what_was_done_and_the_next_covers_the_rest(
    relay: Relay, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 2)
    ids = await held(relay, client, *(f"R-{number}" for number in range(5)))
    plan = await relay.bulk.plan("release", {}, "alice")

    def break_off(done: int, _: int) -> None:
        if done == 2:
            raise DatabaseUnavailable("PostgreSQL was stopped")

    with pytest.raises(Unavailable, match="2 of 5 are known to be done"):
        await relay.bulk.act(plan["token"], "alice", break_off)
    seen = await relay.bulk.find(plan["token"])
    assert ([each["id"] for each in seen["done"]], seen["left"]) == (ids[:2], 3)
    with pytest.raises(NotAllowed):
        await relay.bulk.act(plan["token"], "alice")
    rest = await relay.bulk.plan("release", {}, "alice")
    assert [each["id"] for each in rest["would"]] == ids[2:]
    assert len((await relay.bulk.act(rest["token"], "alice"))["done"]) == 3
    for order_id in ids:
        assert len(await released(relay, order_id)) == 1


async def test_a_batch_that_fails_leaves_none_of_it_done(
    relay: Relay, client: httpx.AsyncClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await held(relay, client, "R-1", "R-2")
    plan = await relay.bulk.plan("release", {}, "alice")
    async with database.transaction() as connection:
        await connection.execute(text("ALTER TABLE plans ADD CHECK (result IS NULL)"))
    with pytest.raises(Exception, match="check constraint"):
        await relay.bulk.act(plan["token"], "alice")
    assert [(await relay.ops.order(each))["state"] for each in ids] == ["on_hold", "on_hold"]
    assert (await relay.bulk.find(plan["token"]))["used_at"] is None


# --- while orders move -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_the_plan_is_what_happens_while_orders_move(
    relay: Relay, client: httpx.AsyncClient, far: Steered, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", 5)
    chance = random.Random(seed)
    ids = [await accepted(client, "roster", roster(f"R-{number}")) for number in range(40)]
    for order_id in ids[:30]:
        await relay.ops.hold(order_id, "alice", "wait")
    async with working(relay, 2):
        plans = {action: await relay.bulk.plan(action, {}, "alice", "bulk") for action in ("release", "retry")}
        for order_id in chance.sample(ids[:30], 8):
            move = chance.choice((relay.ops.release, relay.ops.close))
            await move(order_id, "bob", "meanwhile")
        far.word = "Completed"
        late = await accepted(client, "roster", roster("late"))
        results = {action: await relay.bulk.act(plan["token"], "alice") for action, plan in plans.items()}

        async def settled() -> bool:
            held_ = await relay.ops.orders({"state": "on_hold"}, 200)
            open_ = [each for each in (await relay.ops.orders({}, 200))["items"] if each["state"] != "closed"]
            return len(open_) == len(held_["items"])

        await ended(relay, late)
        await until(settled)
    for action, plan in plans.items():
        result = results[action]
        assert numbers(result["done"]) | numbers(result["skipped"]) == numbers(plan["would"])
        assert numbers(result["done"]) & numbers(result["skipped"]) == set()
        said = "retry: bulk" if action == "retry" else "released: bulk"
        for each in plan["would"]:
            events = [event for event in (await relay.ops.order(each["id"]))["events"] if event["actor"] == "alice"]
            mine = [event["reason"] for event in events if event["reason"].startswith(said)]
            assert mine == ([f"{said}; {each['does']}"] if each["po_number"] in numbers(result["done"]) else [])
    assert len(results["release"]["skipped"]) == 8
    assert len(numbers(results["release"]["done"])) == 22
    assert len(far.placed) == len({each["PONumber"] for each in far.placed})
    assert "bulk" not in str((await relay.ops.order(late))["events"])
