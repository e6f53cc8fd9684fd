"""Asks vendors about their orders: a few at a time, never in a transaction, and not again once one wants to be left."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from reward_relay.contracts import Recipient, Vendor, VendorOrder
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected
from reward_relay.outbound import failure_of
from reward_relay.personal import masked

log = structlog.get_logger()
Row = Mapping[str, Any]
Answers = list[tuple[Row, VendorOrder | None]]
PATIENCE = 3
"""Failures of one vendor in a row after which it is left alone."""
NOT_THERE = (404, 410)
DOUBTED = 5
"""So many orders that a vendor all does not know say that it is the wrong account, not that they were lost."""


class Asking:
    """One run's questions, at most `limit`. What stops it goes to `problem`, in a sentence."""

    def __init__(
        self, vendors: Mapping[str, Vendor], deadline_s: float, at_once: int, limit: int, problem: Callable[[str], None]
    ) -> None:
        self._vendors = vendors
        self._deadline_s = deadline_s
        self._at_once = at_once
        self._left = limit
        self._limit = limit
        self._problem = problem
        self._stopped: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._skipped: dict[str, int] = {}
        self._unanswered: dict[str, int] = {}
        self._missing: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def stop(self, vendor: str, why: str) -> None:
        """Ask this vendor no more."""
        self._stopped.setdefault(vendor, why)

    def doubted(self, vendor: str) -> bool:
        """Whether the vendor has denied every order it was asked about, and they were many."""
        return self._missing.get(vendor, 0) >= DOUBTED and not self._known.get(vendor)

    async def about(self, rows: Sequence[Row]) -> Answers:
        """The vendor's orders of these rows, None where it has none; rows without an answer are left out."""
        todo, answers = list(rows), Answers()

        async def some() -> None:
            while todo:
                row = todo.pop(0)
                if self._may_ask(row["vendor"]):
                    answered, order = await self._one(row["vendor"], row["vendor_order_id"])
                    if answered:
                        answers.append((row, order))

        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(some())
        return answers

    def _may_ask(self, name: str) -> bool:
        if name not in self._vendors:
            self.stop(name, "it is no longer configured")
        if self._left <= 0:
            self.stop(name, f"the limit of {self._limit} questions was reached; raise it to look at all")
        if name in self._stopped:
            self._skipped[name] = self._skipped.get(name, 0) + 1
            return False
        self._left -= 1
        return True

    async def _one(self, name: str, vendor_order_id: str) -> tuple[bool, VendorOrder | None]:
        """Whether the vendor answered, and its order."""
        try:
            async with asyncio.timeout(self._deadline_s):
                order = await self._vendors[name].check(vendor_order_id)
        except Exception as error:
            failure = failure_of(name, error)
            if failure is None or not isinstance(error, CallFailed | TimeoutError):
                log.exception("reconcile_question_failed", vendor=name)
            return self._failed(name, failure), None
        self._failures[name] = 0
        self._known[name] = self._known.get(name, 0) + 1
        return True, order

    def _failed(self, name: str, failure: CallFailed | None) -> bool:
        if isinstance(failure, Rejected) and failure.status in NOT_THERE:
            self._failures[name] = 0
            self._missing[name] = self._missing.get(name, 0) + 1
            return True
        self._unanswered[name] = self._unanswered.get(name, 0) + 1
        self._failures[name] = self._failures.get(name, 0) + 1
        detail = masked(failure.detail, Recipient()) if failure else "a fault of ours; the log says more"
        slow_down = isinstance(failure, NotSent) and failure.status == 429
        if slow_down or isinstance(failure, PartyRefusesUs) or self._failures[name] >= PATIENCE:
            wait = f"; it asks to wait {round(failure.retry_after_s)} s" if failure and failure.retry_after_s else ""
            self.stop(name, f"{detail}{wait}")
        return False

    def conclude(self) -> None:
        """Say what was not looked at, and why."""
        for name in sorted({*self._stopped, *self._unanswered}):
            why = self._stopped.get(name)
            unanswered, skipped = self._unanswered.get(name, 0), self._skipped.get(name, 0)
            parts = [f"{unanswered} questions without an answer"] if unanswered else []
            parts += [f"{skipped} orders not asked about"] if skipped else []
            if parts:
                self._problem(f"{name}: {' and '.join(parts)}" + (f": {why}" if why else ""))
        for name in sorted(self._missing):
            if self.doubted(name):
                self._problem(
                    f"{name} knows none of the {self._missing[name]} orders it was asked about: check base_url and "
                    f"account before you believe it; nothing is repaired"
                )
