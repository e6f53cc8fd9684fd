"""What the documents say is what the code does: commands, paths, settings, states, reasons."""

import ast
import importlib
import io
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import typer
from dotenv import dotenv_values

from reward_relay import __version__, platforms
from reward_relay.cli import app
from reward_relay.contracts import Ending, InboundRequest, Informational, OutboundRequest, RewardOrder
from reward_relay.errors import Unauthenticated, Unreadable
from reward_relay.outbound import Outbound
from reward_relay.platforms import PLATFORMS
from reward_relay.processes import DRAIN_S
from reward_relay.states import TRANSITIONS, Outcome, State
from reward_relay.vendors import VENDORS
from reward_relay.web.app import create_app
from reward_relay.wiring import build, load_settings
from support.settings_reference import DOCUMENTS, ROOT

README = (ROOT / "README.md").read_text("utf-8")
WALK = (ROOT / "docs" / "adding-a-platform.md").read_text("utf-8")
COMPOSE = (ROOT / "docker-compose.yml").read_text("utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
EXAMPLE = ROOT / "relay.example.toml"
NOWHERE = "postgresql://localhost/none"
GUIDES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/README.md")])
SAMPLES = {
    "talkable": "talkable_referrer",
    "voucherify": "voucherify_customer_rewarded",
    "roster": "roster_reward_redeemed",
    "influitive": "influitive_redemption_requested",
}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def code_of(text: str) -> list[str]:
    """Every line of a fenced block, and every piece of code in a sentence."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = [line for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", prose)


def section(title: str) -> str:
    """A chapter of the README."""
    found: str = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert found, f"the README has no chapter {title}"
    return found


def first_column(text: str) -> list[str]:
    """What stands in the first column of the tables of a chapter."""
    return [row.split(" | ")[0].lstrip("| ") for row in text.splitlines() if row.startswith("| ")]


@cache
def words_of_the_code() -> str:
    """Every text constant in the package, one a line: what users may get to read."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "src").rglob("*.py")]
    texts = (each.value for tree in trees for each in ast.walk(tree) if isinstance(each, ast.Constant))
    return "\n".join(text for text in texts if isinstance(text, str))


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", DOCUMENTS)
def test_the_settings_documents_are_what_the_models_say(place: str) -> None:
    written = (ROOT / place).read_text("utf-8")
    assert written == DOCUMENTS[place](), f"{place} is old; run: .venv/bin/python tests/support/settings_reference.py"


def test_every_line_of_the_env_example_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / ".env.example").read_text("utf-8")
    lines = "\n".join(re.findall(r"^# (RELAY_[A-Z0-9_]+=.*)$", text, re.M))
    environ = {key: value or "" for key, value in dotenv_values(stream=io.StringIO(lines), interpolate=False).items()}
    made_up = {
        "RELAY_CONFIG": "",
        "RELAY_API_KEY": "",
        "RELAY_SECOND_PERSON_ABOVE": "500",
        "RELAY_CAPS__ORDER_VALUE": "100",
        "RELAY_CAPS__DAY_VALUE": "1000",
        "RELAY_CAPS__DAY_COUNT": "50",
        "RELAY_PUBLIC_URL": "https://relay.example.com",
        "RELAY_ALERTS__URL": "https://chat.example.com/hook",
        "RELAY_ALERTS__SECRET": f"whsec_{'A' * 43}=",
        "RELAY_ENCRYPTION_KEYS": f"{'A' * 43}=",
        "RELAY_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "RELAY_VENDORS__GCP__BASE_URL": "https://gcp.example.com",
        "RELAY_SOURCES__INFLUITIVE__POLL_EVERY_S": "60",
        "RELAY_SOURCES__ROSTER__CLOSE_BODY": "{}",
        "RELAY_ROUTES__0__SOURCES": "roster,talkable",
        "RELAY_ROUTES__0__VENDOR": "gcp",
        "RELAY_ROUTES__0__VALUE": "20",
    }
    filled = {
        key: value or made_up.get(key, f"made-up-{number:012}") for number, (key, value) in enumerate(environ.items())
    }
    settings = load_settings(environ=filled)
    assert set(settings.sources) == set(PLATFORMS)
    assert {vendor.kind for vendor in settings.vendors.values()} == set(VENDORS)


def test_the_env_example_holds_no_secret() -> None:
    text = (ROOT / ".env.example").read_text("utf-8")
    secret = re.findall(r"^# (\w*(?:SECRETS|_KEY|TOKEN|PASSWORD|DATABASE_URL))=(.*)$", text, re.M)
    held = {name: value for name, value in secret if value and not name.endswith(("SKU_KEY", "METADATA_KEY"))}
    assert len(secret) > 10
    assert held == {}


