"""The one place that reads the environment: settings from one TOML file, under environment variables, which win.

A variable is `RELAY_` and the key, levels joined by `__`. Adapters bring the settings of their own platforms and
vendors; `configuration` gets those types from `wiring`. Every mistake is reported, not just the first.
"""

import base64
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import islice
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import BaseModel, Field, ValidationError, create_model

from reward_relay.amounts import Caps
from reward_relay.contracts import SourceSettings, VendorSettings, listed
from reward_relay.errors import ConfigurationError
from reward_relay.near import did_you_mean
from reward_relay.settings import Alerts, ApiKey, Product, Route, Settings
from reward_relay.syntax import BadSyntax, read_toml

PREFIX = "RELAY_"
NO_SETTINGS = ("RELAY_CONFIG", "RELAY_API_KEY")
"""Where the settings are, and the key of the person at the command line."""
MIN_API_KEY = 16
MIN_SECRET = 8
LEAST_SIGNING_BYTES, MOST_SIGNING_BYTES = 24, 64
"""Standard Webhooks, "Signature scheme"."""
MOST = 50
"""Mistakes of one kind that are listed."""
LONGEST_SHOWN = 80
LEASE_MARGIN = 1.25
"""A call may end at its deadline, and its record needs time too."""
WEAK = frozenset(
    {"changeme", "change-me", "password", "default", "example", "12345678", "secret", "current", "previous"}
)
SECRET_WORDS = ("key", "token", "secret", "password", "database_url", "alerts.url")
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


Types = Mapping[str, type[SourceSettings]]
VendorTypes = Mapping[str, type[VendorSettings]]
Raw = dict[str, Any]


def settings_type(source_types: Types, vendor_types: VendorTypes) -> type[Settings]:
    """`Settings` whose sources and vendors are checked by their adapters' own types."""
    source: Any = Annotated[reduce(or_, source_types.values()), Field(discriminator="platform")]
    vendor: Any = Annotated[reduce(or_, vendor_types.values()), Field(discriminator="kind")]
    if len(source_types) == 1:
        source = next(iter(source_types.values()))
    if len(vendor_types) == 1:
        vendor = next(iter(vendor_types.values()))
    return create_model("Settings", __base__=Settings, sources=(dict[str, source], {}), vendors=(dict[str, vendor], {}))


@dataclass(frozen=True, slots=True)
class Configuration:
    """Where a process's settings come from: its file, its environment as it was at the start, and the adapters' types.

    `path` is as it was given, so that a link which later leads elsewhere is followed.
    """

    source_types: Types
    vendor_types: VendorTypes
    path: Path | None
    environ: Mapping[str, str] = field(repr=False)
    model: type[Settings]

    @property
    def own_key(self) -> str | None:
        """The key of the person at the command line, None where none is given."""
        return self.environ.get("RELAY_API_KEY") or None

    def read(self) -> bytes:
        """What is in the file just now; nothing where the environment is all there is.

        Raises:
            ConfigurationError: it is not there, or cannot be read.
        """
        if self.path is None:
            return b""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise ConfigurationError(
                [f"{self.path}: there is no such file; set RELAY_CONFIG to your relay.toml"]
            ) from None
        except OSError as error:
            raise ConfigurationError([f"{self.path}: cannot be read ({error})"]) from None

    def load(self, content: bytes | None = None) -> Settings:
        """The settings of the file, or of this `content` of it, under the environment.

        Raises:
            ConfigurationError: one line for every mistake, naming the key or variable and what would be right.
        """
        where = str(self.path) if self.path else "the environment"
        return self._checked(_parsed(self.read() if content is None else content, where), where)

    def proposed(self, content: bytes, current: bytes, where: str) -> Settings:
        """The settings that other `content` of the file would make; no mistake repeats a value of the environment.

        Content with nothing but routes is read as the `current` one with those routes.

        Raises:
            ConfigurationError: as for `load`.
        """
        raw = _parsed(content, where)
        if raw.keys() <= {"routes"}:
            raw = {**_parsed(current, where), **raw}
        return self._checked(raw, where, discreet=True)

    def _checked(self, raw: Raw, where: str, *, discreet: bool = False) -> Settings:
        origin, problems = _overlay(raw, self.environ)
        settings: Settings | None = None
        types = [*self.source_types.values(), *self.vendor_types.values()]
        try:
            settings = self.model.model_validate(raw)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            problems += [_sentence(each, types, frozenset(origin if discreet else ())) for each in errors[:MOST]]
        problems += islice(_cross_checks(raw), MOST)
        if problems or settings is None:
            raise ConfigurationError([_located(problem, origin, where) for problem in dict.fromkeys(problems)])
        return settings


