"""Running as processes: the database they need, the API server, the worker, and a parent that keeps several.

A child ends when its parent does, however that ended: it reads from a pipe (the lifeline) whose other end only the
parent holds.
"""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import uvloop

from reward_relay import logs, metrics
from reward_relay.cautions import cautions
from reward_relay.db import migrate
from reward_relay.db.embedded import Embedded
from reward_relay.db.engine import Database
from reward_relay.errors import ConfigurationError, DatabaseUnavailable, TablesOutdated
from reward_relay.keys import NONE_CONFIGURED
from reward_relay.loading import child_environment
from reward_relay.migrating import migrated
from reward_relay.reloading import Reloading
from reward_relay.server import server
from reward_relay.settings import Settings
from reward_relay.web.app import create_app
from reward_relay.wiring import build, configured, tracing_of

log = structlog.get_logger()
DRAIN_S = 30
LOOK_S = 0.2
PORT_PATIENCE_S = 3.0


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of the configured database, or of the embedded one, which is started, migrated and later let go."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    server = Embedded(settings.data_dir)
    try:
        url = server.start()
        asyncio.run(migrated(url))
        yield url
    finally:
        server.stop()


def bind(host: str, port: int, patience_s: float = 0.0) -> socket.socket:
    """A listening socket. For `patience_s` seconds a taken port is tried again: a killed relay's is free in a moment.

    Raises:
        OSError: the address is taken or not ours.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _bound(host, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(2048)
    except OSError:
        found.close()
        raise
    found.setblocking(False)
    return found


def serve_app(
    app: Any,
    listener: socket.socket,
    *,
    lifeline: int | None = None,
    reloading: Reloading | None = None,
    trusted_proxies: list[str] | None = None,
) -> None:
    """Serve an ASGI application on a socket until SIGTERM, SIGINT, or the end of the parent."""
    serving = server(app, drain_s=DRAIN_S, trusted_proxies=trusted_proxies)

    def stop() -> None:
        serving.should_exit = True

    async def main() -> None:
        _on_end(stop, lifeline)
        async with _watching(reloading, stop):
            await serving.serve(sockets=[listener])

    _run(main)


def serve_relay(settings: Settings, url: str, listener: socket.socket, *, lifeline: int | None = None) -> None:
    """Serve the relay's API."""
    logs.configure(settings.log_level, settings.log_format)
    asyncio.run(_refuse_old_tables(url))
    log.info("serving", address="{}:{}".format(*listener.getsockname()[:2]))
    if not settings.api_keys:
        log.warning("ops_closed", detail=NONE_CONFIGURED)
    _caution(settings)
    relay = build(settings, url, source=configured(), tracing=tracing_of(settings))
    serve_app(
        create_app(relay),
        listener,
        lifeline=lifeline,
        reloading=relay.reloading,
        trusted_proxies=settings.trusted_proxies,
    )


def work_relay(settings: Settings, url: str, *, processes: int = 1, lifeline: int | None = None) -> None:
    """Run one worker (one of `processes`) until SIGTERM, SIGINT, or the end of the parent."""
    logs.configure(settings.log_level, settings.log_format)

    async def main() -> None:
        await _refuse_old_tables(url)
        _caution(settings)
        relay = build(settings, url, source=configured(), tracing=tracing_of(settings))
        worker, poller = relay.worker(processes=processes), asyncio.create_task(relay.poller().run())
        reconciling = asyncio.create_task(relay.reconciliation.daily())
        _on_end(worker.stop, lifeline)
        log.info("working", sources=list(settings.sources), vendors=list(settings.vendors))
        try:
            alerting, beating = relay.alerting().looking(), relay.heartbeat("worker").beating()
            async with alerting, beating, _watching(relay.reloading, worker.stop):
                await worker.run()
        finally:
            for each in (poller, reconciling):
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
            await relay.close()

    _run(main)


def _caution(settings: Settings) -> None:
    for sentence in cautions(settings, configured().path):
        log.warning("caution", detail=sentence)


async def _refuse_old_tables(url: str) -> None:
    """Stop a start against tables of another version. A database that is away is waited for while we run."""
    database = Database(url, pool_size=1)
    try:
        if not await migrate.is_current(database):
            raise TablesOutdated("the database's tables are not this version's; run: reward-relay migrate")
    except DatabaseUnavailable as error:
        log.warning("database_unavailable", detail=str(error))
    finally:
        await database.close()


