"""What all parties of the sandbox share: the door that every call comes through, and the memory of it."""

import json
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from reward_relay.sandbox.modes import HangUp, Rule, Rules, Work, answer_under
from reward_relay.sandbox.weather import Skies


class SandboxOptions(BaseModel):
    """How the sandbox behaves when no rule says otherwise. Times in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_token: str | None = Field(default=None, description="The only vendor access token taken; None = any.")
    token_life_s: float = Field(default=3600, gt=0, description="ExpiresIn of the vendor's bearer tokens.")
    complete_after_s: float = Field(default=0.3, ge=0, description="0 = complete in the first answer, no callback.")
    slow_s: float = Field(default=5, ge=0, description="Delay of an order to a +slow address.")
    seed: int = Field(default=0, description="Same seed, same ids and claim codes.")
    keep_calls: int = Field(default=10_000, ge=1, description="Calls listed in the state; all are counted.")


@dataclass(slots=True)
class Call:
    """One call that came in; `status` stays None where no answer went out, `mode` is the rule's or the weather's."""

    at: str
    party: str
    operation: str
    method: str
    path: str
    key: str | None
    status: int | None = None
    mode: str | None = None
    took_s: float | None = None


def now() -> str:
    """This moment as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat()


def read_json(body: bytes) -> Any:
    """JSON that can be written again.

    Raises:
        ValueError: it is none, or holds NaN, infinity, a lone surrogate or too many levels.
    """
    try:
        found = json.loads(body)
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


class FarSide:
    """The rules in force and everything that was counted."""

    def __init__(self, options: SandboxOptions) -> None:
        self.options = options
        self.rules = Rules()
        self.skies = Skies()
        self.calls: deque[Call] = deque(maxlen=options.keep_calls)
        self.counted: Counter[str] = Counter()
        self.closings: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def reset(self) -> None:
        """Forget every call and rule; the weather is fair."""
        self.rules.clear()
        self.skies.change(None)
        self.calls.clear()
        self.counted.clear()
        self.closings.clear()

    def misbehaviour(self, party: str, operation: str, text: str) -> Rule | None:
        """What is to go wrong with this call, by rule or by weather."""
        return self.rules.take(party, operation, text) or self.skies.take(party, operation, text)

    async def answer(
        self,
        request: Request,
        party: str,
        operation: str,
        work: Work,
        *,
        key: str | None,
        magic: Rule | None = None,
        about: str = "",
    ) -> Response:
        """Answer one call under the rule for it, else under `magic`; `key` is the business key it is counted by.

        `about` is what rules and weather look at besides the call itself: the order that it asks for.
        """
        path, began = request.url.path, time.monotonic()
        call = Call(now(), party, operation, request.method, path, key)
        self.calls.append(call)
        self.counted[f"{party}.{operation}"] += 1
        body = (await request.body()).decode("utf-8", "replace")
        text = f"{path}?{request.url.query}\n{key or ''}\n{body}\n{about}"
        rule = self.misbehaviour(party, operation, text) or magic
        call.mode = rule.mode if rule else None
        response = await answer_under(rule, work)
        call.status = None if isinstance(response, HangUp) else response.status_code
        call.took_s = round(time.monotonic() - began, 3)
        return response

    def closed(self, party: str, key: str, **said: Any) -> None:
        """Remember that a platform was told how reward `key` ended."""
        self.closings.setdefault(party, {}).setdefault(key, []).append({"at": now(), **said})

    def state(self) -> dict[str, Any]:
        """Everything counted here."""
        counts = {party: {key: len(told) for key, told in keys.items()} for party, keys in self.closings.items()}
        return {
            "calls": [asdict(call) for call in self.calls],
            "closings": self.closings,
            "counts": {"calls": dict(self.counted), "closings": counts, "weather": dict(self.skies.counted)},
        }
