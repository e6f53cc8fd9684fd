"""The API's description is true: schemathesis calls a running server as it says, and otherwise."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from reward_relay.processes import bind
from reward_relay.web.app import create_app
from reward_relay.wiring import Relay, build
from support.relays import OPERATOR, VIEWER, client_of, ended, settings, working
from support.steered import Steered, accepted, roster, talkable

UNHURRIED = hypothesis_settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Served:
    """A relay with some orders, served from a thread; `known` are names of things that exist in it."""

    def __init__(self, found: Any, database_url: str) -> None:
        self._far = Steered()
        self._settings, self._database_url = found, database_url
        self._socket = bind("127.0.0.1", 0, 1)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.known: dict[str, list[str]] = {}
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(30)

    async def _serve(self) -> None:
        relay = build(self._settings, self._database_url, transport=self._far.transport)
        try:
            await self._fill(relay)
            self._server = uvicorn.Server(uvicorn.Config(create_app(relay), log_config=None, lifespan="off"))
            self._ready.set()
            await self._server.serve(sockets=[self._socket])
        finally:
            self._ready.set()
            await relay.close()

    async def _fill(self, relay: Relay) -> None:
        async with client_of(relay) as client:
            async with working(relay):
                await ended(relay, await accepted(client, "talkable", talkable()), "placed")
            orders = [await accepted(client, "roster", roster(f"R-{number}")) for number in range(4)]
            await relay.ops.hold(orders[0], "alice", "wait")
            await client.post("/webhooks/roster", content=b"not JSON", headers=roster().headers)
            arrived = (await client.get("/api/v1/deliveries")).json()["items"]
        plan = await relay.bulk.plan("release", {}, "alice")
        self.known = {
            "order_id": [*orders, "R-1", "8261305"],
            "delivery_id": [each["id"] for each in arrived],
            "party": ["vendor:gcp", "source:roster"],
            "token": [plan["token"]],
            "source": ["roster", "talkable"],
            "vendor": ["gcp"],
        }


@pytest.fixture
async def served(database_url: str, tmp_path: Path) -> AsyncIterator[Served]:
    with Served(settings(tmp_path), database_url) as found:
        yield found


def description(served: Served) -> Any:
    """What schemathesis makes of the description that the server hands out."""
    project = ProjectConfig(generation=GenerationConfig(deterministic=True, database="none"))
    config = SchemathesisConfig(seed=1, projects=ProjectsConfig(default=project))
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


def call_everything(served: Served, key: str, mode: GenerationMode, examples: int) -> tuple[int, list[str]]:
    """Call every operation with valid or invalid values; returns how many calls there were, and what was wrong."""
    called, wrong = 0, []
    for found in description(served).get_all_operations():
        operation = found.ok()

        @hypothesis_settings(UNHURRIED, max_examples=examples)
        @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
        def call(case: Any, data: st.DataObject) -> None:
            nonlocal called
            called += 1
            for name in case.path_parameters or {} if mode is GenerationMode.POSITIVE else ():
                if data.draw(st.booleans()):
                    case.path_parameters[name] = data.draw(st.sampled_from(served.known[name]))
            passed_over: list[Any] = []
            if case.operation.path == "/api/v1/routes/diff":  # no schema says what a right configuration is
                passed_over.append(positive_data_acceptance)
            if "" in (case.query or {}).values():  # an empty parameter is as a missing one, on purpose
                passed_over.append(negative_data_rejection)
            case.call_and_validate(headers={"Authorization": f"Bearer {key}"}, excluded_checks=passed_over)

        try:
            call()
        except Unsatisfiable:  # nothing of it can be wrong: it takes nothing
            assert mode is GenerationMode.NEGATIVE
        except FailureGroup as error:
            wrong.append(str(error))
    return called, wrong


@pytest.mark.parametrize(
    ("key", "mode", "examples"),
    [
        pytest.param(OPERATOR, GenerationMode.POSITIVE, 8, id="operator, as told"),
        pytest.param(OPERATOR, GenerationMode.NEGATIVE, 6, id="operator, otherwise"),
        pytest.param(VIEWER, GenerationMode.POSITIVE, 3, id="viewer, as told"),
    ],
)
async def test_every_call_is_answered_as_described(
    served: Served, key: str, mode: GenerationMode, examples: int
) -> None:
    called, wrong = await anyio.to_thread.run_sync(call_everything, served, key, mode, examples)
    if wrong:
        pytest.fail("\n".join(wrong))
    assert called > 15 * examples