def _run(main: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@asynccontextmanager
async def _watching(reloading: Reloading | None, stop: Callable[[], None]) -> AsyncIterator[None]:
    """The configuration file is looked at during the block; SIGHUP looks at once, and so ends nothing."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(reloading.run()) if reloading else None

    def hung_up() -> None:
        if _terminal_is_gone():
            stop()
        elif reloading:
            reloading.look_now()

    loop.add_signal_handler(signal.SIGHUP, hung_up)
    try:
        yield
    finally:
        if task:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


_BEGAN_IN_TERMINAL = _has_terminal()


def _terminal_is_gone() -> bool:
    """Whether SIGHUP means what it says: the window that the command was started in has been closed."""
    return _BEGAN_IN_TERMINAL and not _has_terminal()


def end_quietly() -> None:
    """SIGTERM ends the process with status 0 from now on, also before it serves or works; SIGHUP comes too early."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _on_end(stop: Callable[[], None], lifeline: int | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if lifeline is not None:

        def parent_ended() -> None:
            loop.remove_reader(lifeline)
            stop()

        loop.add_reader(lifeline, parent_ended)


def _counts_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="reward-relay-metrics-", ignore_cleanup_errors=True)


@contextmanager
def metrics_page(settings: Settings, host: str, port: int | None, folder: str | None = None) -> Iterator[None]:
    """Serve the counts of this process (with `folder`: of all that count there) from a thread; no port, no page.

    Raises:
        ConfigurationError: the address is taken or not ours.
    """
    if port is None:
        yield
        return
    logs.configure(settings.log_level, settings.log_format)
    try:
        server, thread = metrics.serve(host, port, folder)
    except OSError as error:
        problem = f"cannot serve metrics on {host}:{port} ({error.strerror}); give another --metrics-port"
        raise ConfigurationError([problem]) from None
    log.info("metrics", address=f"http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(slots=True)
class Family:
    """A parent's children: they start together and end together.

    `environment` is added to theirs; with a `folder` they run there, and get none of the parent's own settings.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ending: bool = False
    _pipe: tuple[int, int] = field(default_factory=os.pipe)
    _counts: tempfile.TemporaryDirectory[str] = field(default_factory=_counts_folder)

    @property
    def counts(self) -> str:
        """The folder in which the children count for `metrics`; it goes when they have ended."""
        return self._counts.name

    def start(self, arguments: Sequence[str], *, files: Sequence[int] = ()) -> None:
        """Start `reward-relay ARGUMENTS` with the family's lifeline; `files` are inherited."""
        read, _ = self._pipe
        environment = {**self.environment, metrics.FOLDER_VARIABLE: self.counts}
        self.children.append(
            subprocess.Popen(
                [sys.executable, "-m", "reward_relay", *arguments, "--lifeline", str(read)],
                env=child_environment(environment, alone=self.folder is not None),
                cwd=self.folder,
                pass_fds=[read, *files],
                start_new_session=True,
            )
        )

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Wait until a signal asks for the end (0) or a child ends by itself (1); then end all children."""
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._hung_up)
        try:
            while not self.ending and all(child.poll() is None for child in self.children):
                meanwhile()
                time.sleep(LOOK_S)
            failed = not self.ending
            return self.stop() or int(failed)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def stop(self) -> int:
        """End every child: SIGTERM, then SIGKILL for those that do not drain in time; 0 where all ended well."""
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + DRAIN_S + 5
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, deadline - time.monotonic()))
            if child.poll() is None:
                child.kill()
                child.wait()
        self._counts.cleanup()
        quiet = (0, -signal.SIGTERM)  # a child that we end before it can listen to signals has begun nothing
        return max((abs(child.returncode) for child in self.children if child.returncode not in quiet), default=0)

    def _end(self, *_: object) -> None:
        self.ending = True

    def _hung_up(self, *_: object) -> None:
        """Tell the children to look at their configuration."""
        if _terminal_is_gone():
            self.ending = True
        for child in self.children:
            child.send_signal(signal.SIGHUP)


def keep_postgres(settings: Settings) -> Callable[[], None]:
    """A look at the embedded server, a second apart, that starts it again where it has died."""
    if settings.database_url is not None:
        return lambda: None
    server, last = Embedded(settings.data_dir), time.monotonic()

    def look() -> None:
        nonlocal last
        if time.monotonic() - last < 1:
            return
        last = time.monotonic()
        if not server.is_running():
            with suppress(DatabaseUnavailable):
                server.start()
                server.stop()  # lets go only: the relay that started it still uses it

    return look
