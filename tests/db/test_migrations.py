"""Migrations make exactly the tables of `db/tables.py`, one process at a time, and never wait long for a lock."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from reward_relay.db import migrate
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.db.tables import metadata
from reward_relay.errors import DatabaseUnavailable
from reward_relay.states import STEPS, Outcome, State, Step
from support.relays import until

CONSTRAINTS = """
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic%'
UNION ALL
SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""
INSERT = text("""
INSERT INTO orders (id, po_number, source, external_id, delivery_id, state, step, outcome, hold_reason, reward,
  vendor_order_id, party, due_at, callback_token, created_at, updated_at)
VALUES (gen_random_uuid(), 'RR-1', 's', '1', gen_random_uuid(), :state, :step, :outcome, :hold_reason, '{}',
  :vendor_order_id, :party, CASE WHEN CAST(:timed AS boolean) THEN now() END, 't', now(), now())
""")


@pytest.fixture
async def empty(postgres: Embedded) -> AsyncIterator[Database]:
    """A database without a table."""
    name = f"t_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(postgres.url("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    found = Database(postgres.url(name), pool_size=2)
    yield found
    await found.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


async def tables(database: Database) -> set[str]:
    """The tables that are there."""
    async with database.transaction() as connection:
        found = await connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return set(found.scalars())


async def definitions(database: Database) -> dict[str, str]:
    """Constraints and indexes as PostgreSQL writes them."""
    async with database.transaction() as connection:
        return {row[0]: row[1] for row in await connection.execute(text(CONSTRAINTS))}


async def test_an_empty_database_gets_all_tables_and_no_others(empty: Database) -> None:
    assert not await migrate.is_current(empty)
    await migrate.migrate(empty)
    assert await migrate.is_current(empty)
    assert await tables(empty) == {*metadata.tables, "alembic_version"}


async def test_the_migrated_tables_are_those_of_the_code(database: Database) -> None:
    def differences(connection: Connection) -> Any:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    async with database.transaction() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_migrated_constraints_are_those_of_the_code(database: Database, empty: Database) -> None:
    async with empty.transaction() as connection:
        await connection.run_sync(metadata.create_all)
    migrated = await definitions(database)
    assert migrated == await definitions(empty)
    assert len(migrated) > len(metadata.tables)


async def test_the_constraints_name_every_state_step_and_outcome(database: Database) -> None:
    found = await definitions(database)
    for name, words in {"orders_state": State, "orders_outcome": Outcome, "orders_step_fits_state": Step}.items():
        for word in words:
            assert f"'{word}'" in found[name]


def row(state: State, step: Step | None, **changes: Any) -> dict[str, Any]:
    """An order in this state with all that the state asks for."""
    found = {
        "state": state,
        "step": step,
        "outcome": Outcome.FULFILLED if state in (State.SETTLED, State.CLOSED) else None,
        "hold_reason": "why" if state is State.ON_HOLD else None,
        "vendor_order_id": "V1",
        "party": "vendor:gcp",
        "timed": True,
    }
    return {**found, **changes}


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, [*Step, None])))
async def test_the_database_takes_only_the_steps_of_a_state(
    database: Database, state: State, step: Step | None
) -> None:
    fits = step in STEPS[state] if STEPS[state] else step is None
    if fits:
        async with database.transaction() as connection:
            await connection.execute(INSERT, row(state, step))
        return
    with pytest.raises(IntegrityError, match="orders_step_fits_state"):
        async with database.transaction() as connection:
            await connection.execute(INSERT, row(state, step))


@pytest.mark.parametrize(
    ("broken", "constraint"),
    [
        (row(State.ON_HOLD, None, hold_reason=None), "orders_hold_has_reason"),
        (row(State.RECEIVED, Step.PLACE, hold_reason="why"), "orders_hold_has_reason"),
        (row(State.SETTLED, Step.CLOSE, outcome=None), "orders_end_has_outcome"),
        (row(State.CLOSED, None, outcome=None), "orders_end_has_outcome"),
        (row(State.CLOSED, None, outcome="lost"), "orders_outcome"),
        (row(State.PLACED, Step.CHECK, vendor_order_id=None), "orders_placed_has_vendor_order"),
        (row(State.PLACED, Step.CHECK, party=None), "orders_step_has_party_and_time"),
        (row(State.PLACED, Step.CHECK, timed=False), "orders_step_has_party_and_time"),
    ],
)
async def test_the_database_refuses_an_order_that_says_too_little(
    database: Database, broken: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        async with database.transaction() as connection:
            await connection.execute(INSERT, broken)


async def test_migrations_can_be_undone_and_done_again(empty: Database) -> None:
    await migrate.migrate(empty)
    first = await definitions(empty)
    await migrate.migrate(empty, "base")
    assert await tables(empty) == {"alembic_version"}
    await migrate.migrate(empty)
    await migrate.migrate(empty)
    assert await definitions(empty) == first


async def test_two_processes_may_migrate_at_once(empty: Database) -> None:
    other = Database(empty.address.render_as_string(hide_password=False), pool_size=1)
    try:
        await asyncio.gather(migrate.migrate(empty), migrate.migrate(other))
    finally:
        await other.close()
    assert await migrate.is_current(empty)


async def test_a_process_waits_for_the_migration_of_another_however_long(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    waits = text(
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_advisory_xact_lock%' AND wait_event_type = 'Lock' "
        "AND datname = current_database() AND clock_timestamp() - query_start > interval '200 milliseconds'"
    )
    async with database.transaction() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({migrate.ADVISORY_LOCK})"))
        other = asyncio.create_task(migrate.migrate(database))

        async def waiting() -> Any:
            async with database.transaction() as watcher:
                return other.done() or (await watcher.execute(waits)).scalar()

        await until(waiting)
        assert not other.done()
    await other


async def test_a_held_table_fails_the_migration_fast_and_changes_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    async with database.transaction() as connection:
        await connection.execute(text("LOCK TABLE orders IN ACCESS SHARE MODE"))
        with pytest.raises(DatabaseUnavailable, match="a table that somebody else holds, and changed nothing"):
            await migrate.migrate(database, "base")
    assert await migrate.is_current(database)
    assert set(metadata.tables) < await tables(database)


def test_every_migration_can_be_undone() -> None:
    names = [path.name for path in (migrate.scripts() / "versions").glob("*.py")]
    assert names
    for path in (migrate.scripts() / "versions").glob("*.py"):
        assert "def downgrade() -> None:" in path.read_text()
