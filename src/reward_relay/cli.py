"""The command line. Every command has an example in its `--help`."""

import asyncio
import secrets
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from reward_relay import (
    __version__,
    alerts_cli,
    bulk_cli,
    config_cli,
    deliveries_cli,
    ledger_cli,
    migrating,
    orders_cli,
    placing_cli,
    processes,
    purge_cli,
    reconcile_cli,
    spool_cli,
    tail_cli,
)
from reward_relay.db import migrate as migrations
from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError
from reward_relay.settings import Settings
from reward_relay.terminal import AsJson, readable_errors
from reward_relay.wiring import build, check_extras, load_settings

app = typer.Typer(
    name="reward-relay",
    help="Reward webhooks in, exactly one vendor order each, and the platform hears how it ended.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(config_cli.config, name="config")
app.add_typer(orders_cli.orders, name="orders")
app.add_typer(deliveries_cli.deliveries, name="deliveries")
app.add_typer(orders_cli.parties, name="parties")
app.add_typer(placing_cli.placing, name="placing")
app.add_typer(alerts_cli.alerts, name="alerts")
app.add_typer(spool_cli.spool, name="spool")
app.command("reconcile")(reconcile_cli.reconcile)
orders_cli.orders.add_typer(bulk_cli.bulk, name="bulk")
app.command()(tail_cli.tail)
app.command()(ledger_cli.verify)
app.command()(ledger_cli.evidence)
app.command()(purge_cli.purge)
app.command()(purge_cli.reseal)
out = Console()

Host = Annotated[str | None, typer.Option(help="Address to listen on; default: the configuration's.")]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)]
Lifeline = Annotated[int | None, typer.Option(hidden=True)]


