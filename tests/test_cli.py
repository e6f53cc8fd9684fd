"""The command line in this process: explain, config check, orders, deliveries, and the help of every command."""

import json
import re
import shlex
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import structlog
import typer
from typer.testing import CliRunner, Result

from reward_relay import __version__
from reward_relay.cli import app
from reward_relay.sandbox import senders
from reward_relay.wiring import Relay
from support.relays import CONFIGURATION, TALKABLE_KEY, client_of, relay_of, settings
from support.steered import TALKABLE_ID, accepted, roster, talkable, unreachable

Command = Callable[..., Result]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No configuration of this machine is found, and the logging of other tests is left alone."""
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs a command with the configuration of `support.relays`."""
    path = tmp_path / "relay.toml"
    path.write_text(CONFIGURATION)

    def run(*arguments: str, given: bytes | None = None, **environment: str) -> Result:
        env = {"RELAY_CONFIG": str(path), "COLUMNS": "200", **environment}
        return CliRunner().invoke(app, list(arguments), input=given, env=env)

    return run


def flat(text: str) -> str:
    """Text as one line, however wide the terminal was."""
    return " ".join(text.split())


# --- help ------------------------------------------------------------------------------------------------


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that lead to it."""
    for name, each in getattr(group, "commands", {}).items():
        if getattr(each, "commands", None):
            yield from commands(each, (*path, name))
        else:
            yield (*path, name), each


COMMANDS = dict(commands(typer.main.get_command(app)))


def test_the_promised_commands_are_there() -> None:
    promised = {"up", "serve", "work", "migrate", "demo", "sandbox", "explain", "replay", "config check"}
    promised |= {f"orders {each}" for each in ("list", "show", "retry", "hold", "release", "refuse", "close")}
    assert promised <= {" ".join(path) for path in COMMANDS}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_has_an_example_with_options_that_exist(command: Command, path: tuple[str, ...]) -> None:
    found = command(*path, "--help")
    assert found.exit_code == 0
    assert "Example:" in found.output
    example = re.search(r"Example: `(?:RELAY_\S+ )*reward-relay ([^`]*)`", COMMANDS[path].help or "")
    assert example is not None
    words = shlex.split(example[1])
    assert tuple(words[: len(path)]) == path
    known = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_version_and_no_command(command: Command) -> None:
    assert command("--version").output.strip() == __version__
    assert "Usage" in command().output


# --- config check ----------------------------------------------------------------------------------------

MISTAKES = """
lease_s = 10
call_deadline_s = 20
log_levle = "info"
[api_keys.alice]
role = "boss"
key = "short"
[sources.talkable]
platform = "talkabel"
secrets = ["changeme"]
[sources.Roster]
platform = "roster"
[vendors.gcp]
kind = "giftcard_partners"
base_url = "ftp://example.com"
access_token = "a-secret-token-1"
[[routes]]
name = "cards"
vendor = "gpc"
sources = ["talkable", "nobody"]
"""


def test_config_check_counts_what_is_configured(command: Command) -> None:
    found = command("config", "check")
    assert found.exit_code == 0
    assert "4 sources, 1 vendor, 2 routes: no mistakes" in flat(found.output)


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        ('database_url = "mysql://db/relay"\n', "database_url: mysql is not PostgreSQL"),
        ("", 'route "parcels": PhysicalShipment needs vendors.gcp.shipping_method_id'),
    ],
)
def test_config_check_tries_the_database_address_and_each_route(
    command: Command, tmp_path: Path, change: str, told_of: str
) -> None:
    path = tmp_path / "tried.toml"
    parcels = '[[routes]]\nname = "parcels"\nvendor = "gcp"\nproduct = "MUG"\ndelivery = "PhysicalShipment"\n'
    vendor = '[vendors.gcp]\nkind = "giftcard_partners"\nbase_url = "http://far.test"\nemail = "a@example.com"\n'
    path.write_text(change + vendor + 'access_token = "access-token"\n' + parcels)
    found = command("config", "check", str(path))
    assert told_of in flat(found.output)


def test_config_check_names_every_mistake_with_key_and_cause(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(MISTAKES)
    found = command("config", "check", str(path))
    told = flat(found.stderr)
    assert (found.exit_code, found.stdout) == (2, "")
    for mistake in (
        "lease_s: 10 must be longer than a call",
        'log_levle: no such setting; did you mean "log_level"?',
        "api_keys.alice.role: ",
        "api_keys.alice.key: has 5 characters, at least 16 are needed",
        "sources.talkable.platform: 'talkabel' is not one of",
        "sources.talkable.secrets.0: is a well-known default",
        "sources.Roster: a name is lower-case letters",
        "sources.Roster.secrets: needs at least one secret",
        "vendors.gcp.base_url: must be an http:// or https:// address",
        "vendors.gcp.email: is missing",
        'routes.0.vendor: there is no [vendors.gpc]; did you mean "gcp"?',
        "routes.0.sources: there is no [sources.nobody]",
    ):
        assert f"wrong.toml: {mistake}" in told
    assert "a-secret-token-1" not in found.output
    assert "Traceback" not in found.output


def test_config_check_warns_of_what_can_never_match_or_be_reached(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    late = '[[routes]]\nname = "late"\nvendor = "gcp"\nproduct = "X"\n[routes.when]\n"payload.paid" = "true"\n'
    path.write_text(CONFIGURATION + late)
    found = command("config", "check", str(path))
    assert found.exit_code == 0
    assert 'route "late" is never reached: "gift cards" above it takes every reward' in flat(found.output)
    assert 'route "late": when."payload.paid" = "true" in quotes only matches a text' in flat(found.output)


async def test_config_diff_shows_what_would_have_gone_otherwise(command: Command, relay: Relay, tmp_path: Path) -> None:
    async with client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
    new = tmp_path / "new.toml"
    new.write_text(CONFIGURATION.replace("value = 20", "value = 12.50"))
    found = await told(command, relay, "config", "diff", str(new))
    assert (found.exit_code, found.stderr) == (0, "")
    order = await relay.ops.order(order_id)
    for words in (
        'route "gift cards" has another value',
        "1 of 1 rewards of the last 7 days would have gone otherwise",
        '1 × another value (route "gift cards")',
        "worth 20.00 → 12.50 together",
        "gcp: CVS, 20.00, DigitalDelivery → gcp: CVS, 12.50, DigitalDelivery",
        order["po_number"],
        "On hold now: 0; a release would free 0 of them",
        "Orders that are placed keep the plan they were given.",
    ):
        assert words in flat(found.stdout)
    assert (await read(command, relay, "config", "diff", str(new)))["changed"] == 1
    new.write_text("port = = 1")
    wrong = await told(command, relay, "config", "diff", str(new))
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "the new configuration: not valid TOML: line 1" in flat(wrong.stderr)


def test_config_check_names_the_variable_that_is_wrong(command: Command) -> None:
    found = command("config", "check", RELAY_PORT="http", RELAY_LOG_LEVLE="info")
    assert found.exit_code == 2
    assert "RELAY_PORT (port): " in flat(found.stderr)
    assert "RELAY_LOG_LEVLE: no such setting" in flat(found.stderr)


def test_config_check_of_a_file_that_is_not_there_or_is_no_toml(command: Command, tmp_path: Path) -> None:
    assert "there is no such file" in flat(command("config", "check", "nowhere.toml").stderr)
    (tmp_path / "broken.toml").write_text("port = = 1")
    found = command("config", "check", "broken.toml")
    assert found.exit_code == 2
    assert "not valid TOML" in flat(found.stderr)
    assert "line 1" in flat(found.stderr)


# --- explain ---------------------------------------------------------------------------------------------


def test_explain_shows_what_a_file_would_become(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "payload.json"
    path.write_text(json.dumps(senders.sample("talkable_referrer")))
    found = command("explain", "--source", "talkable", str(path))
    assert found.exit_code == 0
    sentence = 'This reward would go to vendor gcp as CVS, 20.00, by e-mail (route "gift cards").'
    assert found.output.splitlines()[0] == sentence
    assert "http://far.test/gcp/v1/Orders" in found.output
    assert "gcp-access-token" not in found.output


def test_explain_reads_a_recorded_form_from_standard_input_and_answers_scripts(command: Command) -> None:
    found = command("explain", "--source", "talkable", "--json", "-", given=talkable().body)
    told = json.loads(found.stdout)
    assert (told["verdict"], told["external_id"], told["next_step"]) == ("accepted", TALKABLE_ID, "place")
    assert told["vendor_request"]["json"]["LineItems"][0]["ProductId"] == "CVS"
    assert TALKABLE_KEY not in found.output


def test_explain_says_why_a_reward_would_be_held(command: Command) -> None:
    payload = senders.sample("voucherify_customer_rewarded")
    payload["redemption"]["reward"]["product"]["source_id"] = "unknown-sku"
    found = command("explain", "--source", "voucherify", "-", given=json.dumps(payload).encode())
    assert 'would be held: route "bottles" has no vendor product for SKU unknown-sku' in flat(found.output)


def test_explain_of_an_unknown_source_or_file_is_a_sentence(command: Command) -> None:
    for arguments in (("--source", "nope", "-"), ("--source", "talkable", "nowhere.json")):
        found = command("explain", *arguments, given=b"{}")
        assert found.exit_code == 2
        assert found.stderr.startswith("✗")
        assert "Traceback" not in found.output


# --- orders and deliveries -------------------------------------------------------------------------------


@pytest.fixture
async def relay(database_url: str, tmp_path: Path) -> AsyncIterator[Relay]:
    async with relay_of(settings(tmp_path), database_url, unreachable) as found:
        yield found


async def told(command: Command, relay: Relay, *arguments: str) -> Result:
    """The answer of a command over the relay's database; it runs its own event loop."""
    url = relay.database.address.set(drivername="postgresql").render_as_string(hide_password=False)
    return await anyio.to_thread.run_sync(lambda: command(*arguments, RELAY_DATABASE_URL=url))


