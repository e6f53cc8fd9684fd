"""Whether what happened to the orders has been written over: every event is chained to the one before by SHA-256.

The database makes the hashes (migration 0003); this recomputes them with nothing of it but the rows, as anybody could:
`sha256(hash before + json)`, where json is the UTF-8 of
`["order id", seq, "2026-01-31T12:00:00.000000Z", "from", "to", "actor", "reason"]`, and null where there is nothing.

A chain does not show that its end was cut off together with the order's state, or that somebody with all rights made
all of it anew. For that there are *heads*: the last hash of every order, written to a file that is kept elsewhere.
"""

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from reward_relay.db import ledger
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import Invalid
from reward_relay.states import State, can_go

PLAIN = json.JSONEncoder(ensure_ascii=False)
MOST_TOLD = 1000
Heads = Mapping[str, tuple[int, str]]
"""By order id: how many events it had, and the hash of the last."""


@dataclass(slots=True)
class Verified:
    """What was looked at, and what is wrong with it, a sentence each (at most a thousand; `wrong` counts all)."""

    orders: int = 0
    events: int = 0
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    heads: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, problems: Sequence[str]) -> None:
        """Take note of problems."""
        self.wrong += len(problems)
        self.problems += problems[: MOST_TOLD - len(self.problems)]


def event_hash(before: bytes, order_id: uuid.UUID | str, event: Mapping[str, Any]) -> bytes:
    """The hash of an event that follows one with the hash `before` (nothing, for the first)."""
    at = event["at"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    said = [event[name] for name in ("from_state", "to_state", "actor", "reason")]
    return hashlib.sha256(before + PLAIN.encode([str(order_id), event["seq"], at, *said]).encode()).digest()


def flaws(order: Row, head: tuple[int, str] | None = None) -> list[str]:
    """What is wrong with one order's events; `head` is what they were known to be."""
    name, events = f"order {order['po_number']}", order["events"]
    if not events:
        return [f"{name} has no events: they were deleted, or the order was not made by the relay"]
    found: list[str] = []
    before, state = b"", None
    for place, event in enumerate(events, 1):
        at = f"{name}, event {event['seq']}"
        if event["seq"] != place:
            return [*found, f"{name} lacks event {place}: it was deleted"]
        if bytes(event["hash"]) != event_hash(before, order["id"], event):
            found.append(f"{at} ({event['at']:%Y-%m-%d %H:%M:%S}, {event['actor']}) is not as it was written")
        if event["from_state"] != state or not _possible(state, event["to_state"]):
            found.append(f"{at} says {event['from_state']} → {event['to_state']}, but the order was {state}")
        before, state = bytes(event["hash"]), event["to_state"]
    if state != order["state"]:
        found.append(f"{name} is {order['state']}, but its last event says {state}: one is missing, or the row was set")
    return found + _against(name, events, head)


def _against(name: str, events: Sequence[Row], head: tuple[int, str] | None) -> list[str]:
    if head is None:
        return []
    number, digest = head
    if len(events) < number:
        return [f"{name} has {len(events)} events, and had {number} when the heads were kept: its end was cut off"]
    if bytes(events[number - 1]["hash"]).hex() != digest:
        return [f"{name} has another history than when the heads were kept: all of it was made anew"]
    return []


def _possible(before: str | None, after: str) -> bool:
    return before is None or before == after or can_go(State(before), State(after))


class Ledger:
    """Reads a database's whole ledger; it changes nothing and takes no locks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def verify(self, known: Heads | None = None, progress: Callable[[int], None] = lambda _: None) -> Verified:
        """Look at every order. `known` are heads that were kept; `progress` is told how many were looked at."""
        found, rest = Verified(), dict(known or {})
        async for orders, strays in self._pages():
            for order in orders:
                found.add(flaws(order, rest.pop(str(order["id"]), None)))
                found.events += len(order["events"])
                if order["events"]:
                    last = order["events"][-1]
                    found.heads[str(order["id"])] = last["seq"], bytes(last["hash"]).hex()
            found.add([f"there are events of {each}, which is no order: it was deleted" for each in strays])
            found.orders += len(orders)
            progress(found.orders)
        found.add([f"order {each} is gone: it was there when the heads were kept" for each in rest])
        return found

    async def _pages(self) -> AsyncIterator[tuple[list[Row], list[uuid.UUID]]]:
        after = ledger.FIRST_ID
        while True:
            async with self._database.transaction() as connection:
                orders = await ledger.page(connection, after)
                until = orders[-1]["id"] if len(orders) == ledger.AT_ONCE else ledger.LAST_ID
                strays = await ledger.strays(connection, after, until)
            yield orders, strays
            if until == ledger.LAST_ID:
                return
            after = until


def write_heads(path: Path, heads: Heads) -> str:
    """Keep heads, a line each; returns the SHA-256 of the file, for whoever keeps only that."""
    content = "".join(f"{order} {number} {digest}\n" for order, (number, digest) in sorted(heads.items())).encode()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_heads(path: Path) -> Heads:
    """Heads that were kept.

    Raises:
        Invalid: the file cannot be read, or is none of ours.
    """
    try:
        lines = path.read_text("ascii").splitlines()
        return {order: (int(number), digest) for order, number, digest in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read as kept heads ({error}); give a file that verify --keep wrote") from None
