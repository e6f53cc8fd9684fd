"""`orders bulk`: the plan of many retries or releases as a table, a question, and then exactly the plan."""

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from reward_relay.db.queries import Row
from reward_relay.orders_cli import (
    After,
    Before,
    Find,
    HoldReason,
    Note,
    Party,
    Source,
    State,
    Vendor,
    actor,
    ask_relay,
    chosen,
)
from reward_relay.terminal import AsJson, out, print_json
from reward_relay.terminal import state as coloured
from reward_relay.wiring import Relay

SHOWN = 20
bulk = typer.Typer(help="Retry or release many orders: a plan first.", no_args_is_help=True)
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask; act on the plan.")]


@bulk.command()
def retry(
    state: State = None,
    source: Source = None,
    vendor: Vendor = None,
    party: Party = None,
    find: Find = None,
    after: After = None,
    before: Before = None,
    note: Note = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make the next step of every order that waits, and matches, due now. Without --yes, --json only shows the plan.

    Example: `reward-relay orders bulk retry --party vendor:gcp --note "vendor is back"`
    """
    wanted = chosen(state, source, vendor, party, find, None, after, before)
    _run("retry", wanted, note, yes=yes, as_json=as_json)


@bulk.command()
def release(
    source: Source = None,
    vendor: Vendor = None,
    find: Find = None,
    hold_reason: HoldReason = None,
    after: After = None,
    before: Before = None,
    note: Note = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Let every held order that matches go on; those not placed yet are routed again. Without --yes, --json only plans.

    Example: `reward-relay orders bulk release --source roster --note "route added"`
    """
    wanted = chosen(None, source, vendor, None, find, hold_reason, after, before)
    _run("release", wanted, note, yes=yes, as_json=as_json)


@bulk.command("act")
def act_on(token: Annotated[str, typer.Argument(help="Of the plan.")], as_json: AsJson = False) -> None:
    """Carry out a plan that somebody else has made, since it needs two persons; RELAY_API_KEY says who you are.

    Example: `RELAY_API_KEY=… reward-relay orders bulk act 0f9d3c1e-52a1-4c55-9d0b-5b6b1c0d7e11`
    """
    plan = ask_relay(lambda relay: relay.bulk.find(token))
    if not as_json:
        _print_plan(plan)
        if not typer.confirm(f"{plan['action']} {plan['count']} orders?"):
            raise typer.Exit(1)
    _act_on(plan, as_json=as_json)


def _run(action: str, wanted: Row, note: str, *, yes: bool, as_json: bool) -> None:
    plan = ask_relay(lambda relay: relay.bulk.plan(action, wanted, actor(), note))
    if not as_json:
        _print_plan(plan)
        if not plan["count"]:
            return
        if plan["second_person"]:
            told = f"another person must carry it out: reward-relay orders bulk act {plan['token']}"
            out.print(f"[yellow]![/] {told}", soft_wrap=True, highlight=False)
            return
        if not yes and not typer.confirm(f"{action} {plan['count']} orders?"):
            out.print("nothing was done")
            raise typer.Exit(1)
    elif not yes:
        print_json(plan)
        return
    _act_on(plan, as_json=as_json)


def _act_on(plan: Row, *, as_json: bool) -> None:
    try:
        result = ask_relay(lambda relay: _act(relay, plan, quiet=as_json))
    except KeyboardInterrupt:
        seen = ask_relay(lambda relay: relay.bulk.find(plan["token"]))
        out.print(f"[yellow]![/] stopped: {len(seen['done'])} done, {seen['left']} left; plan again for what is left")
        raise typer.Exit(130) from None
    if as_json:
        print_json({"plan": plan, **result})
        return
    out.print(f"[green]✓[/] {len(result['done'])} done, {len(result['skipped'])} skipped")
    for each in result["skipped"][:SHOWN]:
        out.print(f"[yellow]![/] {each['po_number']}: {escape(each['why'])}", soft_wrap=True)
    if len(result["skipped"]) > SHOWN:
        out.print(f"[dim]and {len(result['skipped']) - SHOWN} more; --json shows all[/]")


async def _act(relay: Relay, plan: Row, *, quiet: bool) -> Row:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task(plan["action"], total=plan["count"])
        return await relay.bulk.act(
            plan["token"], actor(), lambda done, of: progress.update(task, completed=done, total=of)
        )


def _print_plan(plan: Row) -> None:
    out.print(f"[bold]{plan['action']}[/]: {plan['count']} orders would go, {plan['refused']} would not")
    if plan["value"]:
        out.print(f"  worth {plan['value']:,.2f} together", highlight=False)
    for cap, amount in plan["beyond"].items():
        out.print(f"[yellow]![/] beyond {escape(cap)} by {amount:,.10g}", highlight=False, soft_wrap=True)
    if plan["second_person"]:
        out.print(f"[yellow]![/] needs two persons: {escape(plan['second_person'])}", highlight=False, soft_wrap=True)
    groups = Table("orders", "what would happen", box=None, header_style="bold")
    for each in plan["groups"][:SHOWN]:
        groups.add_row(str(each["count"]), escape(each["does"]))
    if plan["groups"]:
        out.print(groups)
        out.print()
    orders = Table("PO number", "source", "external id", "state", "", box=None, header_style="bold")
    would = [(each, escape(each["does"])) for each in plan["would"][:SHOWN]]
    wont = [(each, f"[yellow]stays: {escape(each['why'])}[/]") for each in plan["wont"][:SHOWN]]
    for each, told in would + wont:
        named = map(escape, (each["po_number"], each["source"], each["external_id"]))
        orders.add_row(*named, coloured(each["state"]), told)
    if would or wont:
        out.print(orders)
    hidden = plan["count"] + plan["refused"] - len(would) - len(wont)
    if hidden:
        out.print(f"[dim]and {hidden} more; --json shows all[/]")
    if plan["cut"]:
        out.print("[yellow]![/] more orders match than a plan takes; these are the oldest, plan again for the rest")
