"""Finding orders by words: each word a person types must begin one of the order's words, accents or not.

PostgreSQL cannot guess how many rows a word's beginning has, and a wrong guess makes it read the whole table. So it is
asked first, by an index that answers at once where there are few; where there are many, the newest are soon found by
going through the orders from the newest on.
"""

import re
import unicodedata
import uuid
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Uuid, any_, bindparam, cast, literal, text
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY, TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

from reward_relay.db.tables import order_search, orders

COMBINING = re.compile("[\u0300-\u036f]")
SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~]+")
"""As in the function `relay_words` of migration 0002."""
MOST_WORDS, MOST_LETTERS = 20, 200
FEW = 2000
HITS = text("SELECT order_id FROM order_search WHERE words @@ CAST(:query AS tsquery) LIMIT :most")


def as_uuid(value: str) -> uuid.UUID | None:
    """The UUID, None where the text is none."""
    try:
        return uuid.UUID(value)
    except ValueError:
        return None


async def having(connection: AsyncConnection, facets: Sequence[str], words: str) -> list[ColumnElement[bool]]:
    """Conditions on `orders`: all of these facets (`source:NAME`, `vendor:NAME`), and words that begin so."""
    query = " & ".join([*map(lexeme, facets), *terms(words)])
    if not query:
        return [literal(False)] if words.strip() else []
    hits = list((await connection.execute(HITS, {"query": query, "most": FEW + 1})).scalars())
    if len(hits) <= FEW:
        if not facets and (exact := as_uuid(words.strip())):
            hits.append(exact)
        return [orders.c.id == any_(bindparam("hits", hits, ARRAY(Uuid), unique=True))]
    beside_the_index = order_search.c.words.op("||")(cast("", TSVECTOR))
    return [orders.c.id == order_search.c.order_id, beside_the_index.op("@@")(cast(query, TSQUERY))]


def terms(words: str) -> list[str]:
    """The parts of a tsquery for what a person types: `ana dia` finds Ana Diaz, `o'hara@ex` her address."""
    plain = COMBINING.sub("", unicodedata.normalize("NFKD", words)).lower()
    parts = [part[:MOST_LETTERS] for part in SEPARATORS.split(plain) if part]
    return [f"{lexeme(part)}:*" for part in parts[:MOST_WORDS]]


def lexeme(word: str) -> str:
    """A word as a tsquery quotes it."""
    escaped = word.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
