"""What can be wrong between us and the others, and what to do about it. Judges rows and answers; asks nobody.

A sentence names only what a vendor's or platform's adapter lets out (ids, status words, amounts): never claim data.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any

from reward_relay.contracts import Progress, VendorOrder
from reward_relay.jobs import source_party, vendor_party
from reward_relay.states import Outcome, State

Row = Mapping[str, Any]
MOST_KEPT = 1000
"""Findings that a report lists; it counts them all."""
TOLD_WITHIN = timedelta(hours=12)
"""The attempts of a closing call take nine hours."""


class Kind(StrEnum):
    """What is wrong."""

    MISSING_THERE = "missing_there"
    """We hold an order id of the vendor's, and the vendor has no such order."""
    EXTRA_THERE = "extra_there"
    """The vendor's statement has an order that we have not, or has one of ours twice."""
    DIFFERENT_AMOUNT = "different_amount"
    """The vendor's order is worth something else than what we ordered."""
    ENDED_THERE = "ended_there"
    """The vendor is done; here the order is still open."""
    DIFFERENT_ENDING = "different_ending"
    """It ended here otherwise than there."""
    MISSING_HERE = "missing_here"
    """The platform waits for a reward of which we have no order."""
    OPEN_THERE = "open_there"
    """We have told the platform how it ended; the platform still waits."""
    GONE_THERE = "gone_there"
    """Our order is open; the platform waits for it no more."""
    NOT_TOLD = "not_told"
    """The outcome has long been decided, and the platform not been told."""
    MAYBE_THERE = "maybe_there"
    """An attempt to place it reached the vendor, or may have, and here it is not placed."""
    PENDING_LONG = "pending_long"
    """At the vendor for more than `pending_days`."""


class Repair(StrEnum):
    """What can safely be done about it without a person's judgement of the single order."""

    NEXT_STEP = "next_step"
    """Make the order's next step due now: it asks before it acts."""
    TAKE = "take"
    """Take the reward from the platform's open list, as its poll would."""
    HOLD = "hold"
    """Hold the order, with the reason, before more is done for it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `state` and `updated_at` are the order's, so that a repair can see whether it moved."""

    kind: Kind
    party: str
    ours: str
    theirs: str
    todo: str
    order_id: str | None = None
    po_number: str | None = None
    external_id: str | None = None
    state: str | None = None
    updated_at: str | None = None
    repair: Repair | None = None


@dataclass(slots=True)
class Report:
    """What a run has found so far."""

    scope: Mapping[str, Any]
    started_at: datetime
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)
    looked: dict[str, int] = field(default_factory=dict)

    def add(self, *found: Finding) -> None:
        """Count findings, and keep them while there is room."""
        for each in found:
            self.counts[each.kind] = self.counts.get(each.kind, 0) + 1
            if len(self.findings) < MOST_KEPT:
                self.findings.append(each)

    def count(self, what: str, number: int = 1) -> None:
        """Count what was looked at: orders, asked, listed, rows."""
        self.looked[what] = self.looked.get(what, 0) + number

    def doubt(self, kind: Kind) -> None:
        """Repair none of these: what they rest on is not to be believed."""
        self.findings = [replace(each, repair=None) if each.kind is kind else each for each in self.findings]

    def content(self, finished_at: datetime) -> dict[str, Any]:
        """The report as it is kept. `complete`: everything in the scope was looked at."""
        return {
            "scope": dict(self.scope),
            "started_at": self.started_at,
            "finished_at": finished_at,
            "complete": not self.problems,
            "problems": self.problems,
            "bad_rows": self.bad_rows,
            "looked": self.looked,
            "counts": self.counts,
            "not_listed": sum(self.counts.values()) - len(self.findings),
            "repairable": sum(each.repair is not None for each in self.findings),
            "findings": [asdict(each) for each in self.findings],
        }


def money(amount: Decimal | None) -> str:
    """An amount with two decimals at least; '' where it is not known."""
    if amount is None:
        return ""
    exact = amount.normalize()
    return f"{exact:f}" if -int(exact.as_tuple().exponent) > 2 else f"{exact:.2f}"


def _of(row: Row, kind: Kind, party: str, theirs: str, todo: str, repair: Repair | None = None) -> Finding:
    came_from = f" (was {row['held_from']})" if row["state"] == State.ON_HOLD else ""
    ours = f"{row['state']}{came_from} {row['outcome'] or ''}".strip()
    if row["amount"] is not None:
        ours += f", {money(row['amount'])}"
    return Finding(
        kind,
        party,
        ours,
        theirs,
        todo,
        str(row["id"]),
        row["po_number"],
        row["external_id"],
        row["state"],
        row["updated_at"].isoformat(),
        None if row["claimed"] else repair,
    )


def _stands(row: Row) -> str:
    """The state of an order, or the one that it was held in."""
    return str(row["held_from"] if row["state"] == State.ON_HOLD else row["state"])


