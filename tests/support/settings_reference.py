"""Writes docs/settings.md and .env.example from the models, so that both say what the relay takes, and nothing else.

Run it with: .venv/bin/python tests/support/settings_reference.py
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from reward_relay.amounts import Caps
from reward_relay.loading import MIN_SECRET, PREFIX
from reward_relay.platforms import PLATFORMS
from reward_relay.settings import Alerts, ApiKey, Product, Route, Settings
from reward_relay.vendors import VENDORS

ROOT = Path(__file__).parents[2]
TABLES = ("api_keys", "alerts", "caps", "sources", "vendors", "routes")
NAMES = {"giftcard_partners": "gcp"}
"""Names that the examples use where they differ from the adapter's own."""
WORDS: dict[Any, str] = {
    SecretStr: "secret",
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Path: "folder",
}
CAPS = "what holds orders instead of sending them: of all sources and routes, of one source, of one route."
DEFAULTS = {
    "data_dir": "for root `/var/lib/reward-relay`, else the user's own data folder",
    "spool_dir": "`spool` in `data_dir`",
    "secrets": f"must be given; each at least {MIN_SECRET} characters",
}
"""Defaults in words where the model's own depends on the machine, or where a check asks for more than the model."""

SETTINGS_HEAD = """# Settings

Made from the code by `tests/support/settings_reference.py`; a test fails where the two differ.

- One TOML file: `RELAY_CONFIG` names it; without that `relay.toml` in the working folder, where there is one.
- Every key has an environment variable, which goes before the file: `RELAY_` and the key in capitals, levels joined by
  `__`. `sources.roster.api_token` is `RELAY_SOURCES__ROSTER__API_TOKEN`; the first route's vendor is
  `RELAY_ROUTES__0__VENDOR`.
- `RELAY_API_KEY` is no setting: it says at the command line who you are, by a key of `[api_keys]`.
- A variable holds a list or a table as JSON; secrets, host names, sources and words may also be `one,two`.
- `.env` in the working folder is read as well; the process's own variables go before it.
- A name (of a source, a vendor, a key) is lower-case letters, digits and single underscores.
- `reward-relay config check` lists every mistake. A change of `[[routes]]`, of caps, `placing` and
  `second_person_above` is taken while the relay runs; after any other, restart it.
- Times are in seconds where a key ends in `_s`. Secrets have no defaults and are never shown.
"""

ENV_HEAD = """\
# Settings as environment variables. Copy this file to .env and uncomment what you need: each line shows its default,
# an empty one has none. What is here goes before relay.toml. NAME (alice, roster, gcp ...) is yours to choose.
# Made from the code by tests/support/settings_reference.py; docs/settings.md says more.

# --- docker compose ---
# The password of the database: letters and digits, for it becomes part of an address. Make one: openssl rand -hex 24
# POSTGRES_PASSWORD=
# Where docker compose publishes the API: address and port of this machine.
# PUBLISH=127.0.0.1:8080

# The configuration file; without it relay.toml in the working folder, where there is one.
# RELAY_CONFIG=
# The key of the person at the command line, one of [api_keys]: its name then stands in the events.
# RELAY_API_KEY=
"""


@dataclass(frozen=True)
class Section:
    """One table of the configuration: its `path` with names put in, as environment variables need them."""

    title: str
    path: str
    model: type[BaseModel]
    text: str

    def fields(self) -> Iterator[tuple[str, FieldInfo]]:
        """The fields that are values of their own, the adapter's choice first."""
        hidden = ("caps",) if self.path else TABLES
        found = [each for each in self.model.model_fields.items() if each[0] not in hidden]
        yield from sorted(found, key=lambda each: each[0] not in ("platform", "kind"))


def sections() -> list[Section]:
    """Every table that the configuration may have."""
    described = {name: (Settings.model_fields[name].description or "").rpartition("]: ")[2] for name in TABLES}
    found = [
        Section("Everywhere", "", Settings, "at the top of the file, before the first table."),
        Section("`[api_keys.NAME]`", "api_keys.alice", ApiKey, described["api_keys"]),
        Section("`[alerts]`", "alerts", Alerts, described["alerts"]),
        Section("`[caps]`, `[sources.NAME.caps]`, `[routes.caps]`", "caps", Caps, CAPS),
    ]
    found += [
        Section(f'`[sources.NAME]` with `platform = "{name}"`', f"sources.{name}", each.settings, described["sources"])
        for name, each in PLATFORMS.items()
    ]
    found += [
        Section(
            f'`[vendors.NAME]` with `kind = "{name}"`',
            f"vendors.{NAMES.get(name, name)}",
            each.settings,
            described["vendors"],
        )
        for name, each in VENDORS.items()
    ]
    found.append(Section("`[[routes]]`", "routes.0", Route, described["routes"]))
    found.append(Section("`[routes.products]`, each entry", "", Product, "`SKU = { product = …, value = … }`"))
    return found


def takes(annotation: Any) -> str:
    """What a field takes, in words."""
    origin, inner = get_origin(annotation), [each for each in get_args(annotation) if each is not NoneType]
    if origin is Annotated:
        return takes(inner[0])
    if origin is Literal:
        return " or ".join(f"`{each}`" if each else "nothing" for each in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(takes(each) for each in inner))
    if origin is list:
        return f"list: {takes(inner[0])}"
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return " or ".join(f"`{each}`" for each in annotation)
    return WORDS.get(annotation, "amount")


def limits(metadata: Iterable[Any]) -> str:
    """The bounds of a number, in words; empty where there are none."""
    words = {"ge": "from", "gt": "over", "le": "to", "lt": "under"}
    bounds = ((each, name) for each in metadata for name in words if hasattr(each, name))
    found = [f"{words[name]} {getattr(each, name):g}" for each, name in bounds]
    return f", {' '.join(found)}" if found else ""


def default(name: str, field: FieldInfo) -> str:
    """A field's default for the reference."""
    if name in DEFAULTS:
        return DEFAULTS[name]
    if field.is_required():
        return "must be given"
    value = as_text(field)
    return f"`{value}`" if value else "none"


def as_text(field: FieldInfo) -> str:
    """A field's default as an environment variable holds it; empty where it has none."""
    value = field.default
    if field.is_required():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        return str(choices[0]) if choices else ""
    if value is None or field.default_factory is not None or takes(field.annotation) == "list: secret":
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def settings_reference() -> str:
    """The text of docs/settings.md."""
    lines = [SETTINGS_HEAD]
    for section in sections():
        lines += [
            f"## {section.title}",
            "",
            _sentence(section.text),
            "",
            "| key | takes | default | meaning |",
            "|---|---|---|---|",
        ]
        for name, field in section.fields():
            cells = (takes(field.annotation) + limits(field.metadata), default(name, field), field.description or "")
            lines.append(f"| `{name}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def env_example() -> str:
    """The text of .env.example."""
    lines = [ENV_HEAD.rstrip()]
    for section in sections():
        if section.model is Product:
            continue
        lines += ["", f"# --- {section.title.replace('`', '')}: {section.text} ---"]
        for name, field in section.fields():
            path = f"{section.path}.{name}" if section.path else name
            variable = PREFIX + path.upper().replace(".", "__")
            lines += [f"# {field.description}", f"# {variable}={as_text(field)}"]
    return "\n".join(lines) + "\n"


DOCUMENTS = {"docs/settings.md": settings_reference, ".env.example": env_example}


if __name__ == "__main__":
    for place, make in DOCUMENTS.items():
        (ROOT / place).write_text(make(), "utf-8")
