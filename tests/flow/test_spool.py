"""PostgreSQL goes away and comes back: what was taken meanwhile becomes what it would have become, once, in order."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from reward_relay import shelter
from reward_relay.db.embedded import Embedded
from reward_relay.db.spool import Spool, Spooled, spool_path
from reward_relay.errors import DatabaseUnavailable
from reward_relay.sandbox import senders
from reward_relay.wiring import Relay
from support.outage import outage
from support.relays import CONFIGURATION, ROSTER_TOKEN, client_of, relay_of, settings, until
from support.steered import Steered, accepted, every_platform, post, roster, talkable


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, far: Steered) -> AsyncIterator[Relay]:
    """A relay that has a shelter, as an API process has."""
    async with relay_of(settings(tmp_path), database_url, far.transport) as found, found.sheltering():
        yield found


def withdrawn(order_id: str) -> Any:
    """Roster's word that an order is taken back."""
    payload = senders.roster_order(order_id)
    payload["event"] = "order_cancelled"
    payload["order"]["status"] = "cancelled"
    return senders.roster(payload, ROSTER_TOKEN)


async def emptied(relay: Relay) -> None:
    """Wait until the spool has nothing more."""

    async def is_empty() -> bool:
        found = await relay.shelter.look()
        return found.away is None and not found.spool.waiting

    await until(is_empty)


async def deliveries(relay: Relay) -> list[dict[str, Any]]:
    """Every delivery, in order of their ids."""
    async with relay.database.transaction() as connection:
        rows = await connection.execute(
            text(
                "SELECT id::text, source, via, verdict, reason, order_id::text, received_at FROM deliveries ORDER BY id"
            )
        )
        return [dict(row) for row in rows.mappings()]


