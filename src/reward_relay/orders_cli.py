"""The command line's skin over `ops.Ops`: orders and parties."""

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import structlog
import typer
from rich.json import JSON
from rich.markup import escape
from rich.table import Table

from reward_relay import processes
from reward_relay.db.queries import Row
from reward_relay.errors import ConfigurationError
from reward_relay.keys import actor_of, may_act
from reward_relay.ops import MAX_PAGE, Ops
from reward_relay.settings import Settings
from reward_relay.states import Outcome
from reward_relay.terminal import AsJson, clock, listing, out, print_json, readable_errors
from reward_relay.terminal import state as coloured
from reward_relay.wiring import Relay, build, configured, load_settings

orders = typer.Typer(help="Find and steer orders.", no_args_is_help=True)
parties = typer.Typer(help="Platforms and vendors.", no_args_is_help=True)
State = Annotated[str | None, typer.Option(help="received, placed, settled, closed, on_hold.")]
Source = Annotated[str | None, typer.Option(help="A name of [sources].")]
Vendor = Annotated[str | None, typer.Option(help="A name of [vendors].")]
Party = Annotated[str | None, typer.Option(help="Whom the next step calls, as `parties list` names it.")]
Find = Annotated[str | None, typer.Option("--find", "-q", help="Name, e-mail, external id, PO number.")]
HoldReason = Annotated[str | None, typer.Option(help="Held for exactly this reason.")]
After = Annotated[datetime | None, typer.Option(help="Created after this time.")]
Before = Annotated[datetime | None, typer.Option(help="Created before this time.")]
Key = Annotated[str, typer.Argument(help="Id, PO number, or the platform's id.")]
Note = Annotated[str, typer.Option(help="Why; goes into the order's events.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="How many.")]


def ask_relay(question: Callable[[Relay], Awaitable[Any]]) -> Any:
    """Ask a service over the configured database; an error of ours is a sentence and status 2."""

    async def main(settings: Settings, url: str) -> Any:
        relay = build(settings, url, pool_size=2)
        try:
            return await question(relay)
        finally:
            await relay.close()

    with readable_errors():
        settings = _settings()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
        with processes.database(settings) as url:
            return asyncio.run(main(settings, url))


def _settings() -> Settings:
    try:
        return load_settings()
    except ConfigurationError as error:
        goes_on = "a relay that runs goes on with the routes of before: its console and API answer as ever"
        raise ConfigurationError([*error.problems, goes_on]) from None


def ask(question: Callable[[Ops], Awaitable[Any]]) -> Any:
    """Ask the ops service."""
    return ask_relay(lambda relay: question(relay.ops))


def chosen(
    state: str | None,
    source: str | None,
    vendor: str | None,
    party: str | None,
    find: str | None,
    hold_reason: str | None,
    after: datetime | None,
    before: datetime | None,
) -> Row:
    """The filters of a command, as the services take them. A time without a zone is this machine's."""
    times = {"created_after": after and after.astimezone(), "created_before": before and before.astimezone()}
    words = {"state": state, "source": source, "vendor": vendor, "party": party, "q": find, "hold_reason": hold_reason}
    return {**words, **times}


def actor() -> str:
    """Who acts, for the order's events: the name of the key in RELAY_API_KEY, else the user of this machine.

    Raises:
        Unauthenticated, Forbidden: the key is none of ours, or a viewer's.
    """
    source = configured()
    if source.own_key is None:
        return f"cli:{getpass.getuser()}"
    name, entry = actor_of(source.load().api_keys, source.own_key)
    may_act(name, entry.role)
    return name


@orders.command("list")
def list_orders(
    state: State = None,
    source: Source = None,
    vendor: Vendor = None,
    party: Party = None,
    find: Find = None,
    hold_reason: HoldReason = None,
    after: After = None,
    before: Before = None,
    limit: Limit = 20,
    everything: Annotated[bool, typer.Option("--all", help="All of them, page after page.")] = False,
    as_json: AsJson = False,
) -> None:
    """Orders, newest first. With --all and --json, one order a line.

    Example: `reward-relay orders list --state on_hold`
    """
    wanted = chosen(state, source, vendor, party, find, hold_reason, after, before)
    if everything:
        ask(lambda ops: _print_all(ops, wanted, as_json=as_json))
        return
    page = ask(lambda ops: ops.orders(wanted, limit))
    if as_json:
        print_json(page)
        return
    out.print(_table(page["items"]) if page["items"] else "no such orders")
    if page["next_cursor"]:
        out.print(f"[dim]more than {limit}; --all shows all of them, or narrow the search[/]")


async def _print_all(ops: Ops, wanted: Row, *, as_json: bool) -> None:
    cursor, count = None, 0
    while True:
        page = await ops.orders(wanted, MAX_PAGE, cursor)
        cursor, count = page["next_cursor"], count + len(page["items"])
        if as_json:
            for row in page["items"]:
                print_json(row, lines=True)
        elif page["items"]:
            out.print(_table(page["items"]))
        if cursor is None:
            break
    if not as_json:
        out.print(f"[dim]{count} orders[/]")


COLUMNS = (
    ("PO number", 20, 0),
    ("source", 12, 140),
    ("external id", 24, 110),
    ("state", 8, 0),
    ("recipient", 24, 0),
    ("since", 14, 140),
)


def _table(rows: list[Row]) -> Table:
    cells = []
    for row in rows:
        who = (row["recipient"] or {}).get("email") or (row["recipient"] or {}).get("name") or ""
        following = row["next_step"] or row["outcome"] or ""
        if row["hold_reason"] or row["last_error"]:
            following = row["hold_reason"] or f"{following}, attempt {row['attempts'] + 1}: {row['last_error']}"
        po_number, origin, external_id = map(escape, (row["po_number"], row["source"], row["external_id"]))
        state_and_who = (coloured(row["state"]), escape(who), clock(row["updated_at"]))
        cells.append((po_number, origin, external_id, *state_and_who, escape(following)))
    return listing(COLUMNS, "what next", cells)


@orders.command("show")
def show_order(key: Key, as_json: AsJson = False) -> None:
    """One order with its whole history.

    Example: `reward-relay orders show RR-0123456789ABCDEF`
    """
    found = ask(lambda ops: ops.order(key))
    if as_json:
        print_json(found)
    else:
        print_order(found)


def print_order(found: Row) -> None:
    """An order, its timeline, and what may be done to it."""
    out.print(f"[bold]{found['po_number']}[/] {coloured(found['state'])} {found['outcome'] or ''}")
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
        "waits_for",
        "last_error",
    ):
        if found[name]:
            value = clock(found[name]) if name == "due_at" else str(found[name])
            out.print(f"  {name:16} {escape(value)}", highlight=False, soft_wrap=True)
    table = Table(box=None, header_style="bold")
    for name in ("at", "who", "what", "took"):
        table.add_column(name, overflow="fold")
    for each in found["timeline"]:
        told = escape(each["text"].removeprefix(f"{each['to_state']} "))
        moved = f"{coloured(each['to_state'])} {told}" if each["to_state"] else f"[dim]{told}[/]"
        unfinished = "no end" if each["kind"] == "call" else ""
        took = unfinished if each["took_s"] is None else f"{each['took_s']:.3f} s"
        table.add_row(clock(each["at"]), escape(each["who"]), moved, took)
    out.print(table)
    can = [f"  [bold]{each['action']:8}[/] {escape(each['does'])}" for each in found["actions"] if each["allowed"]]
    out.print("\n".join(["you can", *can]) if can else "nothing can be done to it", soft_wrap=True, highlight=False)


def _acted(found: Row, as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        reason = f": {escape(found['hold_reason'])}" if found["hold_reason"] else ""
        following = f"; next: {found['next_step']} at {found['party']}" if found["next_step"] else ""
        outcome = f" ({found['outcome']})" if found["outcome"] else ""
        is_now = f"{found['po_number']} is {coloured(found['state'])}{outcome}{reason}{following}"
        out.print(f"[green]✓[/] {is_now}", soft_wrap=True, highlight=False)
        if found["asked"]:
            by = found["asked"]["by"]
            out.print(f"[yellow]![/] {by} has asked; another person's key must release it too", highlight=False)
        if found["waits_for"]:
            out.print(f"[yellow]![/] it waits: {escape(found['waits_for'])}", soft_wrap=True, highlight=False)


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

    Where it needs two persons (`second_person_above`), RELAY_API_KEY says who you are: one asks, another does it.

    Example: `reward-relay orders release RR-0123456789ABCDEF --note "route added"`
    """
    _acted(ask(lambda ops: ops.release(key, actor(), note)), as_json)


@orders.command()
def withdraw(key: Key, note: Note = "", as_json: AsJson = False) -> None:
    """Take back what was asked of a second person.

    Example: `reward-relay orders withdraw RR-0123456789ABCDEF --note "value is wrong after all"`
    """
    _acted(ask(lambda ops: ops.withdraw(key, actor(), note)), as_json)


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


@parties.command("list")
def list_parties(as_json: AsJson = False) -> None:
    """Every platform and vendor: what waits for it, and its health.

    Example: `reward-relay parties list`
    """
    found = ask(lambda ops: ops.summary())
    if as_json:
        print_json(found["parties"])
        return
    table = Table(box=None, header_style="bold")
    for name in ("party", "waiting", "due", "health", "why"):
        table.add_column(name, overflow="fold")
    for row in found["parties"]:
        sick = "paused" if row["paused"] else "breaker open" if row["breaker"] == "open" else ""
        well = "coming back" if row["recovering"] else "flows"
        health = f"[red]{sick}[/]" if sick else f"[green]{well}[/]"
        table.add_row(row["party"], str(row["waiting"]), str(row["due"]), health, escape(row["why"] or ""))
    out.print(table)


def show_processes(*, as_json: bool) -> None:
    """Which API and worker processes run, and with which routes."""
    found = ask(lambda ops: ops.summary())["processes"]
    if as_json:
        print_json(found)
        return
    table = Table(box=None, header_style="bold")
    for name in ("process", "host", "pid", "version", "routes", "since", "seen", ""):
        table.add_column(name, overflow="fold")
    for row in found:
        alive = "[green]lives[/]" if row["alive"] else "[red]gone[/]"
        where = (row["kind"], escape(row["host"]), str(row["pid"]), row["version"], row["routes"])
        trouble = f" [yellow]{escape(row['trouble'])}[/]" if row["trouble"] else ""
        table.add_row(*where, clock(row["started_at"]), clock(row["seen_at"]), alive + trouble)
    out.print(table if found else "no process has been here within a day")


@parties.command()
def pause(party: str, note: Note = "", as_json: AsJson = False) -> None:
    """Stop calling a party; its orders wait.

    Example: `reward-relay parties pause vendor:gcp --note "invoice dispute"`
    """
    done = ask(lambda ops: ops.pause(party, actor(), note))
    if as_json:
        print_json(done)
        return
    out.print(f"[green]✓[/] {escape(party)} is paused; its orders wait")


@parties.command()
def resume(party: str, note: Note = "", as_json: AsJson = False) -> None:
    """Call a party again, and release the orders that were held because it refused us.

    Example: `reward-relay parties resume vendor:gcp --note "topped up"`
    """
    done = ask(lambda ops: ops.resume(party, actor(), note))
    if as_json:
        print_json(done)
        return
    out.print(f"[green]✓[/] {escape(party)} is called again; {len(done['released'])} held orders released")
    for reason in done["kept"].values():
        out.print(f"[yellow]![/] {escape(reason)}", soft_wrap=True)


def show_explained(found: Row, *, as_json: bool) -> None:
    """What would become of a payload."""
    if as_json:
        print_json(found)
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