def test_the_example_configuration_has_everything_and_no_mistake() -> None:
    raw = tomllib.loads(EXAMPLE.read_text("utf-8"))
    settings = load_settings(EXAMPLE, {})
    assert {"public_url", "api_keys", "sources", "vendors", "routes"} <= set(raw)
    assert {source.platform for source in settings.sources.values()} == set(PLATFORMS)
    assert {vendor.kind for vendor in settings.vendors.values()} == set(VENDORS)


def test_every_secret_of_the_example_says_that_it_is_none() -> None:
    settings = load_settings(EXAMPLE, {})
    secrets = [each.key for each in settings.api_keys.values()]
    secrets += [secret for source in settings.sources.values() for secret in source.secrets]
    assert [each for each in secrets if not each.get_secret_value().startswith("sandbox-")] == []


@pytest.mark.parametrize("source", PLATFORMS)
def test_the_example_configuration_orders_every_platforms_sample(source: str) -> None:
    sample = ROOT / "src" / "reward_relay" / "sandbox" / "samples" / f"{SAMPLES[source]}.json"
    found = build(load_settings(EXAMPLE, {}), NOWHERE).ops.explain(source, sample.read_bytes(), "application/json")
    assert (found["verdict"], found["hold_reason"]) == ("accepted", None)
    assert found["vendor_request"] or found["next_step"] == "enrich"
    assert found["closing_call"]["does"] == "call"


@pytest.mark.parametrize("text", blocks(README, "toml"), ids=lambda text: text.split("\n", 1)[0])
def test_the_readmes_configurations_have_no_mistake(text: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text(text)
    found = load_settings(path, {})
    assert found.routes or found.alerts.url


# --- commands, paths, addresses --------------------------------------------------------------------------


def problem_with(words: list[str]) -> str | None:
    """What is wrong with a command line after `reward-relay`, None where it could be typed."""
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for each in command.params for option in each.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("-") and word != "-" and word not in known]
    return f"no option {unknown[0]}" if unknown else None


def command_lines(text: str) -> Iterator[str]:
    """Everything in the code of a text that is typed after `reward-relay`; groups also count without it."""
    groups = ("orders ", "deliveries ", "parties ", "alerts ", "config ")
    for line in code_of(text):
        _, name, rest = line.rpartition("reward-relay ")
        if name:
            yield rest
        elif line.startswith(groups):
            yield line


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_in_a_document_exists(guide: Path) -> None:
    lines = list(command_lines(guide.read_text("utf-8")))
    problems = {line: problem_with(shlex.split(line, comments=True)) for line in lines}
    assert {line: problem for line, problem in problems.items() if problem} == {}


def test_the_readme_names_every_command() -> None:
    named = {line.split()[0] for line in command_lines(README)}
    assert set(typer.main.get_command(app).commands) - named == set()  # type: ignore[attr-defined]


def test_a_wrong_command_or_option_would_be_found() -> None:
    assert problem_with(["ordres", "list"]) == "no command ordres"
    assert problem_with(["orders", "lst"]) == "no command lst"
    assert problem_with(["serve", "--worker", "2"]) == "no option --worker"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_in_a_document_leads_somewhere(guide: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", guide.read_text("utf-8"))
    assert [each for each in links if "://" not in each and not (guide.parent / each).exists()] == []


def test_every_file_that_the_readme_names_exists() -> None:
    named = re.findall(r"\b(?:src|docs|tests)/[\w./-]*\w", README)
    assert named
    assert [each for each in named if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("text", [README, WALK], ids=["README", "walk"])
def test_every_make_target_in_a_document_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert {name for line in code_of(text) for name in re.findall(r"\bmake ([a-z-]+)", line)} - targets == set()


def test_every_address_in_the_readme_is_served() -> None:
    served = create_app(build(load_settings(EXAMPLE, {}), NOWHERE)).openapi()["paths"]
    patterns = [re.sub(r"{\w+}", "[^/]+", path) for path in [*served, "/docs"]]
    code = re.sub(r"https?://[\w.:]+", " ", "\n".join(code_of(README)))
    named = set(re.findall(r"(?<!\S)/(?:api|webhooks|healthz|readyz|metrics|docs)\b[\w/-]*\b", code))
    assert {"/webhooks/talkable", "/api/v1/orders", "/readyz"} <= named
    unserved = {path for path in named if not any(re.fullmatch(each, path) for each in patterns)}
    assert unserved <= {"/webhooks"}  # the folder of all of them


# --- states and reasons ----------------------------------------------------------------------------------


def test_the_diagram_draws_exactly_the_transitions() -> None:
    (diagram,) = blocks(README, "mermaid")
    drawn = re.findall(r"^\s*(\w+) --> (\w+)", diagram, re.M)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(start, end) for start, ends in TRANSITIONS.items() for end in ends}


def test_the_table_of_states_has_each_of_them() -> None:
    assert [each.strip("`") for each in first_column(section("The states of an order"))[1:]] == list(State)


def test_every_reason_in_the_runbook_is_one_that_the_relay_gives() -> None:
    quoted = [each for cell in first_column(section("An order is stuck")) for each in re.findall(r'"([^"]+)"', cell)]
    assert len(quoted) > 12
    assert [each for each in quoted if each not in words_of_the_code()] == []


def test_every_metric_in_the_readme_is_given() -> None:
    named = {each.removesuffix("_bucket") for each in re.findall(r"\brelay_\w+", README)}
    assert len(named) > 3
    assert {each for each in named if each not in words_of_the_code()} == set()


# --- image -----------------------------------------------------------------------------------------------


def test_the_image_starts_a_command_that_exists() -> None:
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)[0])
    assert entry == ["reward-relay"]
    assert problem_with(json.loads(re.findall(r"^CMD (.*)$", DOCKERFILE, re.M)[0])) is None
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.M) == ["10001"]


