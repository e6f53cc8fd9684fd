"""What Prometheus scrapes: each process counts what it did, the database knows orders and parties at the scrape.

Of several processes under one parent (`processes.Family`) each keeps its counts in a file of a folder that they share,
named by prometheus_client's own variable; a scrape of any of them adds up all files, also those of the dead.
"""

from collections.abc import Iterator
from contextlib import suppress
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call] # several processes give none, so one gives none either
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REGISTRY = CollectorRegistry()
INTAKE = Counter("relay_deliveries_total", "Webhooks by source and verdict.", ["source", "verdict"], registry=REGISTRY)
INTAKE_SECONDS = Histogram(
    "relay_delivery_seconds",
    "Webhook received to committed.",
    registry=REGISTRY,
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
CALLS = Counter(
    "relay_calls_total",
    "Calls of platforms and vendors that ended, by party, purpose and verdict.",
    ["party", "purpose", "verdict"],
    registry=REGISTRY,
)
CALL_SECONDS = Histogram(
    "relay_call_seconds",
    "How long a step's calls took together.",
    ["party", "purpose"],
    registry=REGISTRY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60),
)
STEPS = Counter("relay_steps_total", "Steps recorded, by the state they led to.", ["step", "state"], registry=REGISTRY)
FENCED = Counter(
    "relay_fenced_total", "Results that came after the lease and were not recorded.", ["step"], registry=REGISTRY
)
BREAKER_OPENED = Counter(
    "relay_breaker_opened_total", "How often a party's breaker was opened.", ["party"], registry=REGISTRY
)
REFUSED = Counter(
    "relay_refused_total",
    "Calls refused before they were looked at, by door and code.",
    ["door", "code"],
    registry=REGISTRY,
)


def refused(door: str, code: str) -> None:
    """Count a call that was refused at the door. Both words are ours, never the caller's."""
    with suppress(OSError):
        REFUSED.labels(door, code).inc()


SPOOLED = Counter(
    "relay_spooled_total", "Webhooks put into the spool, PostgreSQL being away.", ["source"], registry=REGISTRY
)
SPOOL_DRAINED = Counter(
    "relay_spool_drained_total", "Deliveries taken from the spool, by their verdict.", ["verdict"], registry=REGISTRY
)
SPOOL_REFUSED = Counter(
    "relay_spool_refused_total", "Webhooks answered 503: the spool was full or its disk refused.", registry=REGISTRY
)


def call_ended(party: str, purpose: str, verdict: str, took_s: float) -> None:
    """Count a step's calls. A disk too full to count on must not cost the result, so it is not an error."""
    with suppress(OSError):
        CALLS.labels(party, purpose, verdict).inc()
        CALL_SECONDS.labels(party, purpose).observe(took_s)


class _Summary(Collector):
    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary

    def collect(self) -> Iterator[Metric]:
        yield _gauge("relay_orders", "Orders by state.", "state", self._summary["states"])
        oldest = self._summary["oldest_due"]
        late = float(oldest["late_s"]) if oldest else 0.0
        yield GaugeMetricFamily("relay_oldest_due_seconds", "How late the oldest due order is.", value=late)
        yield from self._parties({party["party"]: party for party in self._summary["parties"]})
        trouble = self._summary["trouble"]
        yield _gauge("relay_deliveries_in_trouble", "Quarantined and rejected ones.", "verdict", trouble)
        yield from self._guards()
        alive = dict.fromkeys(("api", "worker"), 0)
        for process in self._summary["processes"]:
            alive[process["kind"]] += process["alive"]
        yield _gauge("relay_processes", "Processes seen within a minute.", "kind", alive)

    def _guards(self) -> Iterator[Metric]:
        caps, paused = self._summary["caps"], self._summary["placing"]["paused"]
        yield GaugeMetricFamily("relay_placing_paused", "1: no order is placed.", value=float(paused))
        yield _gauge("relay_cap_limit", "Caps on a day.", "cap", {each["cap"]: each["limit"] for each in caps})
        used = {each["cap"]: each["used"] for each in caps}
        yield _gauge("relay_cap_used", "What is used of them today (UTC).", "cap", used)
        asked = float(self._summary["asked"])
        yield GaugeMetricFamily("relay_orders_asked", "Held orders that a second person was asked for.", value=asked)

    def _parties(self, parties: dict[str, Any]) -> Iterator[Metric]:
        waiting = {name: party["waiting"] for name, party in parties.items()}
        due = {name: party["due"] for name, party in parties.items()}
        paused = {name: party["paused"] for name, party in parties.items()}
        broken = {name: party["breaker"] == "open" for name, party in parties.items()}
        flows = {name: not paused[name] and not broken[name] for name in parties}
        yield _gauge("relay_party_waiting", "Orders that wait for a party.", "party", waiting)
        yield _gauge("relay_party_due", "Of these, due now.", "party", due)
        yield _gauge("relay_party_flows", "1: called; 0: paused, or its breaker is open.", "party", flows)
        yield _gauge("relay_party_paused", "1: nobody calls it until a person resumes it.", "party", paused)
        yield _gauge("relay_party_breaker_open", "1: it failed again and again; probes test it.", "party", broken)


def _gauge(name: str, text: str, label: str, values: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], float(number))
    return family


def counted(folder: str | None = None) -> CollectorRegistry:
    """The counts of this process; of all that share its folder, where it has one; of `folder`, where it is given."""
    shared = CollectorRegistry()
    try:
        MultiProcessCollector(shared, folder)  # type: ignore[no-untyped-call]
    except ValueError:  # no folder: this process counts alone
        return REGISTRY
    return shared


def serve(host: str, port: int, folder: str | None = None) -> tuple[WSGIServer, Thread]:
    """Serve the counts alone, at every path, from a thread; port 0 takes a free one.

    Raises:
        OSError: the address is taken or not ours.
    """
    return start_http_server(port, host, counted(folder))


class _Machine(Collector):
    def __init__(self, spool: dict[str, Any], *, up: bool) -> None:
        self._spool = spool
        self._up = up

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("relay_database_up", "1: PostgreSQL answers.", value=float(self._up))
        waiting = {"waiting": self._spool["waiting"], "stuck": self._spool["stuck"]}
        yield _gauge("relay_spool_deliveries", "Deliveries in this machine's spool.", "state", waiting)
        yield GaugeMetricFamily("relay_spool_bytes", "What they take on the disk.", value=float(self._spool["used"]))
        takes = float(self._spool["takes"])
        yield GaugeMetricFamily("relay_spool_takes", "1: the spool takes webhooks; 0: off or full.", value=takes)
        yield GaugeMetricFamily(
            "relay_spool_damaged_files", "Damaged spool files set aside.", value=float(len(self._spool["set_aside"]))
        )


def exposition(summary: dict[str, Any] | None, spool: dict[str, Any]) -> bytes:
    """The API's scrape: the counts, the database's gauges where it answers (`summary`), and this machine's spool."""
    registry = CollectorRegistry()
    registry.register(_Machine(spool, up=summary is not None))
    if summary is not None:
        registry.register(_Summary(summary))
    return generate_latest(counted()) + generate_latest(registry)
