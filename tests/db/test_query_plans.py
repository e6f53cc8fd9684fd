"""No list, search, count or look reads a whole table: PostgreSQL's own plans of the statements as the code sends them.

A listener on the engine asks EXPLAIN for each statement, with its values, on the connection and in the transaction that
sends it. The tables hold 20,000 orders, of which one in twenty is open, half of those scattered: enough that reading
everything is never the better plan, and that PostgreSQL would do so where no index fits. Two things are asserted, since
an index that is read from end to end is as slow as the table:

- no plan has a sequential scan of a table that grows with the orders;
- no scan that reads rows reads more than a search that is decided by its hits may have. Counts from an index alone
  are exempt.

Where PostgreSQL may settle for a plan without the values (after five times), that plan is looked at too.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from bench.filling import fill
from bench.pages import KNOWN, Known, addresses, lists_of_orders
from sqlalchemy import event, text

from reward_relay.db import ledger, orders, purging, queries, reconcile, recorded, sealed, search
from reward_relay.db.embedded import Embedded
from reward_relay.sealing import Stored
from reward_relay.wiring import Relay
from support.relays import OPERATOR, client_of, relay_of, settings
from support.steered import unreachable

ORDERS, OPEN = 20_000, 1_000
LARGE = {"orders", "order_search", "deliveries", "order_events", "calls"}
MOST_READ = search.FEW + 1
READS = {"Seq Scan", "Index Scan", "Bitmap Heap Scan"}


@pytest.fixture(scope="module")
async def filled(postgres: Embedded) -> AsyncIterator[str]:
    """The URL of a database with many orders, for the tests of this module."""
    admin = await asyncpg.connect(postgres.url("postgres"))
    name = f"many_{uuid.uuid4().hex}"  # another process may run tests of this module too
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE relay_template")
    await fill(postgres.url(name), ORDERS - OPEN, OPEN)
    yield postgres.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def relay(filled: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), filled, unreachable) as found:
        yield found


@pytest.fixture
async def known(relay: Relay) -> Known:
    async with relay.database.transaction() as connection:
        row = (await connection.exec_driver_sql(KNOWN, (ORDERS // 2,))).mappings().one()
        return Known(**row)


EVERYTHING_IS_DUE = text("""
UPDATE orders SET state = 'received', step = 'place', party = 'vendor:gcp', due_at = created_at, outcome = NULL,
  hold_reason = NULL, held_from = NULL
""")


class Plans:
    """What was seen: the number of statements, and what is wrong with which."""

    def __init__(self) -> None:
        self.seen = 0
        self.wrong: list[str] = []

    def look(self, cursor: Any, statement: str, values: Any) -> None:
        """Ask for the statement's plans."""
        if not re.match(r"\s*(SELECT|WITH|UPDATE|INSERT|DELETE)", statement) or "set_config" in statement:
            return
        self.seen += 1
        measured = "" if re.search(r"\b(INSERT|UPDATE|DELETE)\b", statement) else ", ANALYZE, TIMING off"
        cursor.execute(f"EXPLAIN (FORMAT JSON{measured}) {statement}", values)
        self._judge(_answer(cursor), statement)
        cursor.execute("SHOW plan_cache_mode", ())
        if cursor.fetchall()[0][0] == "auto" and "$1" in statement:
            self._judge(_plan_without_values(cursor, statement), statement)

    def _judge(self, plan: Any, statement: str) -> None:
        for node in _nodes(plan):
            if node["Node Type"] not in READS or node["Relation Name"] not in LARGE:
                continue
            read = sum(node.get(name, 0) for name in ("Actual Rows", "Rows Removed by Filter")) * node.get(
                "Actual Loops", 1
            )
            if node["Node Type"] == "Seq Scan" or read > MOST_READ:
                what = f"{node['Node Type']} of {node['Relation Name']}, {read:.0f} rows"
                self.wrong.append(f"{what}: {' '.join(statement.split())}")


def _answer(cursor: Any) -> Any:
    found = cursor.fetchall()[0][0]
    return (found if isinstance(found, list) else json.loads(found))[0]["Plan"]


