"""A name that does not resolve in time keeps nobody else's calls waiting."""

import asyncio
import socket
import threading
from typing import Any

import pytest
import uvloop

from reward_relay.lookups import OwnThreads


@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_many_names_that_hang_keep_no_other_waiting(loop_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, all_asked, asked, resolve = threading.Event(), threading.Event(), [], socket.getaddrinfo

    def look(host: str, port: int, **how: Any) -> Any:
        asked.append(host)
        if len(asked) == 40:
            all_asked.set()
        if host.endswith(".hangs.test"):
            gate.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return resolve("127.0.0.1", port, **how)

    async def main() -> None:
        threads = OwnThreads()
        hanging = [asyncio.create_task(threads.getaddrinfo(f"{n}.hangs.test", 443)) for n in range(40)]
        await asyncio.to_thread(all_asked.wait)
        found = await threads.getaddrinfo("well.test", 443, type=socket.SOCK_STREAM)
        assert found[0][4] == ("127.0.0.1", 443)
        assert not any(task.done() for task in hanging)
        hanging.pop().cancel()
        gate.set()
        answers = await asyncio.gather(*hanging, return_exceptions=True)
        assert {type(each) for each in answers} == {socket.gaierror}

    monkeypatch.setattr(socket, "getaddrinfo", look)
    with asyncio.Runner(loop_factory=loop_of) as runner:
        runner.run(main())
