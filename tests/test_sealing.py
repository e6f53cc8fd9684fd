"""Stored bodies under keys: sealed with the newest, opened with any, and said which key is missing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError, KeyMissing
from reward_relay.sealing import Sealing, Stored, digest
from reward_relay.wiring import Relay, load_settings
from support.relays import CONFIGURATION, client_of, ended, relay_of, settings, working
from support.rows import run
from support.steered import Steered, accepted, every_platform, post, roster

OLD, NEW = "b2xk" * 10 + "b2w=", "bmV3" * 10 + "bmU="
BODY = '{"name": "Zoë"}'.encode()


def sealing(*keys: str) -> Sealing:
    return Sealing([SecretStr(key) for key in keys])


@asynccontextmanager
async def keyed(database_url: str, tmp_path: Path, *keys: str, far: Steered | None = None) -> AsyncIterator[Relay]:
    text = f"encryption_keys = {list(keys)}\n{CONFIGURATION}"
    async with relay_of(settings(tmp_path, text), database_url, (far or Steered()).transport) as relay:
        yield relay


async def bodies(database: Database) -> list[tuple[bytes, str | None]]:
    return [(bytes(row.body), row.sealed) for row in await run(database, "SELECT body, sealed FROM deliveries")]


def test_a_body_opens_with_the_key_that_sealed_it_wherever_it_stands() -> None:
    stored = sealing(OLD).seal(BODY)
    assert stored.key == digest(OLD)
    assert BODY not in stored.body
    assert sealing(NEW, OLD).open(stored) == BODY
    assert sealing(NEW, OLD).seal(BODY).key == digest(NEW)
    assert sealing(OLD).seal(BODY).body != stored.body


def test_without_keys_a_body_is_kept_as_it_is_and_an_empty_one_always() -> None:
    assert sealing().seal(BODY) == Stored(BODY)
    assert sealing(OLD).seal(b"") == Stored(b"")
    assert sealing(OLD).open(Stored(BODY)) == BODY


def test_a_missing_key_is_named_and_no_key_is_shown() -> None:
    stored = sealing(OLD).seal(BODY)
    for keys in ((), (NEW,)):
        with pytest.raises(
            KeyMissing, match=f"sealed with key {digest(OLD)}, which is not in encryption_keys"
        ) as found:
            sealing(*keys).open(stored)
        assert NEW not in str(found.value)


def test_a_changed_body_does_not_open() -> None:
    stored = sealing(OLD).seal(BODY)
    with pytest.raises(KeyMissing, match="it was changed since"):
        sealing(OLD).open(Stored(stored.body[:-1] + b"x", stored.key))


@pytest.mark.parametrize("body", [BODY, b"", b"plain:", b"12345678:x", b"\x00\xff"])
def test_what_is_packed_says_itself_how_it_is_sealed(body: bytes) -> None:
    assert sealing(OLD).unpack(sealing().pack(body)) == body
    assert sealing(NEW, OLD).unpack(sealing(OLD).pack(body)) == body
    assert BODY not in sealing(OLD).pack(BODY)


@pytest.mark.parametrize(
    ("keys", "mistake"),
    [
        (
            "['short']",
            "encryption_keys.0: must be 32 bytes in URL-safe base64; make one with: reward-relay",
        ),
        (f"['{OLD}', '{OLD}']", "has the same key twice"),
        (f"['{OLD[:-1]}']", "must be 32 bytes"),
    ],
)
def test_a_wrong_key_stops_the_start_and_is_not_repeated(tmp_path: Path, keys: str, mistake: str) -> None:
    with pytest.raises(ConfigurationError, match=mistake) as found:
        settings(tmp_path, f"encryption_keys = {keys}\n{CONFIGURATION}")
    assert "short" not in str(found.value)
    assert OLD[:-1] not in str(found.value)


def test_keys_come_from_the_environment_too() -> None:
    found = load_settings(environ={"RELAY_ENCRYPTION_KEYS": f"{NEW},{OLD}"})
    assert [each.get_secret_value() for each in found.encryption_keys] == [NEW, OLD]


# A relay with keys.


async def test_all_that_arrives_is_sealed_and_reads_as_it_came(
    database_url: str, tmp_path: Path, database: Database
) -> None:
    far = Steered()
    far.word = "Completed"
    async with keyed(database_url, tmp_path, OLD, far=far) as relay, client_of(relay) as client, working(relay):
        for source, webhook in every_platform().items():
            answer = (await post(client, source, webhook)).json()
            if source != "voucherify":  # whose customer has no address here
                assert (await ended(relay, answer["order_id"]))["outcome"] == "fulfilled"
            shown = (await client.get(f"/api/v1/deliveries/{answer['delivery_id']}")).json()
            assert "example.com" in shown["body"] or "Jack Webhook" in shown["body"]
            assert shown["no_body"] is None
    kept = await bodies(database)
    assert len(kept) == 4
    assert {key for _, key in kept} == {digest(OLD)}
    assert [each for each, _ in kept if b"example" in each or b"Jack" in each or b"name" in each] == []


async def test_a_held_order_is_routed_again_by_its_sealed_payload_and_waits_where_its_key_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    by_payload = CONFIGURATION.replace('name = "gift cards"', 'name = "gift cards"\nwhen = {"payload.id" = "R-1"}')
    async with keyed(database_url, tmp_path, OLD) as relay, client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
        await relay.ops.hold(order_id, "alice", "")
    for keys, allowed in (([NEW], False), ([NEW, OLD], True)):
        text = f"encryption_keys = {keys}\n{by_payload}"
        async with relay_of(settings(tmp_path, text), database_url) as relay:
            actions = {each["action"]: each for each in (await relay.ops.order(order_id))["actions"]}
            assert actions["release"]["allowed"] is allowed
            if not allowed:
                assert (
                    f"sealed with key {digest(OLD)}, which is not in encryption_keys" in actions["release"]["why_not"]
                )
                assert actions["refuse"]["allowed"]


async def test_without_its_key_a_delivery_says_so_and_orders_go_on(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    far.word = "Completed"
    async with keyed(database_url, tmp_path, OLD) as relay, client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
        unread = (await post(client, "roster", roster("R-2", name=""))).json()["delivery_id"]
        await run(
            relay.database, f"UPDATE deliveries SET order_id = NULL, verdict = 'quarantined' WHERE id = '{unread}'"
        )
    async with keyed(database_url, tmp_path, NEW, far=far) as relay, client_of(relay) as client, working(relay):
        assert (await ended(relay, order_id))["outcome"] == "fulfilled"
        shown = await client.get(f"/api/v1/deliveries/{unread}")
        replay = await client.post(f"/api/v1/deliveries/{unread}/replay", json={})
        compared = await relay.diffing.diff(CONFIGURATION, days=1, limit=10)
    assert (shown.status_code, shown.json()["body"]) == (200, "")
    assert f"sealed with key {digest(OLD)}" in shown.json()["no_body"]
    assert replay.status_code == 409
    assert digest(OLD) in replay.json()["detail"]
    assert compared["sealed"] == 2


async def test_a_sealed_delivery_is_replayed_and_stays_sealed(
    database_url: str, tmp_path: Path, database: Database
) -> None:
    async with keyed(database_url, tmp_path, OLD) as relay, client_of(relay) as client:
        bad = roster()
        answer = await client.post("/webhooks/roster", content=b'{"event": "reward_redeemed"}', headers=bad.headers)
        assert answer.json()["verdict"] == "quarantined"
        again = await client.post(f"/api/v1/deliveries/{answer.json()['delivery_id']}/replay", json={})
    assert again.json()["verdict"] == "quarantined"
    assert [key for _, key in await bodies(database)] == [digest(OLD)]


async def test_resealing_moves_everything_to_the_newest_key_and_says_what_can_go(
    database_url: str, tmp_path: Path, database: Database
) -> None:
    for keys in ((), (OLD,)):
        async with keyed(database_url, tmp_path, *keys) as relay, client_of(relay) as client:
            for number in range(60):
                await accepted(client, "roster", roster(f"R-{len(keys)}-{number}"))
    async with keyed(database_url, tmp_path, NEW, OLD) as relay, client_of(relay) as client:
        assert (await relay.resealing.look())["by_key"] == {digest(NEW): 0, digest(OLD): 60}
        done = await relay.resealing.run()
        assert (done["resealed"], done["failed"], done["plain"]) == (120, 0, 0)
        assert (done["unused"], done["missing"]) == ([digest(OLD)], {})
        assert (await relay.resealing.run())["resealed"] == 0
    async with keyed(database_url, tmp_path, NEW) as relay, client_of(relay) as client:
        for each in (await client.get("/api/v1/deliveries?limit=200")).json()["items"]:
            assert "ann@example.com" in (await client.get(f"/api/v1/deliveries/{each['id']}")).json()["body"]
    assert {key for _, key in await bodies(database)} == {digest(NEW)}


async def test_resealing_leaves_what_it_cannot_open_and_says_so(database_url: str, tmp_path: Path) -> None:
    async with keyed(database_url, tmp_path, OLD) as relay, client_of(relay) as client:
        await accepted(client, "roster", roster())
    async with keyed(database_url, tmp_path, NEW) as relay:
        done = await relay.resealing.run()
    assert (done["resealed"], done["failed"], done["missing"]) == (0, 1, {digest(OLD): 1})


async def test_without_a_key_there_is_nothing_to_reseal_with(database_url: str, tmp_path: Path) -> None:
    async with keyed(database_url, tmp_path) as relay:
        with pytest.raises(ConfigurationError, match="reward-relay config new-key"):
            await relay.resealing.run()
