"""After a change of keys: every stored body is sealed anew with the newest one, in small transactions."""

from collections.abc import Callable

from reward_relay.db import sealed
from reward_relay.db.engine import Database
from reward_relay.db.purging import FIRST, Place
from reward_relay.db.queries import Row
from reward_relay.errors import ConfigurationError, KeyMissing
from reward_relay.sealing import Sealing


class Resealing:
    """The service over one database and the configured keys."""

    def __init__(self, database: Database, sealing: Sealing) -> None:
        self._database = database
        self._sealing = sealing

    async def look(self) -> Row:
        """The keys that are configured, how many bodies each sealed, and which keys are needed no more or missing."""
        async with self._database.transaction() as connection:
            counts = await sealed.by_key(connection)
        newest, known = self._sealing.newest, self._sealing.known
        return {
            "newest": newest,
            "plain": counts.get(None, 0),
            "by_key": {key: counts.get(key, 0) for key in known},
            "unused": [key for key in known if key != newest and key not in counts],
            "missing": {key: number for key, number in counts.items() if key is not None and key not in known},
        }

    async def run(self, on_progress: Callable[[int], None] = lambda _: None) -> Row:
        """Seal everything with the newest key; what cannot be opened stays as it is. Returns `look` and the counts.

        Raises:
            ConfigurationError: there is no key.
        """
        if self._sealing.newest is None:
            raise ConfigurationError(["encryption_keys is empty; make a key with: reward-relay config new-key"])
        place: Place | None = FIRST
        done = failed = 0
        while place is not None:
            async with self._database.transaction() as connection:
                rows = await sealed.sealed_otherwise(connection, self._sealing.newest, place)
                fresh = []
                for row in rows:
                    try:
                        fresh.append((str(row["id"]), self._sealing.seal(self._sealing.open(row["body"]))))
                    except KeyMissing:
                        failed += 1
                await sealed.keep(connection, fresh)
            done += len(fresh)
            on_progress(done)
            place = Place(rows[-1]["received_at"], rows[-1]["id"]) if rows else None
        return {**await self.look(), "resealed": done, "failed": failed}
