"""Where a measurement was made: enough to compare it with another, and no names or paths of the machine."""

import importlib.metadata
import os
import platform
import statistics
import time
from dataclasses import dataclass

import asyncpg

COMMITS = 100


@dataclass(frozen=True, slots=True)
class Machine:
    """`commit_ms` is the median time of one durable commit, which bounds every queue in PostgreSQL.

    `load_average` is the other work on the machine in the last minute before the measurement, in cores.
    """

    cores: int
    system: str
    python: str
    postgresql: str
    durable: bool
    commit_ms: float
    load_average: float
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """The same in words."""
        durable = "fsync and synchronous_commit on" if self.durable else "NOT durable: fsync or synchronous_commit off"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        found = [
            f"{self.cores} cores, {self.system}, Python {self.python} with uvloop, PostgreSQL {self.postgresql} "
            f"({durable}; one commit takes {self.commit_ms:.1f} ms)",
            versions,
        ]
        if self.load_average > 0.5:
            found.append(
                f"other work on this machine: load average {self.load_average:.1f} at the start; "
                f"the ratios say more than the figures"
            )
        return found


async def describe(url: str) -> Machine:
    """Look at this machine and at the server behind `url`."""
    load_average = os.getloadavg()[0]
    connection = await asyncpg.connect(url)
    settings = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")}
    version = str(await connection.fetchval("SHOW server_version"))
    commit_ms = await _commit_ms(connection)
    await connection.close()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        postgresql=version,
        durable=set(settings.values()) == {"on"},
        commit_ms=round(commit_ms, 2),
        load_average=round(load_average, 2),
        versions=_versions("reward-relay", "pgqueuer", "procrastinate", "asyncpg", "psycopg"),
    )


async def _commit_ms(connection: asyncpg.Connection) -> float:
    await connection.execute("CREATE TABLE commits (n int)")
    times = []
    for number in range(COMMITS):
        start = time.perf_counter()
        await connection.execute("INSERT INTO commits VALUES ($1)", number)
        times.append(time.perf_counter() - start)
    await connection.execute("DROP TABLE commits")
    return statistics.median(times) * 1000


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
