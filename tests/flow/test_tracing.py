"""One trace from the webhook to the closing call, named by the order; and nothing of it where it is not wanted."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text

from reward_relay.errors import ConfigurationError
from reward_relay.tracing import Tracing, exported_to
from reward_relay.wiring import Relay, build, tracing_of
from support.far_servers import answers, far_server
from support.far_side import Far, far_side
from support.relays import client_of, ended, settings, until, working
from support.steered import accepted, post, roster, talkable

SENDER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PRIVATE = ("example.com", "Ann", "Street", "token", "secret")


@asynccontextmanager
async def traced(
    far: Far, database_url: str, tmp_path: Path, exporter: SpanExporter
) -> AsyncIterator[tuple[Relay, httpx.AsyncClient]]:
    tracing = Tracing(SimpleSpanProcessor(exporter))
    relay = build(settings(tmp_path), database_url, transport=far.transport, tracing=tracing)
    far.calls_back(relay)
    try:
        async with client_of(relay) as client:
            yield relay, client
    finally:
        await relay.close()


def of_order(order_id: str, spans: tuple[ReadableSpan, ...]) -> dict[str, list[ReadableSpan]]:
    """The spans of the order's trace by their names."""
    found: dict[str, list[ReadableSpan]] = {}
    for span in spans:
        assert span.context
        if span.context.trace_id == uuid.UUID(order_id).int:
            found.setdefault(span.name, []).append(span)
    return found


async def test_an_order_is_one_trace_from_the_webhook_to_the_closing_call(database_url: str, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    async with far_side() as far, traced(far, database_url, tmp_path, exporter) as (relay, client):
        await far.rule(party="gcp", operation="place", mode="lose_answer", times=1)
        hook = roster()
        headers = {**hook.headers, "traceparent": SENDER}
        answer = await client.post(hook.url("/webhooks/roster"), content=hook.body, headers=headers)
        order_id = answer.json()["order_id"]
        await post(client, "roster", roster())
        async with working(relay):

            async def tried() -> bool:
                order = await relay.ops.order(order_id)
                return bool(order["attempts"] or order["state"] != "received")

            await until(tried)
            async with relay.database.transaction() as connection:
                await connection.execute(
                    text("UPDATE orders SET due_at = now() WHERE claim IS NULL AND step = 'place'")
                )
            order = await ended(relay, order_id)
    spans = exporter.get_finished_spans()
    found = of_order(order_id, spans)
    assert sum(len(each) for each in found.values()) == len(spans)
    root, again = found.pop("webhook roster")
    assert root.parent is None
    assert root.context and root.start_time and root.end_time
    assert [link.context.trace_id for link in root.links] == [int(SENDER.split("-")[1], 16)]
    assert again.attributes and again.attributes["relay.verdict"] == "duplicate"
    for span in (again, *(each for several in found.values() for each in several)):
        assert span.parent and span.parent.span_id == root.context.span_id
        assert span.context and span.context.span_id != root.context.span_id
        assert span.start_time and span.end_time and root.start_time < span.start_time <= span.end_time

    lost, placed = found["place vendor:gcp"]
    assert lost.attributes and (lost.attributes["relay.attempt"], lost.attributes["relay.verdict"]) == (1, "unknown")
    assert lost.status.status_code is StatusCode.ERROR
    assert placed.kind is SpanKind.CLIENT
    assert placed.status.status_code is not StatusCode.ERROR
    wanted = {"relay.po_number": order["po_number"], "relay.party": "vendor:gcp", "relay.purpose": "place"}
    wanted |= {"relay.in_doubt": True, "relay.state": "placed", "relay.recorded": True}
    assert placed.attributes and wanted.items() <= dict(placed.attributes).items()
    (closing,) = found["close source:roster"]
    assert closing.attributes and closing.attributes["relay.state"] == "closed"
    assert "callback gcp" in found
    written = "".join(span.to_json() for span in spans)
    assert [word for word in PRIVATE if word in written] == []


async def test_what_makes_no_order_is_a_trace_of_its_own(database_url: str, tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    async with far_side() as far, traced(far, database_url, tmp_path, exporter) as (_, client):
        answer = await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
        delivery_id = answer.json()["delivery_id"]
        await client.post(f"/api/v1/deliveries/{delivery_id}/replay", json={})
        await post(client, "talkable", talkable(key="wrong-secret-0"))  # rejected: not worth a trace
    first, again = exporter.get_finished_spans()
    assert first.context and again.context and again.parent
    assert first.context.trace_id == again.context.trace_id == uuid.UUID(delivery_id).int
    assert (first.parent, again.parent.span_id) == (None, first.context.span_id)


class Broken(SpanExporter):
    """An exporter that fails."""

    def export(self, spans: object) -> SpanExportResult:
        raise OSError("the collector's disk is full")


@pytest.mark.filterwarnings("ignore")
async def test_an_exporter_that_fails_disturbs_no_order(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far, traced(far, database_url, tmp_path, Broken()) as (relay, client), working(relay):
        order = await ended(relay, await accepted(client, "roster", roster()))
    assert order["outcome"] == "fulfilled"


async def test_a_collector_that_is_away_disturbs_no_order_and_no_end(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = settings(tmp_path, environ={"RELAY_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    async with far_side() as far:
        relay = build(found, database_url, transport=far.transport, tracing=tracing_of(found))
        far.calls_back(relay)
        async with client_of(relay) as client, working(relay):
            order = await ended(relay, await accepted(client, "roster", roster()))
        await relay.close()
    assert order["outcome"] == "fulfilled"
    assert len([each for each in caplog.records if each.name.startswith("opentelemetry.exporter")]) <= 1


def test_the_path_of_traces_is_added_once() -> None:
    for endpoint in ("http://127.0.0.1:9", "http://127.0.0.1:9/v1/traces"):
        processor = exported_to(endpoint)
        assert processor.span_exporter._endpoint == "http://127.0.0.1:9/v1/traces"  # type: ignore[attr-defined]
        processor.shutdown()


def test_without_the_extra_the_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "reward_relay.tracing")
    with pytest.raises(ConfigurationError, match=r"pip install 'reward-relay\[otel\]'"):
        tracing_of(settings(tmp_path, environ={"RELAY_OTLP_ENDPOINT": "http://127.0.0.1:9"}))
    assert tracing_of(settings(tmp_path)) is None


def test_without_configuration_nothing_of_the_extra_is_loaded() -> None:
    """FastAPI takes opentelemetry's plain API where that is installed; what costs is the SDK and the exporter."""
    ours = ("opentelemetry.sdk", "opentelemetry.exporter", "reward_relay.tracing")
    code = (
        "import sys; from reward_relay.wiring import build, load_settings, tracing_of;"
        "import reward_relay.cli, reward_relay.sandbox.demo; settings = load_settings(environ={});"
        "build(settings, 'postgresql://localhost/none', tracing=tracing_of(settings));"
        f"print([name for name in sys.modules if name.startswith({ours})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_spans_go_to_the_collector_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither through a proxy of the environment nor after a redirect."""
    async with far_server(answers()) as elsewhere, far_server(answers(302, b"", f"Location: {elsewhere.url}/x")) as far:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere.url)
        monkeypatch.setenv("NO_PROXY", "")
        tracing = Tracing(exported_to(far.url))
        tracing.callback(str(uuid.uuid4()), "gcp", 1)
        await asyncio.to_thread(tracing.close)
    assert len(far.requests) == 1
    assert far.requests[0].startswith(b"POST /v1/traces ")
    assert elsewhere.requests == []
