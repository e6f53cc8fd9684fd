"""The service: one run at a time, whichever process it is in; its report; the repair; and a run each day."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from reward_relay.db import plans, reconcile, upkeep
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import DatabaseUnavailable, Invalid, NotAllowed
from reward_relay.intake import Intake
from reward_relay.reconciling.comparing import Comparison, Limits, Scope
from reward_relay.reconciling.findings import Report
from reward_relay.reconciling.repairing import Repairs
from reward_relay.steps import Parties

log = structlog.get_logger()
ACTOR = "reconcile"
"""Who the daily run is."""
LOOK_EVERY_S = 600.0
FIRST_LOOK_S = 60.0
BEAT_EVERY_S = 2.0
DAILY_S = 86_400.0 - 2 * LOOK_EVERY_S
TURN = "_reconcile"
"""No source can be named so."""
TAKEN_OVER = "this run showed no sign of life for so long that another one has begun; look at that one's report"

OnProgress = Callable[[str, int], None]
"""Told now and then: what is looked at, and how many orders were."""


class Reconciliation:
    """The service; `latest` and `present` are what people look at, `run` and `repair` what they do."""

    def __init__(self, database: Database, intake: Intake, adapters: Parties, limits: Limits) -> None:
        self._database = database
        self._intake = intake
        self._adapters = adapters
        self._limits = limits
        self._repairs = Repairs(database, intake, adapters)
        self._started: set[asyncio.Task[Row]] = set()

    async def latest(self) -> Row | None:
        """The newest report with its token, None where there is none."""
        async with self._database.transaction() as connection:
            found = await plans.latest(connection, reconcile.REPORT)
        return shown(found) if found else None

    async def present(self) -> Row | None:
        """The run that is under way, and how far it is; None where there is none."""
        async with self._database.transaction() as connection:
            found = await reconcile.running(connection)
        if found is None:
            return None
        return {"actor": found["actor"], "started_at": found["made_at"], **found["content"]}

    async def repair(self, token: str, actor: str, note: str) -> Row:
        """Carry out what a report says can be repaired, order by order; one that moved since is skipped.

        Raises:
            NotFound, NotAllowed: as `db.plans.use`.
        """
        return await self._repairs.carry_out(token, actor, note)

    async def run(self, scope: Scope, actor: str, note: str = "", on_progress: OnProgress | None = None) -> Row:
        """Compare, and keep the report; returns it with its token.

        Raises:
            NotAllowed: another run is under way.
            Invalid: the statement cannot be read, or it is not clear whose it is.
        """
        scope = self._settled(scope)
        shown_scope = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(scope).items()}
        if scope.statement is not None:
            shown_scope["statement"] = scope.statement.name
        async with self._database.transaction() as connection:
            now = await reconcile.database_time(connection)
            token = await reconcile.open_run(connection, actor, note, {"scope": shown_scope, "doing": "starting"})
        report = Report(shown_scope, now)
        tell = self._teller(token, report, on_progress or (lambda _, __: None))
        comparison = Comparison(self._database, self._intake, self._adapters, self._limits, scope, report, tell)
        try:
            await comparison.compare()
            return await self._keep(token, report)
        except BaseException:
            with suppress(DatabaseUnavailable):
                async with self._database.transaction() as connection:
                    await reconcile.give_up(connection, token)
            raise

    def _teller(self, token: str, report: Report, on_progress: OnProgress) -> Callable[[str], Awaitable[None]]:
        """Tells the caller at once, and the database every few seconds, that the run lives."""
        told_at = 0.0

        async def tell(doing: str) -> None:
            nonlocal told_at
            on_progress(doing, report.looked.get("orders", 0))
            if time.monotonic() - told_at < BEAT_EVERY_S:
                return
            told_at = time.monotonic()
            said = {"scope": report.scope, "doing": doing, "looked": report.looked, "counts": report.counts}
            async with self._database.transaction() as connection:
                if not await reconcile.beat(connection, token, said):
                    raise NotAllowed(TAKEN_OVER)

        return tell

    async def start(self, scope: Scope, actor: str, note: str = "", wait_s: float = 5.0) -> Row | None:
        """Begin a run, and return its report if it ends within `wait_s` seconds; else None, and it goes on.

        Raises:
            NotAllowed: another run is under way.
        """
        task = asyncio.create_task(self.run(scope, actor, note))
        self._started.add(task)
        task.add_done_callback(self._ended)
        await asyncio.wait([task], timeout=wait_s)
        return task.result() if task.done() else None

    def _ended(self, task: asyncio.Task[Row]) -> None:
        self._started.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("reconcile_failed", detail=str(error) or type(error).__name__)

    async def close(self) -> None:
        """End the runs that were started here; each says so in the database."""
        tasks = list(self._started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def daily(self) -> None:
        """A run each day, in one process of all, until cancelled; it asks three questions at a time at most."""
        await asyncio.sleep(FIRST_LOOK_S)
        while True:
            try:
                if await self._my_turn():
                    found = await self.run(Scope(), ACTOR, "daily")
                    said = {"counts": found["counts"], "complete": found["complete"], "problems": found["problems"]}
                    (log.warning if found["counts"] or found["problems"] else log.info)("reconciled", **said)
            except (DatabaseUnavailable, NotAllowed) as error:
                log.warning("reconcile_failed", detail=str(error))
            except Exception:
                log.exception("reconcile_failed")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _my_turn(self) -> bool:
        async with self._database.transaction() as connection:
            return await upkeep.take_turn(connection, TURN, DAILY_S)

    def _settled(self, scope: Scope) -> Scope:
        """With the configuration's days, and the statement's vendor."""
        values = {**asdict(scope), "days": scope.days or self._limits.days}
        if scope.statement is not None:
            names = list(self._adapters.vendors)
            vendor = scope.vendor or (names[0] if len(names) == 1 else None)
            if vendor not in names:
                raise Invalid(f"say whose statement it is; the vendors are: {', '.join(names) or 'none'}")
            values["vendor"] = vendor
        return Scope(**values)

    async def _keep(self, token: str, report: Report) -> Row:
        async with self._database.transaction() as connection:
            now = await reconcile.database_time(connection)
            if not await reconcile.finish(connection, token, report.content(now)):
                raise NotAllowed(TAKEN_OVER)
            return shown(await plans.find(connection, token))


def shown(plan: Mapping[str, Any]) -> Row:
    """A report as people get it."""
    named = {name: plan[name] for name in ("actor", "note", "made_at", "expires_at", "used_at")}
    return {"token": str(plan["id"]), **named, **plan["content"], "repaired": plan["result"]}
