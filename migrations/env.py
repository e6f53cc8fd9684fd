"""Runs migrations on the connection that `reward_relay.db.migrate` hands over."""

from alembic import context

from reward_relay.db.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("Run migrations with: reward-relay migrate (new ones: reward-relay migrate --new 'what changes')")
context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
