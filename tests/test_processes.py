"""Real processes: they come up, serve, drain on SIGTERM with status 0, and leave nobody behind when killed."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from reward_relay.db.engine import Database
from reward_relay.processes import Family
from support.commands import PATIENCE_S, Start, commands, free_port, gone, ready
from support.relays import CONFIGURATION, OPERATOR, until
from support.steered import accepted, roster


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts commands, and ends whatever is left of them after the test."""
    with commands(tmp_path, database_url) as run:
        yield run


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=10) as found:
        yield found


async def test_up_serves_works_and_drains_on_sigterm(start: Start, client: httpx.AsyncClient) -> None:
    up = start("up", "--port", "0")
    client.base_url = httpx.URL(await up.address())
    await ready(client, str(client.base_url).rstrip("/"))
    order_id = await accepted(client, "roster", roster())
    children = up.children()
    assert len(children) == 2

    listed = start("orders", "list", "--json")
    shown = start("orders", "show", order_id)
    assert (await listed.ended(), await shown.ended()) == (0, 0)
    up.process.send_signal(signal.SIGTERM)
    assert await up.ended() == 0, up.told()
    await gone(children)
    assert "Traceback" not in up.told()


async def test_children_end_by_themselves_when_their_parent_is_killed(start: Start, client: httpx.AsyncClient) -> None:
    up = start("up", "--port", "0")
    await ready(client, await up.address())
    children = up.children()
    up.process.kill()
    await up.ended()
    await gone(children)


async def test_a_parent_whose_child_dies_ends_the_others_with_an_error(start: Start, client: httpx.AsyncClient) -> None:
    up = start("up", "--port", "0")
    await ready(client, await up.address())
    children = up.children()
    children[0].kill()
    assert await up.ended() != 0
    await gone(children)


async def test_api_processes_share_a_port(start: Start, client: httpx.AsyncClient) -> None:
    with free_port() as port:
        address = f"http://127.0.0.1:{port}"
    serve = start("serve", "--port", str(port), "--workers", "2")
    await ready(client, address)
    children = serve.children()
    client.base_url = httpx.URL(address)
    answers = await asyncio.gather(*(client.get("/healthz") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(children) == 2
    serve.process.send_signal(signal.SIGTERM)
    assert await serve.ended() == 0, serve.told()
    await gone(children)


def test_children_that_are_ended_before_they_listen_to_signals_end_well() -> None:
    family = Family()
    family.start(["sandbox", "--port", "0"])
    assert family.stop() == 0


LISTENING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'")


async def test_worker_processes_start_and_drain_together(start: Start, database: Database) -> None:
    work = start("work", "--processes", "2")

    async def both_listen() -> bool:
        assert work.process.poll() is None, work.told()
        async with database.transaction() as connection:
            return (await connection.execute(LISTENING)).scalar() == 2

    await until(both_listen, PATIENCE_S)
    children = work.children()
    assert len(children) == 2
    work.process.send_signal(signal.SIGTERM)
    assert await work.ended() == 0, work.told()
    await gone(children)


async def test_a_taken_port_is_a_sentence_and_status_2(start: Start) -> None:
    with free_port() as port:
        serve = start("serve", "--port", str(port))
        assert await serve.ended() == 2
    assert f"cannot listen on 127.0.0.1:{port}" in " ".join(serve.told().split())
    assert "Traceback" not in serve.told()


async def test_a_mistake_in_the_configuration_ends_the_start_with_status_2(start: Start) -> None:
    up = start("up", RELAY_LEASE_S="0.5")
    assert await up.ended() == 2
    assert "must be longer than a call" in " ".join(up.told().split())


CHANGED = CONFIGURATION.replace('"gift cards"', '"changed"')


async def routed(client: httpx.AsyncClient) -> str:
    """The route that a reward would take just now."""
    answer = await client.post(
        "/api/v1/routes/explain",
        json={"source": "roster", "payload": json.loads(roster().body)},
        headers={"Authorization": f"Bearer {OPERATOR}"},
    )
    return str(answer.json()["route"])


async def test_routes_follow_their_file_while_the_relay_runs(
    start: Start, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """`up` makes variables for its children; what they reload has those over the file too."""
    configuration = tmp_path / "relay.toml"
    up = start("up", "--port", "0")
    client.base_url = httpx.URL(await up.address())
    await ready(client, str(client.base_url).rstrip("/"))

    async def changed() -> bool:
        return await routed(client) == "changed"

    async def warned() -> bool:
        return "warning" in (await client.get("/readyz")).json()

    other = tmp_path / "relay.new.toml"
    other.write_text(CHANGED)
    other.replace(configuration)
    await until(changed, PATIENCE_S)
    configuration.write_text(CONFIGURATION.replace('vendor = "gcp"', 'vendor = "hush"'))
    await until(warned, PATIENCE_S)
    assert "hush" not in (await client.get("/readyz")).text
    assert await routed(client) == "changed"
    summary = await client.get("/api/v1/summary", headers={"Authorization": f"Bearer {OPERATOR}"})
    assert "there is no [vendors.hush]" in summary.json()["configuration"]["trouble"]
    assert summary.json()["configuration"]["restart_needed"] == []
    configuration.write_text(CHANGED)
    await until(lambda: unwarned(client), PATIENCE_S)
    order_id = await accepted(client, "roster", roster("R-2"))
    order = await client.get(f"/api/v1/orders/{order_id}", headers={"Authorization": f"Bearer {OPERATOR}"})
    assert order.json()["route"] == "changed"
    assert len(up.children()) == 2


async def unwarned(client: httpx.AsyncClient) -> bool:
    """Whether the configuration is in use as it is."""
    return "warning" not in (await client.get("/readyz")).json()


async def test_sighup_to_the_parent_reaches_every_child_and_ends_none(
    start: Start, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with free_port() as port:
        address = f"http://127.0.0.1:{port}"
    serve = start("serve", "--port", str(port), "--workers", "2")
    work = start("work")
    await ready(client, address)
    for command in (serve, work):
        command.process.send_signal(signal.SIGHUP)
    children = serve.children()
    (tmp_path / "relay.toml").write_text(CHANGED)
    serve.process.send_signal(signal.SIGHUP)
    work.process.send_signal(signal.SIGHUP)

    async def everywhere() -> bool:
        return all(command.told().count("routes_loaded") == count for command, count in ((serve, 2), (work, 1)))

    await until(everywhere, PATIENCE_S)
    assert [each.pid for each in serve.children()] == [each.pid for each in children]
    for command in (serve, work):
        command.process.send_signal(signal.SIGTERM)
        assert await command.ended() == 0, command.told()


async def test_serve_without_a_key_says_how_to_open_the_console(database_url: str, tmp_path: Path) -> None:
    first, last = CONFIGURATION.index("[api_keys.alice]"), CONFIGURATION.index("[sources.talkable]")
    with commands(tmp_path, database_url, CONFIGURATION[:first] + CONFIGURATION[last:]) as run:
        serve = run("serve", "--port", "0")

        async def told() -> bool:
            return "add [api_keys.NAME]" in serve.told()

        await until(told, PATIENCE_S)
