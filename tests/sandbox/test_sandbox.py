"""The sandbox's vendor: orders, callbacks, and every way of misbehaving."""

import asyncio
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Any, Self

import httpx
import pytest

from reward_relay.sandbox.app import Sandbox, create_app
from reward_relay.sandbox.far_side import SandboxOptions
from reward_relay.sandbox.modes import Mode
from reward_relay.sandbox.senders import sample

CALLBACK = "https://relay.example/done"


class World:
    """A sandbox, a client in front of it, and the callbacks it made."""

    def __init__(self, **options: Any) -> None:
        self.callbacks: list[dict[str, Any]] = []
        self.callback_status = 202
        self.seen_at_callback: Callable[[], object] = lambda: None
        self._called = asyncio.Event()
        quick = {"complete_after_s": 0.05, "slow_s": 0.05, **options}
        self.app: Sandbox = create_app(SandboxOptions(**quick), callbacks=httpx.MockTransport(self._called_back))
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://sandbox")

    def _called_back(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url) == CALLBACK
        self.callbacks.append({"body": request.content.decode(), "seen": self.seen_at_callback()})
        self._called.set()
        return httpx.Response(self.callback_status)

    async def called_back(self, times: int = 1) -> None:
        """Wait until the vendor has called so often."""
        async with asyncio.timeout(5):
            while len(self.callbacks) < times:
                self._called.clear()
                await self._called.wait()

    async def __aenter__(self) -> Self:
        await self.sign_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.app.close()

    async def token(self) -> httpx.Response:
        return await self.client.post("/gcp/v1/Tokens", headers={"Email": "a@b.example", "AccessToken": "any"})

    async def sign_in(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {(await self.token()).json()['Value']}"

    async def order(self, po_number: str = "PO-1", email: str = "ann@example.com", **changes: Any) -> httpx.Response:
        body = sample("giftcard_partners_order")
        body |= {"PONumber": po_number, "WebhookSettings": {"FulfillmentComplete": CALLBACK}, **changes}
        body["LineItems"][0]["DigitalDeliveryAddress"]["Email"] = email
        return await self.client.post("/gcp/v1/Orders", json=body)

    async def rule(self, mode: str, **rule: Any) -> None:
        rule = {"party": "gcp", "operation": "place", "mode": mode, **rule}
        assert (await self.client.post("/sandbox/rules", json=rule)).status_code == 201

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.client.get("/sandbox/state")).json()
        return state

    async def status(self, order_id: str) -> str:
        return str((await self.client.get(f"/gcp/v1/Orders/{order_id}")).json()["Status"])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


async def finished() -> None:
    """Long enough for every order to complete and for a callback that should not come."""
    await asyncio.sleep(0.12)


# --- a well-behaved vendor -------------------------------------------------------------------------------


async def test_an_order_completes_later_and_calls_back_once(world: World) -> None:
    placed = (await world.order()).json()
    assert (placed["Status"], placed["PONumber"], placed["Total"]) == ("Pending", "PO-1", 20.0)
    assert "ClaimUrl" not in placed["LineItems"][0]
    await world.called_back()
    done = (await world.client.get(f"/gcp/v1/Orders/{placed['Id']}")).json()
    assert done["Status"] == "Completed"
    assert done["LineItems"][0]["ClaimUrl"].startswith("https://claim.example/")
    assert done["LineItems"][0]["ClaimCode"] not in world.callbacks[0]["body"]
    await finished()
    assert len(world.callbacks) == 1


async def test_a_used_po_number_is_answered_with_the_first_order(world: World) -> None:
    first = (await world.order()).json()
    again = await world.order()
    assert (again.status_code, again.json()["PreviousOrderIds"]) == (409, [first["Id"]])
    counts = (await world.state())["counts"]
    assert (counts["orders"], counts["posts"]) == ({"PO-1": 1}, {"PO-1": 2})


async def test_an_order_may_complete_in_its_first_answer() -> None:
    async with World(complete_after_s=0) as world:
        assert (await world.order()).json()["Status"] == "Completed"
        await finished()
        assert world.callbacks == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"Type": "Pigeon"}, "Type"),
        ({"PONumber": ""}, "PONumber"),
        ({"PONumber": "X" * 21}, "PONumber"),
        ({"Type": "PhysicalShipment"}, "Order"),
    ],
)
async def test_an_order_that_lacks_something_is_answered_400(world: World, changes: Any, field: str) -> None:
    answer = await world.order(**changes)
    assert answer.status_code == 400
    assert field in answer.json()["Errors"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"PONumber": 1}', b'{"PONumber": "\\ud800"}', b"[" * 100_000])
async def test_whatever_is_posted_as_an_order_is_answered_400(world: World, body: bytes) -> None:
    assert (await world.client.post("/gcp/v1/Orders", content=body)).status_code == 400
    assert (await world.state())["orders"] == []


