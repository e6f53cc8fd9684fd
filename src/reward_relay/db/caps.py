"""What was counted for caps, a row for each scope and day. Its lock makes the decision exact; it is held for a moment.

Whoever counts has taken its orders first, without waiting for any, and then locks the scopes in the order of their
names: so no two can wait for each other.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.guards import Used

TODAY = "(now() AT TIME ZONE 'UTC')::date"
LOCK = text(f"""
SELECT scope, value, number, held FROM cap_usage
WHERE day = {TODAY} AND scope = ANY(CAST(:scopes AS text[])) ORDER BY scope FOR UPDATE
""")  # noqa: S608 - a constant of this module
OPEN = text(f"""
INSERT INTO cap_usage (scope, day) SELECT scope, {TODAY} FROM unnest(CAST(:scopes AS text[])) AS s(scope)
ORDER BY scope ON CONFLICT DO NOTHING
""")  # noqa: S608 - a constant of this module
READ = text(f"""
SELECT scope, value, number, held FROM cap_usage WHERE day = {TODAY} AND scope = ANY(CAST(:scopes AS text[]))
""")  # noqa: S608 - a constant of this module
WRITE = text(f"""
UPDATE cap_usage u SET value = n.value, number = n.number, held = n.held
FROM unnest(CAST(:scopes AS text[]), CAST(:values AS numeric[]), CAST(:numbers AS int[]), CAST(:held AS int[]))
  AS n(scope, value, number, held)
WHERE u.scope = n.scope AND u.day = {TODAY}
""")  # noqa: S608 - a constant of this module
ADD = text(f"""
UPDATE cap_usage SET value = value + :value, number = number + 1
WHERE day = {TODAY} AND scope = ANY(CAST(:scopes AS text[]))
""")  # noqa: S608 - a constant of this module
COUNTED = text(f"UPDATE orders SET counted_on = {TODAY} WHERE id = ANY(CAST(:ids AS uuid[]))")  # noqa: S608
FORGET = text(f"DELETE FROM cap_usage WHERE day < {TODAY} - 400")  # noqa: S608 - a constant of this module


async def lock(connection: AsyncConnection, scopes: Sequence[str]) -> dict[str, Used]:
    """Today's counts of these scopes, nobody else's to change until the transaction ends."""
    names = sorted(set(scopes))
    rows = (await connection.execute(LOCK, {"scopes": names})).all()
    if len(rows) < len(names):
        await connection.execute(OPEN, {"scopes": names})
        rows = (await connection.execute(LOCK, {"scopes": names})).all()
    return {row.scope: Used(row.value, row.number, row.held) for row in rows}


async def read(connection: AsyncConnection, scopes: Sequence[str]) -> dict[str, Used]:
    """Today's counts, as they are just now."""
    if not scopes:
        return {}
    rows = await connection.execute(READ, {"scopes": list(scopes)})
    return {row.scope: Used(row.value, row.number, row.held) for row in rows}


async def write(connection: AsyncConnection, counts: Mapping[str, Used]) -> None:
    """Write what was counted; the scopes must be locked."""
    values: list[Decimal] = [each.value for each in counts.values()]
    numbers, held = [each.number for each in counts.values()], [each.held for each in counts.values()]
    await connection.execute(WRITE, {"scopes": list(counts), "values": values, "numbers": numbers, "held": held})


async def add(connection: AsyncConnection, scopes: Sequence[str], value: Decimal) -> None:
    """Count one order for these scopes; they must be locked."""
    await connection.execute(ADD, {"scopes": list(scopes), "value": value})


async def counted(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Note that these orders are counted, whatever becomes of their calls."""
    await connection.execute(COUNTED, {"ids": list(ids)})


async def forget(connection: AsyncConnection) -> None:
    """Remove the counts of days long gone."""
    await connection.execute(FORGET)
