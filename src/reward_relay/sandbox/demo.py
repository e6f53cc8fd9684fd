"""`reward-relay demo`: the whole relay against the sandbox, watched live, counted at the far side."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from reward_relay import processes
from reward_relay.db.embedded import Embedded
from reward_relay.migrating import migrated
from reward_relay.sandbox.script import CONFIGURATION, KEY, Reward, rewards
from reward_relay.terminal import COLOURS

console = Console()
WAY = ["received", "placed", "settled", "closed"]
COUNTED = ("sent", "orders", "closings")
READY_S, PATIENCE_S = 60.0, 90.0


@dataclass(slots=True)
class Seen:
    """What the demo knows of one reward: the relay's answers, and its order as last seen."""

    reward: Reward
    answers: list[Mapping[str, Any]] = field(default_factory=list)
    order: Mapping[str, Any] = field(default_factory=dict)


def run(*, stay: bool) -> int:
    """Run the demo; 0 only if every order reached the end it should."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        server = Embedded(folder / "postgres")
        with console.status("Starting PostgreSQL, the relay and the sandbox …"):
            url = server.start()
            stack.callback(server.stop)
            asyncio.run(migrated(url))
            relay, sandbox, family = _start(folder, url)
            stack.callback(family.stop)
            asyncio.run(_ready(relay, sandbox))
        seen = asyncio.run(_play(relay, sandbox))
        good = _report(seen, asyncio.run(_counted(sandbox)))
        if stay:
            _look_round(relay, sandbox)
            family.run()
        return 0 if good else 1


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="reward-relay-demo-"))
    folder.chmod(0o711)  # ours: PostgreSQL's own user must pass when the demo runs as root
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, url: str) -> tuple[str, str, processes.Family]:
    """Sandbox, API and worker as processes on free ports; returns the two addresses."""
    relay, sandbox = processes.bind("127.0.0.1", 0), processes.bind("127.0.0.1", 0)
    addresses = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (relay, sandbox)]
    configuration = folder / "relay.toml"
    configuration.write_text(CONFIGURATION.format(relay=addresses[0], sandbox=addresses[1]))
    environment = {"RELAY_CONFIG": str(configuration), "RELAY_DATABASE_URL": url, "RELAY_LOG_LEVEL": "error"}
    family = processes.Family(environment, folder)
    family.start(["sandbox", "--fd", str(sandbox.fileno())], files=[sandbox.fileno()])
    family.start(["serve", "--fd", str(relay.fileno())], files=[relay.fileno()])
    family.start(["work"])
    return addresses[0], addresses[1], family


async def _ready(relay: str, sandbox: str) -> None:
    deadline = asyncio.get_running_loop().time() + READY_S
    async with httpx.AsyncClient(timeout=READY_S) as client:
        for address in (f"{sandbox}/sandbox/state", f"{relay}/readyz"):
            while (await client.get(address)).status_code != 200:
                if asyncio.get_running_loop().time() > deadline:
                    raise SystemExit(f"{address} did not get ready within {READY_S:.0f} s")
                await asyncio.sleep(0.2)


async def _play(relay: str, sandbox: str) -> list[Seen]:
    """Send every reward, and watch until each has ended."""
    seen = [Seen(reward) for reward in rewards()]
    async with httpx.AsyncClient(timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as client:
        with Live(_table(seen), console=console, refresh_per_second=8) as live:

            def show() -> None:
                live.update(_table(seen))

            await asyncio.gather(*(_send(client, relay, sandbox, each) for each in seen))
            show()
            await _watch(client, relay, seen, show)
    return seen


async def _send(client: httpx.AsyncClient, relay: str, sandbox: str, each: Seen) -> None:
    """One reward as its platform sends it; some more than once, as platforms do."""
    reward = each.reward
    if reward.open_redemption is not None:
        await client.post(f"{sandbox}/sandbox/redemptions", json=reward.open_redemption)
    if reward.webhook is None:
        return
    address = reward.webhook.url(f"{relay}/webhooks/{reward.source}")
    for _ in range(1 + reward.repeats):
        answer = await client.post(address, content=reward.webhook.body, headers=reward.webhook.headers)
        each.answers.append({"status": answer.status_code, **answer.json()})


async def _watch(client: httpx.AsyncClient, relay: str, seen: list[Seen], show: Callable[[], None]) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while asyncio.get_running_loop().time() < deadline:
        page = (await client.get(f"{relay}/api/v1/orders", params={"limit": 200})).json()
        orders = {(order["source"], order["external_id"]): order for order in page["items"]}
        for each in seen:
            each.order = orders.get((each.reward.source, each.reward.external_id), {})
        show()
        if all(each.order.get("state") in ("closed", "on_hold") for each in seen if each.reward.outcome):
            return
        await asyncio.sleep(0.2)


def _plain_table(title: str) -> Table:
    return Table(title=title, header_style="bold", box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))


def _table(seen: list[Seen]) -> Table:
    """The live picture: one line a reward."""
    table = _plain_table("Rewards on their way")
    for name, width in (("platform", 10), ("reward", 27), ("webhook", 17), ("order", 13)):
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("now", no_wrap=True, overflow="ellipsis", max_width=max(12, console.width - 75))
    for each in seen:
        table.add_row(each.reward.source, each.reward.title, _verdicts(each), _way(each.order), escape(_now(each)))
    return table


def _way(order: Mapping[str, Any]) -> str:
    """A dot for each state gone through, and the present one's name."""
    state = order.get("state")
    if state is None:
        return ""
    dots = WAY.index(state) + 1 if state in WAY else 1
    return f"[{COLOURS[state]}]{'●' * dots}{'○' * (len(WAY) - dots)} {state}[/]"


