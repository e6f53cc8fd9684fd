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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil

from chaos.plan import PAUSED, Kill
from chaos.zygote import Zygote, alive
from reward_relay.db.embedded import Embedded
from reward_relay.migrating import migrated
from reward_relay.processes import bind
from reward_relay.sandbox.script import CONFIGURATION, KEY

LEASE_S, DEADLINE_S = 6.0, 1.5
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
WORKERS = ("worker-1", "worker-2")
TESTS = Path(__file__).parents[1]


class Machine:
    """Everything on fixed ports of this machine, its data and logs in `folder`. Here the relay's parts run alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres = Embedded(folder / "data")
        far, self._port = bind("127.0.0.1", 0), _free_port()
        self.relay_url = f"http://127.0.0.1:{self._port}"
        self.far_url = f"http://127.0.0.1:{far.getsockname()[1]}"
        self.database_url = self.postgres.start()
        asyncio.run(migrated(self.database_url))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        path = os.pathsep.join([str(TESTS), *filter(None, [own.get("PYTHONPATH")])])
        here = {"PYTHONPATH": path, "RELAY_SPOOL_DIR": str(folder / "spool")}
        self._environment = {**own, **QUICK, **here, **self._settings()}
        self._zygote = Zygote(self._environment)
        self._pids = {"far": self._start("far", "chaos.far", listener=far)}
        far.close()

    def up(self) -> None:
        """Start whatever does not run: PostgreSQL first, then the API on its port, then the workers."""
        self.postgres.start()
        if not self._runs("api"):
            listener = bind("127.0.0.1", self._port, patience_s=20)
            self._pids["api"] = self._start("api", "chaos.keyless", "serve", listener=listener)
            listener.close()  # else connections would wait for the next API instead of being refused
        for name in WORKERS:
            if not self._runs(name):
                self._pids[name] = self._start(name, "chaos.keyless", "work")

    async def strike(self, kill: Kill) -> None:
        """Do what the plan says, and start again what was killed; a pause returns at once and ends by itself."""
        if kill.sort == PAUSED:
            self._pause(kill)
            return
        for pid in self._targets(kill):
            _signal(pid, signal.SIGKILL)
        await asyncio.sleep(kill.away_s)
        await asyncio.to_thread(self.up)

    async def ready(self, client: httpx.AsyncClient, seconds: float) -> bool:
        """Whether the API answers within this time, and has its database."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(httpx.HTTPError):
                        if (await client.get(f"{self.relay_url}/api/v1/summary", timeout=5)).status_code == 200:
                            return True
                    await asyncio.sleep(0.1)
        return False

    def close(self) -> None:
        """End everything."""
        for pid in [*self._parents(), *self._api(), *self._workers(), *filter(alive, self._pids.values())]:
            _signal(pid, signal.SIGKILL)
        self._zygote.close()
        self.postgres.stop()

    def _settings(self) -> dict[str, str]:
        """The configuration, with a vendor that can be asked for some rewards, and where the database is."""
        before, first, routes = CONFIGURATION.partition("[[routes]]")
        found = self._configuration(before + ASKED + "\n" + first + routes)
        return {**found, "RELAY_DATABASE_URL": self.database_url}

    def _configuration(self, text: str) -> dict[str, str]:
        path = self.folder / "relay.toml"
        path.write_text(text.format(relay=self.relay_url, sandbox=self.far_url))
        return {"RELAY_CONFIG": str(path)}

    def _api(self) -> list[int]:
        return [self._pids["api"]] if self._runs("api") else []

    def _workers(self) -> list[int]:
        return [self._pids[name] for name in WORKERS if self._runs(name)]

    def _parents(self) -> list[int]:
        return []

    def _runs(self, name: str) -> bool:
        return name in self._pids and alive(self._pids[name])

    def _targets(self, kill: Kill) -> list[int]:
        relay, server = [*self._parents(), *self._api(), *self._workers()], self._postmaster()
        servers = [server.pid] if server else []
        match kill.sort:
            case "api":
                return self._api()
            case "worker":
                return _one(self._workers(), kill)
            case "workers":
                return self._workers()
            case "relay":
                return relay
            case "backend":
                return _one(_clients_of(server), kill)
            case "postmaster":
                return servers
            case _:
                return [*relay, *servers]

    def _postmaster(self) -> psutil.Process | None:
        try:
            return psutil.Process(int((self.postgres.pgdata / "postmaster.pid").read_text().split("\n", 1)[0]))
        except (OSError, ValueError, psutil.Error):
            return None

    def _pause(self, kill: Kill) -> None:
        for pid in _one(self._api() if kill.draw < 0.2 else self._workers(), kill):
            _signal(pid, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(kill.away_s, _signal, pid, signal.SIGCONT)

    def _start(self, name: str, module: str, *arguments: str, listener: socket.socket | None = None) -> int:
        return self._zygote.start(module, arguments, self.folder / f"{name}.log", listener)


class UpMachine(Machine):
    """The relay as `reward-relay up`, which also keeps PostgreSQL. It is started again whenever it has ended."""

    _up: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start `up` where it does not run. A child of it that was killed ends it; that may take a moment."""
        deadline = time.monotonic() + 60
        while self._parents() and not (self._api() and self._workers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if not self._parents():
            command = [sys.executable, "-m", "reward_relay", "up", "--port", str(self._port)]
            with (self.folder / "up.log").open("ab") as log:
                self._up = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def _settings(self) -> dict[str, str]:
        return {**self._configuration(CONFIGURATION), "RELAY_DATA_DIR": str(self.postgres.data_dir)}

    def _api(self) -> list[int]:
        return self._of("serve")

    def _workers(self) -> list[int]:
        return self._of("work")

    def _parents(self) -> list[int]:
        return [self._up.pid] if self._up is not None and self._up.poll() is None else []

    def _of(self, command: str) -> list[int]:
        """The children that run this command, also those whose parent has been killed."""
        found = []
        for process in psutil.process_iter(["cmdline", "environ"]):
            words = process.info["cmdline"] or []
            ours = (process.info["environ"] or {}).get("RELAY_CONFIG") == self._environment["RELAY_CONFIG"]
            if ours and "reward_relay" in words and command in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        return found


def _one(pids: Sequence[int], kill: Kill) -> list[int]:
    return random.Random(kill.draw).sample(pids, min(1, len(pids)))


def _clients_of(server: psutil.Process | None) -> list[int]:
    """PostgreSQL's processes that serve a connection."""
    try:
        return [each.pid for each in server.children() if "[local]" in " ".join(each.cmdline())] if server else []
    except psutil.Error:
        return []


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def machine(kind: type[Machine] = Machine, keep: bool = False) -> Iterator[Machine]:
    """A machine in a folder of its own, that goes at the end (`keep`: stays, with its logs)."""
    folder = Path(tempfile.mkdtemp(prefix="relay-chaos-"))
    folder.chmod(0o711)
    found = kind(folder)
    try:
        yield found
    finally:
        found.close()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


HEADERS = {"Authorization": f"Bearer {KEY}"}
