"""Voucherify: the customer's record before an order is placed, and the calls that close a reward, byte for byte."""

import json
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import ValidationError

from reward_relay.contracts import (
    Address,
    ByHand,
    Closed,
    Ending,
    NothingToDo,
    OutboundRequest,
    Recipient,
    RewardOrder,
)
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown
from reward_relay.outbound import Outbound
from reward_relay.platforms.voucherify.adapter import Adapter, Settings
from reward_relay.states import Outcome

API = "https://us1.api.voucherify.io"
REDEMPTION, ORDER, CUSTOMER = "r_0e2907cc52498573ee", "ord_8GGVSci7FUPX1UX94qBHQPSE", "cust_IdgAFZxYwwHctOk9pPuMu308"
CREDENTIALS = {"app_id": "an-app-id", "app_token": "an-app-token"}
FULFILLED, REFUSED = Ending(Outcome.FULFILLED), Ending(Outcome.REFUSED, "out of stock")
DONE = httpx.Response(200, json={})


class FarSide:
    """Voucherify's API: notes each request, and answers all of them alike."""

    def __init__(self, answer: httpx.Response | Exception = DONE) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def seen(self) -> list[tuple[str, str, Any]]:
        return [(each.method, str(each.url), json.loads(each.content or b"null")) for each in self.requests]


def adapter(far_side: FarSide, **overrides: Any) -> Adapter:
    given = {"platform": "voucherify", "secrets": ["secretKey"], "api_url": f"{API}/", **CREDENTIALS, **overrides}
    outbound = Outbound(transport=lambda: httpx.MockTransport(far_side))
    return Adapter("points", Settings.model_validate(given), outbound)


def order(**changes: Any) -> RewardOrder:
    body = files("reward_relay.sandbox").joinpath("samples/voucherify_customer_rewarded.json").read_bytes()
    parsed = adapter(FarSide()).parse(body, "application/json")
    assert isinstance(parsed, RewardOrder)
    return parsed.model_copy(update=changes)


# --- the customer's record -----------------------------------------------------------------------------------

CUSTOMER_RECORD = {
    "id": CUSTOMER,
    "name": "Jack W.",
    "email": "jack@example.com",
    "phone": "+48 600 000 000",
    "address": {
        "line_1": "ul. Prosta 1",
        "line_2": "m. 2",
        "city": "Katowice",
        "state": "Śląskie",
        "postal_code": "40-001",
        "country": "PL",
    },
}
HOME = Address(line1="ul. Prosta 1", line2="m. 2", city="Katowice", state="Śląskie", postal_code="40-001", country="PL")


async def test_what_the_event_left_out_comes_from_the_customers_record() -> None:
    far_side = FarSide(httpx.Response(200, json=CUSTOMER_RECORD))
    enriched = await adapter(far_side).enrich(order())
    assert isinstance(enriched, RewardOrder)
    assert enriched.recipient == Recipient(
        name="Jack Webhook", email="jack@example.com", phone="+48 600 000 000", address=HOME
    )
    assert far_side.seen() == [("GET", f"{API}/v1/customers/{CUSTOMER}", None)]
    assert enriched.model_copy(update={"recipient": order().recipient}) == order()


async def test_what_is_known_already_stays() -> None:
    known = Recipient(name="Ann", email="ann@example.com", phone="1", address=Address(line1="1 Main St"))
    enriched = await adapter(FarSide(httpx.Response(200, json=CUSTOMER_RECORD))).enrich(order(recipient=known))
    assert isinstance(enriched, RewardOrder) and enriched.recipient == known


@pytest.mark.parametrize(
    "changes, overrides", [({"reference": {}}, {}), ({}, {"app_id": None}), ({}, {"app_token": None})]
)
async def test_without_customer_or_credentials_the_order_stays_as_it_is(changes: Any, overrides: Any) -> None:
    far_side, given = FarSide(), order(**changes)
    assert await adapter(far_side, **overrides).enrich(given) == given
    assert far_side.requests == []


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, text="<html>")])
async def test_an_answer_that_is_no_customer_is_rejected(answer: httpx.Response) -> None:
    with pytest.raises(Rejected):
        await adapter(FarSide(answer)).enrich(order())


