"""A short run of `make chaos`: real processes, killed in every way, and the reckoning at the end."""

import json
from pathlib import Path

from typer.testing import CliRunner

from chaos.__main__ import app
from chaos.plan import SORTS

SHORT = ["--orders", "70", "--kills", str(len(SORTS)), "--seed", "3", "--patience", "0", "--minutes", "15"]


def test_killed_in_every_way_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ended = CliRunner().invoke(app, [*SHORT, "--report", str(report)])
    assert ended.exit_code == 0, ended.output
    found = json.loads(report.read_text())
    assert set(found["kills"]) == {*SORTS, "pause"}
    assert sum(found["faults"].values()) > 70
    assert found["closing_repeats"]
    assert not any(found["mistakes"].values())
