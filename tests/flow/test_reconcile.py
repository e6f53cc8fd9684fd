"""Each kind of finding appears, is repaired by the plan where that is safe, and the next run is clean."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_relay.errors import NotAllowed, NotFound
from reward_relay.reconciling.comparing import AT_ONCE, Scope
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import sample
from reward_relay.wiring import Relay
from support.far_side import Far, far_side, send
from support.relays import CONFIGURATION, INFLUITIVE_TOKEN, TALKABLE_KEY, client_of, ended, relay_of, settings, working

ALL = Scope(closed="all", min_age_min=0)
PATIENT = CONFIGURATION.replace("first_check_s = 0.05", "first_check_s = 3600")
"""A relay that does not look at a placed order by itself."""


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_side() as found:
        yield found


@pytest.fixture
async def relay(far: Far, database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path, PATIENT), database_url, far.transport) as found:
        yield found


async def redeem(relay: Relay, number: int = 8261305) -> str:
    payload = sample("talkable_referrer")
    payload["reward"]["id"] = number
    async with client_of(relay, key=None) as client:
        answer = await send(client, "talkable", senders.talkable_form(payload, TALKABLE_KEY))
    order_id: str = answer.json()["order_id"]
    return order_id


async def redeem_at_influitive(relay: Relay, number: int = 901) -> str:
    async with client_of(relay, key=None) as client:
        hook = senders.influitive(senders.influitive_redemption(number), INFLUITIVE_TOKEN)
        order_id: str = (await send(client, "influitive", hook)).json()["order_id"]
    return order_id


async def placed(relay: Relay, number: int = 8261305) -> str:
    order_id = await redeem(relay, number)
    async with working(relay):
        await ended(relay, order_id, "placed")
    return order_id


async def closed(relay: Relay, number: int = 8261305) -> str:
    order_id = await placed(relay, number)
    await relay.ops.retry(order_id, "test", "")
    async with working(relay):
        await ended(relay, order_id)
    return order_id


async def alter(relay: Relay, statement: str) -> None:
    async with relay.database.transaction() as connection:
        await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # past the ledger's trigger
        await connection.exec_driver_sql(statement)


async def owe(far: Far, number: int) -> None:
    found = senders.influitive_redemption(number)
    body = {"reward_redemption": {**found["reward_redemption"], "id": number}, "contact": found["contact"]}
    assert (await far.client.post("/sandbox/redemptions", json=body)).status_code == 201


async def compared(relay: Relay, scope: Scope = ALL, actor: str = "alice") -> dict[str, Any]:
    return await relay.reconciliation.run(scope, actor, "month end")


async def only(relay: Relay, kind: str, scope: Scope = ALL) -> dict[str, Any]:
    """The report's only finding."""
    report = await compared(relay, scope)
    assert report["counts"] == {kind: 1}, report
    assert report["problems"] == []
    return {**report["findings"][0], "token": report["token"]}


async def repaired(relay: Relay, token: str, *, done: int = 1, skipped: int = 0) -> list[dict[str, Any]]:
    found = await relay.reconciliation.repair(token, "alice", "looked at it")
    assert (found["done"], found["skipped"]) == (done, skipped), found
    results: list[dict[str, Any]] = found["results"]
    return results


async def assert_clean(relay: Relay) -> None:
    report = await compared(relay)
    assert (report["counts"], report["problems"], report["complete"]) == ({}, [], True)


async def last_event(relay: Relay, order_id: str) -> dict[str, Any]:
    event: dict[str, Any] = (await relay.ops.order(order_id))["events"][-1]
    return event


# --- vendors ---------------------------------------------------------------------------------------------


async def test_when_all_agree_the_report_is_clean(relay: Relay) -> None:
    await closed(relay)
    await placed(relay, 2)
    await alter(relay, "UPDATE orders SET due_at = now() WHERE state = 'placed'")
    async with working(relay):
        await ended(relay, "2")
    report = await compared(relay)
    assert (report["counts"], report["complete"]) == ({}, True)
    assert report["looked"] == {"orders": 2, "asked": 2, "listed": 0}
    assert report["token"] == (await relay.reconciliation.latest() or {})["token"]


