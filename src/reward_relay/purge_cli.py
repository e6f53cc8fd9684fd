"""The command line's way to forget a person, and to seal what is stored with a new key."""

from typing import Annotated

import typer
from rich.markup import escape

from reward_relay.db.queries import Row
from reward_relay.orders_cli import Note, actor, ask_relay
from reward_relay.purging import Found
from reward_relay.terminal import AsJson, clock, out, print_json
from reward_relay.wiring import Relay

SHOWN = 20


def purge(
    order: Annotated[str | None, typer.Option(help="One order: id, PO number, or the platform's id.")] = None,
    email: Annotated[str | None, typer.Option(help="All that names this e-mail address.")] = None,
    note: Note = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a person's data now; keys, amounts and events stay. Without --yes, --json only says what would go.

    Example: `reward-relay purge --email ana@example.com --note "request of 23 November" --dry-run`
    """
    if (order is None) == (email is None):
        raise typer.BadParameter("give either --order or --email")

    async def look(relay: Relay) -> Found:
        return await (relay.purging.about_email(email) if email else relay.purging.about_order(order or ""))

    found: Found = ask_relay(look)
    shown = {name: getattr(found, name) for name in Found.__slots__}
    if not as_json:
        _print(found)
    if dry_run or (as_json and not yes) or not (found.orders or found.deliveries or found.plans):
        if as_json:
            print_json({**shown, "done": None})
        raise typer.Exit(1 if found.kept or found.sealed else 0)
    if not yes and not typer.confirm("Remove it? It cannot be brought back."):
        out.print("nothing was removed")
        raise typer.Exit(1)
    done: Row = ask_relay(lambda relay: relay.purging.forget(found, actor(), note, email))
    if as_json:
        print_json({**shown, "done": done})
    else:
        out.print(f"[green]✓[/] {done['orders']} orders and {done['deliveries']} deliveries forgot the person")
    if found.kept or found.sealed:
        raise typer.Exit(1)


def _print(found: Found) -> None:
    for each in found.orders[:SHOWN]:
        told = f"order {each['po_number']} of {each['source']}: recipient, message, answers of calls, its deliveries"
        out.print(f"  {escape(told)}", highlight=False, soft_wrap=True)
    for each in found.deliveries[:SHOWN]:
        whose = " of another order" if each["order_id"] else ""
        told = f"delivery {each['id']} of {each['source']}, {each['verdict']}{whose}: body and headers"
        out.print(f"  {clock(each['received_at'])} {escape(told)}", highlight=False, soft_wrap=True)
    if found.plans:
        out.print(f"  {found.plans} plans or reports of bulk work, whose filters name it")
    hidden = max(len(found.orders) - SHOWN, 0) + max(len(found.deliveries) - SHOWN, 0)
    if hidden:
        out.print(f"[dim]and {hidden} more; --json shows all[/]")
    for each in found.kept:
        which = each.get("po_number") or f"delivery {each['id']}"
        out.print(f"[yellow]![/] {which} keeps it: {escape(each['why'])}", highlight=False, soft_wrap=True)
    if found.sealed:
        out.print(
            f"[yellow]![/] {found.sealed} bodies could not be looked at: their keys are missing (reward-relay reseal "
            f"--dry-run names them)",
            soft_wrap=True,
        )
    if not (found.orders or found.deliveries or found.plans or found.kept):
        out.print("nothing here names it")


def reseal(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which keys sealed what.")] = False,
    as_json: AsJson = False,
) -> None:
    """Seal every stored body with the newest of encryption_keys, and say which old keys can be dropped.

    Example: `reward-relay reseal`
    """
    done: Row = ask_relay(lambda relay: relay.resealing.look() if dry_run else relay.resealing.run())
    if as_json:
        print_json(done)
    else:
        _print_keys(done)
    if done["missing"] or done.get("failed"):
        raise typer.Exit(1)


def _print_keys(done: Row) -> None:
    if "resealed" in done:
        out.print(f"[green]✓[/] {done['resealed']} bodies sealed with key {done['newest']}")
    for key, number in done["by_key"].items():
        out.print(f"  key {key}: {number} bodies{' (newest)' if key == done['newest'] else ''}", highlight=False)
    if done["plain"]:
        out.print(f"  plain: {done['plain']} bodies", highlight=False)
    for key, number in done["missing"].items():
        out.print(f"[red]✗[/] key {key} is not in encryption_keys: {number} bodies cannot be read", highlight=False)
    if done.get("failed"):
        out.print(f"[red]✗[/] {done['failed']} bodies could not be opened, and stay as they are")
    for key in done["unused"]:
        out.print(
            f"  key {key} can be dropped, once every process has been restarted with the newest in front and backups "
            f"of before are gone",
            highlight=False,
            soft_wrap=True,
        )
