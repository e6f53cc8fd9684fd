"""Parties that hang, fail, ask for calm, or come back to a backlog: who is called, how often, and what waits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from reward_relay.db import orders, parties
from reward_relay.db.orders import seconds_to_next
from reward_relay.errors import NotSent, Unknown
from reward_relay.jobs import Job, Result, Trial
from reward_relay.sandbox import senders
from reward_relay.states import State, Step
from reward_relay.steps import after_failure
from reward_relay.wiring import Relay
from reward_relay.worker import Timing, Worker
from support.relays import until
from support.rows import run

VENDOR = "vendor:gcp"
DONE = Result(State.PLACED, Step.CHECK, VENDOR, "ok", wait_s=3600, vendor_order_id="V1")


async def due(relay: Relay, number: int, *, first: int = 0) -> list[str]:
    """So many new orders for the vendor, the first due for the longest; their ids."""
    bodies = [json.dumps(senders.roster_order(f"R-{n}")).encode() for n in range(first, first + number)]
    ids = [str(each.order_id) for each in await relay.intake.feed("roster", bodies)]
    for place, order_id in enumerate(ids):
        sql = "UPDATE orders SET due_at = now() - make_interval(mins => :mins) WHERE id = CAST(:id AS uuid)"
        await run(relay.database, sql, mins=600 - first - place, id=order_id)
    return ids


async def claim(relay: Relay, slots: int, **how: bool) -> list[Job]:
    async with relay.database.transaction() as connection:
        return await orders.claim(connection, {VENDOR: slots}, 60, **how)


async def ids_of(claiming: Awaitable[list[Job]]) -> set[str]:
    return {job.id for job in await claiming}


async def fails(relay: Relay, trial: Trial | None = None, **how: Any) -> bool:
    async with relay.database.transaction() as connection:
        return await parties.failed(connection, VENDOR, "away", **{"open_s": 15, "trial": trial, **how})


async def answers(relay: Relay, trial: Trial, slots: int = 16) -> None:
    async with relay.database.transaction() as connection:
        await parties.answered(connection, VENDOR, trial, slots, 60)


async def time_passes(relay: Relay) -> None:
    """The breaker's pause, or a lease, is over."""
    await run(relay.database, "UPDATE party_health SET open_until = now() - interval '1 second'")


async def health(relay: Relay) -> Any:
    (row,) = await run(
        relay.database,
        "SELECT *, EXTRACT(epoch FROM open_until - now()) AS open_s FROM party_health WHERE party = :party",
        party=VENDOR,
    )
    return row


@asynccontextmanager
async def at_work(relay: Relay, step: Callable[[Job], Awaitable[Result]], **slots: int) -> Any:
    given = {name.replace("_", ":", 1): n for name, n in slots.items()}
    worker = Worker(relay.database, given, step, Timing(), whole={VENDOR: 8})
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


# What is claimed.


async def test_a_claim_takes_what_is_due_longest_or_what_became_due_last(relay: Relay) -> None:
    ids = await due(relay, 6)
    assert await ids_of(claim(relay, 2)) == {*ids[:2]}
    assert await ids_of(claim(relay, 2, newest=True)) == {*ids[4:]}
    assert await ids_of(claim(relay, 16, newest=True)) == {*ids[2:4]}


async def test_placings_and_checks_take_turns_and_leave_each_other_what_they_do_not_need(relay: Relay) -> None:
    checked, placed = await due(relay, 4), await due(relay, 4, first=4)
    await run(
        relay.database,
        "UPDATE orders SET state = 'placed', step = 'check', vendor_order_id = 'V' "
        "WHERE id = ANY(CAST(:ids AS uuid[]))",
        ids=checked,
    )
    assert await ids_of(claim(relay, 1)) == {placed[0]}
    assert await ids_of(claim(relay, 1, swapped=True)) == {checked[0]}
    assert await ids_of(claim(relay, 1, newest=True)) == {placed[3]}
    assert await ids_of(claim(relay, 1, newest=True, swapped=True)) == {checked[3]}
    assert await ids_of(claim(relay, 3)) == {placed[1], placed[2], checked[1]}
    assert await ids_of(claim(relay, 3)) == {checked[2]}


async def test_of_a_backlog_a_worker_begins_with_both_ends(relay: Relay) -> None:
    ids, seen = await due(relay, 80), []

    async def step(job: Job) -> Result:
        seen.append(job.id)
        return DONE

    async with at_work(relay, step, vendor_gcp=2, vendor_idle=4):
        await until(lambda: _is(len(seen) == 80))
    assert set(seen) == set(ids)
    assert {*ids[:3], *ids[-3:]} < set(seen[:40])


