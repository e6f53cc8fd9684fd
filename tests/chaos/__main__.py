"""`python -m chaos`: the command behind `make chaos`."""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from threading import current_thread, main_thread
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from chaos.machine import DEADLINE_S, LEASE_S, Machine, UpMachine, machine
from chaos.plan import draw
from chaos.posting import Platforms
from chaos.report import figures, show
from chaos.storm import Run, Storm

console = Console()
QUIET_S = 15.0
"""How often progress is told where there is no terminal."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")


def _line(run: Run, platforms: Platforms, start: float) -> Text:
    states = ", ".join(f"{name} {count}" for name, count in run.states.items() if count)
    return Text(
        f"{time.monotonic() - start:4.0f} s  {run.phase}: {platforms.begun} of {len(run.plan.rewards)} rewards sent, "
        f"{platforms.waiting} senders waiting, {len(run.struck)} of {len(run.plan.kills)} kills  {states}"
    )


@app.command()
def chaos(
    orders: Annotated[int, typer.Option(min=1, help="Rewards that ask for an order.")] = 2000,
    kills: Annotated[int, typer.Option(min=0, help="SIGKILLs; a SIGSTOP for each seven comes on top.")] = 30,
    seed: Annotated[int | None, typer.Option(help="Draws the plan of kills and faults; default: a new one.")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="What has not ended by then counts as not ended.")] = 19,
    rate: Annotated[float, typer.Option(min=0.1, help="New rewards a second, while nothing is overdue.")] = 14,
    patience: Annotated[float, typer.Option(min=0, help="Seconds after the storm before people help.")] = 30,
    report: Annotated[Path | None, typer.Option(help="Write all figures here as JSON.")] = None,
    up: Annotated[bool, typer.Option("--up", help="The relay as one `up` instead of its parts alone.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the data and logs behind.")] = False,
) -> None:
    """Kill a working relay again and again under a far side that misbehaves, and count what became of every reward.

    Real processes, PostgreSQL with its durable defaults. Ends with 1 where anything is lost, doubled, not ended, or
    told wrongly. The same seed gives the same plan of rewards, kills and faults; only the times differ.

    Example: `make chaos ARGS="--orders 200 --kills 14 --seed 7 --report chaos.json"`
    """
    seed = int(time.time()) % 100_000 if seed is None else seed
    plan = draw(seed, orders, kills, LEASE_S, DEADLINE_S)
    console.print(f"seed {seed}: {orders:,} orders, {len(plan.kills)} kills and pauses ({dict(plan.sorts())})")
    start = time.monotonic()
    if current_thread() is main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing outlives us
    with machine(UpMachine if up else Machine, keep) as here, Live(console=console, refresh_per_second=2) as live:
        storm = Storm(here, plan, every_s=1 / rate, patience_s=patience, limit_s=minutes * 60)

        said = start

        def progress(run: Run, platforms: Platforms) -> None:
            nonlocal said
            if console.is_terminal:
                live.update(_line(run, platforms, start))
            elif time.monotonic() - said > QUIET_S:
                said = time.monotonic()
                console.print(_line(run, platforms, start))

        run = asyncio.run(storm.go(progress))
        if keep:
            console.print(f"data and logs: {here.folder}")
    found = figures(run)
    if report:
        report.write_text(json.dumps(found, indent=1) + "\n")
    show(console, found)
    raise typer.Exit(0 if found["good"] else 1)


if __name__ == "__main__":
    app(prog_name="chaos")
