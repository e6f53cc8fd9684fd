"""Natural group commit: while one transaction is in flight the next items queue, then go in together.

There is no timer: an item that comes alone goes at once, and the group grows just as the database gets busy. If a
group fails, each of its items is tried alone, so that one bad row does not fail its neighbours.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from reward_relay.errors import DatabaseUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Groups(Generic[Item, Answer]):
    """Collects items for `write`, which stores a sequence of them in one transaction and answers each.

    At most `limit` items make a group, and at most `backlog` wait.
    """

    def __init__(
        self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], *, limit: int = 256, backlog: int = 20_000
    ) -> None:
        self._write = write
        self._limit = limit
        self._backlog = backlog
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """Store one item; returns when it is committed.

        Raises:
            DatabaseUnavailable: the database is away, or the backlog is full.
        """
        if len(self._waiting) >= self._backlog:
            raise DatabaseUnavailable(f"{self._backlog} items already wait for PostgreSQL")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await future

    async def close(self) -> None:
        """Wait until everything that was submitted is stored."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
            try:
                self._answer(group, await self._write([item for item, _ in group]))
            except DatabaseUnavailable as error:
                self._fail(group, error)
            except Exception as error:
                if len(group) == 1:
                    self._fail(group, error)
                else:
                    await self._one_by_one(group)

    async def _one_by_one(self, group: list[tuple[Item, asyncio.Future[Answer]]]) -> None:
        for item, future in group:
            try:
                self._answer([(item, future)], await self._write([item]))
            except Exception as error:
                self._fail([(item, future)], error)

    def _answer(self, group: list[tuple[Item, asyncio.Future[Answer]]], answers: Sequence[Answer]) -> None:
        for (_, future), answer in zip(group, answers, strict=True):
            if not future.done():
                future.set_result(answer)

    def _fail(self, group: list[tuple[Item, asyncio.Future[Answer]]], error: Exception) -> None:
        for _, future in group:
            if not future.done():
                future.set_exception(error)
