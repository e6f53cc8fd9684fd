"""PostgreSQL goes away under a stream of webhooks: is every 202 an order, and none twice?

Real processes: `serve`, `work`, the sandbox, and a PostgreSQL of its own with durable defaults. Webhooks come at a
fixed rate, whether or not the ones before are answered; every tenth repeats a reward. Counted at the vendor and in
the database: `lost` are rewards that were answered 202 and have no closed order with one vendor order, `doubled` those
with more than one.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import asyncpg
import httpx
import typer
from rich.console import Console
from rich.table import Table

from bench.machine import describe
from bench.server import go_on, hang, kill, server
from reward_relay.db.embedded import Embedded
from reward_relay.migrating import migrated
from reward_relay.processes import bind
from reward_relay.sandbox import senders
from reward_relay.sandbox.script import CONFIGURATION, KEY, ROSTER, TALKABLE

How = Literal["kill", "hang"]
ENDS_S = 900.0
REPEAT_EVERY, REPEAT_BACK = 10, 7
console = Console()


@dataclass(frozen=True, slots=True)
class Sent:
    """One webhook and its answer; status 0 where there was none."""

    reward: str
    phase: str
    status: int
    took_s: float
    delivery: str | None = None
    spooled: bool = False


@dataclass(slots=True)
class Run:
    """What was sent and what became of it."""

    how: How
    machine: list[str] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    phase: str = "before"
    drained_s: float = 0.0
    most_waiting: int = 0
    orders: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    missing_deliveries: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    ready: Counter[str] = field(default_factory=Counter)

    def taken(self) -> set[str]:
        """Rewards that were answered 202."""
        return {each.reward for each in self.sent if each.status == 202}

    def slowest(self, phase: str, share: float) -> float:
        """The time in ms that this share of a phase's answers did not exceed."""
        times = sorted(each.took_s for each in self.sent if each.phase == phase and each.status)
        return times[min(len(times) - 1, int(share * len(times)))] * 1000 if times else 0.0

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing doubled, and the spool was used at all."""
        spooled = any(each.spooled for each in self.sent)
        return spooled and not (self.lost or self.doubled or self.missing_deliveries)


class Machine:
    """The relay's processes and the sandbox, on fixed ports of this machine."""

    def __init__(self, folder: Path, database_url: str, api_processes: int = 1) -> None:
        self._relay, self._sandbox = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        self.relay = f"http://127.0.0.1:{self._relay.getsockname()[1]}"
        self.sandbox = f"http://127.0.0.1:{self._sandbox.getsockname()[1]}"
        self.output = folder / "output.txt"
        configuration = folder / "relay.toml"
        configuration.write_text(CONFIGURATION.format(relay=self.relay, sandbox=self.sandbox))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        self._environment = {
            **own,
            "RELAY_CONFIG": str(configuration),
            "RELAY_DATABASE_URL": database_url,
            "RELAY_SPOOL_DIR": str(folder / "spool"),
            "RELAY_LEASE_S": "5",
            "RELAY_CALL_DEADLINE_S": "3",
            "RELAY_LOG_LEVEL": "warning",
        }
        self._others = [self._start("sandbox", self._sandbox), self._start("work")]
        self._apis = [self._start("serve", self._relay) for _ in range(api_processes)]

    def _start(self, command: str, listener: Any = None) -> subprocess.Popen[bytes]:
        files = [listener.fileno()] if listener else []
        options = [option for number in files for option in ("--fd", str(number))]
        arguments = [sys.executable, "-m", "reward_relay", command, *options]
        with self.output.open("ab") as output:
            return subprocess.Popen(arguments, env=self._environment, pass_fds=files, stdout=output, stderr=output)

    def kill_apis(self) -> None:
        """SIGKILL to every API process, and others in their place; the socket stays open meanwhile."""
        for each in self._apis:
            each.send_signal(signal.SIGKILL)
            each.wait()
        self._apis = [self._start("serve", self._relay) for _ in self._apis]

    def close(self) -> None:
        """End everything."""
        for each in (*self._apis, *self._others):
            each.kill()
            each.wait()
        for listener in (self._relay, self._sandbox):
            listener.close()


@contextlib.contextmanager
def machine(folder: Path, database_url: str, api_processes: int) -> Iterator[Machine]:
    """All processes, as long as the block."""
    found = Machine(folder, database_url, api_processes)
    try:
        yield found
    finally:
        found.close()


