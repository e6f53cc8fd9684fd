"""The rules of this code base, as tables and checks. A rule that is not here is a wish.

The first table says who may import whom; the README draws it, this enforces it.
"""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reward_relay.platforms import PLATFORMS
from reward_relay.vendors import VENDORS

MAY_IMPORT = {
    # What things are.
    "states": "",
    "errors": "",
    "amounts": "",
    "contracts": "amounts states errors",
    "capabilities": "contracts",
    "addresses": "",
    "fields": "addresses contracts",
    "inbound": "contracts errors",
    "bodies": "",
    "connections": "addresses lookups",
    "outbound": "addresses bodies connections contracts errors",
    "settings": "amounts contracts fields",
    "cautions": "addresses settings",
    "keys": "errors settings",
    "guards": "amounts contracts settings",
    "jobs": "contracts states",
    "routing": "contracts inbound jobs settings states",
    "syntax": "",
    "loading": "amounts contracts errors near settings syntax",
    "reloading": "errors guards loading settings",
    "logs": "",
    "near": "",
    "sealing": "errors",
    "personal": "contracts",
    "lookups": "",
    "metrics": "",
    "tracing": "jobs states",
    # What is done.
    "steps": "contracts errors jobs personal routing states",
    "db": "contracts errors guards jobs routing sealing states",
    "shelter": "db errors metrics sealing",
    "beside": "",
    "rejecting": "contracts db errors logs sealing",
    "intake": "beside contracts db errors guards inbound jobs rejecting routing sealing settings shelter states",
    "worker": "admission db errors jobs metrics outbound states steps",
    "admission": "db guards jobs metrics states",
    "heartbeat": "db errors",
    "polling": "contracts db errors intake jobs",
    "explaining": "contracts db errors guards intake routing settings states steps",
    "releasing": "contracts db errors guards",
    "actions": "contracts db errors guards intake jobs releasing routing settings states",
    "placing": "db errors guards states",
    "timeline": "db",
    "ledger": "db errors states",
    "evidence": "contracts db errors ledger outbound sealing states steps",
    "ops": "actions contracts db errors explaining intake jobs placing reloading shelter states steps timeline",
    "bulk": "actions db errors releasing states",
    "glance": "db guards ops placing states",
    "diffing": "contracts db errors explaining guards intake routing spending steps",
    "purging": "contracts db errors intake personal states",
    "resealing": "db errors sealing",
    "conditions": "db guards logs settings",
    "spending": "contracts guards",
    "alerting": "conditions contracts db errors outbound settings",
    "reconciling": "capabilities contracts db errors intake jobs outbound personal states steps",
    # Outside parties. `tolerant` reads what is documented loosely; no adapter sees another.
    "platforms.tolerant": "contracts errors inbound",
    **{f"platforms.{name}": "contracts errors fields inbound outbound states platforms.tolerant" for name in PLATFORMS},
    **{f"vendors.{name}": "contracts errors fields inbound outbound states" for name in VENDORS},
    "platforms": "contracts " + " ".join(f"platforms.{name}" for name in PLATFORMS),
    "vendors": "contracts " + " ".join(f"vendors.{name}" for name in VENDORS),
    # The edge.
    "web": "bulk contracts db diffing errors keys logs metrics near ops purging reconciling settings shelter "
    "states web.console",
    "web.console": "contracts diffing errors keys ops reconciling settings states web",
    "wiring": "admission alerting bulk conditions contracts db diffing errors evidence explaining glance "
    "guards heartbeat intake jobs loading ops outbound platforms polling purging reconciling "
    "reloading resealing sealing settings shelter steps tracing vendors worker",
    "migrating": "db errors",
    "server": "metrics",
    "processes": "cautions db errors keys loading logs metrics migrating reloading server settings web wiring",
    "terminal": "errors",
    "placing_cli": "db orders_cli placing terminal",
    "orders_cli": "db errors keys ops processes settings states terminal wiring",
    "alerts_cli": "orders_cli terminal wiring",
    "purge_cli": "db orders_cli purging terminal wiring",
    "config_cli": "cautions db errors processes sealing terminal wiring",
    "deliveries_cli": "db errors ops orders_cli terminal",
    "bulk_cli": "db orders_cli terminal wiring",
    "ledger_cli": "db errors ledger orders_cli processes terminal wiring",
    "tail_cli": "db ops orders_cli terminal",
    "spool_cli": "errors processes shelter terminal wiring",
    "reconcile_cli": "db errors orders_cli processes reconciling terminal wiring",
    "cli": "alerts_cli bulk_cli config_cli db deliveries_cli errors ledger_cli migrating orders_cli "
    "placing_cli processes purge_cli reconcile_cli sandbox sandbox.demo settings spool_cli tail_cli "
    "terminal wiring",
    "__main__": "cli",
    # The far side in a box shares no code with the relay; the demo runs both.
    "sandbox": "",
    "sandbox.demo": "db migrating processes sandbox terminal",
}
"""Module or package: what of ours it may import. A package's row is for all its modules that have no own row."""

