"""How long every page of the console and every list call takes, over a database that has been in use for a month.

The real API is one process behind loopback, on a PostgreSQL with its durable defaults; a client of one connection asks
one question at a time. Every address is asked once a round, so that other work on the machine, and a cache that one
question fills for its own repetition, spread over all of them.
"""

import asyncio
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import asyncpg
import httpx
import typer
import uvloop
from rich.console import Console
from rich.table import Table

from bench.filling import fill
from bench.machine import Machine, describe
from bench.server import server
from reward_relay import processes
from reward_relay.errors import DatabaseUnavailable
from reward_relay.migrating import migrated
from reward_relay.sandbox.script import CONFIGURATION, KEY

TARGET_MS = 100.0
OPEN_SHARE = 20
READY_S = 60.0
NOBODY = "http://127.0.0.1:9"
"""Nothing answers there: nothing of this is sent anywhere."""
ROUTES = """
[[routes]]
name = "all else"
vendor = "gcp"
product = "CVS"
value = 20
"""
console = Console()


@dataclass(frozen=True, slots=True)
class Known:
    """What the addresses name: an order of each kind, and cursors in the middle and near the end."""

    open_order: str
    external_id: str
    closed_order: str
    delivery: str
    email: str
    po_number: str
    vendor_order_id: str
    hold_reason: str
    middle: str
    last: str
    middle_day: str
    plan: str = ""


@dataclass(slots=True)
class Timed:
    """One address and how long each answer took; `kilobytes` of the last one."""

    path: str
    kilobytes: float = 0.0
    times_ms: list[float] = field(default_factory=list)

    def at(self, share: float) -> float:
        """The time that this share of the answers did not exceed."""
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, round(share * len(ordered) + 0.5) - 1)]


KNOWN = """
SELECT (SELECT id FROM orders WHERE state = 'on_hold' ORDER BY id DESC LIMIT 1)::text AS open_order,
  (SELECT hold_reason FROM orders WHERE state = 'on_hold' ORDER BY id LIMIT 1) AS hold_reason,
  o.id::text AS closed_order, o.external_id, o.delivery_id::text AS delivery, o.po_number, o.vendor_order_id,
  o.reward #>> '{recipient,email}' AS email, o.id::text AS middle, o.created_at::date::text AS middle_day,
  (SELECT id FROM orders ORDER BY id OFFSET 100 LIMIT 1)::text AS last
FROM orders o WHERE o.state = 'closed' ORDER BY o.id OFFSET $1 LIMIT 1
"""


def lists_of_orders(known: Known) -> list[dict[str, Any]]:
    """Every filter of the list of orders, alone and with others, and searches for the frequent and the rare."""
    searches = ["ana", "example", "diaz", "zzz", "ana diaz", "ana diaz 4711", "f1", "a", "main street", "m\u00fcller 9"]
    searches += [known.email, known.email[:9], known.external_id, known.closed_order, known.po_number]
    searches += [known.vendor_order_id, "RR-"]
    states = ("received", "placed", "settled", "on_hold", "closed")
    words = ("ana", "example", "zzz")
    return [
        {},
        *({"q": each} for each in searches),
        *({"state": each} for each in states),
        *({"source": each} for each in ("roster", "nobody")),
        *({"vendor": each} for each in ("gcp", "nobody")),
        *({"party": each} for each in ("vendor:gcp", "source:roster", "vendor:nobody")),
        *({"state": state, "cursor": cursor} for state in states for cursor in (known.middle, known.last)),
        *({"q": word, "state": state} for word in words for state in ("on_hold", "closed")),
        *({"q": word, "cursor": cursor} for word in words for cursor in (known.middle, known.last)),
        *({"party": party, "cursor": known.middle} for party in ("vendor:gcp", "source:roster")),
        {"q": "diaz 4711", "source": "roster"},
        {"q": "example", "source": "roster", "vendor": "gcp", "state": "on_hold"},
        {"source": "roster", "vendor": "gcp"},
        {"source": "roster", "state": "on_hold"},
        {"vendor": "gcp", "state": "received"},
        {"source": "roster", "cursor": known.middle},
        {"hold_reason": known.hold_reason},
        {"hold_reason": "held by nobody"},
        {"created_after": known.middle_day},
        {"created_before": known.middle_day},
        {"created_after": known.middle_day, "state": "on_hold"},
        {"created_before": known.middle_day, "state": "closed", "source": "roster"},
        {"created_before": known.middle_day, "q": "ana"},
        {"created_after": "2099-01-01"},
        {"created_before": "2001-01-01"},
        {"cursor": known.middle},
        {"cursor": known.last},
    ]


