"""The worker: claim → call → record, in batches, with a lease and a fence.

1. Claim (one transaction): due orders, of each party no more than it has free slots.
2. Call: no transaction and no pooled connection is held; one total deadline.
3. Record (one transaction for all that ended meanwhile): fenced by the claim.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from reward_relay import metrics
from reward_relay.admission import Admission
from reward_relay.db import orders, parties, steering
from reward_relay.db.engine import Database
from reward_relay.db.groups import Groups
from reward_relay.db.upkeep import orphaned_parties
from reward_relay.errors import DatabaseUnavailable
from reward_relay.jobs import Job, Result
from reward_relay.outbound import exchanges, failure_of
from reward_relay.states import can_go
from reward_relay.steps import after_failure, asks_for_calm, is_party_failure, put_back, says_nothing, unrecordable

if TYPE_CHECKING:
    from reward_relay.tracing import Tracing

log = structlog.get_logger()
LOOK_EVERY_S = 1.0
ORPHANS_EVERY_S = 60.0
RECORD_RETRY_S = 0.5
LEAST_CALM_S = 1.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, as in `Settings`; `lease_s` is over `call_deadline_s`."""

    lease_s: float = 60.0
    call_deadline_s: float = 20.0
    breaker_failures: int = 5
    breaker_open_s: float = 15.0


@dataclass(frozen=True, slots=True)
class _Call:
    """When a step's calls began, in nanoseconds since 1970, and how long they took."""

    began_ns: int
    took_s: float


@dataclass(slots=True)
class _Load:
    """One party in this process: its slots, and how many calls failed in a row.

    `full`: its last claim found as many orders as it had slots, so more may wait.
    """

    slots: int
    busy: int = 0
    failures: int = 0
    full: bool = False