def _plan_without_values(cursor: Any, statement: str) -> Any:
    nulls = ", ".join(["NULL"] * max(int(number) for number in re.findall(r"\$(\d+)", statement)))
    cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan", ())
    cursor.execute(f"PREPARE without_values AS {statement}", ())
    cursor.execute(f"EXPLAIN (FORMAT JSON) EXECUTE without_values({nulls})", ())
    plan = _answer(cursor)
    cursor.execute("DEALLOCATE without_values", ())
    cursor.execute("SET LOCAL plan_cache_mode = auto", ())
    return plan


def _nodes(plan: Any) -> Iterator[Any]:
    yield plan
    for each in plan.get("Plans", ()):
        yield from _nodes(each)


@contextmanager
def watched(relay: Relay) -> Iterator[Plans]:
    """The plans of every statement that the relay sends during the block."""
    plans, engine = Plans(), relay.database.engine.sync_engine

    def look(_connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        plans.look(cursor, statement, values)

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield plans
    finally:
        event.remove(engine, "before_cursor_execute", look)


async def test_every_page_and_every_list_call_is_served_by_indexes(relay: Relay, known: Known) -> None:
    async with client_of(relay) as client:
        entered = await client.post("/login", data={"key": OPERATOR}, headers={"Origin": "http://relay.test"})
        assert entered.status_code == 303
        with watched(relay) as plans:
            wanted = {"action": "release", "filters": {"source": "roster"}}
            plan = (await client.post("/api/v1/bulk/plan", json=wanted)).json()
            for path in addresses(replace(known, plan=plan["token"])):
                answer = await client.get(path)
                assert answer.status_code == 200, f"{path}: {answer.text}"
    assert plan["count"] + plan["refused"] > 20
    assert plans.seen > 300
    assert not plans.wrong, "\n".join(plans.wrong)


async def test_however_words_are_looked_for_the_same_orders_are_found(
    relay: Relay, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By going through the orders, by the index, and as it is decided."""

    async def pages() -> list[list[Any]]:
        found = []
        for filters in lists_of_orders(known):
            if set(filters) & {"q", "source", "vendor"} and known.closed_order not in filters.values():
                before = search.as_uuid(filters.get("cursor", ""))
                async with relay.database.transaction() as connection:
                    rows = await queries.list_orders(connection, {**filters, **_times(filters), "before": before}, 51)
                found.append([row["id"] for row in rows])
        return found

    decided = await pages()
    monkeypatch.setattr(search, "COMMON", 0)
    assert await pages() == decided
    monkeypatch.setattr(search, "COMMON", ORDERS)
    monkeypatch.setattr(search, "FEW", ORDERS)
    assert await pages() == decided
    assert sum(len(each) == 51 for each in decided) > 15
    assert sum(0 < len(each) < 51 for each in decided) > 5


async def test_the_orders_of_bulk_work_are_found_by_indexes(relay: Relay, known: Known) -> None:
    """All but a retry without a state, which goes once through all orders, a part of them with each batch."""
    with watched(relay) as plans:
        for filters in lists_of_orders(known):
            async with relay.database.transaction() as connection:
                wanted = {**filters, **_times(filters)}
                await queries.select_orders(connection, wanted, 100, search.as_uuid(known.middle))
    assert plans.seen > 100
    assert not plans.wrong, "\n".join(plans.wrong)


def _times(filters: dict[str, Any]) -> dict[str, Any]:
    names = ("created_after", "created_before")
    return {name: datetime.fromisoformat(filters[name]).replace(tzinfo=UTC) for name in names if name in filters}


async def test_the_looks_of_the_alerts_are_served_by_indexes(relay: Relay) -> None:
    with watched(relay) as plans:
        assert await relay.alerting().look()
    assert plans.seen > 8
    assert not plans.wrong, "\n".join(plans.wrong)


async def test_reconciling_diffing_and_following_are_served_by_indexes(relay: Relay, known: Known) -> None:
    now, order = datetime.now(UTC), search.as_uuid(known.closed_order)
    with watched(relay) as plans:
        async for _ in reconcile.open_orders(relay.database, 0):
            pass
        async for _ in reconcile.closed_orders(relay.database, now - timedelta(hours=2), now):
            pass
        async with relay.database.transaction() as connection:
            await reconcile.by_ids(connection, [known.closed_order])
            await reconcile.by_po_numbers(connection, [known.po_number])
            await reconcile.by_external_ids(connection, "roster", [known.external_id])
            await reconcile.by_vendor_orders(connection, "gcp", [known.vendor_order_id])
            await recorded.arrivals(connection, now - timedelta(days=1), None, 100)
            await recorded.arrivals(connection, now - timedelta(days=20), order, 100)
            await recorded.held(connection, None, 100)
            await queries.events_after(connection, None, 50)
            await queries.events_after(connection, 1000, 50)
            await queries.held_for(connection, "vendor:gcp")
            some = await ledger.page(connection, uuid.UUID(known.middle))
            await ledger.strays(connection, some[0]["id"], some[-1]["id"])
            await ledger.callback_token(connection, some[0]["id"])
    assert plans.seen > 15
    assert not plans.wrong, "\n".join(plans.wrong)


async def test_forgetting_and_resealing_are_served_by_indexes(relay: Relay, known: Known) -> None:
    with watched(relay) as plans:
        async with relay.database.transaction() as connection:
            values = {"actor": "a", "reason": "r", "days": 1, "batch": 100}
            await search.by_values(connection)
            await connection.execute(purging.EXPIRED_ORDERS, values)
            place = {"at": purging.FIRST.at, "id": purging.FIRST.id}
            await connection.execute(purging.EXPIRED_DELIVERIES, {**place, "days": 1, "batch": 100})
            await purging.of_orders(connection, [known.closed_order], "a", "r")
            await purging.of_deliveries(connection, [known.closed_order])
            assert await purging.bodies_after(connection, purging.FIRST)
            assert await sealed.sealed_otherwise(connection, "12345678", purging.FIRST)
            await sealed.keep(connection, [(known.closed_order, Stored(b"x", "12345678"))])
            await purging.candidates(connection, "ana.1@example.com")
    assert plans.seen > 8
    assert not plans.wrong, "\n".join(plans.wrong)


async def test_a_statement_that_reads_everything_is_noticed(relay: Relay) -> None:
    with watched(relay) as plans:
        async with relay.database.transaction() as connection:
            await connection.execute(text("SELECT count(*) FROM orders WHERE message = 'x'"))
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            await connection.execute(text("SELECT id FROM orders WHERE message = 'x' ORDER BY id"))
    assert [each.partition(" of ")[0] for each in plans.wrong] == ["Seq Scan", "Index Scan"]


@pytest.mark.parametrize("newest", [False, True])
async def test_claims_are_served_by_the_index_of_due_orders_from_either_end(relay: Relay, newest: bool) -> None:
    slots = {"vendor:gcp": 16, "source:roster": 16}
    with watched(relay) as plans:
        async with relay.database.transaction() as connection:
            assert await orders.claim(connection, slots, 60, newest=newest) == []
            await orders.seconds_to_next(connection, list(slots))
    assert plans.seen == 2
    assert not plans.wrong, "\n".join(plans.wrong)


@pytest.mark.parametrize("newest", [False, True])
async def test_a_claim_from_a_backlog_reads_no_more_than_its_slots(relay: Relay, newest: bool) -> None:
    """All orders of the table are due at one vendor, and PostgreSQL knows it."""
    async with relay.database.transaction() as connection:
        await connection.execute(EVERYTHING_IS_DUE)
        await connection.execute(text("ANALYZE orders"))
        with watched(relay) as plans:
            jobs = await orders.claim(connection, {"vendor:gcp": 4, "source:roster": 4}, 60, newest=newest)
        await connection.rollback()
    assert len(jobs) == 4
    assert not plans.wrong, "\n".join(plans.wrong)
