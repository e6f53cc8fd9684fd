"""Natural group commit."""

import asyncio
from collections.abc import Sequence

from reward_relay.db.groups import Groups
from reward_relay.errors import DatabaseUnavailable


async def test_items_that_arrive_during_a_commit_go_in_together() -> None:
    groups: list[int] = []

    async def write(items: Sequence[int]) -> list[int]:
        groups.append(len(items))
        await asyncio.sleep(0.01)
        return [item * 2 for item in items]

    batches: Groups[int, int] = Groups(write)
    answers = await asyncio.gather(*(batches.submit(number) for number in range(50)))
    assert answers == [number * 2 for number in range(50)]
    assert groups[0] <= 50
    assert len(groups) < 5


async def test_one_bad_row_does_not_fail_its_neighbours() -> None:
    async def write(items: Sequence[int]) -> list[int]:
        await asyncio.sleep(0)
        if 3 in items:
            raise ValueError("bad row")
        return list(items)

    batches: Groups[int, int] = Groups(write)
    answers = await asyncio.gather(*(batches.submit(number) for number in range(6)), return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 1, 2, 4, 5]
    assert isinstance(answers[3], ValueError)


async def test_an_outage_fails_the_group_and_is_not_tried_row_by_row() -> None:
    tried: list[int] = []

    async def write(items: Sequence[int]) -> list[int]:
        tried.append(len(items))
        raise DatabaseUnavailable("away")

    batches: Groups[int, int] = Groups(write)
    answers = await asyncio.gather(*(batches.submit(number) for number in range(9)), return_exceptions=True)
    assert all(isinstance(answer, DatabaseUnavailable) for answer in answers)
    assert sum(tried) == 9


async def test_a_full_backlog_is_refused() -> None:
    gate = asyncio.Event()

    async def write(items: Sequence[int]) -> list[int]:
        await gate.wait()
        return list(items)

    batches: Groups[int, int] = Groups(write, limit=1, backlog=2)
    waiting = [asyncio.create_task(batches.submit(number)) for number in range(3)]
    await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert answers[:2] == [0, 1]
    assert isinstance(answers[2], DatabaseUnavailable)
    await batches.close()
