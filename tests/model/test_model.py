"""No order of events breaks a promise: a state machine over the real database and the real code.

Short here, the same examples each time; long and at random with
`make test ARGS="tests/model --hypothesis-profile=long"`, where `--hypothesis-seed=N` chooses others. On copies of the
code it failed within a dozen examples where the record is not fenced, the claim sets no doubt, a failure forgets it,
the vendor is not asked before a repeat, an action writes no event, a replay is a second row, or a hold keeps its order
due.
"""

import asyncio
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.machine import Relaying
from reward_relay import worker

LONG = 1000
SHORT = hypothesis.settings(
    max_examples=25,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)


async def test_no_order_of_events_breaks_a_promise(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RECORD_RETRY_S", 0.001)
    chosen = hypothesis.settings()

    def run() -> None:
        with asyncio.Runner() as runner:
            machine: Any = lambda: Relaying(runner, database_url, tmp_path)  # noqa: E731
            run_state_machine_as_test(machine, settings=chosen if chosen.max_examples > LONG else SHORT)

    await asyncio.to_thread(run)
