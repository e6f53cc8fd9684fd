"""One comparison: the platforms' open lists, our open orders, our closed ones; or a vendor's statement.

Orders are read in pages, parties asked outside of any transaction, and an order that moved meanwhile is no finding:
its row is read again before it is judged.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from reward_relay.capabilities import KnowsWords, ListsOpen
from reward_relay.contracts import Informational, Progress, VendorOrder, Withdrawn
from reward_relay.db import parties as health
from reward_relay.db import reconcile
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import CallFailed, Unreadable
from reward_relay.intake import Intake
from reward_relay.jobs import source_party
from reward_relay.outbound import failure_of
from reward_relay.reconciling import findings
from reward_relay.reconciling.asking import Asking
from reward_relay.reconciling.findings import Report
from reward_relay.reconciling.statements import OUR_PO, Entry, Statement
from reward_relay.states import Outcome, State
from reward_relay.steps import Parties

AT_ONCE = 3
"""Questions to vendors at a time, whatever they allow: orders go first."""
SAMPLE = 200
"""About so many closed orders are asked about where only a sample is wanted."""
LIST_DEADLINE_S = 120.0
HANDFUL = 20
"""Orders of which the rows are read again at once."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What to compare. Orders that came less than `min_age_min` minutes ago still move, and are left out.

    With a `statement` (a file of `vendor`, which may be None where there is but one) nobody is asked.
    """

    days: int | None = None
    closed: Literal["none", "sample", "all"] = "sample"
    limit: int = 5000
    min_age_min: int = 15
    statement: Path | None = None
    vendor: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The configuration's: days back, days an order may be pending, seconds a call may take, questions at a time."""

    days: int
    pending_days: int
    call_deadline_s: float
    at_once: int = AT_ONCE


