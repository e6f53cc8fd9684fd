"""The spool's file: what it keeps through kills, a full disk, a damaged file and a folder that is not there."""

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from reward_relay.db.engine import database_address
from reward_relay.db.spool import Spool, Spooled, spool_path
from reward_relay.errors import SpoolFull, SpoolUnusable

MIB = 1 << 20
AT = datetime(2026, 11, 23, 12, 0, 0, 123000, UTC)


def delivery(number: int, body: bytes | None = None) -> Spooled:
    """A delivery; its id sorts by its number."""
    told = {"user-agent": "x"}
    return Spooled(f"id-{number:06}", "roster", "webhook", AT, "application/json", told, body or b"{%d}" % number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool" / "spool-1.sqlite3"


def opened(path: Path, limit: int = 64 * MIB) -> Spool:
    """A spool on this file."""
    spool = Spool(path, limit)
    spool.open()
    return spool


def numbers(spool: Spool, most: int = 10_000) -> list[str]:
    """The ids that wait, in order."""
    return [each.id for _, each in spool.oldest(most)]


def test_what_was_put_comes_back_whole_and_in_order(path: Path) -> None:
    spool = opened(path)
    odd = Spooled("id-0", "s", "webhook", AT, 'a/b; x="\ud800"', {"h": "\u20ac"}, bytes(range(256)), "00-trace")
    spool.put([odd])
    spool.put([delivery(1), delivery(2)])
    spool.close()
    again = opened(path)
    assert [each for _, each in again.oldest(10)] == [odd, delivery(1), delivery(2)]
    found = again.state()
    assert (found.waiting, found.stuck, found.oldest_at) == (3, 0, AT)
    again.drop([number for number, _ in again.oldest(2)])
    assert (numbers(again), again.waiting(10)) == (["id-000002"], 1)
    again.close()


def test_a_delivery_that_is_put_twice_waits_once(path: Path) -> None:
    spool = opened(path)
    for _ in range(2):
        spool.put([delivery(1)])
    assert numbers(spool) == ["id-000001"]
    spool.close()


def test_nobody_else_can_read_it_and_every_commit_is_synced(path: Path) -> None:
    umask = os.umask(0)
    try:
        spool = opened(path)
        spool.put([delivery(1)])
    finally:
        os.umask(umask)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    files = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
    names = (path.name, f"{path.name}-wal", f"{path.name}-shm", "spool-1.open.lock", "spool-1.write.lock")
    assert files == dict.fromkeys(names, 0o600)
    assert spool._writer is not None
    asked = [spool._writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")]
    assert asked == [2, "wal"]
    spool.close()


def test_what_the_database_has_got_is_not_left_on_the_disk(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(1, b"Ana Diaz, 12 Main Street" * 1000)])
    assert any(b"Ana Diaz" in each.read_bytes() for each in path.parent.iterdir())
    spool.drop([number for number, _ in spool.oldest(9)])
    assert not any(b"Ana Diaz" in each.read_bytes() for each in path.parent.iterdir())
    assert path.stat().st_size < 64 << 10
    spool.close()


def test_bodies_pass_through_the_seal(path: Path) -> None:
    spool = Spool(path, MIB, seal=lambda body: body[::-1], unseal=lambda body: body[::-1])
    spool.open()
    spool.put([delivery(1, b"secret-body")])
    assert not any(b"secret-body" in each.read_bytes() for each in path.parent.iterdir())
    assert spool.oldest(1)[0][1].body == b"secret-body"
    spool.close()


def test_a_full_spool_takes_nothing_and_has_room_again_when_it_is_emptied(path: Path) -> None:
    spool, kept = opened(path, MIB), 0
    with pytest.raises(SpoolFull, match="spool_mb"):
        while True:
            spool.put([delivery(kept, b"x" * 100_000)])
            kept += 1
    assert kept in (8, 9, 10)
    assert path.stat().st_size <= MIB
    spool.drop([number for number, _ in spool.oldest(99)])
    spool.put([delivery(kept)])
    assert numbers(spool) == [f"id-{kept:06}"]
    spool.close()


def test_a_disk_that_refuses_is_said_and_used_again_when_it_does_not(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()  # root may write everywhere, so a folder stands where the file should be
    spool = Spool(path, MIB)
    with pytest.raises(SpoolUnusable, match=r"spool-1\.sqlite3"):
        spool.open()
    with pytest.raises(SpoolUnusable):
        spool.put([delivery(1)])
    assert spool.waiting(1) == 0
    path.rmdir()
    spool.check()
    spool.put([delivery(1)])
    assert numbers(spool) == ["id-000001"]
    spool.close()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolUnusable, match="spool"):
        Spool(tmp_path / "file" / "spool" / "spool-1.sqlite3", MIB).open()


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 8000])
def test_a_file_that_is_none_is_set_aside_and_the_spool_works(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    spool = opened(path)
    spool.put([delivery(1)])
    assert numbers(spool) == ["id-000001"]
    (name,) = spool.set_aside()
    assert (path.parent / name).read_bytes() == content
    spool.close()


def test_of_a_file_with_a_damaged_part_the_rest_is_saved(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(number, b"%06d" % number * 1000) for number in range(100)])
    spool.close()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(bytes(content))
    spool = opened(path)
    saved = spool.oldest(1000)
    assert len(spool.set_aside()) == 1 or spool.state().stuck
    assert len(saved) > 20
    assert all(each.body == b"%06d" % int(each.id[3:]) * 1000 for _, each in saved)
    spool.close()


