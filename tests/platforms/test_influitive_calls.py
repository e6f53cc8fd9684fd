"""Influitive: the open list, confirming and completing an order, the decision, and what goes over the wire."""

import asyncio
import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from reward_relay.contracts import Address, ByHand, Closed, Ending, NothingToDo, OutboundRequest, RewardOrder, Withdrawn
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown
from reward_relay.outbound import Outbound
from reward_relay.platforms.influitive.adapter import Adapter, Settings
from reward_relay.states import Outcome

ORG = "9774649d-5e6c-49f0-b559-694b3f9c76e3"
API = "https://api.influitive.com"
LIST = f"{API}/reward_redemptions"
FULFILLED = Ending(Outcome.FULFILLED)

Handler = Callable[[httpx.Request], httpx.Response]


def sample(name: str) -> Any:
    return json.loads(files("reward_relay.sandbox").joinpath(f"samples/{name}.json").read_text())


OPEN = sample("influitive_reward_redemptions")


class Hub:
    """Answers with each of `pages` by its URL, and `decision` to every POST; remembers the requests."""

    def __init__(self, pages: Any = OPEN, decision: int = 200) -> None:
        self.pages = pages if LIST in pages else {LIST: pages}
        self.decision = decision
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.method == "POST":
            return httpx.Response(self.decision, text="ok")
        page = self.pages[str(request.url)]
        return page if isinstance(page, httpx.Response) else httpx.Response(200, json=page)

    def lines(self) -> list[str]:
        return [f"{request.method} {request.url}" for request in self.seen]


def adapter(hub: Handler | None = None, **overrides: Any) -> Adapter:
    given = {"platform": "influitive", "secrets": ["a secret"], "api_token": "tok-1", "org_id": ORG, **overrides}
    outbound = Outbound(transport=lambda: httpx.MockTransport(hub)) if hub else Outbound()
    return Adapter("hub", Settings.model_validate(given), outbound)


def order(**overrides: Any) -> RewardOrder:
    """The webhook's sample as a reward."""
    parsed = adapter().parse(json.dumps(sample("influitive_redemption_requested") | overrides).encode(), "")
    assert isinstance(parsed, RewardOrder)
    return parsed


def page(*ids: int, **more: Any) -> dict[str, Any]:
    return {"reward_redemptions": [{"id": id_, "reward": {"id": 1}} for id_ in ids], "contacts": [], **more}


# --- polling ---------------------------------------------------------------------------------------------


async def test_webhook_and_poll_give_the_same_reward() -> None:
    hub = Hub()
    party = adapter(hub, poll_every_s=60)
    first, second = [party.parse(body, "application/json") for body in await party.poll()]
    assert isinstance(first, RewardOrder) and first.model_dump() == order().model_dump()
    assert isinstance(second, RewardOrder) and second.recipient.name == "Owen Bradley"
    assert second.external_id == "771206" and second.items[0].sku == "BOTTLE-BLU" and second.items[0].value is None
    assert hub.lines() == [f"GET {LIST}"]
    assert hub.seen[0].headers["Authorization"] == "Token tok-1" and hub.seen[0].headers["X_ORG_ID"] == ORG


async def test_the_same_list_gives_the_same_bytes() -> None:
    backwards = {key: [dict(reversed(each.items())) for each in OPEN[key]] for key in reversed(OPEN)}
    bodies = await adapter(Hub()).poll()
    assert bodies == await adapter(Hub(backwards)).poll()
    assert list(json.loads(bodies[0])) == ["contact", "reward_redemption"] and b": " not in bodies[0]


@pytest.mark.parametrize("named", [{"contact_id": "9"}, {"contact": 9}, {"contact": {"id": 9}}, {"contactId": 9}])
async def test_a_contact_is_joined_however_it_is_named(named: Any) -> None:
    redemption = {"id": 77, "reward_id": 33, **named}
    listed = {"reward_redemptions": [redemption], "contacts": [{"id": 9, "email": "ada@example.com"}]}
    party = adapter(Hub(listed | {"rewards": [{"id": 33, "name": "Coffee"}]}))
    parsed = party.parse((await party.poll())[0], "application/json")
    assert isinstance(parsed, RewardOrder) and parsed.recipient.email == "ada@example.com"
    assert parsed.items[0].name == "Coffee"


