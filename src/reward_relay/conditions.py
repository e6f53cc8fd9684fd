"""What is worth waking somebody for: each condition as a key, a severity, and a text that says what to do.

A text begins with the thing in one sentence, then come the likely cause and the next step. It holds names of sources
and parties, PO numbers and counts. Why an order is held is told in words of ours by the kind of its reason, since the
reason itself may quote a vendor; what a party or the configuration says of itself is cleaned.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import alert_conditions as found_by
from reward_relay.db import caps, placing
from reward_relay.db.alert_conditions import MOST_COUNTED
from reward_relay.db.alerts import Fresh, Turn
from reward_relay.db.queries import Row
from reward_relay.guards import HELD, NEARLY, TWO, Guards, Used, usage
from reward_relay.logs import redact
from reward_relay.settings import Alerts

Severity = Literal["critical", "warning"]
QUOTED = 200
OPAQUE = re.compile(r"(?=[\w\-]*\d)(?=[\w\-]*[A-Za-z])[\w\-+=]{20,}")
MASKED = re.compile(r"\*\*\*@[\w.\-]+|https?://\S+")
BY_A_PERSON = "paused by "


class Kind(NamedTuple):
    """Why orders are held: the phrases of the reason that tell it, what it says, and what to do."""

    name: str
    phrases: tuple[str, ...]
    says: str
    do: str


KINDS = (
    Kind("no_route", ("no route matches this reward",), "no route matches", "Add a route, then release them"),
    Kind(
        "no_product",
        ("has no vendor product for SKU", "and the platform sent none"),
        "the route does not say what to order, or for how much",
        "Complete the route, then release them",
    ),
    Kind(
        "no_address",
        (
            "neither an e-mail address nor a phone number of the recipient is known",
            "the postal address of the recipient lacks",
        ),
        "the recipient cannot be reached",
        "Complete the person at the platform, then release them",
    ),
    Kind(
        "cap",
        (HELD,),
        "a cap holds them",
        "Find out whether the route's value and the number are right: then raise the cap and release, else refuse",
    ),
    Kind("two_persons", (TWO,), "taken by hand, for much money", "Two persons release them, or one refuses"),
    Kind(
        "refuses_us",
        ("Mend it, then resume",),
        "the other side refuses us, not them (account, key, access)",
        "Mend that, then resume the party: they are released with it",
    ),
    Kind(
        "known_there",
        ("already, and the answer does not say its id",),
        "the vendor has them and does not say as what",
        "Find the PO number in its portal, tell the platform, then close them",
    ),
    Kind(
        "refused",
        ("Mend the cause and release, or refuse the reward",),
        "the other side gave a definite no",
        "Read its words at the order; mend the cause and release, or refuse",
    ),
    Kind("gave_up", ("gave up after",), "every attempt failed", "When the other side works again, release them"),
    Kind(
        "differs",
        ("says otherwise",),
        "a second delivery of the same reward says otherwise",
        "Compare both deliveries; release takes the first, refuse ends it",
    ),
    Kind(
        "pending",
        ("ask there how it ended, or release to go on checking",),
        "the vendor does not say how they ended",
        "Ask the vendor; close them, or release to go on checking",
    ),
    Kind(
        "unrecordable",
        ("could not be stored (the log says why)",),
        "a call was made and its result could not be stored",
        "Look at the other side what became of it, then release; and report it",
    ),
    Kind(
        "newer",
        ("this version cannot read the stored order",),
        "a newer version of the relay wrote them",
        "Run that version everywhere, then release them",
    ),
    Kind(
        "in_doubt",
        ("which can neither be asked nor take a key",),
        "an earlier attempt may have arrived",
        "Look for the PO number at the vendor: there, close; not there, release",
    ),
    Kind(
        "withdrawn",
        ("to cancel it, then refuse or close this order", "cancel it; then close this order"),
        "the platform took the reward back when the vendor may have had it",
        "Ask the vendor: cancelled, close; too late, release",
    ),
    Kind(
        "lost_there",
        ("release goes on asking",),
        "the vendor knows no such order (found by reconcile)",
        "Look for the PO number in its portal: there, release; not there, refuse, or order by hand and close",
    ),
    Kind(
        "gone_there",
        ("it was decided or taken back there",),
        "the platform no longer waits for them (found by reconcile)",
        "Ask who decided it: right, close; wrong, release places them",
    ),
    Kind("by_hand", ("then close this order",), "only a person can tell the platform", "Tell it, then close them"),
    Kind(
        "not_configured",
        ("is no longer configured",),
        "their source or vendor is no longer configured",
        "Bring it back, then release them",
    ),
    Kind("by_a_person", ("release lets it go on",), "a colleague held them", "Ask them, then release"),
)
OTHER = Kind("other", (), "the order says why", "Do what the reason says")
PHRASES = [(kind.name, phrase) for kind in KINDS for phrase in kind.phrases]
BY_NAME = {kind.name: kind for kind in (*KINDS, OTHER)}
PAGES = {
    "held": "/orders?state=on_hold&source={}",
    "unclosed": "/orders?state=settled&source={}",
    "quarantined": "/deliveries?verdict=quarantined&source={}",
    "rejected": "/deliveries?verdict=rejected&source={}",
    "quiet": "/deliveries?source={}",
    "paused": "/parties",
    "breaker_open": "/parties",
    "due": "/orders",
    "cap": "/routes",
    "placing": "/parties",
}
"""Pages of the console by condition; the others have the overview."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something is wrong. `fresh` is what of it nobody was told of, where that can be counted."""

    key: str
    severity: Severity
    text: str
    fresh: tuple[Fresh, ...] = ()


