"""`make fuzz`: hostile requests over sockets against a `serve` process of its own, and what became of its memory."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import psutil

from fuzz import cases, wire
from reward_relay.db.embedded import Embedded
from reward_relay.migrating import migrated
from support.commands import Command, commands, free_port, ready

BROKEN_SHARE, CHUNKED_SHARE, SLOW_SHARE, PATIENT_SHARE = 0.05, 0.1, 0.002, 0.02
LINES = 32
WARM_SHARE = 0.1
MIB = 1 << 20


@dataclass
class Found:
    """What the run has seen."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    memory: list[tuple[int, float]] = field(default_factory=list)
    done: int = 0


class Attack:
    """So many requests, drawn from a seed: request `n` is the same in every run, whoever sends it."""

    def __init__(self, port: int, process: psutil.Process, requests: int, seed: int) -> None:
        self._port, self._process = port, process
        self._requests, self._seed = requests, seed
        self._numbers = iter(range(requests))
        self.found = Found()

    async def run(self) -> None:
        """Send them all."""
        await asyncio.gather(*(self._line() for _ in range(LINES)))
        self.sample()

    async def _line(self) -> None:
        line = wire.Line("127.0.0.1", self._port)
        for number in self._numbers:
            random = Random(f"{self._seed}/{number}")
            case, began = cases.case(random), time.monotonic()
            if random.random() < BROKEN_SHARE:
                line.close()
                patience_s = wire.PATIENCE_S if random.random() < PATIENT_SHARE else 0.3  # many of them never end
                broken = random.choice(wire.BROKEN)(random, case)
                answer, kind = await line.ask(broken, patience_s=patience_s), "broken HTTP"
                line.close()
                right = answer.status < 500
            else:
                slow = random.random() < SLOW_SHARE
                answer, kind = await self._ask(line, random, case, slow), case.kind
                began = time.monotonic() if slow else began  # it was slow itself
                right = answer.status in case.expected or (answer.status == 0 and len(case.body) > MIB)
            self._note(number, kind, answer, right, time.monotonic() - began)
        line.close()

    async def _ask(self, line: wire.Line, random: Random, case: cases.Case, slow: bool) -> wire.Answer:
        if slow:
            parts = wire.pieces(random, wire.request(case))
            return await line.ask(*parts, pause_s=0.2)
        if random.random() < CHUNKED_SHARE:
            return await line.ask(wire.request(case, chunks=wire.pieces(random, case.body)))
        return await line.ask(wire.request(case))

    def _note(self, number: int, kind: str, answer: wire.Answer, right: bool, took_s: float) -> None:
        found = self.found
        found.answers[kind, answer.status] += 1
        found.done += 1
        told = answer.body.decode("utf-8", "replace")
        if not right:
            found.wrong.append(f"request {number} ({kind}): {answer.status} {told[:200]}")
        if any(secret in told for secret in cases.EVERY_SECRET):
            found.wrong.append(f"request {number} ({kind}): the answer holds a secret")
        if answer.status and kind != "broken HTTP" and not told.startswith("{"):
            found.wrong.append(f"request {number} ({kind}): the answer is no JSON object: {told[:80]}")
        if took_s > found.slowest[0] and kind != "broken HTTP":
            found.slowest = took_s, f"request {number} ({kind}, {answer.status})"
        if found.done % max(1, self._requests // 50) == 0:
            self.sample()

    def sample(self) -> None:
        """Note how much memory the process has."""
        self.found.memory.append((self.found.done, self._process.memory_info().rss / MIB))


@contextmanager
def relay(folder: Path) -> Iterator[tuple[int, Command]]:
    """A `serve` process over a PostgreSQL of its own; its port."""
    server = Embedded(folder / "data", ("-c fsync=off", "-c synchronous_commit=off"))
    try:
        url = server.start()
        asyncio.run(migrated(url))
        with free_port() as port:
            pass
        with commands(folder, url) as start:
            yield port, start("serve", "--port", str(port))
    finally:
        server.stop()


async def _attack(port: int, command: Command, requests: int, seed: int) -> Found:
    async with httpx.AsyncClient() as client:
        await ready(client, f"http://127.0.0.1:{port}")
    attack = Attack(port, psutil.Process(command.process.pid), requests, seed)
    attack.sample()
    await attack.run()
    return attack.found


def report(found: Found, seconds: float, log: str) -> list[str]:
    """The table, and what was wrong, as lines."""
    lines = [f"{found.done} requests in {seconds:.0f} s"]
    for kind in (*cases.KINDS, "broken HTTP"):
        counts = sorted((status, count) for (name, status), count in found.answers.items() if name == kind)
        lines.append(f"  {kind:12}" + "  ".join(f"{status or 'closed'}: {count}" for status, count in counts))
    failed = sum(count for (_, status), count in found.answers.items() if status >= 500)
    warm = [mib for done, mib in found.memory if done >= found.done * WARM_SHARE]
    lines.append(f"answers of 5xx: {failed}")
    lines.append(
        f"memory, MiB: {found.memory[0][1]:.0f} at the start, {warm[0]:.0f} when warm, {warm[-1]:.0f} at the end"
    )
    lines.append(f"  most {max(warm):.0f}; second half: {', '.join(f'{mib:.0f}' for mib in warm[len(warm) // 2 :: 4])}")
    lines.append(f"slowest answer: {found.slowest[0]:.2f} s, {found.slowest[1]}")
    lines.append(f"log: {len(log) / MIB:.1f} MiB")
    if any(secret in log for secret in cases.EVERY_SECRET):
        found.wrong.append("the log holds a secret")
    if "Traceback" in log:
        at = log.index("Traceback")
        found.wrong.append(f"the log holds a traceback: {log[max(0, at - 200) : at + 1500]}")
    lines += [f"wrong: {len(found.wrong)}", *(f"  {each}" for each in found.wrong[:20])]
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-fuzz-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        with relay(folder) as (port, command):
            began = time.monotonic()
            found = asyncio.run(_attack(port, command, given.requests, given.seed))
            lines = report(found, time.monotonic() - began, command.told())
    sys.stdout.write(f"seed {given.seed}: " + "\n".join(lines) + "\n")
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
