"""The bearer token of GiftCard Partners: one renewal at a time, early, and never a stampede."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs
from reward_relay.outbound import Outbound
from reward_relay.vendors.giftcard_partners.adapter import Adapter, Settings
from reward_relay.vendors.giftcard_partners.tokens import Tokens


class Account:
    """A far side that issues tokens t1, t2 … and knows which of them it still takes."""

    def __init__(self, expires_in: Any = 3600, answer: Callable[[], httpx.Response] | None = None) -> None:
        self.expires_in = expires_in
        self.answer = answer
        self.issued = 0
        self.revoked: set[str] = set()
        self.order_calls: list[str] = []
        self.now = 0.0
        self.outbound = Outbound(transport=lambda: httpx.MockTransport(self.handle))

    async def handle(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        if request.url.path == "/v1/Tokens":
            self.issued += 1
            return self.answer() if self.answer else self.token()
        bearer = request.headers["authorization"].removeprefix("Bearer ")
        self.order_calls.append(bearer)
        if bearer in self.revoked:
            return httpx.Response(401)
        return httpx.Response(200, json={"Id": "1", "Status": "Pending"})

    def token(self) -> httpx.Response:
        return httpx.Response(200, json={"value": f"t{self.issued}", "expiresIn": self.expires_in})

    def tokens(self, deadline_s: float = 10) -> Tokens:
        request = OutboundRequest(
            "POST", "https://gcp.example/v1/Tokens", secret_headers={"AccessToken": SecretStr("s3cret-access")}
        )
        caller = self.outbound.caller("vendor gcp", "https://gcp.example")
        return Tokens(caller, request, "vendors.gcp", clock=lambda: self.now, deadline_s=deadline_s)

    def adapter(self) -> Adapter:
        settings = Settings(
            kind="giftcard_partners",
            base_url="https://gcp.example",
            email="api@shop.example",
            access_token=SecretStr("s3cret-access"),
        )
        return Adapter("gcp", settings, self.outbound)


async def test_fifty_waiting_calls_share_one_token_call() -> None:
    account = Account()
    adapter = account.adapter()
    await asyncio.gather(*(adapter.check("1") for _ in range(50)))
    assert account.issued == 1
    assert account.order_calls == ["t1"] * 50


async def test_fifty_calls_with_a_revoked_token_share_one_renewal() -> None:
    account = Account()
    adapter = account.adapter()
    await adapter.check("1")
    account.revoked = {"t1"}
    await asyncio.gather(*(adapter.check("1") for _ in range(50)))
    assert account.issued == 2
    assert account.order_calls.count("t2") == 50


async def test_fifty_waiting_calls_share_one_failure() -> None:
    account = Account(answer=lambda: httpx.Response(503, headers={"retry-after": "9"}))
    tokens = account.tokens()
    failures = await asyncio.gather(*(tokens.current() for _ in range(50)), return_exceptions=True)
    assert account.issued == 1
    assert {type(failure) for failure in failures} == {NotSent}
    assert {failure.retry_after_s for failure in failures if isinstance(failure, NotSent)} == {9}


async def test_a_failure_is_not_remembered_for_later_calls() -> None:
    account = Account(answer=lambda: httpx.Response(503))
    tokens = account.tokens()
    with pytest.raises(NotSent):
        await tokens.current()
    account.answer = None
    assert (await tokens.current()).value.get_secret_value() == "t2"


async def test_a_cancelled_renewal_leaves_the_others_their_turn() -> None:
    account = Account(answer=lambda: httpx.Response(503))
    tokens = account.tokens()
    with pytest.raises(NotSent):
        await tokens.current()
    account.answer = None
    first, second = asyncio.ensure_future(tokens.current()), asyncio.ensure_future(tokens.current())
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).value.get_secret_value().startswith("t")
    assert first.cancelled()


@pytest.mark.parametrize(
    ("expires_in", "renewed_after"),
    [
        (3600, 2880),
        (200, 140),
        (10, 5),
        ("3600", 2880),
        (None, 240),
        (0, 240),
        (-5, 240),
        (True, 240),
        (3_600_000_000, 240),
        ("soon", 240),
        ([1], 240),
    ],
)
async def test_a_token_is_renewed_before_its_end(expires_in: Any, renewed_after: float) -> None:
    account = Account(expires_in)
    tokens = account.tokens()
    await tokens.current()
    account.now = renewed_after - 0.1
    await tokens.current()
    assert account.issued == 1
    account.now = renewed_after
    await tokens.current()
    assert account.issued == 2


async def test_a_second_refusal_names_the_access_token() -> None:
    account = Account()
    account.revoked = {"t1", "t2"}
    with pytest.raises(PartyRefusesUs, match=r"vendors\.gcp\.access_token") as failure:
        await account.adapter().check("1")
    assert (failure.value.status, account.order_calls) == (401, ["t1", "t2"])


def refuse() -> httpx.Response:
    raise httpx.ConnectError("refused")


def break_off() -> httpx.Response:
    raise httpx.ReadError("broken")


@pytest.mark.parametrize(
    ("answer", "verdict", "said"),
    [
        (lambda: httpx.Response(401, json={"Message": "bad token"}), PartyRefusesUs, "vendors.gcp.access_token.*bad"),
        (lambda: httpx.Response(403), PartyRefusesUs, "disabled"),
        (lambda: httpx.Response(404), PartyRefusesUs, "vendors.gcp.base_url"),
        (lambda: httpx.Response(429), NotSent, "429"),
        (lambda: httpx.Response(504), NotSent, "504"),
        (lambda: httpx.Response(200, text="hello"), NotSent, "without a token"),
        (lambda: httpx.Response(200, json={"Value": "a\nb"}), NotSent, "without a token"),
        (refuse, NotSent, "nothing was ordered"),
        (break_off, NotSent, "nothing was ordered"),
    ],
)
async def test_without_a_token_the_order_was_certainly_not_sent(
    answer: Callable[[], httpx.Response], verdict: type[CallFailed], said: str
) -> None:
    account = Account(answer=answer)
    with pytest.raises(verdict, match=said) as failure:
        await account.adapter().check("1")
    assert account.order_calls == []
    assert "s3cret-access" not in f"{failure.value!r} {vars(failure.value)}"


async def test_a_token_call_that_hangs_is_given_up() -> None:
    with pytest.raises(NotSent, match="gave no token"):
        await Account().tokens(deadline_s=0.001).current()
