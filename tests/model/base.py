"""What every part of the machine stands on: the loop, the world, and the invariants after each step."""

import asyncio
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant
from structlog.testing import capture_logs

from model.ending import ended_honestly
from model.invariants import Seen, broken, look
from model.world import World
from reward_relay.errors import DatabaseUnavailable, Unavailable

Found = TypeVar("Found")
PICK = st.integers(0, 5)
FAULTS = {"turn_failed", "record_failed", "work_failed", "not_storable", "parse_failed", "upkeep_failed"}
"""What the log says when something was raised that nobody foresaw."""
AWAY = (DatabaseUnavailable, Unavailable)


class Base(RuleBasedStateMachine):
    """One example: a world, and what the machine knows of it."""

    def __init__(self, runner: asyncio.Runner, database_url: str, folder: Path) -> None:
        super().__init__()
        self._runner = runner
        self._logs = capture_logs()
        self._logged = self._logs.__enter__()
        self.world = self.run(self._world(database_url, folder))
        self.seen: Seen = self.run(look(self.world))
        self.wanted: dict[str, str] = {}
        """The order of each reward that was answered with one."""
        self.let_off: set[str] = set()
        """Orders that a person ended by hand."""
        self.plans: list[tuple[str, dict[str, Any]]] = []

    async def _world(self, database_url: str, folder: Path) -> World:
        world = World(database_url, folder)
        await world.clear()
        return world

    def run(self, doing: Awaitable[Found]) -> Found:
        """Do it on the machine's loop."""

        async def whole() -> Found:
            return await doing

        return self._runner.run(whole())

    def teardown(self) -> None:
        """Let everything come to its honest end."""
        try:
            if sys.exc_info()[0] is None:
                self.run(ended_honestly(self.world, self.wanted, self.let_off))
                self.nothing_is_broken()
        finally:
            self.run(self.world.close())
            self._logs.__exit__(None, None, None)

    @invariant()
    def nothing_is_broken(self) -> None:
        """Every invariant holds, and nothing was raised that nobody foresaw."""
        self.seen = self.run(look(self.world))
        found = broken(self.seen, self.world.books)
        found += [f"{each['event']}: {each.get('exc_info')}" for each in self._logged if each["event"] in FAULTS]
        self._logged.clear()
        assert not found, "\n".join(found)

    def order_at(self, pick: int) -> dict[str, Any]:
        """Some order."""
        return self.seen.orders[pick % len(self.seen.orders)]

    def refused(self, doing: Awaitable[Any], error: type[Exception], but: tuple[str, ...] = ()) -> str:
        """See that it is refused so, and changes nothing."""
        before = self.run(look(self.world))
        try:
            self.run(doing)
        except error as refusal:
            why = str(refusal)
        except AWAY:
            return ""
        else:
            raise AssertionError("it was not refused")
        after = self.run(look(self.world))
        after.deliveries = [each for each in after.deliveries if each["verdict"] not in but]
        before.deliveries = [each for each in before.deliveries if each["verdict"] not in but]
        assert after.same() == before.same(), f"refused ({why}), and something changed"
        return why
