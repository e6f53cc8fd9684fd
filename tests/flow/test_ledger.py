"""The ledger: what happened to an order cannot be rewritten unseen, and can be shown in one file."""

import asyncio
import hashlib
import json
import re
import uuid
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from reward_relay.db import migrate, steering
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError, Invalid, NotFound
from reward_relay.ledger import Ledger, Verified, event_hash, read_heads, write_heads
from reward_relay.sandbox import senders
from reward_relay.sandbox.senders import sample
from reward_relay.wiring import Relay
from support.commands import commands
from support.far_side import far_side, send
from support.relays import ROSTER_TOKEN, VOUCHERIFY_KEY, client_of, ended, relay_of, settings, working
from support.rows import run
from support.steered import Steered

ODD = 'quotes "\', back\\slash, / \x01\x1f\x7f\t\r\n\b\f, é, \u2028, 😀, {"a": [1]}'
BOTTLE = senders.voucherify(sample("voucherify_customer_rewarded"), VOUCHERIFY_KEY)


@pytest.fixture
async def lived(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay with two rewards that have ended."""
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        async with client_of(relay, key=None) as client, working(relay):
            for source, webhook in (
                ("voucherify", BOTTLE),
                ("roster", senders.roster(sample("roster_reward_redeemed"), ROSTER_TOKEN)),
            ):
                answer = await send(client, source, webhook)
                await ended(relay, answer.json()["order_id"])
        yield relay


async def rewrite(relay: Relay, statement: str, **values: Any) -> None:
    """What somebody with all rights could do."""
    async with relay.database.transaction() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        done = await connection.execute(text(statement), values)
        assert done.rowcount > 0


async def verified(relay: Relay, known: Any = None) -> Verified:
    return await Ledger(relay.database).verify(known)


async def an_order(relay: Relay) -> dict[str, Any]:
    page = await relay.ops.orders({"source": "voucherify"})
    return dict(page["items"][0])


async def test_every_life_is_a_whole_chain(lived: Relay) -> None:
    found = await verified(lived)
    assert (found.orders, found.problems) == (2, [])
    assert found.events >= 8
    order = await lived.ops.order(str((await an_order(lived))["id"]))
    assert [event["seq"] for event in order["events"]] == list(range(1, len(order["events"]) + 1))
    assert found.heads[str(order["id"])] == (len(order["events"]), order["events"][-1]["hash"])


async def test_anybody_can_make_the_hashes_again_whatever_the_words(lived: Relay) -> None:
    order = await an_order(lived)
    for words in (ODD, "", None):
        async with lived.database.transaction() as connection:
            await steering.note(connection, str(order["id"]), ODD, words)  # type: ignore[arg-type]
    assert (await verified(lived)).problems == []
    told = (await lived.ops.order(str(order["id"])))["events"]
    before = b""
    for event in told:
        assert event_hash(before, order["id"], event).hex() == event["hash"]
        before = bytes.fromhex(event["hash"])
    words = json.dumps(
        [str(order["id"]), 1, f"{told[0]['at']:%Y-%m-%dT%H:%M:%S.%f}Z", None, *(told[0][n] for n in NAMES)],
        ensure_ascii=False,
    )
    assert hashlib.sha256(words.encode()).hexdigest() == told[0]["hash"]


NAMES = ("to_state", "actor", "reason")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE order_events SET reason = 'x' WHERE false",
        "DELETE FROM order_events",
        "TRUNCATE order_events",
        "UPDATE order_events SET seq = seq + 1",
    ],
)
async def test_events_are_only_added(lived: Relay, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append-only"):
        await run(lived.database, statement)


TAMPERED = {
    "UPDATE order_events SET reason = 'nothing' WHERE seq = 2 AND order_id = :id": "event 2 .* is not as it",
    "UPDATE order_events SET actor = 'bob' WHERE seq = 1 AND order_id = :id": "event 1 .* is not as it was written",
    "UPDATE order_events SET at = at - interval '1 us' WHERE seq = 3 AND order_id = :id": "event 3 .* is not as",
    "UPDATE order_events SET to_state = 'on_hold' WHERE seq = 2 AND order_id = :id": "event 2 .* is not as",
    "DELETE FROM order_events WHERE seq = 2 AND order_id = :id": "lacks event 2",
    "DELETE FROM order_events WHERE seq = 1 AND order_id = :id": "lacks event 1",
    "DELETE FROM order_events WHERE to_state = 'closed' AND order_id = :id": "is closed, but its last event",
    "DELETE FROM order_events WHERE order_id = :id": "has no events",
    "DELETE FROM orders WHERE id = :id": "which is no order",
    "UPDATE orders SET state = 'settled', step = 'close', party = 'p', due_at = now() WHERE id = :id": "its last event",
}


@pytest.mark.parametrize("statement", TAMPERED)
async def test_what_was_rewritten_is_found(lived: Relay, statement: str) -> None:
    await rewrite(lived, statement, id=(await an_order(lived))["id"])
    found = await verified(lived)
    assert found.wrong == len(found.problems) >= 1
    assert any(re.search(TAMPERED[statement], each) for each in found.problems), found.problems


async def test_what_a_chain_cannot_show_the_kept_heads_do(lived: Relay, tmp_path: Path) -> None:
    first, second = (str(row["id"]) for row in (await lived.ops.orders({}))["items"])
    async with lived.database.transaction() as connection:
        await steering.note(connection, first, "bob", "looked")
    path = tmp_path / "heads.txt"
    assert write_heads(path, (await verified(lived)).heads) == hashlib.sha256(path.read_bytes()).hexdigest()
    known = read_heads(path)
    assert (await verified(lived, known)).problems == []
    await rewrite(lived, "DELETE FROM order_events WHERE reason = 'looked'")
    assert (await verified(lived)).problems == []
    (problem,) = (await verified(lived, known)).problems
    assert "its end was cut off" in problem
    await rewrite(lived, "DELETE FROM order_events WHERE order_id = :id", id=second)
    await run(
        lived.database,
        "INSERT INTO order_events (order_id, at, from_state, to_state, actor, reason) VALUES "
        "(:id, now(), NULL, 'received', 'x', 'y'), (:id, now(), 'received', 'on_hold', 'x', 'y'), "
        "(:id, now(), 'on_hold', 'closed', 'x', 'y')",
        id=second,
    )
    assert (await verified(lived)).problems == []
    assert len((await verified(lived, known)).problems) == 2
    for table in ("orders", "order_events"):
        column = "id" if table == "orders" else "order_id"
        await rewrite(lived, f"DELETE FROM {table} WHERE {column} = :id", id=second)
    assert any("is gone" in each for each in (await verified(lived, known)).problems)


async def test_a_file_of_other_words_is_no_heads(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("one two\n")
    with pytest.raises(Invalid, match="verify --keep"):
        read_heads(tmp_path / "x")
    with pytest.raises(Invalid, match="cannot be read"):
        read_heads(tmp_path / "y")


async def test_many_at_once_make_one_chain(lived: Relay) -> None:
    order_id = str((await an_order(lived))["id"])

    async def tell(number: int) -> None:
        async with lived.database.transaction() as connection:
            await steering.note(connection, order_id, "bob", f"note {number}")

    await asyncio.gather(*(tell(number) for number in range(60)))
    found = await verified(lived)
    assert found.problems == []
    assert found.heads[order_id][0] >= 64


async def test_a_whole_life_under_a_role_that_cannot_rewrite(
    postgres: Embedded, database: Database, tmp_path: Path
) -> None:
    role = f'r"{uuid.uuid4().hex[:12]}'
    quoted = '"' + role.replace('"', '""') + '"'
    await run(database, f"CREATE ROLE {quoted} LOGIN")
    with pytest.raises(ConfigurationError, match="no role"):
        await migrate.grant(database, "nobody-of-that-name")
    await migrate.grant(database, role)
    as_role = make_url(str(database.address.render_as_string(hide_password=False))).set(
        drivername="postgresql", username=role
    )
    async with far_side() as far:
        url = as_role.render_as_string(hide_password=False)
        async with relay_of(settings(tmp_path), url, far.transport) as relay:
            far.calls_back(relay)
            async with client_of(relay) as client, working(relay), relay.heartbeat("api").beating():
                answer = await send(client, "voucherify", BOTTLE)
                await ended(relay, answer.json()["order_id"])
                await relay.alerting().look()
                assert (await client.get("/readyz")).status_code == 200
            for forbidden in (
                "UPDATE order_events SET reason = ''",
                "DELETE FROM order_events",
                "TRUNCATE order_events",
                "ALTER TABLE order_events DISABLE TRIGGER ALL",
                "DROP TRIGGER order_events_append_only ON order_events",
                "UPDATE alembic_version SET version_num = '0001'",
            ):
                with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                    await run(relay.database, forbidden)
            assert (await verified(relay)).problems == []
    await run(database, f"DROP OWNED BY {quoted}")
    await run(database, f"DROP ROLE {quoted}")


async def test_events_of_before_the_ledger_are_chained_by_the_migration(lived: Relay, database_url: str) -> None:
    await migrate.migrate(lived.database, "0002")
    connection = await asyncpg.connect(database_url)
    assert "hash" not in (await connection.fetch("SELECT * FROM order_events LIMIT 1"))[0]
    await connection.execute("UPDATE order_events SET actor = actor")
    await connection.close()
    await migrate.migrate(lived.database)
    found = await verified(lived)
    assert (found.orders, found.problems) == (2, [])
    assert found.events >= 8


# --- evidence --------------------------------------------------------------------------------------------


async def test_the_evidence_of_an_order_holds_its_bytes_and_what_was_sent(lived: Relay) -> None:
    row = await an_order(lived)
    found = json.loads(json.dumps(await lived.evidence.of(row["po_number"]), default=str))
    assert b64decode(found["deliveries"][0]["body_base64"]) == BOTTLE.body
    assert found["deliveries"][0]["body_sha256"] == hashlib.sha256(BOTTLE.body).hexdigest()
    assert found["chain"] == {"whole": True, "flaws": [], "head": found["events"][-1]["hash"]}
    place, close = found["requests"]
    assert (place["purpose"], place["request"]["json"]["PONumber"]) == ("place", row["po_number"])
    assert place["sent_in_calls"] == [call["id"] for call in found["calls"] if call["purpose"] == "place"]
    assert close["sent_in_calls"] == [call["id"] for call in found["calls"] if call["purpose"] == "close"]
    purposes = {call["purpose"]: [each["method"] for each in call["exchanges"]] for call in found["calls"]}
    assert purposes["place"] == ["POST", "POST"]  # the token, the order
    (token,) = await run(lived.database, "SELECT callback_token FROM orders WHERE id = :id", id=row["id"])
    said = json.dumps(found)
    for secret in (token[0], VOUCHERIFY_KEY, "gcp-access-token", "app-token"):
        assert secret not in said


async def test_evidence_says_where_what_was_sent_cannot_be_made_again(lived: Relay) -> None:
    row = await an_order(lived)
    await rewrite(lived, "UPDATE orders SET reward = reward || '{\"recipient\": {}}' WHERE id = :id", id=row["id"])
    place, _ = (await lived.evidence.of(row["po_number"]))["requests"]
    assert place.get("sent_in_calls", []) == []
    assert place["why"]


async def test_evidence_of_an_unknown_order(relay: Relay) -> None:
    with pytest.raises(NotFound, match="no order"):
        await relay.evidence.of("RR-NOBODY")


async def test_a_call_that_got_no_answer_is_on_record(relay: Relay, far: Steered, lived: Relay) -> None:
    calls = (await lived.ops.order(str((await an_order(lived))["id"])))["calls"]
    assert all(set(each) == {"method", "url", "sha256", "status", "took_ms"} for c in calls for each in c["exchanges"])


# --- the command line ------------------------------------------------------------------------------------


async def test_the_commands(lived: Relay, database_url: str, tmp_path: Path) -> None:
    number = (await an_order(lived))["po_number"]
    heads, file = tmp_path / "heads.txt", tmp_path / "evidence.json"
    with commands(tmp_path, database_url) as start:
        verify = start("verify", "--keep", str(heads))
        assert (await verify.ended(), "2 orders and" in verify.told()) == (0, True)
        evidence = start("evidence", number, "-o", str(file))
        assert (await evidence.ended(), "is whole" in evidence.told()) == (0, True)
        assert json.loads(file.read_text())["order"]["po_number"] == number
        assert file.stat().st_mode & 0o077 == 0
        await rewrite(lived, "UPDATE order_events SET actor = 'bob' WHERE seq = 1")
        broken = start("verify", "--json", "--against", str(heads))
        assert await broken.ended() == 1
        assert json.loads(broken.told())["wrong"] >= 2
        lost = start("evidence", number, "-o", str(tmp_path / "no" / "x.json"))
        assert await lost.ended() == 2
        assert "another --output" in lost.told()
