"""The routes and guards in use, and the file that they come from: looked at again and again, taken after a check.

Only routes and guards (caps, `placing`, `second_person_above`) change while a process runs. Whatever else has changed
in the file is named, and waits for a restart. What cannot be taken (mistakes, a file that vanished) leaves those of
before in use and stands in `trouble`.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from pydantic import SecretStr

from reward_relay.errors import ConfigurationError
from reward_relay.guards import Guards, guards_of
from reward_relay.loading import Configuration
from reward_relay.settings import Route, Settings

log = structlog.get_logger()
LOOK_EVERY_S = 2.0
MOST_TROUBLES = 20
SHORT_DIGEST = 12
PARTIES = ("sources.", "vendors.")
GUARDS = ("caps", "placing", "second_person_above")


@dataclass(frozen=True, slots=True)
class _State:
    """All that changes at once when a file is taken."""

    routes: list[Route]
    guards: Guards
    digest: str
    loaded_at: datetime
    trouble: str | None = None
    restart_needed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class Reloading:
    """Holds the routes of one process; where the `source` has no file, they stay as they are.

    A new content counts when two looks in a row have found it, so that a half-written file is never taken; a person
    who asks (SIGHUP) gets it at once. `warn` says what no order of a route could get past.
    """

    def __init__(
        self,
        settings: Settings,
        source: Configuration,
        *,
        warn: Callable[[Sequence[Route]], list[str]] = lambda _: [],
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self.source = source
        self.content = b""
        """The file as it was when its routes were taken."""
        self._running = settings
        self._started: Settings | None = None
        self._warn = warn
        self._every_s = every_s
        self._asked = asyncio.Event()
        self._signature: tuple[int, ...] | None = None
        self._judged: bytes | str | None = None
        self._pending: bytes | str | None = None
        routes, guards = settings.routes, guards_of(settings)
        digest = digest_of(routes, guards)
        self._state = _State(routes, guards, digest, datetime.now(UTC), warnings=tuple(warn(routes)))
        self.look(at_once=True)

    @property
    def routes(self) -> list[Route]:
        """The routes in use."""
        return self._state.routes

    @property
    def guards(self) -> Guards:
        """The guards in use. Whose keys there are stays as it was at the start."""
        return self._state.guards

    @property
    def digest(self) -> str:
        """Of the routes and guards in use: processes with the same have the same."""
        return self._state.digest

    @property
    def trouble(self) -> str | None:
        """Why the newest file is not in use, one mistake a line, without secrets; None where it is."""
        return self._state.trouble

    def summary(self) -> dict[str, Any]:
        """What people are told of the configuration. `changed` is what the last reload did."""
        state = self._state
        return {
            "file": str(self.source.path) if self.source.path else None,
            "loaded_at": state.loaded_at,
            "digest": state.digest,
            "trouble": state.trouble,
            "restart_needed": list(state.restart_needed),
            "warnings": list(state.warnings),
            "changed": list(state.changed),
        }

    def proposed(self, content: bytes) -> Settings:
        """The settings that other content of the file would make, under the same environment.

        Raises:
            ConfigurationError: one line for every mistake, without values of the environment.
        """
        return self.source.proposed(content, self.content, "the new configuration")

    def restart_before(self, settings: Settings) -> Iterator[str]:
        """What of sources and vendors this process would need a restart for. Secrets are not compared."""
        keys = [
            key
            for key in _differing(self._started or self._running, settings, secrets=False)
            if key.startswith(PARTIES)
        ]
        if keys:
            yield f"restart needed for: {', '.join(keys)}"

    def look_now(self) -> None:
        """Have `run` look at once."""
        self._asked.set()

    async def run(self) -> None:
        """Look at the file for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._asked.wait()
            at_once = self._asked.is_set()
            self._asked.clear()
            await asyncio.to_thread(self.look, at_once=at_once)

    def look(self, *, at_once: bool = False) -> None:
        """Look at the file, and take its routes where it is new and good."""
        if self.source.path is None:
            return
        signature = _signature(self.source.path)
        if signature == self._signature and self._pending is None and not at_once:
            return
        self._signature = signature
        found = self._found()
        if found == self._judged:
            self._pending = None
        elif at_once or found == self._pending:
            self._pending, self._judged = None, found
            self._judge(found)
        else:
            self._pending = found

    def _found(self) -> bytes | str:
        """What is in the file, or in words why there is nothing."""
        try:
            return self.source.read()
        except ConfigurationError as error:
            return str(error)

    def _judge(self, found: bytes | str) -> None:
        try:
            if isinstance(found, str):
                raise ConfigurationError([found])
            settings = self.source.load(found)
            _refuse_unknown_vendors(settings.routes, self._running)
        except ConfigurationError as error:
            self._refuse(error.problems)
        except Exception as error:
            log.exception("configuration_unreadable", file=str(self.source.path))
            self._refuse([f"{self.source.path}: could not be read ({type(error).__name__}); this is a fault of ours"])
        else:
            assert isinstance(found, bytes)  # noqa: S101 - for the type checker
            self.content = found
            self._take(settings)

    def _refuse(self, problems: Sequence[str]) -> None:
        shown = list(problems[:MOST_TROUBLES])
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more; reward-relay config check lists them")
        log.error("configuration_not_taken", problems=shown, advice="the routes of before stay in use")
        self._state = replace(self._state, trouble="\n".join(shown))

    def _take(self, settings: Settings) -> None:
        before, routes = self._state, settings.routes
        guards = replace(guards_of(settings), persons=before.guards.persons)
        self._started = self._started or settings  # not `_running`: --host and --port are not the file's
        needed = tuple(dict.fromkeys(_differing(self._started, settings)))
        if needed != before.restart_needed and needed:
            log.warning("restart_needed", keys=list(needed))
        state = replace(before, trouble=None, restart_needed=needed)
        if (routes, guards) != (before.routes, before.guards):
            state = replace(
                state,
                routes=routes,
                guards=guards,
                digest=digest_of(routes, guards),
                loaded_at=datetime.now(UTC),
                warnings=tuple(self._warn(routes)),
                changed=(*changes(before.routes, routes), *guard_changes(before.guards, guards)),
            )
            log.info("routes_loaded", before=before.digest, digest=state.digest, changed=list(state.changed))
        elif before.trouble:
            log.info("configuration_good_again", digest=before.digest)
        self._state = state


