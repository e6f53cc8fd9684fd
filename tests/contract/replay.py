"""A far side that answers as recorded, and the ways in which every far side can fail."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from contract.cases import Answer, Exchange, Request
from reward_relay.contracts import OutboundRequest
from reward_relay.errors import CallFailed, NotSent, PartyRefusesUs, Rejected, Unknown
from reward_relay.outbound import Outbound

Trouble = Answer | httpx.TransportError

OF_THE_CLIENT = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}
"""Headers that the HTTP client adds to every request by itself."""

TROUBLES: dict[str, tuple[Trouble, type[CallFailed]]] = {
    "400": (Answer(status=400), Rejected),
    "401": (Answer(status=401), PartyRefusesUs),
    "403": (Answer(status=403), PartyRefusesUs),
    "404": (Answer(status=404), Rejected),
    "429": (Answer(status=429, headers={"Retry-After": "7"}), NotSent),
    "500": (Answer(status=500), Unknown),
    "503": (Answer(status=503), Unknown),
    "504": (Answer(status=504), Unknown),
    "connection refused": (httpx.ConnectError("connection refused"), NotSent),
    "dropped after sending": (httpx.RemoteProtocolError("server disconnected"), Unknown),
}
"""What may go wrong, and what is then known of the request; `CallFailed` says what each verdict means."""


class FarSide:
    """Answers each request as recorded, by method and URL, several recordings of one in turn, the last for ever.

    What was not recorded gets `otherwise`, and fails the test where there is none.
    """

    def __init__(self, recorded: Iterable[Exchange] = (), otherwise: Trouble | None = None) -> None:
        self.otherwise = otherwise
        self.requests: list[httpx.Request] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        for each in recorded:
            self._answers.setdefault((each.request.method, each.request.url), []).append(each.answer)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answers = self._answers.get((request.method, str(request.url)), [])
        answer = answers.pop(0) if len(answers) > 1 else next(iter(answers), self.otherwise)
        if answer is None:
            raise AssertionError(f"{request.method} {request.url} is not among the recorded requests")
        if isinstance(answer, httpx.TransportError):
            raise answer
        return httpx.Response(answer.status, headers=answer.headers, content=answer.body.encode())

    @property
    def outbound(self) -> Outbound:
        """The way to this far side and to nothing else."""
        return Outbound(transport=lambda: httpx.MockTransport(self))

    @property
    def sent(self) -> list[Request]:
        """What went out, as a recorded file would have it."""
        return [_sent(request) for request in self.requests]

    def writes(self) -> list[Request]:
        """What went out that may change something there."""
        return [request for request in self.sent if request.method != "GET"]


def _sent(request: httpx.Request) -> Request:
    headers = {name: value for name, value in request.headers.items() if name not in OF_THE_CLIENT}
    body = request.content.decode() if request.content else None
    return Request(method=request.method, url=str(request.url), headers=headers, body=body)


def recorded(request: Request) -> Request:
    """A recorded request as `FarSide.sent` has it: header names do not care about letter case."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Request(method=request.method, url=request.url, headers=headers, body=request.body)


def previewed(preview: object) -> Request:
    """A preview as the request that it stands for."""
    assert isinstance(preview, OutboundRequest), preview
    secrets = {name: value.get_secret_value() for name, value in preview.secret_headers.items()}
    body = None if preview.json is None else json.dumps(preview.json, ensure_ascii=False, separators=(",", ":"))
    headers = {} if body is None else {"Content-Type": "application/json"}
    headers |= {**preview.headers, **secrets}
    return recorded(Request(method=preview.method, url=preview.url, headers=headers, body=body))


def without(request: Request, names: Iterable[str]) -> Request:
    """A request without some of its headers."""
    dropped = {name.lower() for name in names}
    kept = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
    return request.model_copy(update={"headers": kept})


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *texts(each))
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
