"""No person comes out where persons have no place, whatever is said of them: tried with every recorded payload.

Each is sent with made-up persons to a relay whose far side repeats them in every answer it can. Then the log at level
debug, events, reasons, calls' answers, alerts, metrics and spans are searched; and after a purge, every table.
"""

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reward_relay import logs
from reward_relay.contracts import Address as PostalAddress
from reward_relay.contracts import Recipient
from reward_relay.db.engine import Database
from reward_relay.db.purging import expired
from reward_relay.errors import NotAllowed
from reward_relay.personal import Address, masked
from reward_relay.tracing import Tracing
from reward_relay.wiring import Relay, build
from support.canaries import Gossip, Planted, everything, leaks, recorded_bodies
from support.far_side import far_side
from support.relays import CONFIGURATION, client_of, ended, settings, until, working
from support.rows import run
from support.steered import every_platform, post

TALKATIVE = CONFIGURATION.replace(
    'secrets = ["talkable-key-1", "talkable-key-0"]',
    'secrets = ["talkable-key-1"]\napi_url = "http://far.test/talkable"\napi_token = "talkable-api-token"\n'
    'site_slug = "shop"\nclose = "custom_property"',
).replace('app_token = "app-token"', 'app_token = "app-token"\nclose = "customer_metadata"')
assert "custom_property" in TALKATIVE
UNQUIET = """
SELECT count(*) AS n FROM orders o WHERE (due_at <= now() AND claim IS NULL
  AND NOT EXISTS (SELECT 1 FROM party_health h WHERE h.party = o.party AND h.paused)) OR (claim IS NOT NULL
  AND (SELECT count(*) FROM calls c WHERE c.order_id = o.id AND c.purpose = o.step) < 2)
"""
"""What is due, or called for the first time: a fault of ours leaves the claim to its lease, again and again."""
TOLD = """
SELECT 'event' AS of, reason AS told FROM order_events UNION ALL SELECT 'delivery', reason FROM deliveries
UNION ALL SELECT 'order', concat_ws(' | ', hold_reason, last_error, vendor_status, route, vendor_order_id) FROM orders
UNION ALL SELECT 'call', answer FROM calls UNION ALL SELECT 'party', why FROM party_health
UNION ALL SELECT 'alert', text FROM alerts
"""


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged meanwhile, as the relay writes it."""
    written, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    steps = logs.processors(structlog.processors.JSONRenderer())
    structlog.configure(processors=steps, logger_factory=structlog.PrintLoggerFactory(written))
    handler = logging.StreamHandler(written)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[remove, *steps]))
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # as `logs.configure` does, whatever the level of our own
    yield written
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@asynccontextmanager
async def gossiping(
    gossip: Gossip, database_url: str, tmp_path: Path, spans: InMemorySpanExporter
) -> AsyncIterator[Relay]:
    found = settings(tmp_path, TALKATIVE)
    relay = build(found, database_url, transport=gossip.transport, tracing=Tracing(SimpleSpanProcessor(spans)))
    try:
        yield relay
    finally:
        await relay.close()


async def lived(relay: Relay, planted: Planted, gossip: Gossip) -> int:
    """Take every recorded payload, and go on until nothing is due; returns how many orders there are."""
    for source, body in recorded_bodies():
        await relay.intake.feed(source, [planted.body(body)])

    for row in await run(relay.database, "SELECT external_id, reward FROM orders"):
        reference = row.reward["reference"]
        for key in (row.external_id, reference.get("customer_id"), reference.get("email")):
            gossip.people[key or row.external_id] = json.dumps(row.reward["recipient"])

    async def quiet() -> bool:
        (row,) = await run(relay.database, UNQUIET)
        return bool(row.n == 0)

    async with working(relay):
        await until(quiet, 30)
        for source, body in recorded_bodies(withdrawing=True):
            await relay.intake.feed(source, [planted.body(body)])
        for action in ("retry", "hold"):  # once more with what was found out
            for row in await run(relay.database, "SELECT id FROM orders WHERE step IS NOT NULL"):
                await _try(getattr(relay.ops, action), str(row.id))
        await until(quiet, 30)
    (row,) = await run(relay.database, "SELECT count(*) AS n FROM orders")
    return int(row.n)


async def _try(action: Any, order_id: str) -> None:
    with suppress(NotAllowed):
        await action(order_id, "alice", "a note")


@pytest.mark.parametrize("mode", Gossip.MODES)
async def test_nothing_personal_is_logged_counted_traced_alerted_or_given_as_a_reason(
    mode: str, database_url: str, tmp_path: Path, logged: io.StringIO
) -> None:
    spans, planted = InMemorySpanExporter(), Planted()
    gossip = Gossip(mode, planted)
    async with gossiping(gossip, database_url, tmp_path, spans) as relay:
        assert await lived(relay, planted, gossip) == 6
        await relay.alerting().look()
        async with client_of(relay) as client:
            metrics = (await client.get("/metrics")).text
        told = "\n".join(f"{row.of}: {row.told}" for row in await run(relay.database, TOLD))
        there = await everything(relay.database)
    assert len(planted.emails) == 8
    assert leaks(there), "nothing was planted"
    assert leaks(told) == []
    assert leaks(logged.getvalue()) == []
    assert '"event": "step"' in logged.getvalue()
    assert leaks(metrics + "".join(span.to_json() for span in spans.get_finished_spans())) == []
    assert "CLAIM-" not in there + logged.getvalue() + told


@pytest.mark.parametrize("mode", ["fine", "declined", "place_400", "talks"])
async def test_after_all_are_purged_no_table_holds_a_person(mode: str, database_url: str, tmp_path: Path) -> None:
    spans, planted = InMemorySpanExporter(), Planted()
    gossip = Gossip(mode, planted)
    async with gossiping(gossip, database_url, tmp_path, spans) as relay:
        count = await lived(relay, planted, gossip)
        for row in await run(relay.database, "SELECT id FROM orders WHERE state <> 'closed'"):
            await relay.ops.close(str(row.id), "alice", "")
        for email in planted.emails:
            found = await relay.purging.about_email(email)
            assert not found.kept
            await relay.purging.forget(found, "alice", "asked for", email)
        for row in await run(relay.database, "SELECT id FROM orders WHERE purged_at IS NULL"):  # they named no address
            await relay.purging.forget(await relay.purging.about_order(str(row.id)), "alice", "")
        (row,) = await run(relay.database, "SELECT count(*) AS n FROM deliveries WHERE purged_at IS NULL")
        assert row.n <= 2, "only what names a person without address, and became no order, waits for its time"
        await run(relay.database, "UPDATE deliveries SET received_at = received_at - interval '2 days'")
        await expired(relay.database, 1)
        assert leaks(await everything(relay.database)) == []
        (row,) = await run(relay.database, "SELECT count(*) AS n FROM orders WHERE reward -> 'items' <> '[]'")
        assert row.n == count
        (row,) = await run(
            relay.database, "SELECT count(*) AS n FROM order_events WHERE reason LIKE 'personal data removed%'"
        )
        assert row.n == count


async def test_claim_data_is_nowhere(database_url: str, tmp_path: Path, logged: io.StringIO) -> None:
    """The vendor of the sandbox sends links, codes and pins with a complete order; none of them is kept."""
    async with far_side() as far:
        relay = build(settings(tmp_path), database_url, transport=far.transport)
        far.calls_back(relay)
        async with client_of(relay) as client, working(relay):
            for source, webhook in every_platform().items():
                await ended(relay, (await post(client, source, webhook)).json()["order_id"])
        bearer = (await far.client.post("/gcp/v1/Tokens", headers={"Email": "a@b.c", "AccessToken": "t"})).json()
        claims: list[str] = []
        for each in (await far.state())["orders"]:
            headers = {"Authorization": f"Bearer {bearer['Value']}"}
            answer = (await far.client.get(f"/gcp/v1/Orders/{each['Id']}", headers=headers)).json()
            claims += [line[name] for line in answer["LineItems"] for name in ("ClaimUrl", "ClaimCode")]
        told = await everything(relay.database) + logged.getvalue()
        await relay.close()
    assert len(claims) >= 8
    assert [claim for claim in claims if claim in told] == []
    assert "claim.example" not in told


# The tools.

BOB = Recipient(
    name="Bob O'Hara",
    email="Bob+1@Example.com",
    phone="+1 (202) 555-1111",
    address=PostalAddress(line1="12 Main Street", city="Ames", state="IA", postal_code="50010", country="US"),
)


@pytest.mark.parametrize(
    "said",
    [
        "bob+1@example.com is unknown",
        "/people/Bob%2B1%40Example.com is unknown",
        "other@else.example is unknown",
        "+1 (202) 555-1111 is unknown",
        "12025551111 is unknown",
        "BOB O'HARA is unknown",
        "Bob is unknown",
        "12 main street is unknown",
        "12+Main+Street is unknown",
    ],
)
def test_what_others_say_of_a_person_is_masked(said: str) -> None:
    assert "***" in masked(said, BOB)
    assert masked(said, BOB).rpartition("***")[2] == " is unknown"


def test_what_is_not_about_a_person_stays() -> None:
    said = '{"Id": "G-50010-1", "Status": "Completed", "Message": "bobbins are out of stock in IA, US"}'
    assert masked(said, BOB) == said
    assert masked("", BOB) == ""
    assert masked(said, Recipient()) == said


@pytest.mark.parametrize(
    "body",
    [
        b'{"email": "Ann.Lee+x@Example.com"}',
        b'{"email": "ann.lee\\u002bx\\u0040example.com"}',
        b"email=ann.lee%2Bx%40example.com&a=b",
        b"payload=%7B%22email%22%3A%22ann.lee%252Bx%2540example.com%22%7D",
        b"mailto:ann.lee+x@example.com.",
        b"<ann.lee+x@example.com>",
        b"\xff ann.lee+x@example.com",
    ],
)
def test_an_address_is_found_in_every_spelling_of_a_body(body: bytes) -> None:
    assert Address(" ANN.lee+x@example.COM ").is_in(body)


@pytest.mark.parametrize(
    "body", [b"joann.lee+x@example.com", b"ann.lee+x@example.com.au", b"ann.lee+xy@example.com", b"lee+x@example.com"]
)
def test_another_address_is_not_taken_for_it(body: bytes) -> None:
    assert not Address("ann.lee+x@example.com").is_in(body)


def test_an_error_s_value_is_not_in_its_line() -> None:
    refused = json.loads('{"line1": {"Bob": "Smith"}, "city": 12025551111}')
    try:
        PostalAddress.model_validate(refused)
    except ValueError as error:
        told = logs.error_text((type(error), error, error.__traceback__))
    assert "ValidationError" in told
    assert "line1" in told
    assert [each for each in ("Bob", "Smith", "1202555") if each in told] == []


async def test_a_value_that_the_database_refuses_is_not_in_the_line(database: Database, logged: io.StringIO) -> None:
    bob = "Bob Smith"
    try:
        await run(database, "SELECT CAST(:value AS uuid)", value=bob)
    except Exception:
        structlog.get_logger().exception("refused")
    assert "refused" in logged.getvalue()
    assert bob not in logged.getvalue()
    assert json.loads(logged.getvalue())["exception"]
