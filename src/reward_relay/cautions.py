"""What is allowed in a configuration and still unwise: secrets that everybody may read, tokens sent openly."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel, SecretStr

from reward_relay.addresses import LOCALHOST, canonical, is_public
from reward_relay.settings import Settings

DOTENV = Path(".env")


def cautions(settings: Settings, file: Path | None) -> list[str]:
    """Sentences for whoever started the relay; `file` is the configuration's."""
    found = [_open_file(each, settings) for each in (file, DOTENV) if each is not None]
    return [each for each in found if each] + list(_open_calls(settings))


def _open_file(path: Path, settings: Settings) -> str | None:
    """A file that others of this machine may read, where one of our secrets stands in it."""
    try:
        if not path.stat().st_mode & stat.S_IROTH:
            return None
        content = path.read_text("utf-8", "replace")
    except OSError:
        return None
    if not any(secret in content for secret in _secrets(settings)):
        return None
    return f"{path} holds secrets, and every user of this machine may read it; run: chmod o-rwx {path}"


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield from filter(None, [value.get_secret_value()])
    elif isinstance(value, BaseModel):
        yield from _secrets(dict(value))
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _secrets(each)


def _open_calls(settings: Settings) -> Iterator[str]:
    """Parties that are called across the internet without encryption."""
    parties: dict[str, Any] = {f"sources.{name}": each for name, each in settings.sources.items()}
    parties |= {f"vendors.{name}": each for name, each in settings.vendors.items()}
    addresses = {f"{name}.{key}": value for name, party in parties.items() for key, value in dict(party).items()}
    if settings.alerts.url is not None:
        addresses["alerts.url"] = settings.alerts.url.get_secret_value()
    for key, value in addresses.items():
        if isinstance(value, str) and value.startswith("http://") and not _is_near(httpx.URL(value).host, settings):
            yield f"{key} is http://: our tokens and people's data go there for all to read; use https://"


def _is_near(host: str, settings: Settings) -> bool:
    host = canonical(host)
    if host == LOCALHOST or host in settings.private_hosts:
        return True
    try:
        return not is_public(host)
    except ValueError:
        return False