def settings_with(host: str | None = None, port: int | None = None) -> Settings:
    """The configured settings, with what the command line says otherwise."""
    settings = load_settings()
    check_extras(settings)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update=changes)


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on; a taken port is a readable error."""
    try:
        return processes.bind(settings.host, settings.port, processes.PORT_PATIENCE_S)
    except OSError as error:
        raise ConfigurationError(
            [f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); give another --port or --host"]
        ) from None


@app.command()
def up(host: Host = None, port: Port = None) -> None:
    """API and worker on one machine, brought up and down together.

    Example: `RELAY_CONFIG=relay.toml reward-relay up --port 8080`
    """
    processes.end_quietly()
    with readable_errors():
        settings = settings_with(host, port)
        listener = listen(settings)
        address = f"http://{settings.host}:{listener.getsockname()[1]}"
        with processes.database(settings) as url:
            look = processes.keep_postgres(settings)
            if settings.database_url is not None:
                look = migrating.migrated_or_later(url)
            environment = {"RELAY_DATABASE_URL": url}
            if settings.public_url is None:
                environment["RELAY_PUBLIC_URL"] = address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            if not settings.api_keys:
                key = secrets.token_urlsafe(24)
                environment |= {"RELAY_API_KEYS__LOCAL__KEY": key, "RELAY_API_KEYS__LOCAL__ROLE": "operator"}
                login = f"with the key [bold]{key}[/] (new at each start; [api_keys] makes lasting ones)"
            else:
                login = f"with a key of: {', '.join(settings.api_keys)}"
            family = processes.Family(environment)
            family.start(["serve", "--fd", str(listener.fileno())], files=[listener.fileno()])
            family.start(["work"])
            _announce(settings, address, login)
            code = family.run(look)
    raise typer.Exit(code)


def _announce(settings: Settings, address: str, login: str) -> None:
    sources = "\n".join(f"  POST {address}/webhooks/{name}" for name in settings.sources) or "  (no [sources] yet)"
    lines = [f"Console    {address}", f"Log in     {login}", f"API        {address}/docs", "Webhooks", sources]
    if settings.public_url is None:
        lines.append("[yellow]public_url is not set: vendors outside this machine cannot call back; polling works[/]")
    if not settings.routes:
        lines.append("[yellow]there are no [[routes]]: every reward will be held until there is one[/]")
    out.print(Panel("\n".join(lines).replace("[api_keys]", r"\[api_keys]"), title="Reward Relay is up", expand=False))


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="API processes that share the port.")] = 1,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    lifeline: Lifeline = None,
) -> None:
    """The API alone.

    Example: `reward-relay serve --host 0.0.0.0 --port 8080 --workers 2`
    """
    processes.end_quietly()
    with readable_errors():
        settings = settings_with(host, port)
        listener = socket.socket(fileno=fd) if fd is not None else listen(settings)
        with processes.database(settings) as url:
            if workers == 1:
                processes.serve_relay(settings, url, listener, lifeline=lifeline)
                return
            family = processes.Family({"RELAY_DATABASE_URL": url})
            for _ in range(workers):
                family.start(["serve", "--fd", str(listener.fileno())], files=[listener.fileno()])
            code = family.run(processes.keep_postgres(settings))
    raise typer.Exit(code)


@app.command()
def work(
    processes_: Annotated[int, typer.Option("--processes", min=1, max=64, help="Worker processes.")] = 1,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve /metrics of these workers here; 0 takes a free port.", min=0, max=65535)
    ] = None,
    metrics_host: Annotated[str, typer.Option(help="Address for --metrics-port.")] = "127.0.0.1",
    share: Annotated[int, typer.Option(hidden=True)] = 1,
    lifeline: Lifeline = None,
) -> None:
    """The worker alone: places, checks and closes orders. Any number may run, on any number of machines.

    Example: `reward-relay work --processes 2 --metrics-port 9101`
    """
    processes.end_quietly()
    with readable_errors():
        settings = settings_with()
        with processes.database(settings) as url:
            if processes_ == 1:
                with processes.metrics_page(settings, metrics_host, metrics_port):
                    processes.work_relay(settings, url, processes=share, lifeline=lifeline)
                return
            family = processes.Family({"RELAY_DATABASE_URL": url})
            with processes.metrics_page(settings, metrics_host, metrics_port, family.counts):
                for _ in range(processes_):
                    family.start(["work", "--share", str(processes_)])
                code = family.run(processes.keep_postgres(settings))
    raise typer.Exit(code)


@app.command("processes")
def list_processes(as_json: AsJson = False) -> None:
    """Which API and worker processes run, since when, and with which routes.

    Example: `reward-relay processes`
    """
    orders_cli.show_processes(as_json=as_json)


@app.command()
def migrate(
    to: Annotated[str, typer.Option(help="Revision to go to; `base` removes every table.")] = "head",
    new: Annotated[str | None, typer.Option(help="Write a migration with this message (for developers).")] = None,
    grant: Annotated[
        str | None, typer.Option(help="Then give this role what a running relay needs: it cannot rewrite events.")
    ] = None,
) -> None:
    """Bring the database's tables to this version.

    Example: `RELAY_DATABASE_URL=postgresql://owner@db/relay reward-relay migrate --grant relay`
    """

    async def run(url: str) -> None:
        database = Database(url, pool_size=1, timeout_s=None)
        try:
            await (migrations.new_revision(database, new) if new else migrations.migrate(database, to))
            if grant:
                await migrations.grant(database, grant)
        finally:
            await database.close()

    with readable_errors(), processes.database(load_settings()) as url:
        asyncio.run(run(url))
        out.print(f"[green]✓[/] the database is at {escape(to)}")


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8090,
    fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    lifeline: Lifeline = None,
) -> None:
    """The simulated vendor and platforms, to try routes before there are credentials.

    Example: `reward-relay sandbox --port 8090`, then point `base_url` and `api_url` at it (see its README).
    """
    processes.end_quietly()
    from reward_relay.sandbox.app import create_app

    with readable_errors():
        listener = socket.socket(fileno=fd) if fd is not None else listen(Settings(host=host, port=port))
        if fd is None:
            address = f"http://{host}:{listener.getsockname()[1]}"
            out.print(Panel(f"Vendor     {address}/gcp\nSwitches   {address}/docs", title="Sandbox", expand=False))
        processes.serve_app(create_app(), listener, lifeline=lifeline)


@app.command()
def demo(
    leave: Annotated[bool, typer.Option("--exit", help="End by itself: 0 if every order ended as it should.")] = False,
) -> None:
    """The whole relay on this machine: every platform's reward from webhook to closing call, watched live.

    Example: `reward-relay demo --exit`
    """
    processes.end_quietly()
    from reward_relay.sandbox.demo import run

    with readable_errors():
        raise typer.Exit(run(stay=not leave))


@app.command()
def explain(
    payload: Annotated[Path, typer.Argument(help="A file with the webhook's body; `-` reads standard input.")],
    source: Annotated[str, typer.Option(help="A name of [sources].")],
    as_json: AsJson = False,
) -> None:
    """What would become of a payload: route, vendor request, closing call. Nothing is stored or sent.

    Example: `reward-relay explain --source talkable payload.json`
    """
    with readable_errors():
        try:
            body = sys.stdin.buffer.read() if str(payload) == "-" else payload.read_bytes()
        except OSError as error:
            raise ConfigurationError([f"{payload}: cannot be read ({error.strerror})"]) from None
        # Explaining touches no database; nothing is ever sent to this address.
        ops = build(load_settings(), "postgresql://localhost/none").ops
        orders_cli.show_explained(ops.explain(source, body, ""), as_json=as_json)


@app.command()
def replay(
    delivery: Annotated[list[str] | None, typer.Argument(help="Ids of deliveries.")] = None,
    quarantined: Annotated[bool, typer.Option(help="All quarantined ones instead.")] = False,
    source: Annotated[str | None, typer.Option(help="With --quarantined: only of this source.")] = None,
    note: orders_cli.Note = "",
    as_json: AsJson = False,
) -> None:
    """Take deliveries once more, after a fix of configuration or adapter.

    Example: `reward-relay replay --quarantined --source roster`
    """
    deliveries_cli.replay(delivery or [], note, quarantined=quarantined, source=source, as_json=as_json)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Reward Relay."""
    if version:
        out.print(__version__)
        raise typer.Exit
