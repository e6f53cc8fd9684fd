"""A fresh PostgreSQL for a measurement, with its durable defaults."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
