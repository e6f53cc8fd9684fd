"""The vendor's bearer token: fetched once for however many calls, renewed early, never twice at the same time."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected
from reward_relay.inbound import pick
from reward_relay.outbound import Answer, Caller, failure_of
from reward_relay.vendors.giftcard_partners import wire

TOKEN_DEADLINE_S = 10.0
"""The longest one renewal may take; the calls that wait for it have deadlines of their own."""
DEFAULT_LIFE_S = 300.0
LONGEST_LIFE_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Token:
    """One bearer token; `renew_at` is on the clock of its `Tokens`."""

    value: SecretStr
    renew_at: float


class Tokens:
    """The cached token of one account. `clock` counts seconds and never goes back, `deadline_s` bounds one renewal."""

    def __init__(
        self,
        caller: Caller,
        request: OutboundRequest,
        setting: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        deadline_s: float = TOKEN_DEADLINE_S,
    ) -> None:
        self._caller = caller
        self._request = request
        self._setting = setting
        self._clock = clock
        self._deadline_s = deadline_s
        self._token: Token | None = None
        self._lock = asyncio.Lock()
        self._renewals = 0
        self._failure: CallFailed | None = None

    async def current(self) -> Token:
        """A token that is good for now.

        Raises:
            NotSent: none could be fetched just now; whatever needed it was not sent.
            PartyRefusesUs: the vendor refuses the access token.
        """
        return self._usable(None) or await self._renewed(None)

    async def after_refusal(self, refused: Token) -> Token:
        """A newer token than the one that the vendor just refused; fetched only if nobody has done so yet.

        Raises:
            NotSent, PartyRefusesUs: as for `current`.
        """
        return self._usable(refused) or await self._renewed(refused)

    def _usable(self, refused: Token | None) -> Token | None:
        token = self._token
        return token if token and token is not refused and self._clock() < token.renew_at else None

    async def _renewed(self, refused: Token | None) -> Token:
        seen = self._renewals
        async with self._lock:
            token = self._usable(refused)
            if token is not None:
                return token
            if self._renewals > seen and self._failure is not None:
                raise _again(self._failure)  # it failed while we waited for it: asking once more would be a stampede
            return await self._renew()

    async def _renew(self) -> Token:
        self._failure = None
        try:
            self._token = await self._fetch()
        except CallFailed as failure:
            self._failure = failure
            raise
        finally:
            self._renewals += 1
        return self._token

    async def _fetch(self) -> Token:
        party = self._caller.party
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._caller.exchange(self._request, read=True)
        except TimeoutError:
            raise NotSent(f"{party} gave no token within {self._deadline_s:.0f} s; nothing was ordered") from None
        except CallFailed as failure:
            raise NotSent(f"no token: {failure.detail}; nothing was ordered") from failure
        self._raise_for(answer)
        return self._read(answer)

    def _raise_for(self, answer: Answer) -> None:
        """A refused token call as its verdict on the order: nothing was sent, whatever became of the token call."""
        failure = failure_of(self._caller.party, answer)
        if failure is None:
            return
        if not isinstance(failure, Rejected):
            raise wire.failure(NotSent, answer, f"no token: {failure.detail}; nothing was ordered")
        causes = {
            401: f"the access token is refused; check {self._setting}.email and {self._setting}.access_token",
            403: "API access is disabled for this account; ask GiftCard Partners to enable it",
        }
        cause = causes.get(answer.status, f"that is no token; check {self._setting}.base_url")
        detail = f"{self._caller.party} answered {answer.status} to POST /v1/Tokens: {cause}"
        raise wire.failure(PartyRefusesUs, answer, detail)

    def _read(self, answer: Answer) -> Token:
        data = wire.read(answer.body)
        value = pick(data, "Value")
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            detail = f"{self._caller.party} answered {answer.status} without a token in Value; nothing was ordered"
            raise NotSent(detail, status=answer.status)
        return Token(SecretStr(value), self._clock() + _good_for(pick(data, "ExpiresIn")))


def _good_for(expires_in: Any) -> float:
    """Seconds until a token is renewed: at 80 % of its life or 60 s before its end, but never in its first half.

    The documentation does not give the unit: seconds are assumed, and an absurd number is not believed.
    """
    try:
        life = float(expires_in)
    except (TypeError, ValueError, OverflowError):
        life = 0.0
    if isinstance(expires_in, bool) or not 0 < life <= LONGEST_LIFE_S:
        life = DEFAULT_LIFE_S
    return max(min(0.8 * life, life - 60), 0.5 * life)


def _again(failure: CallFailed) -> CallFailed:
    """The same failure for one more waiting call; an exception raised twice would drag its first traceback along."""
    return type(failure)(
        failure.detail, status=failure.status, retry_after_s=failure.retry_after_s, answer=failure.answer
    )
