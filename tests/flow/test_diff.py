"""What another configuration would have done with real recorded deliveries of all four platforms."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from reward_relay.db.engine import Database
from reward_relay.diffing import KINDS, MAX_TEXT_BYTES
from reward_relay.errors import ConfigurationError, TooLarge, Unavailable
from reward_relay.wiring import Relay, build, configured
from support.relays import CONFIGURATION, client_of
from support.steered import accepted, every_platform, post, roster, unreachable

Row = dict[str, Any]
CARDS = 'vendor = "gcp"\nproduct = "CVS"\nvalue = 20\n'
SECOND = """
[vendors.second]
kind = "giftcard_partners"
base_url = "http://second.test"
email = "orders@example.com"
access_token = "second-access-token"
"""
PERSONAL = ("@example.com", "Bob", "Smith", "Ann ", "Ames", "Main Street", "+1202")


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    path = tmp_path / "relay.toml"
    path.write_text(CONFIGURATION)
    source = configured(path, {})
    found = build(source.load(), database_url, source=source, transport=unreachable)
    yield found
    await found.close()


@pytest.fixture
async def orders(relay: Relay) -> dict[str, str]:
    """One recorded reward of each platform; the sources and their orders."""
    async with client_of(relay) as client:
        return {source: await accepted(client, source, webhook) for source, webhook in every_platform().items()}


async def diff(relay: Relay, text: str, **options: Any) -> Row:
    found = await relay.diffing.diff(text, **{"days": 7, "limit": 1000, **options})
    told = json.dumps(found, default=str)
    assert not [each for each in PERSONAL if each in told]
    return found


def kinds(found: Row) -> dict[str, int]:
    counts: dict[str, int] = {}
    for group in found["groups"]:
        counts[group["kind"]] = counts.get(group["kind"], 0) + group["count"]
    assert sum(counts.values()) == found["changed"]
    return counts


async def rows(database: Database) -> list[Any]:
    """Everything that a comparison must leave alone."""
    async with database.transaction() as connection:
        tables = ("deliveries", "orders", "order_events", "calls")
        return [(await connection.execute(sql(f"SELECT * FROM {each} ORDER BY 1"))).all() for each in tables]


async def test_the_same_configuration_changes_nothing(relay: Relay, orders: dict[str, str], database: Database) -> None:
    before = await rows(database)
    found = await diff(relay, CONFIGURATION)
    assert (found["looked_at"], found["changed"], found["groups"], found["routes"]) == (4, 0, [], [])
    assert (found["cut"], found["warnings"], found["on_hold"]["looked_at"]) == (None, [], 0)
    assert await rows(database) == before


CHANGES: dict[str, tuple[Callable[[str], str], dict[str, int]]] = {
    "vendor": (lambda text: text.replace(CARDS, CARDS.replace("gcp", "second")) + SECOND, {"other_vendor": 3}),
    "product": (lambda text: text.replace('"CVS"', '"ADIDAS"'), {"other_product": 3}),
    "value": (lambda text: text.replace("value = 20", "value = 30"), {"other_value": 3}),
    "delivery": (lambda text: text.replace(CARDS, CARDS + 'delivery = "Links"\n'), {"other_delivery": 3}),
    "name": (lambda text: text.replace('"gift cards"', '"cards"'), {"other_route": 3}),
    "held": (lambda text: text.replace("star-th-bottle", "other-sku"), {"now_held": 1}),
    "source": (
        lambda text: text.replace('[sources.roster]\nplatform = "roster"', '[sources.shop]\nplatform = "roster"'),
        {"now_refused": 1},
    ),
    "field": (
        lambda text: text.replace(
            "[sources.influitive]", '[sources.roster.fields]\nitems = "no.where"\n[sources.influitive]'
        ),
        {"now_quarantined": 1},
    ),
    "recipient": (
        lambda text: text.replace(
            "[sources.influitive]", '[sources.roster.fields]\nname = "order.line_items.0.name"\n[sources.influitive]'
        ),
        {"other_recipient": 1},
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_each_kind_of_change_is_found_counted_and_shown(relay: Relay, orders: dict[str, str], name: str) -> None:
    change, expected = CHANGES[name]
    new = change(CONFIGURATION)
    assert new != CONFIGURATION
    found = await diff(relay, new)
    assert kinds(found) == expected
    (group,) = found["groups"]
    assert group["title"] == KINDS[group["kind"]]
    assert len(group["examples"]) == group["count"]
    assert {each["source"] for each in group["examples"]} <= orders.keys()
    assert all(
        each["po_number"].startswith("RR-") and each["before"] != each["after"] for each in group["examples"]
    ) or (name == "name")


async def test_a_group_names_the_routes_the_money_and_before_and_after(relay: Relay, orders: dict[str, str]) -> None:
    new = CONFIGURATION.replace("value = 20", "value = 12.50").replace('"gift cards"', '"small cards"')
    (group,) = (await diff(relay, new))["groups"]
    assert (group["route_before"], group["route_after"]) == ("gift cards", "small cards")
    assert (group["sum_before"], group["sum_after"]) == (60, 37.5)
    assert group["examples"][0]["before"] == "gcp: CVS, 20.00, DigitalDelivery"
    assert group["examples"][0]["after"] == "gcp: CVS, 12.50, DigitalDelivery"


async def test_a_new_vendor_says_that_it_needs_a_restart(relay: Relay, orders: dict[str, str]) -> None:
    found = await diff(relay, CONFIGURATION + SECOND)
    assert found["warnings"] == ["restart needed for: vendors.second"]


async def test_what_was_not_understood_or_held_would_be_free(relay: Relay) -> None:
    payload = json.loads(roster().body)
    payload["order"]["number"] = payload["order"].pop("id")
    new = CONFIGURATION.replace(
        "[sources.influitive]", '[sources.roster.fields]\nexternal_id = "order.number"\n[sources.influitive]'
    )
    async with client_of(relay) as client:
        webhook = roster()
        for _ in range(2):
            answer = await client.post(
                webhook.url("/webhooks/roster"), content=json.dumps(payload), headers=webhook.headers
            )
        assert answer.json()["verdict"] == "quarantined"
        held = every_platform()["voucherify"]
        del relay.reloading.routes[0]
        del relay.reloading.routes[0]
        order_id = await accepted(client, "voucherify", held)
    found = await diff(relay, new)
    assert kinds(found) == {"now_understood": 1, "now_free": 1}
    assert (found["looked_at"], found["repeats"]) == (3, 1)
    understood, free = found["groups"]
    assert understood["examples"][0]["before"].startswith("quarantined: ")
    assert (free["route_before"], free["route_after"]) == (None, "bottles")
    assert (free["sum_before"], free["sum_after"]) == (None, 25)
    order = await relay.ops.order(order_id)
    assert free["examples"][0]["po_number"] == order["po_number"]
    assert {key: found["on_hold"][key] for key in ("looked_at", "freed", "no_longer_freed")} == {
        "looked_at": 1,
        "freed": 1,
        "no_longer_freed": 0,
    }
    assert found["on_hold"]["examples"][0]["after"] == "gcp: TUMBLER, 25.00, PhysicalShipment"


async def test_routes_alone_are_read_into_the_running_configuration(relay: Relay, orders: dict[str, str]) -> None:
    routes = CONFIGURATION[CONFIGURATION.index("[[routes]]") :]
    assert (await diff(relay, routes))["changed"] == 0
    assert kinds(await diff(relay, routes.replace("CVS", "ADIDAS"))) == {"other_product": 3}
    assert kinds(await diff(relay, "routes = []")) == {"now_held": 4}


async def test_a_repeat_and_a_withdrawal_count_once(relay: Relay, orders: dict[str, str]) -> None:
    async with client_of(relay) as client:
        await post(client, "roster", roster())
        voided = every_platform()["talkable"]
        await post(client, "talkable", voided)
    assert (await diff(relay, CONFIGURATION))["looked_at"] == 4


async def test_the_limit_and_the_time_cut_and_say_so(relay: Relay, orders: dict[str, str], database: Database) -> None:
    found = await diff(relay, CONFIGURATION, limit=2)
    assert (found["looked_at"], found["cut"]) == (2, "limit")
    assert (await diff(relay, CONFIGURATION, limit=4))["cut"] is None
    assert (await diff(relay, CONFIGURATION, seconds=-1))["cut"] == "time"
    async with database.transaction() as connection:
        await connection.execute(sql("UPDATE deliveries SET received_at = now() - interval '8 days'"))
    assert (await diff(relay, CONFIGURATION))["looked_at"] == 0
    assert (await diff(relay, CONFIGURATION, days=9))["looked_at"] == 4
    async with database.transaction() as connection:
        await connection.execute(sql("UPDATE deliveries SET body = ''"))
    assert (await diff(relay, CONFIGURATION, days=9))["purged"] == 4


async def test_mistakes_are_listed_as_the_check_does_without_a_secret_of_ours(
    database_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(CONFIGURATION)
    source = configured(
        path, {"RELAY_VENDORS__GCP__BASE_URL": "http://hush.test", "RELAY_SOURCES__ROSTER__API_URL": "hush"}
    )
    found = build(configured(path, {}).load(), database_url, source=source, transport=unreachable)
    with pytest.raises(ConfigurationError) as error:
        await found.diffing.diff(CONFIGURATION.replace('vendor = "gcp"', 'vendor = "gpc"'), days=7, limit=10)
    await found.close()
    told = "\n".join(error.value.problems)
    assert 'the new configuration: routes.0.vendor: there is no [vendors.gpc]; did you mean "gcp"?' in told
    assert "RELAY_SOURCES__ROSTER__API_URL (sources.roster.api_url): must be an http" in told
    assert "hush" not in told


@pytest.mark.parametrize(
    "text",
    [
        "[[routes]\n",
        "a = " + "[" * 200_000,
        "port = 0x" + "f" * 200_000,
        "port = 1e999999\n",
        "\n".join(f"k{number} = {number}" for number in range(15_000)),
        "\ud800 = 1",
        "a = " + '"' + "x" * 200_000 + '"',
        "".join(f'[[routes]]\nname = "{n}"\nvendor = "x"\n' for n in range(5_000)),
        '[[routes]]\nname = "a"\nvendor = "gcp"\nproduct = "a"\nvalue = 1e9999\n',
        "routes = 3",
        "routes = { a = 1 }",
        "sources = 3\nvendors = 4\napi_keys = []\nalerts = 1\n",
    ],
    ids=range(12),
)
async def test_hostile_texts_are_mistakes_and_nothing_else(relay: Relay, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        await relay.diffing.diff(text, days=7, limit=10)
    assert len(error.value.problems) < 300


async def test_a_text_over_the_limit_and_a_second_one_at_a_time_are_refused(relay: Relay) -> None:
    with pytest.raises(TooLarge):
        await diff(relay, "#" * (MAX_TEXT_BYTES + 1))
    found = await asyncio.gather(*(diff(relay, CONFIGURATION) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [dict, Unavailable, Unavailable]
    await diff(relay, CONFIGURATION)


async def test_the_api_compares_for_operators_only(relay: Relay, orders: dict[str, str]) -> None:
    body = {"toml": CONFIGURATION.replace('"CVS"', '"ADIDAS"')}
    async with client_of(relay) as client:
        answer = await client.post("/api/v1/routes/diff", json=body)
        assert answer.status_code == 200
        assert answer.json()["groups"][0]["kind"] == "other_product"
        broken = await client.post("/api/v1/routes/diff", json={"toml": "port = = 1"})
        assert (broken.status_code, broken.json()["error"]) == (422, "invalid")
        assert "not valid TOML: line 1" in broken.json()["detail"]
        huge = await client.post("/api/v1/routes/diff", json={"toml": "#" * (MAX_TEXT_BYTES + 1)})
        assert huge.status_code == 413
    async with client_of(relay, "viewer-key-0123456789") as viewer:
        assert (await viewer.post("/api/v1/routes/diff", json=body)).status_code == 403
    async with client_of(relay, None) as nobody:
        assert (await nobody.post("/api/v1/routes/diff", json=body)).status_code == 401
