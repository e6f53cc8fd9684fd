"""What is allowed and still unwise."""

from pathlib import Path

import pytest

from reward_relay.cautions import cautions
from support.relays import CONFIGURATION, settings

HTTPS = CONFIGURATION.replace("http://far.test", "https://far.test")


def test_a_file_of_secrets_that_everybody_may_read_is_unwise(tmp_path: Path) -> None:
    found, file = settings(tmp_path, HTTPS), tmp_path / "relay.toml"
    file.chmod(0o644)
    (said,) = cautions(found, file)
    assert said == f"{file} holds secrets, and every user of this machine may read it; run: chmod o-rwx {file}"
    file.chmod(0o640)
    assert cautions(found, file) == []


def test_a_file_without_secrets_may_be_read_by_everybody_and_env_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file, dotenv = tmp_path / "relay.toml", tmp_path / ".env"
    dotenv.write_text("RELAY_VENDORS__GCP__ACCESS_TOKEN=token-of-the-environment\n")
    file.write_text('log_level = "info"\n')
    for each in (file, dotenv):
        each.chmod(0o644)
    found = settings(tmp_path / "..", HTTPS, {"RELAY_VENDORS__GCP__ACCESS_TOKEN": "token-of-the-environment"})
    assert [each.partition(" ")[0] for each in cautions(found, file)] == [".env"]
    assert cautions(found, tmp_path / "gone.toml") == cautions(found, None) == cautions(found, file)


@pytest.mark.parametrize("far", ["127.0.0.1:8090", "localhost", "[::1]", "10.1.2.3", "sandbox:8090", "SANDBOX"])
def test_calls_that_stay_in_the_house_need_no_encryption(far: str, tmp_path: Path) -> None:
    text = 'private_hosts = ["Sandbox"]\n' + CONFIGURATION.replace("far.test", far)
    assert cautions(settings(tmp_path, text), None) == []


def test_tokens_across_the_internet_without_encryption_are_unwise(tmp_path: Path) -> None:
    text = CONFIGURATION + '[alerts]\nurl = "http://chat.example.com/hook-1"\n'
    said = cautions(settings(tmp_path, text), None)
    keys = [
        "sources.voucherify.api_url",
        "sources.roster.api_url",
        "sources.influitive.api_url",
        "vendors.gcp.base_url",
    ]
    assert [each.partition(" ")[0] for each in said] == [*keys, "alerts.url"]
    assert "hook-1" not in " ".join(said)
