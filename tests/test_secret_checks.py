"""A secret is compared in constant time, with every secret, whichever is right: by the code's shape and by counting."""

import ast
import hmac
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from reward_relay import inbound, keys
from reward_relay.errors import Unauthenticated
from reward_relay.settings import ApiKey

SRC = Path(__file__).parents[1] / "src" / "reward_relay"
SECRETS = [SecretStr(f"secret-{number}") for number in range(5)]
BODY = b'{"a":1}'
CHECKS = {"inbound.py": ("is_one_of", "check_signature"), "keys.py": ("actor_of",)}


def functions(path: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((SRC / path).read_text("utf-8"))
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in CHECKS.items() for name in names])
def test_a_check_looks_at_every_secret_and_leaves_no_loop_early(path: str, name: str) -> None:
    loops = [node for node in ast.walk(functions(path)[name]) if isinstance(node, ast.For)]
    assert loops
    for loop in loops:
        early = [node for node in ast.walk(loop) if isinstance(node, ast.Return | ast.Break | ast.Raise)]
        assert early == []
    assert "hmac.compare_digest" in ast.unparse(functions(path)[name])


def compared(tree: ast.AST) -> Iterator[str]:
    """Every ==, != and `in` of a module, as text."""
    kinds = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(isinstance(each, kinds) for each in node.ops):
            yield ast.unparse(node)


ABOUT_SECRETS = re.compile(r"secret|signature|\btoken\b|\bkey_of\b|\bgiven\b(?! is None)")
HARMLESS = {"secret in bare", "'\\\\' not in secret", "'\\\\' in token[0]", "folded(name) in given"}
"""Looks for our own secrets in what is to be stored, after the check; and words that only sound alike."""


def test_no_platform_compares_a_secret_itself() -> None:
    found = {
        text
        for path in SRC.glob("platforms/*/*.py")
        for text in compared(ast.parse(path.read_text("utf-8")))
        if ABOUT_SECRETS.search(text.replace("'", ""))
    }
    assert found <= HARMLESS


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A one for each comparison."""
    found: list[int] = []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        found.append(1)
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    return found


@pytest.mark.parametrize(
    "given", [*(secret.get_secret_value() for secret in SECRETS), "wrong", "", "secret-00", "é\ud800"]
)
def test_a_token_is_compared_with_each_secret(counted: list[int], given: str) -> None:
    assert inbound.is_one_of(given, SECRETS) == (given in [secret.get_secret_value() for secret in SECRETS])
    assert len(counted) == 5


@pytest.mark.parametrize("place", range(6))
def test_a_signature_is_compared_with_that_of_each_secret_and_body(counted: list[int], place: int) -> None:
    secret = [*SECRETS, SecretStr("wrong")][place]
    given = inbound.signature(secret, BODY, "hex")
    assert inbound.check_signature(given, [BODY, b"x"], SECRETS, "hex") == (place < 5)
    assert len(counted) == 10


@pytest.mark.parametrize("given", ["k" * 16 + "0", "k" * 16 + "4", "wrong"])
def test_a_key_is_compared_with_each_key(counted: list[int], given: str) -> None:
    known = {f"name{number}": ApiKey(key=SecretStr("k" * 16 + str(number))) for number in range(5)}
    try:
        assert keys.actor_of(known, given)[0] == f"name{given[-1]}"
    except Unauthenticated:
        assert given == "wrong"
    assert len(counted) == 5
