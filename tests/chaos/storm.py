"""A run: post under kills, wait until everything has ended (with a person's help where it needs one), count."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import httpx

from chaos import far
from chaos.counting import Reckoning, Seen, Struck, reckon
from chaos.machine import DEADLINE_S, HEADERS, Machine
from chaos.plan import PAUSED, Plan
from chaos.posting import Platforms, Posted
from reward_relay.db.engine import Database
from reward_relay.ledger import Ledger

READY_S = 180.0
LOOK_S = 1.0


@dataclass(slots=True)
class Run:
    """What happened. `hurried` counts orders whose wait a person cut short, `needed` those only a person could free."""

    plan: Plan
    phase: str = "starting"
    struck: list[Struck] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    hurried: set[str] = field(default_factory=set)
    needed: dict[str, str] = field(default_factory=dict)
    resumed: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.time)
    storm_s: float = 0.0
    took_s: float = 0.0
    posted: Posted = field(default_factory=Posted)
    seen: Seen | None = None
    reckoning: Reckoning = field(default_factory=Reckoning)

    def reasons(self) -> Counter[str]:
        """Why orders needed a person."""
        return Counter(self.needed.values())


class Storm:
    """Drives one run on a machine. `every_s` lies between two rewards, `patience_s` before people help."""

    def __init__(self, machine: Machine, plan: Plan, *, every_s: float, patience_s: float, limit_s: float) -> None:
        self._machine = machine
        self._every_s = every_s
        self._patience_s = patience_s
        self._limit_s = limit_s
        self._killed = 0
        self.run = Run(plan)

    async def go(self, on_progress: Callable[[Run, Platforms], None] = lambda *_: None) -> Run:
        """Everything, within the limit; what has not ended by then is counted as it is."""
        run, start = self.run, time.monotonic()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=HEADERS, timeout=30, limits=limits) as client:
            platforms = Platforms(client, self._machine.relay_url, self._machine.far_url, run.plan)
            run.posted = platforms.posted
            watching = asyncio.create_task(self._watch(platforms, on_progress))
            try:
                async with asyncio.timeout(self._limit_s):
                    await self._storm(client, platforms)
                    run.storm_s = time.monotonic() - start
                    await self._heal(client, platforms)
            except TimeoutError:
                run.phase = "out of time"
            finally:
                watching.cancel()
                await platforms.close()
            run.seen = await self._look(client, platforms.posted)
        run.reckoning = reckon(run.seen)
        run.took_s = time.monotonic() - start
        return run

    async def _storm(self, client: httpx.AsyncClient, platforms: Platforms) -> None:
        answer = None
        while answer is None:
            try:
                answer = await client.put(f"{self._machine.far_url}/sandbox/weather", json=self.run.plan.weather)
            except httpx.HTTPError:
                await asyncio.sleep(0.1)
        answer.raise_for_status()
        await asyncio.to_thread(self._machine.up)
        if not await self._machine.ready(client, READY_S):
            raise RuntimeError(f"the relay did not start; its logs are in {self._machine.folder}")
        self.run.phase = "storm"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill_all(client, platforms))
            group.create_task(platforms.send_all(self._every_s, self._in_step))

    async def _in_step(self, begun: int) -> None:
        """Hold the senders back while two kills are overdue, so that each kill strikes in the midst of work."""
        overdue = sum(kill.after <= begun for kill in self.run.plan.kills) - 1
        await self._until(lambda: self._killed >= overdue)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():  # noqa: ASYNC110 - the counts come from many places
            await asyncio.sleep(0.02)

    async def _kill_all(self, client: httpx.AsyncClient, platforms: Platforms) -> None:
        for kill in self.run.plan.kills:
            await self._until(lambda after=kill.after: platforms.begun >= after)  # type: ignore[misc]
            if not kill.early:
                await self._machine.ready(client, READY_S)
            await asyncio.sleep(kill.delay_s)
            at = time.time()
            await self._machine.strike(kill)
            self._killed += 1
            if kill.sort == PAUSED:
                self.run.struck.append(Struck(kill.sort, at, at + kill.away_s))
            else:
                await self._machine.ready(client, 1 if kill.early else READY_S)
                self.run.struck.append(Struck(kill.sort, at, time.time()))

    async def _heal(self, client: httpx.AsyncClient, platforms: Platforms) -> None:
        """Wait for the end of every order. After some patience a person retries, releases and resumes."""
        self.run.phase = "healing"
        patient_until = time.monotonic() + self._patience_s
        await platforms.done()
        while not await self._all_ended(client):
            if time.monotonic() > patient_until:
                self.run.phase = "helping"
                await self._help(client)
            await asyncio.sleep(LOOK_S)
        self.run.phase = "ended"

    async def _all_ended(self, client: httpx.AsyncClient) -> bool:
        found = await self._ask(client, "GET", "/api/v1/summary")
        if not found:
            return False
        self.run.states = found["states"]
        wanted = sum(reward.kind != "informational" for reward in self.run.plan.rewards)
        return bool(wanted <= sum(found["states"].values()) == found["states"]["closed"])

    async def _help(self, client: httpx.AsyncClient) -> None:
        """What an operator does after an outage, by the same API."""
        found = await self._ask(client, "GET", "/api/v1/summary")
        for party in (found or {}).get("parties", []):
            if party["paused"]:
                self.run.resumed[f"{party['party']}: {party['why']}"] += 1
                await self._ask(client, "POST", f"/api/v1/parties/{party['party']}/resume", {"note": "chaos"})
        held = await self._ask(client, "GET", "/api/v1/orders?state=on_hold&limit=200")
        for order in (held or {}).get("items", []):
            self.run.needed.setdefault(order["id"], _in_general(order["hold_reason"]))
        for action in ("release", "retry"):
            plan = await self._ask(
                client, "POST", "/api/v1/bulk/plan", {"action": action, "filters": {}, "note": "chaos"}
            )
            if plan and plan["count"]:
                done = await self._ask(client, "POST", "/api/v1/bulk/act", {"token": plan["token"]})
                if action == "retry":
                    self.run.hurried |= {each["id"] for each in (done or {}).get("done", [])}

    async def _ask(self, client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
        """The relay's answer, None where it cannot be had just now."""
        try:
            answer = await client.request(method, f"{self._machine.relay_url}{path}", json=body)
        except httpx.HTTPError:
            return None
        return answer.json() if answer.status_code < 300 else None

    async def _look(self, client: httpx.AsyncClient, posted: Posted) -> Seen:
        state = (await client.get(f"{self._machine.far_url}/sandbox/state")).json()
        connection = await asyncpg.connect(self._machine.database_url)
        rows = await connection.fetch("SELECT order_id, from_state, to_state FROM order_events ORDER BY order_id, id")
        await connection.close()
        events: dict[str, list[tuple[str | None, str]]] = {}
        for row in rows:
            events.setdefault(str(row["order_id"]), []).append((row["from_state"], row["to_state"]))
        database = Database(self._machine.database_url, pool_size=1)
        flaws = (await Ledger(database).verify()).problems
        await database.close()
        rewards = self.run.plan.rewards
        seen = far.read(state, rewards)
        return Seen(rewards, posted, seen, await self._orders(client), events, self.run.struck, DEADLINE_S, flaws)

    async def _orders(self, client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        asked: dict[str, Any] = {"limit": 200}
        while True:
            page = (await client.get(f"{self._machine.relay_url}/api/v1/orders", params=asked)).json()
            found |= {order["id"]: order for order in page["items"]}
            if page["next_cursor"] is None:
                return found
            asked["cursor"] = page["next_cursor"]

    async def _watch(self, platforms: Platforms, on_progress: Callable[[Run, Platforms], None]) -> None:
        while True:
            on_progress(self.run, platforms)
            await asyncio.sleep(0.5)


def _in_general(reason: str) -> str:
    """A hold's reason without what is special to one order."""
    general = re.sub(r"chaos-\w+-\d+|RR-\w+|\b[0-9A-F]{10}\b|\b[0-9a-f-]{36}\b|\b\d+\b", "…", reason)
    return general[:160]
