"""Does a party in trouble delay others, and does a vendor that comes back drain its backlog evenly?

Two vendors, two platforms, one real worker process on a PostgreSQL with its durable defaults; the far side notes when
each order and each closing call arrives. Rewards come in through the intake, as many a second for each vendor.

First the two vendors side by side: both well, then vendor a hanging, refusing connections, asking for calm, or slow.
What is looked at is vendor b: the time from a reward's commit to its order's arrival there, and from a decided outcome
to the closing call's arrival at the platform. Then a backlog: vendor a has been away, its breaker is open, many orders
are due; it comes back, fails once more for five seconds, and comes back again, while new rewards keep coming for both.
"""

import asyncio
import json
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import structlog
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.far_parties import FarParty, Mode, far_party
from bench.machine import describe
from bench.server import server
from reward_relay import processes
from reward_relay.contracts import InboundRequest
from reward_relay.db.embedded import Embedded
from reward_relay.errors import DatabaseUnavailable
from reward_relay.migrating import migrated
from reward_relay.sandbox.senders import roster, roster_order
from reward_relay.wiring import Relay, build, load_settings

TOKEN, SLOTS, LATENCY_S = "bench-token", 16, 0.05
PATIENCE_S = 120.0
CONFIGURATION = """
log_level = "error"
first_check_s = 1
[sources.pa]
platform = "roster"
secrets = ["bench-token"]
api_url = "{platform}"
api_token = "bench"
[sources.pb]
platform = "roster"
secrets = ["bench-token"]
api_url = "{platform}"
api_token = "bench"
[vendors.a]
kind = "giftcard_partners"
base_url = "{a}"
email = "bench@example.com"
access_token = "bench"
[vendors.b]
kind = "giftcard_partners"
base_url = "{b}"
email = "bench@example.com"
access_token = "bench"
[[routes]]
name = "a"
sources = ["pa"]
vendor = "a"
product = "CVS"
value = 20
[[routes]]
name = "b"
vendor = "b"
product = "CVS"
value = 20
"""
NOBODY = "http://127.0.0.1:9"
SCENARIOS: dict[str, Mode | None] = {
    "both well": "well",
    "a hangs": "hangs",
    "a refuses connections": None,
    "a answers 429, Retry-After 10": "asks for calm",
    "a takes 5 s": "slow",
}
TIMES = """
SELECT o.po_number, o.external_id, o.source, EXTRACT(epoch FROM o.created_at)::float8 AS created,
  (SELECT EXTRACT(epoch FROM e.at)::float8 FROM order_events e WHERE e.order_id = o.id AND e.to_state = 'settled'
   ORDER BY e.id LIMIT 1) AS settled
FROM orders o WHERE o.external_id LIKE 'new-%'
"""
BACKLOG = """
INSERT INTO orders (id, po_number, callback_token, source, external_id, delivery_id, state, step, party, due_at, route,
  vendor, plan, reward, created_at, updated_at)
SELECT gen_random_uuid(), 'RR-OLD-' || n, o.callback_token, o.source, 'old-' || n, o.delivery_id, 'received', 'place',
  o.party, now() - random() * interval '1 hour', o.route, o.vendor, o.plan, o.reward, now() - interval '2 hours', now()
FROM (SELECT * FROM orders WHERE source = 'pa' LIMIT 1) o CROSS JOIN generate_series(1, $1::int) n
"""
AWAY = """
INSERT INTO party_health (party, breaker, open_until, since, why)
VALUES ('vendor:a', 'open', now() + interval '3 seconds', now(), 'the benchmark says that it was away')
"""
console = Console()


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds, and of how many."""

    number: int
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Delays":
        """Those of measured times."""
        ordered = sorted(seconds)

        def at(share: float) -> float:
            place = min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1)
            return round(ordered[place] * 1000, 1) if ordered else float("nan")

        return cls(len(ordered), at(0.5), at(0.95), at(0.99))


@dataclass(frozen=True, slots=True)
class Seen:
    """One scenario: vendor b's orders a second, its delays, and what vendor a got meanwhile."""

    name: str
    per_s: float
    placing: Delays
    closing: Delays
    calls_of_a: int
    most_at_a: int