@dataclass(frozen=True, slots=True)
class Watched:
    """What is looked at: `parties` that are configured, and for each source the seconds after which it is quiet."""

    alerts: Alerts
    parties: frozenset[str]
    quiet_after: Mapping[str, float]
    guards: Callable[[], Guards] = Guards


def page_of(key: str) -> str:
    """The console's page on an alert."""
    condition, _, subject = key.partition("/")
    return PAGES.get(condition, "/").format(quote(subject.partition("/")[0]))


def title(text: str) -> str:
    """A text's first sentence: the thing without cause and advice."""
    return text.partition(". ")[0]


async def look(connection: AsyncConnection, watched: Watched, turn: Turn) -> list[Condition]:
    """Everything that is wrong just now."""
    alerts = watched.alerts
    sick = await found_by.sick_parties(connection)
    gone = await found_by.workers_gone(connection)
    late = await found_by.late(connection, alerts.due_after_s)
    guards, switch = watched.guards(), await placing.present(connection)
    stop = _stop(guards, switch)
    scopes = [scope for scope in guards.all() if scope.caps.daily]
    used = await caps.read(connection, [scope.name for scope in scopes])
    return [
        *([_paused(stop, await placing.waiting(connection, MOST_COUNTED))] if stop else []),
        *_caps([each for scope in scopes for each in usage(scope, used.get(scope.name, Used()))]),
        *([_no_worker(gone)] if gone and gone["waiting"] else []),
        *map(_sick, sick),
        *(_late(row, stop or _why_late(row["party"], sick, bool(gone), watched.parties)) for row in late),
        *map(_unclosed, await found_by.unclosed(connection, alerts.unclosed_after_s)),
        *map(_held, await found_by.held(connection, PHRASES)),
        *map(_quarantined, await found_by.quarantined(connection, turn.floor)),
        *map(_rejected, await found_by.rejected(connection, alerts.rejected_from)),
        *map(_quiet, await found_by.quiet(connection, watched.quiet_after)),
        *map(_troubled, await found_by.troubled(connection)),
    ]


def _stop(guards: Guards, switch: Row | None) -> str:
    """Why nothing is placed, empty where placing is on."""
    if guards.paused:
        return "Placing is paused in the configuration: set placing to on there"
    if switch and switch["paused"]:
        why = f": {cleaned(switch['note'])}" if switch["note"] else ""
        return f"Placing is paused by {switch['actor']}{why}. Resume it: reward-relay placing resume"
    return ""


def _paused(why: str, waiting: int) -> Condition:
    text = f"No order is placed, {_count(waiting, 'order')} waiting; new ones are taken. {why}"
    return Condition("placing/all", "critical", text)


def _caps(found: Sequence[Mapping[str, Any]]) -> Iterator[Condition]:
    """Caps that are nearly used, or that hold orders back."""
    for each in found:
        if each["held"] or each["part"] >= NEARLY:
            held = f", {_count(each['held'], 'order')} held back" if each["held"] else ""
            text = (
                f"{each['cap']}: {each['used']:,.10g} of {each['limit']:,.10g} used today{held}. Look whether that is "
                f"right: if it is, raise the cap"
            )
            yield Condition(f"cap/{each['cap']}", "critical" if each["held"] else "warning", text)


def _held(row: Row) -> Condition:
    kind, number = BY_NAME[row["kind"]], row["number"]
    fresh = _fresh("order", row)
    text = (
        f"On hold: {_count(number, 'order')} of {row['source']}{_new(number, fresh)}, {kind.says}. "
        f"{_samples(row['samples'], number)}. {kind.do}"
    )
    return Condition(f"held/{row['source']}/{kind.name}", "warning", text, fresh)