async def test_a_vendor_that_hangs_keeps_only_its_own_slots(relay: Relay) -> None:
    """Its backlog is longer than all slots together; another vendor's orders and the closing calls all go through."""
    await due(relay, 60)
    await run(relay.database, "UPDATE orders SET party = 'vendor:b' WHERE external_id > 'R-3'")
    await due(relay, 20, first=100)
    sql = "UPDATE orders SET state = 'settled', outcome = 'fulfilled', step = 'close', party = 'source:roster' WHERE "
    await run(relay.database, sql + "external_id LIKE 'R-11%'")
    (count,) = await run(relay.database, "SELECT count(*) FROM orders WHERE party <> :party", party=VENDOR)
    hanging, ended, never = 0, 0, asyncio.Event()

    async def step(job: Job) -> Result:
        nonlocal hanging, ended
        if job.party == VENDOR:
            hanging += 1
            await never.wait()
        ended += 1
        if job.step is Step.CLOSE:
            return Result(State.CLOSED, None, None, "ok", reason="told")
        return Result(State.PLACED, Step.CHECK, job.party, "ok", wait_s=3600, vendor_order_id="V1")

    async with at_work(relay, step, vendor_gcp=4, vendor_b=4, source_roster=4):
        await until(lambda: _is(ended == count[0]))
        assert hanging == 4


async def _is(value: bool) -> bool:
    return value


# The breaker, the probe, and the way back.


async def test_one_probe_then_two_for_each_answer_for_all_processes_together(relay: Relay) -> None:
    await due(relay, 40)
    await fails(relay)
    assert await claim(relay, 16) == []
    await time_passes(relay)
    (probe,) = await claim(relay, 16)
    assert probe.trial is Trial.PROBE
    assert await claim(relay, 16) == []
    await answers(relay, Trial.PROBE, slots=6)
    first, second = await claim(relay, 1), await claim(relay, 16)
    assert [job.trial for job in first + second] == [Trial.RAMP, Trial.RAMP]
    for _ in range(2):
        await answers(relay, Trial.RAMP, slots=6)
    assert len(await claim(relay, 16)) == 4
    for _ in range(2):
        await answers(relay, Trial.RAMP, slots=6)
    (job, *others) = await claim(relay, 16)
    assert (len(others), job.trial) == (15, None)


async def test_a_vendor_that_fails_again_while_it_comes_back_is_left_alone_at_once(relay: Relay) -> None:
    await due(relay, 40)
    await fails(relay)
    await time_passes(relay)
    await claim(relay, 16)
    for trial in (Trial.PROBE, Trial.RAMP, Trial.RAMP):
        await answers(relay, trial)
    assert len(await claim(relay, 16)) == 6
    assert await fails(relay, Trial.RAMP, enough=False)
    assert not any([await fails(relay, Trial.RAMP, enough=False) for _ in range(5)])
    assert await claim(relay, 16) == []
    found = await health(relay)
    assert (found.breaker, found.failures, found.permits) == ("open", 0, None)
    assert found.open_s < 16


async def test_a_vendor_that_has_answered_often_may_fail_now_and_then_on_its_way_back(relay: Relay) -> None:
    await due(relay, 40)
    await fails(relay)
    await time_passes(relay)
    await claim(relay, 40)
    for trial in (Trial.PROBE, *[Trial.RAMP] * 15):
        await answers(relay, trial, slots=100)
    before = (await health(relay)).permits
    assert not await fails(relay, Trial.RAMP, enough=False)
    assert (await health(relay)).permits == before + 1
    assert await fails(relay, Trial.RAMP, enough=True)


async def test_what_began_before_the_outage_says_nothing_about_the_vendor_that_comes_back(relay: Relay) -> None:
    await due(relay, 4)
    await fails(relay)
    await time_passes(relay)
    await claim(relay, 16)
    await answers(relay, Trial.PROBE)
    assert not await fails(relay, None)
    assert len(await claim(relay, 16)) == 2
    await fails(relay, Trial.RAMP)
    await answers(relay, Trial.RAMP)
    assert (await health(relay)).breaker == "open"


