"""The command line's skin over `ops.Ops`: what arrived."""

from typing import Annotated

import typer
from rich.markup import escape

from reward_relay.db.queries import Row
from reward_relay.errors import RequestError
from reward_relay.ops import VERDICTS, Ops
from reward_relay.orders_cli import Limit, Source, actor, ask
from reward_relay.terminal import AsJson, clock, listing, out, print_json

COLUMNS = (("received", 14, 100), ("id", 36, 0), ("source", 12, 100), ("verdict", 13, 0), ("order", 36, 170))
deliveries = typer.Typer(help="What arrived.", no_args_is_help=True)


@deliveries.command("list")
def list_deliveries(
    verdict: Annotated[str | None, typer.Option(help=", ".join(VERDICTS))] = None,
    source: Source = None,
    order: Annotated[str | None, typer.Option(help="All that arrived for the order with this id.")] = None,
    limit: Limit = 20,
    as_json: AsJson = False,
) -> None:
    """What arrived, newest first, and what became of it.

    Example: `reward-relay deliveries list --verdict quarantined`
    """
    page = ask(lambda ops: ops.deliveries({"verdict": verdict, "source": source, "order_id": order}, limit))
    if as_json:
        print_json(page)
        return
    rows = [
        (
            *map(str, (clock(row["received_at"]), row["id"], row["source"], row["verdict"], row["order_id"] or "")),
            reason,
        )
        for row in page["items"]
        for reason in [escape(row["reason"] or "")]
    ]
    out.print(listing(COLUMNS, "reason", rows) if rows else "no such deliveries")


@deliveries.command("show")
def show_delivery(delivery_id: str, as_json: AsJson = False) -> None:
    """One delivery, verbatim, and what became of it.

    Example: `reward-relay deliveries show 0190a1b2-…`
    """
    found = ask(lambda ops: ops.delivery(delivery_id))
    if as_json or not out.is_terminal:
        print_json(found)
        return
    out.print(f"[bold]{found['verdict']}[/] {escape(found['reason'] or '')}", soft_wrap=True)
    for name in ("source", "received_at", "via", "content_type", "external_id", "order_id"):
        if found[name]:
            out.print(f"  {name:16} {escape(str(found[name]))}", highlight=False, soft_wrap=True)
    for name, value in found["headers"].items():
        out.print(f"  {escape(name)}: {escape(value)}", highlight=False, soft_wrap=True)
    out.print(f"\n{escape(found['body'])}", highlight=False, soft_wrap=True)


def replay(ids: list[str], note: str, *, quarantined: bool, source: str | None, as_json: bool = False) -> None:
    """Replay the given deliveries, or every quarantined one (the newest 200)."""

    async def run(ops: Ops) -> list[Row]:
        wanted = list(ids)
        if quarantined:
            page = await ops.deliveries({"verdict": "quarantined", "source": source}, 200)
            wanted += [str(row["id"]) for row in page["items"]]
        return [await _replayed(ops, each, note) for each in wanted]

    done = ask(run)
    if as_json:
        print_json(done)
    for receipt in () if as_json else done:
        order = f" → order {receipt['order_id']}" if receipt["order_id"] else f": {receipt['reason']}"
        out.print(f"{receipt['delivery_id']} {receipt['verdict']}{escape(order)}", highlight=False, soft_wrap=True)
    if any(receipt["verdict"] == "failed" for receipt in done):
        raise typer.Exit(1)
    if not done and not as_json:
        out.print("nothing to replay; give delivery ids, or --quarantined")


async def _replayed(ops: Ops, delivery_id: str, note: str) -> Row:
    """The receipt, or why this one cannot be replayed; the others go on."""
    try:
        return await ops.replay(delivery_id, actor(), note)
    except RequestError as error:
        return {"delivery_id": delivery_id, "verdict": "failed", "order_id": None, "reason": error.detail}
