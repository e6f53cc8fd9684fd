"""One Talkable reward all the way, the far side answered by hand."""

import json
from pathlib import Path
from urllib.parse import urlencode

import httpx

from reward_relay.sandbox.senders import sample
from support.relays import TALKABLE_KEY, client_of, ended, relay_of, settings, working


async def test_a_reward_is_placed_once_and_closed(database_url: str, tmp_path: Path) -> None:
    placed: list[dict[str, object]] = []

    def far_side(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/Tokens"):
            return httpx.Response(200, json={"Value": "token", "ExpiresIn": 3600})
        if request.method == "POST":
            placed.append(json.loads(request.content))
            return httpx.Response(201, json={"Id": "G1", "Status": "Pending"})
        return httpx.Response(200, json={"Id": "G1", "Status": "Completed"})

    payload = json.dumps(sample("talkable_referrer"))
    form = {"key": TALKABLE_KEY, "site": "shop", "type": "reward_web_hook", "extras": "{}", "payload": payload}
    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with (
        relay_of(settings(tmp_path), database_url, lambda: httpx.MockTransport(far_side)) as relay,
        client_of(relay, key=None) as client,
        working(relay),
    ):
        body = urlencode(form)
        answers = [await client.post("/webhooks/talkable", content=body, headers=headers) for _ in range(5)]
        verdicts = [answer.json()["verdict"] for answer in answers]
        order = await ended(relay, answers[0].json()["order_id"])
    assert [answer.status_code for answer in answers] == [202] * 5
    assert verdicts == ["accepted"] + ["duplicate"] * 4
    assert len(placed) == 1
    assert placed[0]["PONumber"] == order["po_number"]
    assert order["outcome"] == "fulfilled"
    assert [event["to_state"] for event in order["events"]] == ["received", "placed", "settled", "closed"]
