"""Mistakes of TOML's grammar: the line, its text without secrets, and the likely cause."""

import pytest

from reward_relay.syntax import BadSyntax, read_toml


def told(text: str) -> str:
    with pytest.raises(BadSyntax) as error:
        read_toml(text)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "place", "cause"),
    [
        (
            '[[routes]]\nname = "cards\nvendor = "gcp"',
            'line 2, column 14 (name = "cards)',
            'closing quote (") is missing',
        ),
        ("a = 1\nproduct = CVS", "line 2, column 11 (product = CVS)", "a text needs quotes on both sides"),
        ("[a]\nb = 1\n[a]\n", "line 3", "this table is there twice"),
        ('name = "a"\nname = "b"\n', "line 2", "this key is there twice"),
        ('[routes]\nname = "a"\n[[routes]]\nname = "b"\n', "line 3", "each route begins with its own [[routes]]"),
        ('sources = ["a", "b"\nvendor = "c"', 'line 2, column 1 (vendor = "c")', "the closing ] is missing"),
        ('sources = ["a" "b"]', "line 1", "or a comma between two values"),
        ('a = { product = "b"', "line 1", "the closing } is missing"),
        ('a = { product = "b",\nvalue = 1 }', "line 1", "must end in its line"),
        ("value = 12,50", "line 1", "write decimals with a point: 12.50"),
        ("value = 0123", "line 1", "must not begin with 0"),
        ("value =\n", "line 1", "the value after = is missing"),
        ("value = True", "line 1", "true or false, in small letters"),
        ('name "x"', "line 1", "is an = missing"),
        ("name = “x”", "line 1", "those of a word processor"),
        ("name = 'x\n", "line 1", "closing quote"),
        ('folder = "C:\\x"', "line 1", "a backslash in a text is written twice"),
        ("[sources.my shop]\n", "line 1", "a table's name stands in [brackets]"),
        ("a = " + "[" * 100_000, "not valid TOML", "nested too deeply"),
        ("a = " + "9" * 5_000, "not valid TOML", "out of every range"),
    ],
)
def test_a_mistake_names_its_line_and_the_likely_cause(text: str, place: str, cause: str) -> None:
    assert told(text).startswith("not valid TOML")
    assert place in told(text)
    assert cause in told(text)


@pytest.mark.parametrize(
    "text",
    [
        "access_token = hush-hush",
        'secrets = [\n  "hush-one",\n  hush-two\n]',
        'role = "operator" key = "hush"',
        'alice = { role = "operator", key = "hush }',
        'database_url = "postgresql://relay:hush@db/relay',
        '[alerts]\nurl = "https://hooks.example.com/hush',
        '"sources.roster.api_token" = hush',
        "[sources.roster]\napi_token: hush",
        'api_token = """\nhush\n',
    ],
)
def test_no_secret_is_repeated(text: str) -> None:
    assert "hush" not in told(text)


def test_good_text_is_read_with_exact_decimals() -> None:
    assert str(read_toml("value = 12.50\r\n")["value"]) == "12.50"
