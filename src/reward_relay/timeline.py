"""Everything that happened to an order in one order of time: what arrived, what was decided, what was called."""

from collections.abc import Sequence

from reward_relay.db.queries import Row

BEFORE = {"delivery": 0, "event": 1, "call": 2}
"""What is told first where one transaction wrote several at the same time."""


def timeline(first_delivery: str, events: Sequence[Row], calls: Sequence[Row], deliveries: Sequence[Row]) -> list[Row]:
    """The entries, oldest first; every entry has every key, None where it has nothing to say."""
    told = [
        *(_delivery(each, first_delivery) for each in deliveries),
        *(_event(each) for each in events),
        *(_call(each) for each in calls),
    ]
    return sorted(told, key=lambda entry: (entry["at"], BEFORE[entry["kind"]]))


def _entry(**said: object) -> Row:
    names = ("at", "kind", "who", "text", "from_state", "to_state", "purpose", "verdict", "status", "took_s", "answer")
    return {**dict.fromkeys((*names, "delivery_id")), **said}


def _event(each: Row) -> Row:
    told = {"who": each["actor"], "text": each["reason"] or f"now {each['to_state']}"}
    return _entry(at=each["at"], kind="event", from_state=each["from_state"], to_state=each["to_state"], **told)


def _call(each: Row) -> Row:
    took = (each["finished_at"] - each["started_at"]).total_seconds() if each["finished_at"] else None
    status = f" ({each['status']})" if each["status"] else ""
    same = {name: each[name] for name in ("purpose", "verdict", "status", "answer")}
    text = f"{each['purpose']}: {each['verdict'] or 'not recorded'}{status}"
    return _entry(at=each["started_at"], kind="call", who=each["party"], text=text, took_s=took, **same)


def _delivery(each: Row, first: str) -> Row:
    what = "the reward arrived" if str(each["id"]) == first else f"arrived again: {each['reason'] or each['verdict']}"
    told = {"who": f"source:{each['source']}", "text": f"{what} by {each['via']}", "verdict": each["verdict"]}
    return _entry(at=each["received_at"], kind="delivery", delivery_id=str(each["id"]), **told)