async def test_enriching_repeats_inside_what_may_be_repeated() -> None:
    far_side = FarSide(httpx.ReadError("broken"))
    with pytest.raises(Unknown):
        await adapter(far_side).enrich(order())
    assert len(far_side.requests) == 3


async def test_there_is_nothing_to_poll() -> None:
    assert (adapter(FarSide()).enriches, await adapter(FarSide()).poll()) == ("when_unreachable", [])


# --- closing: fulfilled --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides, method, path, body",
    [
        ({}, "PUT", f"/v1/orders/{ORDER}", {"status": "FULFILLED"}),
        (
            {"close": "event"},
            "POST",
            "/v1/events",
            {
                "event": "reward_fulfilled",
                "customer": {"id": CUSTOMER},
                "metadata": {"redemption_id": REDEMPTION, "outcome": "fulfilled"},
            },
        ),
        (
            {"close": "customer_metadata", "metadata_key": "gift"},
            "PUT",
            f"/v1/customers/{CUSTOMER}",
            {"metadata": {"gift": f"{REDEMPTION}: fulfilled"}},
        ),
    ],
)
async def test_a_fulfilled_reward_is_told_as_configured_and_as_previewed(
    overrides: Any, method: str, path: str, body: Any
) -> None:
    far_side = FarSide()
    voucherify = adapter(far_side, **overrides)
    closed = await voucherify.close(order(), FULFILLED, again=False)
    assert closed == await voucherify.close(order(), FULFILLED, again=True)
    assert isinstance(closed, Closed) and closed.status == 200
    assert far_side.seen() == [(method, f"{API}{path}", body)] * 2
    assert far_side.requests[0].headers["x-app-id"] == "an-app-id"
    assert far_side.requests[0].headers["x-app-token"] == "an-app-token"
    preview = voucherify.preview_close(order(), FULFILLED)
    assert isinstance(preview, OutboundRequest)
    headers = {"X-App-Id": "an-app-id", "X-App-Token": "***"}
    assert preview.shown() == {"method": method, "url": f"{API}{path}", "headers": headers, "json": body}


@pytest.mark.parametrize(
    "close, missing", [("order_status", "order"), ("event", "customer"), ("customer_metadata", "customer")]
)
async def test_without_the_id_that_the_call_needs_a_person_is_asked(close: str, missing: str) -> None:
    far_side = FarSide()
    closed = await adapter(far_side, close=close).close(order(reference={}), FULFILLED, again=False)
    assert isinstance(closed, ByHand) and closed.instruction.startswith(f"no {missing} came along")
    assert far_side.requests == []


@pytest.mark.parametrize(
    "ending, task", [(FULFILLED, f"mark order {ORDER}"), (REFUSED, f"roll redemption {REDEMPTION}")]
)
async def test_by_hand_says_what_to_do_and_calls_nobody(ending: Ending, task: str) -> None:
    for overrides in ({"close": "by_hand"}, {"app_id": None}, {"app_token": None}):
        far_side = FarSide()
        closed = await adapter(far_side, **overrides).close(order(), ending, again=False)
        assert isinstance(closed, ByHand) and task in closed.instruction
        assert all(f"sources.points.{name}" in closed.instruction for name, value in overrides.items() if value is None)
        assert far_side.requests == []


async def test_a_cancelled_reward_closes_without_a_call() -> None:
    assert isinstance(adapter(FarSide()).preview_close(order(), Ending(Outcome.CANCELLED)), NothingToDo)


# --- closing: refused ----------------------------------------------------------------------------------------


async def test_a_refused_reward_is_rolled_back_with_the_reason() -> None:
    far_side = FarSide(httpx.Response(200, json={"id": "rr_1", "object": "redemption_rollback", "result": "SUCCESS"}))
    closed = await adapter(far_side, close="event").close(order(), REFUSED, again=False)
    assert isinstance(closed, Closed)
    assert far_side.seen() == [("POST", f"{API}/v1/redemptions/{REDEMPTION}/rollback?reason=out%20of%20stock", None)]


