"""Everything about one order in one file: the bytes that came, the verdicts, what was sent, what was answered."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from reward_relay import __version__
from reward_relay.contracts import Ending, OutboundRequest, Placement, Plan, RewardOrder
from reward_relay.db import ledger, queries
from reward_relay.db.engine import Database
from reward_relay.db.queries import Row
from reward_relay.errors import KeyMissing, Unreadable
from reward_relay.ledger import flaws
from reward_relay.outbound import digest, encoded
from reward_relay.sealing import Stored
from reward_relay.states import Outcome
from reward_relay.steps import Parties

MOST_DELIVERIES = 200
READ_ME = (
    "Times are UTC. deliveries: what arrived, byte for byte (body_base64). events: what was decided; each hash is over "
    "the hash before it and the event, so that no event can be changed, added or left out unseen. calls: every attempt "
    "to call a party; exchanges are its requests with the SHA-256 of the body that was sent, answer is what was kept "
    "of the answer. requests: the same bodies made again from what is stored, and whether their SHA-256 is that of a "
    "body that was sent. Secrets, tokens and claim data are left out."
)


class Evidence:
    """Collects the proof of an order over one database and one configuration."""

    def __init__(self, database: Database, parties: Parties, opened: Callable[[Stored], bytes]) -> None:
        self._opened = opened
        self._database = database
        self._parties = parties

    async def of(self, key: str) -> Row:
        """The evidence of one order by id, PO number or external id, ready for JSON.

        Raises:
            NotFound: there is none.
            NotAllowed: there are several with this external id.
        """
        async with self._database.transaction() as connection:
            row = await queries.find_order(connection, key)
            token = await ledger.callback_token(connection, row["id"])
            events, calls = await queries.history(connection, row["id"])
            arrived = await queries.list_deliveries(connection, {"order_id": row["id"]}, MOST_DELIVERIES)
            found = [await queries.find_delivery(connection, str(each["id"])) for each in reversed(arrived)]
        chain = [{**each, "hash": bytes.fromhex(each["hash"])} for each in events]
        wrong = flaws({**row, "events": chain})
        return {
            "read_me": READ_ME,
            "relay": __version__,
            "order": {name: value for name, value in row.items() if name not in ("claimed", "interrupted")},
            "deliveries": [self._delivery(each) for each in found if each],
            "events": events,
            "chain": {"whole": not wrong, "flaws": wrong, "head": events[-1]["hash"] if events else None},
            "calls": calls,
            "requests": self._requests(row, token, calls),
        }

    def _requests(self, row: Row, token: str, calls: list[Row]) -> list[Row]:
        """What was sent, made again; only for purposes that were called."""
        made = {"place": self._place, "close": self._close}
        called = {call["purpose"] for call in calls}
        return [self._compared(name, make, row, token, calls) for name, make in made.items() if name in called]

    def _compared(self, purpose: str, make: Any, row: Row, token: str, calls: list[Row]) -> Row:
        try:
            request = make(row, token)
        except (Unreadable, ValidationError, KeyError) as error:
            return {"purpose": purpose, "request": None, "why": f"cannot be made again: {error}"}
        if request is None:
            return {"purpose": purpose, "request": None, "why": "the platform is not called for this"}
        content = None if request.json is None else encoded(request.json)
        sent = [call["id"] for call in calls if _sent(call, request.url, digest(content))]
        why = "" if sent else "no request that was sent has this body; personal data or configuration changed since"
        shown = _masked(request.shown(), token)
        return {"purpose": purpose, "request": shown, "sha256": digest(content), "sent_in_calls": sent, "why": why}

    def _place(self, row: Row, token: str) -> OutboundRequest:
        plan, reward = Plan.model_validate(row["plan"]), RewardOrder.model_validate(row["reward"])
        url = self._parties.callback_url(plan.vendor, row["po_number"], token)
        placement = Placement(plan, reward.recipient, url, reward.message)
        return self._parties.vendors[plan.vendor].preview(placement, row["po_number"])

    def _close(self, row: Row, _: str) -> OutboundRequest | None:
        ending = Ending(Outcome(row["outcome"] or Outcome.CANCELLED), row["message"])
        reward = RewardOrder.model_validate(row["reward"])
        request = self._parties.platforms[row["source"]].preview_close(reward, ending)
        return request if isinstance(request, OutboundRequest) else None

    def _delivery(self, row: Row) -> Row:
        said = {name: value for name, value in row.items() if name not in ("body", "order_id")}
        try:
            body = self._opened(row["body"])
        except KeyMissing as error:
            return {**said, "body": None, "no_body": error.detail}
        shown = {"body": body.decode("utf-8", "replace"), "body_base64": base64.b64encode(body).decode()}
        return {**said, **shown, "body_sha256": hashlib.sha256(body).hexdigest()}


def _sent(call: Row, url: str, body: str | None) -> bool:
    return any(each.get("url") in (url, None) and each["sha256"] == body for each in call["exchanges"] or [])


def _masked(value: Any, token: str) -> Any:
    """Without the secret of the order's callback address."""
    if isinstance(value, str):
        return value.replace(token, "***")
    if isinstance(value, dict):
        return {name: _masked(each, token) for name, each in value.items()}
    return [_masked(each, token) for each in value] if isinstance(value, list | tuple) else value
