"""Statements beside our orders, ten thousand orders in bounded memory, and the skins: command line and REST."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog
from sqlalchemy import text
from typer.testing import CliRunner, Result

from reward_relay.cli import app
from reward_relay.contracts import Progress, VendorOrder
from reward_relay.db import reconcile
from reward_relay.errors import Invalid, Unknown
from reward_relay.reconciling import service as reconciling
from reward_relay.reconciling.comparing import HANDFUL, Limits, Scope
from reward_relay.reconciling.service import Reconciliation
from reward_relay.sandbox import senders
from reward_relay.wiring import Relay
from support.fakes import FakeVendor
from support.far_side import far_side
from support.relays import CONFIGURATION, VIEWER, client_of, relay_of, settings, until
from support.steered import unreachable

MANY = 10_000
FILL = """
INSERT INTO orders (id, po_number, source, external_id, delivery_id, state, step, outcome, reward, vendor, plan,
  vendor_order_id, party, due_at, callback_token, created_at, updated_at)
SELECT CAST(lpad(to_hex(CAST(EXTRACT(epoch FROM day) * 1000 AS bigint)), 12, '0') || '70008000'
    || lpad(to_hex(n), 12, '0') AS uuid),
  'RR-' || lpad(CAST(n AS text), 16, '0'), 'talkable', CAST(n AS text), gen_random_uuid(), :state, :step, :outcome,
  '{"source": "talkable", "external_id": "1", "items": [{"name": "x"}]}', 'gcp',
  '{"lines": [{"product": "CVS", "value": "20", "quantity": 1}]}', 'G' || n, CAST(:party AS text),
  now() + interval '1 day', 't', day, day
FROM (SELECT n, now() - interval '2 days' + n * interval '1 second' AS day FROM generate_series(1, :count) AS n) AS made
"""
PLACED = {"state": "placed", "step": "check", "outcome": None, "party": "vendor:gcp"}
CLOSED = {"state": "closed", "step": None, "outcome": "fulfilled", "party": None}


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


async def fill(relay: Relay, count: int, values: dict[str, Any] = CLOSED) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(text(FILL), {**values, "count": count})
        await connection.execute(text("UPDATE orders SET due_at = NULL WHERE state = 'closed'"))


async def alter(relay: Relay, statement: str) -> None:
    async with relay.database.transaction() as connection:
        await connection.exec_driver_sql(statement)


def alive() -> int:
    """How many rows of orders this process holds."""
    return sum(type(each) is dict and "po_number" in each for each in gc.get_objects())


class Countless:
    """A vendor that answers from what it is asked. `held` is the most orders' rows that were alive while it was."""

    takes_key, can_find, asked, held = True, False, 0, 0

    def __init__(self) -> None:
        gc.collect()
        self.others = alive()  # of other tests in this process

    async def check(self, vendor_order_id: str) -> VendorOrder:
        self.asked += 1
        if self.asked % 3000 == 0:
            self.held = max(self.held, alive() - self.others)
        if vendor_order_id.endswith("77"):
            raise Unknown("the vendor answered 500", status=500)
        return VendorOrder(vendor_order_id, Progress.FULFILLED, "Completed")


def service(relay: Relay, vendor: Any) -> Reconciliation:
    adapters = replace(relay.parties, platforms={}, vendors={"gcp": vendor})
    return Reconciliation(relay.database, relay.intake, adapters, Limits(30, 14, 1))


# --- many ------------------------------------------------------------------------------------------------


async def test_of_ten_thousand_orders_no_more_than_two_pages_are_held_at_once(relay: Relay) -> None:
    await fill(relay, MANY)
    vendor = Countless()
    report = await service(relay, vendor).run(Scope(closed="all", limit=MANY), "alice")
    assert vendor.asked == MANY
    assert report["looked"] == {"orders": MANY, "asked": MANY - 100}
    assert report["problems"] == ["gcp: 100 questions without an answer"]
    assert report["counts"] == {}
    assert 0 < vendor.held <= 2 * reconcile.PAGE + HANDFUL


