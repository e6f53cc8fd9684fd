"""The second trigger: asking a platform, every so often, which rewards it still waits for. And the daily upkeep."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import structlog

from reward_relay.contracts import Platform
from reward_relay.db import parties, purging, upkeep
from reward_relay.db.engine import Database
from reward_relay.errors import CallFailed, DatabaseUnavailable, PartyRefusesUs
from reward_relay.intake import Intake
from reward_relay.jobs import source_party

log = structlog.get_logger()
UPKEEP_EVERY_S = 3600.0
UPKEEP = "_upkeep"
"""No source can be named so."""
POLL_DEADLINE_S = 120.0


class Poller:
    """Polls each source of `every_s` (seconds between polls), one process at a time, into the same intake."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        platforms: Mapping[str, Platform],
        every_s: Mapping[str, float],
        retention_days: int,
    ) -> None:
        self._database = database
        self._intake = intake
        self._platforms = platforms
        self._every_s = every_s
        self._retention_days = retention_days

    async def run(self) -> None:
        """Poll and keep the house until cancelled."""
        await asyncio.gather(self._upkeep(), *(self._poll(name, every) for name, every in self._every_s.items()))

    async def _poll(self, source: str, every_s: float) -> None:
        while True:
            try:
                if await self._my_turn(source, every_s):
                    await self.poll_once(source)
            except PartyRefusesUs as refusal:
                log.warning("poll_refused", source=source, detail=str(refusal))
                await self._pause(source, refusal.detail)
            except (CallFailed, DatabaseUnavailable, TimeoutError) as error:
                log.warning("poll_failed", source=source, detail=str(error) or type(error).__name__)
            except Exception:
                log.exception("poll_failed", source=source)
            await asyncio.sleep(every_s / 2)

    async def poll_once(self, source: str) -> int:
        """Take what the platform lists as open; returns how many deliveries were new orders.

        Raises:
            CallFailed: the platform did not answer.
        """
        async with asyncio.timeout(POLL_DEADLINE_S):
            bodies = await self._platforms[source].poll()
        receipts = await self._intake.feed(source, bodies)
        new = sum(receipt.verdict == "accepted" for receipt in receipts)
        log.info("polled", source=source, listed=len(bodies), new=new)
        return new

    async def _my_turn(self, name: str, every_s: float) -> bool:
        async with self._database.transaction() as connection:
            return await upkeep.take_turn(connection, name, every_s * 0.9)

    async def _upkeep(self) -> None:
        while True:
            try:
                if await self._my_turn(UPKEEP, UPKEEP_EVERY_S):
                    await self.purge()
            except DatabaseUnavailable as error:
                log.warning("upkeep_failed", detail=str(error))
            except Exception:
                log.exception("upkeep_failed")
            await asyncio.sleep(UPKEEP_EVERY_S)

    async def _pause(self, source: str, why: str) -> None:
        """Stop asking a platform that refuses our key, until a person has seen to it."""
        with suppress(DatabaseUnavailable):
            async with self._database.transaction() as connection:
                await parties.pause(connection, source_party(source), why)

    async def purge(self) -> None:
        """Forget the personal data that has had its time, all of it."""
        orders, deliveries = await purging.expired(self._database, self._retention_days)
        if orders or deliveries:
            log.info("purged", orders=orders, deliveries=deliveries, retention_days=self._retention_days)
