"""A process that has everything loaded and forks the relay's processes and the far side.

To load the modules takes seconds of a processor, as often as something is started again: most of a run would be that.
What is forked is a process like any other; it is killed, and it dies, alone.
"""

import argparse
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

MODULES = ("chaos.keyless", "chaos.far")
"""Each has a `main`, and what it takes long to load is loaded with it."""
MOST_BYTES = 10_000


class Zygote:
    """Starts processes; `environment` is that of all of them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = theirs.fileno()
        command = [sys.executable, "-m", "chaos.zygote", "--fd", str(fd)]
        self._process = subprocess.Popen(command, env=environment, pass_fds=[fd])
        theirs.close()

    def start(self, module: str, arguments: Sequence[str], log: Path, listener: socket.socket | None = None) -> int:
        """Fork, and run the module's `main`; `listener` is handed over as `--fd`. Returns the process's id."""
        with log.open("ab") as out:
            files = [out.fileno(), *([listener.fileno()] if listener else [])]
            socket.send_fds(self._socket, [json.dumps([module, *arguments]).encode()], files)
            return int(self._socket.recv(MOST_BYTES))

    def close(self) -> None:
        """End this process; what it has forked lives on."""
        self._socket.close()
        self._process.wait()


def alive(pid: int) -> bool:
    """Whether the process is there; nobody has to wait for a dead one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def serve(orders: socket.socket) -> None:
    """Fork whenever it is asked for, until the other end is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets the dead at once
    while True:
        message, files, _, _ = socket.recv_fds(orders, MOST_BYTES, 2)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            orders.close()
            _become(json.loads(message), *files)
        for each in files:
            os.close(each)
        orders.send(str(pid).encode())


def _become(words: Sequence[str], out: int, listener: int | None = None) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    random.seed()
    for number in (1, 2):
        os.dup2(out, number)
    module, *arguments = words
    sys.argv = [module, *arguments, *(["--fd", str(listener)] if listener is not None else [])]
    code = 1
    try:
        importlib.import_module(module).main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Load everything, then serve."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--fd", type=int, required=True)
    orders = socket.socket(fileno=arguments.parse_args().fd)
    for module in MODULES:
        importlib.import_module(module).load()
    serve(orders)


if __name__ == "__main__":
    main()
