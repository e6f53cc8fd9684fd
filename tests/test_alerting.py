"""What is told, when, and how often: every look is one message at most, and nothing gets lost."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from reward_relay.alerting import MOST_LINES
from reward_relay.db.engine import Database
from reward_relay.errors import CallFailed, ConfigurationError
from reward_relay.wiring import Relay
from support.alerts import NO_ROUTE, URL, Receiver, configured, later, look
from support.relays import VIEWER, client_of, relay_of, settings, until
from support.rows import held, run


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def relay(database_url: str, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Relay]:
    async with relay_of(configured(tmp_path), database_url, receiver.transport) as found:
        yield found


SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def breaker(database: Database) -> None:
    await run(
        database,
        "INSERT INTO party_health (party, breaker, since, why) "
        "VALUES ('vendor:gcp', 'open', now(), 'vendor:gcp answered 504')",
    )


async def test_five_hundred_held_orders_are_one_line_and_later_ones_are_told_of_together(
    relay: Relay, receiver: Receiver
) -> None:
    for _ in range(500):
        await held(relay.database, NO_ROUTE)
    await look(relay)
    assert "On hold: 500 orders of roster, no route matches. RR-" in receiver.texts[0]
    assert " and 497 more. Add a route" in receiver.texts[0]
    assert len(receiver.texts[0].splitlines()) == 2

    newest = [await held(relay.database, NO_ROUTE) for _ in range(3)]
    await look(relay)
    assert len(receiver.texts) == 1
    await look(relay, 300)
    assert "On hold: 503 orders of roster (3 new), no route matches. " + ", ".join(newest) in receiver.texts[1]
    await look(relay, 301)
    assert len(receiver.texts) == 2


async def test_a_flapping_condition_is_one_alert(relay: Relay, receiver: Receiver) -> None:
    for _ in range(8):
        await breaker(relay.database)
        await look(relay)
        await run(relay.database, "DELETE FROM party_health")
        await look(relay)
    assert len(receiver.texts) == 1


async def test_one_that_comes_back_after_its_end_waits_before_it_is_told_again(
    relay: Relay, receiver: Receiver
) -> None:
    await breaker(relay.database)
    await look(relay)
    await run(relay.database, "DELETE FROM party_health")
    await look(relay)
    await look(relay, 180)
    assert len(receiver.texts) == 2
    await breaker(relay.database)
    await look(relay)
    assert len(receiver.texts) == 2
    await look(relay, 300)
    assert "🟡 vendor:gcp fails" in receiver.texts[2]


async def test_while_the_receiver_is_down_nothing_is_lost_and_the_log_says_it_once(
    relay: Relay, receiver: Receiver
) -> None:
    alerting = relay.alerting()

    async def again() -> None:
        await later(relay.database, 31)
        assert await alerting.look()

    with capture_logs() as lines:
        for receiver.status in (None, 500, 404, 302):
            await held(relay.database, NO_ROUTE)
            await again()
        await breaker(relay.database)
        await again()
        await run(relay.database, "DELETE FROM party_health")
        for _ in range(7):
            await again()
        receiver.status, receiver.requests = 200, []
        await again()
        await again()
    assert [each["event"] for each in lines] == ["alerts_not_sent", "alerts_work_again"]
    assert "s3cretpath" not in str(lines)
    assert len(receiver.texts) == 1
    assert "On hold: 4 orders of roster, no route" in receiver.texts[0]
    assert "🟢 Over after 31 s: vendor:gcp fails again and again, 0 orders waiting for it" in receiver.texts[0]


async def test_the_loop_looks_by_itself(database_url: str, tmp_path: Path, receiver: Receiver) -> None:
    async with relay_of(configured(tmp_path, "every_s = 1"), database_url, receiver.transport) as relay:
        await held(relay.database, NO_ROUTE)
        async with relay.alerting().looking():

            async def told() -> bool:
                return bool(receiver.requests)

            await until(told)


async def test_a_signed_message_verifies_and_keeps_its_id_until_it_is_taken(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with relay_of(configured(tmp_path, f'secret = "{SECRET}"'), database_url, receiver.transport) as relay:
        await held(relay.database, NO_ROUTE)
        await breaker(relay.database)
        receiver.status = 500
        await look(relay)
        receiver.status = 200
        await run(relay.database, "UPDATE alert_looks SET at = at - interval '31 s'")
        assert await relay.alerting().look()
        await held(relay.database, NO_ROUTE, "talkable")
        await look(relay)
    for request in receiver.requests:
        assert Webhook(SECRET).verify(request.content, dict(request.headers)) is not None
    ids = [each.headers["webhook-id"] for each in receiver.requests]
    assert ids[0] == ids[1] != ids[2]
    body = receiver.bodies[1]
    assert body["type"] == "relay.alerts"
    assert [(each["key"], each["severity"], each["state"]) for each in body["data"]["alerts"]] == [
        ("breaker_open/vendor:gcp", "warning", "new"),
        ("held/roster/no_route", "warning", "new"),
    ]
    assert set(body["data"]["alerts"][0]) == {"key", "severity", "state", "text", "since"}


async def test_without_a_secret_the_body_is_slacks(relay: Relay, receiver: Receiver) -> None:
    await held(relay.database, NO_ROUTE)
    await look(relay)
    assert list(receiver.bodies[0]) == ["text"]
    assert receiver.texts[0].startswith("*Reward Relay* (relay.test)\n")
    assert "<http://relay.test/orders?state=on_hold&source=roster|Look>" in receiver.texts[0]
    assert str(receiver.requests[0].url) == URL


async def test_a_message_has_so_many_lines_and_says_how_many_more_there_are(relay: Relay, receiver: Receiver) -> None:
    for number in range(27):
        await held(relay.database, NO_ROUTE, f"source_{number}")
    await look(relay)
    assert len(receiver.texts[0].splitlines()) == MOST_LINES + 2
    assert receiver.texts[0].endswith("… and 12 more")
    await look(relay, 301)
    assert len(receiver.texts) == 1


async def test_without_an_address_conditions_are_looked_at_and_all_are_told_once_there_is_one(
    database_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    async with relay_of(settings(tmp_path), database_url, receiver.transport) as silent:
        await held(silent.database, NO_ROUTE)
        await breaker(silent.database)
        await look(silent)
        await run(silent.database, "DELETE FROM party_health")
        await look(silent)
        await look(silent, 200)
        (found,) = (await silent.ops.summary())["alerts"]
    assert (found["key"], found["severity"], found["sent_at"]) == ("held/roster/no_route", "warning", None)
    assert receiver.requests == []
    async with relay_of(configured(tmp_path), database_url, receiver.transport) as relay:
        await look(relay)
    assert len(receiver.texts[0].splitlines()) == 2
    assert "1 order of roster" in receiver.texts[0]


async def test_a_viewer_sees_the_alerts(relay: Relay) -> None:
    await held(relay.database, NO_ROUTE)
    async with client_of(relay, VIEWER) as client:
        assert (await client.get("/api/v1/alerts")).json() == {"items": [], "looked_at": None}
        await look(relay, 0)
        found = (await client.get("/api/v1/alerts")).json()
        assert (await client.get("/api/v1/summary")).json()["alerts"] == found["items"]
    assert [each["key"] for each in found["items"]] == ["held/roster/no_route"]
    assert found["looked_at"]
    async with client_of(relay, None) as client:
        assert (await client.get("/api/v1/alerts")).status_code == 401


async def test_a_test_message_says_what_the_receiver_answered(
    relay: Relay, receiver: Receiver, database_url: str, tmp_path: Path
) -> None:
    assert await relay.alerting().test() == "200 ok"
    assert "This is a test" in receiver.texts[0]
    receiver.status = 404
    assert await relay.alerting().test() == "404 no such hook: ***"
    receiver.status = None
    with pytest.raises(CallFailed, match="could not be reached") as error:
        await relay.alerting().test()
    assert "s3cretpath" not in str(error.value)
    async with relay_of(settings(tmp_path), database_url) as silent:
        with pytest.raises(ConfigurationError, match=r"alerts\.url is not set"):
            await silent.alerting().test()


@pytest.mark.parametrize(
    ("secret", "right"),
    [
        (SECRET, True),
        (SECRET.removeprefix("whsec_"), True),
        ("whsec_!", False),
        ("whsec_c2hvcnQ=", False),
        ("ä", False),
    ],
)
def test_a_secret_that_cannot_sign_is_a_mistake_of_the_configuration(tmp_path: Path, secret: str, right: bool) -> None:
    if right:
        configured(tmp_path, f'secret = "{secret}"')
        return
    with pytest.raises(ConfigurationError, match=r"alerts\.secret: must be whsec_ and 24 to 64 bytes") as error:
        configured(tmp_path, f'secret = "{secret}"')
    assert secret.removeprefix("whsec_") not in str(error.value).partition("must be")[0]


def test_mistakes_in_alerts_show_no_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        configured(tmp_path, "[alerts.quiet_after]\nrooster = 5", url="ftp://chat.test/s3cretpath")
    assert "s3cretpath" not in str(error.value)
    assert "alerts.url: must be an http:// or https:// address" in str(error.value)
    assert 'there is no [sources.rooster]; did you mean "roster"?' in str(error.value)
    assert "s3cretpath" not in repr(configured(tmp_path))