@dataclass(slots=True)
class Stage:
    """What a scenario plays on."""

    relay: Relay
    url: str
    configuration: str
    a: FarParty
    b: FarParty
    platform: FarParty


@asynccontextmanager
async def stage(postgres: Embedded, name: str, *, a_is_there: bool = True) -> AsyncIterator[Stage]:
    """A database of its own, the far side, and the relay without its worker."""
    admin = await asyncpg.connect(postgres.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    url = postgres.url(name)
    await migrated(url)
    async with far_party(LATENCY_S) as a, far_party(LATENCY_S) as b, far_party(LATENCY_S) as platform:
        text = CONFIGURATION.format(a=a.url if a_is_there else NOBODY, b=b.url, platform=platform.url)
        with tempfile.TemporaryDirectory(prefix="relay-bench-parties-") as folder:
            path = Path(folder) / "relay.toml"
            path.write_text(text)
            relay = build(load_settings(path, {}), url)
            try:
                yield Stage(relay, url, text, a, b, platform)
            finally:
                await relay.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@asynccontextmanager
async def working(on: Stage) -> AsyncIterator[None]:
    """One worker process during the block; it has been seen alive before the block begins."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-worker-") as folder:
        path = Path(folder) / "relay.toml"
        path.write_text(on.configuration)
        environment = {"RELAY_CONFIG": str(path), "RELAY_DATABASE_URL": on.url}
        family = processes.Family(environment, Path(folder))
        try:
            family.start(["work"])
            await _until(on, "SELECT count(*) > 0 FROM processes WHERE kind = 'worker'")
            yield
        finally:
            await asyncio.to_thread(family.stop)


async def _until(on: Stage, question: str) -> bool:
    connection, deadline = await asyncpg.connect(on.url), time.monotonic() + PATIENCE_S
    try:
        while not await connection.fetchval(question):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.2)
        return True
    finally:
        await connection.close()


async def reward(on: Stage, source: str, number: int) -> None:
    """One new reward, as its platform posts it."""
    hook = roster(roster_order(f"new-{source}-{number}"), TOKEN)
    headers = {name.lower(): value for name, value in hook.headers.items()}
    await on.relay.intake.receive(source, InboundRequest(hook.body, headers))


async def rewards(on: Stage, per_s: float, seconds: float) -> None:
    """New rewards for both vendors, `per_s` for each, evenly."""
    start, tasks = time.monotonic(), []
    for number in range(round(per_s * seconds)):
        await asyncio.sleep(max(0.0, start + number / per_s - time.monotonic()))
        tasks += [asyncio.create_task(reward(on, source, number)) for source in ("pa", "pb")]
    await asyncio.gather(*tasks)


async def delays(on: Stage, source: str, vendor: FarParty) -> tuple[Delays, Delays]:
    """Of placing and of closing, for the new rewards of one source."""
    connection = await asyncpg.connect(on.url)
    rows = [row for row in await connection.fetch(TIMES) if row["source"] == source]
    await connection.close()
    told = on.platform.seen
    placed = [vendor.seen[row["po_number"]] - row["created"] for row in rows if row["po_number"] in vendor.seen]
    both = [row for row in rows if row["settled"] and row["external_id"] in told]
    closed = [told[row["external_id"]] - row["settled"] for row in both]
    return Delays.of(placed), Delays.of(closed)


async def side_by_side(postgres: Embedded, number: int, per_s: float, seconds: float) -> Seen:
    """One scenario."""
    name, mode = list(SCENARIOS.items())[number]
    async with stage(postgres, f"parties_{number}", a_is_there=mode is not None) as on:
        on.a.mode = mode or "well"
        async with working(on):
            start = time.monotonic()
            await rewards(on, per_s, seconds)
            ended = "SELECT NOT EXISTS (SELECT 1 FROM orders WHERE source = 'pb' AND state <> 'closed')"
            assert await _until(on, ended), f"{name}: vendor b's orders did not end"
            took = time.monotonic() - start
            placing, closing = await delays(on, "pb", on.b)
        return Seen(name, round(placing.number / took, 1), placing, closing, sum(on.a.calls.values()), on.a.most)


async def backlog(postgres: Embedded, orders: int, per_s: float, seconds: float) -> dict[str, Any]:
    """Vendor a comes back to many due orders; what happened each second."""
    async with stage(postgres, "parties_backlog") as on:
        await reward(on, "pa", 999_999)
        connection = await asyncpg.connect(on.url)
        await connection.execute(BACKLOG, orders)
        await connection.execute(AWAY)
        await connection.execute("VACUUM ANALYZE")
        async with working(on):
            on.a.began = time.time()
            feeding = asyncio.create_task(rewards(on, per_s, seconds))
            await asyncio.sleep(seconds / 2)
            on.a.mode = "fails"
            await asyncio.sleep(5)
            on.a.mode = "well"
            await feeding
            left = await connection.fetchval(
                "SELECT count(*) FROM orders WHERE external_id LIKE 'old-%' AND state = 'received'"
            )
            unplaced = await connection.fetchval(
                "SELECT count(*) FROM orders WHERE source = 'pa' AND external_id LIKE 'new-%' AND state = 'received'"
            )
        new_a, _ = await delays(on, "pa", on.a)
        new_b, closing_b = await delays(on, "pb", on.b)
        await connection.close()
        return {
            "orders": orders,
            "seconds": seconds,
            "drained": orders - left,
            "failed_from_s": round(seconds / 2),
            "most_at_a_time": on.a.most,
            "calls_each_s": [on.a.calls[second] for second in range(round(seconds))],
            "answers_each_s": [on.a.answers[second] for second in range(round(seconds))],
            "new_of_a": asdict(new_a),
            "new_of_a_not_placed_at_the_end": unplaced,
            "new_of_b": asdict(new_b),
            "closing_of_b": asdict(closing_b),
        }


def show(seen: Sequence[Seen], drained: dict[str, Any] | None) -> None:
    """The tables."""
    if seen:
        table = Table(title="vendor b and the closing calls, milliseconds", title_justify="left")
        for heading in ("", "b/s", "place p50", "p95", "p99", "ratio", "close p50", "p95", "p99", "ratio", "a's calls"):
            table.add_column(heading, justify="left" if not heading else "right")
        for each in seen:
            cells = [each.name, f"{each.per_s}"]
            for own, first in ((each.placing, seen[0].placing), (each.closing, seen[0].closing)):
                cells += [f"{own.p50:.0f}", f"{own.p95:.0f}", f"{own.p99:.0f}", f"{own.p95 / first.p95:.2f}"]
            table.add_row(*cells, f"{each.calls_of_a}")
        console.print(table)
        console.print("ratio: of p95 to the first line's", highlight=False)
    if drained:
        console.print(json.dumps(drained), highlight=False, soft_wrap=True)


def main(
    per_s: Annotated[float, typer.Option(min=0.1, help="New rewards a second, for each vendor.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=5, help="How long they come, in each scenario.")] = 30.0,
    orders: Annotated[
        int, typer.Option(min=0, help="Due orders of the vendor that comes back; 0 = leave out.")
    ] = 100_000,
    watch: Annotated[float, typer.Option(min=20, help="Seconds for which the backlog's drain is watched.")] = 60.0,
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="Write everything there.")] = Path(
        "bench/results/parties.json"
    ),
) -> None:
    """Vendor b and the closing calls beside a vendor a in trouble, then a backlog that drains.

    Example: python -m bench.parties --per-s 10 --seconds 20 --orders 20000
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        with server() as postgres:
            machine = uvloop.run(describe(postgres.url("postgres")))
            seen = []
            for number, name in enumerate(SCENARIOS):
                with console.status(name):
                    seen.append(uvloop.run(side_by_side(postgres, number, per_s, seconds)))
            with console.status("backlog"):
                drained = uvloop.run(backlog(postgres, orders, per_s, watch)) if orders else None
    except DatabaseUnavailable as error:
        console.print(f"PostgreSQL did not start: {error}", highlight=False)
        raise typer.Exit(1) from None
    load = round(os.getloadavg()[0], 2)
    for line in machine.lines():
        console.print(line, highlight=False)
    show(seen, drained)
    console.print(f"load average at the end {load}", highlight=False)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": asdict(machine), "load_average_after": load, "per_s": per_s, "seconds": seconds}
    scenarios = [asdict(each) for each in seen]
    json_file.write_text(json.dumps({**found, "scenarios": scenarios, "backlog": drained}, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
