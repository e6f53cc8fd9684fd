"""The routes in use follow their file, and only a file that is whole and right."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from reward_relay.errors import ConfigurationError
from reward_relay.reloading import Reloading
from reward_relay.wiring import configured
from support.relays import CONFIGURATION, until

OTHER = CONFIGURATION.replace('product = "CVS"', 'product = "ADIDAS"')
BROKEN = CONFIGURATION.replace('vendor = "gcp"\nproduct = "CVS"', 'vendor = "gpc"\nproduct = "CVS"')


def holder(path: Path, text: str = CONFIGURATION, *, every_s: float = 2, **environ: str) -> Reloading:
    """Routes of a file with this text, looked at only when the test says so."""
    path.write_text(text)
    source = configured(path, environ)
    return Reloading(source.load(), source, every_s=every_s)


def product(found: Reloading) -> str | None:
    """What the last route orders."""
    return found.routes[-1].product


def looks(found: Reloading) -> None:
    """Two looks in a row: what has not changed between them counts."""
    found.look()
    found.look()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.toml"


def written(path: Path, text: str) -> None:
    path.write_text(text)


def replaced(path: Path, text: str) -> None:
    """As editors do: a new file under the old name."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


@pytest.mark.parametrize("change", [written, replaced])
def test_a_changed_file_is_taken_once_two_looks_agree(path: Path, change: Callable[[Path, str], None]) -> None:
    found = holder(path)
    before = found.digest
    change(path, OTHER)
    found.look()
    assert product(found) == "CVS"
    found.look()
    assert product(found) == "ADIDAS"
    assert found.digest != before
    assert found.trouble is None
    assert found.summary()["changed"] == ['route "gift cards" has another product']
    change(path, CONFIGURATION)
    looks(found)
    assert found.digest == before


def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path) -> None:
    """As Kubernetes swaps a ConfigMap: relay.toml -> ..data/relay.toml, and ..data leads to another folder."""
    for name, text in (("one", CONFIGURATION), ("two", OTHER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "relay.toml").write_text(text)
    data, path = tmp_path / "..data", tmp_path / "relay.toml"
    data.symlink_to("one")
    path.symlink_to("..data/relay.toml")
    source = configured(path, {})
    found = Reloading(source.load(), source)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(data)
    looks(found)
    assert product(found) == "ADIDAS"


def test_a_half_written_file_is_never_taken_even_where_it_reads_well(path: Path) -> None:
    found = holder(path)
    half = OTHER.rpartition("[[routes]]")[0]
    assert len(configured(path.with_name("none.toml"), {}).load(half.encode()).routes) == 1
    for end in (len(half), len(half) + 40, len(OTHER)):
        path.write_text(OTHER[:end])
        found.look()
        assert (len(found.routes), product(found), found.trouble) == (2, "CVS", None)
    found.look()
    assert product(found) == "ADIDAS"


def test_a_bad_file_keeps_the_routes_says_so_once_and_a_good_one_clears_it(path: Path) -> None:
    found = holder(path)
    path.write_text(BROKEN)
    with capture_logs() as logs:
        for _ in range(5):
            looks(found)
        path.touch()
        looks(found)
    assert [each["event"] for each in logs] == ["configuration_not_taken"]
    assert product(found) == "CVS"
    assert found.trouble == f'{path}: routes.1.vendor: there is no [vendors.gpc]; did you mean "gcp"?'
    assert found.summary()["trouble"] == found.trouble
    path.write_text(CONFIGURATION)
    looks(found)
    assert found.trouble is None


def test_trouble_lists_each_mistake_as_the_check_does_and_no_secret(path: Path) -> None:
    found = holder(path)
    text = BROKEN.replace("roster-api-token", "hush ünprintable").replace("lease_s = 3", "lease_s = 1")
    path.write_text(text.replace('"operator-key-0123456789"', '"hush"'))
    looks(found)
    with pytest.raises(ConfigurationError) as error:
        configured(path, {}).load()
    assert found.trouble is not None
    assert found.trouble.splitlines() == error.value.problems
    assert len(error.value.problems) >= 3
    assert "hush" not in found.trouble


@pytest.mark.parametrize("end", [Path.unlink, lambda path: path.write_bytes(b"\xff\xfe\x00")])
def test_a_file_that_vanished_or_is_no_text_keeps_the_routes(path: Path, end: Callable[[Path], object]) -> None:
    found = holder(path)
    end(path)
    found.look()
    assert found.trouble is None
    found.look()
    assert found.trouble
    assert product(found) == "CVS"
    path.write_text(OTHER)
    looks(found)
    assert (product(found), found.trouble) == ("ADIDAS", None)


def test_the_environment_still_goes_before_the_file(path: Path) -> None:
    found = holder(path, RELAY_ROUTES__1__PRODUCT="STARBUCKS", RELAY_API_KEYS__LOCAL__KEY="local-key-0123456789")
    path.write_text(OTHER.replace("value = 20", "value = 30"))
    looks(found)
    assert (product(found), str(found.routes[-1].value)) == ("STARBUCKS", "30")
    assert found.summary()["restart_needed"] == []


def test_what_needs_a_restart_is_named_and_not_taken(path: Path) -> None:
    found = holder(path)
    text = OTHER.replace("talkable-key-0", "talkable-key-hush").replace("lease_s = 3", "lease_s = 4")
    path.write_text(text + '[api_keys.bob]\nkey = "bobs-key-0123456789"\n')
    looks(found)
    assert product(found) == "ADIDAS"
    assert found.summary()["restart_needed"] == ["lease_s", "api_keys.bob", "sources.talkable.secrets"]
    path.write_text(OTHER)
    looks(found)
    assert found.summary()["restart_needed"] == []


def test_routes_to_a_vendor_that_this_process_does_not_have_wait_for_the_restart(path: Path) -> None:
    found = holder(path)
    vendor = '[vendors.second]\nkind = "giftcard_partners"\nbase_url = "http://far.test"\nemail = "a@example.com"\n'
    text = CONFIGURATION + '[[routes]]\nname = "new"\nvendor = "second"\nproduct = "X"\n'
    path.write_text(f'{text}{vendor}access_token = "second-access-token"\n')
    looks(found)
    assert len(found.routes) == 2
    assert found.trouble == (
        'route "new": this process started without [vendors.second]; restart it to take the routes'
    )


def test_processes_with_the_same_routes_have_the_same_digest(tmp_path: Path) -> None:
    one, other = holder(tmp_path / "one.toml"), holder(tmp_path / "two.toml", "# moved\n" + CONFIGURATION)
    assert one.digest == other.digest
    assert holder(tmp_path / "three.toml", OTHER).digest != one.digest


async def test_it_looks_by_itself_and_at_once_when_asked(path: Path) -> None:
    by_itself, asked = (holder(path, every_s=seconds) for seconds in (0.02, 1e6))
    tasks = [asyncio.create_task(each.run()) for each in (by_itself, asked)]
    written(path, OTHER)
    asked.look_now()
    for each in (by_itself, asked):

        async def taken(found: Reloading = each) -> bool:
            return product(found) == "ADIDAS"

        await until(taken)
    for task in tasks:
        task.cancel()
