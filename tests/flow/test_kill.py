"""Real processes, killed with SIGKILL again and again under a vendor that loses answers. Counted at the vendor."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from reward_relay.processes import bind
from reward_relay.sandbox import senders
from reward_relay.sandbox.script import CONFIGURATION, KEY, TALKABLE
from support.relays import until

KILLS = 5
QUICK = {"RELAY_LEASE_S": "2", "RELAY_CALL_DEADLINE_S": "1", "RELAY_FIRST_CHECK_S": "0.3", "RELAY_LOG_LEVEL": "error"}


class Machine:
    """The relay's processes and the sandbox, on fixed ports of this machine."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.relay, self.sandbox = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
        self.relay_url = f"http://127.0.0.1:{self.relay.getsockname()[1]}"
        self.sandbox_url = f"http://127.0.0.1:{self.sandbox.getsockname()[1]}"
        self._port = self.relay.getsockname()[1]
        configuration = folder / "relay.toml"
        configuration.write_text(CONFIGURATION.format(relay=self.relay_url, sandbox=self.sandbox_url))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        quick = {"RELAY_CONFIG": str(configuration), "RELAY_DATABASE_URL": database_url, **QUICK}
        self._environment = {**own, **quick, "RELAY_SPOOL_DIR": str(folder / "spool")}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sandbox = self._start("sandbox", listener=self.sandbox)

    def _start(self, command: str, *, listener: socket.socket | None = None) -> subprocess.Popen[bytes]:
        files = [listener.fileno()] if listener else []
        options = [option for number in files for option in ("--fd", str(number))]
        arguments = [sys.executable, "-m", "reward_relay", command, *options]
        return subprocess.Popen(arguments, env=self._environment, pass_fds=files)

    def up(self) -> None:
        """Start the API and two workers, on the same port as before."""
        if self.relay.fileno() < 0:
            self.relay = bind("127.0.0.1", self._port, patience_s=10)
        serve = self._start("serve", listener=self.relay)
        self._processes = [serve, self._start("work"), self._start("work")]

    def kill(self) -> None:
        """SIGKILL, all at once; nobody listens then, and what waits to be accepted is reset."""
        self.relay.close()
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._sandbox.kill()
        self._sandbox.wait()
        self.sandbox.close()


@contextlib.contextmanager
def machine(folder: Path, database_url: str) -> Iterator[Machine]:
    found = Machine(folder, database_url)
    try:
        yield found
    finally:
        found.close()


async def post_rewards(client: httpx.AsyncClient, address: str, numbers: Iterator[int]) -> dict[str, str]:
    """Post rewards until the API dies under us; the order ids of those that were answered 202, by reward."""
    accepted: dict[str, str] = {}
    with contextlib.suppress(httpx.HTTPError):
        while True:
            payload = senders.sample("talkable_referrer")
            payload["reward"]["id"] = number = next(numbers)
            hook = senders.talkable_form(payload, TALKABLE)
            answer = await client.post(f"{address}/webhooks/talkable", content=hook.body, headers=hook.headers)
            if answer.status_code == 202:
                accepted[str(number)] = answer.json()["order_id"]
            await asyncio.sleep(0.02)
    return accepted


async def test_every_accepted_webhook_ends_with_exactly_one_vendor_order(database_url: str, tmp_path: Path) -> None:
    chance, numbers = random.Random(11), iter(range(1, 100_000))
    accepted: dict[str, str] = {}
    headers = {"Authorization": f"Bearer {KEY}"}
    with machine(tmp_path, database_url) as here:
        async with httpx.AsyncClient(timeout=20, headers=headers) as client:
            await _ready(client, f"{here.sandbox_url}/sandbox/state")
            rule = {"party": "gcp", "operation": "place", "mode": "lose_answer", "times": 8, "delay_s": 0.2}
            await client.post(f"{here.sandbox_url}/sandbox/rules", json=rule)
            for _ in range(KILLS):
                here.up()
                await _ready(client, f"{here.relay_url}/readyz")
                posting = asyncio.create_task(post_rewards(client, here.relay_url, numbers))
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                here.kill()
                accepted |= await posting
            here.up()
            await _ready(client, f"{here.relay_url}/readyz")

            async def all_ended() -> bool:
                states = (await client.get(f"{here.relay_url}/api/v1/summary")).json()["states"]
                return bool(states["closed"] and sum(states.values()) == states["closed"])

            await until(all_ended, seconds=90)
            orders = await _orders(client, here.relay_url)
            placed = (await client.get(f"{here.sandbox_url}/sandbox/state")).json()["counts"]["orders"]
    assert set(accepted) <= set(orders)
    assert len(accepted) > 20
    assert placed == dict.fromkeys((order["po_number"] for order in orders.values()), 1)
    assert {order["outcome"] for order in orders.values()} == {"fulfilled"}


async def _orders(client: httpx.AsyncClient, address: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    cursor = None
    while True:
        asked = {"limit": 200, **({"cursor": cursor} if cursor else {})}
        page = (await client.get(f"{address}/api/v1/orders", params=asked)).json()
        found |= {order["external_id"]: order for order in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return found


async def _ready(client: httpx.AsyncClient, address: str) -> None:
    async def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return (await client.get(address)).status_code == 200
        return False

    await until(answers, seconds=60)
