"""The command line's skin over reconciliation: a report as tables, and the repair after a yes."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from reward_relay import processes
from reward_relay.db.queries import Row
from reward_relay.errors import RelayError
from reward_relay.orders_cli import actor
from reward_relay.reconciling.comparing import Scope
from reward_relay.reconciling.service import OnProgress, Reconciliation
from reward_relay.terminal import AsJson, out
from reward_relay.wiring import build, load_settings

err = Console(stderr=True)
CLEAN, FINDINGS, ERROR = 0, 1, 2


def reconcile(
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Days back; default: reconcile_days.")] = None,
    closed: Annotated[Literal["none", "sample", "all"], typer.Option(help="Which closed orders to ask about.")] = (
        "sample"
    ),
    limit: Annotated[int, typer.Option(min=1, help="At most so many questions to vendors.")] = 5000,
    min_age: Annotated[int, typer.Option(min=0, help="Minutes; younger orders still move.")] = 15,
    statement: Annotated[
        Path | None, typer.Option(help="Compare with this CSV of the vendor's, and ask nobody.")
    ] = None,
    vendor: Annotated[str | None, typer.Option(help="Whose statement it is; needed where there are several.")] = None,
    last: Annotated[bool, typer.Option(help="Show the newest report, and compare nothing.")] = False,
    repair: Annotated[bool, typer.Option(help="Then repair what can be repaired, after a yes.")] = False,
    yes: Annotated[bool, typer.Option(help="With --repair: do not ask.")] = False,
    note: Annotated[str, typer.Option(help="Why; goes into the orders' events.")] = "",
    as_json: AsJson = False,
) -> None:
    """Our orders against the vendors' and the platforms' open lists. Status 0: all agree; 1: findings; 2: an error,
    or not all could be looked at.

    Example: `reward-relay reconcile --closed all --repair --note "month end"`
    """
    scope = Scope(days, closed, limit, min_age, statement, vendor)

    async def main(service: Reconciliation) -> int:
        if last:
            found = await service.latest()
            if found is None:
                raise RelayError("there is no report yet; run: reward-relay reconcile")
            return show(found, None, as_json)
        with _progress(as_json) as on_progress:
            found = await service.run(scope, actor(), note, on_progress)
        done = None
        if repair and found["repairable"]:
            if not as_json:
                print_report(found)
            if not (yes or _agreed(found["repairable"], as_json)):
                return FINDINGS
            done = await service.repair(found["token"], actor(), note)
        return show(found, done, as_json)

    raise typer.Exit(_run(main))


def _run(main: Callable[[Reconciliation], Awaitable[int]]) -> int:
    async def inside(url: str) -> int:
        relay = build(settings, url, pool_size=2)
        try:
            return await main(relay.reconciliation)
        finally:
            await relay.close()

    try:
        settings = load_settings()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        with processes.database(settings) as url:
            return asyncio.run(inside(url))
    except RelayError as error:
        err.print(f"[red]✗[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return ERROR


class _progress:  # noqa: N801 - used as a function
    """A bar on standard error while it runs; none for scripts."""

    def __init__(self, as_json: bool) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed} orders"))
        silent = as_json or not sys.stderr.isatty()
        self._bar = Progress(*columns, TimeElapsedColumn(), console=err, transient=True, disable=silent)

    def __enter__(self) -> OnProgress:
        self._bar.start()
        task = self._bar.add_task("starting", total=None)
        return lambda doing, done: self._bar.update(task, description=doing, completed=done)

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _agreed(number: int, as_json: bool) -> bool:
    if as_json or not sys.stdin.isatty():
        err.print(f"{number} of these can be repaired; add --yes to do it")
        return False
    return typer.confirm(f"Repair {number} of these?")


def show(found: Row, done: Row | None, as_json: bool) -> int:
    """A report, what the repair did, and the exit status that says both."""
    if as_json:
        whole = found if done is None else {**found, "repair": done}
        typer.echo(json.dumps(whole, indent=2, default=str, ensure_ascii=False))
    elif done is None:
        print_report(found)
    else:
        print_repair(done)
    left = sum(found["counts"].values()) - (done["done"] if done else 0)
    return FINDINGS if left else CLEAN if found["complete"] else ERROR


def print_report(found: Row) -> None:
    """Findings as a table, what they add up to, and what was not looked at."""
    table = Table(box=None, header_style="bold")
    for name in ("what", "order", "party", "here", "there", "what to do"):
        table.add_column(name, overflow="fold", no_wrap=name in ("what", "order", "party"))
    for each in found["findings"]:
        mark = "[green]✓[/] " if each["repair"] else ""
        key = each["po_number"] or each["external_id"] or ""
        cells = (each["kind"].replace("_", " "), key, each["party"], each["ours"], each["theirs"])
        table.add_row(*map(escape, cells), mark + escape(each["todo"]))
    if found["findings"]:
        out.print(table)
    for trouble in (*found["problems"], *found["bad_rows"]):
        out.print(f"[yellow]![/] {escape(trouble)}", soft_wrap=True)
    looked = ", ".join(f"{number} {what}" for what, number in found["looked"].items()) or "nothing to look at"
    counted = ", ".join(f"{number} {kind.replace('_', ' ')}" for kind, number in found["counts"].items())
    more = f" ({found['not_listed']} more than are listed)" if found["not_listed"] else ""
    sign = "[yellow]![/]" if counted or not found["complete"] else "[green]✓[/]"
    out.print(f"{sign} {counted or 'no findings'}{more} [dim]({escape(looked)}; {_when(found['made_at'])})[/]")
    if found["repairable"]:
        out.print(f"[green]✓[/] {found['repairable']} marked so can be repaired: reward-relay reconcile --repair")


def _when(time: Any) -> str:
    return str(time.astimezone().strftime("%m-%d %H:%M"))


def print_repair(done: Row) -> None:
    """What the repair did, order by order."""
    for each in done["results"]:
        sign = "[green]✓[/]" if each["done"] else "[yellow]![/]"
        key = each["po_number"] or each["external_id"] or ""
        out.print(f"{sign} {escape(key)} {each['kind'].replace('_', ' ')}: {escape(each['why'])}", soft_wrap=True)
    out.print(f"{done['done']} repaired, {done['skipped']} left as they are; reconcile again to see what is left")