async def test_calls_need_a_token_that_has_not_expired() -> None:
    async with World(token_life_s=0.01) as world:
        await asyncio.sleep(0.02)
        assert (await world.order()).status_code == 401
        assert (await world.client.get("/gcp/v1/Products")).status_code == 401
        del world.client.headers["Authorization"]
        assert (await world.order()).status_code == 401


async def test_a_fixed_access_token_is_the_only_one_taken() -> None:
    account = {"Email": "a@b.example", "AccessToken": "the-one"}
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(create_app(SandboxOptions(access_token="the-one"))), base_url="http://sandbox"
    )
    async with client:
        given = [account, {**account, "AccessToken": "another"}, {"AccessToken": "the-one"}]
        answers = [await client.post("/gcp/v1/Tokens", headers=headers) for headers in given]
    assert [answer.status_code for answer in answers] == [200, 401, 401]


@pytest.mark.parametrize("listing", ["Products", "ShippingMethods", "Brandings"])
async def test_the_lists_are_there(world: World, listing: str) -> None:
    assert (await world.client.get(f"/gcp/v1/{listing}")).json()[0]["Id"]


async def test_the_same_seed_gives_the_same_ids() -> None:
    ids = []
    for seed in (1, 1, 2):
        async with World(seed=seed) as world:
            ids.append((await world.order()).json()["Id"])
    assert ids[0] == ids[1] != ids[2]


# --- modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "status", "orders"),
    [
        ("error_500", 500, 0),
        ("error_504_before", 504, 0),
        ("unavailable", 503, 0),
        ("unauthorized", 401, 0),
        ("insufficient_funds", 422, 0),
        ("rate_limit", 429, 0),
        ("error_504", 504, 1),
        ("error_500_after", 500, 1),
        ("garbage", 201, 1),
        ("slow", 201, 1),
        ("refuse", 201, 1),
    ],
)
async def test_a_mode_says_whether_the_work_is_done(world: World, mode: str, status: int, orders: int) -> None:
    await world.rule(mode, delay_s=0.01)
    answer = await world.order()
    assert answer.status_code == status
    assert len((await world.state())["orders"]) == orders
    if mode == "garbage":
        assert "json" not in answer.headers["content-type"]
    if mode == "rate_limit":
        assert answer.headers["retry-after"] == "1"


async def test_a_lost_answer_is_an_order_that_the_caller_does_not_hear_of(world: World) -> None:
    await world.rule("lose_answer", times=1)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        await world.order()
    assert (await world.order()).status_code == 409
    state = await world.state()
    assert state["counts"]["orders"] == {"PO-1": 1}
    assert [(call["status"], call["mode"]) for call in state["calls"][-2:]] == [(None, "lose_answer"), (409, None)]


@pytest.mark.parametrize(("mode", "orders"), [("drop", 0), ("half_answer", 1)])
async def test_a_connection_can_break_before_the_work_and_within_the_answer(
    world: World, mode: str, orders: int
) -> None:
    await world.rule(mode)
    with pytest.raises(httpx.RemoteProtocolError):
        await world.order()
    assert len((await world.state())["orders"]) == orders


@pytest.mark.parametrize("operation", ["place", "callback"])
async def test_callbacks_can_come_scattered(world: World, operation: str) -> None:
    await world.rule("scatter", operation=operation, delay_s=0.05)
    await world.order()
    await world.called_back(3)


async def test_a_refused_order_is_declined_with_its_reason_and_nobody_is_called(world: World) -> None:
    await world.rule("refuse", reason="No mugs left")
    order_id = (await world.order()).json()["Id"]
    await finished()
    order = (await world.client.get(f"/gcp/v1/Orders/{order_id}")).json()
    assert (order["Status"], order["Reason"]) == ("Declined", "No mugs left")
    assert world.callbacks == []


@pytest.mark.parametrize("operation", ["place", "callback"])
async def test_a_callback_can_come_three_times(world: World, operation: str) -> None:
    await world.rule("duplicate", operation=operation)
    await world.order()
    await world.called_back(3)


@pytest.mark.parametrize("operation", ["place", "callback"])
async def test_a_callback_can_stay_away(world: World, operation: str) -> None:
    await world.rule("never_call_back", operation=operation)
    order_id = (await world.order()).json()["Id"]
    await finished()
    assert await world.status(order_id) == "Completed"
    assert world.callbacks == []


async def test_a_callback_can_come_before_the_answer(world: World) -> None:
    await world.rule("call_back_first")
    world.seen_at_callback = lambda: "before"
    answer = await world.order()
    world.seen_at_callback = lambda: "after"
    assert [callback["seen"] for callback in world.callbacks] == ["before"]
    assert answer.json()["Status"] == "Completed"


async def test_a_callback_can_come_late(world: World) -> None:
    await world.rule("slow", operation="callback", delay_s=0.5)
    order_id = (await world.order()).json()["Id"]
    await finished()
    assert (await world.status(order_id), world.callbacks) == ("Completed", [])
    await world.called_back()


