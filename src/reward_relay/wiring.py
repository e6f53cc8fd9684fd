"""Puts the pieces together. The one module that may import everything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_relay import steps
from reward_relay.alerting import Alerting
from reward_relay.bulk import Bulk
from reward_relay.conditions import Watched
from reward_relay.contracts import Platform, Vendor
from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError
from reward_relay.glance import Glance
from reward_relay.intake import Intake
from reward_relay.jobs import Job, Result, source_party, vendor_party
from reward_relay.loading import load
from reward_relay.ops import Ops
from reward_relay.outbound import Outbound, TransportFactory
from reward_relay.platforms import PLATFORMS
from reward_relay.polling import Poller
from reward_relay.settings import Route, Settings
from reward_relay.steps import Parties
from reward_relay.vendors import VENDORS
from reward_relay.worker import Timing, Worker


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings, checked against every adapter's own.

    Raises:
        ConfigurationError: one line for each mistake.
    """
    sources = {name: adapter.settings for name, adapter in PLATFORMS.items()}
    vendors = {name: adapter.settings for name, adapter in VENDORS.items()}
    return load(sources, vendors, path=path, environ=environ)


@dataclass(slots=True)
class Relay:
    """Everything of one process: the database, the adapters, and the services over them."""

    settings: Settings
    database: Database
    outbound: Outbound
    parties: Parties
    intake: Intake
    ops: Ops
    bulk: Bulk
    glance: Glance
    routes: Callable[[], list[Route]]

    def worker(self, *, processes: int = 1) -> Worker:
        """A worker; of several processes each gets its share of every party's slots."""
        slots = {source_party(name): each.max_in_flight for name, each in self.settings.sources.items()}
        slots |= {vendor_party(name): each.max_in_flight for name, each in self.settings.vendors.items()}
        shares = {party: max(1, count // processes) for party, count in slots.items()}

        async def step(job: Job) -> Result:
            return await steps.run(job, self.parties)

        timing = Timing(
            lease_s=self.settings.lease_s,
            call_deadline_s=self.settings.call_deadline_s,
            breaker_failures=self.settings.breaker_failures,
            breaker_open_s=self.settings.breaker_open_s,
        )
        return Worker(self.database, shares, step, timing)

    def poller(self) -> Poller:
        """Asks the platforms that are configured so for open rewards, and keeps the house."""
        every = {name: getattr(each, "poll_every_s", None) for name, each in self.settings.sources.items()}
        polled = {name: seconds for name, seconds in every.items() if seconds}
        return Poller(self.database, self.intake, self.parties.platforms, polled, self.settings.retention_days)

    def alerting(self) -> Alerting:
        """Looks for what a person should know, and tells."""
        alerts, sources = self.settings.alerts, self.settings.sources
        parties = [*map(source_party, sources), *map(vendor_party, self.settings.vendors)]
        quiet_after = {name: alerts.quiet_after.get(name, alerts.quiet_after_s) for name in sources}
        watched = Watched(alerts, frozenset(parties), quiet_after)
        return Alerting(self.database, self.outbound, watched, self.settings.public_url)

    async def close(self) -> None:
        """Store what was taken, and close every connection."""
        await self.intake.close()
        await self.outbound.close()
        await self.database.close()


def build(
    settings: Settings, database_url: str, *, transport: TransportFactory | None = None, pool_size: int = 8
) -> Relay:
    """A process's relay. `transport` replaces the HTTP transport of all outbound calls (for tests).

    Raises:
        ConfigurationError: an adapter does not accept its settings.
    """
    database = Database(database_url, pool_size=pool_size)
    outbound = Outbound(
        timeout_s=settings.call_deadline_s, private_hosts=frozenset(settings.private_hosts), transport=transport
    )
    problems: list[str] = []
    platforms: dict[str, Platform] = {}
    vendors: dict[str, Vendor] = {}
    for name, source in settings.sources.items():
        _adapt(platforms, PLATFORMS[source.platform].build, name, source, outbound, problems)
    for name, vendor in settings.vendors.items():
        _adapt(vendors, VENDORS[vendor.kind].build, name, vendor, outbound, problems)
    if problems:
        raise ConfigurationError(problems)
    checks = settings.pending_days * steps.CHECKS_A_DAY
    parties = Parties(platforms, vendors, settings.callback_base, settings.first_check_s, checks)

    def routes() -> list[Route]:
        return settings.routes

    intake = Intake(database, platforms, routes)
    ops = Ops(database, intake, parties, routes)
    bulk, glance = Bulk(database, ops.actions), Glance(database, ops)
    return Relay(settings, database, outbound, parties, intake, ops, bulk, glance, routes)


def _adapt(
    into: dict[str, Any],
    make: Callable[[str, Any, Outbound], Any],
    name: str,
    settings: Any,
    outbound: Outbound,
    problems: list[str],
) -> None:
    try:
        into[name] = make(name, settings, outbound)
    except ConfigurationError as error:
        problems += error.problems
