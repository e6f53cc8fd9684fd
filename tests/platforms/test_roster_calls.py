"""Roster: the closing call, its verdicts, and mistakes in the settings."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from reward_relay.contracts import ByHand, Closed, Ending, Item, NothingToDo, OutboundRequest, RewardOrder
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown
from reward_relay.outbound import Outbound
from reward_relay.platforms.roster.adapter import Adapter, Settings
from reward_relay.states import Outcome

ORDER = RewardOrder(source="club", external_id="ord-7", items=(Item(sku="MUG-12"),))
FULFILLED, REFUSED = Ending(Outcome.FULFILLED), Ending(Outcome.REFUSED, "out of stock")

Handler = Callable[[httpx.Request], httpx.Response]


def adapter(handler: Handler | None = None, **overrides: Any) -> Adapter:
    given = {"platform": "roster", "secrets": ["newer secret"], "api_token": "tok-1", **overrides}
    outbound = Outbound(transport=lambda: httpx.MockTransport(handler)) if handler else Outbound()
    return Adapter("club", Settings.model_validate(given), outbound)


def answering(status: int, **kwargs: Any) -> tuple[list[httpx.Request], Handler]:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, **kwargs)

    return seen, handler


@pytest.mark.parametrize(
    "ending, body",
    [
        (FULFILLED, {"status": "fulfilled"}),
        (Ending(Outcome.FULFILLED, "sent"), {"status": "fulfilled"}),
        (REFUSED, {"status": "cancelled", "note": "out of stock"}),
        (Ending(Outcome.REFUSED), {"status": "cancelled"}),
    ],
)
async def test_the_order_is_updated_and_the_preview_shows_exactly_that(ending: Ending, body: Any) -> None:
    seen, handler = answering(200, text="done")
    party = adapter(handler)
    closed = await party.close(ORDER, ending, again=True)
    assert closed == Closed("PUT https://api.getroster.com/v2/orders/ord-7 answered 200", 200, "done")
    (request,) = seen
    assert (request.method, str(request.url)) == ("PUT", "https://api.getroster.com/v2/orders/ord-7")
    assert request.headers["Authorization"] == "Bearer tok-1" and json.loads(request.content) == body
    preview = party.preview_close(ORDER, ending)
    assert isinstance(preview, OutboundRequest) and preview.json == body and "tok-1" not in str(preview.shown())


async def test_every_part_of_the_closing_call_is_configuration() -> None:
    seen, handler = answering(204)
    party = adapter(
        handler,
        api_url="https://roster.example.com/api/",
        auth_header="X-Api-Key",
        auth_scheme="",
        close_method="POST",
        close_path="/hooks/{external_id}/{status}?o={outcome}",
        close_headers={"X-Version": "2"},
        close_body={"id": "{external_id}", "log": [{"text": "now {status}: {message}"}], "silent": True},
        refused_status="declined",
    )
    odd = ORDER.model_copy(update={"external_id": "a/b {status}"})
    await party.close(odd, Ending(Outcome.REFUSED, "no {outcome} {left}"), again=False)
    (request,) = seen
    assert request.method == "POST" and request.headers["X-Api-Key"] == "tok-1" and request.headers["X-Version"] == "2"
    assert str(request.url) == "https://roster.example.com/api/hooks/a%2Fb%20%7Bstatus%7D/declined?o=refused"
    text = "now declined: no {outcome} {left}"
    assert json.loads(request.content) == {"id": "a/b {status}", "log": [{"text": text}], "silent": True}


@pytest.mark.parametrize(
    "status, headers, verdict",
    [
        (400, {}, Rejected),
        (401, {}, PartyRefusesUs),
        (403, {}, PartyRefusesUs),
        (404, {}, Rejected),
        (429, {"Retry-After": "7"}, NotSent),
        (503, {}, Unknown),
    ],
)
async def test_each_answer_has_its_verdict(status: int, headers: dict[str, str], verdict: type[CallFailed]) -> None:
    _, handler = answering(status, headers=headers, text="why")
    with pytest.raises(CallFailed) as caught:
        await adapter(handler).close(ORDER, FULFILLED, again=False)
    assert type(caught.value) is verdict and caught.value.status == status and caught.value.answer == "why"
    assert caught.value.retry_after_s == (7 if status == 429 else None)
    assert ("sources.club" in str(caught.value)) == (status in (400, 401, 403, 404))


async def test_a_refused_connection_was_never_sent() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(NotSent):
        await adapter(handler).close(ORDER, FULFILLED, again=False)


async def test_without_a_token_a_person_closes_and_a_cancelled_order_needs_nobody() -> None:
    party = adapter(api_token=None)
    by_hand = await party.close(ORDER, FULFILLED, again=False)
    assert isinstance(by_hand, ByHand) and "ord-7" in by_hand.instruction
    assert "sources.club.api_token" in by_hand.instruction and party.preview_close(ORDER, FULFILLED) == by_hand
    assert isinstance(await party.close(ORDER, Ending(Outcome.CANCELLED), again=False), NothingToDo)


async def test_there_is_nothing_to_ask_roster_for() -> None:
    assert adapter().enriches == "never" and await adapter().poll() == []
    assert await adapter().enrich(ORDER) == ORDER


@pytest.mark.parametrize(
    "wrong, problem",
    [
        ({"fields": {"colour": "a.b"}}, "unknown field colour; the relay knows external_id"),
        ({"fields": {"sku": "a..b"}}, "dotted path"),
        ({"api_url": "ftp://roster.example.com"}, "http:// or https://"),
        ({"api_token": "tok\n"}, "pasted completely"),
        ({"api_token": ""}, "is empty"),
        ({"close_path": "/v2/orders/{id}"}, "unknown placeholder id"),
        ({"close_path": "/v2/orders"}, "must hold {external_id}"),
        ({"close_body": {"at": datetime(2026, 1, 1)}}, "in quotes"),
        ({"close_headers": {"authorization": "x"}}, "api_token"),
        ({"close_headers": {"X Y": "x"}}, "pattern"),
    ],
)
def test_a_mistake_in_the_settings_says_what_would_be_right(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        adapter(**wrong)
