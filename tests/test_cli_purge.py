"""`purge`, `reseal` and `config new-key` on the command line."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog
from typer.testing import CliRunner, Result

from reward_relay.cli import app
from reward_relay.sealing import digest
from support.relays import client_of, ended, relay_of, settings, working
from support.steered import Steered, accepted, roster

EMAIL = "ann@example.com"
OTHER = "b2xk" * 10 + "b2w="


Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def orders(database_url: str, tmp_path: Path) -> list[str]:
    """An order that has ended and one that has not, both Ann's."""
    far = Steered()
    far.word = "Completed"
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay, client_of(relay) as client:
        async with working(relay):
            first = await accepted(client, "roster", roster("R-1"))
            await ended(relay, first)
        return [first, await accepted(client, "roster", roster("R-2"))]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Runs a command over the database; it has its own event loop."""
    env = {"RELAY_CONFIG": str(tmp_path / "relay.toml"), "COLUMNS": "200", "RELAY_DATABASE_URL": database_url}

    async def command(*arguments: str, typed: str = "", keys: str = "", status: int = 0) -> Result:
        environ = env | {"RELAY_ENCRYPTION_KEYS": keys}
        work = partial(CliRunner().invoke, app, list(arguments), input=typed, env=environ)
        found = await anyio.to_thread.run_sync(work)
        assert found.exit_code == status, found.output
        return found

    return command


async def order(run: Run, key: str) -> Any:
    return json.loads((await run("orders", "show", key, "--json")).stdout)


async def test_a_person_is_forgotten_after_a_look_and_a_yes(orders: list[str], run: Run) -> None:
    dry = await run("purge", "--email", EMAIL, "--dry-run", status=1)
    assert (await order(run, orders[0]))["po_number"] in dry.stdout
    assert "refuse or close it first" in dry.stdout
    assert "nothing was removed" in (await run("purge", "--email", EMAIL, typed="n\n", status=1)).stdout
    assert (await order(run, orders[0]))["recipient"]["email"] == EMAIL
    done = await run("purge", "--email", EMAIL, "--note", "asked for", typed="y\n", status=1)
    assert "1 orders and 1 deliveries forgot the person" in done.stdout
    after = await order(run, orders[0])
    assert after["recipient"] == {}
    assert after["events"][-1]["actor"].startswith("cli:")
    assert after["events"][-1]["reason"] == "personal data removed on request: asked for"


async def test_one_order_is_forgotten_and_an_open_one_says_why_not(orders: list[str], run: Run) -> None:
    done = await run("purge", "--order", orders[0], "--yes", "--json")
    assert json.loads(done.stdout)["done"]["orders"] == 1
    refused = await run("purge", "--order", orders[1], "--yes", status=2)
    assert "it has not ended (received); refuse or close it first" in refused.output
    await run("purge", status=2)
    await run("purge", "--email", "ann", status=2)


async def test_a_new_key_works_and_seals_what_is_there(orders: list[str], run: Run) -> None:
    made = (await run("config", "new-key")).stdout.strip()
    assert "2 bodies sealed" in (await run("reseal", keys=made)).stdout
    lost = await run("reseal", "--dry-run", keys=OTHER, status=1)
    assert f"key {digest(made)} is not in encryption_keys: 2 bodies cannot be read" in lost.stdout
    done = await run("reseal", keys=f"{OTHER},{made}")
    assert f"key {digest(made)} can be dropped" in done.stdout
    await run("reseal", status=2)
