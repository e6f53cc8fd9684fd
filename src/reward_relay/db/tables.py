"""The tables. Migrations make them; a test holds both against each other.

`orders` is at once the record and the job: a row with a `due_at` is work. No foreign keys: a row of `order_events`
or `calls` is only ever written by the statement that writes its order. `order_search` is written by a trigger on
`orders` (migration 0002), so that no writer can forget it, and is a table of its own because an order's row changes at
every step, its words hardly ever.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

from reward_relay.states import STEPS, Outcome, State

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)


def _time(name: str, *, nullable: bool = True) -> "Column[object]":
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _quoted(values: object) -> str:
    return ", ".join(f"'{value}'" for value in values)  # type: ignore[attr-defined]


STEP_CHECK = " OR ".join(
    f"(state = '{state}' AND step IS {f'NOT NULL AND step IN ({_quoted(steps)})' if steps else 'NULL'})"
    for state, steps in STEPS.items()
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("source", Text, nullable=False),
    _time("received_at", nullable=False),
    Column("via", Text, nullable=False, comment="webhook, poll or replay"),
    Column("content_type", Text, nullable=False),
    Column("headers", JSONB, nullable=False),
    Column("body", LargeBinary, nullable=False, comment="verbatim, but for the platform's own secret"),
    Column("verdict", Text, nullable=False),
    Column("reason", Text),
    Column("external_id", Text),
    Column("order_id", Uuid),
    Column("purged_at", DateTime(timezone=True), comment="body and headers removed"),
    Column("sealed", Text, comment="digest of the key that sealed the body; NULL = plain"),
    Index("deliveries_order_id", "order_id"),
    Index(
        "deliveries_trouble",
        "verdict",
        "id",
        postgresql_where=text("verdict <> 'accepted'"),
    ),
    Index("deliveries_source", "source", "id"),
    Index("deliveries_to_purge", "received_at", "id", postgresql_where=text("purged_at IS NULL")),
)

orders = Table(
    "orders",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("po_number", Text, nullable=False, comment="our key at the vendor, the same on every repeat"),
    Column("source", Text, nullable=False),
    Column("external_id", Text, nullable=False),
    Column("delivery_id", Uuid, nullable=False, comment="the delivery that made the order"),
    Column("state", Text, nullable=False),
    Column("step", Text),
    Column("outcome", Text),
    Column("message", Text, comment="for the person who redeemed the reward"),
    Column("hold_reason", Text),
    Column("held_from", Text),
    Column("reward", JSONB, nullable=False),
    Column("route", Text),
    Column("vendor", Text),
    Column("plan", JSONB),
    Column("vendor_order_id", Text),
    Column("vendor_status", Text),
    Column("party", Text, comment="who the next step calls"),
    _time("due_at"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("polls", Integer, nullable=False, server_default=text("0")),
    Column("claim", Uuid),
    _time("claim_until"),
    Column("in_doubt", Boolean, nullable=False, server_default=text("false")),
    Column("hinted", Boolean, nullable=False, server_default=text("false"), comment="the vendor called back meanwhile"),
    Column("interrupt", JSONB, comment="what a person or platform asked for while the order was claimed"),
    Column("callback_token", Text, nullable=False),
    Column("last_error", Text),
    _time("created_at", nullable=False),
    _time("updated_at", nullable=False),
    Column("cap", Text, comment="the cap that holds it"),
    Column("counted_on", Date, comment="UTC day whose caps this plan counts for"),
    Column("asked", JSONB, comment="who asked for a release that needs a second person, and for which exactly"),
    Column("purged_at", DateTime(timezone=True), comment="personal data removed"),
    UniqueConstraint("source", "external_id"),
    UniqueConstraint("po_number"),
    CheckConstraint(f"state IN ({_quoted(State)})", name="state"),
    CheckConstraint(f"outcome IN ({_quoted(Outcome)})", name="outcome"),
    CheckConstraint(STEP_CHECK, name="step_fits_state"),
    CheckConstraint("(state = 'on_hold') = (hold_reason IS NOT NULL)", name="hold_has_reason"),
    CheckConstraint("state NOT IN ('settled', 'closed') OR outcome IS NOT NULL", name="end_has_outcome"),
    CheckConstraint("state <> 'placed' OR vendor_order_id IS NOT NULL", name="placed_has_vendor_order"),
    CheckConstraint("step IS NULL OR (party IS NOT NULL AND due_at IS NOT NULL)", name="step_has_party_and_time"),
    Index("orders_due", "party", "step", "due_at", postgresql_where=text("due_at IS NOT NULL")),
    Index("orders_open", "state", "id", postgresql_where=text("state <> 'closed'")),
    Index("orders_closed", "updated_at", "outcome", postgresql_where=text("state = 'closed'")),
    Index("orders_to_purge", "updated_at", postgresql_where=text("state = 'closed' AND purged_at IS NULL")),
)

order_search = Table(
    "order_search",
    metadata,
    Column("order_id", Uuid, primary_key=True),
    Column("words", TSVECTOR, nullable=False, comment="of recipient and ids; source:NAME and vendor:NAME too"),
    Index("order_search_words", "words", postgresql_using="gin"),
)

order_events = Table(
    "order_events",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("order_id", Uuid, nullable=False),
    _time("at", nullable=False),
    Column("from_state", Text),
    Column("to_state", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text),
    Column("seq", Integer, nullable=False, comment="place in its order's chain"),
    Column("hash", LargeBinary, nullable=False, comment="SHA-256 of the hash before and this event"),
    UniqueConstraint("order_id", "seq"),
)

calls = Table(
    "calls",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("order_id", Uuid, nullable=False),
    Column("claim", Uuid, nullable=False),
    Column("party", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("key", Text, nullable=False),
    _time("started_at", nullable=False),
    _time("finished_at"),
    Column("verdict", Text),
    Column("status", Integer),
    Column("answer", Text, comment="trimmed and redacted, never claim data"),
    Column("exchanges", JSONB, comment="each request: method, url, sha256 of its body, status, took_ms"),
    Index("calls_order_id", "order_id", "id"),
)

party_health = Table(
    "party_health",
    metadata,
    Column("party", Text, primary_key=True),
    Column("breaker", Text, nullable=False, server_default=text("'closed'")),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    _time("open_until"),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    _time("since", nullable=False),
    Column("why", Text),
    Column("permits", Integer, comment="calls that may be begun while the party comes back; empty = all its slots"),
    Column("answered", Integer, nullable=False, server_default=text("0"), comment="answers since it comes back"),
    CheckConstraint("breaker IN ('closed', 'open')", name="breaker"),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("action", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("content", JSONB, nullable=False, comment="what would happen to which order, as it was then"),
    Column("result", JSONB, comment="what became of it so far, written with each part that is done"),
    _time("made_at", nullable=False),
    _time("used_at"),
)

processes = Table(
    "processes",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False, comment="api or worker"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("routes", Text, nullable=False, comment="a digest: two processes with the same routes have the same"),
    Column("trouble", Text, comment="why the newest configuration file is not in use"),
    _time("started_at", nullable=False),
    _time("seen_at", nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("key", Text, primary_key=True, comment="condition and subject, breaker_open/vendor:cards"),
    Column("text", Text, nullable=False),
    Column("severity", Text, nullable=False),
    _time("since", nullable=False),
    _time("seen_at", nullable=False),
    _time("sent_at"),
    _time("ended_at"),
)

alerts_told = Table(
    "alerts_told",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("kind", Text, nullable=False, comment="order or delivery"),
    Column("at", DateTime(timezone=True), nullable=False, comment="an order held again is news again"),
)

alert_looks = Table(
    "alert_looks",
    metadata,
    Column("name", Text, primary_key=True),
    _time("at", nullable=False),
    Column("busy_until", DateTime(timezone=True), comment="a look, and the sending after it, is under way"),
    Column("told_to", DateTime(timezone=True), comment="of what was quarantined before, nothing is untold"),
    Column("worker_at", DateTime(timezone=True), comment="when a worker was last seen alive"),
)

cap_usage = Table(
    "cap_usage",
    metadata,
    Column("scope", Text, primary_key=True, comment="caps, sources.NAME.caps or routes.NAME.caps"),
    Column("day", Date, primary_key=True, comment="in UTC"),
    Column("value", Numeric, nullable=False, server_default=text("0")),
    Column("number", Integer, nullable=False, server_default=text("0")),
    Column("held", Integer, nullable=False, server_default=text("0"), comment="orders that it held"),
)

placing_switch = Table(
    "placing_switch",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _time("at", nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("actor", Text, nullable=False),
    Column("note", Text, nullable=False),
)