async def test_a_webhook_is_taken_while_the_database_is_away_and_becomes_its_order(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    async with outage(postgres, database_url):
        before = datetime.now(UTC)
        answer = await post(client, "roster", roster("R-1"))
        after = datetime.now(UTC)
        assert answer.status_code == 202
        said = answer.json()
        assert (said["verdict"], said["order_id"]) == ("accepted", None)
        assert "PostgreSQL is away" in said["reason"]
        await asyncio.sleep(0.7)
    await emptied(relay)
    (found,) = await deliveries(relay)
    assert (found["id"], found["verdict"], found["via"]) == (said["delivery_id"], "accepted", "webhook")
    assert before.replace(microsecond=0) <= found["received_at"] <= after
    order = await relay.ops.order(found["order_id"])
    assert (order["external_id"], order["state"]) == ("R-1", "received")


async def test_every_verdict_is_the_one_it_would_have_been(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    first = await accepted(client, "roster", roster("R-0"))
    unreadable = senders.Webhook(roster().headers, b"\x00 no JSON \xff")
    other = senders.roster({**senders.roster_order("R-5"), "event": "ambassador_created"}, ROSTER_TOKEN)
    async with outage(postgres, database_url):
        said = [
            (await post(client, source, hook)).json()
            for source, hook in [
                ("roster", roster("R-0")),
                ("roster", roster("R-1")),
                ("roster", roster("R-1")),
                ("roster", unreadable),
                ("roster", other),
                *({**every_platform(), "roster": roster("R-9")}).items(),
            ]
        ]
        assert (await post(client, "talkable", talkable(key="wrong-secret-0"))).status_code == 401
    assert [each["verdict"] for each in said[:4]] == ["accepted", "accepted", "accepted", "quarantined"]
    assert said[4]["verdict"] in ("informational", "quarantined")
    await emptied(relay)
    await relay.intake.close()
    kept = {each["id"]: each for each in await deliveries(relay)}
    found = [kept[each["delivery_id"]] for each in said]
    assert [each["verdict"] for each in found[:4]] == ["duplicate", "accepted", "duplicate", "quarantined"]
    assert (found[0]["order_id"], found[2]["order_id"]) == (first, found[1]["order_id"])
    assert found[3]["reason"] + "; " in said[3]["reason"] + "; "
    assert [each["verdict"] for each in found[4:]] == [each["verdict"] for each in said[4:]]
    assert {each["verdict"] for each in kept.values()} <= {"accepted", "duplicate", "quarantined", "informational"}


async def test_a_reward_that_is_taken_back_after_it_places_nothing(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    async with outage(postgres, database_url):
        for hook in (roster("R-1"), withdrawn("R-1")):
            assert (await post(client, "roster", hook)).json()["verdict"] == "accepted"
    await emptied(relay)
    first, second = await deliveries(relay)
    assert first["order_id"] == second["order_id"]
    order = await relay.ops.order(first["order_id"])
    assert (order["state"], order["outcome"]) == ("settled", "cancelled")
    assert [event["to_state"] for event in order["events"]][:2] == ["received", "settled"]


async def test_who_comes_when_the_database_is_back_goes_behind_those_who_wait(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str, tmp_path: Path
) -> None:
    file = Spool(spool_path(tmp_path / "spool", relay.database.address), 1 << 20)
    file.open()
    with file.alone() as mine:  # another process of this machine is about to empty it, and takes its time
        assert mine
        async with outage(postgres, database_url):
            await post(client, "roster", roster("R-1"))
        await until(lambda: _answers(relay))
        later = (await post(client, "roster", withdrawn("R-1"))).json()
        assert later["order_id"] is None
        assert await deliveries(relay) == []
    file.close()
    await emptied(relay)
    first, second = await deliveries(relay)
    assert second["id"] == later["delivery_id"]
    assert (await relay.ops.order(first["order_id"]))["outcome"] == "cancelled"
    assert (await post(client, "roster", roster("R-2"))).json()["order_id"]


async def _answers(relay: Relay) -> bool:
    try:
        await relay.database.ping()
    except DatabaseUnavailable:
        return False
    return True


def spooled(number: str, order_id: str, body: bytes | None = None, source: str = "roster") -> Spooled:
    """A delivery of Roster's as it waits."""
    content = body if body is not None else roster(order_id).body
    at = datetime(2026, 11, 23, 12, tzinfo=UTC)
    return Spooled(number, source, "webhook", at, "application/json", {}, content)


async def test_a_crash_between_the_databases_commit_and_the_spools_changes_nothing(relay: Relay) -> None:
    id_ = "01a206dc-b6dd-720d-8c9e-07ed9786f42d"
    once = await relay.intake.take_spooled([spooled(id_, "R-1")])
    before = await deliveries(relay)
    order_id = before[0]["order_id"]
    twice = await relay.intake.take_spooled([spooled(id_, "R-1"), spooled(id_[:-1] + "e", "R-1")])
    assert [(each.verdict, each.order_id) for each in (*once, *twice)] == [
        ("accepted", order_id),
        ("accepted", order_id),
        ("duplicate", order_id),
    ]
    assert (await deliveries(relay))[0] == before[0]
    assert len(await deliveries(relay)) == 2


async def test_a_commit_that_nobody_heard_of_and_its_copy_in_the_spool_are_one_delivery(
    relay: Relay, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = relay.intake._store

    async def lose_the_answer(arrivals: Any) -> Any:
        await store(arrivals)
        raise DatabaseUnavailable("the connection broke in COMMIT")

    monkeypatch.setattr(relay.intake, "_store", lose_the_answer)
    said = (await post(client, "roster", roster("R-1"))).json()
    assert said["order_id"] is None
    await emptied(relay)
    (found,) = await deliveries(relay)
    assert (found["id"], found["verdict"]) == (said["delivery_id"], "accepted")
    assert str((await relay.ops.order("R-1"))["id"]) == found["order_id"]


async def test_a_second_commit_of_a_delivery_does_not_change_what_the_first_said(relay: Relay) -> None:
    id_ = "01a206dc-b6dd-720d-8c9e-07ed9786f42d"
    arrival = relay.intake._spooled_arrival(spooled(id_, "R-1"))
    again = relay.intake._spooled_arrival(spooled(id_, "R-1"))
    await relay.intake._store([arrival])
    await relay.intake._store([again])
    (found,) = await deliveries(relay)
    assert (found["verdict"], found["order_id"]) == ("accepted", arrival.order.id if arrival.order else None)


async def test_a_source_that_is_no_more_and_a_row_that_the_database_refuses_hold_up_nobody(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"01a206dc-b6dd-720d-8c9e-07ed9786f4{number:02}" for number in range(4)]
    file = relay.shelter._spool
    assert file is not None
    refused = senders.roster_order("R-2")
    refused["order"]["line_items"][0]["quantity"] = 10**400
    await asyncio.to_thread(
        file.put,
        [
            spooled(ids[0], "R-0", source="gone"),
            spooled(ids[1], "R-1"),
            spooled(ids[2], "R-2", senders.roster(refused, ROSTER_TOKEN).body),
            spooled(ids[3], "R-3"),
        ],
    )
    await emptied(relay)
    found = {each["id"]: each for each in await deliveries(relay)}
    assert [found[each]["verdict"] for each in ids] == ["quarantined", "accepted", "quarantined", "accepted"]
    assert "'gone'" in found[ids[0]]["reason"]


async def test_a_fault_of_ours_stops_one_delivery_and_not_the_others(
    relay: Relay, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    understood = relay.intake.new_order

    def fails(source: str, reward: Any) -> Any:
        if reward.external_id == "R-2":
            raise KeyError("nobody foresaw this")
        return understood(source, reward)

    file = relay.shelter._spool
    assert file is not None
    monkeypatch.setattr(relay.intake, "new_order", fails)
    ids = [f"01a206dc-b6dd-720d-8c9e-07ed9786f4{number:02}" for number in range(4)]
    await asyncio.to_thread(file.put, [spooled(id_, f"R-{number}") for number, id_ in enumerate(ids)])
    await emptied(relay)
    assert [each["id"] for each in await deliveries(relay)] == [ids[0], ids[1], ids[3]]
    assert "cannot be read" in (await client.get("/readyz")).json()["warning"]
    assert (await post(client, "roster", roster("R-4"))).json()["order_id"]


async def test_a_full_spool_is_503_with_retry_after_and_not_ready(
    database_url: str, postgres: Embedded, tmp_path: Path
) -> None:
    async with _api(tmp_path, database_url, {"RELAY_SPOOL_MB": "1"}) as (relay, client):
        async with outage(postgres, database_url):
            large = senders.roster_order("R-1", name="x" * 150_000)
            hook = senders.roster(large, ROSTER_TOKEN)
            answers = [await post(client, "roster", hook) for _ in range(5)]
            assert [each.status_code for each in answers] == [202, 202, 202, 503, 503]
            assert answers[3].headers["retry-after"] == "5"
            assert answers[3].json()["error"] == "unavailable"
            assert (await post(client, "roster", roster("R-2"))).status_code == 202  # a small one fits
        await emptied(relay)
        assert len(await deliveries(relay)) == 4


@pytest.mark.parametrize("off", [{"RELAY_SPOOL_MB": "0"}, {"RELAY_SPOOL_DIR": "/proc/nobody/spool"}])
async def test_without_a_spool_it_is_503_as_ever_and_heals(
    database_url: str, postgres: Embedded, tmp_path: Path, off: dict[str, str]
) -> None:
    async with _api(tmp_path, database_url, off) as (_, client):
        assert (await client.get("/readyz")).status_code == 200
        async with outage(postgres, database_url):
            answer = await post(client, "roster", roster("R-1"))
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert (await client.get("/readyz")).status_code == 503

        async def taken() -> bool:
            return (await post(client, "roster", roster("R-1"))).status_code == 202

        await until(taken)


@asynccontextmanager
async def _api(
    tmp_path: Path, database_url: str, environ: dict[str, str]
) -> AsyncIterator[tuple[Relay, httpx.AsyncClient]]:
    found = settings(tmp_path, CONFIGURATION, environ)
    async with relay_of(found, database_url) as relay, relay.sheltering(), client_of(relay) as client:
        yield relay, client


async def test_health_metrics_console_and_callbacks_while_it_is_away(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    html = {"Accept": "text/html"}
    async with outage(postgres, database_url):
        for number in range(3):
            await post(client, "roster", roster(f"R-{number}"))
        ready, metrics = await client.get("/readyz"), await client.get("/metrics")
        callback = await client.post("/vendor-webhooks/gcp/some-token")
        page = await client.get("/orders", headers=html, follow_redirects=True)
        replay = await client.post("/api/v1/orders/R-1/retry", json={})
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["warning"] == "PostgreSQL is away; 3 deliveries wait in the spool"
    assert metrics.status_code == 200
    lines = metrics.text.splitlines()
    assert 'relay_spool_deliveries{state="waiting"} 3.0' in lines
    assert "relay_database_up 0.0" in lines
    assert "relay_spool_takes 1.0" in lines
    assert not any(line.startswith("relay_orders{") for line in lines)
    assert (callback.status_code, callback.headers["retry-after"]) == (503, "5")
    assert replay.status_code == 503
    assert page.status_code in (200, 503)
    assert relay.shelter.outlook().startswith("Webhooks are taken")
    await emptied(relay)
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    assert "relay_database_up 1.0" in (await client.get("/metrics")).text
    assert (await client.get("/api/v1/summary")).json()["spool"]["waiting"] == 0


async def test_the_overview_says_what_waits(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelter, "BATCH", 0)  # nobody empties it
    async with outage(postgres, database_url):
        await post(client, "roster", roster("R-1"))
    await until(lambda: _answers(relay))
    needs = (await relay.glance.look())["needs"]
    assert needs[0]["text"] == "PostgreSQL is back; 1 delivery waits in the spool"
    assert "1 waits" in relay.shelter.outlook()


async def test_many_at_once_in_an_outage_are_taken_in_order_without_waiting_for_each_other(
    relay: Relay, client: httpx.AsyncClient, postgres: Embedded, database_url: str
) -> None:
    async with outage(postgres, database_url):
        answers = await asyncio.gather(*(post(client, "roster", roster(f"R-{number}")) for number in range(300)))
        assert {each.status_code for each in answers} == {202}
    await emptied(relay)
    found = await deliveries(relay)
    assert {each["id"] for each in found} == {each.json()["delivery_id"] for each in answers}
    assert {each["verdict"] for each in found} == {"accepted"}


async def test_a_killed_processs_spool_is_emptied_by_the_next(
    database_url: str, postgres: Embedded, tmp_path: Path
) -> None:
    async with outage(postgres, database_url), _api(tmp_path, database_url, {}) as (_, client):
        assert (await post(client, "roster", roster("R-1"))).json()["order_id"] is None
    async with _api(tmp_path, database_url, {}) as (relay, client):
        await emptied(relay)
        assert (await relay.ops.order("R-1"))["state"] == "received"


async def test_a_damaged_spool_does_not_stop_the_start_and_is_said(database_url: str, tmp_path: Path) -> None:
    found = settings(tmp_path)
    async with relay_of(found, database_url) as relay:
        path = spool_path(tmp_path / "spool", relay.database.address)
        path.parent.mkdir()
        path.write_bytes(b"no database at all" * 1000)
    async with _api(tmp_path, database_url, {}) as (relay, client):
        ready = (await client.get("/readyz")).json()
        assert "a damaged spool was set aside" in ready["warning"]
        assert (await post(client, "roster", roster("R-1"))).json()["order_id"]
        assert "damaged" in (await relay.glance.look())["needs"][0]["text"]


async def test_a_disk_that_hangs_fails_all_that_wait_at_once_and_is_used_again(
    relay: Relay,
    client: httpx.AsyncClient,
    postgres: Embedded,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shelter, "DISK_S", 1.0)
    monkeypatch.setattr(shelter, "CHECK_EVERY_S", 0.1)
    file, free = relay.shelter._spool, threading.Event()
    assert file is not None and relay.shelter._thread is not None
    async with outage(postgres, database_url):
        assert (await post(client, "roster", roster("R-0"))).status_code == 202
        relay.shelter._thread.submit(free.wait)
        began = time.monotonic()
        answers = await asyncio.gather(*(post(client, "roster", roster(f"R-{number}")) for number in range(1, 21)))
        assert {each.status_code for each in answers} == {503}
        assert {each.headers["retry-after"] for each in answers} == {"5"}
        assert time.monotonic() - began < 15  # not a second each
        assert (await client.get("/readyz")).status_code == 503
        free.set()

        async def taken() -> bool:
            return (await post(client, "roster", roster("R-1"))).status_code == 202

        await until(taken)
    await emptied(relay)
    async with relay.database.transaction() as connection:
        numbers = (await connection.execute(text("SELECT external_id FROM orders"))).scalars().all()
    assert len(set(numbers)) == len(numbers)
    assert {"R-0", "R-1"} <= set(numbers)
