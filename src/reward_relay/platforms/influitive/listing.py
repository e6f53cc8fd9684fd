"""Calls to Influitive's API, and its list of redemptions that still wait for a decision: `GET /reward_redemptions`."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode, urljoin

from pydantic import SecretStr

from reward_relay.contracts import OutboundRequest
from reward_relay.errors import PartyRefusesUs, Rejected, Unknown
from reward_relay.outbound import Answer, Caller
from reward_relay.platforms.influitive import wire

MAX_PAGES = 50


@dataclass(frozen=True, slots=True)
class OpenRedemptions:
    """The open list, each entry with its contact; `complete` says that no page of it is missing."""

    entries: list[dict[str, Any]]
    fields: Mapping[str, str]
    complete: bool

    def find(self, external_id: str) -> dict[str, Any] | None:
        """The entry of a redemption, None where it is not open.

        Raises:
            Unknown: it is on none of the pages that were read, and others are missing.
        """
        found = next((entry for entry in self.entries if wire.is_about(entry, external_id, self.fields)), None)
        if found is None and not self.complete:
            raise Unknown(
                f"redemption {external_id} is not in the part of Influitive's open list that could be read, and the "
                f"list goes on: at most {MAX_PAGES} pages are followed, below api_url only"
            )
        return found


@dataclass(frozen=True, slots=True)
class Api:
    """Influitive's API, with the credentials and the `fields` table of the settings at `where`."""

    caller: Caller
    where: str
    fields: Mapping[str, str]
    token: SecretStr | None
    org_id: str | None

    def missing(self) -> list[str]:
        """The settings without which nothing can be asked or told."""
        credentials = {"api_token": self.token, "org_id": self.org_id}
        return [f"{self.where}.{key}" for key, value in credentials.items() if value is None]

    def request(self, method: str, path: str, json: Any = None) -> OutboundRequest:
        """A request with our credentials (Influitive documentation: `Authorization: Token …` and `X_ORG_ID`)."""
        token = SecretStr(f"Token {self.token.get_secret_value() if self.token else ''}")
        headers = {"X_ORG_ID": self.org_id or ""}
        return OutboundRequest(method, self.caller.url(path), json, headers, {"Authorization": token})

    async def send(self, request: OutboundRequest, *, read: bool = False) -> Answer:
        """Send it.

        Raises:
            CallFailed: PartyRefusesUs for refused credentials; else the verdict.
        """
        try:
            return await self.caller.send(request, read=read)
        except Rejected as failure:
            if failure.status not in (401, 403):
                raise
            detail = f"{failure.detail}: it refuses our credentials; check {self.where}.api_token and org_id"
            raise PartyRefusesUs(detail, status=failure.status, answer=failure.answer) from None

    async def open_redemptions(self) -> OpenRedemptions:
        """All pages of the open list.

        Raises:
            CallFailed: Unknown also for an answer that is no such list, which says nothing about any redemption.
        """
        entries: list[dict[str, Any]] = []
        url: str | None = self.caller.url("/reward_redemptions")
        seen: set[str] = set()
        while url is not None and url not in seen and len(seen) < MAX_PAGES:
            seen.add(url)
            page, found = await self._page(url)
            entries += found
            link = wire.next_page(page)
            if link is None:
                return OpenRedemptions(entries, self.fields, complete=True)
            url = self._following(url, link)
        return OpenRedemptions(entries, self.fields, complete=False)

    def _following(self, url: str, link: str) -> str | None:
        """The next page's address; None where it is none, or not the API's, which alone may see our token."""
        try:
            target = f"{url.partition('?')[0]}?{urlencode({'page': link})}" if link.isdecimal() else urljoin(url, link)
        except ValueError:
            return None
        return target if link and self.caller.reaches(target) else None

    async def _page(self, url: str) -> tuple[Any, list[dict[str, Any]]]:
        request = replace(self.request("GET", "/reward_redemptions"), url=url)
        answer = await self.send(request, read=True)
        page = answer.json()
        entries = wire.open_entries(page)
        if entries is None:
            raise Unknown(
                f"{self.caller.party} answered {answer.status} without a list `reward_redemptions`; check that "
                f"{self.caller.base_url} is the address of its API",
                status=answer.status,
                answer=answer.kept(),
            )
        return page, entries