def test_a_flipped_bit_is_noticed_and_the_others_pass(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(number) for number in range(3)])
    with sqlite3.connect(path) as other:
        other.execute("UPDATE spool SET body = CAST('{9}' AS BLOB) WHERE id = 'id-000001'")
    other.close()
    assert numbers(spool) == ["id-000000", "id-000002"]
    found = spool.state()
    assert (found.waiting, found.stuck, spool.waiting(9)) == (2, 1, 2)
    spool.unstick()
    assert spool.waiting(9) == 3
    spool.close()


def test_damage_while_it_is_used_is_mended_and_the_delivery_kept(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(1)])
    spool._close_writer()
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    spool.put([delivery(2)])
    assert numbers(spool)[-1] == "id-000002"
    assert len(spool.set_aside()) == 1
    spool.close()


def test_two_processes_share_the_file_and_one_of_them_empties_it(path: Path) -> None:
    first, second = opened(path), opened(path)
    first.put([delivery(1)])
    second.put([delivery(2)])
    first.put([delivery(3)])
    assert numbers(second) == ["id-000001", "id-000002", "id-000003"]
    with first.alone() as mine:
        assert mine
        with second.alone() as also:
            assert not also
    with second.alone() as mine:
        assert mine
    first.close()
    second.close()


def test_a_file_that_another_process_set_aside_is_left(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(1)])
    assert spool.waiting(9) == 1
    path.rename(path.with_name("elsewhere"))
    spool.put([delivery(2)])
    assert (spool.waiting(9), numbers(spool)) == (1, ["id-000002"])
    spool.close()


PUTTING = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from reward_relay.db.spool import Spool, Spooled
spool = Spool(Path(sys.argv[1]), 1 << 30)
spool.open()
for number in range(10 ** 6):
    at = datetime.now(UTC)
    spool.put([Spooled(f"{sys.argv[2]}-{number}", "s", "webhook", at, "", {}, b"x" * 3000)])
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def test_what_two_processes_said_they_have_is_there_after_sigkill(path: Path) -> None:
    command = [sys.executable, "-c", PUTTING, str(path)]
    both = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    said: list[str] = []
    for each in both:
        assert each.stdout is not None
        said += [each.stdout.readline().strip() for _ in range(30)]
    for each in both:
        each.send_signal(signal.SIGKILL)
        assert each.stdout is not None
        said += each.stdout.read().split()
        each.wait()
        each.stdout.close()
    spool = opened(path)
    kept = [each.id for _, each in spool.oldest(100_000)]
    assert set(said) <= set(kept)
    assert spool.set_aside() == []
    for name in "ab":
        own = [int(each[2:]) for each in kept if each.startswith(name)]
        assert own == sorted(own)
    spool.close()


def test_a_batch_is_bounded_in_bytes(path: Path) -> None:
    spool = opened(path)
    spool.put([delivery(number, b"x" * MIB) for number in range(20)])
    assert len(spool.oldest(100)) == 9
    spool.close()


def test_each_database_has_its_file_and_its_password_is_no_part_of_it(tmp_path: Path) -> None:
    def place(url: str) -> Path:
        return spool_path(tmp_path, database_address(url))

    first = place("postgresql://u:p@db/relay")
    assert first == place("postgresql://u:changed@db/relay")
    others = ["postgresql://u:p@db/staging", "postgresql://u:p@db2/relay", "postgresql://u:p@/relay?host=/tmp/x"]
    assert len({first, *map(place, others)}) == 4