class Comparison:
    """One run, which fills `report`. `tell` is awaited with what is being looked at; it may raise to stop the run."""

    def __init__(
        self,
        database: Database,
        intake: Intake,
        adapters: Parties,
        limits: Limits,
        scope: Scope,
        report: Report,
        tell: Callable[[str], Awaitable[None]],
    ) -> None:
        self._database = database
        self._intake = intake
        self._adapters = adapters
        self._limits = limits
        self._scope = scope
        self._report = report
        self._asking = Asking(
            adapters.vendors, limits.call_deadline_s, limits.at_once, scope.limit, report.problems.append
        )
        self._listed: dict[str, set[str]] = {}
        self._tell = tell

    async def compare(self) -> None:
        """Fill the report.

        Raises:
            Invalid: the statement cannot be read.
        """
        if self._scope.statement is not None:
            await self._read_statement(self._scope.statement, self._scope.vendor or "")
            return
        for source, platform in self._adapters.platforms.items():
            if isinstance(platform, ListsOpen):
                await self._read_list(source, platform)
        await self._look_at_open()
        await self._look_at_closed()
        self._asking.conclude()
        if any(self._asking.doubted(name) for name in self._adapters.vendors):
            self._report.doubt(findings.Kind.MISSING_THERE)

    async def _progress(self, doing: str, done: int = 0) -> None:
        self._report.count("orders", done)
        await self._tell(doing)

    async def _mind_health(self) -> None:
        """A vendor that is paused or broken has other worries than our questions."""
        async with self._database.transaction() as connection:
            parties = await health.all_parties(connection)
        for each in parties:
            kind, _, name = each["party"].partition(":")
            if kind == "vendor" and (each["paused"] or each["breaker"] == "open"):
                self._asking.stop(name, f"it is {'paused' if each['paused'] else 'not answering'}: {each['why']}")

    # --- platforms ---------------------------------------------------------------------------------------

    async def _read_list(self, source: str, platform: ListsOpen) -> None:
        await self._progress(f"the open list of {source}")
        async with self._database.transaction() as connection:
            at = await reconcile.database_time(connection)
        try:
            async with asyncio.timeout(LIST_DEADLINE_S):
                found = await platform.open_list()
        except (CallFailed, TimeoutError) as error:
            failure = failure_of(source_party(source), error)
            self._report.problems.append(
                f"{source}: its open list was not read: {failure.detail if failure else error}"
            )
            return
        if found is None:
            return
        bodies, whole = found
        if not whole:
            self._report.problems.append(
                f"{source}: its open list is longer than could be read; nothing is called gone"
            )
        ids, all_read = self._ids(source, bodies)
        self._report.count("listed", len(ids))
        if whole and all_read:
            self._listed[source] = set(ids)
        await self._compare_list(source, ids, at)

    def _ids(self, source: str, bodies: Sequence[bytes]) -> tuple[list[str], bool]:
        """The rewards of the list that ask something of us, and whether every entry could be read."""
        ids: list[str] = []
        all_read = True
        for body in bodies:
            try:
                parsed = self._intake.parse(source, body, "application/json")
            except Unreadable as error:
                self._report.add(findings.not_here(source, "", unreadable=str(error)))
                all_read = False
                continue
            if not isinstance(parsed, Informational | Withdrawn):
                ids.append(parsed.external_id)
        return ids, all_read

    async def _compare_list(self, source: str, ids: Sequence[str], at: datetime) -> None:
        for start in range(0, len(ids), reconcile.PAGE):
            some = ids[start : start + reconcile.PAGE]
            async with self._database.transaction() as connection:
                known = await reconcile.by_external_ids(connection, source, some)
            for external_id in some:
                row = known.get(external_id)
                if row is None:
                    self._report.add(findings.not_here(source, external_id))
                elif row["state"] == State.CLOSED and row["updated_at"] < at - timedelta(minutes=1):
                    self._report.add(findings.still_open(row))

    # --- our orders --------------------------------------------------------------------------------------

    async def _look_at_open(self) -> None:
        started = self._report.started_at
        async for rows in reconcile.open_orders(self._database, self._scope.min_age_min):
            await self._progress("open orders", len(rows))
            await self._mind_health()
            for row in rows:
                self._report.add(*findings.own(row, started, self._limits.pending_days))
                listed = self._listed.get(row["source"])
                if listed is not None and row["external_id"] not in listed and row["created_at"] < started:
                    self._report.add(*findings.not_listed(row))
            await self._ask([row for row in rows if row["vendor_order_id"] and row["vendor"]])

    async def _look_at_closed(self) -> None:
        if self._scope.closed == "none":
            return
        started = self._report.started_at
        first = started - timedelta(days=self._scope.days or self._limits.days)
        last = started - timedelta(minutes=self._scope.min_age_min)
        every = 1
        if self._scope.closed == "sample":
            async with self._database.transaction() as connection:
                every = max(1, await reconcile.count_closed(connection, first) // SAMPLE)
        draw = reconcile.new_draw()
        async for rows in reconcile.closed_orders(self._database, first, last, draw=draw, every=every):
            await self._progress("closed orders", len(rows))
            await self._mind_health()
            await self._ask(rows)

    async def _ask(self, rows: Sequence[Row]) -> None:
        """Ask about them a handful at a time; an order that moved while we asked is left for the next run."""
        for start in range(0, len(rows), HANDFUL):
            some = rows[start : start + HANDFUL]
            answers = await self._asking.about(some)
            await self._progress("questions to vendors")
            self._report.count("asked", len(answers))
            async with self._database.transaction() as connection:
                present = await reconcile.by_ids(connection, [str(row["id"]) for row, _ in answers])
            for row, order in answers:
                now = present.get(str(row["id"]))
                if now is None or now["updated_at"] != row["updated_at"] or now["claimed"]:
                    self._report.count("moved")
                    continue
                found = findings.not_at_vendor(now) if order is None else findings.at_vendor(now, order)
                self._report.add(*found)

    # --- statement ---------------------------------------------------------------------------------------

    async def _read_statement(self, path: Path, vendor: str) -> None:
        statement, seen = Statement(path, self._report.bad_rows.append), set[bytes]()
        for entries in statement.batches():
            await self._progress(f"the statement of {vendor}", len(entries))
            async with self._database.transaction() as connection:
                by_po = await reconcile.by_po_numbers(connection, [each.po_number for each in entries])
                rest = [each.order_id for each in entries if each.order_id and each.po_number not in by_po]
                by_id = await reconcile.by_vendor_orders(connection, vendor, rest)
            for entry in entries:
                row = by_po.get(entry.po_number) or by_id.get(entry.order_id)
                self._compare_entry(vendor, entry, row, seen)
        self._report.looked["rows"] = statement.rows
        if statement.bad_rows:
            self._report.problems.append(f"{statement.bad_rows} rows of {path.name} could not be read")
        if statement.first is None or statement.last is None:
            self._report.problems.append(
                f"{path.name} has no dates like 2026-11-23: orders that are missing on it were not looked for"
            )
            return
        begin = self._report.started_at.replace(hour=0, minute=0, second=0, microsecond=0)
        first = begin + (statement.first - begin.date())
        await self._look_for_missing(vendor, first, begin + (statement.last - begin.date()), seen)

    def _compare_entry(self, vendor: str, entry: Entry, row: Row | None, seen: set[bytes]) -> None:
        theirs = ", ".join(part for part in (entry.order_id, entry.status, findings.money(entry.amount)) if part)
        if row is not None and row["vendor"] != vendor:
            self._report.add(findings.elsewhere(row, vendor, theirs))
            return
        if row is None:
            ours = OUR_PO.fullmatch(entry.po_number) is not None
            self._report.add(findings.unknown_order(vendor, entry.key, theirs, ours=ours))
            return
        other = entry.order_id and row["vendor_order_id"] and entry.order_id != row["vendor_order_id"]
        if row["id"].bytes in seen or other:
            self._report.add(findings.twice_there(row, vendor, theirs))
            return
        seen.add(row["id"].bytes)
        progress = self._meaning(vendor, entry.status)
        order = VendorOrder(entry.order_id, progress or Progress.PENDING, entry.status, amount=entry.amount)
        if progress is None and row["vendor_order_id"]:
            self._report.add(*findings.billed(row, order))
        else:
            self._report.add(*findings.at_vendor(row, order))

    def _meaning(self, vendor: str, word: str) -> Progress | None:
        adapter = self._adapters.vendors[vendor]
        return adapter.progress_of(word) if word and isinstance(adapter, KnowsWords) else None

    async def _look_for_missing(self, vendor: str, first: datetime, last: datetime, seen: set[bytes]) -> None:
        """Fulfilled orders of the statement's days that are not on it; those of its last day may be on the next."""
        async for rows in reconcile.closed_orders(self._database, first, last):
            await self._progress("orders of its time", len(rows))
            for row in rows:
                if row["vendor"] == vendor and row["outcome"] == Outcome.FULFILLED and row["id"].bytes not in seen:
                    self._report.add(findings.not_on_statement(row))
