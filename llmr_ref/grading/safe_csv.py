"""CSV that a spreadsheet opens without running what a student put into a name."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# A cell that begins with one of these is a formula to Excel, LibreOffice and Google Sheets (OWASP,
# "CSV Injection"); so is one where they follow white space.
FORMULA = re.compile(r"\s*[=+\-@\t\r\n]|[\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Cell = str | float | int | None


def safe_cell(value: Cell) -> Cell:
    """Text that would run as a formula gets an apostrophe in front; numbers stay as they are."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    return f"'{value}" if FORMULA.match(value) else value


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """RFC 4180: commas, quotes and line breaks in a cell are quoted, lines end with CR LF."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(map(safe_cell, header))
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def write_whole(path: Path, text: str) -> Path:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8", newline="")
    draft.replace(path)
    return path
