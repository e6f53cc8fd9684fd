"""A ledger that cannot be rewritten unseen: events chained by hash, append-only; what each call sent."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

EVENT_HASH = """
CREATE FUNCTION relay_event_hash(before bytea, e order_events) RETURNS bytea LANGUAGE sql STABLE AS $$
  SELECT sha256(before || convert_to(json_build_array(e.order_id, e.seq,
    to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    e.from_state, e.to_state, e.actor, e.reason)::text, 'UTF8'))
$$
"""
CHAIN = """
CREATE FUNCTION relay_chain() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last order_events;
BEGIN
  SELECT * INTO last FROM order_events WHERE order_id = NEW.order_id ORDER BY seq DESC LIMIT 1;
  NEW.seq := COALESCE(last.seq, 0) + 1;
  NEW.hash := relay_event_hash(COALESCE(last.hash, ''), NEW);
  RETURN NEW;
END $$
"""
APPEND_ONLY = """
CREATE FUNCTION relay_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: what happened to an order is never changed', TG_TABLE_NAME
    USING ERRCODE = 'integrity_constraint_violation';
END $$
"""
LINK_WHAT_IS_THERE = """
DO $$
DECLARE e order_events; last order_events;
BEGIN
  FOR e IN SELECT * FROM order_events ORDER BY order_id, id LOOP
    e.seq := CASE WHEN last.order_id = e.order_id THEN last.seq + 1 ELSE 1 END;
    e.hash := relay_event_hash(CASE WHEN e.seq = 1 THEN '' ELSE last.hash END, e);
    UPDATE order_events SET seq = e.seq, hash = e.hash WHERE id = e.id;
    last := e;
  END LOOP;
END $$
"""
TRIGGERS = (
    "CREATE TRIGGER order_events_chain BEFORE INSERT ON order_events FOR EACH ROW EXECUTE FUNCTION relay_chain()",
    """CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON order_events
       FOR EACH STATEMENT EXECUTE FUNCTION relay_append_only()""",
    "REVOKE UPDATE, DELETE, TRUNCATE ON order_events FROM PUBLIC, CURRENT_USER",
)
DUE = sa.text("due_at IS NOT NULL")
TO_PURGE = (
    ("orders", ("updated_at",), "state = 'closed' AND purged_at IS NULL"),
    ("deliveries", ("received_at", "id"), "purged_at IS NULL"),
)


def upgrade() -> None:
    """A ledger that cannot be rewritten unseen."""
    _ledger()
    _parties()
    _guards()
    _privacy()


def _privacy() -> None:
    """When personal data was removed, and what still has to go, oldest first; which key sealed a body."""
    time = sa.DateTime(timezone=True)
    op.add_column("orders", sa.Column("purged_at", time, nullable=True, comment="personal data removed"))
    op.add_column("deliveries", sa.Column("purged_at", time, nullable=True, comment="body and headers removed"))
    op.add_column(
        "deliveries",
        sa.Column("sealed", sa.Text(), nullable=True, comment="digest of the key that sealed the body; NULL = plain"),
    )
    for table, columns, where in TO_PURGE:
        op.create_index(f"{table}_to_purge", table, list(columns), postgresql_where=sa.text(where))


def _ledger() -> None:
    op.add_column("order_events", sa.Column("seq", sa.Integer(), nullable=True, comment="place in its order's chain"))
    op.add_column(
        "order_events",
        sa.Column("hash", sa.LargeBinary(), nullable=True, comment="SHA-256 of the hash before and this event"),
    )
    for statement in (EVENT_HASH, CHAIN, APPEND_ONLY, LINK_WHAT_IS_THERE):
        op.execute(statement)
    op.alter_column("order_events", "seq", nullable=False)
    op.alter_column("order_events", "hash", nullable=False)
    op.drop_index("order_events_order_id", table_name="order_events")
    op.create_unique_constraint(op.f("order_events_order_id_seq_key"), "order_events", ["order_id", "seq"])
    for statement in TRIGGERS:
        op.execute(statement)
    op.add_column(
        "calls",
        sa.Column(
            "exchanges",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="each request: method, url, sha256 of its body, status, took_ms",
        ),
    )


def _parties() -> None:
    """Slots are shared between a party's steps, so what is due is found by step; a party comes back bit by bit."""
    op.drop_index("orders_due", table_name="orders")
    op.create_index("orders_due", "orders", ["party", "step", "due_at"], unique=False, postgresql_where=DUE)
    permits = "calls that may be begun while the party comes back; empty = all its slots"
    op.add_column("party_health", sa.Column("permits", sa.Integer(), nullable=True, comment=permits))
    op.add_column(
        "party_health",
        sa.Column(
            "answered",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="answers since it comes back",
        ),
    )


def _parties_down() -> None:
    op.drop_column("party_health", "answered")
    op.drop_column("party_health", "permits")
    op.drop_index("orders_due", table_name="orders")
    op.create_index("orders_due", "orders", ["party", "due_at"], unique=False, postgresql_where=DUE)


def _guards() -> None:
    time = sa.DateTime(timezone=True)
    op.add_column("orders", sa.Column("cap", sa.Text(), nullable=True, comment="the cap that holds it"))
    op.add_column(
        "orders", sa.Column("counted_on", sa.Date(), nullable=True, comment="UTC day whose caps this plan counts for")
    )
    op.add_column(
        "orders",
        sa.Column(
            "asked",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="who asked for a release that needs a second person, and for which exactly",
        ),
    )
    op.create_table(
        "cap_usage",
        sa.Column("scope", sa.Text(), nullable=False, comment="caps, sources.NAME.caps or routes.NAME.caps"),
        sa.Column("day", sa.Date(), nullable=False, comment="in UTC"),
        sa.Column("value", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("number", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="orders that it held"),
        sa.PrimaryKeyConstraint("scope", "day", name=op.f("cap_usage_pkey")),
    )
    op.create_table(
        "placing_switch",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("placing_switch_pkey")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("placing_switch")
    op.drop_table("cap_usage")
    for name in ("asked", "counted_on", "cap"):
        op.drop_column("orders", name)
    _parties_down()
    for table, _, _ in TO_PURGE:
        op.drop_index(f"{table}_to_purge", table_name=table)
    for table, column in (("deliveries", "sealed"), ("deliveries", "purged_at"), ("orders", "purged_at")):
        op.drop_column(table, column)
    op.drop_column("calls", "exchanges")
    op.execute("GRANT UPDATE, DELETE, TRUNCATE ON order_events TO CURRENT_USER")
    for name in ("order_events_append_only", "order_events_chain"):
        op.execute(f"DROP TRIGGER {name} ON order_events")
    op.drop_constraint(op.f("order_events_order_id_seq_key"), "order_events")
    op.create_index("order_events_order_id", "order_events", ["order_id", "id"], unique=False)
    for name in ("relay_append_only()", "relay_chain()", "relay_event_hash(bytea, order_events)"):
        op.execute(f"DROP FUNCTION {name}")
    op.drop_column("order_events", "hash")
    op.drop_column("order_events", "seq")