MAY_IMPORT_FOR_TYPES = {"web": "wiring", "intake": "inbound tracing", "worker": "tracing"}
"""The same, under `if TYPE_CHECKING`."""

ONLY_IN = {
    "sqlalchemy": "db",
    "sqlalchemy.exc": "db intake",
    "sqlalchemy.ext.asyncio.AsyncConnection": "actions admission bulk conditions db ops placing reconciling releasing",
    "sqlalchemy.orm": "",
    "alembic": "db",
    "asyncpg": "db",
    "psutil": "db",
    "cryptography": "sealing",
    "httpx": "addresses cautions connections fields outbound sandbox sandbox.demo",
    "aiohttp": "connections outbound",
    "httpx_aiohttp": "connections sandbox",
    "tenacity": "outbound",
    "fastapi": "sandbox web web.console",
    "starlette": "sandbox web web.console",
    "prometheus_client": "metrics",
    "opentelemetry": "tracing",
    "requests": "tracing",
    "jinja2": "web.console",
    "markupsafe": "web.console",
    "itsdangerous": "web.console",
    "standardwebhooks": "alerting",
    "uvicorn": "server",
    "httptools": "server",
    "dotenv": "loading",
    "typer": "alerts_cli bulk_cli cli config_cli deliveries_cli ledger_cli orders_cli placing_cli purge_cli "
    "reconcile_cli spool_cli tail_cli terminal",
    "rich": "alerts_cli bulk_cli cli config_cli deliveries_cli ledger_cli orders_cli placing_cli purge_cli "
    "reconcile_cli sandbox.demo spool_cli tail_cli terminal",
}
"""Library: the modules of ours that may import it. The longest name that fits counts."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "reward_relay"
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """One imported name, in full; `for_types` where only the type checker sees it."""

    name: str
    for_types: bool


def modules() -> dict[str, ast.Module]:
    """Every module of ours by its dotted name below `reward_relay`, parsed."""
    found = {}
    for path in SRC.rglob("*.py"):
        parts = path.relative_to(SRC).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules()


def row(name: str, table: dict[str, str] = MAY_IMPORT) -> str:
    """The row of the table that a module belongs to; "" where it has none."""
    parts = name.split(".")
    return next((key for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in table), "")


def imports(tree: ast.AST, for_types: bool = False) -> Iterator[Import]:
    """All imports, also those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(each.name, for_types) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (Import(f"{node.module}.{each.name}", for_types) for each in node.names)
        else:
            guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            yield from imports(node, for_types or guarded)


