"""Moves between states: one conditional UPDATE that can fail, with its event in the same transaction."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from reward_relay.db import orders, steering
from reward_relay.db.engine import Database
from reward_relay.db.steering import Move
from reward_relay.jobs import Job, Result
from reward_relay.states import State, Step
from reward_relay.wiring import Relay
from support.relays import client_of, relay_of, settings
from support.steered import accepted, roster, unreachable

HOLD = Move(State.ON_HOLD, "ann", "held: wait", hold_reason="wait")
OPEN = (State.RECEIVED, State.PLACED, State.SETTLED)


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


@pytest.fixture
async def order_id(relay: Relay) -> str:
    async with client_of(relay) as client:
        return await accepted(client, "roster", roster())


async def move(database: Database, order_id: str, states: tuple[State, ...], change: Move) -> bool:
    async with database.transaction() as connection:
        return await steering.move(connection, order_id, states, change)


async def claimed(database: Database, lease_s: float = 30) -> Job:
    async with database.transaction() as connection:
        (job,) = await orders.claim(connection, {"vendor:gcp": 1}, lease_s)
    return job


async def recorded(database: Database, job: Job, result: Result) -> bool:
    """Record, and carry out what was asked for meanwhile, as the worker does."""
    async with database.transaction() as connection:
        wishes = await orders.record(connection, [(job, result)])
        for (order_id, _), wish in wishes.items():
            if wish:
                await steering.carry_out(connection, order_id, wish)
    return (job.id, job.claim) in wishes


async def test_two_results_of_one_order_in_a_batch_are_one_record_and_one_event(relay: Relay, order_id: str) -> None:
    late, present = await claimed(relay.database, lease_s=0), await claimed(relay.database)
    failed = Result(State.RECEIVED, Step.PLACE, "vendor:gcp", "unknown", wait_s=5, reason="no answer")
    placed = Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok", wait_s=60, reason="placed", vendor_order_id="G1")
    async with relay.database.transaction() as connection:
        wishes = await orders.record(connection, [(late, failed), (present, placed)])
    assert list(wishes) == [(order_id, present.claim)]
    order = await relay.ops.order(order_id)
    assert (order["state"], [event["reason"] for event in order["events"][1:]]) == ("placed", ["placed"])


async def test_a_move_from_another_state_changes_nothing_and_writes_no_event(relay: Relay, order_id: str) -> None:
    before = await relay.ops.order(order_id)
    assert not await move(relay.database, order_id, (State.PLACED,), HOLD)
    assert await relay.ops.order(order_id) == before
    assert await move(relay.database, order_id, (State.RECEIVED,), HOLD)


async def test_of_two_moves_at_once_one_wins(relay: Relay, order_id: str) -> None:
    won = await asyncio.gather(*(move(relay.database, order_id, (State.RECEIVED,), HOLD) for _ in range(6)))
    assert sum(won) == 1
    assert len((await relay.ops.order(order_id))["events"]) == 2


async def test_a_way_that_the_states_do_not_have_is_a_mistake_of_ours(relay: Relay, order_id: str) -> None:
    with pytest.raises(ValueError, match="no order goes from closed to received"):
        await move(relay.database, order_id, (State.CLOSED,), Move(State.RECEIVED, "ann", "again", step=Step.PLACE))


async def test_the_table_refuses_a_row_that_makes_no_sense(relay: Relay, order_id: str) -> None:
    for nonsense in (
        "state = 'on_hold', step = NULL",
        "state = 'closed', step = NULL",
        "state = 'placed', step = 'check'",
        "state = 'settled', step = 'place', outcome = 'refused'",
        "state = 'lost'",
        "due_at = NULL",
    ):
        with pytest.raises(IntegrityError):
            async with relay.database.transaction() as connection:
                await connection.execute(text(f"UPDATE orders SET {nonsense}"))


async def test_the_state_before_the_hold_is_kept_through_a_second_hold(relay: Relay, order_id: str) -> None:
    await move(relay.database, order_id, OPEN, HOLD)
    again = Move(State.ON_HOLD, "bea", "held: mine", hold_reason="mine")
    assert await move(relay.database, order_id, (State.ON_HOLD,), again)
    order = await relay.ops.order(order_id)
    assert (order["held_from"], order["hold_reason"]) == ("received", "mine")


async def test_a_claimed_order_is_not_moved_and_the_wish_waits_for_the_record(relay: Relay, order_id: str) -> None:
    job = await claimed(relay.database)
    assert not await move(relay.database, order_id, OPEN, HOLD)
    async with relay.database.transaction() as connection:
        assert await steering.hold(connection, order_id, "ann", "wait")
    placed = Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok", reason="placed as G1", vendor_order_id="G1")
    assert await recorded(relay.database, job, placed)
    order = await relay.ops.order(order_id)
    assert (order["state"], order["held_from"], order["hold_reason"]) == ("on_hold", "placed", "wait")
    assert [event["to_state"] for event in order["events"]] == ["received", "received", "placed", "on_hold"]


async def test_a_wish_to_hold_what_has_ended_meanwhile_is_noted(relay: Relay, order_id: str) -> None:
    job = await claimed(relay.database)
    async with relay.database.transaction() as connection:
        await steering.hold(connection, order_id, "ann", "wait")
    held = Result(State.ON_HOLD, None, None, "rejected", reason="held: no", hold_reason="no")
    assert await recorded(relay.database, job, held)
    order = await relay.ops.order(order_id)
    assert (order["state"], order["hold_reason"]) == ("on_hold", "no")
    assert order["events"][-1]["reason"] == "wait: too late to hold it"


async def test_after_a_lease_has_ended_a_person_may_move_the_order_and_the_old_worker_is_fenced(
    relay: Relay, order_id: str
) -> None:
    job = await claimed(relay.database, lease_s=0)
    assert await move(relay.database, order_id, OPEN, HOLD)
    late = Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok", reason="placed as G1", vendor_order_id="G1")
    assert not await recorded(relay.database, job, late)
    order = await relay.ops.order(order_id)
    assert (order["state"], order["vendor_order_id"], order["in_doubt"]) == ("on_hold", None, True)


async def test_cancel_of_an_order_that_may_be_at_the_vendor_holds_it(relay: Relay, order_id: str) -> None:
    await claimed(relay.database, lease_s=0)
    async with relay.database.transaction() as connection:
        await steering.cancel(connection, order_id, "source:roster", "taken back")
    order = await relay.ops.order(order_id)
    assert (order["state"], order["held_from"]) == ("on_hold", "received")
    assert "the vendor may have it" in order["hold_reason"]


async def test_soon_is_refused_for_a_held_and_for_a_claimed_order(relay: Relay, order_id: str) -> None:
    async def soon() -> bool:
        async with relay.database.transaction() as connection:
            return await steering.soon(connection, order_id, "ann", "retry")

    assert await soon()
    await claimed(relay.database)
    assert not await soon()
    async with relay.database.transaction() as connection:
        await connection.execute(text("UPDATE orders SET claim = NULL, claim_until = NULL"))
    await move(relay.database, order_id, OPEN, HOLD)
    assert not await soon()


async def test_a_hold_does_not_overwrite_a_withdrawal_that_waits_for_the_same_record(
    relay: Relay, order_id: str
) -> None:
    job = await claimed(relay.database)
    async with relay.database.transaction() as connection:
        await steering.cancel(connection, order_id, "source:roster", "withdrawn")
        assert await steering.hold(connection, order_id, "ann", "wait")
    not_sent = Result(State.RECEIVED, Step.PLACE, "vendor:gcp", "not_sent", wait_s=60)
    assert await recorded(relay.database, job, not_sent)
    order = await relay.ops.order(order_id)
    assert (order["state"], order["outcome"]) == ("settled", "cancelled")


async def test_a_withdrawal_of_a_held_order_that_is_placed_says_so_where_a_person_would_release_it(
    relay: Relay, order_id: str
) -> None:
    job = await claimed(relay.database)
    placed = Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok", wait_s=60, vendor_order_id="G1")
    assert await recorded(relay.database, job, placed)
    async with relay.database.transaction() as connection:
        assert await steering.hold(connection, order_id, "ann", "wait")
        await steering.cancel(connection, order_id, "source:roster", "withdrawn")
    order = await relay.ops.order(order_id)
    assert (order["state"], order["held_from"]) == ("on_hold", "placed")
    assert "the vendor has it as G1" in order["hold_reason"]
