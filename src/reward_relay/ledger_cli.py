"""The command line's look at the ledger: is it whole, and one order's evidence."""

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn

from reward_relay import processes
from reward_relay.db.engine import Database
from reward_relay.errors import Invalid
from reward_relay.ledger import Heads, Ledger, Verified, read_heads, write_heads
from reward_relay.orders_cli import Key, ask_relay
from reward_relay.terminal import AsJson, out, print_json, readable_errors
from reward_relay.wiring import load_settings


def verify(
    keep: Annotated[
        Path | None, typer.Option(help="Write the last hash of every order here; keep it elsewhere.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="A file of --keep: what it knows must still be so.")] = None,
    as_json: AsJson = False,
) -> None:
    """Whether the events of all orders are as they were written; status 1 where they are not.

    Example: `reward-relay verify --against /mnt/other/heads-2026-01.txt --keep /mnt/other/heads-2026-02.txt`
    """
    with readable_errors():
        known = read_heads(against) if against else None
        with processes.database(load_settings()) as url:
            found = asyncio.run(_verified(url, known))
        digest = _kept(keep, found) if keep else None
    if as_json:
        said = {name: getattr(found, name) for name in ("orders", "events", "wrong", "problems")}
        print_json({**said, "heads_sha256": digest})
    else:
        _tell(found, keep, digest)
    if found.wrong:
        raise typer.Exit(1)


async def _verified(url: str, known: Heads | None) -> Verified:
    database = Database(url, pool_size=1, timeout_s=None)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} orders looked at"))
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("verify", total=None)
            return await Ledger(database).verify(known, lambda done: progress.update(task, completed=done))
    finally:
        await database.close()


def _kept(path: Path, found: Verified) -> str:
    try:
        return write_heads(path, found.heads)
    except OSError as error:
        raise Invalid(f"{path} cannot be written ({error.strerror}); give another file") from None


def _tell(found: Verified, keep: Path | None, digest: str | None) -> None:
    for problem in found.problems:
        out.print(f"[red]✗[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if found.wrong > len(found.problems):
        out.print(f"and {found.wrong - len(found.problems):,} more")
    looked = f"{found.orders:,} orders and {found.events:,} events"
    if found.wrong:
        out.print(f"[red]✗[/] {found.wrong:,} flaws in {looked}; compare with a backup, and with the vendor's orders")
    else:
        out.print(f"[green]✓[/] {looked} are as they were written")
    if keep:
        out.print(f"kept in {escape(str(keep))}, SHA-256 {digest}", highlight=False, soft_wrap=True)


def evidence(
    order: Key,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default PO_NUMBER.evidence.json; - prints it.")
    ] = None,
) -> None:
    """One file with all about an order: the bytes, the verdicts, the requests and answers. It holds personal data.

    Example: `reward-relay evidence RR-0123456789ABCDEF`
    """
    found = ask_relay(lambda relay: relay.evidence.of(order))
    if str(output) == "-":
        print_json(found)
        return
    path = output or Path(f"{found['order']['po_number']}.evidence.json")
    with readable_errors():
        try:
            path.write_text(json.dumps(found, indent=2, default=str, ensure_ascii=False), encoding="utf-8")
            path.chmod(0o600)
        except OSError as error:
            raise Invalid(f"{path} cannot be written ({error.strerror}); give another --output") from None
    whole = "its chain of events is whole" if found["chain"]["whole"] else "[red]its chain of events is broken[/]"
    out.print(f"[green]✓[/] {escape(str(path))}: {whole}", highlight=False, soft_wrap=True)
