"""Telling people what goes wrong: one look at a time, one message a look, and no storm.

Every process runs the loop; turns in the database let one of them look each `every_s` seconds. What bounds the
messages: a look sends at most one, with everything in it. Of one alert it is told that it is there, then that it
still is after `repeat_s`, then once that it is over. It is over only when it has stayed away for `calm_s`; what comes
back before is the same alert, and what comes back later is told again `gather_s` after its last message at the soonest.
More of the same (held orders, quarantined deliveries) is gathered for `gather_s` too.

What was told is written down only after a 2xx. A message that could not be sent, or whose answer was lost, is made
anew at the next look: at least once, and under the same `webhook-id` while nothing of it has changed. Which orders and
deliveries were told of is kept by id, not by a time or a number, so what commits late is not passed over.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import structlog
from standardwebhooks import Webhook

from reward_relay import conditions
from reward_relay.conditions import Condition, Watched
from reward_relay.contracts import OutboundRequest
from reward_relay.db import alerts as kept
from reward_relay.db.alerts import Fresh, Turn
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import CallFailed, ConfigurationError, DatabaseUnavailable
from reward_relay.outbound import Answer, Outbound, encoded
from reward_relay.settings import Alerts

log = structlog.get_logger()
SEND_DEADLINE_S = 15.0
LEASE_S = 60.0
"""A look and its sending take less; who dies in it is waited for so long."""
MOST_LINES = 15
PARTY = "alerts"
NOT_SENT = "alerts_not_sent"
TYPE = "relay.alerts"
ORDER = {"new": 0, "lasting": 1, "ended": 2}
SLACK = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


@dataclass(frozen=True, slots=True)
class News:
    """What a message says of one alert. `identity` is the same as long as it is the same piece of news."""

    key: str
    severity: str
    state: Literal["new", "lasting", "ended"]
    text: str
    since: datetime
    until: datetime
    identity: str
    fresh: tuple[Fresh, ...] = ()

    def shown(self) -> Row:
        """For the body of a signed message."""
        shown = {name: getattr(self, name) for name in ("key", "severity", "state", "text")}
        return {**shown, "since": self.since.isoformat()}


class Alerting:
    """Looks, and tells. `public_url` is where links lead, None for no links."""

    def __init__(self, database: Database, outbound: Outbound, watched: Watched, public_url: str | None) -> None:
        self._database = database
        self._outbound = outbound
        self._watched = watched
        self._settings = watched.alerts
        self._public_url = public_url
        self._trouble = ""

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look again and again, as long as the block lasts."""
        task = asyncio.create_task(self._look_on())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(self._settings.every_s / 2)
            try:
                if await self.look() and self._trouble != NOT_SENT:
                    self._trouble = ""
            except DatabaseUnavailable as error:
                self._went_wrong("alerts_not_looked", str(error))
            except Exception as error:
                self._went_wrong("alerts_failed", type(error).__name__, exc_info=True)

    async def look(self) -> bool:
        """One look, if it is this process's turn, and the message that comes of it. No transaction waits for an answer.

        Raises:
            DatabaseUnavailable: nothing was looked at, or what was told could not be written down and is told again.
        """
        every_s, tells = self._settings.every_s * 0.9, self._settings.url is not None
        async with self._database.transaction() as connection:
            turn = await kept.take_turn(connection, every_s, LEASE_S, tells=tells)
        if turn is None:
            return False
        async with self._database.transaction() as connection:
            present = await conditions.look(connection, self._watched, turn)
            rows = await kept.keep(connection, [(each.key, each.severity, each.text) for each in present])
        news = news_of(rows, {each.key: each for each in present}, self._settings) if tells else []
        told = news if news and await self._tell(news) else []
        await self._note(turn, told, present)
        return True

    async def _note(self, turn: Turn, told: Sequence[News], present: Sequence[Condition]) -> None:
        keys = [each.key for each in told]
        untold = any(each.fresh and each.key not in keys for each in present)
        settings = self._settings
        async with self._database.transaction() as connection:
            if told:
                await kept.told(connection, keys, [fresh for each in told for fresh in each.fresh])
            kept_s = kept.KEPT_S if settings.url else settings.calm_s
            await kept.done(connection, turn, all_told=bool(settings.url) and not untold, kept_s=kept_s)

    async def _tell(self, news: Sequence[News]) -> bool:
        """Whether the receiver has taken it. That it does not is logged once, and once that it does again."""
        try:
            answer = await self._post(news)
        except (CallFailed, TimeoutError) as error:
            self._went_wrong(NOT_SENT, self._masked(str(error)) or "no answer in time", alerts=len(news))
            return False
        if not 200 <= answer.status < 300:
            self._went_wrong(NOT_SENT, f"the receiver answered {answer.status}", alerts=len(news))
            return False
        if self._trouble:
            log.info("alerts_work_again", alerts=len(news))
            self._trouble = ""
        return True

    async def test(self) -> str:
        """Send a test message; returns what the receiver answered, without the address.

        Raises:
            ConfigurationError: no address is configured.
            CallFailed: no answer came.
        """
        now = datetime.now(UTC)
        text = "This is a test, sent by hand. Alerts of this relay arrive here"
        try:
            answer = await self._post([News("test/by_hand", "warning", "new", text, now, now, now.isoformat())])
        except CallFailed as error:
            raise type(error)(self._masked(str(error))) from None
        except TimeoutError:
            raise CallFailed(f"the receiver did not answer within {SEND_DEADLINE_S:.0f} s") from None
        return f"{answer.status} {self._masked(answer.kept())}".strip()

    async def _post(self, news: Sequence[News]) -> Answer:
        if self._settings.url is None:
            raise ConfigurationError(["alerts.url is not set: there is nobody to tell; see README, Alerts"])
        url, now = self._settings.url.get_secret_value(), datetime.now(UTC)
        content: Row = {"text": message(news, self._public_url)}
        headers: dict[str, str] = {}
        if self._settings.secret is not None:
            content |= {"type": TYPE, "timestamp": now.isoformat(), "data": {"alerts": [each.shown() for each in news]}}
            headers = signature(content, self._settings.secret.get_secret_value(), message_id(news), now)
        request = OutboundRequest("POST", url, json=content, headers=headers)
        async with asyncio.timeout(SEND_DEADLINE_S):
            return await self._outbound.caller(PARTY, url).exchange(request)

    def _masked(self, text: str) -> str:
        """A text without the receiver's address, which is a credential."""
        if self._settings.url is None:
            return text
        url = self._settings.url.get_secret_value()
        address = urlsplit(url)
        for part in (url, f"{address.path}?{address.query}", address.path.rstrip("/"), address.query):
            text = text.replace(part, "***") if len(part) > 1 else text
        return conditions.cleaned(text)

    def _went_wrong(self, event: str, detail: str, **more: Any) -> None:
        if self._trouble != event:
            self._trouble = event
            log.warning(event, detail=detail, advice="this is said once until it works again", **more)


