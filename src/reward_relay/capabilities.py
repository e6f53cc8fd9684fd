"""What some adapters can do besides their protocol. Whoever has the method has the capability; nobody must."""

from typing import Protocol, runtime_checkable

from reward_relay.contracts import Progress


@runtime_checkable
class ListsOpen(Protocol):
    """A platform that can say which rewards it still waits for."""

    async def open_list(self) -> tuple[list[bytes], bool] | None:
        """Bodies that `parse` understands, and whether they are all there are; None where it cannot be asked.

        Raises:
            CallFailed: as `outbound` gives it.
        """
        ...


@runtime_checkable
class KnowsWords(Protocol):
    """A vendor whose status words can be read without asking it, as on a statement."""

    def progress_of(self, word: str) -> Progress | None:
        """What a status word means, None for an unknown one."""
        ...
