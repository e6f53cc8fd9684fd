"""Puts the pieces together. The one module that may import everything."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_relay import steps
from reward_relay.admission import Admission
from reward_relay.alerting import Alerting
from reward_relay.bulk import Bulk
from reward_relay.conditions import Watched
from reward_relay.contracts import Platform, SourceSettings, Vendor
from reward_relay.db.engine import Database
from reward_relay.db.spool import Spool, spool_path
from reward_relay.diffing import Diffing, Side
from reward_relay.errors import ConfigurationError
from reward_relay.evidence import Evidence
from reward_relay.explaining import route_troubles
from reward_relay.glance import Glance
from reward_relay.guards import guards_of
from reward_relay.heartbeat import Heartbeat, Kind
from reward_relay.intake import Intake
from reward_relay.jobs import Job, Result, source_party, vendor_party
from reward_relay.loading import Configuration, configuration
from reward_relay.ops import Ops
from reward_relay.outbound import Outbound, TransportFactory
from reward_relay.platforms import PLATFORMS
from reward_relay.polling import Poller
from reward_relay.purging import Purging
from reward_relay.reconciling.comparing import AT_ONCE, Limits
from reward_relay.reconciling.service import Reconciliation
from reward_relay.reloading import Reloading, changes, guard_changes
from reward_relay.resealing import Resealing
from reward_relay.sealing import Sealing
from reward_relay.settings import Settings
from reward_relay.shelter import Shelter
from reward_relay.steps import Parties
from reward_relay.vendors import VENDORS
from reward_relay.worker import Timing, Worker

SOURCE_TYPES = {name: adapter.settings for name, adapter in PLATFORMS.items()}
VENDOR_TYPES = {name: adapter.settings for name, adapter in VENDORS.items()}


def configured(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Configuration:
    """Where the settings come from; they are checked against every adapter's own."""
    return configuration(SOURCE_TYPES, VENDOR_TYPES, path=path, environ=environ)


