"""The API's finer manners: timeline, allowed actions, bulk over REST, unknown parameters, broken bodies, secrets."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from reward_relay.actions import ACTIONS
from reward_relay.db import queries
from reward_relay.sandbox.senders import Webhook
from reward_relay.wiring import Relay
from support.far_side import far_side
from support.relays import OPERATOR, VIEWER, client_of, ended, relay_of, settings, working
from support.steered import Steered, accepted, every_platform, post, roster

API = "/api/v1"


async def order_of(client: httpx.AsyncClient, key: str) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(f"{API}/orders/{key}")).json()
    return found


# --- one order -------------------------------------------------------------------------------------------


async def test_the_timeline_is_everything_in_one_order_of_time(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.word = "Completed"
    async with working(relay):
        order_id = await accepted(client, "roster", roster())
        await ended(relay, order_id)
    await post(client, "roster", roster())
    order = await order_of(client, order_id)
    told = [(each["kind"], each["who"], each["to_state"] or each["purpose"]) for each in order["timeline"]]
    assert told == [
        ("delivery", "source:roster", None),
        ("event", "source:roster", "received"),
        ("call", "vendor:gcp", "place"),
        ("event", "worker", "settled"),
        ("call", "source:roster", "close"),
        ("event", "worker", "closed"),
        ("delivery", "source:roster", None),
    ]
    assert [each["at"] for each in order["timeline"]] == sorted(each["at"] for each in order["timeline"])
    call = order["timeline"][2]
    assert (call["verdict"], call["status"], call["took_s"] >= 0) == ("ok", order["calls"][0]["status"], True)
    assert order["timeline"][0]["delivery_id"] == order["delivery_id"]
    assert "arrived again" in order["timeline"][6]["text"]


async def alter(relay: Relay, assignments: str) -> None:
    async with relay.database.transaction() as connection:
        await connection.execute(text(f"UPDATE orders SET {assignments}"))


CALLED = "claim = gen_random_uuid(), claim_until = now() + interval '1 minute'"
HELD = "state = 'on_hold', step = NULL, party = NULL, due_at = NULL, hold_reason = 'because', held_from = "
STANDS = {
    "received": "in_doubt = false",
    "in doubt": "in_doubt = true",
    "called": CALLED,
    "worker died with a wish": 'interrupt = \'{"action": "hold", "actor": "bob", "reason": "x"}\'',
    "placed": "state = 'placed', step = 'check', vendor_order_id = 'G1'",
    "settled": "state = 'settled', step = 'close', party = 'source:roster', outcome = 'fulfilled'",
    "closed": "state = 'closed', step = NULL, party = NULL, due_at = NULL, outcome = 'fulfilled'",
    "held": HELD + "'received'",
    "held in doubt": HELD + "'received', in_doubt = true",
    "held placed": HELD + "'placed', vendor_order_id = 'G1'",
    "held settled": HELD + "'settled', outcome = 'fulfilled', in_doubt = true",
    "held unreachable": HELD + "'received', reward = jsonb_set(reward, '{recipient}', '{}')",
    "held unreadable": HELD + "'received', reward = jsonb_set(reward, '{items}', '[]')",
}


@pytest.mark.parametrize("stands", STANDS)
async def test_the_allowed_actions_are_those_that_then_work(
    relay: Relay, client: httpx.AsyncClient, stands: str
) -> None:
    for action in ACTIONS:
        order_id = await accepted(client, "roster", roster(f"R-{action}"))
        async with relay.database.transaction() as connection:
            await connection.execute(text(f"UPDATE orders SET {STANDS[stands]} WHERE id = :id"), {"id": order_id})
        (row,) = await queried(relay, order_id)
        async with relay.database.transaction() as connection:
            told = {each["action"]: each for each in await relay.ops.actions.allowed(connection, row, {})}
        assert list(told) == list(ACTIONS)
        answer = await client.post(f"{API}/orders/{order_id}/{action}", json={})
        if stands == "held unreadable":
            assert told["release"]["why_not"].endswith("then release")
            continue
        assert (action, answer.status_code == 200) == (action, told[action]["allowed"])
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["detail"]) == (409, told[action]["why_not"])


async def queried(relay: Relay, order_id: str) -> list[dict[str, Any]]:
    async with relay.database.transaction() as connection:
        return await queries.find_orders(connection, order_id)


async def test_the_actions_of_an_order_say_what_they_would_do(client: httpx.AsyncClient) -> None:
    order_id = await accepted(client, "roster", roster())
    actions = {each["action"]: each for each in (await order_of(client, order_id))["actions"]}
    assert actions["retry"]["does"] == "place at vendor:gcp is due now, with all its attempts"
    assert actions["refuse"]["does"] == "ends as refused; roster is told"
    assert actions["release"]["why_not"].endswith("is not on hold: it is received")


# --- bulk ------------------------------------------------------------------------------------------------


async def test_a_bulk_release_is_planned_done_once_and_told(client: httpx.AsyncClient, relay: Relay) -> None:
    order_id = await accepted(client, "roster", roster())
    await relay.ops.hold(order_id, "alice", "wait")
    body = {"action": "release", "filters": {"source": "roster", "q": ""}, "note": "clear"}
    plan = (await client.post(f"{API}/bulk/plan", json=body)).json()
    assert (plan["count"], plan["filters"]) == (1, {"source": "roster", "state": "on_hold"})
    assert set(plan["would"][0]) == {"id", "po_number", "source", "external_id", "state", "does"}
    done = await client.post(f"{API}/bulk/act", json={"token": plan["token"]})
    assert ([each["id"] for each in done.json()["done"]], done.json()["skipped"]) == ([order_id], [])
    again = await client.post(f"{API}/bulk/act", json={"token": plan["token"]})
    assert (again.status_code, "carried out already" in again.json()["detail"]) == (409, True)
    seen = (await client.get(f"{API}/bulk/{plan['token']}")).json()
    assert (seen["left"], len(seen["done"]), seen["used_at"] is not None) == (0, 1, True)


async def test_a_viewer_sees_plans_and_makes_none(relay: Relay, client: httpx.AsyncClient) -> None:
    plan = await relay.bulk.plan("retry", {}, "alice")
    async with client_of(relay, key=VIEWER) as viewer:
        assert (await viewer.get(f"{API}/bulk/{plan['token']}")).status_code == 200
        assert (await viewer.post(f"{API}/bulk/plan", json={"action": "retry"})).status_code == 403
        assert (await viewer.post(f"{API}/bulk/act", json={"token": plan["token"]})).status_code == 403


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"action": "close"}, "'retry', 'release'"),
        ({"action": "retry", "filters": {"sauce": "roster"}}, "filters.sauce"),
        ({"action": "retry", "filters": {"created_after": "soon"}}, "created_after"),
        ({"action": "release", "filters": {"state": "placed"}}, "filters.state"),
    ],
)
async def test_a_wrong_bulk_wish_is_named(client: httpx.AsyncClient, body: dict[str, Any], told: str) -> None:
    answer = await client.post(f"{API}/bulk/plan", json=body)
    assert (answer.status_code, told in answer.json()["detail"]) == (422, True)


# --- parameters and bodies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/orders?stat=on_hold", 'there is no parameter "stat" here; did you mean "state"?'),
        ("/orders?vendors=gcp", 'did you mean "vendor"?'),
        ("/orders/R-1?note=x", 'there is no parameter "note" here'),
        ("/deliveries?veredict=rejected", 'did you mean "verdict"?'),
        ("/deliveries?verdict=reject", "verdict"),
        ("/deliveries?order_id=1", "order_id"),
        ("/summary?x=1", 'there is no parameter "x" here'),
        ("/orders?created_before=yesterday", "created_before"),
    ],
)
async def test_an_unknown_parameter_is_refused_by_name(client: httpx.AsyncClient, path: str, told: str) -> None:
    answer = await client.get(API + path)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid")
    assert told in answer.json()["detail"]


async def test_without_a_key_not_even_the_parameters_are_told(relay: Relay) -> None:
    async with client_of(relay, key=None) as client:
        assert (await client.get(f"{API}/orders?stat=on_hold")).status_code == 401


async def test_an_empty_parameter_is_as_a_missing_one(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster())
    names = ("state", "source", "vendor", "party", "q", "hold_reason", "created_after", "created_before", "cursor")
    answer = await client.get(f"{API}/orders", params=dict.fromkeys(names, ""))
    assert (answer.status_code, len(answer.json()["items"])) == (200, 1)
    answer = await client.get(f"{API}/deliveries", params=dict.fromkeys(("source", "verdict", "order_id"), " "))
    assert (answer.status_code, len(answer.json()["items"])) == (200, 1)


async def test_the_far_ends_of_time_can_be_asked_for(client: httpx.AsyncClient) -> None:
    await accepted(client, "roster", roster())
    for query, count in (
        ({"created_after": "0001-01-01T00:00:00Z"}, 1),
        ({"created_before": "9999-12-31T23:59:59Z"}, 1),
        ({"created_before": "0001-01-01T00:00:00Z"}, 0),
        ({"party": "vendor:gcp", "created_before": "2100-01-01"}, 1),
        ({"party": "source:roster"}, 0),
    ):
        assert len((await client.get(f"{API}/orders", params=query)).json()["items"]) == count


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff\xfe", "the body"),
        (b"[" * 60_000, "the body"),
        (b'"text"', "the body is wrong"),
        (b'{"note": 7}', "body.note"),
        (b'{"note": "\\ud800"', "the body is not JSON"),
        (b'{"\\ud800": 1}', "the body"),
        (b"", "body"),
    ],
)
async def test_a_broken_body_is_a_422_with_a_sentence(client: httpx.AsyncClient, content: bytes, told: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{API}/orders/R-1/hold", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (422, "invalid"), answer.text
    assert told in answer.json()["detail"]


@pytest.mark.parametrize("note", ["", None, "  ", "\ud800", "\x00"])
async def test_a_note_that_says_nothing_is_none(client: httpx.AsyncClient, note: str | None) -> None:
    order_id = await accepted(client, "roster", roster())
    body = json.dumps({"note": note}).encode()
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{API}/orders/{order_id}/hold", content=body, headers=headers)
    assert answer.status_code == 200, answer.text


async def test_a_body_over_the_limit_is_413_and_a_wrong_method_says_the_right_one(client: httpx.AsyncClient) -> None:
    answer = await client.post(f"{API}/routes/explain", json={"source": "roster", "payload": "x" * (1 << 20)})
    assert (answer.status_code, answer.json()["error"]) == (413, "too_large")
    answer = await client.put(f"{API}/orders")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert "it takes GET" in answer.json()["detail"]


# --- secrets ---------------------------------------------------------------------------------------------

KEPT_SECRET = (OPERATOR, VIEWER, "talkable-key-1", "talkable-key-0", "voucherify-key-1", "roster-token-1")
SENT_SECRET = ("influitive-token-1", "app-token", "roster-api-token", "influitive-api-token", "gcp-access-token")


CONSOLE = ("/", "/orders", "/deliveries", "/routes", "/routes/try", "/routes/diff", "/parties", "/reconcile")


async def every_answer(client: httpx.AsyncClient, plan: str) -> str:
    """What every GET of the API and every page of the console says, about everything there is."""
    signed_in = await client.post("/login", data={"key": OPERATOR}, headers={"Origin": "http://relay.test"})
    assert signed_in.status_code == 303
    found = [(await client.get(path)).text for path in CONSOLE]
    found += [(await client.get(f"{API}/{name}")).text for name in ("summary", "parties")]
    found.append((await client.get(f"{API}/bulk/{plan}")).text)
    for name in ("orders", "deliveries"):
        page = await client.get(f"{API}/{name}", params={"limit": 200})
        found.append(page.text)
        for row in page.json()["items"]:
            found += [(await client.get(f"{start}/{name}/{row['id']}")).text for start in (API, "")]
    found += [(await client.get(path)).text for path in ("/openapi.json", "/metrics", "/readyz", "/healthz")]
    return "\n".join(found)


async def test_no_answer_holds_a_secret_a_token_or_claim_data(database_url: str, tmp_path: Path) -> None:
    async with (
        far_side() as far,
        relay_of(settings(tmp_path), database_url, far.transport) as relay,
        client_of(relay) as client,
        working(relay),
    ):
        for source, webhook in every_platform().items():
            await ended(relay, await accepted(client, source, webhook))
            unreadable = Webhook(webhook.headers, b"not readable", webhook.query)
            await post(client, source, unreadable)
            await client.post(f"/webhooks/{source}?token={OPERATOR}", content=webhook.body)
        async with relay.database.transaction() as connection:
            hidden = [row.callback_token for row in await connection.execute(text("SELECT callback_token FROM orders"))]
        plan = await relay.bulk.plan("release", {}, "alice")
        told = await every_answer(client, plan["token"])
    assert '"verdict":"accepted"' in told
    assert told.count("From the webhook to the closing answer") == 4
    assert '"verdict":"rejected"' in told
    assert len(hidden) == 4
    for secret in (*KEPT_SECRET, *SENT_SECRET, *hidden, "claim.example", "ClaimCode", '"Pin"'):
        assert (secret, secret in told) == (secret, False)
