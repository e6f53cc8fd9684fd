"""A few hundred hostile requests to every door: the answers, what is stored, and that no secret leaves."""

from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import httpx
import pytest
import structlog.testing
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fuzz.cases import EVERY_SECRET, Case, case
from reward_relay.contracts import InboundRequest
from reward_relay.wiring import Relay
from support.relays import client_of, relay_of, settings
from support.steered import unreachable

UNHURRIED = hypothesis_settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=300,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


@pytest.fixture
async def client(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(relay, key=None) as found:
        yield found


@UNHURRIED
@given(one=st.randoms(use_true_random=False).map(case))
async def test_whatever_comes_is_answered_as_documented(relay: Relay, client: httpx.AsyncClient, one: Case) -> None:
    await is_answered(relay, client, one)


@pytest.mark.parametrize("seed", range(4))
async def test_so_are_those_that_the_command_sends(relay: Relay, client: httpx.AsyncClient, seed: int) -> None:
    for number in range(100):
        await is_answered(relay, client, case(Random(f"{seed}/{number}")))


async def is_answered(relay: Relay, client: httpx.AsyncClient, one: Case) -> None:
    """Send a case, and see that its answer, its row and the log are right."""
    headers = [(name.encode(), value.encode("latin-1")) for name, value in one.headers.items()]
    with structlog.testing.capture_logs() as logged:
        answer = await client.post(one.path, content=one.body, headers=headers)
    assert answer.status_code in one.expected, answer.text
    assert not any(secret in f"{answer.text} {answer.headers} {logged}" for secret in EVERY_SECRET)
    assert not any(each["log_level"] == "error" for each in logged), logged
    told = answer.json()
    if answer.status_code != 202:
        assert set(told) == {"error", "detail"}
        return
    url = httpx.URL(one.path)
    request = InboundRequest(one.body, {name.lower(): text for name, text in one.headers.items()}, dict(url.params))
    kept = relay.parties.platforms[url.path.rpartition("/")[2]].verify(request)
    assert (await relay.ops.delivery(told["delivery_id"]))["body"] == kept.decode("utf-8", "replace")
    if one.kind != "talkable":  # its key is not kept
        assert kept == one.body
