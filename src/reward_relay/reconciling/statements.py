"""A vendor's statement or invoice as CSV, whatever its columns are called; one order at a time, never the whole."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from reward_relay.errors import Invalid

COLUMNS = {
    "po_number": ("ponumber", "po", "purchaseordernumber", "purchaseorder", "customerpo", "customerponumber",
                  "clientpo", "yourreference", "reference", "externalid"),
    "order_id": ("orderid", "vendororderid", "ordernumber", "orderno", "order", "id"),
    "amount": ("total", "totalamount", "ordertotal", "amount", "lineamount", "linetotal", "extendedamount",
               "netamount", "facevaluetotal"),
    "unit": ("value", "facevalue", "denomination", "unitprice", "unitvalue"),
    "quantity": ("quantity", "qty", "count"),
    "status": ("status", "orderstatus", "state"),
    "date": ("orderdate", "date", "created", "createdat", "createddate", "placedat", "invoicedate"),
}  # fmt: skip
"""What a column holds, by its name without spelling; the first that is there counts."""
BATCH = 500
MOST_BAD = 20
OUR_PO = re.compile(r"RR-[0-9A-HJKMNP-TV-Z]{16}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One order as the statement has it: its rows that stand together, added up."""

    line: int
    po_number: str = ""
    order_id: str = ""
    amount: Decimal | None = None
    status: str = ""
    day: date | None = None

    @property
    def key(self) -> str:
        """What to call it."""
        return self.po_number or self.order_id

    def same_order(self, other: "Entry") -> bool:
        """Whether the row below belongs to the same order."""
        return (self.po_number, self.order_id) == (other.po_number, other.order_id)

    def plus(self, other: "Entry") -> "Entry":
        """Both rows as one."""
        known = self.amount is not None and other.amount is not None
        return replace(self, amount=(self.amount or Decimal()) + (other.amount or Decimal()) if known else None)


class Statement:
    """The file at `path`. Bad rows are told to `bad` (the first twenty) and counted."""

    def __init__(self, path: Path, bad: Callable[[str], None]) -> None:
        self._path = path
        self._bad = bad
        self.rows = 0
        self.bad_rows = 0
        self.first: date | None = None
        self.last: date | None = None

    def batches(self) -> Iterator[list[Entry]]:
        """The statement's orders, some at a time.

        Raises:
            Invalid: it cannot be read, or its columns do not say which order a row is about.
        """
        batch: list[Entry] = []
        try:
            for entry in self._joined():
                batch.append(entry)
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        except OSError as error:
            raise Invalid(f"{self._path} cannot be read ({error.strerror or error})") from None
        if batch:
            yield batch

    def _joined(self) -> Iterator[Entry]:
        before: Entry | None = None
        for entry in self._entries():
            if before is not None and before.same_order(entry):
                before = before.plus(entry)
                continue
            if before is not None:
                yield before
            before = entry
        if before is not None:
            yield before

    def _entries(self) -> Iterator[Entry]:
        with self._path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            head = file.readline()
            delimiter = max(",;\t|", key=head.count)
            columns = _columns(next(csv.reader([head], delimiter=delimiter), []), self._path.name)
            reader = csv.reader(file, delimiter=delimiter)
            while True:
                try:
                    row = next(reader)
                    if any(cell.strip() for cell in row):
                        self.rows += 1
                        yield self._entry(row, columns, reader.line_num + 1)
                except StopIteration:
                    return
                except (csv.Error, ValueError) as error:
                    self.bad_rows += 1
                    if self.bad_rows <= MOST_BAD:
                        self._bad(f"{self._path.name}, line {reader.line_num + 1}: {error}")

    def _entry(self, row: Sequence[str], columns: dict[str, int], line: int) -> Entry:
        def cell(name: str) -> str:
            place = columns.get(name)
            found = row[place] if place is not None and place < len(row) else ""
            return found.replace("\x00", "").strip()[:200]

        po_number, order_id = cell("po_number"), cell("order_id")
        if OUR_PO.fullmatch(po_number.upper()):
            po_number = po_number.upper()
        if not po_number and not order_id:
            raise ValueError("neither a PO number nor an order id")
        amount = _amount(cell("amount")) if "amount" in columns else _times(_amount(cell("unit")), cell("quantity"))
        day = _day(cell("date"))
        if day is not None:
            self.first, self.last = min(self.first or day, day), max(self.last or day, day)
        return Entry(line, po_number, order_id, amount, cell("status")[:60], day)


def _columns(head: Sequence[str], name: str) -> dict[str, int]:
    """Where each column is.

    Raises:
        Invalid: none says which order a row is about.
    """
    folded = [re.sub(r"[^a-z0-9]", "", each.lower()) for each in head]
    places = {
        what: folded.index(found)
        for what, names in COLUMNS.items()
        if (found := next((each for each in names if each in folded), None)) is not None
    }
    if not {"po_number", "order_id"} & places.keys():
        there = ", ".join(repr(each.strip()[:40]) for each in head if each.strip()) or "nothing"
        raise Invalid(
            f"{name}: no column tells which order a row is about; its first line has {there}. Name one 'PO Number' or "
            f"'Order Id' (and the others 'Amount', 'Status', 'Date')"
        )
    return places


ENGLISH = re.compile(r"-?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
GERMAN = re.compile(r"-?(\d{1,3}(\.\d{3})+|\d+),\d{1,2}")


def _amount(text: str) -> Decimal | None:
    """An amount as accountants write it: `$1,234.50`, `1.234,50 EUR`, `(20.00)` for minus twenty.

    Raises:
        ValueError: it is none.
    """
    plain = re.sub(r"[^\d.,()-]", "", text)
    if not plain:
        if text:
            raise ValueError(f"{text[:40]!r} is not an amount")
        return None
    if plain.startswith("(") and plain.endswith(")"):
        plain = f"-{plain[1:-1]}"
    if len(plain) > 20:
        raise ValueError("an amount is too long")
    if ENGLISH.fullmatch(plain):
        return Decimal(plain.replace(",", ""))
    if GERMAN.fullmatch(plain):
        return Decimal(plain.replace(".", "").replace(",", "."))
    raise ValueError(f"{text[:40]!r} is not an amount")


def _times(unit: Decimal | None, quantity: str) -> Decimal | None:
    if unit is None:
        return None
    if quantity and not re.fullmatch(r"[0-9]{1,6}", quantity):
        raise ValueError(f"{quantity[:40]!r} is not a quantity")
    return unit * int(quantity or 1)


def _day(text: str) -> date | None:
    """A day that can be read one way only (2026-11-23…); None for any other."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None
