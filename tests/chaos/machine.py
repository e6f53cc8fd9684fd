"""The processes of a run: PostgreSQL, the relay and the far side. Any of them but the last may be killed."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil

from chaos.plan import PAUSED, Kill
from reward_relay.db.embedded import Embedded
from reward_relay.processes import bind, migrated
from reward_relay.sandbox.script import CONFIGURATION, KEY

LEASE_S, DEADLINE_S = 4.0, 1.5
QUICK = {
    "RELAY_LEASE_S": f"{LEASE_S}",
    "RELAY_CALL_DEADLINE_S": f"{DEADLINE_S}",
    "RELAY_FIRST_CHECK_S": "0.5",
    "RELAY_BREAKER_OPEN_S": "1",
    "RELAY_LOG_LEVEL": "warning",
    "RELAY_LOG_FORMAT": "json",
}
"""Short waits, so that a run has many of them. Nothing else is different from a relay at work."""
ASKED = """
[vendors.asked]
kind = "keyless"
base_url = "{sandbox}/keyless"

[[routes]]
name = "parcels by asking"
sources = ["roster"]
vendor = "asked"
delivery = "PhysicalShipment"
product = "TUMBLER"
value = 25

[[routes]]
name = "rebates by asking"
sources = ["talkable"]
vendor = "asked"
product = "CVS"
[routes.when]
"payload.reward.incentive_identifier" = "by-asking"
"""
WORKERS = 2
TESTS = Path(__file__).parents[1]


class Machine:
    """Everything on fixed ports of this machine, its data and logs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Embedded(folder / "data")
        far, self._port = bind("127.0.0.1", 0), _free_port()
        self.relay_url = f"http://127.0.0.1:{self._port}"
        self.far_url = f"http://127.0.0.1:{far.getsockname()[1]}"
        self.database_url = self.postgres.start()
        asyncio.run(migrated(self.database_url))
        configuration = folder / "relay.toml"
        before, first, routes = (CONFIGURATION + "\n").partition("[[routes]]")
        ours = before + ASKED + "\n" + first + routes
        configuration.write_text(ours.format(relay=self.relay_url, sandbox=self.far_url))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        path = os.pathsep.join([str(TESTS), *filter(None, [own.get("PYTHONPATH")])])
        relay = {"RELAY_CONFIG": str(configuration), "RELAY_DATABASE_URL": self.database_url, **QUICK}
        self._environment = {**own, **relay, "PYTHONPATH": path}
        self.api: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self._far = self._start("chaos.far", "--fd", str(far.fileno()), files=[far.fileno()])
        far.close()

    def up(self) -> None:
        """Start whatever does not run: PostgreSQL first, then the API on its port, then the workers."""
        self.postgres.start()
        if self.api is None or self.api.poll() is not None:
            listener = bind("127.0.0.1", self._port, patience_s=20)
            self.api = self._start("chaos.keyless", "serve", "--fd", str(listener.fileno()), files=[listener.fileno()])
            listener.close()  # else connections would wait for the next API instead of being refused
        self.workers = [each for each in self.workers if each.poll() is None]
        while len(self.workers) < WORKERS:
            self.workers.append(self._start("chaos.keyless", "work"))

    async def strike(self, kill: Kill) -> None:
        """Do what the plan says, and start again what was killed; a pause returns at once and ends by itself."""
        if kill.sort == PAUSED:
            self._pause(kill)
            return
        for process in self._targets(kill):
            _signal(process.pid, signal.SIGKILL)
        for child in [*self.workers, self.api]:
            if child is not None and child.poll() is not None:
                child.wait()
        await asyncio.sleep(kill.away_s)
        await asyncio.to_thread(self.up)

    async def ready(self, client: httpx.AsyncClient, seconds: float) -> bool:
        """Whether the API says within this time that it is ready."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get(f"{self.relay_url}/readyz", timeout=5)).status_code == 200:
                            return True
                    await asyncio.sleep(0.1)
        return False

    def close(self) -> None:
        """End everything."""
        for child in [*self.workers, self.api, self._far]:
            if child is not None:
                _signal(child.pid, signal.SIGCONT)
                child.kill()
                child.wait()
        self.postgres.stop()

    def _targets(self, kill: Kill) -> Sequence[psutil.Process | subprocess.Popen[bytes]]:
        relay = [each for each in [self.api, *self.workers] if each is not None and each.poll() is None]
        server = self._postmaster()
        match kill.sort:
            case "api":
                return relay[:1]
            case "worker":
                return random.Random(kill.draw).sample(relay[1:], min(1, len(relay) - 1))
            case "workers":
                return relay[1:]
            case "relay":
                return relay
            case "backend":
                clients = (
                    [each for each in server.children() if "[local]" in " ".join(each.cmdline())] if server else []
                )
                return random.Random(kill.draw).sample(clients, min(1, len(clients)))
            case "postmaster":
                return [server] if server else []
            case _:
                return [*relay, *([server] if server else [])]

    def _postmaster(self) -> psutil.Process | None:
        try:
            return psutil.Process(int((self.postgres.pgdata / "postmaster.pid").read_text().split("\n", 1)[0]))
        except (OSError, ValueError, psutil.Error):
            return None

    def _pause(self, kill: Kill) -> None:
        running = [each for each in self.workers if each.poll() is None]
        if self.api is not None and kill.draw < 0.2:
            running = [self.api]
        if not running:
            return
        pid = random.Random(kill.draw).choice(running).pid
        _signal(pid, signal.SIGSTOP)
        asyncio.get_running_loop().call_later(kill.away_s, _signal, pid, signal.SIGCONT)

    def _start(self, module: str, *arguments: str, files: Sequence[int] = ()) -> subprocess.Popen[bytes]:
        log = (self.folder / f"{module}.log").open("ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=self._environment,
                pass_fds=files,
                stdout=log,
                stderr=log,
            )


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def machine(keep: bool = False) -> Iterator[Machine]:
    """A machine in a folder of its own, that goes at the end (`keep`: stays, with its logs)."""
    folder = Path(tempfile.mkdtemp(prefix="relay-chaos-"))
    folder.chmod(0o711)
    found = Machine(folder)
    try:
        yield found
    finally:
        found.close()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


HEADERS = {"Authorization": f"Bearer {KEY}"}
