"""The result of a measurement: a table for people, JSON for programs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.load import Load
from bench.machine import Machine


@dataclass(frozen=True, slots=True)
class Run:
    """One drain. `seconds` from the first job's start to the last job's record; `peak` most jobs at work at a time.

    `cpu_ms` is this process's CPU time a job; PostgreSQL's is not in it.
    """

    seconds: float
    jobs_per_s: float
    cpu_ms: float
    peak: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """An engine's runs in the order they were made."""

    engine: str
    settings: str
    runs: Sequence[Run]

    @property
    def jobs_per_s(self) -> float:
        """The median run."""
        return statistics.median(run.jobs_per_s for run in self.runs)


def as_json(load: Load, machine: Machine, outcomes: Sequence[Outcome], left_out: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was measured."""
    base = outcomes[0].jobs_per_s
    return {
        "load": asdict(load),
        "machine": asdict(machine),
        "engines": [
            {
                "engine": outcome.engine,
                "settings": outcome.settings,
                "jobs_per_s": round(outcome.jobs_per_s, 1),
                "ratio_to_first": round(outcome.jobs_per_s / base, 3),
                "runs": [asdict(run) for run in outcome.runs],
            }
            for outcome in outcomes
        ],
        "left_out": dict(left_out),
    }


def show(
    console: Console, load: Load, machine: Machine, outcomes: Sequence[Outcome], left_out: Mapping[str, str]
) -> None:
    """Print the table, what it was measured on, and what is missing from it."""
    table = Table(title=_title(load, len(outcomes[0].runs)), title_justify="left")
    table.add_column("engine", no_wrap=True)
    for heading in ("jobs/s", "slowest", "fastest", "ratio", "CPU ms"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        rates = [run.jobs_per_s for run in outcome.runs]
        table.add_row(
            outcome.engine,
            f"{outcome.jobs_per_s:,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{outcome.jobs_per_s / outcomes[0].jobs_per_s:.2f}",
            f"{statistics.median(run.cpu_ms for run in outcome.runs):.2f}",
        )
    console.print(table)
    console.print("ratio: to row-as-job; CPU ms: of this process, a job; PostgreSQL's is not in it", highlight=False)
    for outcome in outcomes:
        console.print(f"{outcome.engine}: {outcome.settings}", highlight=False)
    for line in machine.lines():
        console.print(line, highlight=False)
    for engine, why in left_out.items():
        console.print(f"{engine} is left out: {why}", highlight=False)


def _title(load: Load, runs: int) -> str:
    waiting = f", {load.waiting:,} more waiting for tomorrow" if load.waiting else ""
    return (
        f"{load.jobs:,} jobs of {load.work_s * 1000:g} ms, {load.concurrency} at work at a time{waiting}; "
        f"median of {runs} runs"
    )
