"""The relay as real processes: commands of the command line, on a test's own database."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from reward_relay.processes import bind
from support.relays import CONFIGURATION, until

PATIENCE_S = 120
"""A process may take long to start on a busy machine."""
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


class Command:
    """A running `reward-relay` with the test's database; what it prints goes to `output`."""

    def __init__(
        self, folder: Path, database_url: str, arguments: tuple[str, ...], configuration: str, **environment: str
    ) -> None:
        path = folder / "relay.toml"
        path.write_text(configuration)
        own = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
        own |= {"RELAY_CONFIG": str(path), "RELAY_DATABASE_URL": database_url}
        own |= {"RELAY_SPOOL_DIR": str(folder / "spool"), **environment}
        self.output = folder / f"{arguments[0]}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "reward_relay", *arguments], cwd=folder, env=own, stdout=output, stderr=output
            )

    def told(self) -> str:
        """Everything printed so far."""
        return self.output.read_text("utf-8", "replace")

    async def address(self) -> str:
        """Where it says that it listens."""

        async def found() -> str | None:
            assert self.process.poll() is None, self.told()
            match = ADDRESS.search(self.told())
            return match and match[0]

        return str(await until(found, PATIENCE_S))

    def children(self) -> list[psutil.Process]:
        """The processes that it has started."""
        return list(psutil.Process(self.process.pid).children(recursive=True))

    async def ended(self) -> int:
        """Its status, once it has ended."""

        async def status() -> tuple[int] | None:
            code = self.process.poll()
            return None if code is None else (code,)

        (code,) = await until(status, PATIENCE_S)
        return int(code)


Start = Callable[..., Command]


@contextmanager
def commands(folder: Path, database_url: str, configuration: str = CONFIGURATION) -> Iterator[Start]:
    """Starts commands, and ends whatever is left of them after the block."""
    started: list[Command] = []

    def run(*arguments: str, **environment: str) -> Command:
        started.append(Command(folder, database_url, arguments, configuration, **environment))
        return started[-1]

    try:
        yield run
    finally:
        for command in started:
            left = command.children() if command.process.poll() is None else []
            command.process.kill()
            command.process.wait()
            for child in left:
                if _runs(child):
                    child.kill()


async def gone(processes: list[psutil.Process]) -> None:
    """Wait until none of them runs any more."""

    async def none_left() -> bool:
        return not any(_runs(each) for each in processes)

    await until(none_left, PATIENCE_S)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def ready(client: httpx.AsyncClient, address: str, path: str = "/readyz") -> None:
    """Wait until the API can take webhooks, or whatever else says so at its `path`."""

    async def answers() -> bool:
        try:
            return (await client.get(f"{address}{path}")).status_code == 200
        except httpx.TransportError:
            return False

    await until(answers, PATIENCE_S)


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody listens on."""
    listener = bind("127.0.0.1", 0)
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
