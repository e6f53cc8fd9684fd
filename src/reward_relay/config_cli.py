"""The command line's look at the configuration: is it right, and what would another one change?"""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from reward_relay import processes
from reward_relay.cautions import cautions
from reward_relay.db.engine import database_address
from reward_relay.db.queries import Row
from reward_relay.errors import ConfigurationError
from reward_relay.sealing import new_key
from reward_relay.terminal import readable_errors
from reward_relay.wiring import build, check_extras, configured

config = typer.Typer(help="Check the configuration, and see what another one would change.", no_args_is_help=True)
out = Console()
DIFF_LIMIT = 50_000


@config.command("check")
def check(file: Annotated[Path | None, typer.Argument(help="Default: RELAY_CONFIG, or relay.toml.")] = None) -> None:
    """Every mistake in the configuration, each as one line.

    Example: `reward-relay config check relay.toml`
    """
    with readable_errors():
        source = configured(file)
        settings = source.load()
        check_extras(settings)
        relay = build(settings, "postgresql://localhost/none", source=source)
        if settings.database_url is not None:
            database_address(settings.database_url.get_secret_value())
        if not (settings.sources or settings.vendors or settings.routes):
            raise ConfigurationError(["nothing is configured, and there is no relay.toml here; set RELAY_CONFIG"])
        counted = (("source", settings.sources), ("vendor", settings.vendors), ("route", settings.routes))
        numbers = (f"{len(found)} {name}{'' if len(found) == 1 else 's'}" for name, found in counted)
        out.print(f"[green]✓[/] {', '.join(numbers)}: no mistakes")
        out.print(f"  routes {relay.reloading.digest}: a relay that uses them says so in its summary", highlight=False)
        for trouble in relay.reloading.summary()["warnings"]:
            _warn(trouble)
        for caution in cautions(settings, source.path):
            _warn(caution)
        if settings.public_url is None:
            _warn("public_url is not set: vendors outside this machine cannot call back")
        if not settings.api_keys:
            _warn("there are no [api_keys]: the ops API stays closed under serve")
        if not settings.routes:
            _warn("there are no [[routes]]: every reward will be held")
        if settings.routes and not list(relay.reloading.guards.all()):
            _warn("there are no caps: nothing holds an order with a wrong value; [caps] order_value = … does")
        if settings.second_person_above is not None and len(set(relay.reloading.guards.persons.values())) < 2:
            _warn("second_person_above is set, and fewer than two persons have an operator's key: nobody can agree")
        if settings.alerts.url is None:
            _warn("[alerts] has no url: nobody is told what goes wrong")


@config.command("new-key")
def new_key_() -> None:
    """A new key for encryption_keys, and nothing else on standard output.

    Example: `reward-relay config new-key`
    """
    typer.echo(new_key())
    typer.echo(
        "put it in front of encryption_keys (RELAY_ENCRYPTION_KEYS=new,old), and keep a copy elsewhere", err=True
    )


@config.command("diff")
def diff(
    new: Annotated[Path, typer.Argument(help="The changed copy of the configuration, or its [[routes]] alone.")],
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How far back to look.")] = 7,
    limit: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Deliveries at most, the newest first.")
    ] = DIFF_LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """What another configuration would have done with the rewards of the last days. Nothing is changed or sent.

    Example: `reward-relay config diff relay.new.toml --days 7`
    """
    with readable_errors():
        try:
            text = new.read_bytes().decode("utf-8-sig", "replace")
        except OSError as error:
            raise ConfigurationError([f"{new}: cannot be read ({error.strerror})"]) from None
        source = configured()
        settings = source.load()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

        async def run(url: str) -> Row:
            relay = build(settings, url, source=source, pool_size=2)
            try:
                return await relay.diffing.diff(text, days=days, limit=limit)
            finally:
                await relay.close()

        with processes.database(settings) as url:
            found = asyncio.run(run(url))
    if as_json:
        typer.echo(json.dumps(found, indent=2, default=str, ensure_ascii=False))
    else:
        _show(found, days)


def _warn(text: str) -> None:
    out.print(f"[yellow]![/] {escape(text)}", soft_wrap=True, highlight=False)


def _show(found: Row, days: float) -> None:
    for sentence in found["routes"]:
        out.print(f"  {escape(sentence)}", highlight=False)
    for sentence in found["warnings"]:
        _warn(sentence)
    looked, changed = found["looked_at"], found["changed"]
    out.print(
        f"[bold]{changed} of {looked}[/] rewards of the last {days:g} days would have gone otherwise", highlight=False
    )
    if found["cut"]:
        why = "--limit" if found["cut"] == "limit" else "the time"
        _warn(f"cut by {why}: older than {found['oldest']:%Y-%m-%d %H:%M} was not looked at")
    if found["sealed"]:
        _warn(f"{found['sealed']} could not be read again: the keys that sealed them are not in encryption_keys")
    if found["purged"]:
        _warn(f"{found['purged']} could not be read again: their contents have been removed (retention_days)")
    for group in found["groups"]:
        _show_group(group)
    for cap in found["caps"]:
        over = f"; orders would have been held on {cap['days_over']} days" if cap["days_over"] else ""
        most = f"most used on {cap['day']}: {cap['most']:,.10g} of {cap['limit']:,.10g}{over}"
        out.print(f"\n[bold]{escape(cap['cap'])}[/] {most}", highlight=False, soft_wrap=True)
    held = found["on_hold"]
    out.print(
        f"\n[bold]On hold now:[/] {held['looked_at']}; a release would free {held['freed']} of them that it does not "
        f"free today" + (f", and no longer {held['no_longer_freed']}" if held["no_longer_freed"] else ""),
        highlight=False,
        soft_wrap=True,
    )
    _show_examples(held["examples"])
    out.print(f"[dim]{found['note']}[/]", soft_wrap=True)


def _show_group(group: Row) -> None:
    one, other = (f'"{name}"' if name else "no route" for name in (group["route_before"], group["route_after"]))
    route = f"route {one}" if one == other else f"{one} → {other}"
    out.print(f"\n[bold]{group['count']} × {group['title']}[/] ({escape(route)})", highlight=False, soft_wrap=True)
    if group["sum_before"] != group["sum_after"]:
        out.print(f"  worth {_money(group['sum_before'])} → {_money(group['sum_after'])} together", highlight=False)
    _show_examples(group["examples"])


def _money(amount: Any) -> str:
    return "unknown" if amount is None else f"{amount:.2f}"


def _show_examples(examples: list[Row]) -> None:
    if not examples:
        return
    table = Table(box=None, header_style="dim", padding=(0, 1))
    for name in ("which", "source", "when", "before → after"):
        table.add_column(name, overflow="fold")
    for each in examples:
        which = each["po_number"] or each["external_id"] or "not understood"
        when = each["at"].astimezone().strftime("%m-%d %H:%M")
        table.add_row(which, each["source"], when, escape(f"{each['before']} → {each['after']}"))
    out.print(table)