if TYPE_CHECKING:
    from reward_relay.tracing import Tracing


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of file and environment.

    Raises:
        ConfigurationError: one line for each mistake.
    """
    return configured(path, environ).load()


def tracing_of(settings: Settings) -> "Tracing | None":
    """Spans to the configured collector, None where there is none: then nothing of OpenTelemetry is loaded.

    Raises:
        ConfigurationError: the optional packages are missing.
    """
    check_extras(settings)
    if settings.otlp_endpoint is None:
        return None
    from reward_relay.tracing import Tracing, exported_to

    return Tracing(exported_to(settings.otlp_endpoint))


def check_extras(settings: Settings) -> None:
    """See that the optional packages are there which the settings need.

    Raises:
        ConfigurationError: they are not.
    """
    if settings.otlp_endpoint is not None:
        try:
            import_module("reward_relay.tracing")
        except ImportError as error:
            problem = f"otlp_endpoint: OpenTelemetry is not installed ({error.name} is missing)"
            raise ConfigurationError([f"{problem}; run pip install 'reward-relay[otel]', or unset it"]) from None


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
    reconciliation: Reconciliation
    reloading: Reloading
    diffing: Diffing
    evidence: Evidence
    shelter: Shelter
    purging: Purging
    resealing: Resealing
    tracing: "Tracing | None" = None

    def sheltering(self) -> AbstractAsyncContextManager[None]:
        """While the block lasts, webhooks are taken also when PostgreSQL is away. For processes that answer them."""
        return self.shelter.running(self.intake.take_spooled)

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
        admission = Admission(lambda: self.reloading.guards)
        return Worker(self.database, shares, step, timing, self.tracing, whole=slots, admission=admission)

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
        watched = Watched(alerts, frozenset(parties), quiet_after, lambda: self.reloading.guards)
        return Alerting(self.database, self.outbound, watched, self.settings.public_url)

    def heartbeat(self, kind: Kind) -> Heartbeat:
        """Tells everybody, through the database, that this process lives and which routes it uses."""
        return Heartbeat(self.database, kind, lambda: self.reloading.digest, lambda: self.reloading.trouble)

    async def close(self) -> None:
        """Store what was taken, and close every connection."""
        await self.reconciliation.close()
        await self.intake.close()
        await self.outbound.close()
        await self.database.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)


def build(
    settings: Settings,
    database_url: str,
    *,
    source: Configuration | None = None,
    transport: TransportFactory | None = None,
    pool_size: int = 8,
    tracing: "Tracing | None" = None,
) -> Relay:
    """A process's relay. `transport` replaces the HTTP transport of all outbound calls (for tests).

    With the `source` of the settings, the routes are those of its file as it is just now.

    Raises:
        ConfigurationError: an adapter does not accept its settings.
    """
    database = Database(database_url, pool_size=pool_size)
    outbound = Outbound(
        timeout_s=settings.call_deadline_s, private_hosts=frozenset(settings.private_hosts), transport=transport
    )
    parties = _parties(settings, outbound)
    if settings.alerts.url is not None:
        outbound.caller("alerts", settings.alerts.url.get_secret_value())  # a receiver that may not be called: now
    source = source or replace(configured(Path(), {}), path=None)
    reloading = Reloading(settings, source, warn=lambda routes: route_troubles(routes, parties))
    sealing, routes, guards = Sealing(settings.encryption_keys), lambda: reloading.routes, lambda: reloading.guards
    shelter = Shelter(database, spool_of(settings, database), sealing.open)
    intake = Intake(database, parties.platforms, routes, tracing, shelter, guards, sealing)
    ops = Ops(database, intake, parties, reloading, shelter)
    return Relay(
        settings=settings,
        database=database,
        outbound=outbound,
        parties=parties,
        intake=intake,
        ops=ops,
        bulk=Bulk(database, ops.actions),
        glance=Glance(database, ops),
        reconciliation=Reconciliation(database, intake, parties, _limits(settings)),
        reloading=reloading,
        shelter=shelter,
        evidence=Evidence(database, parties, intake.opened),
        diffing=_diffing(database, settings.sources, parties, reloading, sealing),
        purging=Purging(database, intake),
        resealing=Resealing(database, sealing),
        tracing=tracing,
    )


def spool_of(settings: Settings, database: Database, name: str | None = None) -> Spool | None:
    """This machine's spool of the database, or the file of that name beside it; None where there shall be none."""
    if not settings.spool_mb:
        return None
    path = spool_path(settings.spool_dir or settings.data_dir / "spool", database.address)
    sealing = Sealing(settings.encryption_keys)
    file = path.with_name(name) if name else path
    return Spool(file, settings.spool_mb << 20, seal=sealing.pack, unseal=sealing.unpack)


def _limits(settings: Settings) -> Limits:
    at_once = min([AT_ONCE, *(each.max_in_flight for each in settings.vendors.values())])
    return Limits(settings.reconcile_days, settings.pending_days, settings.call_deadline_s, at_once)


def _parties(settings: Settings, outbound: Outbound) -> Parties:
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
    return Parties(platforms, vendors, settings.callback_base, settings.first_check_s, checks)


def _diffing(
    database: Database,
    running: Mapping[str, SourceSettings],
    parties: Parties,
    reloading: Reloading,
    sealing: Sealing,
) -> Diffing:
    """Comparing with other configurations. Their adapters read payloads, and have no way out of this process."""

    def current() -> Side:
        routes, guards = reloading.routes, reloading.guards
        intake = Intake(database, parties.platforms, lambda: routes, guards=lambda: guards, sealing=sealing)
        return Side(intake, parties, guards=guards)

    def propose(content: bytes) -> Side:
        settings = reloading.proposed(content)
        nowhere = Outbound(private_hosts=frozenset(settings.private_hosts), transport=_no_network)
        others, routes, guards = _parties(settings, nowhere), settings.routes, guards_of(settings)
        same = {name: each for name, each in parties.platforms.items() if settings.sources.get(name) == running[name]}
        others = replace(others, platforms={**others.platforms, **same})
        unusual = (*reloading.restart_before(settings), *route_troubles(routes, others))
        differing = (*changes(reloading.routes, routes), *guard_changes(reloading.guards, guards))
        intake = Intake(database, others.platforms, lambda: routes, guards=lambda: guards, sealing=sealing)
        return Side(intake, others, unusual, differing, guards)

    return Diffing(database, current, propose)


def _no_network() -> Any:
    raise AssertionError("a comparison calls nobody")


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