async def test_a_callback_that_fails_is_written_down(world: World) -> None:
    world.callback_status = 503
    await world.order()
    await world.called_back()
    await finished()
    (order,) = (await world.state())["orders"]
    assert [callback["status"] for callback in order["callbacks"]] == [503]


async def test_a_rule_applies_as_often_as_it_says_and_only_to_what_it_matches(world: World) -> None:
    await world.rule("unavailable", match="PO-2", times=2)
    numbers = ["PO-1", "PO-2", "PO-2", "PO-2"]
    assert [(await world.order(number)).status_code for number in numbers] == [201, 503, 503, 201]
    assert (await world.client.get("/sandbox/rules")).json()[0]["left"] == 0


async def test_a_rule_for_the_token_call_leaves_orders_alone(world: World) -> None:
    await world.rule("unauthorized", operation="token")
    assert (await world.token()).status_code == 401
    assert (await world.order()).status_code == 201


async def test_a_rule_for_everything_is_not_used_up_by_calls_it_means_nothing_for(world: World) -> None:
    await world.rule("refuse", operation="*", times=1)
    await world.token()
    order_id = (await world.order()).json()["Id"]
    await finished()
    assert await world.status(order_id) == "Declined"


async def test_several_rules_can_be_set_and_taken_back(world: World) -> None:
    rules = [{"party": "gcp", "mode": "error_500"}, {"party": "roster", "mode": "error_500"}]
    assert len((await world.client.post("/sandbox/rules", json=rules)).json()) == 2
    assert (await world.order()).status_code == 500
    assert (await world.client.delete("/sandbox/rules")).json() == []
    assert (await world.order()).status_code == 201


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"party": "gcp", "mode": "explode"}, "slow"),
        ({"party": "gcp", "operation": "dance", "mode": "slow"}, "no operation"),
        ({"party": "roster", "mode": "refuse"}, "means nothing"),
        ({"party": "gcp", "operation": "check", "mode": "duplicate"}, "means nothing"),
        ({"party": "gcp", "mode": "slow", "time": 1}, "time"),
    ],
)
async def test_a_rule_that_could_never_apply_is_refused(world: World, rule: Any, said: str) -> None:
    answer = await world.client.post("/sandbox/rules", json=rule)
    assert answer.status_code == 422
    assert said in answer.text


def test_the_guide_names_every_mode() -> None:
    guide = files("reward_relay.sandbox").joinpath("README.md").read_text(encoding="utf-8")
    assert [mode for mode in Mode if f"`{mode}`" not in guide] == []


# --- magic addresses -------------------------------------------------------------------------------------


async def test_an_address_can_ask_for_a_refusal(world: World) -> None:
    order_id = (await world.order(email="ann+refuse@example.com")).json()["Id"]
    await finished()
    assert await world.status(order_id) == "Declined"


async def test_an_address_can_ask_for_patience(world: World) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    assert (await world.order(email="ann+slow@example.com")).status_code == 201
    assert loop.time() - start >= 0.045


async def test_an_address_can_lose_the_first_answer_only(world: World) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await world.order(email="ann+lost@example.com")
    assert (await world.order(email="ann+lost@example.com")).status_code == 409


async def test_an_address_can_ask_for_silence(world: World) -> None:
    order_id = (await world.order(email="ann+never@example.com")).json()["Id"]
    await finished()
    assert (await world.status(order_id), world.callbacks) == ("Completed", [])


# --- memory ----------------------------------------------------------------------------------------------


async def test_the_state_holds_what_was_counted_and_no_claim_data(world: World) -> None:
    order_id = (await world.order()).json()["Id"]
    await world.called_back()
    claimed = (await world.client.get(f"/gcp/v1/Orders/{order_id}")).json()["LineItems"][0]
    state = await world.client.get("/sandbox/state")
    assert claimed["ClaimCode"] not in state.text
    assert state.json()["counts"]["calls"] == {"gcp.token": 1, "gcp.place": 1, "gcp.check": 1}
    assert state.json()["orders"][0]["LineItems"][0]["DigitalDeliveryAddress"] == {"Email": "ann@example.com"}
    placed = state.json()["calls"][1]
    assert (placed["party"], placed["operation"], placed["key"], placed["status"]) == ("gcp", "place", "PO-1", 201)
    assert (placed["method"], placed["path"]) == ("POST", "/gcp/v1/Orders")


async def test_a_reset_forgets_everything_and_calls_nobody_back(world: World) -> None:
    await world.rule("slow", operation="check")
    await world.order()
    state = (await world.client.post("/sandbox/reset")).json()
    assert (state["orders"], state["calls"], state["counts"]["orders"]) == ([], [], {})
    assert (await world.client.get("/sandbox/rules")).json() == []
    await finished()
    assert world.callbacks == []
    assert (await world.order()).status_code == 401
