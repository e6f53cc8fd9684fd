"""Row-as-job beside PgQueuer and Procrastinate, in one run, on the embedded PostgreSQL with its durable defaults.

Every run gets an empty database, all jobs beforehand, and a checkpoint; the engines take turns, in another order each
time. The clock runs from the first job's start to the moment the engine's own tables say the last job is done, so that
neither start-up nor shutdown counts. Each engine is one process on one event loop (uvloop), as it would be deployed.

Row-as-job and PgQueuer are measured in two ways, because the difference is large: with as many jobs claimed as may be
at work, which is what the relay does (a claimed order is one whose call is about to be made), and "ahead", with claims
running ahead of the work. A bare queue only notes that a job is done; row-as-job also writes the intention, the verdict
and the event that an order needs, so "+ order record" adds just those to PgQueuer. How each engine is set up, and why,
stands in its module.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import asyncpg
import structlog
import typer
import uvloop
from rich.console import Console

from bench.load import Engine, Load, Work
from bench.machine import describe
from bench.pgqueuer_engine import PgQueuerEngine
from bench.procrastinate_engine import ProcrastinateEngine
from bench.queue_beside_orders import QueueBesideOrders
from bench.report import Outcome, Run, as_json, show
from bench.row_as_job import RowAsJob
from bench.server import server
from reward_relay.db.embedded import Embedded
from reward_relay.errors import DatabaseUnavailable

RUN_LIMIT_S = 600
AHEAD = 4
console = Console()


def engines() -> list[Engine]:
    """All of them; the first is what the others are compared with."""
    return [
        RowAsJob("row-as-job"),
        PgQueuerEngine("PgQueuer", capped=True),
        QueueBesideOrders("PgQueuer + order record", capped=True),
        ProcrastinateEngine(),
        RowAsJob("row-as-job, ahead", ahead=AHEAD),
        PgQueuerEngine("PgQueuer, ahead", capped=False),
        QueueBesideOrders("PgQueuer + order record, ahead", capped=False),
    ]


async def measure(postgres: Embedded, engine: Engine, load: Load) -> Run:
    """One run of one engine in a database of its own.

    Raises:
        RuntimeError: the engine did not record every job as done.
    """
    name = f"bench_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        return await _measure_in(postgres.url(name), engine, load)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def _measure_in(url: str, engine: Engine, load: Load) -> Run:
    await engine.prepare(url, load)
    connection = await asyncpg.connect(url)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    work = Work(load)
    cpu = time.process_time()
    async with asyncio.timeout(RUN_LIMIT_S):
        await engine.drain(url, load, work)
    cpu = time.process_time() - cpu
    recorded = await engine.recorded(connection)
    await connection.close()
    if recorded.jobs != load.jobs or work.done != load.jobs or work.started_at is None:
        raise RuntimeError(f"{engine.name} did {work.done} and recorded {recorded.jobs} of {load.jobs} jobs")
    seconds = recorded.last_at.timestamp() - work.started_at
    return Run(round(seconds, 4), round(load.jobs / seconds, 1), round(cpu * 1000 / load.jobs, 3), work.peak)


def measure_all(postgres: Embedded, present: Sequence[Engine], load: Load, runs: int) -> list[Outcome]:
    """Every engine `runs` times; each round starts with another engine."""
    found: dict[str, list[Run]] = {engine.name: [] for engine in present}
    for number in range(runs):
        turn = number % len(present)
        for engine in [*present[turn:], *present[:turn]]:
            with console.status(f"round {number + 1} of {runs}: {engine.name}"):
                found[engine.name].append(uvloop.run(measure(postgres, engine, load)))
    return [Outcome(engine.name, engine.settings(load), found[engine.name]) for engine in present]


def main(
    jobs: Annotated[int, typer.Option(min=1, help="Jobs that are due at once.")] = 2000,
    work_ms: Annotated[float, typer.Option(min=0, help="What each job waits for, as for an HTTP call.")] = 5.0,
    concurrency: Annotated[int, typer.Option(min=2, help="Jobs at work at a time.")] = 32,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each engine; the table shows the median.")] = 5,
    waiting: Annotated[int, typer.Option(min=0, help="Jobs beside them that are due only tomorrow.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every run there.")] = None,
) -> None:
    """Row-as-job beside PgQueuer and Procrastinate: how many jobs a second one worker drains.

    Example: python -m bench.engines --waiting 100000 --runs 3
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    load = Load(jobs, work_ms / 1000, concurrency, waiting)
    left_out = {engine.name: why for engine in engines() if (why := engine.missing())}
    present = [engine for engine in engines() if engine.name not in left_out]
    try:
        with server() as postgres:
            machine = uvloop.run(describe(postgres.url("postgres")))
            outcomes = measure_all(postgres, present, load, runs)
    except DatabaseUnavailable as error:
        console.print(f"PostgreSQL did not start: {error}", highlight=False)
        raise typer.Exit(1) from None
    show(console, load, machine, outcomes, left_out)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(load, machine, outcomes, left_out), indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
