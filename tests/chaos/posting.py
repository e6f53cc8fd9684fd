"""The platforms at work: each delivery is posted, repeated in parallel, and sent until it is taken."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx

from chaos import payloads
from chaos.plan import Plan, Reward
from reward_relay.sandbox.senders import Webhook

SHORTEST_S, LONGEST_S = 0.2, 2.0
"""Waits between two attempts of a platform."""
PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Taken:
    """The relay's 2xx for one delivery."""

    verdict: str
    order_id: str | None


@dataclass(slots=True)
class Posted:
    """What the platforms were told, by the names of rewards; `refused` are answers that no repeat would mend."""

    taken: dict[str, list[Taken]] = field(default_factory=lambda: defaultdict(list))
    refused: list[str] = field(default_factory=list)
    attempts: int = 0
    answers: Counter[str] = field(default_factory=Counter)


class Platforms:
    """All senders of a run. `begun` counts the rewards that were sent at least once."""

    def __init__(self, client: httpx.AsyncClient, relay_url: str, far_url: str, plan: Plan) -> None:
        self._client = client
        self._relay_url = relay_url
        self._far_url = far_url
        self._plan = plan
        self._waits = random.Random(plan.seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.posted = Posted()
        self.begun = 0

    async def send_all(self, every_s: float, may_go: Callable[[int], Awaitable[None]]) -> None:
        """Begin one reward after the other; `may_go` holds each back until the kills have caught up."""
        for reward in self._plan.rewards:
            await may_go(self.begun)
            self.begun += 1
            self._start(self._send(reward))
            await asyncio.sleep(every_s)

    async def done(self) -> None:
        """Wait until every delivery has been taken."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def waiting(self) -> int:
        """How many senders have not been answered yet."""
        return len(self._tasks)

    async def close(self) -> None:
        """Give up what is not taken."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, reward: Reward) -> None:
        if reward.source == "influitive":
            opened = f"{self._far_url}/sandbox/redemptions"
            (await self._client.post(opened, json=payloads.redemption(reward))).raise_for_status()
        hook = payloads.delivery(reward)
        posts = [self._until_taken(reward, hook) for _ in range(reward.copies)]
        if reward.kind == "withdrawn":
            back = self._until_taken(reward, payloads.withdrawal(reward), after_s=max(0.0, reward.taken_back_s))
            early = max(0.0, -reward.taken_back_s)
            posts = [back, *(self._after(post, early) for post in posts)]
        await asyncio.gather(*posts)
        if reward.again_s is not None:
            await self._until_taken(reward, hook, after_s=reward.again_s)

    async def _after(self, post: Awaitable[None], seconds: float) -> None:
        await asyncio.sleep(seconds)
        await post

    async def _until_taken(self, reward: Reward, hook: Webhook, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s)
        url, wait = hook.url(f"{self._relay_url}/webhooks/{reward.source}"), SHORTEST_S
        while not await self._taken(reward, hook, url):
            await asyncio.sleep(wait * self._waits.uniform(0.5, 1.5))
            wait = min(2 * wait, LONGEST_S)

    async def _taken(self, reward: Reward, hook: Webhook, url: str) -> bool:
        """One attempt. Whatever is no 2xx is sent again, as the platforms do."""
        self.posted.attempts += 1
        try:
            answer = await self._client.post(url, content=hook.body, headers=hook.headers, timeout=PATIENCE_S)
        except httpx.HTTPError as error:
            self.posted.answers[type(error).__name__] += 1
            return False
        self.posted.answers[str(answer.status_code)] += 1
        if 400 <= answer.status_code < 500:
            self.posted.refused.append(f"{reward.name}: {answer.status_code} {answer.text[:200]}")
            return True
        if answer.status_code >= 300:
            return False
        said = answer.json()
        self.posted.taken[reward.name].append(Taken(said["verdict"], said.get("order_id")))
        return True

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