def calls(tree: ast.AST) -> set[str]:
    """The last names of all that is called: `begin` for `self.engine.begin()`."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {ast.unparse(each).rpartition(".")[2] for each in functions}


def of_root(pattern: str) -> list[Path]:
    """The Python files of src, tests and bench."""
    return [path for part in ("src", "tests", "bench") for path in (ROOT / part).rglob(pattern)]


# Who may import whom.


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_a_module_imports_only_what_the_table_allows(name: str) -> None:
    own = row(name)
    assert own, f"{name} has no row in MAY_IMPORT"
    for found in imports(MODULES[name]):
        if not found.name.startswith("reward_relay.") or found.name == "reward_relay.__version__":
            continue
        wanted = row(found.name.removeprefix("reward_relay."))
        allowed = MAY_IMPORT[own].split()
        if found.for_types:
            allowed += MAY_IMPORT_FOR_TYPES.get(own, "").split()
        assert wanted in (own, *allowed), f"{name} imports {found.name}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_a_library_is_imported_only_where_the_table_allows(name: str) -> None:
    for found in imports(MODULES[name]):
        library = row(found.name, ONLY_IN)
        assert not library or row(name) in ONLY_IN[library].split(), f"{name} imports {found.name}"


def test_every_row_is_for_something_that_exists() -> None:
    words = {word for allowed in (*MAY_IMPORT.values(), *ONLY_IN.values()) for word in allowed.split()}
    assert {*MAY_IMPORT, *MAY_IMPORT_FOR_TYPES, *words} <= set(MODULES)


def test_the_root_of_the_package_imports_nothing() -> None:
    assert list(imports(MODULES[""])) == []


def test_the_core_names_no_adapter() -> None:
    names = re.compile("|".join([*PLATFORMS, *VENDORS, "giftcard", "gift_card"]), re.IGNORECASE)
    outside = ("platforms", "vendors", "sandbox")
    core = [path for path in SRC.rglob("*.py") if path.relative_to(SRC).parts[0] not in outside]
    core = [path for path in core if not path.stem.endswith("cli")]  # a command's example may name one
    assert len(core) > 20
    assert [path.name for path in core if names.search(path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    "member", [*(f"platforms/{name}" for name in PLATFORMS), *(f"vendors/{name}" for name in VENDORS)]
)
def test_an_adapter_has_its_folder_its_words_its_readme_and_its_tests(member: str) -> None:
    for name in ("__init__.py", "adapter.py", "wire.py", "README.md"):
        assert (SRC / member / name).is_file()
    kind, _, name = member.partition("/")
    assert (ROOT / "tests" / kind / f"test_{name}.py").is_file()


# What is done in one place only.


def test_only_the_engine_begins_and_commits() -> None:
    ending = {"begin", "begin_nested", "commit", "rollback"}
    assert {name for name, tree in MODULES.items() if calls(tree) & ending} == {"db.engine"}


def test_only_the_settings_read_the_environment() -> None:
    readers = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    found = set()
    for name, tree in MODULES.items():
        used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if readers & (used | {each.name for each in imports(tree)}):
            found.add(name)
    assert found == {"loading"}


def test_nothing_is_printed_past_the_console_and_the_log() -> None:
    bare = {
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "pprint", "sys.stdout.write")
    }
    assert bare == set()


# Size and words.


def test_no_file_is_too_long() -> None:
    assert [
        f"{path.relative_to(ROOT)}: {lines} lines"
        for path in of_root("*.py")
        if (lines := len(path.read_text("utf-8").splitlines())) > MAX_FILE_LINES
    ] == []


def test_no_function_is_too_long() -> None:
    assert [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in of_root("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, Function) and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ] == []


def undocumented(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Public classes, functions and methods without a docstring."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
            if ast.get_docstring(node) is None:
                yield node.name
            if isinstance(node, ast.ClassDef):
                yield from (f"{node.name}.{each}" for each in undocumented(node))


def test_everything_public_says_what_its_name_cannot() -> None:
    assert [name for name, tree in MODULES.items() if not ast.get_docstring(tree)] == []
    assert [f"{name}: {each}" for name, tree in MODULES.items() for each in undocumented(tree)] == []


# Dependencies and files.


def requirements() -> list[str]:
    """Every requirement of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups: dict[str, list[str]] = project["dependency-groups"]
    return [*project["project"]["dependencies"], *(each for group in groups.values() for each in group)]


def test_every_dependency_has_a_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    assert len(requirements()) > 20
    for requirement in requirements():
        (line,) = [line for line in lines if line.strip().startswith(f'"{requirement}"')]
        assert re.search(r"# \S.{5,}$", line), line


@pytest.mark.parametrize("lock", ["requirements.lock", "bench/requirements.lock"])
def test_a_lock_has_hashes_and_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
    assert not re.search(r"://|--(extra-)?index|--find-links", text)
    pinned = [line for line in text.replace("\\\n", "").splitlines() if line and not line.lstrip().startswith("#")]
    assert pinned
    for line in pinned:
        assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line[:80]


def test_the_lock_has_every_dependency() -> None:
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    assert {re.split(r"[\[>=;]", each)[0] for each in wanted} <= locked


def shipped() -> list[Path]:
    """The files of the repository: those that git knows, or all but what tools leave where this is no checkout."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files", "-z"]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
        return [path for name in names if name and (path := ROOT / name).is_file()]
    left = {".git", ".venv", "__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache", "results"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not left & set(path.relative_to(ROOT).parts)]


def test_no_file_holds_an_address_of_a_registry_or_a_path_of_one_machine() -> None:
    private = re.compile(
        r"pypi\.org|pythonhosted\.org|npmjs\.(org|com)|\b(ghcr|quay|gcr|docker)\.io/|artifactor[y]|--index-ur[l]|"
        r"(?<![\w.])/(root|(home|Users)/\w+)/"
    )
    files = shipped()
    assert len(files) > 50
    assert [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files
        if (found := private.search(path.read_text("utf-8", "ignore")))
    ] == []