def digest_of(routes: Sequence[Route], guards: Guards | None = None) -> str:
    """A short name of these routes in this order, and of these guards."""
    text = json.dumps([route.model_dump(mode="json") for route in routes], sort_keys=True)
    text += guards.digest_part if guards else ""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:SHORT_DIGEST]


def changes(before: Sequence[Route], after: Sequence[Route]) -> Iterator[str]:
    """What differs between two lists of routes, a sentence each."""
    old, new = {route.name: route for route in before}, {route.name: route for route in after}
    for name in old:
        if name not in new:
            yield f'route "{name}" is gone'
    for name, route in new.items():
        if name not in old:
            yield f'route "{name}" is new'
        elif keys := [key for key in Route.model_fields if getattr(route, key) != getattr(old[name], key)]:
            yield f'route "{name}" has another {", ".join(keys)}'
    if [name for name in old if name in new] != [name for name in new if name in old]:
        yield "the routes stand in another order"


def guard_changes(before: Guards, after: Guards) -> Iterator[str]:
    """What differs between two sets of guards but for the caps of routes, a sentence each."""
    if before.paused != after.paused:
        yield f"placing is {'paused' if after.paused else 'on'} in the configuration"
    if before.second_person_above != after.second_person_above:
        yield "second_person_above is another"
    old, new = ({each.name: each.caps for each in guards.all()} for guards in (before, after))
    for name in {**old, **new}:
        if old.get(name) != new.get(name) and not name.startswith("routes."):
            yield f"[{name}] is another"


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written, replaced, or when a link on its way leads elsewhere."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _refuse_unknown_vendors(routes: Sequence[Route], running: Settings) -> None:
    """A vendor that came with the same edit is not there yet: what would go to it would only be held."""
    problems = [
        f'route "{route.name}": this process started without [vendors.{route.vendor}]; restart it to take the routes'
        for route in routes
        if route.vendor not in running.vendors
    ]
    if problems:
        raise ConfigurationError(problems)


def _differing(started: Settings, now: Settings, *, secrets: bool = True) -> Iterator[str]:
    """The dotted keys that wait for a restart: this process does not have them as the file has. Never values."""
    yield from _keys("", _lasting(started), _lasting(now), secrets)


def _lasting(settings: Settings) -> dict[str, Any]:
    """What stays as it was at the start."""
    found = settings.model_dump(exclude={"routes", *GUARDS})
    for source in found["sources"].values():
        source.pop("caps", None)
    return found


def _keys(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any], secrets: bool) -> Iterator[str]:
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _keys(f"{prefix}{key}.", old, new, secrets)
        elif (old != new or (key in before) != (key in after)) and (secrets or not _is_secret(old, new)):
            yield f"{prefix}{key}"


def _is_secret(*values: object) -> bool:
    parts = [part for value in values for part in (value if isinstance(value, list) else [value])]
    return any(isinstance(part, SecretStr) for part in parts)