async def test_when_those_who_tried_have_died_another_one_tries_after_the_lease(relay: Relay) -> None:
    await due(relay, 10)
    await fails(relay)
    for _ in range(2):
        await time_passes(relay)
        assert [job.trial for job in await claim(relay, 16)] == [Trial.PROBE]
    await answers(relay, Trial.PROBE)
    assert len(await claim(relay, 16)) == 2
    assert await claim(relay, 16) == []
    await time_passes(relay)
    assert len(await claim(relay, 16)) == 1


async def test_a_probe_that_called_nobody_is_followed_by_the_next(relay: Relay) -> None:
    await due(relay, 2)
    await fails(relay)
    await time_passes(relay)
    await claim(relay, 16)
    async with relay.database.transaction() as connection:
        await parties.give_back(connection, VENDOR, Trial.PROBE)
    assert [job.trial for job in await claim(relay, 16)] == [Trial.PROBE]


async def test_a_resumed_party_is_called_once_before_all_its_slots_are_used(relay: Relay) -> None:
    await due(relay, 10)
    await relay.ops.pause(VENDOR, "ann", "their account is empty")
    assert await claim(relay, 16) == []
    await relay.ops.resume(VENDOR, "ann", "topped up")
    assert len(await claim(relay, 16)) == 1
    summary = await relay.ops.summary()
    assert next(each["recovering"] for each in summary["parties"] if each["party"] == VENDOR)


async def test_a_vendor_that_comes_back_is_never_called_more_than_it_has_slots(relay: Relay) -> None:
    """Two workers, a backlog, and one more failure on the way: what is under way grows from one, up to the slots."""
    ids = await due(relay, 60)
    await fails(relay)
    await time_passes(relay)
    busy, began, answered, done = 0, [], 0, set()

    async def step(job: Job) -> Result:
        nonlocal busy, answered
        busy += 1
        began.append((answered, busy))
        await asyncio.sleep(0.01)
        busy -= 1
        answered += 1
        done.add(job.id)
        return DONE

    async with at_work(relay, step, vendor_gcp=4), at_work(relay, step, vendor_gcp=4):
        await until(lambda: _is(len(done) == len(ids)))
    assert began[0] == (0, 1)
    assert all(at_a_time <= min(answers_before + 1, 8) for answers_before, at_a_time in began)


# A party that asks for calm.


@pytest.mark.parametrize(("asked_s", "least", "most"), [(60.0, 55, 61), (None, 10, 16), (5000.0, 890, 901)])
async def test_one_429_stops_all_calls_for_as_long_as_the_party_asks(
    relay: Relay, asked_s: float | None, least: float, most: float
) -> None:
    await due(relay, 40)
    calls, gate = 0, asyncio.Event()

    async def step(job: Job) -> Result:
        nonlocal calls
        calls += 1
        await gate.wait()
        return after_failure(job, NotSent("slow down", status=429, retry_after_s=asked_s))

    async with at_work(relay, step, vendor_gcp=8) as worker:
        await until(lambda: _is(calls == 8))
        gate.set()
        await until(lambda: _is(not worker._running))
        await asyncio.sleep(0.1)
        assert calls == 8
    assert least < (await health(relay)).open_s < most


async def test_retry_after_lengthens_the_pause_of_a_breaker_that_is_open_already(relay: Relay) -> None:
    await fails(relay)
    await fails(relay, asked_s=60)
    assert (await health(relay)).open_s > 55
    await fails(relay, asked_s=30)
    assert (await health(relay)).open_s > 55


async def test_single_503s_open_nothing(relay: Relay) -> None:
    await due(relay, 3)
    done = []

    async def step(job: Job) -> Result:
        done.append(job.id)
        return after_failure(job, Unknown("not now", status=503, retry_after_s=60))

    async with at_work(relay, step, vendor_gcp=8) as worker:
        await until(lambda: _is(len(done) == 3 and not worker._running))
    assert await run(relay.database, "SELECT 1 FROM party_health WHERE breaker = 'open'") == []


# What wakes a worker.


async def test_what_becomes_due_for_a_party_that_is_not_called_wakes_nobody(relay: Relay) -> None:
    await due(relay, 1)
    await run(relay.database, "UPDATE orders SET due_at = now() + interval '1 second'")

    async def wakes_in() -> float | None:
        async with relay.database.transaction() as connection:
            return await seconds_to_next(connection, [VENDOR])

    assert 0 < (await wakes_in() or 0) <= 1
    await fails(relay)
    assert 10 < (await wakes_in() or 0) <= 15
    await relay.ops.pause(VENDOR, "ann", "away")
    assert await wakes_in() is None
