"""What the commands of the command line share."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reward_relay.errors import ConfigurationError, RelayError

PIPE_WIDTH = 200
COLOURS = {"received": "cyan", "placed": "blue", "settled": "magenta", "closed": "green", "on_hold": "yellow"}
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


@contextmanager
def readable_errors() -> Iterator[None]:
    """Our own errors as a sentence each and status 2, without a traceback."""
    try:
        yield
    except RelayError as error:
        problems = error.problems if isinstance(error, ConfigurationError) else [str(error)]
        for problem in problems:
            Console(stderr=True).print(f"[red]✗[/] {escape(problem)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def print_json(found: Any, *, lines: bool = False) -> None:
    """For scripts: one value, or one of many as a line of its own."""
    typer.echo(json.dumps(found, indent=None if lines else 2, default=str, ensure_ascii=False))


def state(name: str) -> str:
    """An order's state in its colour."""
    return f"[{COLOURS.get(name, 'white')}]{name}[/]"


def listing(columns: Sequence[tuple[str, int, int]], last: str, rows: Iterable[Sequence[str]]) -> Table:
    """One line a row. A column is its name, its most characters, and how wide the screen must be to have it at all.

    `last` takes what is left, so that a long sentence there costs no key its end.
    """
    shown = [number for number, (_, _, least) in enumerate(columns) if out.width >= least]
    table = Table(box=None, header_style="bold", expand=True)
    for name, most, _ in (columns[number] for number in shown):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=most)
    table.add_column(last, no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        table.add_row(*(row[number] for number in shown), row[-1])
    return table


def clock(value: Any) -> str:
    """A time as the clock on the wall shows it; nothing for None."""
    return value.astimezone().strftime("%m-%d %H:%M:%S") if value is not None else ""
