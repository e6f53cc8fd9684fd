"""A vendor's callback: a hint that wakes us up, never a fact."""

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import text

from reward_relay.db import orders
from reward_relay.jobs import Job, Result
from reward_relay.states import State, Step
from reward_relay.wiring import Relay
from support.relays import client_of, ended, until, working
from support.steered import Steered, accepted, reasons, talkable

CALLED_BACK = "the vendor called back"


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(relay, key=None) as found:
        yield found


async def claimed(relay: Relay) -> Job:
    """The one due order, claimed as a worker would."""
    async with relay.database.transaction() as connection:
        (job,) = await orders.claim(connection, {"vendor:gcp": 4, "source:talkable": 4}, 30)
    return job


async def record_placed(relay: Relay, job: Job) -> None:
    """Record that the vendor has the order and is to be asked again in an hour."""
    result = Result(
        State.PLACED, Step.CHECK, "vendor:gcp", "ok", wait_s=3600, reason="placed as G1", vendor_order_id="G1"
    )
    async with relay.database.transaction() as connection:
        assert (job.id, job.claim) in await orders.record(connection, [(job, result)])


async def token_of(relay: Relay, order_id: str) -> str:
    async with relay.database.transaction() as connection:
        row = await connection.execute(
            text("SELECT po_number || '.' || callback_token FROM orders WHERE id = CAST(:id AS uuid)"), {"id": order_id}
        )
        return str(row.scalar_one())


async def late_s(relay: Relay, order_id: str) -> float:
    """How many seconds ago the order's next step was due; negative where it is not due yet."""
    async with relay.database.transaction() as connection:
        row = await connection.execute(
            text("SELECT EXTRACT(epoch FROM now() - due_at) FROM orders WHERE id = CAST(:id AS uuid)"), {"id": order_id}
        )
        return float(row.scalar_one())


async def placed(relay: Relay, client: httpx.AsyncClient) -> tuple[str, str]:
    """An order that waits for the vendor, and the path of its callback."""
    order_id = await accepted(client, "talkable", talkable())
    await record_placed(relay, await claimed(relay))
    return order_id, f"/vendor-webhooks/gcp/{await token_of(relay, order_id)}"


async def test_the_callback_makes_the_order_due_now_and_is_told_once(relay: Relay, client: httpx.AsyncClient) -> None:
    order_id, path = await placed(relay, client)
    assert await late_s(relay, order_id) < -3000
    answers = [await client.post(path, json={"anything": "at all"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert await late_s(relay, order_id) >= 0
    assert (await reasons(relay, order_id)).count(CALLED_BACK) == 1
    assert (await relay.ops.order(order_id))["state"] == "placed"


async def test_a_callback_wakes_a_worker_and_is_not_believed(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    order_id, path = await placed(relay, client)
    async with working(relay):
        await client.post(path, json={"Status": "Completed"})

        async def checked() -> bool:
            calls = (await relay.ops.order(order_id))["calls"]
            return any(call["purpose"] == "check" and call["verdict"] == "pending" for call in calls)

        await until(checked)
        assert (await relay.ops.order(order_id))["state"] == "placed"
        far.word = "Completed"
        await client.post(path)
        assert (await ended(relay, order_id))["outcome"] == "fulfilled"


async def test_a_callback_during_a_call_is_kept_until_the_call_is_recorded(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    order_id = await accepted(client, "talkable", talkable())
    job = await claimed(relay)
    path = f"/vendor-webhooks/gcp/{await token_of(relay, order_id)}"
    assert (await client.post(path)).status_code == 202
    assert await late_s(relay, order_id) < 0
    await record_placed(relay, job)
    assert await late_s(relay, order_id) >= 0
    assert (await claimed(relay)).id == order_id


async def test_a_callback_is_heard_again_after_the_check_that_it_asked_for(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    order_id, path = await placed(relay, client)
    await client.post(path)
    await record_placed(relay, await claimed(relay))
    assert await late_s(relay, order_id) < -3000
    await client.post(path)
    assert await late_s(relay, order_id) >= 0
    assert (await reasons(relay, order_id)).count(CALLED_BACK) == 2


async def test_a_wrong_token_vendor_or_order_is_404_and_changes_nothing(
    relay: Relay, client: httpx.AsyncClient
) -> None:
    order_id, path = await placed(relay, client)
    token = path.rpartition("/")[2]
    number, _, secret = token.partition(".")
    wrong = [
        f"gcp/{number}.{secret[:-1]}",
        f"gcp/{number}.",
        f"gcp/{number}",
        f"gcp/RR-0000000000000000.{secret}",
        f"tremendous/{token}",
        f"gcp/{'x' * 5000}",
        "gcp/%00.%00",
        f"gcp/{number}.%ED%A0%80",
    ]
    for each in wrong:
        answer = await client.post(f"/vendor-webhooks/{each}", json={})
        assert (each, answer.status_code, answer.json().get("error")) == (each, 404, "unknown_token")
        assert secret not in answer.text
    assert await late_s(relay, order_id) < -3000


async def test_a_late_callback_of_an_order_that_ended_is_welcome_and_changes_nothing(
    relay: Relay, client: httpx.AsyncClient, far: Steered
) -> None:
    far.word = "Completed"
    async with working(relay):
        order_id = await accepted(client, "talkable", talkable())
        path = f"/vendor-webhooks/gcp/{await token_of(relay, order_id)}"
        before = await ended(relay, order_id)
    assert (await client.post(path)).status_code == 202
    assert await relay.ops.order(order_id) == before


async def test_a_callback_over_1_mib_is_413(relay: Relay, client: httpx.AsyncClient) -> None:
    _, path = await placed(relay, client)
    assert (await client.post(path, content=b" " * ((1 << 20) + 1))).status_code == 413