def _sick(row: Row) -> Condition:
    party, why = row["party"], cleaned(row["why"] or "nobody said why")
    waiting = f"{_count(row['waiting'], 'order')} waiting for it"
    if not row["paused"]:
        text = (
            f"{party} fails again and again, {waiting}. It said: {why}. Single calls test it, and it recovers by "
            f"itself; where it does not, ask the other side"
        )
        return Condition(f"breaker_open/{party}", "warning", text)
    by_a_person = why.startswith(BY_A_PERSON)
    cause = why if by_a_person else f"It refuses us: {why}"
    text = f"{party} is paused, {waiting}. {cause}. When that is mended: reward-relay parties resume {party}"
    return Condition(f"paused/{party}", "warning" if by_a_person else "critical", text)


def _late(row: Row, why: str) -> Condition:
    text = (
        f"{row['party']}: {_count(row['due'], 'order')} overdue, the oldest ({row['po_number']}) for "
        f"{span(row['late_s'])}. {why}"
    )
    return Condition(f"due/{row['party']}", "critical", text)


def _why_late(party: str, sick: Sequence[Row], no_worker: bool, configured: frozenset[str]) -> str:
    health = {row["party"]: "is paused" if row["paused"] else "fails again and again" for row in sick}
    if party in health:
        return f"{party} {health[party]}: see to that first"
    if party not in configured:
        return f"{party} is not in this configuration: bring it back, and its orders go on or are held"
    if no_worker:
        return "No worker is at work: start reward-relay work"
    return "No worker is at work, or too few: look at their logs, start more with reward-relay work"


def _no_worker(row: Row) -> Condition:
    text = (
        f"No worker is at work, {_count(row['waiting'], 'order')} waiting. The last one was seen {span(row['gone_s'])} "
        f"ago: look at its log, then start reward-relay work"
    )
    return Condition("no_worker/all", "critical", text)


def _unclosed(row: Row) -> Condition:
    number, source = row["number"], row["source"]
    held = f"{row['held']} of them on hold: see their reasons" if row["held"] else "See the last error of the oldest"
    text = (
        f"Delivered, but {source} does not know: {_count(number, 'order')}, the oldest for {span(row['late_s'])}. "
        f"{_samples(row['samples'], number)}. {held}"
    )
    return Condition(f"unclosed/{source}", "warning", text)


def _quarantined(row: Row) -> Condition:
    number, source = row["number"], row["source"]
    fresh = _fresh("delivery", row)
    text = (
        f"{source}: {_count(number, 'webhook')} quarantined{_new(number, fresh)}. They are authentic, and we cannot "
        f"read them; each has its reason. Mend fields or template, then: reward-relay replay --quarantined "
        f"--source {source}"
    )
    return Condition(f"quarantined/{source}", "warning", text, fresh)


def _rejected(row: Row) -> Condition:
    source = row["source"]
    text = (
        f"{source}: {_count(row['number'], 'webhook')} rejected within an hour. The secret is missing or wrong: "
        f"compare both sides, then let the platform send them again"
    )
    return Condition(f"rejected/{source}", "warning", text)


def _quiet(row: Row) -> Condition:
    source = row["source"]
    text = (
        f"{source}: nothing has arrived for {span(row['quiet_s'])}. Look at the platform whether its webhook is still "
        f"on, and what answer it got. If that is as it should be, give {source} another time in [alerts] quiet_after"
    )
    return Condition(f"quiet/{source}", "warning", text)


def _troubled(row: Row) -> Condition:
    text = (
        f"{row['host']}: the newest configuration is not in use. {cleaned(row['trouble'])}. The old one goes on; mend "
        f"the file, and try it with reward-relay config check"
    )
    return Condition(f"configuration/{row['host']}", "warning", text)


def cleaned(text: str) -> str:
    """Somebody else's words, short, on one line, without addresses and what may be a key."""
    plain = MASKED.sub("***", redact(" ".join(text.split())))
    plain = OPAQUE.sub("***", plain).rstrip(" .")
    return plain if len(plain) <= QUOTED else plain[: QUOTED - 1] + "…"


def span(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _fresh(kind: str, row: Row) -> tuple[Fresh, ...]:
    return tuple(Fresh(each, kind, at) for each, at in zip(row["ids"], row["times"] or (), strict=True))


def _new(number: int, fresh: Sequence[Fresh]) -> str:
    return f" ({len(fresh)} new)" if 0 < len(fresh) < number else ""


def _count(number: int, what: str) -> str:
    if number >= MOST_COUNTED:
        return f"{number} {what}s or more"
    return f"{number} {what}" + ("" if number == 1 else "s")


def _samples(samples: Sequence[str], number: int) -> str:
    more = number - len(samples)
    return ", ".join(samples) + (f" and {more} more" if more > 0 else "")
