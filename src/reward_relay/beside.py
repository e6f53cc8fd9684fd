"""Reading large bodies beside the event loop, one at a time and in one thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

LARGE = 64 << 10
"""Bytes of a body that is read beside the loop: a hostile one takes a fifth of a second."""
T = TypeVar("T")


class Beside:
    """One thread: more would not be faster, and each would keep the memory that a megabyte of JSON once took."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="large-bodies")

    async def run(self, body: bytes, do: Callable[..., T], *given: Any) -> T:
        """What `do` gives; of a small body at once."""
        if len(body) <= LARGE:
            return do(*given)
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(do, *given))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False)
