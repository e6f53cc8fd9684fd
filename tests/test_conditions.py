"""What is worth telling, and in which words."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from reward_relay import conditions
from reward_relay.db.engine import Database
from reward_relay.wiring import Relay
from support.alerts import NO_ROUTE, Receiver, configured, look
from support.relays import relay_of
from support.rows import delivery, held, order, process, run


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Relay]:
    async with relay_of(configured(tmp_path), database_url, receiver.transport) as found:
        yield found


async def breaker(database: Database) -> None:
    await run(
        database,
        "INSERT INTO party_health (party, breaker, since, why) "
        "VALUES ('vendor:gcp', 'open', now(), 'vendor:gcp answered 504')",
    )


async def pause(database: Database) -> None:
    await run(
        database,
        "INSERT INTO party_health (party, paused, since, why) VALUES ('source:roster', true, now(), "
        "'the key of ann@example.com, sk_live_51HxAbCdEfGhIjKlMnOp, was refused (401)')",
    )


async def overdue(database: Database) -> None:
    for due_s in (301, 900):
        await order(database, "received", due_s=due_s)


async def unclosed(database: Database) -> None:
    await order(database, "settled", outcome="fulfilled", age_s=3700, due_s=0, party="source:roster")
    await held(database, "tell Roster; then close this order", outcome="fulfilled", held_from="settled", age_s=9000)


async def quiet(database: Database) -> None:
    await delivery(database, "roster", "informational", age_s=100_000)
    await delivery(database, "roster", "rejected")


async def quarantined(database: Database) -> None:
    await delivery(database, "roster", "quarantined")


async def rejected(database: Database) -> None:
    for _ in range(5):
        await delivery(database, "roster", "rejected")


async def troubled(database: Database) -> None:
    await process(database, "api", trouble="relay.toml: routes.0.vendor: there is no [vendors.gpc]")


async def workers_gone(database: Database) -> None:
    await process(database, "worker", age_s=61)
    await order(database, "received")


async def held_orders(database: Database) -> None:
    await held(database, NO_ROUTE)


CONDITIONS: dict[str, tuple[Callable[[Database], Awaitable[None]], str, str]] = {
    "held/roster/no_route": (held_orders, "🟡 On hold: 1 order of roster, no route matches. RR-", "orders"),
    "breaker_open/vendor:gcp": (breaker, "🟡 vendor:gcp fails again and again, 0 orders waiting", "party_health"),
    "paused/source:roster": (pause, "🔴 source:roster is paused, 0 orders waiting for it. It refuses", "party_health"),
    "due/vendor:gcp": (overdue, "🔴 vendor:gcp: 2 orders overdue, the oldest (RR-", "orders"),
    "unclosed/roster": (unclosed, "🟡 Delivered, but roster does not know: 2 orders, the oldest for 2 h", "orders"),
    "quiet/roster": (quiet, "🟡 roster: nothing has arrived for 27 h", "deliveries"),
    "quarantined/roster": (quarantined, "🟡 roster: 1 webhook quarantined. ", "deliveries"),
    "rejected/roster": (rejected, "🟡 roster: 5 webhooks rejected within an hour", "deliveries"),
    "configuration/relay-1": (troubled, "🟡 relay-1: the newest configuration is not in use. relay.toml", "processes"),
    "no_worker/all": (workers_gone, "🔴 No worker is at work, 1 order waiting. The last one was seen 61 s", "orders"),
}


@pytest.mark.parametrize("key", CONDITIONS)
async def test_a_condition_is_told_once_again_after_a_while_and_once_when_it_is_over(
    relay: Relay, receiver: Receiver, key: str
) -> None:
    make, says, table = CONDITIONS[key]
    await make(relay.database)
    await look(relay)
    assert key in [each["key"] for each in (await relay.ops.alerts())["items"]]
    assert len(receiver.texts) == 1
    assert says in receiver.texts[0]
    for _ in range(3):
        await look(relay)
    assert len(receiver.texts) == 1

    await look(relay, 14_400)
    assert len(receiver.texts) == 2
    assert "Still so, since " in receiver.texts[1]

    await run(relay.database, f"DELETE FROM {table}")
    await look(relay)
    assert len(receiver.texts) == 2
    assert key not in [each["key"] for each in (await relay.ops.alerts())["items"]]
    await look(relay, 180)
    assert "🟢 Over after" in receiver.texts[2]
    for _ in range(3):
        await look(relay, 15_000)
    assert len(receiver.texts) == 3


async def test_nothing_wrong_is_nothing_told(relay: Relay, receiver: Receiver) -> None:
    await process(relay.database, "worker")
    await delivery(relay.database, "roster", "accepted")
    await order(relay.database, "received", due_s=299)
    await order(relay.database, "settled", outcome="fulfilled", age_s=3500)
    await order(relay.database, "settled", outcome="refused", age_s=9000)
    await look(relay)
    assert (await relay.ops.alerts())["items"] == []
    assert receiver.requests == []


async def test_no_text_holds_an_address_a_token_or_what_slack_would_read_as_a_command(
    relay: Relay, receiver: Receiver
) -> None:
    for make, _, _ in CONDITIONS.values():
        if make is not breaker:
            await make(relay.database)
    await run(
        relay.database,
        "INSERT INTO party_health (party, breaker, since, why) VALUES ('vendor:gcp', 'open', now(), "
        "'<!channel> bob@example.com https://x.test/?token=abc RR-0123456789ABCDEF.callbacktoken & more')",
    )
    await held(relay.database, "vendor:gcp answered 400: Ann Lee, ann@example.com, +4917012345. Mend the cause and "
               "release, or refuse the reward")  # fmt: skip
    await held(relay.database, "something that nobody foresaw about Ann Lee")
    await look(relay)
    everything = receiver.texts[0] + str((await relay.ops.summary())["alerts"])
    for private in ("@", "Ann", "sk_live", "callbacktoken", "+49170", "token=abc", "s3cretpath", "callback-token"):
        assert private not in everything
    assert "<!channel>" not in receiver.texts[0]
    assert "&lt;!channel&gt;" in receiver.texts[0]
    assert re.findall(r"<(?!http://relay\.test)", receiver.texts[0]) == []


async def test_sources_may_be_quiet_for_different_times(database_url: str, tmp_path: Path, receiver: Receiver) -> None:
    more = "quiet_after_s = 100\n[alerts.quiet_after]\nroster = 0\ntalkable = 1000"
    async with relay_of(configured(tmp_path, more), database_url, receiver.transport) as relay:
        for source in ("roster", "talkable", "voucherify", "unknown"):
            await delivery(relay.database, source, "accepted", age_s=500)
        await look(relay)
        assert [each["key"] for each in (await relay.ops.alerts())["items"]] == ["quiet/voucherify"]


async def test_an_overdue_order_says_its_likely_cause(relay: Relay) -> None:
    await overdue(relay.database)
    await order(relay.database, "received", due_s=400, party="vendor:old")
    await pause(relay.database)
    await order(relay.database, "settled", outcome="refused", due_s=400, party="source:roster")
    await look(relay)
    found = {each["key"]: each["text"] for each in (await relay.ops.alerts())["items"]}
    assert "source:roster is paused: see to that first" in found["due/source:roster"]
    assert "vendor:old is not in this configuration" in found["due/vendor:old"]
    assert "No worker is at work, or too few" in found["due/vendor:gcp"]


def test_every_kind_of_hold_is_told_apart() -> None:
    """By phrases of reasons that the relay gives; the README's run-book is tested for the same ones."""
    readme = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
    quoted = [phrase for cell in re.findall(r"^\| (\".*?) \|", readme, re.M) for phrase in re.findall(r'"(.+?)"', cell)]
    known = [phrase for _, phrase in conditions.PHRASES]
    assert len(quoted) > 12
    assert [each for each in quoted if not any(each in phrase or phrase in each for phrase in known)] == []


def test_somebody_elses_words_are_cleaned() -> None:
    assert conditions.cleaned("answered 401 (key sk_live_51HxAbCdEfGhIjKlMn)\nat https://x.test/a?b for a@b.org.") == (
        "answered 401 (key ***) at *** for ***"
    )
    assert conditions.cleaned("see RR-0123456789ABCDEF of relay.toml") == "see RR-0123456789ABCDEF of relay.toml"
    assert len(conditions.cleaned("word " * 100)) == conditions.QUOTED
