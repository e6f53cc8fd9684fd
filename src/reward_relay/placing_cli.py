"""`placing`: stop placing orders at once, let it go on, see how it stands."""

from typing import Annotated

import typer
from rich.markup import escape

from reward_relay.db.queries import Row
from reward_relay.orders_cli import Note, actor, ask
from reward_relay.placing import words
from reward_relay.terminal import AsJson, clock, out, print_json

placing = typer.Typer(help="Stop placing orders, and let it go on.", no_args_is_help=True)
Why = Annotated[str, typer.Option("--note", help="Why; everybody sees it.")]


@placing.command()
def pause(note: Why = "", as_json: AsJson = False) -> None:
    """Place nothing from now on, in every process. Orders are still taken, checked and closed.

    Example: `reward-relay placing pause --note "values look wrong"`
    """
    _show(ask(lambda ops: ops.placing.pause(actor(), note)), as_json=as_json)


@placing.command()
def resume(note: Note = "", as_json: AsJson = False) -> None:
    """Let placing go on.

    Example: `reward-relay placing resume --note "route mended"`
    """
    _show(ask(lambda ops: ops.placing.resume(actor(), note)), as_json=as_json)


@placing.command()
def status(as_json: AsJson = False) -> None:
    """Whether orders are placed; if not, who stopped it and how many wait.

    Example: `reward-relay placing status`
    """
    _show(ask(lambda ops: ops.placing.status()), as_json=as_json)


def _show(found: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    since = f" since {clock(found['since'])}" if found["since"] else ""
    told = f"[red]{escape(words(found))}[/]{since}" if found["paused"] else "[green]✓[/] placing is on"
    out.print(f"{told}; {found['waiting']} orders wait to be placed", soft_wrap=True, highlight=False)
