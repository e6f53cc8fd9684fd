"""Brings the database to the newest migration: one process at a time, and never waiting long for a lock."""

import asyncio
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError, DatabaseUnavailable

ADVISORY_LOCK = 7_242_001
LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"
CONNECT_PATIENCE_S = 30.0


def scripts() -> Path:
    """Where the migrations are: beside the sources, or inside the installed package."""
    beside = Path(__file__).parents[3] / "migrations"
    return beside if (beside / "env.py").exists() else Path(__file__).parents[1] / "_migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def migrate(database: Database, revision: str = "head") -> None:
    """Upgrade to `revision`, or downgrade where it is `base` or an older one.

    Raises:
        DatabaseUnavailable: PostgreSQL is not there within half a minute, or somebody holds a table.
    """
    await _wait_for(database)

    def run(connection: Connection) -> None:
        connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})"))
        # Only now: it would count for the advisory lock too, which another process's migration may hold for minutes.
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        config = _config(connection)
        present = MigrationContext.configure(connection).get_current_revision()
        known = [each.revision for each in ScriptDirectory.from_config(config).walk_revisions()]
        if revision == "base" or (present in known and revision in known[known.index(present) :]):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)

    try:
        async with database.transaction() as connection:
            await connection.run_sync(run)
    except DBAPIError as error:
        if error.orig and isinstance(error.orig.__cause__, asyncpg.LockNotAvailableError):
            raise DatabaseUnavailable(
                f"the migration waited {LOCK_TIMEOUT} for a table that somebody else holds, and changed nothing; "
                f"end long transactions (pg_stat_activity shows them) and migrate again"
            ) from error
        raise


GRANTS = (
    "GRANT USAGE ON SCHEMA public TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
    "REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM {role}",
    "REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM {role}",
)


async def grant(database: Database, role: str) -> None:
    """Give a role what a running relay needs and no more: it cannot rewrite events, nor change tables or triggers.

    Raises:
        ConfigurationError: there is no such role.
    """
    async with database.transaction() as connection:
        if not (await connection.execute(ROLE, {"role": role})).scalar():
            raise ConfigurationError([f"PostgreSQL has no role {role!r}; make it: CREATE ROLE ... LOGIN PASSWORD ..."])
        quoted = database.engine.dialect.identifier_preparer.quote_identifier(role)
        for statement in GRANTS:
            await connection.execute(text(statement.format(role=quoted)))


ROLE = text("SELECT 1 FROM pg_roles WHERE rolname = :role")


async def is_current(database: Database) -> bool:
    """Whether the database has the newest migration."""

    def run(connection: Connection) -> bool:
        newest = ScriptDirectory.from_config(_config()).get_current_head()
        return MigrationContext.configure(connection).get_current_revision() == newest

    async with database.transaction() as connection:
        return await connection.run_sync(run)


async def new_revision(database: Database, message: str) -> None:
    """Write a migration for what the tables have and the database has not (for developers)."""

    def run(connection: Connection) -> None:
        command.revision(_config(connection), message=message, autogenerate=True)

    async with database.transaction() as connection:
        await connection.run_sync(run)


async def _wait_for(database: Database) -> None:
    deadline = asyncio.get_running_loop().time() + CONNECT_PATIENCE_S
    while True:
        try:
            return await database.ping()
        except DatabaseUnavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.5)