async def test_of_very_many_findings_the_first_are_listed(relay: Relay) -> None:
    await fill(relay, 1500, PLACED)
    report = await service(relay, Countless()).run(Scope(), "alice")
    assert report["counts"] == {"ended_there": 1485}
    assert (len(report["findings"]), report["not_listed"], report["repairable"]) == (1000, 485, 1000)


async def test_a_sample_is_another_each_time_and_the_limit_holds(relay: Relay) -> None:
    await fill(relay, 2000)
    vendor = Countless()
    run = service(relay, vendor).run
    assert 100 < (await run(Scope(), "alice"))["looked"]["orders"] < 320
    vendor.asked = 0
    report = await run(Scope(closed="all", limit=50), "alice")
    assert vendor.asked == 50
    assert "limit of 50" in report["problems"][0]


async def test_three_failures_in_a_row_end_the_questions(relay: Relay) -> None:
    await fill(relay, 100)
    vendor = FakeVendor(checked=Unknown("gcp answered 500", status=500, retry_after_s=9))
    report = await service(relay, vendor).run(Scope(closed="all"), "alice")
    assert len(vendor.asked) <= 5
    assert "orders not asked about: gcp answered 500; it asks to wait 9 s" in report["problems"][0]


async def test_a_vendor_that_is_no_longer_configured_is_named(relay: Relay) -> None:
    await fill(relay, 3)
    report = await Reconciliation(
        relay.database, relay.intake, replace(relay.parties, vendors={}, platforms={}), Limits(30, 14, 1)
    ).run(Scope(closed="all"), "alice")
    assert report["problems"] == ["gcp: 3 orders not asked about: it is no longer configured"]


async def test_a_run_that_was_taken_for_dead_keeps_no_report(relay: Relay) -> None:
    async with relay.database.transaction() as connection:
        token = await reconcile.open_run(connection, "alice", "", {})
        await reconcile.give_up(connection, token)
        assert await reconcile.finish(connection, token, {}) is False
        assert await reconcile.beat(connection, token, {}) is False


# --- statements ------------------------------------------------------------------------------------------


def line(number: int, **changes: Any) -> str:
    plain = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "po": f"RR-{number:016}", "id": f"G{number}", "amount": "20.00"}
    return ",".join(str(each) for each in (plain | changes).values())


async def compared(relay: Relay, tmp_path: Path, *lines: str, head: str = "Date,PO Number,Id,Amount") -> dict[str, Any]:
    path = tmp_path / "statement.csv"
    path.write_text("\n".join([head, *lines]))
    report = await relay.reconciliation.run(Scope(statement=path), "alice")
    assert report["scope"]["statement"] == "statement.csv"
    return report


def kinds(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["kind"], each["po_number"]) for each in report["findings"]]


async def test_a_statement_that_agrees_is_clean(relay: Relay, tmp_path: Path) -> None:
    await fill(relay, 3)
    first = line(1, date="2020-01-01")
    report = await compared(relay, tmp_path, first, line(2), line(3))
    assert (report["counts"], report["problems"], report["looked"]["rows"]) == ({}, [], 3)


async def test_what_a_statement_has_too_much_too_little_or_otherwise(relay: Relay, tmp_path: Path) -> None:
    await fill(relay, 5)
    lines = (
        line(1, date="2020-01-01"), line(2, amount="25"), line(4), line(9), line(1), line(5, id="G77"),
        line(8, po="PO-4711", id="H1"),
    )  # fmt: skip
    report = await compared(relay, tmp_path, *lines)
    assert kinds(report) == [
        ("different_amount", "RR-0000000000000002"),
        ("extra_there", "RR-0000000000000009"),
        ("extra_there", "RR-0000000000000001"),
        ("extra_there", "RR-0000000000000005"),
        ("extra_there", "PO-4711"),
        ("missing_there", "RR-0000000000000003"),
        ("missing_there", "RR-0000000000000005"),
    ]
    assert report["repairable"] == 0


