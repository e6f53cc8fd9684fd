"""The last look before an order is sent: whether its caps have room. In the claim's own transaction, so it is exact.

An order counts once, on the day of its first attempt, whatever becomes of its calls; one that has no room is held
before anybody is called. Where no cap is configured this asks the database nothing.
"""

from collections.abc import Callable, Sequence

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay import metrics
from reward_relay.db import caps, orders
from reward_relay.guards import Guards, Over, Scope, Used, overs, value_of
from reward_relay.jobs import Job, Result
from reward_relay.states import State, Step

log = structlog.get_logger()


class Admission:
    """Lets orders pass to the vendors, or holds them. `guards` is asked anew at every claim."""

    def __init__(self, guards: Callable[[], Guards] = Guards) -> None:
        self._guards = guards

    @property
    def paused(self) -> bool:
        """Whether this process's configuration stops placing; the switch in the database is the claim's to read."""
        return self._guards().paused

    async def admit(self, connection: AsyncConnection, jobs: Sequence[Job]) -> list[Job]:
        """Those of the claimed orders that may be worked on; the others are held in this transaction."""
        guards, asked = self._guards(), dict[str, tuple[Scope, ...]]()
        for job in jobs:
            if job.step is Step.PLACE and job.plan is not None and not job.counted:
                asked[job.id] = guards.of(job.source, job.plan.route)
        asked = {order_id: scopes for order_id, scopes in asked.items() if scopes}
        if not asked:
            return list(jobs)
        daily = [scope.name for scopes in asked.values() for scope in scopes if scope.caps.daily]
        counts = await caps.lock(connection, daily) if daily else {}
        passed: list[str] = []
        held: list[tuple[Job, Result]] = []
        for job in jobs:
            scopes = asked.get(job.id, ())
            over = _judged(job, scopes, counts)
            if over is not None:
                held.append((job, _held(job, over)))
            elif scopes:
                passed.append(job.id)
        if daily:
            await caps.write(connection, counts)
            await caps.counted(connection, passed)
        if held:
            await self._hold(connection, held)
        stopped = {job.id for job, _ in held}
        return [job for job in jobs if job.id not in stopped]

    async def _hold(self, connection: AsyncConnection, held: Sequence[tuple[Job, Result]]) -> None:
        await orders.record(connection, held)
        for job, result in held:
            metrics.STEPS.labels(job.step, result.state).inc()
            log.warning("held_by_cap", order_id=job.id, po_number=job.po_number, cap=result.cap)


def _judged(job: Job, scopes: Sequence[Scope], counts: dict[str, Used]) -> Over | None:
    """The first cap without room, noted in `counts`; where all have room, the order is counted there."""
    if job.plan is None or not scopes:
        return None
    value = value_of(job.plan)
    over = next(overs(scopes, value, counts), None)
    if over is not None:
        if over.scope in counts:
            counts[over.scope] = counts[over.scope]._replace(held=counts[over.scope].held + 1)
        return over
    counts.update({scope.name: counts[scope.name].plus(value) for scope in scopes if scope.name in counts})
    return None


def _held(job: Job, over: Over) -> Result:
    return Result(
        State.ON_HOLD,
        None,
        None,
        "not_called",
        reason=f"held: {over.reason}",
        hold_reason=over.reason,
        in_doubt=job.in_doubt,
        cap=over.cap,
    )