async def test_an_order_lost_there_is_held(relay: Relay, far: Far) -> None:
    order_id = await placed(relay)
    await far.rule(party="gcp", operation="check", mode="lost")
    found = await only(relay, "missing_there")
    assert (found["repair"], found["theirs"], found["ours"]) == ("hold", "no such order", "placed, 20.00")
    await repaired(relay, found["token"])
    order = await relay.ops.order(order_id)
    assert order["state"] == "on_hold"
    assert f"gcp has no order {order['vendor_order_id']}" in order["hold_reason"]
    assert order["events"][-1]["actor"] == "alice"
    assert "looked at it" in order["events"][-1]["reason"]
    await assert_clean(relay)


async def test_an_order_that_ended_there_is_asked_for(relay: Relay) -> None:
    order_id = await placed(relay)
    found = await only(relay, "ended_there")
    assert (found["repair"], found["theirs"]) == ("next_step", "Completed, 20.00")
    await repaired(relay, found["token"])
    assert "reconcile, ended_there" in (await last_event(relay, order_id))["reason"]
    async with working(relay):
        assert (await ended(relay, order_id))["outcome"] == "fulfilled"
    await assert_clean(relay)


async def test_an_order_that_ended_there_while_a_person_holds_it_is_left_to_the_person(relay: Relay) -> None:
    order_id = await placed(relay)
    await relay.ops.hold(order_id, "bob", "wait")
    assert (await only(relay, "ended_there"))["repair"] is None


async def test_another_amount_is_for_a_person(relay: Relay, far: Far) -> None:
    await closed(relay)
    await far.rule(party="gcp", operation="check", mode="other_amount")
    found = await only(relay, "different_amount")
    assert (found["repair"], found["ours"], found["theirs"]) == (None, "closed fulfilled, 20.00", "Completed, 25.00")
    assert "5.00 more" in found["todo"]


@pytest.mark.parametrize("state", ["closed", "settled"])
async def test_another_ending_is_for_a_person(relay: Relay, state: str) -> None:
    order_id = await placed(relay)
    step = "'close', party = 'source:talkable'" if state == "settled" else "NULL"
    await alter(relay, f"UPDATE orders SET state = '{state}', outcome = 'refused', step = {step}")
    found = await only(relay, "different_ending")
    assert (found["order_id"], found["repair"]) == (order_id, None)


async def test_closed_orders_are_left_out_sampled_or_all_asked_about(relay: Relay) -> None:
    await closed(relay)
    for how, asked in (("none", None), ("sample", 1), ("all", 1)):
        report = await compared(relay, Scope(closed=how, min_age_min=0))  # type: ignore[arg-type]
        assert report["looked"].get("asked") == asked
    assert (await compared(relay, Scope(closed="all")))["looked"] == {"orders": 0, "listed": 0}, (
        "young orders are left out"
    )


# --- platforms -------------------------------------------------------------------------------------------


async def test_a_reward_that_never_came_is_taken_from_the_open_list(relay: Relay, far: Far) -> None:
    await owe(far, 77)
    found = await only(relay, "missing_here")
    assert (found["external_id"], found["repair"], found["party"]) == ("77", "take", "source:influitive")
    (result,) = await repaired(relay, found["token"])
    assert result["why"] == "taken"
    order = await relay.ops.order("77")
    assert (order["events"][-1]["actor"], "looked at it" in order["events"][-1]["reason"]) == ("alice", True)
    await assert_clean(relay)


async def test_a_reward_that_came_since_the_report_is_not_taken_twice(relay: Relay, far: Far) -> None:
    await owe(far, 77)
    token = (await compared(relay))["token"]
    await redeem_at_influitive(relay, 77)
    (result,) = await repaired(relay, token, done=0, skipped=1)
    assert result["why"] == "its order came meanwhile"


async def test_a_reward_decided_since_the_report_is_not_taken(relay: Relay, far: Far) -> None:
    await owe(far, 77)
    token = (await compared(relay))["token"]
    await far.client.post("/sandbox/reset")
    (result,) = await repaired(relay, token, done=0, skipped=1)
    assert "does not wait" in result["why"]