async def test_a_statement_that_bills_what_was_refused_or_went_elsewhere(relay: Relay, tmp_path: Path) -> None:
    await fill(relay, 2)
    await alter(relay, "UPDATE orders SET outcome = 'refused' WHERE external_id = '1'")
    await alter(relay, "UPDATE orders SET vendor = 'other' WHERE external_id = '2'")
    report = await compared(relay, tmp_path, line(1), line(2))
    assert [(each["kind"], each["todo"].split(",")[0]) for each in report["findings"]] == [
        ("different_ending", "it is refused here"),
        ("extra_there", "our order went to other"),
    ]


async def test_a_statement_by_the_vendor_s_own_ids(relay: Relay, tmp_path: Path) -> None:
    await fill(relay, 3)
    report = await compared(relay, tmp_path, "G1,20", "G3,21", "G4,1", head="Order Id,Amount")
    assert kinds(report) == [("different_amount", "RR-0000000000000003"), ("extra_there", "G4")]
    assert "no dates" in report["problems"][0]


async def test_the_statement_s_words_are_read_by_the_vendor_s_adapter(relay: Relay, tmp_path: Path) -> None:
    await fill(relay, 3, PLACED)
    head = "PO Number,Status"
    lines = ("RR-0000000000000001,Completed", "RR-0000000000000002,Pending", "RR-0000000000000003,Whatever")
    report = await compared(relay, tmp_path, *lines, head=head)
    assert kinds(report) == [("ended_there", "RR-0000000000000001")]
    assert report["repairable"] == 1


async def test_a_statement_of_nobody(relay: Relay, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="whose statement"):
        await relay.reconciliation.run(Scope(statement=tmp_path / "x.csv", vendor="none"), "alice")
    with pytest.raises(Invalid, match="cannot be read"):
        await relay.reconciliation.run(Scope(statement=tmp_path / "x.csv"), "alice")
    assert await relay.reconciliation.present() is None, "a run that failed is over"


async def test_the_sandbox_s_statement_can_be_read(tmp_path: Path, database_url: str) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        (tmp_path / "statement.csv").write_text((await far.client.get("/sandbox/statement.csv")).text)
        report = await relay.reconciliation.run(Scope(statement=tmp_path / "statement.csv"), "alice")
        assert report["counts"] == {}


# --- command line ----------------------------------------------------------------------------------------


async def command(tmp_path: Path, url: str, *arguments: str) -> Result:
    structlog.reset_defaults()
    (tmp_path / "relay.toml").write_text(CONFIGURATION)
    env = {"RELAY_CONFIG": str(tmp_path / "relay.toml"), "RELAY_DATABASE_URL": url, "COLUMNS": "220"}

    def run() -> Result:
        return CliRunner().invoke(app, ["reconcile", *arguments], env=env)

    try:
        return await anyio.to_thread.run_sync(run)
    finally:
        structlog.reset_defaults()


