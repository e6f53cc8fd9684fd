"""Finding orders by words: each word a person types must begin one of the order's words, accents or not.

PostgreSQL cannot guess how many rows a word's beginning has, and a wrong guess makes it read whole tables. So it is
asked first, by an index that answers at once where there are few. Where there are many, the newest are soon found by
going through the orders and looking at the words of each: a sub-select that is never turned into a join.
"""

import re
import unicodedata
import uuid
from collections.abc import Mapping

from sqlalchemy import ColumnElement, Uuid, any_, bindparam, cast, literal, select, text
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.tables import order_search, orders

COMBINING = re.compile("[\u0300-\u036f]")
SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~]+")
"""As in the function `relay_words` of migration 0002."""
MOST_WORDS, MOST_LETTERS = 20, 200
FEW = 5000
HITS = text("""
SELECT CASE WHEN count(*) <= :few THEN COALESCE(array_agg(order_id), '{}') END
FROM (SELECT order_id FROM order_search WHERE words @@ CAST(:query AS tsquery) LIMIT :few + 1) AS found
""")
SAMPLE, COMMON = 200, 10
NEWEST = text("""
SELECT count(*) FROM (
  SELECT words FROM order_search WHERE order_id <= CAST(:newest AS uuid) ORDER BY order_id DESC LIMIT :sample) AS newest
WHERE words @@ CAST(:query AS tsquery)
""")
"""The index would name every order that has a common word before the first can be looked at."""
BY_VALUES = text("""
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_seqscan', 'off', true)
""")
"""A plan made without the values does not know that a cursor leaves ten rows, or that a state is rare."""


def as_uuid(value: str) -> uuid.UUID | None:
    """The UUID, None where the text is none."""
    try:
        return uuid.UUID(value)
    except ValueError:
        return None


async def by_values(connection: AsyncConnection) -> None:
    """From here to the end of the transaction plan each statement by its values, and through indexes.

    For lists: what is asked for differs each time, and a page is a small part of the table.
    """
    await connection.execute(BY_VALUES)


async def having(
    connection: AsyncConnection, facets: Mapping[str, str], words: str, newest: uuid.UUID | None = None
) -> list[ColumnElement[bool]]:
    """Conditions on `orders`: these values of `source` and `vendor`, and words that begin so.

    With `newest`, orders from this id downwards are wanted, so that what is common there is not counted elsewhere.
    """
    begin = terms(words)
    query = " & ".join([*(lexeme(f"{name}:{value}") for name, value in facets.items()), *begin])
    if not query:
        return [literal(False)] if words.strip() else []
    hits = await _hits(connection, query, newest)
    if hits is not None:
        if not facets and (exact := as_uuid(words.strip())):
            hits = [*hits, exact]
        return [orders.c.id == any_(bindparam("hits", hits, ARRAY(Uuid), unique=True))]
    wanted = [orders.c[name] == value for name, value in facets.items()]
    if begin:
        its_words = select(order_search.c.words).where(order_search.c.order_id == orders.c.id).scalar_subquery()
        wanted.append(its_words.op("@@")(cast(" & ".join(begin), TSQUERY)))
    return wanted


async def _hits(connection: AsyncConnection, query: str, newest: uuid.UUID | None) -> list[uuid.UUID] | None:
    """The orders that have these words; None where they are many."""
    if newest:
        values = {"query": query, "newest": newest, "sample": SAMPLE}
        if (await connection.execute(NEWEST, values)).scalar_one() >= COMMON:
            return None
    found: list[uuid.UUID] | None = (await connection.execute(HITS, {"query": query, "few": FEW})).scalar_one()
    return found


def terms(words: str) -> list[str]:
    """The parts of a tsquery for what a person types: `ana dia` finds Ana Diaz, `o'hara@ex` her address."""
    plain = COMBINING.sub("", unicodedata.normalize("NFKD", words)).lower()
    parts = [part[:MOST_LETTERS] for part in SEPARATORS.split(plain) if part]
    return [f"{lexeme(part)}:*" for part in parts[:MOST_WORDS]]


def lexeme(word: str) -> str:
    """A word as a tsquery quotes it."""
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