def lists_of_deliveries(known: Known) -> list[dict[str, Any]]:
    """Every filter of the list of deliveries, alone and with others."""
    verdicts = ("accepted", "duplicate", "informational", "quarantined", "rejected")
    return [
        {},
        *({"verdict": each} for each in verdicts),
        *({"source": each} for each in ("roster", "nobody")),
        *({"source": "roster", "verdict": each} for each in verdicts),
        *({"verdict": each, "cursor": known.middle} for each in verdicts),
        {"source": "roster", "cursor": known.last},
        {"cursor": known.middle},
        {"cursor": known.last},
    ]


def addresses(known: Known) -> list[str]:
    """Every page and list call."""
    orders, deliveries = lists_of_orders(known), lists_of_deliveries(known)
    shown = [each for each in orders if set(each) <= {"q", "state", "cursor"}]
    return [
        *("/", "/?part=1", "/parties", "/routes", "/routes/try", "/routes/diff", "/reconcile", "/reconcile?part=1"),
        *(link("/orders", each) for each in shown),
        *(link("/deliveries", each) for each in deliveries),
        *(f"/orders/{key}" for key in (known.open_order, known.closed_order, known.po_number, known.external_id)),
        f"/deliveries/{known.delivery}",
        *(f"/api/v1/{name}" for name in ("summary", "alerts", "parties", "reconcile")),
        "/metrics",
        "/readyz",
        *(link("/api/v1/orders", each) for each in orders),
        *(link("/api/v1/orders", {**each, "limit": 200}) for each in ({}, {"q": "ana"}, {"state": "on_hold"})),
        *(link("/api/v1/deliveries", each) for each in deliveries),
        link("/api/v1/deliveries", {"order_id": known.closed_order}),
        *(f"/api/v1/orders/{key}" for key in (known.open_order, known.closed_order, known.external_id)),
        f"/api/v1/deliveries/{known.delivery}",
        f"/api/v1/bulk/{known.plan}",
    ]


def link(path: str, query: Mapping[str, Any]) -> str:
    """A path with its query."""
    return f"{path}?{urlencode(query)}" if query else path


async def prepare(url: str, orders: int) -> Known:
    """Migrate and fill an empty database; what there is to ask for in it."""
    await asyncio.to_thread(lambda: asyncio.run(migrated(url)))
    still_open = orders // OPEN_SHARE
    await fill(url, orders - still_open, still_open)
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow(KNOWN, orders // 2)
    await connection.close()
    assert row is not None
    return Known(**dict(row))


async def ask_all(base: str, known: Known, rounds: int) -> list[Timed]:
    """Sign in, make a plan of bulk work, and ask for every address once a round."""
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=base, timeout=READY_S, headers=headers) as client:
        await _ready(client)
        entered = await client.post("/login", data={"key": KEY}, headers={"Origin": base})
        assert entered.status_code == 303, entered.text
        wanted = {"action": "release", "filters": {"source": "roster"}, "note": "a measurement"}
        plan = await client.post("/api/v1/bulk/plan", json=wanted)
        assert plan.status_code == 200, plan.text
        found = [Timed(path) for path in addresses(Known(**{**asdict(known), "plan": plan.json()["token"]}))]
        with console.status("") as status:
            for number in range(rounds):
                status.update(f"round {number + 1} of {rounds}, {len(found)} addresses each")
                for each in found:
                    await _ask(client, each)
        return found


