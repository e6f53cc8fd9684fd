"""A fresh PostgreSQL for a measurement, with its durable defaults; it can be killed, and it can be made to hang."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from reward_relay.db.embedded import Embedded


@contextmanager
def server() -> Iterator[Embedded]:
    """Gone afterwards, with its data."""
    folder = Path(tempfile.mkdtemp(prefix="relay-bench-"))
    folder.chmod(0o711)
    found = Embedded(folder)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def processes(of: Embedded) -> list[psutil.Process]:
    """The postmaster, then its children."""
    postmaster = psutil.Process(int((of.pgdata / "postmaster.pid").read_text().split("\n", 1)[0]))
    return [postmaster, *postmaster.children()]


def kill(of: Embedded) -> None:
    """SIGKILL to the postmaster; its children notice, and end by themselves. `start` brings it back."""
    family = processes(of)
    family[0].kill()
    psutil.wait_procs(family, timeout=30)


def hang(of: Embedded) -> list[psutil.Process]:
    """Stop the postmaster and every child where they are (SIGSTOP); sockets stay open and nobody answers."""
    stopped = processes(of)
    for each in stopped:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGSTOP)
    return stopped


def go_on(stopped: list[psutil.Process]) -> None:
    """End the hanging (SIGCONT)."""
    for each in stopped:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGCONT)