async def post(client: httpx.AsyncClient, address: str, number: int, run: Run) -> None:
    """One webhook: Talkable's and Roster's take turns; every tenth is one of a moment before again."""
    reward = number - REPEAT_BACK if number % REPEAT_EVERY == 0 and number > REPEAT_BACK else number
    if reward % 2:
        payload = senders.sample("talkable_referrer")
        payload["reward"]["id"] = reward
        source, hook = "talkable", senders.talkable_form(payload, TALKABLE)
    else:
        source, hook = "roster", senders.roster(senders.roster_order(str(reward)), ROSTER)
    phase, began = run.phase, time.perf_counter()
    status, answer = 0, {}
    with contextlib.suppress(httpx.HTTPError):
        response = await client.post(f"{address}/webhooks/{source}", content=hook.body, headers=hook.headers)
        status, answer = response.status_code, response.json()
    spooled = status == 202 and answer["order_id"] is None
    took_s = time.perf_counter() - began
    run.sent.append(Sent(f"{source}/{reward}", phase, status, took_s, answer.get("delivery_id"), spooled))


async def stream(client: httpx.AsyncClient, address: str, rate: float, run: Run) -> None:
    """Send until cancelled, then wait for the last answers."""
    tasks: set[asyncio.Task[None]] = set()
    began, number = time.perf_counter(), 0
    try:
        while True:
            number += 1
            tasks.add(asyncio.create_task(post(client, address, number, run)))
            tasks = {each for each in tasks if not each.done()}
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
    finally:
        await asyncio.gather(*tasks)


async def watch_ready(client: httpx.AsyncClient, address: str, run: Run) -> None:
    """Ask `/readyz` twice a second, as a load balancer would."""
    while True:
        with contextlib.suppress(httpx.HTTPError):
            answer = await client.get(f"{address}/readyz")
            warned = " with a warning" if "warning" in answer.json() else ""
            run.ready[f"{run.phase}: {answer.status_code}{warned}"] += 1
        await asyncio.sleep(0.5)


async def until(check: Any, seconds: float) -> None:
    """Wait until `check` is true.

    Raises:
        TimeoutError: it was not, in time.
    """
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(httpx.HTTPError, KeyError, ValueError):
                if await check():
                    return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(work: Any) -> AsyncIterator[None]:
    """`work` goes on during the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: seconds before, of and after the outage; webhooks a second."""

    how: How
    outage_s: float
    rate: float
    around_s: float
    api_processes: int = 1
    kill_apis: bool = False


def take_away(postgres: Embedded, how: How) -> Callable[[], object]:
    """Make it go; what is returned brings it back."""
    if how == "kill":
        kill(postgres)
        return postgres.start
    stopped = hang(postgres)
    return lambda: go_on(stopped)


async def play(plan: Plan, postgres: Embedded, here: Machine) -> Run:
    """Send, take the database away, bring it back, wait for the end, and count."""
    run = Run(plan.how)
    limits = httpx.Limits(max_connections=500)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(timeout=20, limits=limits, headers=headers) as client:

        async def summary() -> Any:
            answer = await client.get(f"{here.relay}/api/v1/summary")
            return answer.json() if answer.status_code == 200 else {}

        async def works() -> bool:
            return any(each["kind"] == "worker" and each["alive"] for each in (await summary())["processes"])

        async def drained() -> bool:
            waiting = (await summary())["spool"]["waiting"]
            run.most_waiting = max(run.most_waiting, waiting)
            return not waiting

        async def all_closed() -> bool:
            states = (await summary())["states"]
            return bool(states["closed"] == sum(states.values()))

        await until(works, 600)
        async with running(watch_ready(client, here.relay, run)):
            async with running(stream(client, here.relay, plan.rate, run)):
                await asyncio.sleep(plan.around_s)
                run.phase = "during"
                bring_back = take_away(postgres, plan.how)
                await asyncio.sleep(plan.outage_s / 2)
                if plan.kill_apis:
                    here.kill_apis()
                await asyncio.sleep(plan.outage_s / 2)
                await asyncio.to_thread(bring_back)
                run.phase, back_at = "after", time.perf_counter()
                await until(drained, 120)
                run.drained_s = time.perf_counter() - back_at
                await asyncio.sleep(plan.around_s)
            await until(all_closed, ENDS_S)
        await count(run, client, here, postgres)
    return run


