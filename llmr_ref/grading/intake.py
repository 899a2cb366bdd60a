"""Intake: files as students hand them in, read whatever their state, repaired, never lost.

Plugs in through nbgrader's own settings (see assignments/nbgrader_config.py): an exporter that reads what
was submitted, and the first step of sanitizing.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook
from nbgrader.preprocessors import NbGraderPreprocessor

from llmr_ref.grading.sandbox import grading_tier

MAX_NOTEBOOK_BYTES = 50 * 2**20
KEY = "llmr"  # where notes and verdicts live in notebook and cell metadata


class SubmissionExporter(NotebookExporter):
    """Reads what students hand in, whatever its state, and never loses a student.

    When grading starts it also undoes what an interrupted run left half-done, and finds notebooks that
    were renamed. A file that cannot be read is replaced by the release version with the reason noted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        converter = self.parent
        if converter is not None and hasattr(converter, "assignments"):
            grading_tier()  # refuse at once rather than student by student
            _tolerate_dates(converter)
            _discard_unfinished(converter)
            converter.assignments = {
                folder: _adopt_renamed(Path(folder), notebooks, converter)
                for folder, notebooks in converter.assignments.items()
            }

    def from_filename(  # type: ignore[override]  # as in nbconvert's own exporters
        self, filename: str, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        path = Path(filename)
        resources = resources or {}
        assert self.parent is not None
        try:
            notebook = read_notebook(path)
            if getattr(
                self.parent, "_sanitizing", False
            ):  # a student's notebook brings no notes of ours
                notebook.metadata[KEY] = {"intake": [*_renamed_from(path), *_unreadable_date(path)]}
        except ValueError as error:
            notebook = release_version(self.parent.coursedir, resources)
            notebook.metadata[KEY] = {"intake": [f"the submitted file {error}"]}
        resources.setdefault("metadata", {})["name"] = path.stem
        return super().from_notebook_node(notebook, resources, **kw)


def release_version(coursedir: Any, resources: dict[str, Any]) -> NotebookNode:
    """The notebook as students got it."""
    info = resources["nbgrader"]
    release = coursedir.format_path(coursedir.release_directory, ".", info["assignment"])
    return nbformat.read(Path(release) / f"{info['notebook']}.ipynb", as_version=4)


def _renamed_from(path: Path) -> list[str]:
    """A note when the notebook is the copy that `_adopt_renamed` made."""
    twins = [p.name for p in sorted(path.parent.glob("*.ipynb"))
             if p != path and p.is_file() and p.read_bytes() == path.read_bytes()]  # fmt: skip
    return [f"handed in as {name!r}" for name in twins]


def _unreadable_date(path: Path) -> list[str]:
    """A note when the timestamp beside the notebook is none."""
    stamp = path.parent / "timestamp.txt"
    try:
        if stamp.exists():
            utils.parse_utc(stamp.read_text().strip())
    except Exception:  # dateutil, the file system and the encoding each raise their own
        return ["the date in timestamp.txt cannot be read; it counts as handed in on time"]
    return []


def _tolerate_dates(converter: Any) -> None:
    """Let a timestamp that cannot be read count as none: nbgrader would drop the student."""
    read = converter.coursedir.get_existing_timestamp

    def read_if_possible(folder: str) -> Any:
        return None if _unreadable_date(Path(folder) / "notebook") else read(folder)

    converter.coursedir.get_existing_timestamp = read_if_possible


def read_notebook(path: Path) -> NotebookNode:
    """Read a notebook of any v3 or v4 format. Raises: ValueError, in words, when that fails."""
    if path.is_symlink():
        raise ValueError("is a link to another file")
    if not path.is_file():
        raise ValueError("is a folder")
    size = path.stat().st_size
    if size == 0:
        raise ValueError("is empty")
    if size > MAX_NOTEBOOK_BYTES:
        raise ValueError(f"has {size >> 20} MB; {MAX_NOTEBOOK_BYTES >> 20} MB is the limit")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    try:
        notebook = nbformat.reads(text, as_version=4)
        if "\\ud" in text.lower():  # half a character, which JSON can hold and a file cannot
            whole = nbformat.writes(notebook).encode("utf-8", "replace").decode()
            notebook = nbformat.reads(whole, as_version=4)
        nbformat.validate(notebook)
        notebook = nbformat.v4.upgrade(notebook)  # the release version's cells have ids
    except Exception as error:  # nbformat raises many kinds
        raise ValueError(f"is not a notebook ({type(error).__name__})") from None
    return notebook


def _discard_unfinished(converter: Any) -> None:
    """Remove autograded folders without a finished notebook: an interrupted run must not count as done."""
    for folder in converter.assignments:
        student, assignment = _identity(converter, folder)
        graded = Path(converter.coursedir.format_path(
            converter.coursedir.autograded_directory, student, assignment))  # fmt: skip
        if graded.is_dir() and not all(is_finished(p) for p in _expected(graded, assignment)):
            converter.log.warning("Removing unfinished %s, it is graded again", graded)
            utils.rmtree(str(graded))


def _expected(graded: Path, assignment: str) -> list[Path]:
    return sorted(graded.glob("*.ipynb")) or [graded / f"{assignment}.ipynb"]


def is_finished(path: Path) -> bool:
    """Whether an autograded notebook was written to its end, verdicts included."""
    try:
        notebook = json.loads(path.read_text("utf-8"))
        return bool(notebook["metadata"][KEY]["graded"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _identity(converter: Any, folder: str) -> tuple[str, str]:
    """Student and assignment of a submitted folder."""
    parts = Path(folder).parts
    return parts[-2], parts[-1]


def _adopt_renamed(folder: Path, notebooks: list[str], converter: Any) -> list[str]:
    """Copy a renamed notebook to its proper name, when it is the only one and the proper one is missing."""
    _, assignment = _identity(converter, str(folder))
    with Gradebook(converter.coursedir.db_url, converter.coursedir.course_id) as gradebook:
        try:
            known = [n.name for n in gradebook.find_assignment(assignment).notebooks]
        except Exception:  # an assignment that was never generated: nbgrader says so itself
            return notebooks
    names = [Path(n).stem for n in notebooks]
    if len(known) != 1 or known[0] in names or len(names) != 1:
        return notebooks
    if Path(notebooks[0]).is_symlink() or not Path(notebooks[0]).is_file():
        return notebooks
    target = folder / f"{known[0]}.ipynb"
    converter.log.warning("%s is graded as %s", notebooks[0], target)
    shutil.copyfile(notebooks[0], target)
    return [*notebooks, str(target)]


class Repair(NbGraderPreprocessor):
    """Sanitizing, first step: one cell per grade_id, none with broken metadata.

    Of duplicated cells the first one counts; the others become plain cells. Deleted ones come back from
    the release version, in their place. Grading marks are the release version's, whatever was edited.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        notes = nb.metadata.get(KEY, {}).get("intake", [])
        nb.metadata.pop(KEY, None)
        release = release_version(self.parent.parent.coursedir, resources)
        known: dict[str, dict[str, Any]] = {
            c.metadata.nbgrader.grade_id: dict(c.metadata.nbgrader)
            for c in release.cells
            if "nbgrader" in c.metadata
        }
        seen: set[str] = set()
        for index, cell in enumerate(nb.cells):
            meta = cell.metadata.get("nbgrader")
            cell.metadata.pop(KEY, None)
            if meta is None:
                continue
            grade_id = meta.get("grade_id") if isinstance(meta, dict) else None
            source = known.get(grade_id) if isinstance(grade_id, str) else None
            if not isinstance(grade_id, str) or source is None:
                del cell.metadata["nbgrader"]
                if grade_id is not None:
                    notes.append(f"cell {str(grade_id)[:60]!r} is not part of the assignment")
            elif grade_id in seen:
                del cell.metadata["nbgrader"]
                notes.append(f"cell {grade_id!r} occurs more than once; the first one counts")
            else:
                seen.add(grade_id)
                if {k: meta.get(k) for k in source} != source:
                    notes.append(f"the grading marks of cell {grade_id!r} were changed")
                cell.metadata["nbgrader"] = {**source}
                nb.cells[index] = _of_type(cell, source["cell_type"])
        gone = [g for g in known if g not in seen]
        notes += [f"cell {g!r} was missing" for g in gone]
        _put_back(nb, release, gone)
        nb.metadata[KEY] = {"intake": notes}
        return nb, resources


def _of_type(cell: NotebookNode, cell_type: str) -> NotebookNode:
    """The cell itself, or one of the other type with its source, marks and id and nothing else."""
    if cell.cell_type == cell_type:
        return cell
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}[cell_type]
    return make(cell.source, metadata=cell.metadata, id=cell.id)


def _put_back(nb: NotebookNode, release: NotebookNode, gone: list[str]) -> None:
    """Insert missing cells of the release version after the cell that precedes them there."""
    previous = None
    for cell in release.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id is None:
            continue
        if grade_id in gone:
            nb.cells.insert(_index_after(nb, previous), cell)
        previous = grade_id


def _index_after(nb: NotebookNode, grade_id: str | None) -> int:
    for index, cell in enumerate(nb.cells):
        if grade_id is not None and cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return index + 1
    return 0 if grade_id is None else len(nb.cells)