async def read(command: Command, relay: Relay, *arguments: str) -> Any:
    found = await told(command, relay, *arguments, "--json")
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


async def test_orders_are_listed_found_and_shown(command: Command, relay: Relay) -> None:
    async with client_of(relay) as client:
        await accepted(client, "talkable", talkable())
        order_id = await accepted(client, "roster", roster("R-[bold]1"))
    page = await read(command, relay, "orders", "list", "--source", "talkable")
    assert [order["external_id"] for order in page["items"]] == [TALKABLE_ID]
    table = (await told(command, relay, "orders", "list", "-q", "ann")).stdout
    assert "R-[bold]1" in table
    assert TALKABLE_ID not in table
    shown = (await told(command, relay, "orders", "show", order_id)).stdout
    assert "accepted; route 'gift cards'" in shown
    assert (await read(command, relay, "orders", "show", order_id))["id"] == order_id
    assert "no such orders" in (await told(command, relay, "orders", "list", "--state", "closed")).stdout


async def test_every_action_has_the_user_as_its_actor(command: Command, relay: Relay) -> None:
    async with client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
    note = ("--note", "because")
    assert (await read(command, relay, "orders", "retry", order_id, *note))["state"] == "received"
    assert (await read(command, relay, "orders", "hold", order_id, *note))["state"] == "on_hold"
    assert (await read(command, relay, "orders", "release", order_id, *note))["state"] == "received"
    refused = await read(command, relay, "orders", "refuse", order_id, *note, "--message", "Out of stock")
    assert (refused["state"], refused["message"]) == ("settled", "Out of stock")
    closed = await read(command, relay, "orders", "close", order_id, *note)
    assert (closed["state"], closed["outcome"]) == ("closed", "refused")
    for event in closed["events"][1:]:
        assert event["actor"].startswith("cli:")
        assert "because" in event["reason"]