async def test_an_entry_that_cannot_be_read_is_for_a_person_and_nothing_is_called_gone(relay: Relay, far: Far) -> None:
    await redeem_at_influitive(relay)
    body = {"reward_redemption": {"id": 5}}
    await far.client.post("/sandbox/redemptions", json=body)
    found = await only(relay, "missing_here")
    assert (found["repair"], "cannot be read" in found["todo"]) == (None, True)


async def test_a_closed_reward_that_is_still_open_there_is_for_a_person(relay: Relay, far: Far) -> None:
    order_id = await redeem_at_influitive(relay)
    await relay.ops.refuse(order_id, "bob", "no")
    async with working(relay):
        await ended(relay, order_id)
    await owe(far, 901)
    assert (await compared(relay))["counts"] == {}, "it has been closed just now"
    await alter(relay, "UPDATE orders SET updated_at = now() - interval '5 minutes'")
    found = await only(relay, "open_there")
    assert (found["repair"], "refuse it" in found["todo"]) == (None, True)


async def test_an_open_reward_that_is_gone_there_is_held_before_it_is_bought(relay: Relay, far: Far) -> None:
    order_id = await redeem_at_influitive(relay)
    found = await only(relay, "gone_there")
    assert found["repair"] == "hold"
    await repaired(relay, found["token"])
    assert "no longer open at influitive" in (await relay.ops.order(order_id))["hold_reason"]
    await assert_clean(relay)
    assert (await far.state())["counts"]["orders"] == {}


async def test_a_platform_that_does_not_answer_makes_a_partial_report(relay: Relay, far: Far) -> None:
    await redeem_at_influitive(relay)
    await far.rule(party="influitive", operation="list", mode="unavailable")
    report = await compared(relay)
    assert (report["counts"], report["complete"]) == ({}, False)
    assert "open list was not read" in report["problems"][0]


# --- our own ---------------------------------------------------------------------------------------------


async def test_a_platform_that_was_not_told_for_long_is_told(relay: Relay) -> None:
    order_id = await redeem(relay)
    await relay.ops.refuse(order_id, "bob", "no")
    await alter(relay, "UPDATE order_events SET at = at - interval '13 hours'")
    found = await only(relay, "not_told")
    await repaired(relay, found["token"])
    async with working(relay):
        await ended(relay, order_id)
    await assert_clean(relay)


async def test_what_only_the_vendor_can_say_is_for_a_person(relay: Relay) -> None:
    await redeem(relay)
    hold = "state = 'on_hold', held_from = 'received', hold_reason = 'x', step = NULL, due_at = NULL, in_doubt = true"
    await alter(relay, f"UPDATE orders SET {hold}")
    assert (await only(relay, "maybe_there"))["repair"] is None


async def test_an_order_pending_for_long_is_named(relay: Relay, far: Far) -> None:
    await placed(relay)
    await alter(relay, "UPDATE order_events SET at = at - interval '15 days'")
    report = await compared(relay)
    assert report["counts"] == {"pending_long": 1, "ended_there": 1}


# --- the plan --------------------------------------------------------------------------------------------


async def test_an_order_that_moved_since_the_report_is_skipped(relay: Relay) -> None:
    first, second = await placed(relay, 1), await placed(relay, 2)
    report = await compared(relay)
    assert report["counts"] == {"ended_there": 2}
    await relay.ops.hold(first, "bob", "")
    await alter(relay, f"UPDATE orders SET updated_at = now() WHERE id = '{second}'")
    before = [await relay.ops.order(each) for each in (first, second)]
    results = await repaired(relay, report["token"], done=0, skipped=2)
    assert [each["why"] for each in results] == [
        "it moved since the report, and is on_hold now",
        "it moved since the report, and is placed now",
    ]
    assert [await relay.ops.order(each) for each in (first, second)] == before


async def test_an_order_that_is_worked_on_just_now_is_skipped(relay: Relay) -> None:
    await placed(relay)
    token = (await compared(relay))["token"]
    await alter(relay, "UPDATE orders SET claim = gen_random_uuid(), claim_until = now() + interval '1 minute'")
    (result,) = await repaired(relay, token, done=0, skipped=1)
    assert "runs just now" in result["why"]


