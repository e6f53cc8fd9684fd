"""What a tired person should see first: what needs them, what waits and for whom, what flowed lately."""

import asyncio
import re
from collections import Counter

from reward_relay.db import overview
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.guards import NEARLY
from reward_relay.ops import Ops
from reward_relay.placing import words
from reward_relay.states import Outcome

HOUR, DAY = (300, 12), (3600, 24)
"""Charts: seconds of a bar, number of bars."""
PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\([^)]*\)|\S*\d\S*")
MOST_NEEDS = 8
LATE_S = 60.0


class Glance:
    """The overview over one database."""

    def __init__(self, database: Database, ops: Ops) -> None:
        self._database = database
        self._ops = ops

    async def look(self) -> Row:
        """The summary, `needs` (most urgent first), and `flow` of the last hour and day."""
        found, (reasons, came, ended) = await asyncio.gather(self._ops.summary(), self._lately())
        found["needs"] = [
            *_of_the_house(found),
            *_of_guards(found),
            *_of_parties(found),
            *_of_orders(found, reasons),
            *_of_deliveries(found),
            *_of_alerts(found),
        ]
        found["flow"] = {
            name: {"width_s": width_s, "buckets": _buckets(width_s // FINE_S, number, came, ended)}
            for name, (width_s, number) in CHARTS.items()
        }
        return found

    async def _lately(self) -> tuple[list[Row], Counter[int], dict[str, Counter[int]]]:
        """Why orders are held, and what flowed in the time of the longest chart, in buckets of `FINE_S` seconds."""
        longest = max(width_s * number for width_s, number in CHARTS.values())
        async with self._database.transaction() as connection:
            came, ended = await overview.flow(connection, FINE_S, longest // FINE_S)
            return await overview.held(connection), came, ended


CHARTS = {"hour": HOUR, "day": DAY}
FINE_S = min(width_s for width_s, _ in CHARTS.values())
"""Every chart's bars are made of such buckets."""


def _buckets(fine: int, number: int, came: Counter[int], ended: dict[str, Counter[int]]) -> list[Row]:
    """Oldest first, each of `fine` fine ones; `ago` counts back from the present one."""
    kinds = {"came": came} | {str(each): ended.get(each, Counter()) for each in Outcome}
    return [
        {"ago": ago, **{kind: sum(counts[fine * ago + n] for n in range(fine)) for kind, counts in kinds.items()}}
        for ago in range(number - 1, -1, -1)
    ]


def _need(urgency: str, text: str, page: str, **query: str) -> Row:
    return {"urgency": urgency, "text": text, "page": page, "query": query}


def _of_the_house(found: Row) -> list[Row]:
    """Whether anybody works, and with the configuration that is in the file."""
    needs = []
    if warning := found["spool"]["warning"]:
        needs.append(_need("critical", warning, "deliveries"))
    workers = [each for each in found["processes"] if each["kind"] == "worker"]
    if workers and not any(each["alive"] for each in workers):
        text = f"no worker runs (last seen on {workers[-1]['host']}): nothing is placed, checked or closed"
        needs.append(_need("critical", text, "parties"))
    trouble = found["configuration"]["trouble"]
    others = {each["trouble"] for each in found["processes"] if each["alive"] and each["trouble"]} - {trouble}
    for each in [trouble, *sorted(others)] if trouble else sorted(others):
        needs.append(_need("critical", f"the configuration file is not in use: {each}", "routes"))
    if len({each["routes"] for each in found["processes"] if each["alive"]}) > 1:
        needs.append(_need("warning", "not all processes use the same routes; wait a moment, or restart", "parties"))
    for key in found["configuration"]["restart_needed"]:
        needs.append(_need("note", f"changed in the file, and in use only after a restart: {key}", "routes"))
    return needs


def _of_guards(found: Row) -> list[Row]:
    """Placing that is stopped, caps that are nearly used, orders that wait for a second person."""
    needs = []
    if found["placing"]["paused"]:
        needs.append(_need("critical", f"{words(found['placing'])}; orders are taken, and wait", "parties"))
    for each in found["caps"]:
        if each["part"] >= NEARLY:
            held = f", {_counted(each['held'], 'order')} held" if each["held"] else ""
            text = f"{each['cap']}: {each['used']:,.10g} of {each['limit']:,.10g} used today{held}"
            needs.append(_need("warning", text, "routes"))
    if number := found["asked"]:
        text = f"{_counted(number, 'order')} may wait for a second person to release"
        needs.append(_need("warning", text, "orders", state="on_hold"))
    return needs


def _of_alerts(found: Row) -> list[Row]:
    """What takes time to notice; the other alerts are looked at anew above."""
    slow = {"quiet": "deliveries", "unclosed": "orders"}
    needs = []
    for each in found["alerts"]:
        condition, _, subject = each["key"].partition("/")
        if condition in slow:
            state = {"state": "settled"} if condition == "unclosed" else {}
            needs.append(_need(each["severity"], each["text"], slow[condition], source=subject, **state))
    return needs


def _of_parties(found: Row) -> list[Row]:
    needs = []
    for each in found["parties"]:
        name, waiting = each["party"], _counted(each["waiting"], "order")
        if each["paused"]:
            text = f"{name} is paused, {waiting} waiting for it: {each['why'] or 'no reason given'}"
            needs.append(_need("critical", text, "parties"))
        elif each["breaker"] == "open":
            needs.append(_need("warning", f"{name} fails, {waiting} waiting for it: {each['why']}", "parties"))
    return needs


def _of_orders(found: Row, reasons: list[Row]) -> list[Row]:
    """Held orders by kind of reason: what differs from order to order (ids, names, figures) does not part them."""
    kinds: dict[str, list[Row]] = {}
    for each in reasons:
        kinds.setdefault(PARTICULARS.sub("…", each["hold_reason"]), []).append(each)
    ranked = sorted(kinds.values(), key=lambda group: -sum(each["number"] for each in group))
    needs = []
    for group in ranked[:MOST_NEEDS]:
        number = sum(each["number"] for each in group)
        text = f"{_counted(number, 'order')} on hold: {group[0]['hold_reason']}"
        query = {"state": "on_hold"} if number > 1 else {"q": group[0]["first"]}
        needs.append(_need("warning", text, "orders", **query))
    if len(ranked) > MOST_NEEDS:
        needs.append(_need("warning", f"and {len(ranked) - MOST_NEEDS} more reasons", "orders", state="on_hold"))
    late = found["oldest_due"]
    paused = found["placing"]["paused"]
    stopped = {
        each["party"]
        for each in found["parties"]
        if each["paused"] or each["breaker"] == "open" or (paused and each["party"].startswith("vendor:"))
    }
    if late and late["late_s"] > LATE_S and late["party"] not in stopped:
        text = (
            f"order {late['po_number']} is due for {late['party']}, {late['late_s'] / 60:.0f} min late: is a worker up?"
        )
        needs.append(_need("critical", text, "orders", q=late["po_number"]))
    return needs


def _of_deliveries(found: Row) -> list[Row]:
    needs = []
    trouble = found["trouble"]
    if number := trouble.get("quarantined"):
        text = f"{_counted(number, 'delivery', 'deliveries')} not understood (quarantined)"
        needs.append(_need("warning", text, "deliveries", verdict="quarantined"))
    if number := trouble.get("rejected"):
        text = f"{_counted(number, 'delivery', 'deliveries')} rejected: wrong secret or signature"
        needs.append(_need("note", text, "deliveries", verdict="rejected"))
    return needs


def _counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