@pytest.mark.parametrize(
    "link",
    [
        {"next": f"{LIST}?page=2"},
        {"links": {"next": "/reward_redemptions?page=2"}},
        {"links": {"next": {"href": "?page=2"}}},
        {"meta": {"next_page": 2}},
        {"next_page": "2"},
    ],
)
async def test_further_pages_are_read(link: Any) -> None:
    hub = Hub({LIST: page(1, **link), f"{LIST}?page=2": page(2, next=None, next_page=False)})
    bodies = await adapter(hub).poll()
    assert [json.loads(body)["reward_redemption"]["id"] for body in bodies] == [1, 2]
    assert isinstance(await adapter(hub).enrich(order()), Withdrawn)


@pytest.mark.parametrize(
    "link",
    ["https://evil.example.com/?page=2", "http://api.influitive.com/x", "//evil.example.com", "http://[", LIST, True],
)
async def test_a_link_to_elsewhere_or_to_where_we_were_is_not_followed(link: Any) -> None:
    hub = Hub(page(1, next=link))
    assert len(await adapter(hub).poll()) == 1 and hub.lines() == [f"GET {LIST}"]
    with pytest.raises(Unknown, match="goes on"):
        await adapter(hub).enrich(order())


async def test_an_endless_list_ends_after_fifty_pages() -> None:
    numbers = iter(range(1, 1000))

    def endless(request: httpx.Request) -> httpx.Response:
        number = next(numbers)
        return httpx.Response(200, json=page(number, next_page=number + 1))

    assert len(await adapter(endless).poll()) == 50 and next(numbers) == 51


@pytest.mark.parametrize("answer", [{"error": "x"}, [], {"reward_redemptions": {}}, httpx.Response(200, text="<html>")])
async def test_an_answer_that_is_no_list_says_nothing_about_any_redemption(answer: Any) -> None:
    party = adapter(Hub({LIST: answer}), confirm=True)
    with pytest.raises(Unknown, match="reward_redemptions"):
        await party.poll()
    with pytest.raises(Unknown, match=API):
        await party.enrich(order())


# --- confirming and completing ---------------------------------------------------------------------------


def test_an_order_is_confirmed_if_asked_for_and_completed_if_possible() -> None:
    assert adapter(confirm=True).enriches == "always" and adapter().enriches == "when_unreachable"
    assert adapter(api_token=None).enriches == "never" and adapter(org_id=None).enriches == "never"


async def test_what_the_webhook_left_out_comes_from_the_open_list() -> None:
    bare = order(contact={"name": "Priya R."})
    complete = await adapter(Hub()).enrich(bare)
    assert isinstance(complete, RewardOrder) and complete.items == bare.items
    assert complete.recipient.name == "Priya R." and complete.recipient.email == "priya.raman@example.com"
    assert complete.recipient.phone == "+1-303-555-0119" and complete.recipient.address == order().recipient.address


async def test_an_address_of_the_webhook_is_kept_whole() -> None:
    moved = order(contact={"address": "5 New Street"})
    complete = await adapter(Hub()).enrich(moved)
    assert isinstance(complete, RewardOrder) and complete.recipient.address == Address(line1="5 New Street")


async def test_a_redemption_that_is_not_open_any_more_is_withdrawn() -> None:
    withdrawn = await adapter(Hub(page(1, 2)), confirm=True).enrich(order())
    assert (
        isinstance(withdrawn, Withdrawn) and withdrawn.external_id == "771204" and "no longer open" in withdrawn.reason
    )


@pytest.mark.parametrize("external_id", ["771204", "5b0c7c0e-3f7d-4a55-9d0e-6f6c1f1f2a10"])
async def test_a_redemption_is_open_by_its_id_or_uuid(external_id: str) -> None:
    known = order().model_copy(update={"external_id": external_id})
    assert await adapter(Hub()).enrich(known) == known


async def test_without_credentials_nothing_is_asked() -> None:
    hub = Hub()
    party = adapter(hub, org_id=None)
    assert await party.poll() == [] and await party.enrich(order()) == order() and hub.seen == []