def _now(each: Seen) -> str:
    order = each.order
    if not order and each.answers:
        return str(each.answers[0].get("reason") or each.answers[0].get("detail") or "")
    return str(
        order.get("hold_reason") or order.get("last_error") or order.get("outcome") or order.get("next_step") or ""
    )


def _verdicts(each: Seen) -> str:
    """The relay's first answer, and how many copies it took for one."""
    if not each.answers:
        return "none: polled" if each.order else ""
    copies = len(each.answers) - 1
    return f"{_first_word(each)}" + (f" +{copies} dup." if copies else "")


async def _counted(sandbox: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=30) as client:
        found: dict[str, Any] = (await client.get(f"{sandbox}/sandbox/state")).json()
        return found


def _report(seen: list[Seen], state: Mapping[str, Any]) -> bool:
    """The last table, counted at the vendor and at the platforms; whether all is as it should be."""
    table = Table(
        title="Counted at the far side",
        header_style="bold",
        box=SIMPLE_HEAD,
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    widths = (("", 1), ("platform", 10), ("reward", 27), ("sent", 4), ("orders", 6), ("closings", 8), ("end", 13))
    for name, width in widths:
        table.add_column(name, no_wrap=True, min_width=width, justify="right" if name in COUNTED else "left")
    good = True
    for each in seen:
        reward, order = each.reward, each.order
        placed = state["counts"]["orders"].get(order.get("po_number"), 0)
        closed = state["counts"]["closings"].get(reward.source, {}).get(reward.closing_key, 0)
        expected = (1, 1) if reward.outcome else (0, 0)
        end = order.get("outcome") or (
            each.answers[0].get("verdict") or each.answers[0]["status"] if each.answers else ""
        )
        right = (placed, closed) == expected and end == (reward.outcome or reward.verdict)
        good = good and right
        mark = "[green]✓[/]" if right else "[red]✗[/]"
        cells = (reward.source, reward.title, str(len(each.answers)), str(placed), str(closed), str(end))
        table.add_row(mark, *cells)
    console.print()
    console.print(table)
    for each in seen:
        if trouble := each.order.get("hold_reason") or (
            each.order.get("state") != "closed" and each.order.get("last_error")
        ):
            console.print(f"[red]✗[/] {each.reward.title}: {escape(str(trouble))}", soft_wrap=True)
    console.print("[green]Every reward reached the end it should.[/]" if good else "[red]Something went wrong.[/]")
    return good


def _first_word(each: Seen) -> Any:
    """The relay's first answer: its verdict, or the status of an error."""
    first = each.answers[0] if each.answers else {}
    return first.get("verdict") or first.get("status") or ""


def _look_round(relay: str, sandbox: str) -> None:
    lines = [
        f"Console    {relay}",
        f"API        {relay}/docs",
        f"Key        {KEY}",
        f"Orders     curl -H 'Authorization: Bearer {KEY}' {relay}/api/v1/orders",
        f"Sandbox    {sandbox}/docs",
        "Ctrl-C ends it; everything of the demo is forgotten then.",
    ]
    console.print(Panel("\n".join(lines), title="Have a look round", expand=False), soft_wrap=True)
