"""What each door takes of a body, and what is decided before it is read."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from reward_relay.wiring import Relay
from support.relays import OPERATOR, ROSTER_TOKEN, client_of, relay_of, settings
from support.steered import accepted, post, roster, unreachable

KIB = 1 << 10
FORM = {"accept": "text/html", "sec-fetch-site": "same-origin", "content-type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


@pytest.fixture
async def nobody(relay: Relay) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(relay, key=None) as found:
        yield found


class Watched:
    """A body that knows whether it was read."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.read = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.read = True
        yield self._body


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/webhooks/roster", 1024),
        ("/vendor-webhooks/gcp/x", 64),
        ("/api/v1/orders/x/hold", 64),
        ("/api/v1/routes/explain", 1024),
        ("/api/v1/routes/diff", 1024),
        ("/login", 8),
    ],
)
async def test_each_door_takes_so_much_and_not_a_byte_more(relay: Relay, path: str, most: int) -> None:
    headers = {**FORM, "accept": "application/json", "X-Webhook-Token": ROSTER_TOKEN}
    async with client_of(relay) as client:
        whole = await client.post(path, content=b" " * most * KIB, headers=headers)
        over = await client.post(path, content=b" " * (most * KIB + 1), headers=headers)
        unannounced = await client.post(path, content=Watched(b" " * (most * KIB + 1)), headers=headers)
    assert whole.status_code != 413
    assert [over.status_code, unannounced.status_code] == [413, 413]
    assert f"{most} KiB" in over.json()["detail"]


@pytest.mark.parametrize(
    "path", ["/api/v1/orders/x/hold", "/api/v1/routes/explain", "/api/v1/bulk/plan", "/orders/x/hold", "/routes/try"]
)
async def test_a_body_of_nobody_is_not_read(nobody: httpx.AsyncClient, path: str) -> None:
    body = Watched(b'{"note": "x"}')
    headers = JSON if path.startswith("/api/") else FORM
    answer = await nobody.post(path, content=body, headers=headers)
    assert answer.status_code == (401 if path.startswith("/api/") else 303)
    assert not body.read
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate, gzip", "x" * 5000, "\xff"])
async def test_a_compressed_webhook_is_415_and_a_person_can_see_it(
    relay: Relay, nobody: httpx.AsyncClient, encoding: str
) -> None:
    pairs = {**roster().headers, "Content-Encoding": encoding}.items()
    headers = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
    answer = await nobody.post("/webhooks/roster", content=gzip.compress(roster().body), headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (415, "encoded_body")
    await relay.intake.close()
    (row,) = (await relay.ops.deliveries({"verdict": "rejected"}, 10))["items"]
    assert (row["source"], row["reason"]) == ("roster", answer.json()["detail"])


async def test_a_body_that_says_it_is_not_compressed_is_taken(nobody: httpx.AsyncClient) -> None:
    headers = {**roster().headers, "Content-Encoding": "identity"}
    assert (await nobody.post("/webhooks/roster", content=roster().body, headers=headers)).status_code == 202


async def test_large_bodies_share_what_they_may_hold_and_small_ones_are_free(
    nobody: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reward_relay.web.front.SHARED", 300 * KIB)
    large = roster("R-1").body.ljust(400 * KIB)
    answer = await nobody.post("/webhooks/roster", content=large, headers=roster().headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    middle = roster("R-2").body.ljust(200 * KIB)
    for _ in range(3):  # what was held is given back
        answer = await nobody.post("/webhooks/roster", content=middle, headers=roster().headers)
        assert answer.status_code == 202
    await accepted(nobody, "roster", roster("R-3"))


async def test_one_source_s_junk_does_not_push_out_another_s_evidence(relay: Relay, nobody: httpx.AsyncClient) -> None:
    for _ in range(40):
        await nobody.post("/webhooks/talkable", content=b"key=wrong")
    await nobody.post("/webhooks/roster", content=b"{}", headers={"X-Webhook-Token": "wrong"})
    await relay.intake.close()
    kept = (await relay.ops.deliveries({"verdict": "rejected"}, 200))["items"]
    sources = [row["source"] for row in kept]
    assert (sources.count("talkable"), sources.count("roster")) == (20, 1)


async def test_an_unknown_source_is_not_told_back_at_length(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.post(f"/webhooks/{'x' * 5000}")
    assert answer.status_code == 404
    assert len(answer.text) < 400


async def test_metrics_hold_no_word_of_the_callers(relay: Relay, nobody: httpx.AsyncClient) -> None:
    for number in range(5):
        await nobody.post(f"/webhooks/unheardof{number}", content=b"{}")
        await nobody.post("/webhooks/roster", content=b"{}", headers={"Content-Encoding": f"unheardof{number}"})
        await nobody.post(f"/unheardof{number}", content=b"{}")
    text = (await nobody.get("/metrics")).text
    assert "unheardof" not in text
    assert 'relay_refused_total{code="encoded_body",door="webhooks"}' in text


async def test_an_operator_s_body_is_read_as_before(relay: Relay) -> None:
    async with client_of(relay, key=OPERATOR) as client:
        payload = {"source": "roster", "payload": json.loads(roster().body)}
        answer = await client.post("/api/v1/routes/explain", json=payload)
        assert (answer.status_code, answer.json()["verdict"]) == (200, "accepted")
        assert (await post(client, "roster", roster())).status_code == 202