@pytest.mark.parametrize(
    "message, reason",
    [
        (None, "The reward could not be delivered"),
        (" \n\x00 ", "The reward could not be delivered"),
        ("50% off & more?\nYes #1 ü", "50% off & more? Yes #1 ü"),
        ("x" * 300, "x" * 250),
        ("\ud800", "?"),
    ],
)
async def test_the_reason_survives_the_url_in_one_line_of_250_characters(message: str | None, reason: str) -> None:
    far_side = FarSide()
    await adapter(far_side).close(order(), Ending(Outcome.REFUSED, message), again=False)
    assert parse_qs(urlsplit(str(far_side.requests[0].url)).query) == {"reason": [reason]}


ALREADY = [
    httpx.Response(400, json={"code": 400, "key": "already_rolled_back", "message": "Nope", "details": "Nope"}),
    httpx.Response(400, json={"code": 400, "message": "Redemption has already been rolled back"}),
    httpx.Response(200, json={"result": "FAILURE", "failure_code": "already_rolled_back"}),
]


@pytest.mark.parametrize("answer", ALREADY)
async def test_a_repeated_rollback_counts_as_told_where_the_first_one_had_worked(answer: httpx.Response) -> None:
    closed = await adapter(FarSide(answer)).close(order(), REFUSED, again=True)
    assert isinstance(closed, Closed) and "already" in closed.detail


@pytest.mark.parametrize("answer", ALREADY)
async def test_a_first_rollback_that_finds_one_there_is_for_a_person_to_look_at(answer: httpx.Response) -> None:
    with pytest.raises(Rejected):
        await adapter(FarSide(answer)).close(order(), REFUSED, again=False)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, json={"code": 404, "key": "not_found"}),
        httpx.Response(400, json={"message": "Redemptions older than 3 months cannot be rolled back"}),
        httpx.Response(200, json={"result": "FAILURE"}),
    ],
)
async def test_a_rollback_that_voucherify_refuses_is_rejected(answer: httpx.Response, again: bool) -> None:
    with pytest.raises(Rejected):
        await adapter(FarSide(answer)).close(order(), REFUSED, again=again)


# --- verdicts and settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [FULFILLED, REFUSED])
@pytest.mark.parametrize(
    "answer, verdict, says",
    [
        (httpx.Response(401), PartyRefusesUs, "check sources.points.app_id and sources.points.app_token"),
        (httpx.Response(402), PartyRefusesUs, "the plan's limit"),
        (httpx.Response(403), PartyRefusesUs, "check the rights of sources.points.app_id"),
        (httpx.Response(404, text="no such order"), Rejected, "answered 404"),
        (httpx.Response(429, headers={"retry-after": "7"}), NotSent, "slow down"),
        (httpx.Response(503, json={"key": "already_rolled_back"}), Unknown, "answered 503"),
        (httpx.ConnectError("connection refused"), NotSent, "could not be reached"),
        (httpx.ReadTimeout("slow"), Unknown, "source points"),
    ],
)
async def test_each_answer_has_its_verdict(answer: Any, verdict: type[CallFailed], says: str, ending: Ending) -> None:
    with pytest.raises(CallFailed, match=says) as failed:
        await adapter(FarSide(answer)).close(order(), ending, again=True)
    assert type(failed.value) is verdict
    assert failed.value.retry_after_s == (7 if failed.value.status == 429 else None)
    assert failed.value.answer == getattr(answer, "text", "")
    assert "an-app-token" not in str(failed.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_url": "api.voucherify.io"},
        {"api_url": f"{API}/v1/"},
        {"app_token": "two\nlines"},
        {"app_id": ""},
        {"typo": 1},
    ],
)
def test_a_mistake_in_the_settings_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        adapter(FarSide(), **wrong)
