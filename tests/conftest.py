"""Fixtures for every test: real PostgreSQL from the wheel, a database from a template each, no sockets but loopback."""

import asyncio
import ipaddress
import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import hypothesis
import pytest
from hypothesis import HealthCheck

from reward_relay.db import migrate
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.wiring import Relay
from support.browser import chromium
from support.relays import client_of, relay_of, settings
from support.steered import Steered

collect_ignore = [] if chromium() else ["web/test_browser.py"]
TEMPLATE = "relay_template"
UNHURRIED = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
hypothesis.settings.register_profile(
    "long", max_examples=2000, stateful_step_count=60, deadline=None, suppress_health_check=UNHURRIED
)
FAST = ("-c fsync=off", "-c synchronous_commit=off", "-c full_page_writes=off", "-c max_connections=200")


def _only_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0]).partition("%")[0]
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise AssertionError(f"a test wants to connect to {host}; only loopback is allowed")


sys.addaudithook(_only_loopback)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio."""
    return "asyncio"


FOLDER = pytest.StashKey[Path]()
"""Where this run's server keeps its data; made and removed by the process that started the run."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder, or take it from the process that started this one."""
    given = getattr(config, "workerinput", {}).get("folder")
    config.stash[FOLDER] = Path(given or tempfile.mkdtemp(prefix="relay-tests-"))
    if not given:
        config.stash[FOLDER].chmod(0o711)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where the server is."""
    node.workerinput["folder"] = str(node.config.stash[FOLDER])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what could not be tried here."""
    if collect_ignore:
        terminalreporter.write_line("tests/web/test_browser.py was left out: no Chromium here (Debian: chromium)")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the folder, once every process has let go of its server."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[FOLDER], ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Embedded]:
    """One server for the whole run, shared by all its processes; it does not sync to disk."""
    server = Embedded(request.config.stash[FOLDER] / "data", FAST)
    server.start()
    asyncio.run(_make_template(server))
    yield server
    server.stop()


async def _make_template(server: Embedded) -> None:
    admin = await asyncpg.connect(server.url("postgres"))
    try:
        await admin.execute("SELECT pg_advisory_lock(1)")
        if await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", TEMPLATE):
            return
        await admin.execute(f"CREATE DATABASE {TEMPLATE}_new")
        database = Database(server.url(f"{TEMPLATE}_new"), pool_size=1)
        await migrate.migrate(database)
        await database.close()
        await admin.execute(f"ALTER DATABASE {TEMPLATE}_new RENAME TO {TEMPLATE}")
    finally:
        await admin.close()


@pytest.fixture
async def database_url(postgres: Embedded) -> AsyncIterator[str]:
    """The URL of an own database with all tables and no rows; commits and locks in it are real."""
    name = f"t_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    yield postgres.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """Connections to the test's own database."""
    found = Database(database_url, pool_size=8)
    yield found
    await found.close()


@pytest.fixture
def far() -> Steered:
    """A far side that the test steers."""
    return Steered()


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, far: Steered) -> AsyncIterator[Relay]:
    """A relay before that far side, without a worker."""
    async with relay_of(settings(tmp_path), database_url, far.transport) as found:
        yield found


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    """An operator's client of the relay's API."""
    async with client_of(relay) as found:
        yield found