# --- a vendor's answer -----------------------------------------------------------------------------------


def not_at_vendor(row: Row, theirs: str = "no such order") -> list[Finding]:
    """The vendor does not know an order whose id it gave us. Of one that was not fulfilled nothing is owed."""
    party, there = vendor_party(row["vendor"]), f"no order {row['vendor_order_id']}"
    if row["outcome"] not in (None, Outcome.FULFILLED) or there in (row["hold_reason"] or ""):
        return []
    todo = f"look for {row['po_number']} in the portal of {row['vendor']}"
    if row["state"] == State.PLACED:
        todo += "; the repair holds the order until you have"
        return [_of(row, Kind.MISSING_THERE, party, theirs, todo, Repair.HOLD)]
    if row["state"] == State.ON_HOLD:
        todo += ". There: release. Not there: refuse it, or order by hand and close it as fulfilled"
    else:
        todo += "; if it is not there, the recipient got nothing: order it by hand"
    return [_of(row, Kind.MISSING_THERE, party, theirs, todo)]


def at_vendor(row: Row, order: VendorOrder) -> list[Finding]:
    """Our order beside the vendor's."""
    return [*amounts(row, order), *_endings(row, order)]


def _told(order: VendorOrder) -> str:
    return ", ".join(part for part in (order.word[:60] or order.progress, money(order.amount)) if part)


def amounts(row: Row, order: VendorOrder) -> list[Finding]:
    """What we ordered beside what the vendor's order is worth."""
    if row["amount"] is None or order.amount is None or order.progress is Progress.REFUSED:
        return []
    difference = order.amount - row["amount"]
    if not difference:
        return []
    more = f"{money(abs(difference))} {'more' if difference > 0 else 'less'} there than we ordered"
    todo = f"{more}: ask {row['vendor']} about {row['po_number']}, and correct it there or in the books"
    return [_of(row, Kind.DIFFERENT_AMOUNT, vendor_party(row["vendor"]), _told(order), todo)]


def _endings(row: Row, order: VendorOrder) -> list[Finding]:
    party, there, name = vendor_party(row["vendor"]), _told(order), row["vendor"]
    stands = _stands(row)
    if stands in (State.RECEIVED, State.PLACED):
        if stands == State.PLACED and order.progress is Progress.PENDING:
            return []
        kind = Kind.ENDED_THERE if stands == State.PLACED else Kind.MAYBE_THERE
        known = f"{name} {'has the order' if kind is Kind.MAYBE_THERE else 'is done'}"
        if row["state"] == State.ON_HOLD:
            return [_of(row, kind, party, there, f"{known} while it is held here; release goes on with it")]
        todo = f"{known}; the repair takes the next step now, which finds it there"
        return [_of(row, kind, party, there, todo, Repair.NEXT_STEP)]
    if (row["outcome"] == Outcome.FULFILLED) == (order.progress is Progress.FULFILLED) and not (
        row["outcome"] != Outcome.FULFILLED and order.progress is Progress.PENDING
    ):
        return []
    if row["outcome"] == Outcome.FULFILLED:
        todo = f"the platform hears fulfilled, {name} says otherwise: ask {name}, and make it good by hand"
    else:
        todo = (
            f"it is {row['outcome']} here, and {name} delivers or will: cancel {row['po_number']} there, or charge it"
        )
    return [_of(row, Kind.DIFFERENT_ENDING, party, there, todo)]


# --- a vendor's statement --------------------------------------------------------------------------------


def unknown_order(vendor: str, key: str, theirs: str, *, ours: bool) -> Finding:
    """The statement has an order that we have not."""
    todo = (
        f"the PO number looks like ours, and no order here has it: ask {vendor} who ordered it, and what it delivered"
        if ours
        else f"not ordered by this relay: somebody else uses the account, or it was bought by hand; ask {vendor}"
    )
    return Finding(Kind.EXTRA_THERE, vendor_party(vendor), "no order", theirs, todo, po_number=key)


def elsewhere(row: Row, vendor: str, theirs: str) -> Finding:
    """The statement has one of our orders that went to another vendor, or to none."""
    todo = f"our order went to {row['vendor'] or 'nobody'}, and {vendor} lists it: ask {vendor} who ordered it there"
    return _of(row, Kind.EXTRA_THERE, vendor_party(vendor), theirs, todo)


def billed(row: Row, order: VendorOrder) -> list[Finding]:
    """An order of a statement that does not say how it ended: what is refused or cancelled here costs nothing."""
    if row["outcome"] in (None, Outcome.FULFILLED) or not order.amount or order.amount < 0:
        return amounts(row, order)
    todo = f"it is {row['outcome']} here, and {row['vendor']} charges for it: ask for the money back, or for the card"
    return [_of(row, Kind.DIFFERENT_ENDING, vendor_party(row["vendor"]), _told(order), todo)]


