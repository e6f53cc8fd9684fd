"""Configuration: every mistake is one line that names its key or variable and what would be right."""

import traceback
from decimal import Decimal
from pathlib import Path

import pytest

from reward_relay.errors import ConfigurationError
from reward_relay.loading import child_environment
from reward_relay.settings import Settings
from reward_relay.wiring import load_settings
from support.relays import CONFIGURATION, settings

GOOD = """
[api_keys.alice]
key = "alice-key-0123456789"
[sources.talkable]
platform = "talkable"
secrets = ["talkable-key-1"]
[vendors.gcp]
kind = "giftcard_partners"
base_url = "https://vendor.example.com"
email = "orders@example.com"
access_token = "gcp-access-token"
[[routes]]
name = "gift cards"
vendor = "gcp"
product = "CVS"
"""


def mistakes(folder: Path, text: str = GOOD, **environ: str) -> list[str]:
    """What is wrong with a configuration, without the file's folder."""
    with pytest.raises(ConfigurationError) as error:
        settings(folder, text, environ)
    assert all("\n" not in line for line in error.value.problems)
    return [line.replace(f"{folder}/", "") for line in error.value.problems]


def test_a_good_configuration_has_no_mistakes(tmp_path: Path) -> None:
    found = settings(tmp_path, GOOD)
    assert found.sources["talkable"].platform == "talkable"
    assert found.sources["talkable"].secrets[0].get_secret_value() == "talkable-key-1"
    assert found.routes[0].vendor == "gcp"
    assert found.api_keys["alice"].role == "viewer"


@pytest.mark.parametrize(
    ("right", "wrong", "line"),
    [
        ("product =", "prodct =", 'routes.0.prodct: no such setting; did you mean "product"?'),
        ('name = "gift cards"', "", "routes.0.name: is missing, and there is no default"),
        ('vendor = "gcp"', 'vendor = "gpc"', 'routes.0.vendor: there is no [vendors.gpc]; did you mean "gcp"?'),
        (
            'vendor = "gcp"',
            'vendor = "gcp"\nsources = ["talkabel"]',
            'routes.0.sources: there is no [sources.talkabel]; did you mean "talkable"?',
        ),
        (
            'secrets = ["talkable-key-1"]',
            'secrets = ["abc"]',
            "sources.talkable.secrets.0: has 3 characters, at least 8 are needed; make one with: openssl rand -hex 24",
        ),
        (
            'secrets = ["talkable-key-1"]',
            'secrets = ["talkable-key-1", "ChangeMe"]',
            "sources.talkable.secrets.1: is a well-known default; make a new one with: openssl rand -hex 24",
        ),
        (
            'secrets = ["talkable-key-1"]',
            "secrets = []",
            "sources.talkable.secrets: needs at least one secret, or anybody could order rewards",
        ),
        (
            '"alice-key-0123456789"',
            '"alice-key"',
            "api_keys.alice.key: has 9 characters, at least 16 are needed; make one with: openssl rand -hex 24",
        ),
        (
            "[sources.talkable]",
            '[api_keys.bob]\nkey = "alice-key-0123456789"\n[sources.talkable]',
            "api_keys.bob.key: is the key of alice too; every person needs an own one",
        ),
        (
            'key = "alice',
            'role = "boss"\nkey = "alice',
            "api_keys.alice.role: input should be 'viewer' or 'operator'",
        ),
        (
            "[api_keys.alice]",
            "lease_s = 20\n[api_keys.alice]",
            "lease_s: 20 must be longer than a call: at least 1.25 times call_deadline_s (20), "
            "or one order could be placed twice",
        ),
        (
            "[[routes]]",
            '[[routes]]\nname = "gift cards"\nvendor = "gcp"\n[[routes]]',
            "routes.1.name: there is a route named 'gift cards' before; names tell routes apart",
        ),
        (
            "https://vendor.example.com",
            "vendor.example.com",
            "vendors.gcp.base_url: must be an http:// or https:// address (it is 'vendor.example.com')",
        ),
        (
            'platform = "talkable"',
            "",
            "sources.talkable.platform: is missing; it must be one of influitive, roster, talkable, voucherify",
        ),
        (
            'platform = "talkable"',
            'platform = "talkabel"',
            "sources.talkable.platform: 'talkabel' is not one of influitive, roster, talkable, voucherify; "
            'did you mean "talkable"?',
        ),
        ('kind = "giftcard_partners"', "", "vendors.gcp.kind: is missing, and there is no default"),
        (
            "[sources.talkable]",
            "[sources.Talk-able]",
            "sources.Talk-able: a name is lower-case letters, digits and single underscores, a letter first",
        ),
        (
            "[api_keys.alice]",
            "[api_keys.al__ice]",
            "api_keys.al__ice: a name is lower-case letters, digits and single underscores, a letter first",
        ),
        (
            'product = "CVS"',
            'delivery = "e-mail"',
            "routes.0.delivery: input should be 'DigitalDelivery', 'Links' or 'PhysicalShipment' (it is 'e-mail')",
        ),
        ('product = "CVS"', "value = -1", "routes.0.value: input should be greater than or equal to 0 (it is -1)"),
        (
            'product = "CVS"',
            "when = { payload.reward.type = 'x' }",
            "routes.0.when.payload: must be a text, a number or a list of them; "
            'quote the path: "payload.reward.type" = "x"',
        ),
        (
            'product = "CVS"',
            'products = { sku = "CVS" }',
            "routes.0.products.sku: must be a table, not a single value",
        ),
    ],
)
def test_a_mistake_is_one_line_with_its_key_and_what_would_be_right(
    tmp_path: Path, right: str, wrong: str, line: str
) -> None:
    assert right in GOOD
    assert mistakes(tmp_path, GOOD.replace(right, wrong)) == [f"relay.toml: {line}"]


