"""Read what a student handed in, whatever its state: encoding, format version, size, date."""

import json
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from dateutil import parser, tz  # type: ignore[import-untyped]
from nbformat.notebooknode import NotebookNode

from llmr_ref.grading import without_outputs

MAX_FILE_BYTES = 256 << 20  # with outputs
MAX_NOTEBOOK_BYTES = 8 << 20  # without
MAX_CELLS = 2_000  # pages take minutes to draw beyond
MAX_CHARACTERS = 1_000_000  # of all cells together, pictures in text cells not counted
SECONDS = 120.0
CELL = {"cell_type", "id", "metadata", "source", "outputs", "execution_count", "attachments"}
ON_TIME = "it counts as handed in on time"
ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")


def read_notebook(path: Path) -> tuple[NotebookNode, list[str]]:
    """A notebook of any format up to v4 in the newest v4, and notes on what was odd.

    Raises: ValueError, in words that go on from "the submitted file", when it cannot be read.
    """
    notes: list[str] = []
    size = _size(path)
    if size <= MAX_NOTEBOOK_BYTES:
        try:
            text, encoding = without_outputs.text_of(path.read_bytes())
        except OSError as error:
            raise ValueError(f"cannot be read ({error.strerror})") from error
        if not encoding.startswith("utf-8"):
            notes.append(f"the submitted file is not UTF-8 text; it was read as {encoding}")
    else:
        text = _slimmed(path, size)
    _within(text.count('"cell_type"'), MAX_CELLS, "cells")
    try:
        notebook = nbformat.reader.reads(text)
        with_ids = (notebook.nbformat, notebook.get("nbformat_minor", 0)) >= (4, 5)
        notebook = nbformat.from_dict(nbformat.convert(notebook, 4))
        _update(notebook, with_ids)
        nbformat.validate(notebook)
        if "\\ud" in text.lower():  # half a character, which JSON can hold and a file cannot
            whole = json.dumps(notebook, ensure_ascii=False).encode("utf-8", "replace").decode()
            notebook = nbformat.reads(whole, as_version=4)
    except Exception as error:  # nbformat raises many kinds
        raise ValueError(f"is not a notebook ({_kind(text, error)})") from None
    _within(len(notebook.cells), MAX_CELLS, "cells")
    _within(sum(len(c.source) for c in notebook.cells), MAX_CHARACTERS, "characters in its cells")
    return notebook, notes


def _within(number: int, limit: int, what: str) -> None:
    if number > limit:
        raise ValueError(f"has {number} {what}; {limit} is the limit")


def _update(notebook: NotebookNode, with_ids: bool) -> None:
    """Make it the newest v4 known: nothing from a later one, an id for every cell, always the same."""
    seen: set[str] = set()
    for number, cell in enumerate(notebook.cells):
        for key in cell.keys() - CELL:
            del cell[key]
        if not with_ids or cell.id in seen:
            cell["id"] = f"cell-{number}"
        seen.add(cell.id)
    notebook.nbformat_minor = nbformat.v4.nbformat_minor


def _size(path: Path) -> int:
    """Bytes of the file. Raises: ValueError when it is none that holds a notebook."""
    if path.is_symlink():
        raise ValueError("is a link to another file")
    if path.is_dir():
        raise ValueError("is a folder")
    if not path.is_file():
        raise ValueError("is neither a file nor a folder")
    size = path.stat().st_size
    if size == 0:
        raise ValueError("is empty")
    if size > MAX_FILE_BYTES:
        raise ValueError(f"has {size >> 20} MB; {MAX_FILE_BYTES >> 20} MB is the limit")
    return size


def _slimmed(path: Path, size: int) -> str:
    """A large notebook without its outputs, read where its size can do no harm."""
    command = [sys.executable, "-I", without_outputs.__file__, str(path), str(MAX_NOTEBOOK_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"has {size >> 20} MB and takes too long to read") from None
    if done.returncode == 3:
        raise ValueError(
            f"has more than {MAX_NOTEBOOK_BYTES >> 20} MB without its outputs; that is the limit"
        )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        kind = said.partition(":")[0].rpartition(".")[2] or "unreadable"
        raise ValueError(f"is not a notebook ({kind})")
    return done.stdout.decode()


def _kind(text: str, error: Exception) -> str:
    """What is wrong in one or two words: the version when it is one to come, else the error's name."""
    version = re.search(r'"nbformat"\s*:\s*(\d{1,4})\b', text)
    if version and int(version[1]) > nbformat.current_nbformat:
        return f"format version {version[1]}; {nbformat.current_nbformat} is the newest known"
    return type(error).__name__


def handed_in_at(folder: Path) -> tuple[datetime | None, list[str]]:
    """When a submission was handed in, in UTC without a zone as nbgrader keeps it, and notes.

    Read from timestamp.txt: a date and time, then nothing (UTC), an offset (+0100) or the name of a
    zone. Of an hour that occurs twice, when summer time ends, the first one counts.
    """
    stamp = folder / "timestamp.txt"
    unreadable = f"the date in timestamp.txt cannot be read; {ON_TIME}"
    if not stamp.exists() and not stamp.is_symlink():
        return None, []
    try:
        if stamp.is_symlink() or not stamp.is_file():
            return None, [unreadable]
        with stamp.open("rb") as file:
            text = without_outputs.text_of(file.read(200))[0].strip("\ufeff\0 \r\n\t")
        return _parsed(text) if text else (None, [f"timestamp.txt is empty; {ON_TIME}"])
    except Exception:  # dateutil, the calendar and the file system each raise their own
        return None, [unreadable]


def _parsed(text: str) -> tuple[datetime, list[str]]:
    notes: list[str] = []
    zone = UTC
    head, _, name = text.rpartition(" ")
    if ZONE.fullmatch(name) and name.upper() not in ("AM", "PM", "UTC", "GMT", "Z"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = tz.gettz(name)
        text, zone = head, found or UTC
        if found is None:
            notes.append(f"the time zone {name[:40]!r} in timestamp.txt is not known; read as UTC")
    # dateutil fills what is missing from a default: with two of them, a part of a date is found out.
    defaults = datetime(2001, 1, 2), datetime(2010, 12, 3)
    moments = [parser.parse(text, default=default) for default in defaults]
    if moments[0] != moments[1]:
        raise ValueError(f"{text!r} is not a whole date")
    moment = moments[0] if moments[0].tzinfo else moments[0].replace(tzinfo=zone)
    return moment.astimezone(UTC).replace(tzinfo=None), notes
