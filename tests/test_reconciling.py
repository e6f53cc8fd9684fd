"""Statements as accounts departments write them, and what an order beside a vendor's answer is judged to be."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from reward_relay.contracts import Progress, VendorOrder
from reward_relay.errors import Invalid
from reward_relay.reconciling import findings
from reward_relay.reconciling.findings import MOST_KEPT, Kind, Report, at_vendor, money, not_at_vendor
from reward_relay.reconciling.statements import Entry, Statement

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
PO = "RR-M82ST41EPC7KDAT9"


def read(tmp_path: Path, text: str | bytes) -> tuple[list[Entry], list[str], Statement]:
    path = tmp_path / "statement.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    bad: list[str] = []
    statement = Statement(path, bad.append)
    return [entry for batch in statement.batches() for entry in batch], bad, statement


# --- statements ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", ["PO Number,Order Id,Total", "po_number;orderId;TOTAL AMOUNT", "Customer PO\tOrder #\tAmount"]
)
def test_columns_are_found_however_they_are_called(tmp_path: Path, head: str) -> None:
    cut = next(sign for sign in ",;\t" if sign in head)
    ((entry,), bad, _) = read(tmp_path, f"{head}\n{cut.join((PO.lower(), 'G1', '20.50'))}\n")
    assert (entry.po_number, entry.amount, bad) == (PO, Decimal("20.50"), [])


def test_a_statement_that_does_not_say_which_order_names_the_columns_it_has(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"'Customer', 'Sum'.*'PO Number' or 'Order Id'"):
        read(tmp_path, "Customer,Sum\nAnn,20\n")
    with pytest.raises(Invalid, match="nothing"):
        read(tmp_path, "")
    with pytest.raises(Invalid, match="cannot be read"):
        list(Statement(tmp_path / "none.csv", print).batches())


@pytest.mark.parametrize(
    ("text", "amount"),
    [("$1,234.50", "1234.50"), ('"1.234,50 EUR"', "1234.50"), ("USD 20", "20"), ("(20.00)", "-20.00"), ("", None)],
)
def test_amounts_as_accountants_write_them(tmp_path: Path, text: str, amount: str | None) -> None:
    cell = text if text.startswith('"') else f'"{text}"'
    ((entry,), _, _) = read(tmp_path, f"PO Number,Amount\n{PO},{cell}\n")
    assert entry.amount == (Decimal(amount) if amount else None)


def test_face_value_and_quantity_make_the_amount_and_rows_of_one_order_are_added_up(tmp_path: Path) -> None:
    rows = f"{PO},G1,10,2\n{PO},G1,5.50,1\nother,G2,1,1\n{PO},G1,10,2\n"
    (entries, _, statement) = read(tmp_path, "PO,Order Number,Face Value,Qty\n" + rows)
    assert [(each.key, each.amount) for each in entries] == [(PO, Decimal("25.50")), ("other", 1), (PO, 20)]
    assert statement.rows == 4


def test_bad_rows_are_listed_and_not_fatal(tmp_path: Path) -> None:
    rows = f"{PO},20,2026-11-01\n,5,\nRR-1,many,\n\nRR-2,7,11/23/2026\nTotal,{'9' * 30},\n"
    (entries, bad, statement) = read(tmp_path, b"\xef\xbb\xbf" + f"PO,Amount,Date\n{rows}".encode())
    assert [each.key for each in entries] == [PO, "RR-2"]
    assert [each.split(": ")[0] for each in bad] == [f"statement.csv, line {line}" for line in (3, 4, 7)]
    assert (statement.bad_rows, str(statement.first), str(statement.last)) == (3, "2026-11-01", "2026-11-01")


def test_of_many_bad_rows_the_first_are_listed(tmp_path: Path) -> None:
    (entries, bad, statement) = read(tmp_path, "PO,Amount\n" + ",1\n" * 500)
    assert (entries, len(bad), statement.bad_rows) == ([], 20, 500)


@pytest.mark.parametrize("body", [b"PO\n\x00\xff\xfe\n", b'PO\n"' + b"x" * 200_000 + b'"\n', b'PO\n"never closed\n'])
def test_rubbish_is_read_without_a_crash(tmp_path: Path, body: bytes) -> None:
    read(tmp_path, body)


# --- judgement -------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    plain = {
        "id": "01a2059d-102e-75b8-9817-71b30f36ab49", "po_number": PO, "source": "talkable", "external_id": "1",
        "state": "placed", "outcome": None, "vendor": "gcp", "vendor_order_id": "G1", "in_doubt": False,
        "hold_reason": None, "held_from": None, "created_at": NOW, "updated_at": NOW, "claimed": False,
        "amount": Decimal("20"), "since": NOW,
    }  # fmt: skip
    return plain | changes


def theirs(progress: Progress, amount: str | None = "20.0", word: str = "Word") -> VendorOrder:
    return VendorOrder("G1", progress, word, amount=Decimal(amount) if amount else None)


HELD = {"state": "on_hold", "hold_reason": "x", "held_from": "placed"}
DONE, REFUSED, PENDING = Progress.FULFILLED, Progress.REFUSED, Progress.PENDING


@pytest.mark.parametrize(
    ("ours", "there", "kinds"),
    [
        ({}, PENDING, []),
        ({}, DONE, ["ended_there"]),
        ({}, REFUSED, ["ended_there"]),
        ({**HELD}, PENDING, []),
        ({**HELD}, DONE, ["ended_there"]),
        ({"state": "received"}, PENDING, ["maybe_there"]),
        ({"state": "closed", "outcome": "fulfilled"}, DONE, []),
        ({"state": "closed", "outcome": "fulfilled"}, PENDING, ["different_ending"]),
        ({"state": "closed", "outcome": "fulfilled"}, REFUSED, ["different_ending"]),
        ({"state": "settled", "outcome": "refused"}, REFUSED, []),
        ({"state": "settled", "outcome": "refused"}, DONE, ["different_ending"]),
        ({"state": "closed", "outcome": "cancelled"}, PENDING, ["different_ending"]),
        ({"state": "closed", "outcome": "cancelled"}, REFUSED, []),
        ({**HELD, "held_from": "settled", "outcome": "fulfilled"}, DONE, []),
    ],
)
def test_endings_are_compared(ours: dict[str, Any], there: Progress, kinds: list[str]) -> None:
    assert [each.kind for each in at_vendor(row(**ours), theirs(there))] == kinds


@pytest.mark.parametrize("amount", ["20", "20.00", None])
def test_equal_or_untold_amounts_are_no_finding(amount: str | None) -> None:
    assert at_vendor(row(), theirs(PENDING, amount)) == []


def test_of_two_amounts_the_difference_is_told() -> None:
    (found,) = at_vendor(row(), theirs(PENDING, "17.5"))
    assert (found.kind, found.repair, found.theirs) == (Kind.DIFFERENT_AMOUNT, None, "Word, 17.50")
    assert "2.50 less" in found.todo


def test_who_is_not_owed_anything_may_be_gone_there() -> None:
    assert not_at_vendor(row(state="closed", outcome="refused")) == []
    assert not_at_vendor(row(**HELD | {"hold_reason": "there is no order G1; look"})) == []
    assert [each.repair for each in not_at_vendor(row(**HELD))] == [None]
    assert [each.repair for each in not_at_vendor(row(claimed=True))] == [None], "a worker holds it just now"


def test_our_own_trouble_is_told_by_its_age() -> None:
    settled = row(state="settled", outcome="refused", since=NOW - timedelta(hours=13))
    assert [each.kind for each in findings.own(settled, NOW, 14)] == [Kind.NOT_TOLD]
    assert findings.own(row(since=NOW - timedelta(days=13)), NOW, 14) == []
    assert "15 days" in findings.own(row(since=NOW - timedelta(days=15)), NOW, 14)[0].todo


@pytest.mark.parametrize(
    ("amount", "shown"), [("20", "20.00"), ("1E+2", "100.00"), ("0.125", "0.125"), ("-5", "-5.00")]
)
def test_money_has_two_decimals_or_all_it_needs(amount: str, shown: str) -> None:
    assert money(Decimal(amount)) == shown


def test_a_report_counts_more_than_it_lists() -> None:
    report = Report({}, NOW)
    report.add(*(findings.not_here("x", str(number)) for number in range(MOST_KEPT + 5)))
    content = report.content(NOW)
    assert (content["counts"], content["not_listed"]) == ({"missing_here": MOST_KEPT + 5}, 5)
    assert len(content["findings"]) == content["repairable"] == MOST_KEPT