async def _ready(client: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + READY_S
    while (answer := await client.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, f"the API did not get ready: {answer.text}"
        await asyncio.sleep(0.2)


async def _ask(client: httpx.AsyncClient, each: Timed) -> None:
    start = time.perf_counter()
    answer = await client.get(each.path)
    each.times_ms.append((time.perf_counter() - start) * 1000)
    each.kilobytes = len(answer.content) / 1000
    assert answer.status_code == 200, f"{each.path} was answered {answer.status_code}: {answer.text[:200]}"


def measure(orders: int, rounds: int) -> tuple[Machine, list[Timed]]:
    """Everything: server, filling, API, questions."""
    with server() as postgres, tempfile.TemporaryDirectory(prefix="relay-bench-api-") as folder:
        machine = uvloop.run(describe(postgres.url("postgres")))
        url = postgres.url("postgres")
        with console.status(f"filling in {orders:,} orders"):
            known = uvloop.run(prepare(url, orders))
        listener = processes.bind("127.0.0.1", 0)
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        configuration = Path(folder) / "relay.toml"
        configuration.write_text(CONFIGURATION.format(relay=base, sandbox=NOBODY) + ROUTES)
        environment = {"RELAY_CONFIG": str(configuration), "RELAY_DATABASE_URL": url, "RELAY_LOG_LEVEL": "error"}
        environment["RELAY_SPOOL_DIR"] = folder
        family = processes.Family(environment, Path(folder))
        try:
            family.start(["serve", "--fd", str(listener.fileno())], files=[listener.fileno()])
            return machine, uvloop.run(ask_all(base, known, rounds))
        finally:
            family.stop()
            listener.close()


def show(machine: Machine, timed: Sequence[Timed], orders: int, load_after: float) -> None:
    """The table, the slowest first, and the verdict."""
    table = Table(title=f"{orders:,} orders, {len(timed[0].times_ms)} times each, milliseconds", title_justify="left")
    for name in ("address", "kB", "p50", "p95", "max", ""):
        table.add_column(name, justify="left" if name == "address" else "right", no_wrap=name != "address")
    for each in sorted(timed, key=lambda one: -one.at(0.95)):
        figures = [f"{each.kilobytes:.0f}", *(f"{each.at(share):.1f}" for share in (0.5, 0.95, 1.0))]
        table.add_row(each.path, *figures, "[red]slow[/]" if each.at(0.95) > TARGET_MS else "")
    for line in machine.lines():
        console.print(line, highlight=False)
    console.print(table)
    slow = sum(each.at(0.95) > TARGET_MS for each in timed)
    console.print(
        f"{slow} of {len(timed)} addresses are over {TARGET_MS:.0f} ms (p95); load average at the end {load_after:.1f}",
        highlight=False,
    )


def as_json(machine: Machine, timed: Sequence[Timed], orders: int, load_after: float) -> dict[str, Any]:
    """Everything that was measured."""
    return {
        "orders": orders,
        "target_ms": TARGET_MS,
        "machine": asdict(machine),
        "load_average_after": round(load_after, 2),
        "addresses": [
            {
                "path": each.path,
                "kilobytes": round(each.kilobytes, 1),
                **{name: round(each.at(share), 2) for name, share in (("p50", 0.5), ("p95", 0.95), ("max", 1.0))},
                "times_ms": [round(one, 2) for one in each.times_ms],
            }
            for each in timed
        ],
    }


def main(
    orders: Annotated[int, typer.Option(min=1000, help="Orders in the database; one in twenty is open.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1, help="How often each address is asked.")] = 50,
    json_file: Annotated[Path, typer.Option("--json", metavar="FILE", help="Write every time there.")] = Path(
        "bench/results/pages.json"
    ),
) -> None:
    """How long every page and every list call takes over many orders: p50, p95 and max, marked where over 100 ms.

    Example: python -m bench.pages --orders 20000 --rounds 10
    """
    try:
        machine, timed = measure(orders, rounds)
    except DatabaseUnavailable as error:
        console.print(f"PostgreSQL did not start: {error}", highlight=False)
        raise typer.Exit(1) from None
    load_after = os.getloadavg()[0]
    show(machine, timed, orders, load_after)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(as_json(machine, timed, orders, load_after), indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
