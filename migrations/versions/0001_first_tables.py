"""First tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """First tables."""
    op.create_table(
        "calls",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("claim", sa.Uuid(), nullable=False),
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True, comment="trimmed and redacted, never claim data"),
        sa.PrimaryKeyConstraint("id", name=op.f("calls_pkey")),
    )
    op.create_index("calls_order_id", "calls", ["order_id", "id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("via", sa.Text(), nullable=False, comment="webhook, poll or replay"),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("headers", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="verbatim, but for the platform's own secret"),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("external_id", sa.Text(), nullable=True),
        sa.Column("order_id", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("deliveries_pkey")),
    )
    op.create_index("deliveries_order_id", "deliveries", ["order_id"], unique=False)
    op.create_index(
        "deliveries_trouble",
        "deliveries",
        ["verdict", "id"],
        unique=False,
        postgresql_where=sa.text("verdict IN ('quarantined', 'rejected')"),
    )
    op.create_table(
        "order_events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("order_events_pkey")),
    )
    op.create_index("order_events_order_id", "order_events", ["order_id", "id"], unique=False)
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("po_number", sa.Text(), nullable=False, comment="our key at the vendor, the same on every repeat"),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("external_id", sa.Text(), nullable=False),
        sa.Column("delivery_id", sa.Uuid(), nullable=False, comment="the delivery that made the order"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True, comment="for the person who redeemed the reward"),
        sa.Column("hold_reason", sa.Text(), nullable=True),
        sa.Column("held_from", sa.Text(), nullable=True),
        sa.Column("reward", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("route", sa.Text(), nullable=True),
        sa.Column("vendor", sa.Text(), nullable=True),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("vendor_order_id", sa.Text(), nullable=True),
        sa.Column("vendor_status", sa.Text(), nullable=True),
        sa.Column("party", sa.Text(), nullable=True, comment="who the next step calls"),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("polls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claim", sa.Uuid(), nullable=True),
        sa.Column("claim_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("in_doubt", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "hinted",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="the vendor called back meanwhile",
        ),
        sa.Column(
            "interrupt",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what a person or platform asked for while the order was claimed",
        ),
        sa.Column("callback_token", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(state = 'on_hold') = (hold_reason IS NOT NULL)", name=op.f("orders_hold_has_reason")),
        sa.CheckConstraint(
            "(state = 'received' AND step IS NOT NULL AND step IN ('enrich', 'place')) OR (state = 'placed' AND step IS NOT NULL AND step IN ('check')) OR (state = 'settled' AND step IS NOT NULL AND step IN ('close')) OR (state = 'closed' AND step IS NULL) OR (state = 'on_hold' AND step IS NULL)",
            name=op.f("orders_step_fits_state"),
        ),
        sa.CheckConstraint("outcome IN ('fulfilled', 'refused', 'cancelled')", name=op.f("orders_outcome")),
        sa.CheckConstraint(
            "state <> 'placed' OR vendor_order_id IS NOT NULL", name=op.f("orders_placed_has_vendor_order")
        ),
        sa.CheckConstraint(
            "state IN ('received', 'placed', 'settled', 'closed', 'on_hold')", name=op.f("orders_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('settled', 'closed') OR outcome IS NOT NULL", name=op.f("orders_end_has_outcome")
        ),
        sa.CheckConstraint(
            "step IS NULL OR (party IS NOT NULL AND due_at IS NOT NULL)", name=op.f("orders_step_has_party_and_time")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("orders_pkey")),
        sa.UniqueConstraint("po_number", name=op.f("orders_po_number_key")),
        sa.UniqueConstraint("source", "external_id", name=op.f("orders_source_external_id_key")),
    )
    op.create_index(
        "orders_due", "orders", ["party", "due_at"], unique=False, postgresql_where=sa.text("due_at IS NOT NULL")
    )
    op.create_index(
        "orders_open", "orders", ["state", "id"], unique=False, postgresql_where=sa.text("state <> 'closed'")
    )
    op.create_table(
        "party_health",
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("breaker", sa.Text(), server_default=sa.text("'closed'"), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("open_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.CheckConstraint("breaker IN ('closed', 'open')", name=op.f("party_health_breaker")),
        sa.PrimaryKeyConstraint("party", name=op.f("party_health_pkey")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("party_health")
    op.drop_index("orders_open", table_name="orders", postgresql_where=sa.text("state <> 'closed'"))
    op.drop_index("orders_due", table_name="orders", postgresql_where=sa.text("due_at IS NOT NULL"))
    op.drop_table("orders")
    op.drop_index("order_events_order_id", table_name="order_events")
    op.drop_table("order_events")
    op.drop_index(
        "deliveries_trouble",
        table_name="deliveries",
        postgresql_where=sa.text("verdict IN ('quarantined', 'rejected')"),
    )
    op.drop_index("deliveries_order_id", table_name="deliveries")
    op.drop_table("deliveries")
    op.drop_index("calls_order_id", table_name="calls")
    op.drop_table("calls")
