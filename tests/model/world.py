"""The relay that the machine drives: real code on a real database, between counting parties, on one event loop.

Time moves by rewriting the database's times; nothing sleeps. A worker's call stops at two gates, before it is made and
before its result is recorded, so that the machine decides what happens between.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from model.far import FATES, SECRET, Books, CountingPlatform, CountingVendor
from reward_relay import steps
from reward_relay.contracts import InboundRequest
from reward_relay.errors import DatabaseUnavailable
from reward_relay.jobs import Job, Result
from reward_relay.wiring import Relay, build, configured
from reward_relay.worker import Timing, Worker

TIMING = Timing(lease_s=900, call_deadline_s=300, breaker_failures=2, breaker_open_s=15)
"""Long in real seconds: a lease ends when the machine says so."""
SOURCES = {"A": "plain", "B": "asks", "C": "asks", "D": "always"}
"""The rewards, and whose they are."""
SKUS = ("keyed", "asked", "neither")
SKU = {"A": "keyed", "B": "asked", "C": "neither", "D": "keyed"}
"""What each reward is; each SKU by itself goes to the vendor of its name."""
PARTIES = [*(f"source:{name}" for name in ("plain", "asks", "always")), *(f"vendor:{name}" for name in SKUS)]
SLOTS = dict.fromkeys(PARTIES, 2)
BASE = """
first_check_s = 5
[sources.plain]
platform = "roster"
secrets = ["secret-of-plain"]
[sources.asks]
platform = "roster"
secrets = ["secret-of-asks"]
[sources.always]
platform = "roster"
secrets = ["secret-of-always"]
""" + "".join(
    f'[vendors.{name}]\nkind = "giftcard_partners"\nbase_url = "http://far.test"\nemail = "a@b.c"\naccess_token = "t"\n'
    for name in SKUS
)
ROUTE = '[[routes]]\nname = "{sku} to {vendor}"\nvendor = "{vendor}"\nproduct = "CARD"\nvalue = 20\n{when}\n'


def _route(sku: str, vendor: str) -> str:
    when = f'[routes.when]\n"payload.sku" = "{sku}"' if sku else ""
    return ROUTE.format(sku=sku or "all", vendor=vendor, when=when)


ROUTES = {
    "own": "".join(_route(sku, sku) for sku in SKUS),
    "other": _route("keyed", "asked") + _route("asked", "neither") + _route("neither", "keyed"),
    "all": _route("", "keyed"),
    "none": _route("nothing", "keyed"),
}
TABLES = "orders, order_events, order_search, deliveries, calls, party_health, plans"
PASS = [
    f"UPDATE {table} SET " + ", ".join(f"{name} = {name} - make_interval(secs => :seconds)" for name in names)
    for table, names in {
        "orders": ("due_at", "claim_until", "created_at", "updated_at"),
        "deliveries": ("received_at",),
        "party_health": ("open_until", "since"),
        "plans": ("made_at", "used_at"),
    }.items()
]


class Crash(BaseException):
    """The process is gone: nothing after this line happens."""


@dataclass(eq=False)
class Parked:
    """A claimed job that waits at a gate of its worker."""

    job: Job
    worker: Worker
    task: "asyncio.Task[Any]"
    called: bool = False
    age_s: float = 0.0
    open: "asyncio.Future[list[int]]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class World:
    """One example's relay and its surroundings."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.file = folder / "relay.toml"
        self.file.write_text(BASE + ROUTES["own"])
        source = configured(self.file, {})
        self.relay: Relay = build(source.load(), database_url, source=source, pool_size=4)
        self.books = Books()
        self.platforms = {
            "plain": CountingPlatform("plain", self.books, "never"),
            "asks": CountingPlatform("asks", self.books, "when_unreachable"),
            "always": CountingPlatform("always", self.books, "always"),
        }
        self.vendors = {
            "keyed": CountingVendor("keyed", self.books, takes_key=True, can_find=False),
            "asked": CountingVendor("asked", self.books, takes_key=False, can_find=True),
            "neither": CountingVendor("neither", self.books, takes_key=False, can_find=False),
        }
        self.relay.parties.platforms.update(self.platforms)  # type: ignore[attr-defined]
        self.relay.parties.vendors.update(self.vendors)  # type: ignore[attr-defined]
        self.parked: list[Parked] = []
        self.workers = [self.worker() for _ in range(2)]
        self.breaks: str | None = None
        self._url = database_url
        self._watcher: asyncpg.Connection[Any] | None = None
        self._whole = self.relay.database.transaction
        self.relay.database.transaction = self._breaking  # type: ignore[method-assign]

    @asynccontextmanager
    async def _breaking(self) -> AsyncIterator[AsyncConnection]:
        """A transaction of the relay's; the connection may break before its commit, or before the answer to it."""
        breaks, self.breaks = self.breaks, None
        async with self._whole() as connection:
            yield connection
            if breaks == "before the commit":
                raise DatabaseUnavailable("the connection broke")
        if breaks == "after the commit":
            raise DatabaseUnavailable("the connection broke")

    async def clear(self) -> None:
        """Begin with empty tables."""
        async with self._whole() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))  # events are append-only
            await connection.execute(text(f"TRUNCATE {TABLES}"))

    async def close(self) -> None:
        """Drop everything that is under way."""
        await self.crash(self.workers)
        await self.relay.close()
        if self._watcher is not None:
            await self._watcher.close()

    async def passes(self, seconds: float) -> None:
        """Let time pass. A call that has not come to its end by its deadline never will: its worker gives it up."""
        for parked in [each for each in self.parked if not each.called]:
            parked.age_s += seconds
            if parked.age_s >= TIMING.call_deadline_s:
                self.parked.remove(parked)
                parked.open.set_exception(TimeoutError())
        await self.settled()
        async with self._whole() as connection:
            for statement in PASS:
                await connection.execute(text(statement), {"seconds": seconds})

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """What the database has; not through the relay's connections, and never broken."""
        if self._watcher is None:
            self._watcher = await asyncpg.connect(self._url)
            await self._watcher.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        return [dict(row) for row in await self._watcher.fetch(query, *values)]

    # Workers.

    def worker(self) -> Worker:
        """A worker whose calls stop at the gates."""

        async def step(job: Job) -> Result:
            task = asyncio.current_task()
            assert task is not None
            failed: Exception | None = None
            try:
                FATES.set(await self._gate(Parked(job, worker, task)))
                result = await steps.run(job, self.relay.parties)
            except Exception as error:
                failed = error
            await self._gate(Parked(job, worker, task, called=True))
            if failed:
                raise failed
            return result

        worker = Worker(self.relay.database, SLOTS, step, TIMING)
        return worker

    async def _gate(self, parked: Parked) -> list[int]:
        self.parked.append(parked)
        return await parked.open

    async def settled(self) -> None:
        """Wait until every job of every worker waits at a gate or has ended."""
        while True:
            waiting = {each.task for each in self.parked}
            busy = [task for worker in self.workers for task in worker._running if task not in waiting]
            if not busy:
                return
            await asyncio.sleep(0.0005)

    async def claim(self, worker: Worker) -> list[Job]:
        """What the worker has claimed now."""
        before = len(self.parked)
        await worker._turn()
        await self.settled()
        return [each.job for each in self.parked[before:]]

    async def claim_too_late(self, worker: Worker) -> None:
        """A claim whose process then stood still for nearly its whole lease."""
        _, jobs, claimed_at = await worker._claim(SLOTS)
        for job in jobs:
            worker._loads[job.party].busy += 1
            await worker._work(job, claimed_at - TIMING.lease_s)

    async def go(self, parked: Parked, fates: Sequence[int] = ()) -> None:
        """Let a job go on from its gate to the next, or to its end."""
        self.parked.remove(parked)
        parked.open.set_result(list(fates))
        await self.settled()

    async def crash(self, workers: Sequence[Worker]) -> None:
        """The workers' processes are killed, and started anew."""
        for parked in [each for each in self.parked if each.worker in workers]:
            self.parked.remove(parked)
            parked.task.add_done_callback(lambda task: task.exception())
            parked.open.set_exception(Crash())
        await self.settled()
        self.workers = [self.worker() if each in workers else each for each in self.workers]

    async def work(self, worker: Worker) -> int:
        """Claim, call and record, all well; how many."""
        jobs = {job.claim + job.id for job in await self.claim(worker)}
        while mine := [each for each in self.parked if each.job.claim + each.job.id in jobs]:
            await self.go(mine[0])
        return len(jobs)

    # The other side.

    def platform(self, name: str) -> CountingPlatform:
        """Whose a reward is."""
        return self.platforms[SOURCES[name]]

    def request(self, name: str, kind: str, quantity: int, email: str | None) -> InboundRequest:
        """The webhook that asks for a reward."""
        body = json.dumps({"id": name, "kind": kind, "sku": SKU[name], "quantity": quantity, "email": email}).encode()
        return InboundRequest(body, {"x-secret": SECRET, "content-type": "application/json"})

    def take_routes(self, name: str) -> None:
        """Change the routes in use."""
        self.file.write_text(BASE + ROUTES[name])
        self.relay.reloading.look(at_once=True)
