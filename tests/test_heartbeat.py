"""Heartbeats: who runs is in the database, and who has ended or fallen silent is not counted."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from reward_relay import __version__
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.errors import DatabaseUnavailable
from reward_relay.heartbeat import Heartbeat
from reward_relay.reloading import digest_of
from reward_relay.web.app import create_app
from reward_relay.wiring import Relay
from support.outage import outage
from support.relays import relay_of, settings, until


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url) as found:
        yield found


async def seen(relay: Relay) -> list[dict[str, Any]]:
    """The processes as the summary lists them."""
    found: list[dict[str, Any]] = (await relay.ops.summary())["processes"]
    return found


async def test_a_process_is_listed_while_it_runs_and_not_after_a_clean_end(relay: Relay) -> None:
    async with relay.heartbeat("worker").beating():
        (found,) = await until(lambda: seen(relay))
        assert (found["kind"], found["pid"], found["alive"], found["trouble"]) == ("worker", os.getpid(), True, None)
        assert (found["version"], found["routes"]) == (__version__, digest_of(relay.settings.routes))
    assert await seen(relay) == []


async def test_the_api_beats_as_long_as_it_serves(relay: Relay) -> None:
    app = create_app(relay)
    async with app.router.lifespan_context(app):
        (found,) = await until(lambda: seen(relay))
    assert found["kind"] == "api"


async def test_what_it_says_is_asked_anew_at_every_beat(database: Database, relay: Relay) -> None:
    says: dict[str, Any] = {"routes": "one", "trouble": None}
    heart = Heartbeat(database, "api", lambda: says["routes"], lambda: says["trouble"])
    await heart.beat()
    says |= {"routes": "two", "trouble": "relay.toml: line 3"}
    await heart.beat()
    (found,) = await seen(relay)
    assert (found["routes"], found["trouble"]) == ("two", "relay.toml: line 3")
    assert found["seen_at"] > found["started_at"]


async def test_a_silent_process_counts_as_gone_and_is_forgotten_after_a_day(relay: Relay, database: Database) -> None:
    await relay.heartbeat("worker").beat()
    await _age(database, "61 seconds")
    (found,) = await seen(relay)
    assert not found["alive"]
    await _age(database, "25 hours")
    await relay.heartbeat("api").beat()
    assert [each["kind"] for each in await seen(relay)] == ["api"]


async def _age(database: Database, age: str) -> None:
    async with database.transaction() as connection:
        statement = text("UPDATE processes SET seen_at = now() - CAST(CAST(:age AS text) AS interval)")
        await connection.execute(statement, {"age": age})


async def test_an_outage_is_one_warning_and_the_beat_goes_on_after_it(
    relay: Relay, database: Database, database_url: str, postgres: Embedded
) -> None:
    heart = Heartbeat(database, "worker", lambda: "routes", lambda: None, every_s=0.01)
    with capture_logs() as logged:

        async def missed() -> bool:
            return bool(logged)

        async with heart.beating():
            (before,) = await until(lambda: seen(relay))
            async with outage(postgres, database_url):
                await until(missed)
                await asyncio.sleep(0.1)

            async def alive_again() -> bool:
                with suppress(DatabaseUnavailable):  # each connection of the pool notices for itself
                    (found,) = await seen(relay)
                    return bool(found["seen_at"] > before["seen_at"])
                return False

            await until(alive_again)
    assert [each["event"] for each in logged] == ["heartbeat_missed"]
    assert await seen(relay) == []


async def test_a_process_ends_although_the_database_is_gone(
    relay: Relay, database_url: str, postgres: Embedded
) -> None:
    async with relay.heartbeat("worker").beating():
        await until(lambda: seen(relay))
        outside = outage(postgres, database_url)
        await outside.__aenter__()
    await outside.__aexit__(None, None, None)
    (found,) = await seen(relay)
    assert found["alive"]  # until a minute has gone by
