"""Mistakes of TOML's grammar, for people who do not know TOML: the line, its text, and the likely cause."""

import re
import tomllib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

SHOWN_CHARS = 80
POSITION = re.compile(r" \((?:at line (\d+), column (\d+)|at end of document)\)$")
SECRET = re.compile(r"secret|token|passw|key|url|credential|auth", re.IGNORECASE)
KEY = re.compile(r"""^\s*([\w.\-"']+)\s*=""")
HEADER = re.compile(r"\[\[?[\w.\- ]+\]{0,2}")
MASK = "***"


class BadSyntax(ValueError):
    """Not TOML. The message is one line, without secrets."""


def read_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text, with exact decimals.

    Raises:
        BadSyntax: it is none; the message has the line, the column and the likely cause.
    """
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        raise BadSyntax(_explained(text, str(error))) from None
    except RecursionError:
        raise BadSyntax("not valid TOML: brackets are nested too deeply; is a ] missing?") from None
    except (ValueError, ArithmeticError):
        raise BadSyntax("not valid TOML: a number or date is out of every range; put it in quotes") from None


def _explained(text: str, message: str) -> str:
    lines = text.splitlines() or [""]
    found = POSITION.search(message)
    what = message[: found.start()] if found else message
    number, column = (int(found[1]), int(found[2])) if found and found[1] else (len(lines), 0)
    if "'\\n'" in what and column <= 1 and number > 1:
        number, column = number - 1, 0  # the parser stands behind the line break that came too early
    line = lines[min(number, len(lines)) - 1]
    place = f"line {number}" + (f", column {column}" if column else "")
    shown = _masked(lines, number)
    quoted = f" ({shown})" if shown else ""
    return f"not valid TOML: {place}{quoted}: {what[:1].lower()}{what[1:]}{_likely(what, line)}"


def _masked(lines: Sequence[str], number: int) -> str:
    """The line as it may be shown: no value of a key that looks like a secret's, also where its list goes on below."""
    line = lines[min(number, len(lines)) - 1].strip()
    if HEADER.fullmatch(line):
        return line[:SHOWN_CHARS]
    above = "" if KEY.match(line) else _key_above(lines, number)
    if SECRET.search(line) or SECRET.search(above):
        key = KEY.match(line)
        return f"{key[1]} = {MASK}" if key else MASK
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _key_above(lines: Sequence[str], number: int) -> str:
    """The nearest line above that begins with a key: a line without one may belong to its value."""
    return next((line for line in reversed(lines[: number - 1]) if KEY.match(line)), "")


def _likely(what: str, line: str) -> str:
    """What people mostly did where the parser says this."""
    value = (line.partition("=")[2] if KEY.match(line) else line).strip()
    for part, cause in CAUSES:
        if part in what:
            return f"; {cause}"
    if any(mark in line for mark in "“”„‘’"):
        return '; the quotes are those of a word processor: use plain ones, "like this"'
    if "Expected '='" in what or "Invalid statement" in what:
        return "; a line is key = value, or begins a table with [name]; is an = missing, or a quote in the line above?"
    if any(each in what for each in ("Illegal character", "Unterminated string", """Expected "'\"""")):
        return '; the closing quote (") is missing, or it belongs to a line further up'
    if "Expected newline" in what:
        if re.match(r"\d+,\d", value):
            return "; write decimals with a point: 12.50"
        if re.match(r"0\d", value):
            return "; a number must not begin with 0: put it in quotes if it is a text"
        return '; one line is one key = value: is a quote (") or comma missing before this place?'
    if "Invalid value" in what:
        return _bad_value(value)
    return ""


def _bad_value(value: str) -> str:
    first = value.partition(" ")[0].strip(",]}")
    if not value:
        return '; the value after = is missing: "" is an empty text'
    if first.lower() in ("true", "false", "yes", "no", "on", "off"):
        return "; it is true or false, in small letters and without quotes"
    return '; a text needs quotes on both sides: product = "CVS"'


CAUSES = (
    ("Cannot declare", "this table is there twice: join them into one; only [[routes]], in double brackets, repeats"),
    ("Cannot overwrite", "this key is there twice in its table: remove one; each route begins with its own [[routes]]"),
    ("Cannot mutate", "this table is complete already, written in one line with { }: write all of it there"),
    ("Unclosed array", "the closing ] is missing, or a comma between two values"),
    ("Unclosed inline table", "the closing } is missing, or a comma between two entries"),
    ("Duplicate inline table key", "this key is there twice between { and }: remove one"),
    ("Invalid initial character for a key part", "a { } must end in its line: close it there, or make it a [table]"),
    ("Expected ']'", "a table's name stands in [brackets]; one with other signs than letters, digits, - needs quotes"),
    ("Unescaped '\\'", "a backslash in a text is written twice, or the text in single quotes: 'C:\\path'"),
)
"""Words of the parser, and the likely cause."""
