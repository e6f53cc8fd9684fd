"""What Prometheus scrapes: intake counted in each process, orders and parties from the database at the scrape."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
INTAKE = Counter("relay_deliveries", "Webhooks by source and verdict.", ["source", "verdict"], registry=REGISTRY)
INTAKE_SECONDS = Histogram(
    "relay_delivery_seconds",
    "Webhook received to committed.",
    registry=REGISTRY,
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)


class _Summary(Collector):
    def __init__(self, summary: dict[str, Any]) -> None:
        self._summary = summary

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("relay_orders", "Orders by state.", labels=["state"])
        for state, number in self._summary["states"].items():
            states.add_metric([state], number)
        yield states
        oldest = self._summary["oldest_due"]
        late = float(oldest["late_s"]) if oldest else 0.0
        yield GaugeMetricFamily("relay_oldest_due_seconds", "How late the oldest due order is.", value=late)
        for name, text in (("waiting", "Orders that wait for a party."), ("due", "Of these, due now.")):
            waiting = GaugeMetricFamily(f"relay_party_{name}", text, labels=["party"])
            for party in self._summary["parties"]:
                waiting.add_metric([party["party"]], party[name])
            yield waiting
        flow = GaugeMetricFamily("relay_party_flows", "1: called; 0: paused, or its breaker is open.", labels=["party"])
        for party in self._summary["parties"]:
            flow.add_metric([party["party"]], float(not party["paused"] and party["breaker"] == "closed"))
        yield flow
        trouble = GaugeMetricFamily("relay_deliveries_in_trouble", "Quarantined and rejected ones.", labels=["verdict"])
        for verdict, number in self._summary["trouble"].items():
            trouble.add_metric([verdict], number)
        yield trouble


def exposition(summary: dict[str, Any]) -> bytes:
    """The scrape's text: this process's counters and the database's gauges."""
    registry = CollectorRegistry()
    registry.register(_Summary(summary))
    return generate_latest(REGISTRY) + generate_latest(registry)