def test_all_mistakes_are_shown_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('vendor = "gcp"', 'vendor = "gpc"').replace("talkable-key-1", "abc").replace("https:", "ftp:")
    found = mistakes(tmp_path, "port = 70000\n" + text, RELAY_LEASE_S="1", RELAY_LEASES="5")
    named = ["vendors.gcp.base_url", "routes.0.vendor", "sources.talkable.secrets.0", "port", "lease_s", "RELAY_LEASES"]
    assert len(found) == len(named)
    for name in named:
        assert any(name in line for line in found)


def test_a_variable_that_nobody_reads_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, RELAY_PUBLIC_ULR="https://x.example.com") == [
        'RELAY_PUBLIC_ULR: no such setting; did you mean "public_url"?'
    ]


def test_a_mistake_in_a_variable_names_the_variable(tmp_path: Path) -> None:
    found = mistakes(tmp_path, RELAY_PORT="many", RELAY_ROUTES__0__VENDOR="gpc")
    assert [line.partition(": ")[0] for line in found] == [
        "RELAY_PORT (port)",
        "RELAY_ROUTES__0__VENDOR (routes.0.vendor)",
    ]


def test_a_variable_below_a_single_value_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "lease_s = 60\n" + GOOD, RELAY_LEASE_S__X="1") == [
        "RELAY_LEASE_S__X: lease_s is not a table, so it has no x"
    ]


def test_broken_toml_names_its_line(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, "port = 1\nhost = \n")
    assert line.startswith("relay.toml: not valid TOML")
    assert "line 2" in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no such file; set RELAY_CONFIG") as error:
        load_settings(environ={"RELAY_CONFIG": f"{tmp_path}/none.toml"})
    assert f"{tmp_path}/none.toml" in str(error.value)


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_settings(tmp_path, {})


def test_a_file_from_a_windows_editor_is_read(tmp_path: Path) -> None:
    assert settings(tmp_path, "\ufeff" + GOOD).routes[0].name == "gift cards"


# The environment over the file.


def test_a_variable_goes_over_the_file(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        "port = 1\n" + GOOD,
        {"RELAY_PORT": "2", "RELAY_SOURCES__TALKABLE__API_TOKEN": "from-variable", "RELAY_ROUTES__0__PRODUCT": "NEW"},
    )
    assert found.port == 2
    assert found.sources["talkable"].model_dump()["api_token"].get_secret_value() == "from-variable"
    assert found.sources["talkable"].secrets[0].get_secret_value() == "talkable-key-1"
    assert (found.routes[0].name, found.routes[0].product) == ("gift cards", "NEW")


@pytest.mark.parametrize("text", ["first-key, second-key", '["first-key", "second-key"]'])
def test_a_list_is_comma_separated_or_json(tmp_path: Path, text: str) -> None:
    found = settings(tmp_path, GOOD, {"RELAY_SOURCES__TALKABLE__SECRETS": text, "RELAY_PRIVATE_HOSTS": "a.test,b.test"})
    assert [each.get_secret_value() for each in found.sources["talkable"].secrets] == ["first-key", "second-key"]
    assert found.private_hosts == ["a.test", "b.test"]


