"""A party that repeats our request in its error page does not get our secrets into the record."""

import httpx
import pytest
from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import Rejected
from reward_relay.outbound import Outbound


def repeats_the_request(request: httpx.Request) -> httpx.Response:
    return httpx.Response(400, text=f"bad token {request.headers['authorization']} / {request.headers['x-key']}")


async def test_secret_headers_are_masked_in_what_is_kept_of_an_answer() -> None:
    outbound = Outbound(transport=lambda: httpx.MockTransport(repeats_the_request))
    caller = outbound.caller("the platform", "http://far.test")
    secrets = {"Authorization": SecretStr("Bearer abc-token-1"), "X-Key": SecretStr("key-number-2")}
    with pytest.raises(Rejected) as caught:
        await caller.send(OutboundRequest("GET", caller.url("x"), secret_headers=secrets))
    await outbound.close()
    assert caught.value.answer == "bad token *** / ***"


async def test_a_token_that_holds_the_letters_of_a_secret_is_read_whole_and_kept_masked() -> None:
    outbound = Outbound(
        transport=lambda: httpx.MockTransport(lambda _: httpx.Response(200, json={"Value": "sandbox-1"}))
    )
    caller = outbound.caller("the vendor", "http://far.test")
    secrets = {"AccessToken": SecretStr("sandbox")}
    answer = await caller.send(OutboundRequest("POST", caller.url("Tokens"), secret_headers=secrets))
    await outbound.close()
    assert answer.json() == {"Value": "sandbox-1"}
    assert answer.kept() == '{"Value":"***-1"}'
    assert "sandbox'" not in repr(answer)
