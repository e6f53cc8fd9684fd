"""Keeping a few rejected deliveries of each source, for the person who wonders why nothing arrives."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from reward_relay.contracts import InboundRequest
from reward_relay.db.deliveries import Arrival
from reward_relay.errors import RequestError
from reward_relay.logs import Seldom
from reward_relay.sealing import Stored

log = structlog.get_logger()
REJECTED_PER_MINUTE = 20
"""How many each process keeps and logs of a source; the others are only counted."""


class Rejecting:
    """`store` keeps a delivery; it is not waited for, and may fail."""

    def __init__(self, store: Callable[[Arrival], Awaitable[object]]) -> None:
        self._store = store
        self._seldom = Seldom(REJECTED_PER_MINUTE)
        self._background: set[asyncio.Task[None]] = set()

    def note(self, delivery_id: str, source: str, request: InboundRequest, error: RequestError) -> None:
        """Keep what was rejected without its body. The source is a configured one, so that there are few."""
        left_out = self._seldom.left_out(source)
        if left_out is None:
            return
        log.warning("delivery_rejected", source=source, reason=error.detail, left_out=left_out)
        headers = {"user-agent": request.headers.get("user-agent", "")[:500], "content-length": str(len(request.body))}
        kind = request.content_type[:100]
        arrival = Arrival(delivery_id, source, "webhook", kind, headers, Stored(b""), "rejected", error.detail)
        task = asyncio.create_task(self._keep(arrival))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Wait until they are kept."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _keep(self, arrival: Arrival) -> None:
        try:
            await self._store(arrival)
        except Exception as error:
            log.warning("rejected_not_kept", error=str(error))