def test_everything_can_be_set_without_a_file() -> None:
    routes = {f"RELAY_ROUTES__{number}__NAME": f"route {number}" for number in range(12)}
    routes |= {f"RELAY_ROUTES__{number}__VENDOR": "gcp" for number in range(12)}
    found = load_settings(
        environ={
            **routes,
            "RELAY_API_KEYS__ALICE__KEY": "alice-key-0123456789",
            "RELAY_SOURCES__ROSTER__PLATFORM": "roster",
            "RELAY_SOURCES__ROSTER__SECRETS__0": "roster-key-1",
            "RELAY_SOURCES__ROSTER__SECRETS__1": "roster-key-0",
            "RELAY_VENDORS__GCP__KIND": "giftcard_partners",
            "RELAY_VENDORS__GCP__BASE_URL": "https://vendor.example.com/",
            "RELAY_VENDORS__GCP__EMAIL": "orders@example.com",
            "RELAY_VENDORS__GCP__ACCESS_TOKEN": "gcp-access-token",
            "UNRELATED": "x",
        }
    )
    assert [route.name for route in found.routes] == [f"route {number}" for number in range(12)]
    assert len(found.sources["roster"].secrets) == 2
    assert found.vendors["gcp"].model_dump()["base_url"] == "https://vendor.example.com"


def test_a_whole_table_can_be_json(tmp_path: Path) -> None:
    found = settings(tmp_path, GOOD, {"RELAY_ROUTES": '[{"name": "only", "vendor": "gcp", "value": 20.10}]'})
    assert [(route.name, route.value) for route in found.routes] == [("only", Decimal("20.10"))]


def test_dotenv_and_the_default_file_are_read_where_the_relay_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "relay.toml").write_text("port = 1\nretention_days = 1\n" + GOOD)
    (tmp_path / ".env").write_text("RELAY_PORT=2\nRELAY_LOG_LEVEL=debug\nOTHER=x\n")
    monkeypatch.chdir(tmp_path)
    for name in list(child_environment({})):
        if name.startswith("RELAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RELAY_LOG_LEVEL", "error")
    found = load_settings()
    assert (found.retention_days, found.port, found.log_level) == (1, 2, "error")


# What must be exact, and what must stay hidden.


def test_money_is_exact(tmp_path: Path) -> None:
    text = GOOD + "value = 0.1\n[routes.products]\na = { value = 1234567890.1234 }\nb = { value = 25 }\n"
    route = settings(tmp_path, text).routes[0]
    values = [route.value, route.products["a"].value, route.products["b"].value]
    assert values == [Decimal("0.1"), Decimal("1234567890.1234"), Decimal(25)]


@pytest.mark.parametrize("value", ["nan", "inf", "1.12345", "true", '"much"'])
def test_what_is_no_money_is_refused(tmp_path: Path, value: str) -> None:
    (line,) = mistakes(tmp_path, GOOD + f"value = {value}\n")
    assert line.startswith("relay.toml: routes.0.value: ")


def test_secrets_are_not_in_the_text_of_settings(tmp_path: Path) -> None:
    url = {"RELAY_DATABASE_URL": "postgresql://u:hidden-password@db/relay"}
    shown = f"{settings(tmp_path, CONFIGURATION, url)!r}"
    for hidden in ("hidden-password", "operator-key", "talkable-key", "app-token", "api-token", "gcp-access-token"):
        assert hidden not in shown


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"talkable-key-1"', '"hidden!"'),
        ('["talkable-key-1"]', "{ hidden = 'hidden-secret' }"),
        ('["talkable-key-1"]', "[['hidden-secret']]"),
        ('"alice-key-0123456789"', '"hidden-key"'),
        ('"alice-key-0123456789"', '["hidden-key-0123456789"]'),
        ('[api_keys.alice]\nkey = "alice-key-0123456789"', '[api_keys]\nalice = "hidden-key-0123456789"'),
        ('"gcp-access-token"', '["hidden-token"]'),
        ("https://vendor.example.com", "ftp://user:hidden-password@vendor.example.com"),
        ("[api_keys.alice]", "database_url = ['postgresql://user:hidden@db/relay']\n[api_keys.alice]"),
    ],
)
def test_secrets_are_not_in_what_is_said_of_a_mistake(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in GOOD
    with pytest.raises(ConfigurationError) as error:
        settings(tmp_path, GOOD.replace(right, wrong))
    assert "hidden" not in "".join(traceback.format_exception(error.value))


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
