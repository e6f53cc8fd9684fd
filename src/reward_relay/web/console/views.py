"""How pages are made: the templates, what they may call, and the headers every page has."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

from reward_relay import __version__
from reward_relay.contracts import read_json
from reward_relay.errors import Unreadable
from reward_relay.web.console.charts import bars
from reward_relay.web.console.session import Session

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Nothing from another address, no script in a page, nothing kept by the browser."""
BRACKETS = re.compile(r" \([^()]*\)")
INDENTED = json.JSONEncoder(indent=2, default=str, ensure_ascii=False)
MOST_INDENTED = 4 << 20
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def span(seconds: float) -> str:
    """A duration in the unit a person would use: 12 ms, 3.4 s, 5 min, 2 h, 3 d."""
    size = abs(seconds)
    for length, unit in UNITS:
        if size >= length:
            return f"{seconds / length:.0f} {unit}"
    if size >= 1:
        return f"{seconds:.1f} s" if size < 10 and seconds != int(seconds) else f"{seconds:.0f} s"
    return f"{seconds * 1000:.0f} ms"


def ago(time: datetime | None) -> str:
    """How long since, or until, a time."""
    if time is None:
        return ""
    seconds = round((datetime.now(UTC) - time).total_seconds())
    if seconds == 0:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def clock(time: datetime | None) -> str:
    """A time as logs write it, to the millisecond, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if time else ""


def hour(time: datetime) -> str:
    """The time of day, in UTC."""
    return time.astimezone(UTC).strftime("%H:%M:%S")


def pretty(value: Any) -> str:
    """JSON for reading; in one line where the indents of its nesting would fill megabytes."""
    made, size = [], 0
    for part in INDENTED.iterencode(value):
        made.append(part)
        size += len(part)
        if size > MOST_INDENTED:
            return json.dumps(value, default=str, ensure_ascii=False)
    return "".join(made)


def pretty_body(body: str) -> str:
    """A webhook's body for reading: indented where it is JSON, else as it came."""
    try:
        return pretty(read_json(body))
    except Unreadable:
        return body


def money(amount: Any) -> str:
    """An amount: 20, 20.50."""
    exact = Decimal(str(amount))
    return f"{exact:,.0f}" if exact == exact.to_integral_value() else f"{exact:,.2f}"


def things(items: Any) -> str:
    """What a reward holds, in a line: 2 × Star Thermal Bottle, 20 USD."""
    found = []
    for item in items or ():
        many = f"{item['quantity']} × " if item.get("quantity", 1) != 1 else ""
        worth = (
            f", {money(item['value'])} {item.get('currency') or ''}".rstrip() if item.get("value") is not None else ""
        )
        found.append(f"{many}{item.get('name') or item.get('sku') or '?'}{worth}")
    return "; ".join(found)


def brief(reason: str, po_number: str) -> str:
    """A reason without what the order's own page says already: its number, and what stands in brackets."""
    return BRACKETS.sub("", reason.removeprefix(f"order {po_number} "))


def link(path: str, query: Mapping[str, Any]) -> str:
    """A path with those parameters that say something."""
    said = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(said)}" if said else path


def since(later: datetime, earlier: datetime | None) -> str:
    """The time between two moments, empty for the first."""
    if earlier is None or later - earlier < timedelta(milliseconds=1):
        return ""
    return f"+{span((later - earlier).total_seconds())}"


ENVIRONMENT = Environment(
    loader=PackageLoader("reward_relay.web.console"),
    autoescape=select_autoescape(),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    "ago": ago,
    "brief": brief,
    "clock": clock,
    "hour": hour,
    "money": money,
    "span": span,
    "pretty": pretty,
    "pretty_body": pretty_body,
    "things": things,
}
ENVIRONMENT.globals |= {"link": link, "bars": bars, "since": since, "version": __version__}


def page(request: Request, template: str, session: Session | None, status: int = 200, **context: Any) -> HTMLResponse:
    """A page of the console."""
    stopped = getattr(request.state, "stopped", None)
    here = {"path": request.url.path, "session": session, "error": None, "stopped": stopped, **context}
    text = ENVIRONMENT.get_template(template).render(here)
    return HTMLResponse(text.encode("utf-8", "replace"), status, HEADERS)  # a payload may hold half a character