async def count(run: Run, client: httpx.AsyncClient, here: Machine, postgres: Embedded) -> None:
    """Compare what was answered with the database and the vendor."""
    placed: dict[str, int] = (await client.get(f"{here.sandbox}/sandbox/state")).json()["counts"]["orders"]
    database = await asyncpg.connect(postgres.url("postgres"))
    try:
        rows = await database.fetch("SELECT source, external_id, po_number, state, outcome FROM orders")
        ids = [each.delivery for each in run.sent if each.status == 202]
        kept = await database.fetch("SELECT id::text, verdict FROM deliveries")
    finally:
        await database.close()
    orders = {f"{row['source']}/{row['external_id']}": row for row in rows}
    run.orders = len(rows)
    for reward in sorted(run.taken()):
        row = orders.get(reward)
        if row is None or row["outcome"] != "fulfilled" or not placed.get(row["po_number"]):
            run.lost.append(reward)
    run.doubled = [po for po, number in placed.items() if number != 1]
    run.doubled += sorted(set(placed) - {row["po_number"] for row in rows})
    stored = {row["id"]: row["verdict"] for row in kept}
    run.missing_deliveries = sum(each not in stored for each in ids) + len(ids) - len(set(ids))
    run.verdicts = dict(Counter(stored.values()))


def table(run: Run) -> Table:
    """The figures."""
    made = Table(title=f"PostgreSQL away ({run.how})", show_header=True, header_style="bold")
    for name in ("", "before", "during", "after"):
        made.add_column(name, justify="left" if not name else "right")
    phases = ("before", "during", "after")

    def row(name: str, find: Any) -> None:
        made.add_row(name, *(str(find([each for each in run.sent if each.phase == phase])) for phase in phases))

    row("webhooks sent", len)
    row("answered 202", lambda some: sum(each.status == 202 for each in some))
    row("  of these from the spool", lambda some: sum(each.spooled for each in some))
    row("answered 503", lambda some: sum(each.status == 503 for each in some))
    row("another answer, or none", lambda some: sum(each.status not in (202, 503) for each in some))
    for share, name in ((0.5, "p50"), (0.99, "p99"), (1.0, "slowest")):
        made.add_row(f"answer, {name}", *(f"{run.slowest(phase, share):,.0f} ms" for phase in phases))
    made.add_section()
    made.add_row("rewards answered 202", "", "", str(len(run.taken())))
    made.add_row("orders", "", "", str(run.orders))
    made.add_row("spool empty so long after its return", "", "", f"{run.drained_s:.1f} s")
    made.add_row("lost", "", "", str(len(run.lost)))
    made.add_row("doubled", "", "", str(len(run.doubled)))
    made.add_row("202 without its delivery row", "", "", str(run.missing_deliveries))
    return made


def measure(plan: Plan) -> Run:
    """One run on a PostgreSQL of its own."""
    with server() as postgres, tempfile.TemporaryDirectory(prefix="relay-outage-") as folder:
        url = postgres.url("postgres")
        asyncio.run(migrated(url))
        described = asyncio.run(describe(url)).lines()
        with machine(Path(folder), url, plan.api_processes) as here:
            try:
                run = asyncio.run(play(plan, postgres, here))
            except TimeoutError:
                console.print(here.output.read_text("utf-8", "replace")[-5000:], markup=False)
                raise
        run.machine = described
        return run


def main(
    how: Annotated[str, typer.Option(help="kill: the postmaster dies. hang: nobody answers any more.")] = "kill",
    seconds: Annotated[float, typer.Option(help="How long PostgreSQL is away.")] = 60,
    rate: Annotated[float, typer.Option(help="Webhooks a second.")] = 50,
    around: Annotated[float, typer.Option(help="Seconds before and after.")] = 5,
    workers: Annotated[int, typer.Option(help="API processes.")] = 1,
    kill_apis: Annotated[bool, typer.Option(help="Also kill and start the API in the middle of it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Figures as JSON.")] = False,
) -> None:
    """PostgreSQL goes away under a stream of webhooks; 1 where one was lost or doubled."""
    assert how in ("kill", "hang"), "--how is kill or hang"
    run = measure(Plan("hang" if how == "hang" else "kill", seconds, rate, around, workers, kill_apis))
    if as_json:
        figures = {"lost": run.lost, "doubled": run.doubled, "orders": run.orders, "drained_s": run.drained_s}
        print(json.dumps({**figures, "answers": dict(Counter(each.status for each in run.sent))}))
    else:
        for line in run.machine:
            console.print(line, highlight=False)
        console.print(table(run))
        console.print("/readyz:", ", ".join(f"{name} × {number}" for name, number in sorted(run.ready.items())))
        console.print("deliveries:", ", ".join(f"{number} {name}" for name, number in sorted(run.verdicts.items())))
        console.print("[green]every 202 is an order, none twice[/]" if run.good else "[red]not as promised[/]")
    raise typer.Exit(0 if run.good else 1)


if __name__ == "__main__":
    typer.run(main)
