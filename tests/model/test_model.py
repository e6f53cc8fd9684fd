"""No order of events breaks a promise: a state machine over the real database and the real code."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from model.machine import Relaying
from reward_relay import worker


async def test_no_order_of_events_breaks_a_promise(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RECORD_RETRY_S", 0.001)

    def run() -> None:
        with asyncio.Runner() as runner:
            machine: Any = lambda: Relaying(runner, database_url, tmp_path)  # noqa: E731
            run_state_machine_as_test(machine)

    await asyncio.to_thread(run)
