"""What every engine is given: the same jobs, the same work, the same number of jobs at work."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from asyncpg import Connection


@dataclass(frozen=True, slots=True)
class Load:
    """`jobs` are due at once and `waiting` more tomorrow; `concurrency` is how many may be at work at a time."""

    jobs: int
    work_s: float
    concurrency: int
    waiting: int


class Work:
    """The job: some milliseconds of waiting, as for an HTTP call. It counts itself.

    `started_at` is the wall clock at the first job's start, `peak` the most that were at work at a time.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._slots = asyncio.Semaphore(load.concurrency)
        self._running = 0
        self.done = 0
        self.peak = 0
        self.started_at: float | None = None
        self.all_done = asyncio.Event()

    async def run(self, *, counted: bool = True) -> None:
        """Work on one job, at most `concurrency` at a time, also where the engine hands out more."""
        async with self._slots:
            if self.started_at is None:
                self.started_at = time.time()
            self._running += 1
            self.peak = max(self.peak, self._running)
            await asyncio.sleep(self._load.work_s)
            self._running -= 1
        if counted:
            self.count()

    def count(self) -> None:
        """One more job is done; after the last one `all_done` is set."""
        self.done += 1
        if self.done >= self._load.jobs:
            self.all_done.set()


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the engine's own tables say: how many jobs ended well, and when the last of them was written."""

    jobs: int
    last_at: datetime


class Engine(Protocol):
    """One way to hand out jobs from PostgreSQL. `missing` says why it cannot run here."""

    name: str

    def missing(self) -> str | None:
        """What to install, None where nothing is missing."""
        ...

    def settings(self, load: Load) -> str:
        """What it runs with, for the report."""
        ...

    async def prepare(self, url: str, load: Load) -> None:
        """Make the engine's tables in an empty database and put all jobs into them."""
        ...

    async def drain(self, url: str, load: Load, work: Work) -> None:
        """Work until every due job is done, then stop in good order."""
        ...

    async def recorded(self, connection: Connection) -> Recorded:
        """What the tables say afterwards."""
        ...


async def until_done(running: Coroutine[Any, Any, Any], work: Work, stop: Callable[[], None]) -> None:
    """Run a worker until the last job is done, then stop it and wait for its end.

    Raises:
        RuntimeError: the worker ended before its jobs did.
    """
    worker = asyncio.ensure_future(running)
    done = asyncio.ensure_future(work.all_done.wait())
    await asyncio.wait((worker, done), return_when=asyncio.FIRST_COMPLETED)
    done.cancel()
    stop()
    await worker
    if not work.all_done.is_set():
        raise RuntimeError(f"the worker ended after {work.done} jobs")


def chunks(total: int, size: int = 10_000) -> list[int]:
    """`total` in parts of at most `size`."""
    return [size] * (total // size) + ([total % size] if total % size else [])