def news_of(rows: Sequence[Row], present: dict[str, Condition], settings: Alerts) -> list[News]:
    """What is to be told now of the alerts as they are kept, worst first."""
    found = []
    for row in rows:
        condition = present.get(row["key"])
        state = _state(row, bool(condition and condition.fresh), settings)
        if state is not None:
            fresh = condition.fresh if condition else ()
            until = row["ended_at"] or row["now"]
            ids = sorted(str(each.id) for each in fresh)
            identity = repr((row["key"], state, row["since"], row["sent_at"], ids))
            found.append(News(row["key"], row["severity"], state, row["text"], row["since"], until, identity, fresh))
    return sorted(found, key=lambda each: (ORDER[each.state], each.severity, each.key))


def _state(row: Row, more: bool, settings: Alerts) -> Literal["new", "lasting", "ended"] | None:
    sent, ended, now = row["sent_at"], row["ended_at"], row["now"]
    told = sent is not None and sent >= row["since"]
    gather, calm = timedelta(seconds=settings.gather_s), timedelta(seconds=settings.calm_s)
    if ended is not None:
        # One that came back and went within the silence after its last message was told of enough.
        worth = told or sent is None or ended - sent >= gather
        return "ended" if worth and now - ended >= calm and (sent is None or sent < ended) else None
    if (not told or more) and (sent is None or now - sent >= gather):
        return "new"
    return "lasting" if told and now - sent >= timedelta(seconds=settings.repeat_s) else None


def message(news: Sequence[News], public_url: str | None) -> str:
    """The news as Slack's mrkdwn, one line each."""
    name = urlsplit(public_url).hostname if public_url else ""
    lines = [f"*Reward Relay*{f' ({name})' if name else ''}"]
    lines += [_line(each, public_url) for each in news[:MOST_LINES]]
    if len(news) > MOST_LINES:
        lines.append(f"… and {len(news) - MOST_LINES} more")
    return "\n".join(lines)


def _line(news: News, public_url: str | None) -> str:
    mark = "🔴" if news.severity == "critical" else "🟡"
    if news.state == "ended":
        lasted = conditions.span((news.until - news.since).total_seconds())
        return f"🟢 Over after {lasted}: {conditions.title(news.text)}".translate(SLACK)
    since = f"Still so, since {news.since:%d %b %H:%M} UTC: " if news.state == "lasting" else ""
    link = f" <{public_url}{conditions.page_of(news.key)}|Look>" if public_url else ""
    return f"{mark} {since}{news.text}.".translate(SLACK) + link


def message_id(news: Sequence[News]) -> str:
    """The same for the same news, so that a receiver knows a repeat; with anything added it is another message."""
    digest = hashlib.sha256("\n".join(each.identity for each in news).encode())
    return f"msg_{digest.hexdigest()[:32]}"


def signature(content: Any, secret: str, message_id: str, now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks over the bytes that will be sent."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, encoded(content).decode()),
    }
