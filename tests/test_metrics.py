"""What Prometheus scrapes is right with several processes, whichever of them answers."""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reward_relay.sandbox import senders
from reward_relay.sandbox.script import CONFIGURATION, KEY, TALKABLE
from support.commands import PATIENCE_S, Start, commands, free_port, gone, ready
from support.relays import client_of, relay_of, settings, until
from support.steered import accepted, post, roster

Metrics = dict[tuple[str, ...], float]
GONE = {"RELAY_VENDORS__GCP__BASE_URL": "http://127.0.0.1:9/gcp", "RELAY_PRIVATE_HOSTS": "127.0.0.1"}
"""A vendor at whose address nobody listens."""


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    with commands(tmp_path, database_url) as run:
        yield run


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Each request has a connection of its own, so that any of the processes may take it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=10, limits=limits) as found:
        yield found


async def scraped(client: httpx.AsyncClient, address: str) -> Metrics:
    """Each sample by its name and the values of its labels, by their names; none may be there twice."""
    answer = await client.get(f"{address}/metrics")
    assert answer.status_code == 200, answer.text
    samples = [each for family in text_string_to_metric_families(answer.text) for each in family.samples]
    found = {(each.name, *(each.labels[name] for name in sorted(each.labels))): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def left_in(folder: Path) -> list[str]:
    """The folders of counts that are still there."""
    return [each.name for each in folder.iterdir() if "metrics" in each.name]


@contextmanager
def alone(one: psutil.Process, all_of_them: list[psutil.Process]) -> Iterator[None]:
    """During the block only `one` of the processes runs, so it is the one that answers."""
    others = [each for each in all_of_them if each.pid != one.pid]
    for each in others:
        each.suspend()
    try:
        yield
    finally:
        for each in others:
            each.resume()


async def test_every_api_process_counts_and_gives_the_counts_of_all(
    start: Start, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    with free_port() as port:
        address = f"http://127.0.0.1:{port}"
    serve = start("serve", "--port", str(port), "--workers", "2", TMPDIR=str(tmp_path))
    client.base_url = httpx.URL(address)
    await ready(client, address)
    children = await _children(serve.process.pid, 2)
    for child in children:
        with alone(child, children):
            await ready(client, address)
    with alone(children[0], children):
        for number in range(3):
            await accepted(client, "roster", roster(f"R-{number}"))
    with alone(children[1], children):
        for number in range(2):
            await accepted(client, "roster", roster(f"R-1{number}"))
        await post(client, "roster", roster("R-0"))
    for child in children:
        with alone(child, children):
            found = await scraped(client, address)
            assert found["relay_deliveries_total", "roster", "accepted"] == 5
            assert found["relay_deliveries_total", "roster", "duplicate"] == 1
            assert found["relay_delivery_seconds_count",] == found["relay_delivery_seconds_bucket", "+Inf"] == 6
            assert found["relay_orders", "received"] == 5

    serve.process.send_signal(signal.SIGSTOP)  # the parent would end the others
    children[0].kill()
    found = await scraped(client, address)
    assert found["relay_deliveries_total", "roster", "accepted"] == 5
    assert found["relay_delivery_seconds_count",] == 6
    serve.process.send_signal(signal.SIGCONT)
    assert await serve.ended() != 0
    await gone(children)
    assert left_in(tmp_path) == []


async def _children(pid: int, count: int) -> list[psutil.Process]:
    async def all_there() -> list[psutil.Process] | None:
        found = psutil.Process(pid).children()
        return found if len(found) == count else None

    found: list[psutil.Process] = await until(all_there, PATIENCE_S)
    return found


async def test_under_up_the_api_gives_what_the_worker_counted(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    with free_port() as port, free_port() as other:
        relay, sandbox = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"
    configuration = CONFIGURATION.format(relay=relay, sandbox=sandbox)
    hook = senders.talkable_form(senders.sample("talkable_referrer"), TALKABLE)
    with commands(tmp_path, database_url, configuration) as start:
        start("sandbox", "--port", str(other))
        up = start("up", "--port", str(port), TMPDIR=str(tmp_path))
        await ready(client, relay)
        answer = await client.post(f"{relay}/webhooks/talkable", content=hook.body, headers=hook.headers)
        order = f"{relay}/api/v1/orders/{answer.json()['order_id']}"

        async def closed() -> bool:
            shown = (await client.get(order, headers={"Authorization": f"Bearer {KEY}"})).json()
            return bool(shown["state"] == "closed")

        await until(closed, PATIENCE_S)

        async def counted() -> Metrics | None:
            found = await scraped(client, relay)
            return found if found.get(("relay_steps_total", "closed", "close")) else None

        found = await until(counted, PATIENCE_S)
        shown = start("processes", "--json")
        assert await shown.ended() == 0
        assert '"alive": true' in shown.told()
        up.process.send_signal(signal.SIGTERM)
        assert await up.ended() == 0, up.told()
    assert found["relay_calls_total", "vendor:gcp", "place", "ok"] == 1
    assert found["relay_call_seconds_count", "vendor:gcp", "place"] == 1
    assert found["relay_steps_total", "placed", "place"] == 1
    assert found["relay_steps_total", "closed", "close"] == 1
    assert found["relay_breaker_opened_total", "vendor:gcp"] == 0
    assert (found["relay_processes", "api"], found["relay_processes", "worker"]) == (1, 1)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("count", [1, 2])
async def test_workers_on_their_own_serve_their_counts_once_for_all(
    count: int, start: Start, client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async with relay_of(settings(tmp_path), database_url) as relay, client_of(relay) as api:
        for number in range(4):
            await accepted(api, "roster", roster(f"R-{number}"))
    work = start("work", "--processes", str(count), "--metrics-port", "0", **GONE)
    address = await work.address()

    async def counted() -> Metrics | None:
        found = await scraped(client, address)
        return found if found.get(("relay_calls_total", "vendor:gcp", "place", "not_sent"), 0) >= 4 else None

    found = await until(counted, PATIENCE_S)
    assert found["relay_call_seconds_count", "vendor:gcp", "place"] >= 4
    assert ("relay_orders", "received") not in found  # the API gives what the database knows, once
    work.process.send_signal(signal.SIGTERM)
    assert await work.ended() == 0, work.told()


async def test_a_taken_metrics_port_is_a_sentence_and_status_2(start: Start) -> None:
    with free_port() as port:
        work = start("work", "--metrics-port", str(port))
        assert await work.ended() == 2
    assert f"cannot serve metrics on 127.0.0.1:{port}" in " ".join(work.told().split())
    assert "Traceback" not in work.told()
