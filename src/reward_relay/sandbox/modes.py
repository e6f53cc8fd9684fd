"""How the far side can misbehave, and when: rules, and what each mode does to one answer."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Literal, Self

import httpx
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send


class Mode(StrEnum):
    """What goes wrong."""

    SLOW = "slow"
    """Answers after `delay_s` seconds."""
    LOSE_ANSWER = "lose_answer"
    """Does the work, waits `delay_s`, then closes the connection without an answer."""
    GARBAGE = "garbage"
    """Does the work, then answers something that is not JSON."""
    ERROR_504 = "error_504"
    """Does the work, then answers 504."""
    ERROR_504_BEFORE = "error_504_before"
    """Answers 504 and has done nothing."""
    ERROR_500 = "error_500"
    """Answers 500 and has done nothing."""
    ERROR_500_AFTER = "error_500_after"
    """Does the work, then answers 500."""
    HALF_ANSWER = "half_answer"
    """Does the work, then closes the connection in the middle of the answer's body."""
    DROP = "drop"
    """Closes the connection without an answer, and has done nothing."""
    UNAVAILABLE = "unavailable"
    """Answers 503 and has done nothing."""
    RATE_LIMIT = "rate_limit"
    """Answers 429 with Retry-After, and has done nothing."""
    UNAUTHORIZED = "unauthorized"
    """Answers 401 and has done nothing."""
    INSUFFICIENT_FUNDS = "insufficient_funds"
    """Vendor, place: answers 422 and has done nothing."""
    REFUSE = "refuse"
    """Vendor, place: takes the order, later declines it with `reason`."""
    DUPLICATE = "duplicate"
    """Vendor, place or callback: calls back three times."""
    NEVER_CALL_BACK = "never_call_back"
    """Vendor, place or callback: completes the order and tells nobody."""
    CALL_BACK_FIRST = "call_back_first"
    """Vendor, place or callback: calls back before it has answered the order."""
    SCATTER = "scatter"
    """Vendor, place or callback: calls back three times within `delay_s`, before and after it is complete."""

    LOST = "lost"
    """Vendor, check: answers 404, as if the order had never been made."""
    OTHER_AMOUNT = "other_amount"
    """Vendor, check: tells the order with five more on its first line than was ordered."""


CALLBACK_MODES = frozenset({Mode.DUPLICATE, Mode.NEVER_CALL_BACK, Mode.CALL_BACK_FIRST, Mode.SCATTER})
PLACE_MODES = CALLBACK_MODES | {Mode.REFUSE, Mode.INSUFFICIENT_FUNDS}
CHECK_MODES = frozenset({Mode.LOST, Mode.OTHER_AMOUNT})
CALL_MODES = frozenset(Mode) - PLACE_MODES - CHECK_MODES

VENDOR, KEYLESS = "gcp", "keyless"
OPERATIONS: dict[str, frozenset[str]] = {
    VENDOR: frozenset({"token", "place", "check", "list", "callback"}),
    KEYLESS: frozenset({"token", "place", "find", "check", "list", "callback"}),
    "roster": frozenset({"close"}),
    "influitive": frozenset({"list", "close"}),
    "talkable": frozenset({"close"}),
    "voucherify": frozenset({"read", "close"}),
}


def modes_of(operation: str) -> frozenset[Mode]:
    """The modes that mean something for an operation."""
    if operation == "place":
        return frozenset(Mode) - CHECK_MODES
    if operation == "check":
        return CALL_MODES | CHECK_MODES
    return CALLBACK_MODES | {Mode.SLOW} if operation == "callback" else CALL_MODES


class Rule(BaseModel):
    """One misbehaviour: where, for which calls, how often. The first rule that matches wins."""

    model_config = ConfigDict(extra="forbid")

    party: Literal["gcp", "keyless", "roster", "influitive", "talkable", "voucherify"]
    operation: str = "*"
    match: str | None = Field(default=None, description="Text that the path or the body must hold.")
    mode: Mode
    times: int | None = Field(default=None, ge=1, description="How often; omitted = always.")
    delay_s: float | None = Field(
        default=None, ge=0, le=300, description="For slow (default 5), lose_answer (0), scatter (2)."
    )
    retry_after_s: int = Field(default=1, ge=0, description="For rate_limit.")
    reason: str = Field(default="Out of stock", description="For refuse.")

    _used: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        known = OPERATIONS[self.party]
        if self.operation != "*" and self.operation not in known:
            raise ValueError(f"{self.party} has no operation {self.operation!r}, only {', '.join(sorted(known))} and *")
        operations = known if self.operation == "*" else {self.operation}
        if not any(self.mode in modes_of(operation) for operation in operations):
            raise ValueError(f"{self.mode} means nothing for {self.party} {self.operation}")
        return self

    @property
    def left(self) -> int | None:
        """How often it will still apply, None for always."""
        return None if self.times is None else self.times - self._used

    def applies(self, party: str, operation: str, text: str) -> bool:
        """Whether this call is meant, and the rule is not used up."""
        return (
            self.party == party
            and self.operation in ("*", operation)
            and self.mode in modes_of(operation)
            and self.left != 0
            and (self.match is None or self.match in text)
        )

    def use(self) -> Self:
        """Count one application."""
        self._used += 1
        return self