def configuration(
    source_types: Types,
    vendor_types: VendorTypes,
    *,
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """The file and environment of this process (`environ`: instead of the process's own and `.env`)."""
    env = dict(environ) if environ is not None else {**_dotenv(), **os.environ}
    if path is None and env.get("RELAY_CONFIG"):
        path = Path(env["RELAY_CONFIG"]).expanduser()
    elif path is None and Path("relay.toml").exists():
        path = Path("relay.toml")
    return Configuration(source_types, vendor_types, path, env, settings_type(source_types, vendor_types))


def child_environment(changes: Mapping[str, str], *, alone: bool = False) -> dict[str, str]:
    """The environment for a process of ours that we start: our own, with changes; `alone` without our settings."""
    own = {key: value for key, value in os.environ.items() if not (alone and key.startswith(PREFIX))}
    return {**own, **changes}


Problem = tuple[str, str]
"""A dotted key, and what is wrong with it."""


def _dotenv() -> dict[str, str]:
    return {key: value for key, value in dotenv_values(".env").items() if value is not None}


def _parsed(content: bytes, where: str) -> Raw:
    try:
        return read_toml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"{where}: line {line}: not text in UTF-8; let the editor save it as UTF-8"
        raise ConfigurationError([problem]) from None
    except BadSyntax as error:
        raise ConfigurationError([f"{where}: {error}"]) from None


def _overlay(raw: Raw, env: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    """Put every RELAY_ variable into `raw`; returns which variable each dotted key came from."""
    origin: dict[str, str] = {}
    problems: list[Problem] = []
    for variable in sorted(env, key=_numbered):
        if not variable.startswith(PREFIX) or variable in NO_SETTINGS:
            continue
        keys = variable.removeprefix(PREFIX).lower().split("__")
        if keys[0] not in Settings.model_fields:
            problems.append((variable, "no such setting" + did_you_mean(keys[0], Settings.model_fields)))
            continue
        if not _set(raw, keys, _value(env[variable])):
            problems.append((variable, f"{'.'.join(keys[:-1])} is not a table, so it has no {keys[-1]}"))
        origin[".".join(keys)] = variable
    return origin, problems


def _numbered(variable: str) -> list[tuple[int, str]]:
    """For sorting: entry 2 of a list goes before entry 10."""
    return [(int(part) if part.isdecimal() else -1, part) for part in variable.split("__")]


def _value(text: str) -> Any:
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _set(node: Any, keys: Sequence[str], value: Any) -> bool:
    """Set one leaf, making tables on the way; list entries by number, the next one appended."""
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, list) and key.isdecimal() and int(key) <= len(node):
            if int(key) == len(node):
                node.append({})
            if last:
                node[int(key)] = value
            node = node[int(key)]
        elif isinstance(node, dict):
            if last:
                node[key] = value
            following: Any = [] if not last and keys[depth + 1].isdecimal() else {}
            node = node.setdefault(key, following)
        else:
            return False
    return True


def _sentence(error: Any, types: Sequence[type[BaseModel]], unseen: Collection[str] = ()) -> Problem:
    """One pydantic error in words, without the union's tag in its place, and without the values of `unseen` keys."""
    place = [str(part) for part in error["loc"]]
    if len(place) > 2 and place[0] in ("sources", "vendors") and place[2] in _tags(types, "platform", "kind"):
        del place[2]
    key, kind, given = ".".join(place), error["type"], error.get("input")
    if kind == "extra_forbidden":
        models: list[type[BaseModel]] = [Settings, Route, ApiKey, Product, Alerts, Caps, *types]
        known = {name for each in models for name in each.model_fields}
        return key, "no such setting" + did_you_mean(place[-1], known)
    if kind == "missing":
        return key, "is missing, and there is no default"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        what = "platform" if place[0] == "sources" else "kind"
        tag, tags = error["ctx"].get("tag"), sorted(_tags(types, what))
        trouble = f"{str(tag)[:LONGEST_SHOWN]!r} is not one of" if tag else "is missing; it must be one of"
        return f"{key}.{what}", f"{trouble} {', '.join(tags)}" + did_you_mean(tag or "", tags)
    if kind in ("model_type", "dict_type"):
        return key, "must be a table, not a single value"
    if kind == "list_type" and key == "routes":
        return key, "is a list of routes: begin each with [[routes]], in double brackets"
    message = error["msg"].removeprefix("Value error, ")
    return key, message[:1].lower() + message[1:] + ("" if key in unseen else _shown(key, given))


def _shown(key: str, given: object) -> str:
    """What stands there, unless it could be a secret."""
    if not isinstance(given, str | float) and not (isinstance(given, int) and abs(given) < 1 << 64):
        return ""
    if "@" in str(given) or any(word in key.lower() for word in SECRET_WORDS):
        return ""
    text = repr(given)
    return f" (it is {text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + '…'})"


def _tags(types: Sequence[type[BaseModel]], *names: str) -> set[str]:
    fields = [each.model_fields.get(name) for each in types for name in names]
    return {str(tag) for field in fields if field is not None for tag in getattr(field.annotation, "__args__", ())}


def _cross_checks(raw: Raw) -> Iterator[Problem]:
    """What no single field can know. Works on the raw tables, so that it runs beside other mistakes."""
    yield from _names(raw)
    yield from _secrets(raw)
    yield from _routes(raw)
    yield from _alerts(raw)
    lease, deadline = raw.get("lease_s", 60), raw.get("call_deadline_s", 20)
    try:
        if float(lease) < LEASE_MARGIN * float(deadline):
            needed = f"at least {LEASE_MARGIN} times call_deadline_s ({deadline})"
            yield "lease_s", f"{lease} must be longer than a call: {needed}, or one order could be placed twice"
    except (TypeError, ValueError):
        return


def _tables(raw: Raw, key: str) -> dict[str, Raw]:
    """The tables below a key ("" = at the top)."""
    table = raw.get(key) if key else raw
    return {k: v for k, v in table.items() if isinstance(v, dict)} if isinstance(table, dict) else {}


def _names(raw: Raw) -> Iterator[Problem]:
    for kind in ("sources", "vendors", "api_keys"):
        for name in _tables(raw, kind):
            if not NAME.fullmatch(name):
                yield f"{kind}.{name}", "a name is lower-case letters, digits and single underscores, a letter first"


def _weak(secret: object, minimum: int) -> str | None:
    text = str(secret)
    if text.lower() in WEAK:
        return "is a well-known default; make a new one with: openssl rand -hex 24"
    if len(text) < minimum:
        return f"has {len(text)} characters, at least {minimum} are needed; make one with: openssl rand -hex 24"
    return None


def _secrets(raw: Raw) -> Iterator[Problem]:
    for name, source in _tables(raw, "sources").items():
        secrets = listed(source.get("secrets"))
        if not isinstance(secrets, list) or not secrets:
            yield f"sources.{name}.secrets", "needs at least one secret, or anybody could order rewards"
            continue
        for number, secret in enumerate(secrets):
            if trouble := _weak(secret, MIN_SECRET):
                yield f"sources.{name}.secrets.{number}", trouble
    seen: dict[str, str] = {}
    for name, entry in _tables(raw, "api_keys").items():
        key = str(entry.get("key", ""))
        if key and (trouble := _weak(key, MIN_API_KEY)):
            yield f"api_keys.{name}.key", trouble
        elif key and seen.setdefault(key, name) != name:
            yield f"api_keys.{name}.key", f"is the key of {seen[key]} too; every person needs an own one"


def _routes(raw: Raw) -> Iterator[Problem]:
    routes = raw.get("routes")
    seen: set[str] = set()
    for number, route in enumerate(routes if isinstance(routes, list) else []):
        if not isinstance(route, dict):
            continue
        name, vendor = route.get("name"), route.get("vendor")
        if isinstance(name, str) and name in seen:
            yield f"routes.{number}.name", f"there is a route named {name!r} before; names tell routes apart"
        seen.add(str(name))
        yield from _conditions(number, route)
        vendors = _tables(raw, "vendors")
        if isinstance(vendor, str) and vendor not in vendors:
            advice = did_you_mean(vendor, vendors) or f"; there is: {', '.join(vendors) or 'none'}"
            yield f"routes.{number}.vendor", f"there is no [vendors.{vendor}]{advice}"
        sources = _tables(raw, "sources")
        given = listed(route.get("sources"))
        for source in given if isinstance(given, list) else []:
            if source not in sources:
                yield (
                    f"routes.{number}.sources",
                    f"there is no [sources.{source}]" + did_you_mean(str(source), sources),
                )


def _alerts(raw: Raw) -> Iterator[Problem]:
    alerts = _tables(raw, "").get("alerts", {})
    if secret := alerts.get("secret"):
        try:
            letters = str(secret).removeprefix("whsec_")
            size = len(base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True))
        except ValueError:
            size = 0
        if not LEAST_SIGNING_BYTES <= size <= MOST_SIGNING_BYTES:
            right = f"whsec_ and {LEAST_SIGNING_BYTES} to {MOST_SIGNING_BYTES} bytes in base64"
            yield "alerts.secret", f'must be {right}; make one with: echo "whsec_$(openssl rand -base64 32)"'
    sources = _tables(raw, "sources")
    for name in _tables(alerts, "").get("quiet_after", {}):
        if name not in sources:
            yield f"alerts.quiet_after.{name}", f"there is no [sources.{name}]" + did_you_mean(name, sources)


def _conditions(number: int, route: Raw) -> Iterator[Problem]:
    """The likeliest mistake of TOML: a key of the route below its [routes.when] becomes a condition."""
    conditions = route.get("when")
    for path in conditions if isinstance(conditions, dict) else ():
        where = f"routes.{number}.when.{path}"
        if path in Route.model_fields:
            yield where, f"{path} is a key of the route: move it above the line [routes.when], or it is a condition"
        elif path.partition(".")[0] not in ("payload", "order"):
            yield (
                where,
                "a path starts with payload. (the platform's event) or order. (our reading of it); see explain",
            )


def _located(problem: Problem, origin: Mapping[str, str], where: str) -> str:
    """The line a person reads: where, which key, what is wrong."""
    key, text = problem
    if key.startswith(PREFIX):
        return f"{key}: {text}"
    for known, variable in origin.items():
        if key == known or key.startswith(known + "."):
            return f"{variable} ({key}): {text}"
    return f"{where}: {key}: {text}"
