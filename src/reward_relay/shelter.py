"""While PostgreSQL is away: deliveries go to this machine's spool, and from there in order into the normal intake.

An API process remembers that the database is away, so that nobody else waits for it, and asks every half second
whether it is back. What waits in the spool goes in before anything that came later.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from reward_relay import metrics
from reward_relay.db import migrate
from reward_relay.db.deliveries import Arrival, Receipt
from reward_relay.db.engine import Database
from reward_relay.db.spool import Spool, Spooled, SpoolState
from reward_relay.errors import DatabaseUnavailable, SpoolFull, SpoolUnusable, Unavailable
from reward_relay.sealing import Sealing, Stored

log = structlog.get_logger()
PROBE_EVERY_S = 0.5
PROBE_S = 2.0
LOOK_EVERY_S = 1.0
CHECK_EVERY_S = 5.0
DRAIN_S = 10.0
DISK_S = 5.0
BATCH = 100
ROOM = 32 << 10
"""With less left the spool counts as full."""
TAIL = 256
"""So few are waited for: they are in the database in a moment, and then nobody needs the spool any more."""
TAIL_S = 0.5
PROMPT_S = 2.0
"""So long PostgreSQL may take over a group of webhooks before they go to the spool."""
SPOOLED = "kept on this machine while PostgreSQL is away, and stored when it is back"
TABLES = "the database's tables are not this version's; run: reward-relay migrate"
Store = Callable[[Sequence[Arrival]], Coroutine[Any, Any, list[Receipt]]]
Deliver = Callable[[Sequence[Spooled]], Coroutine[Any, Any, Sequence[Receipt]]]
Answer = TypeVar("Answer")


@dataclass(slots=True)
class Sheltered:
    """How the shelter does: what is in the spool, what is wrong with it, damaged files that were set aside."""

    away: str | None
    on: bool
    takes: bool = False
    spool: SpoolState = field(default_factory=SpoolState)
    trouble: str | None = None
    set_aside: list[str] = field(default_factory=list)

    def warning(self) -> str | None:
        """What a load balancer's log or an operator should read."""
        waiting = f"{self.spool.waiting:,} {'delivery waits' if self.spool.waiting == 1 else 'deliveries wait'}"
        said = []
        if self.away is not None:
            said.append(f"PostgreSQL is away; {waiting} in the spool" if self.on else "PostgreSQL is away")
        elif self.spool.waiting:
            said.append(f"PostgreSQL is back; {waiting} in the spool")
        if self.spool.stuck:
            said.append(f"{self.spool.stuck:,} in the spool cannot be read; the log says why")
        if self.on and self.trouble:
            said.append("the spool cannot be used; the log says why")
        if self.set_aside:
            said.append(f"a damaged spool was set aside: {', '.join(self.set_aside)}; see README, PostgreSQL is away")
        return "; ".join(said) or None

    def shown(self) -> dict[str, Any]:
        """For the summary: no path, no content."""
        return {
            "on": self.on,
            "takes": self.takes,
            "database_away": self.away is not None,
            **asdict(self.spool),
            "set_aside": self.set_aside,
            "warning": self.warning(),
        }


