"""`tail`: what happens to orders, as it happens."""

import asyncio
from collections import deque
from typing import Annotated

import typer
from rich.markup import escape

from reward_relay.db.queries import Row
from reward_relay.ops import Ops
from reward_relay.orders_cli import Source, Vendor, ask
from reward_relay.terminal import AsJson, clock, out, print_json
from reward_relay.terminal import state as coloured

EVERY_S = 0.5
WINDOW = 500
"""How many ids are read again: a transaction that began earlier may commit later, under a lower id."""


class Tail:
    """Reads events in the order they become known, each once."""

    def __init__(self, ops: Ops) -> None:
        self._ops = ops
        self._seen: deque[int] = deque(maxlen=4 * WINDOW)
        self._last: int | None = None

    async def start(self, lines: int) -> list[Row]:
        """The newest `lines` events; what was there before is not told again."""
        found = await self._ops.events(None, WINDOW)
        self._keep(found)
        return found[-lines:] if lines else []

    async def news(self) -> list[Row]:
        """What became known since the last look."""
        found = await self._ops.events((self._last or 0) - WINDOW, 2 * WINDOW)
        seen = set(self._seen)
        fresh = [each for each in found if each["id"] not in seen]
        self._keep(fresh)
        return fresh

    def _keep(self, found: list[Row]) -> None:
        self._seen.extend(each["id"] for each in found)
        self._last = max([self._last or 0, *(each["id"] for each in found)])


def tail(
    source: Source = None,
    vendor: Vendor = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=WINDOW, help="How many to begin with.")] = 10,
    follow: Annotated[bool, typer.Option(help="Go on until Ctrl-C.")] = True,
    as_json: AsJson = False,
) -> None:
    """What happens to orders, as it happens; with --json, one event a line. Ctrl-C ends it.

    Example: `reward-relay tail --source roster`
    """

    async def run(ops: Ops) -> None:
        told = Tail(ops)
        found = await told.start(lines)
        while True:
            for each in found:
                if source in (None, each["source"]) and vendor in (None, each["vendor"]):
                    _print(each, as_json=as_json)
            if not follow:
                return
            await asyncio.sleep(EVERY_S)
            found = await told.news()

    try:
        ask(run)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _print(event: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(event, lines=True)
        return
    gap = " " * (8 - len(event["to_state"]))
    named = f"{clock(event['at'])} [bold]{event['po_number']}[/] {coloured(event['to_state'])}{gap}"
    reason = escape(event["reason"] or "")
    out.print(f"{named} {escape(event['actor'])}: {reason}", highlight=False, soft_wrap=True)