def twice_there(row: Row, vendor: str, theirs: str) -> Finding:
    """The statement has one of our orders more than once."""
    todo = f"{vendor} lists {row['po_number']} more than once: ask it to take one back, unless each is a part"
    return _of(row, Kind.EXTRA_THERE, vendor_party(vendor), theirs, todo)


def not_on_statement(row: Row) -> Finding:
    """We had it fulfilled, and the statement of that time does not have it."""
    todo = f"fulfilled, and not on the statement: look at the next one, then ask {row['vendor']} for {row['po_number']}"
    return _of(row, Kind.MISSING_THERE, vendor_party(row["vendor"]), "not on the statement", todo)


# --- a platform's open list ------------------------------------------------------------------------------


def not_here(source: str, external_id: str, *, unreadable: str | None = None) -> Finding:
    """The platform waits for a reward of which we have no order."""
    if unreadable is not None:
        todo = f"it cannot be read: {unreadable}. Mend that, then replay its delivery or reconcile again"
        return Finding(
            Kind.MISSING_HERE, source_party(source), "no order", "open", todo, external_id=external_id or None
        )
    todo = "its webhook never came, or was not understood; the repair takes it from the open list"
    return Finding(
        Kind.MISSING_HERE,
        source_party(source),
        "no order",
        "open",
        todo,
        external_id=external_id,
        repair=Repair.TAKE,
    )


def still_open(row: Row) -> Finding:
    """Closed here, and the platform still lists it."""
    told = {Outcome.FULFILLED: "mark it fulfilled", Outcome.REFUSED: "refuse it"}.get(row["outcome"], "decide it")
    todo = f"closed is final here: {told} at {row['source']} by hand ({row['external_id']})"
    return _of(row, Kind.OPEN_THERE, source_party(row["source"]), "open", todo)


def not_listed(row: Row) -> list[Finding]:
    """Open here, and no longer on the platform's whole open list."""
    if row["state"] == State.SETTLED or _stands(row) == State.SETTLED or GONE in (row["hold_reason"] or ""):
        return []
    party, unbought = source_party(row["source"]), _stands(row) == State.RECEIVED and not row["in_doubt"]
    decided, repair = f"somebody decided it at {row['source']}", None
    if row["state"] == State.RECEIVED and unbought:
        todo, repair = f"{decided}; the repair holds it before anything is bought", Repair.HOLD
    elif unbought:
        todo = f"{decided}, and nothing is bought: close it, if that is right"
    else:
        todo = (
            f"{decided}, and {row['vendor']} has or may have it: if it was refused there, cancel it at {row['vendor']}"
        )
    return [_of(row, Kind.GONE_THERE, party, "not open", todo, repair)]


GONE = "no longer open at"
"""Part of the reason an order is held for by the repair."""


def hold_reason(finding: Mapping[str, Any], row: Row) -> str:
    """What an order is held for, and what would free it."""
    if finding["kind"] == Kind.GONE_THERE:
        return (
            f"the reward is {GONE} {row['source']}: it was decided or taken back there. Nothing is bought yet. "
            f"Close it if that is right; release places it all the same"
        )
    return (
        f"{row['vendor']} has no order {row['vendor_order_id']}. Look for {row['po_number']} there: if it is there, "
        f"release goes on asking; if not, refuse it, or order by hand and close it as fulfilled"
    )


# --- our own orders --------------------------------------------------------------------------------------


def own(row: Row, now: datetime, pending_days: int) -> list[Finding]:
    """What is wrong with an open order by itself."""
    age = now - (row["since"] or row["created_at"])
    if row["outcome"] and row["state"] != State.CLOSED and age > TOLD_WITHIN:
        held = row["state"] == State.ON_HOLD
        todo = f"{row['outcome']} for {_days(age)}, and {row['source']} has not been told; " + (
            "do what the hold reason says" if held else "the repair tries again now"
        )
        party = source_party(row["source"])
        return [_of(row, Kind.NOT_TOLD, party, "not told", todo, None if held else Repair.NEXT_STEP)]
    if row["state"] == State.ON_HOLD and row["in_doubt"] and not row["vendor_order_id"] and row["vendor"]:
        todo = (
            f"look for {row['po_number']} at {row['vendor']} before anything is ordered by hand; then release or close"
        )
        return [_of(row, Kind.MAYBE_THERE, vendor_party(row["vendor"]), "not known", todo)]
    if row["state"] == State.PLACED and age > timedelta(days=pending_days):
        todo = f"at {row['vendor']} for {_days(age)}: ask it about {row['po_number']}"
        return [_of(row, Kind.PENDING_LONG, vendor_party(row["vendor"]), "pending", todo)]
    return []


def _days(age: timedelta) -> str:
    hours = int(age.total_seconds() // 3600)
    return f"{hours} hours" if hours < 48 else f"{hours // 24} days"