def test_the_image_gets_every_file_that_it_copies() -> None:
    let_in = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.M))
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M) for name in line.split()}
    assert copied == let_in
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert "migrations" in copied


def test_compose_starts_commands_that_exist_and_lets_them_drain() -> None:
    commands = [json.loads(each) for each in re.findall(r"^    command: (.*)$", COMPOSE, re.M)]
    assert [each[0] for each in commands] == ["migrate", "serve", "work", "sandbox"]
    assert [problem_with(each) for each in commands] == [None] * 4
    assert int(re.findall(r"^  stop_grace_period: (\d+)s$", COMPOSE, re.M)[0]) > DRAIN_S + 5


def test_there_is_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    image = re.findall(r"image: reward-relay:(\S+)", COMPOSE)[0]
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)[0]
    gaps = re.findall(r"^## What version (\S+) does not do", README, re.M)[0]
    assert {project, image, changes, gaps} == {__version__}


# --- the walk to a new platform --------------------------------------------------------------------------


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The adapter of docs/adding-a-platform.md, as if it stood beside the others."""
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "__init__.py").touch()
    for code in blocks(WALK, "python"):
        (tmp_path / "acme" / Path(code.partition("\n")[0]).name).write_text(code)
    monkeypatch.setattr(platforms, "__path__", [*platforms.__path__, str(tmp_path)])
    yield importlib.import_module("reward_relay.platforms.acme.adapter")
    for name in [name for name in sys.modules if name.startswith("reward_relay.platforms.acme")]:
        del sys.modules[name]
    vars(platforms).pop("acme", None)


async def test_the_walks_adapter_works(acme: ModuleType) -> None:
    sent: list[httpx.Request] = []

    def far_side(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    outbound = Outbound(transport=lambda: httpx.MockTransport(far_side))
    settings = acme.Settings(platform="acme", secrets=["acme-token-1"], api_token="acme-api-token")
    adapter = acme.Adapter("acme", settings, outbound)
    event = {"event": "reward.redeemed", "redemption_id": "R/1", "member": {"email": "ann@example.com"}}
    body = json.dumps({**event, "reward": {"sku": "MUG"}}).encode()
    assert adapter.verify(InboundRequest(body, {"x-webhook-token": "acme-token-1"})) == body
    with pytest.raises(Unauthenticated):
        adapter.verify(InboundRequest(body))
    order = adapter.parse(body, "application/json")
    assert isinstance(order, RewardOrder)
    assert (order.external_id, order.recipient.email, order.items[0].sku) == ("R/1", "ann@example.com", "MUG")
    assert isinstance(adapter.parse(b'{"event": "member.joined"}', ""), Informational)
    with pytest.raises(Unreadable, match="reward"):
        adapter.parse(json.dumps(event).encode(), "")
    ending = Ending(Outcome.FULFILLED)
    preview = adapter.preview_close(order, ending)
    assert isinstance(preview, OutboundRequest)
    await adapter.close(order, ending, again=False)
    await outbound.close()
    assert [(each.method, str(each.url)) for each in sent] == [(preview.method, preview.url)]
    assert json.loads(sent[0].content) == preview.json
