"""Search, plans of bulk work, processes, alerts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TROUBLE_WAS = "verdict IN ('quarantined', 'rejected')"
TROUBLE = "verdict <> 'accepted'"

PLAIN = r"""
CREATE FUNCTION relay_plain(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT left(lower(CASE WHEN octet_length(given) = length(given) THEN given
    ELSE regexp_replace(normalize(given, NFKD), '[\u0300-\u036f]', '', 'g') END), 400)
$$
"""
WORDS = r"""
CREATE FUNCTION relay_words(given text) RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT array_to_tsvector(array_remove(string_to_array(
    translate(given, E'!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~\t\n\r\v\f', repeat(' ', 37)), ' '), ''))
$$
"""
FOUND_BY = """relay_words(concat_ws(' ', relay_plain({row}po_number), relay_plain({row}external_id),
    relay_plain({row}vendor_order_id), relay_plain({row}reward #>> '{{recipient,name}}'),
    relay_plain({row}reward #>> '{{recipient,email}}')))
  || array_to_tsvector(ARRAY['source:' || {row}source, 'vendor:' || COALESCE({row}vendor, '')])"""
TRIGGER_FUNCTION = f"""
CREATE FUNCTION relay_search() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO order_search (order_id, words) VALUES (NEW.id, {FOUND_BY.format(row="NEW.")})
  ON CONFLICT (order_id) DO UPDATE SET words = EXCLUDED.words;
  RETURN NULL;
END $$
"""  # noqa: S608 - a constant of this module
NEW_ORDER = "CREATE TRIGGER orders_search_new AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION relay_search()"
CHANGED_ORDER = """
CREATE TRIGGER orders_search_changed AFTER UPDATE OF reward, vendor, vendor_order_id ON orders FOR EACH ROW
WHEN ((OLD.vendor, OLD.vendor_order_id) IS DISTINCT FROM (NEW.vendor, NEW.vendor_order_id)
  OR OLD.reward IS DISTINCT FROM NEW.reward)
EXECUTE FUNCTION relay_search()
"""
FILL = f"INSERT INTO order_search (order_id, words) SELECT id, {FOUND_BY.format(row='')} FROM orders"  # noqa: S608


def _trouble(where: str) -> None:
    op.create_index("deliveries_trouble", "deliveries", ["verdict", "id"], postgresql_where=sa.text(where))


def upgrade() -> None:
    """Search, plans of bulk work, processes, alerts."""
    op.drop_index("deliveries_trouble", table_name="deliveries")
    _trouble(TROUBLE)
    op.create_index("deliveries_source", "deliveries", ["source", "id"])
    op.create_index("orders_closed", "orders", ["updated_at", "outcome"], postgresql_where=sa.text("state = 'closed'"))
    op.create_table(
        "order_search",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column(
            "words",
            postgresql.TSVECTOR(),
            nullable=False,
            comment="of recipient and ids; source:NAME and vendor:NAME too",
        ),
        sa.PrimaryKeyConstraint("order_id", name=op.f("order_search_pkey")),
    )
    for statement in (PLAIN, WORDS, TRIGGER_FUNCTION, FILL, NEW_ORDER, CHANGED_ORDER):
        op.execute(statement)
    op.create_index("order_search_words", "order_search", ["words"], postgresql_using="gin")
    _tables_of_the_console()


def _tables_of_the_console() -> None:
    time = sa.DateTime(timezone=True)
    op.create_table(
        "plans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column(
            "content",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="what would happen to which order, as it was then",
        ),
        sa.Column(
            "result",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what became of it so far, written with each part that is done",
        ),
        sa.Column("made_at", time, nullable=False),
        sa.Column("used_at", time, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("plans_pkey")),
    )
    op.create_table(
        "processes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="api or worker"),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column(
            "routes",
            sa.Text(),
            nullable=False,
            comment="a digest: two processes with the same routes have the same",
        ),
        sa.Column("trouble", sa.Text(), nullable=True, comment="why the newest configuration file is not in use"),
        sa.Column("started_at", time, nullable=False),
        sa.Column("seen_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("processes_pkey")),
    )
    op.create_table(
        "alerts",
        sa.Column("key", sa.Text(), nullable=False, comment="condition and subject, breaker_open/vendor:cards"),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("since", time, nullable=False),
        sa.Column("seen_at", time, nullable=False),
        sa.Column("sent_at", time, nullable=True),
        sa.Column("ended_at", time, nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("alerts_pkey")),
    )
    op.create_table(
        "alerts_told",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="order or delivery"),
        sa.Column("at", time, nullable=False, comment="an order held again is news again"),
        sa.PrimaryKeyConstraint("id", name=op.f("alerts_told_pkey")),
    )
    op.create_table(
        "alert_looks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", time, nullable=False),
        sa.Column("busy_until", time, nullable=True, comment="a look, and the sending after it, is under way"),
        sa.Column("told_to", time, nullable=True, comment="of what was quarantined before, nothing is untold"),
        sa.Column("worker_at", time, nullable=True, comment="when a worker was last seen alive"),
        sa.PrimaryKeyConstraint("name", name=op.f("alert_looks_pkey")),
    )


def downgrade() -> None:
    """Undo it."""
    op.execute("DROP TRIGGER orders_search_changed ON orders")
    op.execute("DROP TRIGGER orders_search_new ON orders")
    for name in ("relay_search()", "relay_words(text)", "relay_plain(text)"):
        op.execute(f"DROP FUNCTION {name}")
    for table in ("alert_looks", "alerts_told", "alerts", "processes", "plans", "order_search"):
        op.drop_table(table)
    op.drop_index("orders_closed", table_name="orders")
    op.drop_index("deliveries_source", table_name="deliveries")
    op.drop_index("deliveries_trouble", table_name="deliveries")
    _trouble(TROUBLE_WAS)