async def test_what_is_not_allowed_is_a_sentence_and_status_2(command: Command, relay: Relay) -> None:
    async with client_of(relay) as client:
        order_id = await accepted(client, "roster", roster())
    found = await told(command, relay, "orders", "release", order_id)
    assert (found.exit_code, "is not on hold" in flat(found.stderr)) == (2, True)
    found = await told(command, relay, "orders", "show", "nope")
    assert (found.exit_code, "there is no order 'nope'" in flat(found.stderr)) == (2, True)


async def test_deliveries_are_listed_shown_and_replayed(command: Command, relay: Relay) -> None:
    async with client_of(relay) as client:
        answer = await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
    delivery_id = answer.json()["delivery_id"]
    page = await read(command, relay, "deliveries", "list", "--verdict", "quarantined")
    assert [row["id"] for row in page["items"]] == [delivery_id]
    shown = json.loads((await told(command, relay, "deliveries", "show", delivery_id)).stdout)
    assert shown["body"] == "not JSON"
    for arguments in ((delivery_id,), ("--quarantined", "--source", "roster")):
        replayed = await told(command, relay, "replay", *arguments)
        assert f"{delivery_id} quarantined: the body is not JSON" in flat(replayed.stdout)
    assert "nothing to replay" in (await told(command, relay, "replay")).stdout


async def test_parties_are_listed_paused_and_resumed(command: Command, relay: Relay) -> None:
    assert (await told(command, relay, "parties", "pause", "vendor:gcp", "--note", "dispute")).exit_code == 0
    rows = {row["party"]: row for row in await read(command, relay, "parties", "list")}
    assert (rows["vendor:gcp"]["paused"], rows["source:roster"]["paused"]) == (True, False)
    assert "paused" in (await told(command, relay, "parties", "list")).stdout
    assert (await told(command, relay, "parties", "resume", "vendor:gcp")).exit_code == 0
    assert (await told(command, relay, "parties", "resume", "vendor:gcp")).exit_code == 2


def test_a_database_that_is_not_there_is_a_sentence(command: Command, tmp_path: Path) -> None:
    found = command("orders", "list", RELAY_DATABASE_URL=f"postgresql://postgres@/x?host={tmp_path}")
    assert found.exit_code == 2
    assert "PostgreSQL is not available" in flat(found.stderr)
    assert "Traceback" not in found.output
