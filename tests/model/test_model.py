"""No order of events breaks a promise: a state machine over the real database and the real code."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from model.machine import Relaying
from reward_relay import worker


async def test_no_order_of_events_breaks_a_promise(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RECORD_RETRY_S", 0.001)

    def run() -> None:
        with asyncio.Runner() as runner:
            run_state_machine_as_test(
                lambda: Relaying(runner, database_url, tmp_path),
                settings=settings(max_examples=25, stateful_step_count=40, deadline=None, derandomize=True),
            )

    await asyncio.to_thread(run)