class Worker:
    """Works on the orders of the given parties, each with its number of slots, by calling `step`.

    `whole` is how many calls at a time a party takes from all workers together, where others share its slots.
    """

    def __init__(
        self,
        database: Database,
        slots: Mapping[str, int],
        step: Callable[[Job], Awaitable[Result]],
        timing: Timing | None = None,
        tracing: "Tracing | None" = None,
        *,
        whole: Mapping[str, int] | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._database = database
        self._admission = admission or Admission()
        self._tracing = tracing
        self._step = step
        self._timing = timing or Timing()
        self._whole = {**slots, **(whole or {})}
        self._loads = {party: _Load(count) for party, count in slots.items()}
        for party in slots:
            metrics.BREAKER_OPENED.labels(party)  # zero from the start, so that the first opening is a rise
        self._records: Groups[tuple[Job, Result], bool] = Groups(self._record)
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._orphans_at = 0.0

    async def run(self) -> None:
        """Work until `stop` is called; then end what is under way and return."""
        listener = asyncio.create_task(self._database.listen(self._wake.set))
        try:
            while not self._stopping:
                self._wake.clear()
                wait = await self._turn()
                if wait > 0 and not self._stopping:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), wait)
        finally:
            listener.cancel()
            if self._running:
                await asyncio.wait(self._running)
            await self._records.close()

    def stop(self) -> None:
        """Take no more orders; `run` returns when the present calls have ended and are recorded."""
        self._stopping = True
        self._wake.set()

    async def _turn(self) -> float:
        """One claim; returns how many seconds to wait for the next."""
        free = {party: load.slots - load.busy for party, load in self._loads.items() if load.busy < load.slots}
        if not free:
            return LOOK_EVERY_S
        try:
            claimed, jobs, claimed_at = await self._claim(free)
            counts = Counter(job.party for job in claimed)
            for party, wanted in free.items():
                self._loads[party].full = counts[party] >= wanted
            for job in jobs:
                self._loads[job.party].busy += 1
                task = asyncio.create_task(self._work(job, claimed_at))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            if claimed:
                return 0.0
            return await self._idle(list(free))
        except DatabaseUnavailable as error:
            log.warning("database_unavailable", detail=str(error))
        except Exception:
            log.exception("turn_failed")
        return LOOK_EVERY_S

    async def _claim(self, free: Mapping[str, int]) -> tuple[list[Job], list[Job], float]:
        """What was claimed, what of it is to be worked on (caps hold the others), and since when.

        Where more is due than there are slots, chance decides: oldest or newest first, and which step.

        So a new order does not wait behind a backlog, nor its oldest for ever behind new ones, nor placings behind
        checks or the other way round. Counted turns could fall into step with other parties' claims.
        """
        claimed_at, lease_s = time.monotonic(), self._timing.lease_s
        newest = any(self._loads[party].full for party in free) and random.random() < 0.5
        swapped = random.random() < 0.5
        how = {"newest": newest, "swapped": swapped, "paused": self._admission.paused}
        async with self._database.transaction() as connection:
            claimed = await orders.claim(connection, free, lease_s, **how)
            jobs = await self._admission.admit(connection, claimed)
        return claimed, jobs, claimed_at

    async def _idle(self, free: list[str]) -> float:
        """Seconds until the next look: a second, or less where an order is due before."""
        async with self._database.transaction() as connection:
            if time.monotonic() - self._orphans_at > ORPHANS_EVERY_S:
                self._orphans_at = time.monotonic()
                for party in await orphaned_parties(connection, list(self._loads)):
                    log.warning("party_not_configured", party=party)
                    self._loads[party] = _Load(1)
            due = await orders.seconds_to_next(connection, free)
        return LOOK_EVERY_S if due is None else min(max(due, 0.001), LOOK_EVERY_S)

    async def _work(self, job: Job, claimed_at: float) -> None:
        """One order's call and record. Whatever goes wrong, the slot is freed and the lease brings the order back."""
        try:
            if time.monotonic() - claimed_at > self._timing.lease_s - self._timing.call_deadline_s:
                log.warning("claim_too_old", order_id=job.id)
                await self._judge_party(job, put_back(job))
                await self._record_patiently(job, put_back(job), claimed_at)
                return
            began_ns, began = time.time_ns(), time.perf_counter()
            result = await self._call(job)
            call = _Call(began_ns, time.perf_counter() - began)
            metrics.call_ended(job.party, job.step, result.call_verdict, call.took_s)
            await self._judge_party(job, result)
            try:
                await self._record_patiently(job, result, claimed_at, call)
            except Exception:
                log.exception("record_failed", order_id=job.id, step=job.step)
                await self._record_patiently(job, unrecordable(job), claimed_at, call)
        except Exception:
            log.exception("work_failed", order_id=job.id)
        finally:
            self._loads[job.party].busy -= 1
            self._wake.set()

    async def _call(self, job: Job) -> Result:
        with exchanges() as made:
            result = await self._called(job)
        return replace(result, exchanges=made)

    async def _called(self, job: Job) -> Result:
        try:
            async with asyncio.timeout(self._timing.call_deadline_s):
                return await self._step(job)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                log.exception("step_failed", order_id=job.id, step=job.step)
            failure = failure_of(job.party, error)
            if failure is None:
                raise
            return after_failure(job, failure)

    async def _record_patiently(self, job: Job, result: Result, claimed_at: float, call: _Call | None = None) -> None:
        """Record; while the database is away try again until the lease ends."""
        while True:
            try:
                recorded = await self._records.submit((job, result))
                break
            except DatabaseUnavailable as error:
                if time.monotonic() - claimed_at > self._timing.lease_s:
                    log.error("record_lost", order_id=job.id, detail=str(error))
                    return
                await asyncio.sleep(RECORD_RETRY_S)
        self._tell(job, result, call, recorded=recorded)

    def _tell(self, job: Job, result: Result, call: _Call | None, *, recorded: bool) -> None:
        """One step in the log, the metrics and the order's trace."""
        if recorded:
            metrics.STEPS.labels(job.step, result.state).inc()
        else:
            metrics.FENCED.labels(job.step).inc()
        if self._tracing is not None and call is not None:
            self._tracing.step(job, result, call.began_ns, call.took_s, recorded=recorded)
        log.info(
            "step" if recorded else "fenced",
            order_id=job.id,
            po_number=job.po_number,
            step=job.step,
            party=job.party,
            verdict=result.call_verdict,
            state=result.state,
            took_ms=round(call.took_s * 1000, 1) if call else None,
        )

    async def _record(self, results: Sequence[tuple[Job, Result]]) -> list[bool]:
        for job, result in results:
            if not can_go(job.state, result.state):
                raise AssertionError(f"step {job.step} wants to go from {job.state} to {result.state}")
        async with self._database.transaction() as connection:
            wishes = await orders.record(connection, results)
            for (order_id, _), wish in wishes.items():
                if wish:
                    await steering.carry_out(connection, order_id, wish)
            for job, result in results:
                if result.pause:
                    await parties.pause(connection, job.party, result.pause)
        return [(job.id, job.claim) in wishes for job, _ in results]

    async def _judge_party(self, job: Job, result: Result) -> None:
        """Open the party's breaker after failures in a row; let a party that is on trial and answers have more."""
        load = self._loads[job.party]
        try:
            if is_party_failure(result):
                await self._party_failed(job, result, load)
                return
            silent = says_nothing(result)
            load.failures = load.failures if silent else 0
            if job.trial is not None:
                async with self._database.transaction() as connection:
                    if silent:
                        await parties.give_back(connection, job.party, job.trial)
                    else:
                        slots = self._whole.get(job.party, 1)
                        await parties.answered(connection, job.party, job.trial, slots, self._timing.lease_s)
        except DatabaseUnavailable as error:
            log.warning("party_health_not_kept", party=job.party, detail=str(error))

    async def _party_failed(self, job: Job, result: Result, load: _Load) -> None:
        load.failures += 1
        calm, asked_s = asks_for_calm(result), result.retry_after_s or 0.0
        enough = calm or load.failures >= self._timing.breaker_failures
        if not enough and job.trial is None:
            return
        if enough:
            load.failures = 0  # before the await, or every failure meanwhile opens it
        why, open_s = result.last_error or result.hold_reason or "", self._timing.breaker_open_s
        if calm and asked_s:
            open_s = min(open_s, max(asked_s, LEAST_CALM_S))  # it said itself when to come again
        async with self._database.transaction() as connection:
            opened = await parties.failed(
                connection, job.party, why, open_s=open_s, asked_s=asked_s, trial=job.trial, enough=enough
            )
        if opened:
            log.warning("breaker_open", party=job.party, why=why)
            if not job.probe:  # a failed probe leaves open what was open
                metrics.BREAKER_OPENED.labels(job.party).inc()
