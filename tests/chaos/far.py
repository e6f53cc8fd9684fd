"""The sandbox as the far side of a run: it remembers every call. And what it says, read for counting."""

import argparse
import re
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chaos.plan import NAME, Reward
from reward_relay.processes import end_quietly, serve_app
from reward_relay.sandbox.app import create_app
from reward_relay.sandbox.far_side import SandboxOptions

UNHEARD = frozenset({"lose_answer", "half_answer", "error_504", "error_500_after", "garbage"})
"""Modes in which a closing call worked, and the relay cannot know it."""


@dataclass(frozen=True, slots=True)
class Told:
    """One closing call that worked: when (seconds since 1970), how the reward ended, and whether its answer was lost.

    `took_s` is how long the platform took to answer.
    """

    at: float
    outcome: str
    unheard: bool
    took_s: float = 0.0


@dataclass(slots=True)
class Far:
    """What vendor and platforms have seen, by the names of rewards: each order's status, and each closing call.

    `strangers` are orders and closing calls for what was never redeemed.
    """

    made: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    told: dict[str, list[Told]] = field(default_factory=lambda: defaultdict(list))
    strangers: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    callbacks: int = 0


def read(state: dict[str, Any], rewards: list[Reward]) -> Far:
    """The sandbox's state by rewards."""
    far = Far(faults=dict(sorted(state["counts"]["weather"].items())))
    names = {reward.name for reward in rewards}
    by_key = {(each.source, each.external_id): each.name for each in rewards}
    for order in state["orders"]:
        name = _named(f"{order['LineItems']}")
        far.callbacks += len(order["callbacks"])
        if name in names:
            far.made[name].append(order["Status"])
        else:
            far.strangers.append(f"order {order['Id']} at {order['Vendor']}")
    calls = _worked(state["calls"])
    for party, keys in state["closings"].items():
        for key, said in keys.items():
            name = by_key.get((party, key)) or _named(key)
            if name not in names:
                far.strangers.append(f"closing call for {key} at {party}")
                continue
            far.told[name] += [_told(each, calls[party, key]) for each in said]
    return far


def _worked(calls: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for call in calls:
        if call["operation"] == "close":
            found[call["party"], call["key"]].append(call)
    return found


def _told(said: dict[str, Any], calls: list[dict[str, Any]]) -> Told:
    """A telling with the call that it came by: the last that began before it."""
    at = datetime.fromisoformat(said["at"]).timestamp()
    before = [call for call in calls if datetime.fromisoformat(call["at"]).timestamp() <= at]
    call: dict[str, Any] = before[-1] if before else {}
    return Told(at, outcome_of(said), call.get("mode") in UNHEARD, call.get("took_s") or 0.0)


def outcome_of(said: dict[str, Any]) -> str:
    """How a platform was told that the reward ended, from what each of them is told."""
    words = f"{said}".lower()
    refused = any(word in words for word in ("refuse", "cancelled", "rollback"))
    return "refused" if refused else "fulfilled" if "fulfill" in words else "?"


def _named(text: str) -> str:
    found = re.search(NAME, text)
    return found[0] if found else ""


def load() -> None:
    """Nothing more is loaded than this module does."""


def main() -> None:
    """Serve the sandbox on an inherited socket."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--fd", type=int, required=True)
    end_quietly()
    listener = socket.socket(fileno=arguments.parse_args().fd)
    serve_app(create_app(SandboxOptions(keep_calls=1_000_000)), listener)


if __name__ == "__main__":
    main()
