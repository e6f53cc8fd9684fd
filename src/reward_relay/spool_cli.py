"""The command line's look at this machine's spool, and a way to empty one that no process empties."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from reward_relay import processes
from reward_relay.errors import ConfigurationError, SpoolUnusable
from reward_relay.shelter import Shelter
from reward_relay.terminal import AsJson, out, print_json, readable_errors
from reward_relay.wiring import build, load_settings, spool_of

spool = typer.Typer(help="Webhooks that this machine keeps while PostgreSQL is away.", no_args_is_help=True)
OFF = "spool_mb is 0: this machine keeps no webhooks"


@spool.command("list")
def list_files(as_json: AsJson = False) -> None:
    """The spool files of this machine, also those of other databases and damaged ones.

    Example: `reward-relay spool list`
    """

    with readable_errors():
        settings = load_settings()
        with processes.database(settings) as url:
            relay = build(settings, url)
            found = spool_of(settings, relay.database)
            if found is None:
                raise ConfigurationError([OFF])
            files = {found.path.name: found.waiting(1_000_000)} if found.path.exists() else {}
            files |= found.others()
            found.close()
            asyncio.run(relay.close())
    if as_json:
        print_json({"folder": str(found.path.parent), "own": found.path.name, "files": files})
        return
    for name, number in files.items():
        own = "" if name != found.path.name else "  of the configured database"
        out.print(f"{escape(name)}  {number:,} deliveries{own}", highlight=False, soft_wrap=True)
    out.print(f"[dim]in {escape(str(found.path.parent))}[/]" if files else "no spool on this machine", soft_wrap=True)


@spool.command()
def drain(
    file: Annotated[
        str | None, typer.Argument(help="A name of `spool list`; default: the configured database's.")
    ] = None,
) -> None:
    """Take what a spool holds into the configured database: after a move to another one, or without `serve`.

    Example: `reward-relay spool drain spool-0f3a9c1e.sqlite3`
    """

    async def run(url: str) -> int:
        relay = build(settings, url)
        try:
            chosen = spool_of(settings, relay.database, Path(file).name if file else None)
            if chosen is None:
                raise ConfigurationError([OFF])
            if not chosen.path.exists():
                raise ConfigurationError([f"there is no spool {chosen.path}; see: reward-relay spool list"])
            return await Shelter(relay.database, chosen).empty(relay.intake.take_spooled)
        except SpoolUnusable as error:
            raise ConfigurationError([str(error)]) from None
        finally:
            await relay.close()

    with readable_errors():
        settings = load_settings()
        with processes.database(settings) as url:
            number = asyncio.run(run(url))
    out.print(f"[green]✓[/] {number:,} deliveries are in the database now, each once")