async def test_a_report_is_carried_out_once_and_by_whom_it_was_made_for(relay: Relay) -> None:
    await placed(relay)
    token = (await compared(relay))["token"]
    with pytest.raises(NotAllowed, match="alice's"):
        await relay.reconciliation.repair(token, "bob", "")
    await repaired(relay, token)
    with pytest.raises(NotAllowed, match="already"):
        await relay.reconciliation.repair(token, "alice", "")
    with pytest.raises(NotFound):
        await relay.reconciliation.repair("nonsense", "alice", "")
    assert (await relay.reconciliation.latest() or {})["repaired"]["done"] == 1


async def test_one_run_at_a_time_and_a_dead_one_does_not_block(relay: Relay) -> None:
    hindered: list[str] = []

    async def another() -> None:
        with pytest.raises(NotAllowed, match="alice reconciles just now"):
            await compared(relay, actor="bob")
        hindered.append(str((await relay.reconciliation.present() or {})["actor"]))

    platform = relay.parties.platforms["influitive"]
    kept = platform.open_list  # type: ignore[attr-defined]

    async def meanwhile() -> Any:
        await another()
        return await kept()

    platform.open_list = meanwhile  # type: ignore[attr-defined]
    await compared(relay)
    platform.open_list = kept  # type: ignore[attr-defined]
    assert hindered == ["alice"]
    assert await relay.reconciliation.present() is None
    await alter(
        relay,
        "INSERT INTO plans (id, action, actor, note, content, made_at) VALUES (gen_random_uuid(), 'reconcile_running', "
        """'ghost', '', '{"seen_at": "2020-01-01T00:00:00Z"}', now())""",
    )
    assert await relay.reconciliation.present() is None
    await assert_clean(relay)


# --- a far side in trouble -------------------------------------------------------------------------------


async def test_a_vendor_that_asks_us_to_slow_down_is_left_alone(relay: Relay, far: Far) -> None:
    for number in range(1, 8):
        await placed(relay, number)
    await far.rule(party="gcp", operation="check", mode="rate_limit", retry_after_s=30)
    report = await compared(relay)
    assert (report["counts"], report["complete"]) == ({}, False)
    (problem,) = report["problems"]
    assert "429" in problem
    assert "wait 30 s" in problem
    asked = [each for each in (await far.state())["calls"] if each["operation"] == "check"]
    assert len(asked) <= AT_ONCE * 3, "each question may be repeated twice inside the call"


async def test_failures_in_the_middle_make_a_partial_report(relay: Relay, far: Far) -> None:
    for number in range(1, 8):
        await placed(relay, number)
    lucky = (await relay.ops.order("3"))["vendor_order_id"]
    await far.rule(party="gcp", operation="check", mode="slow", match=lucky, delay_s=0)
    await far.rule(party="gcp", operation="check", mode="error_500")
    report = await compared(relay)
    assert report["complete"] is False
    assert "without an answer" in report["problems"][0]
    assert report["counts"].get("ended_there", 0) <= 1


async def test_a_vendor_that_denies_everything_is_not_believed(relay: Relay, far: Far) -> None:
    for number in range(1, 7):
        await placed(relay, number)
    await far.rule(party="gcp", operation="check", mode="lost")
    report = await compared(relay)
    assert report["counts"] == {"missing_there": 6}
    assert (report["repairable"], report["complete"]) == (0, False)
    assert "check base_url" in report["problems"][0]


async def test_a_paused_vendor_is_not_asked(relay: Relay, far: Far) -> None:
    await placed(relay)
    await relay.ops.pause("vendor:gcp", "bob", "invoice dispute")
    report = await compared(relay)
    assert "paused" in report["problems"][0]
    assert "check" not in [each["operation"] for each in (await far.state())["calls"]]


async def test_no_report_holds_claim_data_tokens_or_keys(relay: Relay, far: Far) -> None:
    await closed(relay)
    await placed(relay, 2)
    await owe(far, 77)
    await far.rule(party="gcp", operation="check", mode="other_amount")
    report = await compared(relay)
    assert report["counts"] == {"different_amount": 2, "ended_there": 1, "missing_here": 1}
    said = json.dumps(report, default=str)
    for secret in ("SANDBOX-", "claim.example", "Pin", "gcp-access-token", "influitive-api-token", "@"):
        assert secret not in said
