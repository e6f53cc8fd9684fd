"""OpenTelemetry: one trace of each order, from its webhook to the closing call. Imported only where it is configured.

An order's id is a UUID of version 7, so it is also the trace's id, and its last half the id of the root span: whatever
process goes on with the order knows both without asking. Spans hold keys, verdicts and times, no word of any person.
"""

import logging
import threading
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass

import requests
import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from reward_relay import __version__
from reward_relay.jobs import Job, Result
from reward_relay.states import State

PATH = "/v1/traces"
EXPORT_TIMEOUT_S = 5.0
FLUSH_S = 5.0
COMPLAIN_EVERY_S = 600.0
HALF = (1 << 64) - 1
Attributes = dict[str, str | int | bool]
log = structlog.get_logger()
_root: ContextVar[int | None] = ContextVar("root", default=None)


@dataclass(frozen=True, slots=True)
class _Span:
    """`trace` is the id of an order, or of a delivery that made none; times are nanoseconds since 1970."""

    name: str
    trace: str
    kind: SpanKind
    attributes: Attributes
    began_ns: int
    ended_ns: int


class _Ids(RandomIdGenerator):
    """Random, but for a root span: its ids are made of the order's."""

    def generate_trace_id(self) -> int:
        return _root.get() or super().generate_trace_id()

    def generate_span_id(self) -> int:
        return (_root.get() or 0) & HALF or super().generate_span_id()


class _Seldom(logging.Filter):
    """A collector that is away is worth a line now and then, not one for each batch."""

    _next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + COMPLAIN_EVERY_S
        return True


def exported_to(endpoint: str) -> SpanProcessor:
    """Sends spans in batches, from a thread of its own, to an OTLP collector; what it does not take is lost."""
    address = endpoint if endpoint.endswith(PATH) else endpoint + PATH
    logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Seldom())
    return BatchSpanProcessor(OTLPSpanExporter(address, timeout=EXPORT_TIMEOUT_S, session=_session()))


def _session() -> requests.Session:
    """Connections to the collector: straight there, without proxies and passwords of the environment or redirects."""
    found = requests.Session()
    found.trust_env = False
    found.max_redirects = 0
    found.headers["Accept-Encoding"] = "identity"
    return found


class Tracing:
    """Writes spans. A span is written when its work has ended, with the times that it took."""

    def __init__(self, processor: SpanProcessor) -> None:
        about = Resource.create({"service.name": "reward-relay", "service.version": __version__})
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=about, shutdown_on_exit=False, id_generator=_Ids())
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("reward_relay", __version__)

    def delivery(
        self,
        delivery_id: str,
        order_id: str | None,
        *,
        made: bool,
        source: str,
        verdict: str,
        via: str,
        began_ns: int,
        traceparent: str | None,
    ) -> None:
        """A webhook, poll or replay: the root of its order where it `made` it, else a later span of that order.

        Without an order it is a trace of its own, named by the delivery. The sender's trace is a link.
        """
        attributes: Attributes = {"relay.delivery.id": delivery_id, "relay.source": source, "relay.verdict": verdict}
        attributes |= {"relay.via": via} | ({"relay.order.id": order_id} if order_id else {})
        is_root = made or (order_id is None and via != "replay")
        self._write(
            _Span(
                f"{via} {source}",
                order_id or delivery_id,
                SpanKind.SERVER if via == "webhook" else SpanKind.INTERNAL,
                attributes,
                began_ns,
                time.time_ns(),
            ),
            is_root=is_root,
            sender=_sender(traceparent),
        )

    def callback(self, order_id: str, vendor: str, began_ns: int) -> None:
        """The vendor called back about an order."""
        attributes: Attributes = {"relay.order.id": order_id, "relay.vendor": vendor}
        self._write(_Span(f"callback {vendor}", order_id, SpanKind.SERVER, attributes, began_ns, time.time_ns()))

    def step(self, job: Job, result: Result, began_ns: int, took_s: float, *, recorded: bool) -> None:
        """A worker's step: its calls, and what they led to. A result that was fenced off says so."""
        attributes: Attributes = {
            "relay.order.id": job.id,
            "relay.po_number": job.po_number,
            "relay.party": job.party,
            "relay.purpose": str(job.step),
            "relay.verdict": result.call_verdict,
            "relay.attempt": job.attempts + 1,
            "relay.in_doubt": job.in_doubt,
            "relay.state": str(result.state),
            "relay.recorded": recorded,
        }
        if result.status is not None:
            attributes["http.response.status_code"] = result.status
        failed = result.last_error is not None or result.state is State.ON_HOLD
        ended_ns = began_ns + round(took_s * 1e9)
        name = f"{job.step} {job.party}"
        self._write(_Span(name, job.id, SpanKind.CLIENT, attributes, began_ns, ended_ns), failed=failed)

    def _write(
        self, span: "_Span", *, is_root: bool = False, sender: SpanContext | None = None, failed: bool = False
    ) -> None:
        """Whatever goes wrong here, the order goes on."""
        token = _root.set(uuid.UUID(span.trace).int if is_root else None)
        try:
            written = self._tracer.start_span(
                span.name,
                Context() if is_root else _under(span.trace),
                span.kind,
                span.attributes,
                [Link(sender)] if sender else None,
                span.began_ns,
            )
            if failed:
                written.set_status(StatusCode.ERROR)
            written.end(span.ended_ns)
        except Exception:
            log.exception("span_not_written", span=span.name)
        finally:
            _root.reset(token)

    def close(self) -> None:
        """Send what is left, for a few seconds at most. Blocks: call it from a thread."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(FLUSH_S)


def _under(order_id: str) -> Context:
    """The context of the order's root span, which some process wrote."""
    number = uuid.UUID(order_id).int
    root = SpanContext(number, number & HALF, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(root), Context())


def _sender(traceparent: str | None) -> SpanContext | None:
    """The sender's span, as the W3C header names it; None where it is missing or malformed."""
    if not traceparent:
        return None
    context = TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
    found = get_current_span(context).get_span_context()
    return found if found.is_valid else None
