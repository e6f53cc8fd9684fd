"""The command line's alerts: what is wrong just now, and a test message."""

import asyncio

import typer
from rich.markup import escape
from rich.table import Table

from reward_relay.orders_cli import ask
from reward_relay.terminal import AsJson, clock, out, print_json, readable_errors
from reward_relay.wiring import build, load_settings

alerts = typer.Typer(help="What is wrong just now, and who is told.", no_args_is_help=True)
COLOURS = {"critical": "red", "warning": "yellow"}


@alerts.command("list")
def list_alerts(as_json: AsJson = False) -> None:
    """What is wrong just now, critical first.

    Example: `reward-relay alerts list`
    """
    found = ask(lambda ops: ops.alerts())
    if as_json:
        print_json(found)
        return
    table = Table(box=None, header_style="bold")
    for name in ("since", "severity", "what", "told"):
        table.add_column(name, overflow="fold")
    for row in found["items"]:
        colour = COLOURS[row["severity"]]
        since, told = clock(row["since"]), clock(row["sent_at"])
        table.add_row(since, f"[{colour}]{row['severity']}[/]", escape(row["text"]), told or "not yet")
    out.print(table if found["items"] else "nothing is wrong")
    looked = found["looked_at"]
    out.print(f"[dim]looked at {clock(looked)}[/]" if looked else "nobody has looked yet")


@alerts.command()
def test() -> None:
    """Send a test message to the configured address, and say what it answered.

    Example: `reward-relay alerts test`
    """

    async def send() -> str:
        # Nothing of this touches the database.
        relay = build(load_settings(), "postgresql://localhost/none")
        try:
            return await relay.alerting().test()
        finally:
            await relay.close()

    with readable_errors():
        answer = asyncio.run(send())
    worked = answer.startswith("2")
    out.print(f"{'[green]✓[/]' if worked else '[red]✗[/]'} the receiver answered {escape(answer)}", soft_wrap=True)
    if not worked:
        raise typer.Exit(1)