# --- the decision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending, overrides, last, body",
    [
        (FULFILLED, {}, "fulfill", {}),
        (FULFILLED, {"fulfil_message": "Enjoy!"}, "fulfill", {"message": "Enjoy!"}),
        (Ending(Outcome.FULFILLED, "sent"), {"fulfil_message": "Enjoy!"}, "fulfill", {"message": "sent"}),
        (Ending(Outcome.REFUSED, "out of stock"), {}, "refuse", {"message": "out of stock"}),
        (Ending(Outcome.REFUSED), {"refuse_path": "reject", "fulfil_message": "Enjoy!"}, "reject", {}),
    ],
)
async def test_a_redemption_is_decided_and_the_preview_shows_exactly_that(
    ending: Ending, overrides: Any, last: str, body: Any
) -> None:
    hub = Hub()
    party = adapter(hub, **overrides)
    url = f"{LIST}/771204/decision/{last}"
    assert await party.close(order(), ending, again=False) == Closed(f"POST {url} answered 200", 200, "ok")
    assert hub.lines() == [f"POST {url}"] and json.loads(hub.seen[0].content) == body
    assert hub.seen[0].headers["Authorization"] == "Token tok-1" and hub.seen[0].headers["X_ORG_ID"] == ORG
    preview = party.preview_close(order(), ending)
    assert isinstance(preview, OutboundRequest) and (preview.method, preview.url, preview.json) == ("POST", url, body)
    assert "tok-1" not in str(preview.shown())


async def test_before_a_second_decision_the_open_list_is_read() -> None:
    hub = Hub()
    await adapter(hub).close(order(), FULFILLED, again=True)
    assert hub.lines() == [f"GET {LIST}", f"POST {LIST}/771204/decision/fulfill"]


async def test_a_redemption_that_was_decided_is_not_decided_again() -> None:
    hub = Hub(page(1))
    closed = await adapter(hub).close(order(), FULFILLED, again=True)
    assert isinstance(closed, Closed) and "already decided" in closed.detail and hub.lines() == [f"GET {LIST}"]


async def test_without_credentials_a_person_decides_and_a_cancelled_redemption_needs_nobody() -> None:
    by_hand = await adapter(api_token=None).close(order(), Ending(Outcome.REFUSED), again=True)
    assert isinstance(by_hand, ByHand) and by_hand.instruction.startswith("refuse redemption 771204")
    assert "sources.hub.api_token" in by_hand.instruction and "org_id" not in by_hand.instruction
    assert isinstance(await adapter().close(order(), Ending(Outcome.CANCELLED), again=False), NothingToDo)


@pytest.mark.parametrize(
    "status, verdict",
    [(401, PartyRefusesUs), (403, PartyRefusesUs), (404, Rejected), (422, Rejected), (429, NotSent), (502, Unknown)],
)
async def test_each_answer_has_its_verdict(status: int, verdict: type[CallFailed]) -> None:
    with pytest.raises(CallFailed) as caught:
        await adapter(Hub(decision=status)).close(order(), FULFILLED, again=False)
    assert type(caught.value) is verdict and caught.value.status == status
    assert ("sources.hub.api_token" in str(caught.value)) == (status in (401, 403))
    answer = httpx.Response(status, headers={"Retry-After": "3"})
    with pytest.raises(CallFailed) as caught:
        await adapter(Hub({LIST: answer})).poll()
    assert type(caught.value) is verdict and caught.value.retry_after_s == (3 if status in (429, 502) else None)


async def test_a_refused_connection_was_never_sent() -> None:
    def refused(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(NotSent):
        await adapter(refused).close(order(), FULFILLED, again=False)


async def test_the_real_transport_sends_the_header_with_its_underscores() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    outbound = Outbound()
    given = {"platform": "influitive", "api_token": "tok-1", "org_id": ORG}
    given["api_url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    odd = order().model_copy(update={"external_id": "a/b"})
    await Adapter("hub", Settings.model_validate(given), outbound).close(odd, FULFILLED, again=False)
    await outbound.close()
    server.close()
    lines = heads[0].decode().split("\r\n")
    assert lines[0] == "POST /reward_redemptions/a%2Fb/decision/fulfill HTTP/1.1"
    sent = {name.upper(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert sent["X_ORG_ID"] == ORG and sent["AUTHORIZATION"] == "Token tok-1" and "X-ORG-ID" not in sent


@pytest.mark.parametrize(
    "wrong, problem",
    [
        ({"poll_every_s": 5}, "greater than or equal to 10"),
        ({"poll_every_s": 60, "org_id": None}, "poll_every_s cannot work without org_id"),
        ({"confirm": True, "api_token": None, "org_id": None}, "confirm cannot work without api_token and org_id"),
        ({"fields": {"colour": "a"}}, "unknown field colour"),
        ({"refuse_path": "../x"}, "pattern"),
        ({"org_id": ""}, "pasted completely"),
        ({"api_url": "influitive"}, "http"),
    ],
)
def test_a_mistake_in_the_settings_says_what_would_be_right(wrong: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        adapter(**wrong)
