"""Logging: one structured line a step, JSON for machines, coloured text on a terminal, no personal data in either."""

import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Literal

import structlog

EMAIL = re.compile(r"([A-Za-z0-9._%+\-]{1,64})(?:@|%40)([A-Za-z0-9.\-]+)")
REFUSED_ROW = re.compile(r"(DETAIL:\s*|invalid input (?:for query argument \$\d+|syntax for type [\w ]+): ).*")
TOKEN_IN_PATH = re.compile(r"(RR-[0-9A-Z]{16})\.[A-Za-z0-9_\-]+")
VALUE = re.compile(
    r"input_value=.*?(?=, input_type=|\]|$)"
    r"|'(?:[^'\\\n]|\\.)*'"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|(?<![\w-])\d{7,}(?!\w)",
    re.MULTILINE,
)
"""What a refused value looks like in the message of an error."""
QUOTES_VALUES = (ValueError, LookupError)
"""Errors of Python and its libraries, pydantic's too, that say what they could not read."""
CHAINED = "\n\nwhich led to:\n\n"


class Seldom:
    """Says which of many equal lines are written: `most` a minute of each kind. The kinds are ours, so they are few."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._kinds: dict[str, list[float]] = {}
        self._left_out: dict[str, int] = {}

    def left_out(self, kind: str) -> int | None:
        """None: not this one. Else how many were left out since the last one that was written."""
        now = self._clock()
        recent = [each for each in self._kinds.get(kind, ()) if now - each < 60]
        if len(recent) >= self._most:
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
            return None
        self._kinds[kind] = [*recent, now]
        return self._left_out.pop(kind, 0)


def redact(text: str) -> str:
    """Text without e-mail addresses, callback tokens and the values of a row that PostgreSQL refused."""
    text = REFUSED_ROW.sub(r"\1***", text)
    if "@" in text or "%40" in text:  # the search takes a second for a megabyte without an end to a word
        text = EMAIL.sub(r"***@\2", text)
    return TOKEN_IN_PATH.sub(r"\1.***", text)


def _redacted(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _clean(value) for key, value in event.items()}


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(key)): _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(each) for each in value]
    return redact(value if isinstance(value, str) else repr(value))


def error_text(exc_info: tuple[type[BaseException], BaseException, TracebackType | None]) -> str:
    """An error with its causes and where each was raised, but without the values that it could not read."""
    told: list[str] = []
    error: BaseException | None = exc_info[1]
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        message = VALUE.sub("…", redact(str(error))) if isinstance(error, QUOTES_VALUES) else str(error)
        where = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"Traceback (most recent call last):\n{where}{type(error).__qualname__}: {message}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return CHAINED.join(reversed(told))


def processors(renderer: Any) -> list[Any]:
    """What an event goes through, the last step being `renderer`."""
    return [structlog.processors.ExceptionRenderer(error_text), _redacted, renderer]


def configure(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Set up this process's logging, to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    as_text = style == "text" or (style == "auto" and sys.stderr.isatty())
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if as_text
        else structlog.processors.JSONRenderer()
    )
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *processors(renderer)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *processors(renderer),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
