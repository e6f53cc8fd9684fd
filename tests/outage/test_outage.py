"""A short outage under real processes: every 202 becomes an order, none twice. `make outage` is the long one."""

from pathlib import Path

import httpx
import pytest
from bench.outage import How, Plan, measure
from bench.server import kill, server

from support.commands import commands, ready
from support.relays import until
from support.steered import post, roster


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_every_202_becomes_an_order_and_none_twice(how: How) -> None:
    run = measure(Plan(how, outage_s=4, rate=20, around_s=1, api_processes=2, kill_apis=how == "kill"))
    during = [each for each in run.sent if each.phase == "during"]
    assert sum(each.spooled for each in during) > 5
    assert (run.lost, run.doubled, run.missing_deliveries) == ([], [], 0)
    if how == "hang":
        assert {each.status for each in run.sent} == {202}


async def test_serve_and_up_start_while_the_database_is_away_and_take_webhooks(tmp_path: Path) -> None:
    with server() as postgres:
        url = postgres.url("postgres")
        kill(postgres)
        with commands(tmp_path, url) as start:
            command = start("up", "--port", "0")
            address = await command.address()
            async with httpx.AsyncClient(base_url=address, timeout=20) as client:
                await ready(client, address)
                assert "PostgreSQL is away" in (await client.get("/readyz")).json()["warning"]
                said = (await post(client, "roster", roster("R-1"))).json()
                assert (said["verdict"], said["order_id"]) == ("accepted", None)
                postgres.start()  # it has no tables yet: `up` makes them

                async def stored() -> bool:
                    answer = await post(client, "roster", roster("R-1"))
                    return bool(answer.json()["verdict"] == "duplicate")

                await until(stored, 120)
            command.process.terminate()
            assert await command.ended() == 0
