"""What a worker counts and logs of each step."""

import asyncio
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from structlog.testing import capture_logs

from reward_relay.metrics import exposition
from reward_relay.wiring import Relay
from support.far_side import far_side
from support.relays import client_of, ended, relay_of, settings, until, working
from support.steered import Steered, accepted, roster, unreachable

Counts = dict[tuple[str, ...], float]


async def counted(relay: Relay) -> Counts:
    """Each sample by its name and the values of its labels, by their names."""
    summary = await relay.ops.summary()
    scrape = exposition(summary, summary["spool"]).decode()
    families = text_string_to_metric_families(scrape)
    return {
        (each.name, *(each.labels[name] for name in sorted(each.labels))): each.value
        for family in families
        for each in family.samples
    }


def rise(before: Counts, after: Counts, *sample: str) -> float:
    """How much a sample rose."""
    return after[sample] - before.get(sample, 0)


async def test_every_step_is_one_log_line_with_its_duration_and_counted(database_url: str, tmp_path: Path) -> None:
    async with far_side() as far, relay_of(settings(tmp_path), database_url, far.transport) as relay:
        far.calls_back(relay)
        before = await counted(relay)
        with capture_logs() as logged:
            async with client_of(relay) as client, working(relay):
                await ended(relay, await accepted(client, "roster", roster()))
        after = await counted(relay)
    steps = [each for each in logged if each["event"] == "step"]
    assert (steps[0]["step"], steps[-1]["step"], steps[-1]["state"]) == ("place", "close", "closed")
    assert all(0 < each["took_ms"] < 20_000 for each in steps)
    for (step, state), number in Counter((each["step"], each["state"]) for each in steps).items():
        assert rise(before, after, "relay_steps_total", state, step) == number
    for (party, step), number in Counter((each["party"], each["step"]) for each in steps).items():
        assert rise(before, after, "relay_call_seconds_count", party, step) == number
    assert rise(before, after, "relay_calls_total", "source:roster", "close", "ok") == 1


async def test_a_result_that_came_too_late_is_counted_as_fenced(database_url: str, tmp_path: Path) -> None:
    far = Steered()
    far.gate.clear()
    async with relay_of(settings(tmp_path), database_url, far.transport) as relay:
        before = await counted(relay)
        async with client_of(relay) as client:
            await accepted(client, "roster", roster())
        with capture_logs() as logged:
            async with working(relay):
                await far.asked.wait()
                async with relay.database.transaction() as connection:
                    await connection.execute(text("UPDATE orders SET claim = gen_random_uuid()"))
                far.gate.set()

                async def fenced() -> bool:
                    return any(each["event"] == "fenced" for each in logged)

                await until(fenced)
        after = await counted(relay)
    assert rise(before, after, "relay_fenced_total", "place") == 1
    assert rise(before, after, "relay_calls_total", "vendor:gcp", "place", "ok") == 1


async def test_an_opening_of_a_breaker_counts_once_however_many_workers_see_it(
    database_url: str, tmp_path: Path
) -> None:
    waits = settings(tmp_path).model_copy(update={"breaker_open_s": 60, "breaker_failures": 2})
    async with relay_of(waits, database_url, unreachable) as relay, client_of(relay) as client:
        before = await counted(relay)
        assert before["relay_party_breaker_open", "vendor:gcp"] == before["relay_party_paused", "vendor:gcp"] == 0
        for number in range(12):
            await accepted(client, "roster", roster(f"R-{number}"))

        async def opened() -> bool:
            return bool((await counted(relay))["relay_party_breaker_open", "vendor:gcp"])

        async with working(relay, 2):
            await until(opened)
            await asyncio.sleep(0.3)
        after = await counted(relay)
        assert rise(before, after, "relay_breaker_opened_total", "vendor:gcp") == 1
        assert after["relay_party_flows", "vendor:gcp"] == 0
        assert rise(before, after, "relay_calls_total", "vendor:gcp", "place", "not_sent") >= 2
        await client.post("/api/v1/parties/source:roster/pause", json={})
        assert (await counted(relay))["relay_party_paused", "source:roster"] == 1
