"""A relay that tells, whoever it tells, and time that has passed, in a test."""

import json
from pathlib import Path
from typing import Any

import httpx

from reward_relay.db.engine import Database
from reward_relay.settings import Settings
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, settings
from support.rows import run

URL = "http://chat.test/services/T000/B000/s3cretpath"
NO_ROUTE = "no route matches this reward; add one and release"
TIMES = (
    "UPDATE alerts SET since = since - interval '{0} s', seen_at = seen_at - interval '{0} s', "
    "sent_at = sent_at - interval '{0} s', ended_at = ended_at - interval '{0} s'",
    "UPDATE alert_looks SET at = at - interval '{0} s', worker_at = worker_at - interval '{0} s'",
)


class Receiver:
    """Keeps what it gets; `status` is what it answers, None = nobody is there."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.status: int | None = 200

    def transport(self) -> httpx.MockTransport:
        """Its network."""
        return httpx.MockTransport(self._answer)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.status is None:
            raise httpx.ConnectError("nobody is there", request=request)
        self.requests.append(request)
        return httpx.Response(self.status, text="ok" if self.status == 200 else f"no such hook: {request.url.path}")

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What it was sent."""
        return [json.loads(each.content) for each in self.requests]

    @property
    def texts(self) -> list[str]:
        """The text of each message."""
        return [each["text"] for each in self.bodies]


def configured(tmp_path: Path, more: str = "", url: str = URL) -> Settings:
    """Settings with an address for alerts, and these more lines of [alerts]."""
    return settings(tmp_path, f'{CONFIGURATION}\n[alerts]\nurl = "{url}"\n{more}')


async def later(database: Database, seconds: float) -> None:
    """As if the last looks and messages had been so long ago."""
    for sql in TIMES:
        await run(database, sql.format(seconds))


async def look(relay: Relay, after_s: float = 31) -> None:
    """A look, so long after the one before."""
    await later(relay.database, after_s)
    assert await relay.alerting().look()
