"""The command line's skin over `ops.Ops`: orders, deliveries, parties."""

import asyncio
import getpass
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.table import Table

from reward_relay import processes
from reward_relay.db.queries import Row
from reward_relay.errors import RelayError, RequestError
from reward_relay.ops import Ops
from reward_relay.states import Outcome
from reward_relay.wiring import build, load_settings

PIPE_WIDTH = 200
orders = typer.Typer(help="Find and steer orders.", no_args_is_help=True)
deliveries = typer.Typer(help="What arrived.", no_args_is_help=True)
parties = typer.Typer(help="Platforms and vendors.", no_args_is_help=True)
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True)
SHOWN = (
    "id", "source", "external_id", "route", "vendor", "vendor_order_id", "vendor_status", "message", "next_step",
    "due_at", "attempts", "in_doubt", "claimed", "last_error",
)  # fmt: skip
COLOURS = {"received": "cyan", "placed": "blue", "settled": "magenta", "closed": "green", "on_hold": "yellow"}

VERDICTS = "accepted, duplicate, informational, quarantined, rejected."
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
Key = Annotated[str, typer.Argument(help="Id, PO number, or the platform's id.")]
Note = Annotated[str, typer.Option(help="Why; goes into the order's events.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many.")]


def ask(question: Callable[[Ops], Awaitable[Any]]) -> Any:
    """Ask the ops service over the configured database; an error of ours is a sentence and status 2."""

    async def main(url: str) -> Any:
        relay = build(settings, url, pool_size=2)
        try:
            return await question(relay.ops)
        finally:
            await relay.close()

    try:
        settings = load_settings()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        with processes.database(settings) as url:
            return asyncio.run(main(url))
    except RelayError as error:
        err.print(f"[red]✗[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def actor() -> str:
    """Who acts, for the order's events."""
    return f"cli:{getpass.getuser()}"


def _json(found: Any) -> None:
    typer.echo(json.dumps(found, indent=2, default=str, ensure_ascii=False))


def _state(name: str) -> str:
    return f"[{COLOURS.get(name, 'white')}]{name}[/]"


def _time(value: Any) -> str:
    return value.astimezone().strftime("%m-%d %H:%M:%S") if value is not None else ""


@orders.command("list")
def list_orders(
    state: Annotated[str | None, typer.Option(help="received, placed, settled, closed, on_hold.")] = None,
    source: Annotated[str | None, typer.Option(help="A name of [sources].")] = None,
    vendor: Annotated[str | None, typer.Option(help="A name of [vendors].")] = None,
    find: Annotated[str | None, typer.Option("--find", "-q", help="Name, e-mail, external id, PO number.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """Orders, newest first.

    Example: `reward-relay orders list --state on_hold`
    """
    wanted = {"state": state, "source": source, "vendor": vendor, "q": find}
    page = ask(lambda ops: ops.orders(wanted, limit))
    if as_json:
        _json(page)
        return
    table = Table(box=None, header_style="bold")
    for name in ("PO number", "source", "external id", "state"):
        table.add_column(name, no_wrap=True, overflow="ignore" if name == "PO number" else "ellipsis", min_width=8)
    for name in ("recipient", "since", "what next"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for row in page["items"]:
        who = (row["recipient"] or {}).get("email") or (row["recipient"] or {}).get("name") or ""
        following = row["next_step"] or row["outcome"] or ""
        if row["hold_reason"] or row["last_error"]:
            following = row["hold_reason"] or f"{following}, attempt {row['attempts'] + 1}: {row['last_error']}"
        cells = (row["po_number"], row["source"], row["external_id"], who)
        po_number, origin, external_id, recipient = map(escape, cells)
        since = _time(row["updated_at"])
        table.add_row(po_number, origin, external_id, _state(row["state"]), recipient, since, escape(following))
    out.print(table if page["items"] else "no such orders")
    if page["next_cursor"]:
        out.print(f"[dim]more than {limit}; raise --limit or narrow the search[/]")


@orders.command("show")
def show_order(key: Key, as_json: AsJson = False) -> None:
    """One order with its whole history.

    Example: `reward-relay orders show RR-0123456789ABCDEF`
    """
    found = ask(lambda ops: ops.order(key))
    if as_json:
        _json(found)
    else:
        print_order(found)


def print_order(found: Row) -> None:
    """An order and its timeline, events and calls in one order of time."""
    out.print(f"[bold]{found['po_number']}[/] {_state(found['state'])} {found['outcome'] or ''}")
    if found["hold_reason"]:
        out.print(f"[yellow]{escape(found['hold_reason'])}[/]", soft_wrap=True)
    for name in (
        "id",
        "source",
        "external_id",
        "route",
        "vendor",
        "vendor_order_id",
        "next_step",
        "due_at",
        "last_error",
    ):
        if found[name]:
            out.print(f"  {name:16} {escape(str(found[name]))}", highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="bold")
    for name in ("at", "who", "what"):
        table.add_column(name, overflow="fold")
    lines = [
        (each["at"], each["actor"], f"{_state(each['to_state'])} {escape(each['reason'] or '')}")
        for each in found["events"]
    ]
    for call in found["calls"]:
        took = (
            f"{(call['finished_at'] - call['started_at']).total_seconds():.3f} s" if call["finished_at"] else "no end"
        )
        told = f"{call['purpose']} → {call['verdict'] or 'not recorded'} {call['status'] or ''} ({took})"
        lines.append((call["started_at"], call["party"], f"[dim]{escape(told)}[/]"))
    for at, who, what in sorted(lines, key=lambda line: line[0]):
        table.add_row(_time(at), who, what)
    out.print(table)


def _acted(found: Row, as_json: bool) -> None:
    if as_json:
        _json(found)
    else:
        reason = f": {escape(found['hold_reason'])}" if found["hold_reason"] else ""
        out.print(f"[green]✓[/] {found['po_number']} is {_state(found['state'])}{reason}", soft_wrap=True)


@orders.command()
def retry(key: Key, note: Note = "", as_json: AsJson = False) -> None:
    """Make an order's next step due now.

    Example: `reward-relay orders retry RR-0123456789ABCDEF --note "vendor is back"`
    """
    _acted(ask(lambda ops: ops.retry(key, actor(), note)), as_json)


@orders.command()
def hold(key: Key, note: Note = "", as_json: AsJson = False) -> None:
    """Stop an order until it is released.

    Example: `reward-relay orders hold RR-0123456789ABCDEF --note "address looks wrong"`
    """
    _acted(ask(lambda ops: ops.hold(key, actor(), note)), as_json)


@orders.command()
def release(key: Key, note: Note = "", as_json: AsJson = False) -> None:
    """Let a held order go on; one that is not placed yet is routed again.

    Example: `reward-relay orders release RR-0123456789ABCDEF --note "route added"`
    """
    _acted(ask(lambda ops: ops.release(key, actor(), note)), as_json)


@orders.command()
def refuse(
    key: Key,
    message: Annotated[str | None, typer.Option(help="For the person who redeemed the reward.")] = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """End an order that is not placed; the platform is told.

    Example: `reward-relay orders refuse RR-0123456789ABCDEF --message "Out of stock"`
    """
    _acted(ask(lambda ops: ops.refuse(key, actor(), note, message)), as_json)


@orders.command()
def close(
    key: Key,
    outcome: Annotated[Outcome | None, typer.Option(help="How it ended, where the relay does not know.")] = None,
    note: Note = "",
    as_json: AsJson = False,
) -> None:
    """End an order without telling the platform: a person has seen to it.

    Example: `reward-relay orders close RR-0123456789ABCDEF --outcome fulfilled --note "bought by hand"`
    """
    _acted(ask(lambda ops: ops.close(key, actor(), note, outcome)), as_json)


@deliveries.command("list")
def list_deliveries(
    verdict: Annotated[
        str | None, typer.Option(help="accepted, duplicate, informational, quarantined, rejected.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="A name of [sources].")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """What arrived, newest first, and what became of it.

    Example: `reward-relay deliveries list --verdict quarantined`
    """
    page = ask(lambda ops: ops.deliveries({"verdict": verdict, "source": source}, limit))
    if as_json:
        _json(page)
        return
    table = Table(box=None, header_style="bold")
    for name in ("received", "id", "source", "verdict", "order", "reason"):
        table.add_column(name, no_wrap=True, overflow="ignore" if name == "id" else "ellipsis")
    for row in page["items"]:
        order = str(row["order_id"] or "")
        table.add_row(
            _time(row["received_at"]), str(row["id"]), row["source"], row["verdict"], order, escape(row["reason"] or "")
        )
    out.print(table if page["items"] else "no such deliveries")


@deliveries.command("show")
def show_delivery(delivery_id: str) -> None:
    """One delivery, verbatim, as JSON.

    Example: `reward-relay deliveries show 0190a1b2-…`
    """
    _json(ask(lambda ops: ops.delivery(delivery_id)))


def replay(ids: list[str], *, quarantined: bool, source: str | None) -> None:
    """Replay the given deliveries, or every quarantined one (the newest 200)."""

    async def run(ops: Ops) -> list[Row]:
        wanted = list(ids)
        if quarantined:
            page = await ops.deliveries({"verdict": "quarantined", "source": source}, 200)
            wanted += [str(row["id"]) for row in page["items"]]
        return [await _replayed(ops, each) for each in wanted]

    done = ask(run)
    for receipt in done:
        order = f" → order {receipt['order_id']}" if receipt["order_id"] else f": {receipt['reason']}"
        out.print(f"{receipt['delivery_id']} {receipt['verdict']}{escape(order)}", highlight=False, soft_wrap=True)
    if any(receipt["verdict"] == "failed" for receipt in done):
        raise typer.Exit(1)
    if not done:
        out.print("nothing to replay; give delivery ids, or --quarantined")


async def _replayed(ops: Ops, delivery_id: str) -> Row:
    """The receipt, or why this one cannot be replayed; the others go on."""
    try:
        return await ops.replay(delivery_id)
    except RequestError as error:
        return {"delivery_id": delivery_id, "verdict": "failed", "order_id": None, "reason": error.detail}


@parties.command("list")
def list_parties(as_json: AsJson = False) -> None:
    """Every platform and vendor: what waits for it, and its health.

    Example: `reward-relay parties list`
    """
    found = ask(lambda ops: ops.summary())
    if as_json:
        _json(found["parties"])
        return
    table = Table(box=None, header_style="bold")
    for name in ("party", "waiting", "due", "health", "why"):
        table.add_column(name, overflow="fold")
    for row in found["parties"]:
        sick = "paused" if row["paused"] else "breaker open" if row["breaker"] == "open" else ""
        health = f"[red]{sick}[/]" if sick else "[green]flows[/]"
        table.add_row(row["party"], str(row["waiting"]), str(row["due"]), health, escape(row["why"] or ""))
    out.print(table)


def show_processes(*, as_json: bool) -> None:
    """Which API and worker processes run, and with which routes."""
    found = ask(lambda ops: ops.summary())["processes"]
    if as_json:
        _json(found)
        return
    table = Table(box=None, header_style="bold")
    for name in ("process", "host", "pid", "version", "routes", "since", "seen", ""):
        table.add_column(name, overflow="fold")
    for row in found:
        alive = "[green]lives[/]" if row["alive"] else "[red]gone[/]"
        where = (row["kind"], escape(row["host"]), str(row["pid"]), row["version"], row["routes"])
        trouble = f" [yellow]{escape(row['trouble'])}[/]" if row["trouble"] else ""
        table.add_row(*where, _time(row["started_at"]), _time(row["seen_at"]), alive + trouble)
    out.print(table if found else "no process has been here within a day")


@parties.command()
def pause(party: str, note: Note = "") -> None:
    """Stop calling a party; its orders wait.

    Example: `reward-relay parties pause vendor:gcp --note "invoice dispute"`
    """
    ask(lambda ops: ops.pause(party, actor(), note))
    out.print(f"[green]✓[/] {escape(party)} is paused; its orders wait")


@parties.command()
def resume(party: str, note: Note = "") -> None:
    """Call a party again, and release the orders that were held because it refused us.

    Example: `reward-relay parties resume vendor:gcp --note "topped up"`
    """
    done = ask(lambda ops: ops.resume(party, actor(), note))
    out.print(f"[green]✓[/] {escape(party)} is called again; {len(done['released'])} held orders released")
    for reason in done["kept"].values():
        out.print(f"[yellow]![/] {escape(reason)}", soft_wrap=True)


def show_explained(found: Row, *, as_json: bool) -> None:
    """What would become of a payload."""
    if as_json:
        _json(found)
        return
    out.print(f"[bold]{escape(found['sentence'])}[/]", soft_wrap=True, highlight=False)
    for title, part in (
        ("the reward", "reward"),
        ("the vendor would get", "vendor_request"),
        ("to close", "closing_call"),
    ):
        if found[part] is not None:
            out.print(f"\n[bold]{title}[/]")
            out.print(JSON(json.dumps(found[part], default=str)), soft_wrap=True)
