"""The command line's bulk actions, its filters and pages, and `tail`."""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog
from sqlalchemy import text
from typer.testing import CliRunner, Result

from reward_relay.cli import app
from reward_relay.tail_cli import Tail
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, client_of, relay_of, settings
from support.steered import accepted, roster, talkable, unreachable

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


@pytest.fixture
def run(relay: Relay, tmp_path: Path) -> Run:
    """Runs a command over the relay's database; it has its own event loop."""
    path = tmp_path / "command.toml"
    path.write_text(CONFIGURATION)
    url = relay.database.address.set(drivername="postgresql").render_as_string(hide_password=False)
    env = {"RELAY_CONFIG": str(path), "COLUMNS": "200", "RELAY_DATABASE_URL": url}

    async def command(*arguments: str, given: str | None = None, status: int = 0) -> Result:
        found = await anyio.to_thread.run_sync(lambda: CliRunner().invoke(app, list(arguments), input=given, env=env))
        assert found.exit_code == status, found.output
        return found

    return command


async def held(relay: Relay, count: int) -> list[str]:
    async with client_of(relay) as client:
        found = [await accepted(client, "roster", roster(f"R-{number}")) for number in range(count)]
    for order_id in found:
        await relay.ops.hold(order_id, "alice", "wait")
    return found


async def states(relay: Relay) -> set[str]:
    return {each["state"] for each in (await relay.ops.orders({}, 200))["items"]}


async def test_bulk_release_shows_the_plan_asks_and_acts(relay: Relay, run: Run) -> None:
    await held(relay, 3)
    no = await run("orders", "bulk", "release", given="n\n", status=1)
    assert "release: 3 orders would go, 0 would not" in no.stdout
    assert "goes on as received: place at vendor:gcp by route 'gift cards'" in no.stdout
    assert "nothing was done" in no.stdout
    assert await states(relay) == {"on_hold"}
    yes = await run("orders", "bulk", "release", "--source", "roster", "--note", "clear", given="y\n")
    assert "3 done, 0 skipped" in yes.stdout
    assert await states(relay) == {"received"}
    assert "0 orders would go" in (await run("orders", "bulk", "release")).stdout


async def test_bulk_for_scripts_plans_and_acts_only_with_yes(relay: Relay, run: Run) -> None:
    (order_id,) = await held(relay, 1)
    plan = json.loads((await run("orders", "bulk", "release", "--json")).stdout)
    assert ([each["id"] for each in plan["would"]], plan["used_at"]) == ([order_id], None)
    assert await states(relay) == {"on_hold"}
    done = json.loads((await run("orders", "bulk", "release", "--json", "--yes")).stdout)
    assert [each["id"] for each in done["done"]] == [order_id]
    assert (done["plan"]["count"], done["skipped"]) == (1, [])
    retried = json.loads((await run("orders", "bulk", "retry", "--party", "vendor:gcp", "--json", "--yes")).stdout)
    assert [each["id"] for each in retried["done"]] == [order_id]
    wrong = await run("orders", "bulk", "retry", "--state", "on_hold", status=2)
    assert "retry is for orders that are received, placed, settled" in " ".join(wrong.stderr.split())


async def test_lists_take_every_filter_and_all_pages(relay: Relay, run: Run) -> None:
    await held(relay, 2)
    async with client_of(relay) as client:
        for number in range(203):
            await accepted(client, "roster", roster(f"S-{number}"))

    async def listed(*options: str) -> list[str]:
        page = json.loads((await run("orders", "list", "--json", *options)).stdout)
        return [each["external_id"] for each in page["items"]]

    reason = (await relay.ops.order("R-0"))["hold_reason"]
    assert await listed("--hold-reason", reason) == ["R-1", "R-0"]
    assert len(await listed("--party", "vendor:gcp", "--limit", "200")) == 200
    assert await listed("--before", "2020-01-01") == []
    assert len(await listed("--after", "2020-01-01T00:00:00", "--limit", "5")) == 5
    lines = (await run("orders", "list", "--all", "--json")).stdout.splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == 205
    assert "205 orders" in (await run("orders", "list", "--all")).stdout


async def test_every_answer_is_there_for_scripts(relay: Relay, run: Run) -> None:
    async with client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
    assert json.loads((await run("parties", "pause", "vendor:gcp", "--json")).stdout)["paused"] is True
    assert json.loads((await run("parties", "resume", "vendor:gcp", "--json")).stdout)["party"] == "vendor:gcp"
    (arrived,) = json.loads((await run("deliveries", "list", "--order", order_id, "--json")).stdout)["items"]
    shown = json.loads((await run("deliveries", "show", arrived["id"], "--json")).stdout)
    assert shown["order_id"] == order_id
    (receipt,) = json.loads((await run("replay", arrived["id"], "--json", status=1)).stdout)
    assert receipt["verdict"] == "failed"


async def test_an_order_is_shown_with_its_timeline_and_what_can_be_done(relay: Relay, run: Run) -> None:
    (order_id,) = await held(relay, 1)
    shown = (await run("orders", "show", order_id)).stdout
    assert (
        shown.index("the reward arrived by webhook")
        < shown.index("accepted; route")
        < shown.index("held: held by alice")
    )
    assert "you can release goes on as received: place at vendor:gcp" in " ".join(shown.split())


async def test_who_would_retry_is_told_that_the_party_is_paused(relay: Relay, run: Run) -> None:
    (order_id,) = await held(relay, 1)
    await relay.ops.release(order_id, "alice", "")
    await relay.ops.pause("vendor:gcp", "alice", "invoice dispute")
    shown = " ".join((await run("orders", "show", order_id)).stdout.split())
    assert "waits_for vendor:gcp is paused: paused by alice: invoice dispute" in shown
    assert "with all its attempts; it waits while vendor:gcp is paused" in shown
    assert "it waits: vendor:gcp is paused" in (await run("orders", "retry", order_id)).stdout


async def test_a_long_reason_costs_no_order_its_number(relay: Relay, run: Run) -> None:
    (order_id,) = await held(relay, 1)
    await relay.ops.release(order_id, "alice", "")
    await relay.ops.hold(order_id, "alice", "long " * 60)
    number = (await relay.ops.order(order_id))["po_number"]
    listed = (await run("orders", "list")).stdout
    assert number in listed and "on_hold" in listed


async def test_tail_tells_what_happened_once_and_by_filter(relay: Relay, run: Run) -> None:
    await held(relay, 1)
    async with client_of(relay) as client:
        await accepted(client, "talkable", talkable())
    lines = (await run("tail", "--no-follow", "--json")).stdout.splitlines()
    assert [json.loads(line)["external_id"] for line in lines][:2] == ["R-0", "R-0"]
    assert "held by alice" in (await run("tail", "--no-follow", "--source", "roster")).stdout
    assert (await run("tail", "--no-follow", "--vendor", "none")).stdout == ""


async def test_tail_finds_events_that_commit_late_under_a_lower_id(relay: Relay) -> None:
    first, second = await held(relay, 2)
    tail = Tail(relay.ops)
    assert len(await tail.start(10)) == 4
    insert = text(
        "INSERT INTO order_events (order_id, at, to_state, actor, reason) VALUES (:id, now(), 'on_hold', 'x', :why)"
    )
    async with relay.database.transaction() as late:
        await late.execute(insert, {"id": first, "why": "late"})
        async with relay.database.transaction() as early:
            await early.execute(insert, {"id": second, "why": "early"})
        assert [each["reason"] for each in await tail.news()] == ["early"]
    assert [each["reason"] for each in await tail.news()] == ["late"]
    assert await tail.news() == []