class Shelter:
    """One API process's part. Without a `spool` it only remembers that the database is away."""

    def __init__(
        self, database: Database, spool: Spool | None, opened: Callable[[Stored], bytes] | None = None
    ) -> None:
        self._opened = opened or Sealing().open
        self._database = database
        self._spool = spool
        self._thread = ThreadPoolExecutor(1, "spool") if spool else None
        self._wake = asyncio.Event()
        self._ready = False
        self._verified = False
        self._trouble: str | None = None
        self._checked_at = 0.0
        self._patient_from = 0.0

    @asynccontextmanager
    async def running(self, deliver: Deliver) -> AsyncIterator[None]:
        """Watch the database and empty the spool during the block; `deliver` stores, and answers each."""
        self._database.watch(self._wake.set)
        if self._spool is not None:
            await self._open(self._spool)
        if not await self._is_back():
            self._database.suspect("PostgreSQL is away since the start")
        task = asyncio.create_task(self._watch(deliver))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if self._spool is not None and self._thread is not None:
                if self._ready and (left := self._spool.waiting(1_000_000)):
                    log.warning("spool_not_empty", waiting=left, detail="the next start on this machine takes them")
                self._ready = False
                with suppress(SpoolUnusable):
                    await self._in_thread(self._spool.close)
                self._thread.shutdown(wait=False)

    async def take(self, arrivals: Sequence[Arrival], store: Store) -> list[Receipt]:
        """Into the database by `store`; into the spool while it is away, or while older ones still wait there.

        Raises:
            DatabaseUnavailable: there is no spool, or its disk refuses or hangs.
            Unavailable: the spool is full; none of them is kept.
        """
        if not self._ready or self._spool is None:
            return await store(arrivals)
        if await self._is_clear(self._spool):
            with suppress(DatabaseUnavailable):
                return await self._database.promptly(PROMPT_S, store(arrivals))
        return await self._keep(self._spool, arrivals)

    async def _is_clear(self, spool: Spool) -> bool:
        """Whether a delivery may go to the database at once: it is there, and nothing older waits."""
        if self._database.away is not None:
            return False
        if not (waiting := spool.waiting(TAIL + 1)):
            return True
        self._wake.set()
        began = time.monotonic()
        while waiting <= TAIL and self._database.away is None and self._patient_from <= began:
            if time.monotonic() - began > TAIL_S:
                self._patient_from = time.monotonic() + CHECK_EVERY_S
                break
            await asyncio.sleep(0.005)
            if not (waiting := spool.waiting(TAIL + 1)):
                return True
        return False

    async def _keep(self, spool: Spool, arrivals: Sequence[Arrival]) -> list[Receipt]:
        try:
            await self._in_thread(lambda: spool.put([_spooled(each, self._opened(each.body)) for each in arrivals]))
        except SpoolUnusable as error:
            metrics.SPOOL_REFUSED.inc(len(arrivals))
            self._say_trouble(str(error))
            if isinstance(error, SpoolFull):  # a smaller one may fit, so each is tried alone
                raise Unavailable("PostgreSQL is away and the spool is full; send it again in a few seconds") from error
            raise DatabaseUnavailable(f"PostgreSQL is away, and the spool takes nothing ({error})") from error
        self._trouble = None
        for each in arrivals:
            metrics.SPOOLED.labels(each.source).inc()
        self._wake.set()
        return [_sheltered(each) for each in arrivals]

    async def empty(self, deliver: Deliver) -> int:
        """Hand over everything that waits, once, outside of `running`; how many that were.

        Raises:
            SpoolUnusable: the file cannot be used, or another process empties it just now.
            DatabaseUnavailable: the database went away on the way; what is left stays.
        """
        if self._spool is None:
            return 0
        try:
            await self._in_thread(self._spool.open)
            await self._in_thread(self._spool.unstick)
            number = await self._drain(self._spool, deliver)
            if number is None:
                raise SpoolUnusable("another process empties this spool just now; wait a moment")
            return number
        finally:
            await self._in_thread(self._spool.close)

    async def look(self) -> Sheltered:
        """How it does."""
        found = Sheltered(self._database.away, self._spool is not None)
        if self._spool is None:
            return found
        spool = self._spool
        with suppress(SpoolUnusable):
            if self._ready:
                found.spool = await self._in_thread(spool.state)
        found.trouble, found.set_aside = self._trouble, spool.set_aside()
        found.takes = self._ready and self._trouble is None and found.spool.used + ROOM < spool.limit
        return found

    def outlook(self) -> str:
        """What happens to webhooks just now, in a sentence for a person; does not wait for the disk."""
        if self._spool is None or not self._ready:
            return "Webhooks are answered 503, and come again later."
        if self._trouble is not None:
            return "The spool takes nothing either: webhooks are answered 503, and come again later."
        waiting = self._spool.waiting(1_000_000)
        number = "none waits yet" if not waiting else f"{waiting:,} wait{'s' if waiting == 1 else ''}"
        return f"Webhooks are taken, and kept on this machine's disk until then: {number}."

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        try:
            async with asyncio.timeout(DISK_S):
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except TimeoutError:
            raise SpoolUnusable(f"the spool's disk did not answer within {DISK_S:g} s") from None

    def _say_trouble(self, detail: str) -> None:
        if self._trouble is None:
            log.error("spool_unusable", detail=detail)
        self._trouble = detail

    async def _open(self, spool: Spool) -> None:
        try:
            await self._in_thread(spool.open)
            await self._in_thread(spool.unstick)
        except SpoolUnusable as error:
            self._say_trouble(str(error))
            return
        self._ready, self._trouble = True, None
        for name, number in (await self._in_thread(spool.others)).items():
            if number:
                advice = f"if no other relay on this machine uses it: reward-relay spool drain {name}"
                log.warning("spool_of_another_database", file=name, deliveries=number, advice=advice)
        if waiting := spool.waiting(1_000_000):
            log.warning("spool_not_empty", waiting=waiting, detail="they came while PostgreSQL was away")

    async def _watch(self, deliver: Deliver) -> None:
        while True:
            self._wake.clear()
            try:
                wait = await self._turn(deliver)
            except Exception:
                log.exception("spool_watch_failed")
                wait = LOOK_EVERY_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)

    async def _turn(self, deliver: Deliver) -> float:
        """One look; seconds until the next."""
        if self._database.away is not None:
            if not await self._is_back():
                await self._check()
                await asyncio.sleep(PROBE_EVERY_S)  # every new delivery wakes us
                return 0.0
            log.info("database_back")
            self._database.back()
        await self._check()
        if self._spool is not None and self._ready and self._spool.waiting(1):
            try:
                await self._drain(self._spool, deliver)
            except (DatabaseUnavailable, SpoolUnusable, OSError) as error:
                log.warning("drain_interrupted", detail=str(error))
                await asyncio.sleep(PROBE_EVERY_S)
        return LOOK_EVERY_S

    async def _check(self) -> None:
        """Open the spool, or try whether it can be written again, where that has failed."""
        due = self._trouble is not None and time.monotonic() - self._checked_at > CHECK_EVERY_S
        if self._spool is None or not due:
            return
        self._checked_at = time.monotonic()
        if not self._ready:
            await self._open(self._spool)
            return
        with suppress(SpoolUnusable):
            await self._in_thread(self._spool.check)
            self._trouble = None

    async def _is_back(self) -> bool:
        """Ask with a connection of its own: those of the pool may hang. Until once seen, the tables are looked at."""
        fresh = self._database.fresh()
        try:
            if self._verified:
                await fresh.promptly(PROBE_S, fresh.ping())
            elif not await fresh.promptly(PROBE_S, migrate.is_current(fresh)):
                self._database.suspect(TABLES)
                return False
            self._verified = True
        except DatabaseUnavailable:
            return False
        finally:
            await fresh.close()
        return True

    async def _drain(self, spool: Spool, deliver: Deliver) -> int | None:
        """Hand over what waits, the oldest first; one process at a time does: None where it is another."""
        with spool.alone() as mine:
            if not mine:
                return None
            began, number = time.monotonic(), 0
            while batch := await self._in_thread(lambda: spool.oldest(BATCH)):
                await self._hand_over(spool, batch, deliver)
                number += len(batch)
            if number:
                log.info("spool_drained", deliveries=number, took_ms=round((time.monotonic() - began) * 1000, 1))
            return number

    async def _hand_over(self, spool: Spool, batch: Sequence[tuple[int, Spooled]], deliver: Deliver) -> None:
        try:
            receipts = await self._database.promptly(DRAIN_S, deliver([each for _, each in batch]))
        except DatabaseUnavailable:
            raise
        except Exception as error:
            if len(batch) == 1:
                number, why = batch[0][0], f"{type(error).__name__}; the log has more"
                log.exception("spooled_not_storable", delivery_id=batch[0][1].id)
                await self._in_thread(lambda: spool.stick(number, why))
                return
            for each in batch:
                await self._hand_over(spool, [each], deliver)
            return
        await self._in_thread(lambda: spool.drop([number for number, _ in batch]))
        for receipt in receipts:
            metrics.SPOOL_DRAINED.labels(receipt.verdict).inc()


def _spooled(arrival: Arrival, body: bytes) -> Spooled:
    milliseconds = uuid.UUID(arrival.id).int >> 80  # its id was made when it came
    return Spooled(
        id=arrival.id,
        source=arrival.source,
        via=arrival.via,
        received_at=datetime.fromtimestamp(milliseconds / 1000, UTC),
        content_type=arrival.content_type,
        headers=arrival.headers,
        body=body,
        traceparent=arrival.traceparent,
    )


def _sheltered(arrival: Arrival) -> Receipt:
    """The answer to a delivery in the spool: its order is made, or found, when the database is back."""
    reason = SPOOLED if arrival.order else f"{arrival.reason}; {SPOOLED}"
    return Receipt(arrival.id, arrival.verdict, None, reason, spooled=True)