async def test_the_command_says_by_its_status_what_it_found(relay: Relay, database_url: str, tmp_path: Path) -> None:
    await fill(relay, 2, PLACED)
    path = tmp_path / "statement.csv"
    path.write_text(f"Date,PO,Status,Amount\n{line(1, po='2020-01-01')}\n")
    assert (await command(tmp_path, database_url, "--last")).exit_code == 2
    path.write_text(
        "PO,Status,Date\nRR-0000000000000001,Completed,2026-01-01\nRR-0000000000000002,Pending,2026-01-01\n"
    )
    found = await command(tmp_path, database_url, "--statement", str(path))
    assert found.exit_code == 1
    assert "ended there" in found.output
    assert "1 marked so can be repaired" in found.output
    unasked = await command(tmp_path, database_url, "--statement", str(path), "--repair")
    assert unasked.exit_code == 1
    assert (await relay.ops.order("RR-0000000000000001"))["events"] == []
    done = await command(tmp_path, database_url, "--statement", str(path), "--repair", "--yes", "--note", "month end")
    assert (done.exit_code, "1 repaired" in done.output) == (0, True)
    (event,) = (await relay.ops.order("RR-0000000000000001"))["events"]
    assert event["actor"].startswith("cli:")
    assert "month end" in event["reason"]
    last = json.loads((await command(tmp_path, database_url, "--last", "--json")).stdout)
    assert (last["counts"], last["repaired"]["done"]) == ({"ended_there": 1}, 1)
    path.write_text("PO,Status,Date\nRR-0000000000000002,Pending,2026-01-01\n")
    assert (await command(tmp_path, database_url, "--statement", str(path))).exit_code == 0
    path.write_text("Name\nAnn\n")
    wrong = await command(tmp_path, database_url, "--statement", str(path))
    assert wrong.exit_code == 2


# --- REST ------------------------------------------------------------------------------------------------


async def test_over_rest_a_run_is_started_looked_at_and_repaired(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        await fill(relay, 1, PLACED)
        await far.client.post("/sandbox/redemptions", json=owed(77))
        async with client_of(relay) as client:
            assert (await client.get("/api/v1/reconcile")).json() == {"running": None, "report": None}
            answer = await client.post("/api/v1/reconcile", json={"closed": "all", "note": "month end"})
            assert answer.status_code == 200, answer.text
            report = answer.json()["report"]
            assert report["counts"] == {"missing_there": 1, "missing_here": 1}
            assert (await client.get("/api/v1/reconcile")).json()["report"] == report
            done = await client.post("/api/v1/reconcile/repair", json={"token": report["token"]})
            assert (done.status_code, done.json()["done"]) == (200, 2)
            again = await client.post("/api/v1/reconcile/repair", json={"token": report["token"]})
            assert (again.status_code, again.json()["error"]) == (409, "not_allowed")


async def test_a_run_that_takes_long_goes_on_and_ends_with_its_process(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        await far.rule(party="influitive", operation="list", mode="slow", delay_s=60)
        start = relay.reconciliation.start
        assert await start(Scope(), "alice", wait_s=0.3) is None
        async with client_of(relay) as client:
            running = (await client.get("/api/v1/reconcile")).json()["running"]
            assert (running["actor"], running["doing"]) == ("alice", "the open list of influitive")
            other = await client.post("/api/v1/reconcile", json={})
            assert (other.status_code, "alice reconciles just now" in other.json()["detail"]) == (409, True)
        await relay.reconciliation.close()
        assert await relay.reconciliation.present() is None


async def test_a_viewer_may_look_and_nothing_else(relay: Relay) -> None:
    async with client_of(relay, VIEWER) as client:
        assert (await client.get("/api/v1/reconcile")).status_code == 200
        assert (await client.post("/api/v1/reconcile", json={})).status_code == 403
        assert (await client.post("/api/v1/reconcile/repair", json={"token": "x"})).status_code == 403


def owed(number: int) -> dict[str, Any]:
    found = senders.influitive_redemption(number)
    return {"reward_redemption": {**found["reward_redemption"], "id": number}, "contact": found["contact"]}


async def test_the_daily_run_is_one_process_s(
    relay: Relay, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "FIRST_LOOK_S", 0.0)
    monkeypatch.setattr(reconciling, "LOOK_EVERY_S", 0.01)
    await fill(relay, 1)
    services = [service(relay, Countless()) for _ in range(3)]
    tasks = [asyncio.create_task(each.daily()) for each in services]
    report = await until(services[0].latest)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (report["actor"], report["looked"]) == ("reconcile", {"orders": 1, "asked": 1})
    async with relay.database.transaction() as connection:
        found = await connection.exec_driver_sql("SELECT count(*) FROM plans")
        assert found.scalar_one() == 1