class Rules:
    """The rules in force, in the order they were set."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def add(self, rules: list[Rule]) -> None:
        """Put rules behind those already set."""
        self._rules.extend(rules)

    def clear(self) -> None:
        """Behave from now on."""
        self._rules.clear()

    def take(self, party: str, operation: str, text: str) -> Rule | None:
        """The rule for this call, counted as used; None where there is none."""
        for rule in self._rules:
            if rule.applies(party, operation, text):
                return rule.use()
        return None

    def shown(self) -> list[dict[str, object]]:
        """All rules with how often each will still apply."""
        return [{**rule.model_dump(exclude_none=True), "left": rule.left} for rule in self._rules]


MAGIC = {"+refuse": Mode.REFUSE, "+slow": Mode.SLOW, "+lost": Mode.LOSE_ANSWER, "+never": Mode.NEVER_CALL_BACK}


def magic_rule(email: str | None, slow_s: float) -> Rule | None:
    """What an address like `ann+refuse@example.com` asks for, so that no API is needed to try it."""
    local = (email or "").partition("@")[0]
    for sign, mode in MAGIC.items():
        if sign in local:
            delay_s = slow_s if mode is Mode.SLOW else None
            return Rule(party="gcp", operation="place", mode=mode, delay_s=delay_s, reason=f"The address says {sign}")
    return None


class HangUp(Response):
    """No answer at all: the connection is closed under the caller."""

    SEEN = "Server disconnected without sending a response."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Close the connection of a uvicorn server; in-process, raise what a client would have seen."""
        transport = scope.get("sandbox.transport")
        if transport is None:
            raise httpx.RemoteProtocolError(self.SEEN)
        await self.preamble(send)
        transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass

    async def preamble(self, send: Send) -> None:
        """What goes out before the connection is closed: nothing."""


class HalfAnswer(HangUp):
    """The beginning of another answer: its status, its headers and half of its body."""

    SEEN = "peer closed connection without sending complete message body"

    def __init__(self, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self._whole = whole

    async def preamble(self, send: Send) -> None:
        """Announce the whole body, and send half of it."""
        body = bytes(self._whole.body)
        start = {"type": "http.response.start", "status": self._whole.status_code, "headers": self._whole.raw_headers}
        await send(start)
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


SPOILING = frozenset({Mode.LOSE_ANSWER, Mode.GARBAGE, Mode.HALF_ANSWER, Mode.ERROR_504, Mode.ERROR_500_AFTER})
"""The work is done, and the caller does not hear how."""
Work = Callable[[Rule | None], Awaitable[Response]]


async def answer_under(rule: Rule | None, work: Work) -> Response:
    """What the far side answers: `work` done or not, told or not, as the rule says."""
    mode = rule.mode if rule else None
    if rule is None or mode in (PLACE_MODES | CHECK_MODES) - {Mode.INSUFFICIENT_FUNDS}:
        return await work(rule)
    if mode is Mode.SLOW:
        await asyncio.sleep(5.0 if rule.delay_s is None else rule.delay_s)
        return await work(rule)
    if mode in SPOILING:
        return await _spoiled(rule, await work(rule))
    return _nothing_done(rule)


async def _spoiled(rule: Rule, answer: Response) -> Response:
    """The work is done, and the caller does not hear it."""
    if rule.mode is Mode.LOSE_ANSWER:
        await asyncio.sleep(rule.delay_s or 0)
        return HangUp()
    if rule.mode is Mode.GARBAGE:
        return Response("<html>Service is fine</html>", status_code=answer.status_code, media_type="text/html")
    if rule.mode is Mode.HALF_ANSWER:
        return HalfAnswer(answer)
    if rule.mode is Mode.ERROR_500_AFTER:
        return _error(500, "Something broke afterwards")
    return _error(504, "The gateway gave up waiting")


def _nothing_done(rule: Rule) -> Response:
    """An error before any work."""
    if rule.mode is Mode.DROP:
        return HangUp()
    if rule.mode is Mode.RATE_LIMIT:
        return _error(429, "Too many requests", {"Retry-After": str(rule.retry_after_s)})
    status, message = {
        Mode.ERROR_504_BEFORE: (504, "The gateway gave up waiting"),
        Mode.ERROR_500: (500, "Something broke"),
        Mode.UNAVAILABLE: (503, "Down for maintenance"),
        Mode.UNAUTHORIZED: (401, "The token is not valid"),
        Mode.INSUFFICIENT_FUNDS: (422, "Insufficient funds"),
    }[rule.mode]
    return _error(status, message)


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"Message": message}, status_code=status, headers=headers)
