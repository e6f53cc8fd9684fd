"""What a review found broken in worker, polling, people's actions and logs, each as the scenario that showed it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reward_relay import polling, steps
from reward_relay.db import orders
from reward_relay.errors import NotAllowed
from reward_relay.jobs import Job, Result
from reward_relay.logs import redact
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import sample
from reward_relay.states import State, Step
from reward_relay.wiring import Relay
from reward_relay.worker import Timing, Worker
from support.far_side import Far, far_side, send
from support.relays import TALKABLE_KEY, client_of, ended, relay_of, settings, until, working


@pytest.fixture
async def far() -> AsyncIterator[Far]:
    async with far_side() as found:
        yield found


@pytest.fixture
async def relay(far: Far, database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    short = settings(tmp_path).model_copy(update={"pending_days": 1})
    async with relay_of(short, database_url, far.transport) as found:
        far.calls_back(found)
        yield found


@pytest.fixture
async def order_id(relay: Relay) -> str:
    async with client_of(relay, key=None) as client:
        hook = senders.talkable_form(sample("talkable_referrer"), TALKABLE_KEY)
        found: str = (await send(client, "talkable", hook)).json()["order_id"]
    return found


async def test_a_claim_too_old_to_call_with_is_put_back_as_it_was(relay: Relay, far: Far, order_id: str) -> None:
    async def never(job: Job) -> Result:
        raise AssertionError("called with a claim that may end during the call")

    worker = Worker(relay.database, {"vendor:gcp": 1}, never, Timing(lease_s=5, call_deadline_s=5))
    task = asyncio.create_task(worker.run())

    async def put_back() -> Any:
        calls = (await relay.ops.order(order_id))["calls"]
        return calls and calls[0]["verdict"] == "not_called"

    await until(put_back)
    worker.stop()
    await task
    order = await relay.ops.order(order_id)
    assert (order["state"], order["in_doubt"], order["attempts"]) == ("received", False, 0)
    assert await far.orders_per_key() == {}


async def test_a_result_that_cannot_be_stored_holds_the_order_in_doubt(relay: Relay, order_id: str) -> None:
    async def impossible(job: Job) -> Result:
        return Result(State.PLACED, Step.CHECK, "vendor:gcp", "ok")  # no vendor order id: the table refuses it

    worker = Worker(relay.database, {"vendor:gcp": 1}, impossible, Timing())
    task = asyncio.create_task(worker.run())
    order = await ended(relay, order_id, "on_hold")
    worker.stop()
    await task
    assert "could not be stored" in order["hold_reason"]
    assert order["in_doubt"]


async def between_checks(relay: Relay, changes: str) -> bool:
    """Set it where no check runs just now: the record of one would overwrite it."""
    async with relay.database.transaction() as connection:
        done = await connection.exec_driver_sql(f"UPDATE orders SET {changes} WHERE claim IS NULL")
    return done.rowcount > 0


async def test_an_order_that_stays_pending_is_held_after_its_days_and_may_be_released(
    relay: Relay, far: Far, order_id: str
) -> None:
    await far.rule(party="gcp", operation="place", mode="never_call_back")
    far.app.vendors[0]._far_side.options = far.app.vendors[0]._far_side.options.model_copy(
        update={"complete_after_s": 3600}
    )
    async with working(relay):
        await ended(relay, order_id, "placed")
        await until(lambda: between_checks(relay, f"polls = {steps.CHECKS_A_DAY}, due_at = now()"))
        order = await ended(relay, order_id, "on_hold")
        assert "still says Pending" in order["hold_reason"]
        released = await relay.ops.release(order_id, "ann", "they work on it")
    assert (released["state"], released["polls"]) == ("placed", 0)


async def test_refuse_waits_for_what_happens_to_the_order_just_now(relay: Relay, order_id: str) -> None:
    async with relay.database.transaction() as connection:
        await orders.claim(connection, {"vendor:gcp": 1}, 0)
        refusal = asyncio.create_task(relay.ops.refuse(order_id, "ann", "no"))
        await asyncio.sleep(0.2)
        assert not refusal.done()
    with pytest.raises(NotAllowed, match="may already be at gcp"):
        await refusal


async def test_a_platform_that_never_ends_its_answer_does_not_stop_the_polling(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless:
        async def poll(self) -> list[bytes]:
            await asyncio.Event().wait()
            return []

    monkeypatch.setattr(polling, "POLL_DEADLINE_S", 0.05)
    relay.parties.platforms["influitive"] = Endless()  # type: ignore[index]
    with pytest.raises(TimeoutError):
        await relay.poller().poll_once("influitive")


async def test_a_time_that_cannot_be_compared_is_422(relay: Relay) -> None:
    async with client_of(relay) as client:
        answer = await client.get("/api/v1/orders", params={"created_after": "9999-12-31T23:59:59-14:00"})
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


def test_a_row_that_postgresql_refuses_is_not_logged() -> None:
    told = redact("new row violates check\nDETAIL:  Failing row contains (1, RR-0, secret-token).\nend")
    assert told == "new row violates check\nDETAIL:  ***\nend"
