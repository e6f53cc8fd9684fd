"""Log lines: one each, as JSON or text, without personal data and tokens."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from reward_relay import logs

PRIVATE = "ann@example.com called /vendor-webhooks/gcp/RR-0123456789ABCDEF.s3cret-token"
PUBLIC = "***@example.com called /vendor-webhooks/gcp/RR-0123456789ABCDEF.***"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undoes what a test configures."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What the one log line says."""
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_addresses_and_tokens_are_redacted() -> None:
    assert logs.redact(PRIVATE) == PUBLIC
    assert logs.redact("a+b@x.org, c.d@y.org") == "***@x.org, ***@y.org"
    assert logs.redact("order RR-0123456789ABCDEF of a fine day") == "order RR-0123456789ABCDEF of a fine day"


def test_a_json_line_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    structlog.get_logger().info("step", order_id="1", detail=PRIVATE)
    line = json.loads(last_line(capsys))
    assert (line["event"], line["order_id"], line["level"], line["detail"]) == ("step", "1", "info", PUBLIC)
    assert line["timestamp"].endswith("Z")


def test_without_a_terminal_the_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "auto")
    structlog.get_logger().info("step")
    assert json.loads(last_line(capsys))["event"] == "step"


@pytest.mark.parametrize("style", ["json", "text"])
def test_nothing_private_is_in_a_line_however_deep(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure("info", style)  # type: ignore[arg-type]
    structlog.get_logger().info(PRIVATE, nested={"who": [PRIVATE], "what": ({"x": PRIVATE},)})
    line = last_line(capsys)
    assert "***@example.com" in line
    assert "ann@" not in line
    assert "s3cret" not in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_nothing_private_is_in_the_traceback_of_an_error(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure("info", style)  # type: ignore[arg-type]
    try:
        raise ValueError(PRIVATE)
    except ValueError:
        structlog.get_logger().exception("work_failed", order_id="1")
    line = last_line(capsys)
    assert "ValueError" in line
    assert "***@example.com" in line
    assert "ann@" not in line
    assert "s3cret" not in line


@pytest.mark.parametrize("style", ["json", "text"])
def test_what_libraries_log_is_redacted_too(capsys: pytest.CaptureFixture[str], style: str) -> None:
    logs.configure("info", style)  # type: ignore[arg-type]
    logging.getLogger("some.library").warning("%s failed", PRIVATE)
    try:
        raise ValueError(PRIVATE)
    except ValueError:
        logging.getLogger("some.library").exception("again")
    line = last_line(capsys)
    assert "again" in line
    assert "ValueError" in line
    assert "ann@" not in line
    assert "s3cret" not in line


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    structlog.get_logger().info("step")
    logging.getLogger("some.library").info("chatter")
    assert last_line(capsys) == ""
