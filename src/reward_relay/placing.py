"""Whether orders are placed: the switch for three in the morning, the configuration above it, and what caps have left.

While placing is paused everything else goes on: webhooks are taken, platforms asked and told, placed orders checked.
Orders to be placed stay `received` and due. What was being called when the switch was turned ends as ever.
"""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db import caps, placing
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import NotAllowed
from reward_relay.guards import Guards, Used, usage
from reward_relay.states import Step

MOST_COUNTED = 100_000
IN_CONFIGURATION = 'the configuration (placing = "paused")'


class Placing:
    """The switch of all processes together; `guards` is what this process's configuration says."""

    def __init__(self, database: Database, guards: Callable[[], Guards]) -> None:
        self._database = database
        self._guards = guards

    async def status(self) -> Row:
        """Whether it is paused, by whom, why and since when, and how many orders wait to be placed (`waiting`)."""
        async with self._database.transaction() as connection:
            waiting = await placing.waiting(connection, MOST_COUNTED)
            return {**await self.seen(connection), "waiting": waiting}

    async def stopped(self) -> str | None:
        """Why nothing is placed, as a sentence; None where placing is on."""
        async with self._database.transaction() as connection:
            found = await self.seen(connection)
        return words(found) if found["paused"] else None

    async def seen(self, connection: AsyncConnection) -> Row:
        """The same without the orders that wait."""
        switch = await placing.present(connection) or {"paused": False, "actor": None, "note": None, "at": None}
        configured, turned = self._guards().paused, switch["paused"]
        by = IN_CONFIGURATION if configured else switch["actor"] if turned else None
        told = turned and not configured
        return {
            "paused": configured or turned,
            "by": by,
            "note": switch["note"] if told else None,
            "since": switch["at"] if told else None,
        }

    async def obstacle(self, connection: AsyncConnection) -> dict[str, str]:
        """Why steps that place wait, under the step's name; nothing where they do not."""
        found = await self.seen(connection)
        return {Step.PLACE: words(found)} if found["paused"] else {}

    async def pause(self, actor: str, note: str) -> Row:
        """Stop placing, in every process, at once.

        Raises:
            NotAllowed: the switch says so already.
        """
        async with self._database.transaction() as connection:
            if not await placing.turn(connection, paused=True, actor=actor, note=note):
                raise NotAllowed(f"{words(await self.seen(connection))} already; resume lets it go on")
        return await self.status()

    async def resume(self, actor: str, note: str) -> Row:
        """Let placing go on.

        Raises:
            NotAllowed: it is on, or the configuration stops it, which goes before the switch.
        """
        if self._guards().paused:
            raise NotAllowed(
                f"placing is paused by {IN_CONFIGURATION}, which goes before this switch: set it to on in the file (it "
                f"is taken within seconds), or RELAY_PLACING and restart; then resume if it is still paused"
            )
        async with self._database.transaction() as connection:
            if not await placing.turn(connection, paused=False, actor=actor, note=note):
                raise NotAllowed("placing is on; there is nothing to resume")
        return await self.status()

    async def used(self) -> list[Row]:
        """`caps`, for who asks for nothing else."""
        async with self._database.transaction() as connection:
            return await self.caps(connection)

    async def caps(self, connection: AsyncConnection) -> list[Row]:
        """Each cap on a day, what is used of it today, and how many orders it holds back; fullest first."""
        scopes = [scope for scope in self._guards().all() if scope.caps.daily]
        used = await caps.read(connection, [scope.name for scope in scopes])
        found = [each for scope in scopes for each in usage(scope, used.get(scope.name, Used()))]
        return sorted(found, key=lambda each: -each["part"])


def words(found: Row) -> str:
    """A pause as a sentence."""
    return f"placing is paused by {found['by']}" + (f": {found['note']}" if found["note"] else "")
