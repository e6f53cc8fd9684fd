"""What the commands of the command line share."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from reward_relay.errors import ConfigurationError, RelayError


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
