"""Intake: files as students hand them in, read whatever their state, repaired, never lost.

Plugs in through nbgrader's own settings (see assignments/nbgrader_config.py): an exporter that reads what
was submitted, and the first step of sanitizing.
"""

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import NotebookExporter
from nbformat.notebooknode import NotebookNode
from nbgrader import utils
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.preprocessors import NbGraderPreprocessor

from llmr_ref.grading.guard import Refused, guard, machine_fault
from llmr_ref.grading.reading import MAX_FILE_BYTES, handed_in_at, read_notebook
from llmr_ref.grading.sandbox import grading_tier
from llmr_ref.grading.scratch import remove_abandoned

MAX_NOTES = 50
MAX_FILES = 200  # beside a notebook
ALL_FILES = "everything beside the notebook"
KEY = "llmr"  # where notes and verdicts live in notebook and cell metadata


class SubmissionExporter(NotebookExporter):
    """Reads what students hand in, whatever its state, and never loses a student.

    When grading starts it also undoes what an interrupted run left half-done, notices what was handed
    in again, and adds those who handed in a folder without a notebook of the right name. A file that
    cannot be read is replaced by the release version, with the reason noted, and needs a look.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        converter = self.parent
        if converter is not None and hasattr(converter, "_sanitizing"):
            guard(
                converter,
                begin=lambda: _begin(converter),
                clean_up=lambda: _discard(converter, lambda _, graded: not is_finished(graded)),
            )

    def from_filename(  # type: ignore[override]  # as in nbconvert's own exporters
        self, filename: str, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        path = Path(filename)
        resources = resources or {}
        resources.setdefault("metadata", {})["name"] = path.stem
        if not getattr(self.parent, "_sanitizing", False):
            return super().from_notebook_node(nbformat.read(path, as_version=4), resources, **kw)
        notebook = self._handed_in(path, resources)
        try:
            return super().from_notebook_node(notebook, resources, **kw)
        except Exception as error:
            if isinstance(error, Refused) or machine_fault(error):
                raise
            # Something in this one file; where it is a fault of ours, the release version fails too.
            notes = notebook.metadata[KEY]
            reason = f"the submitted file cannot be graded ({type(error).__name__})"
            assert self.parent is not None
            notebook = release_version(self.parent.coursedir, resources)
            notes |= {"intake": [reason, *notes["intake"]], "unreadable": reason}
            notebook.metadata[KEY] = notes
            return super().from_notebook_node(notebook, resources, **kw)

    def _handed_in(self, path: Path, resources: dict[str, Any]) -> NotebookNode:
        """What was handed in as this notebook. A student's notebook brings no notes of ours."""
        assert self.parent is not None
        notes: list[str] = []
        unreadable = ""
        try:
            found, notes = _find(path)
            notebook, odd = read_notebook(found)
            notes += odd
        except ValueError as error:
            notebook = release_version(self.parent.coursedir, resources)
            unreadable = str(error)
            if not unreadable.startswith("no notebook"):
                unreadable = f"the submitted file {unreadable}"
            notes = [unreadable]
        notes += handed_in_at(path.parent)[1]
        notes += [f"{name!r} was left out: {why}" for name, why in _unfit(path.parent).items()]
        notebook.metadata[KEY] = {
            "intake": notes, "unreadable": unreadable, "handed_in": _fingerprint(path)
        }  # fmt: skip
        return notebook


def _begin(converter: Any) -> None:
    """Before the first student: whether grading is possible, who is there, what must be done again."""
    remove_abandoned()
    try:
        grading_tier()  # refuse at once rather than student by student
    except RuntimeError as error:
        raise Refused(str(error)) from error
    coursedir = converter.coursedir
    coursedir.get_existing_timestamp = lambda folder: handed_in_at(Path(folder))[0]
    _copy_only_what_is_fit(converter)
    known = _known_notebooks(converter)
    if known and coursedir.notebook_id == "*":
        everybody = converter._format_source(coursedir.assignment_id, coursedir.student_id)
        converter.assignments = {
            folder: _expected(folder, converter.assignments.get(folder, []), known)
            for folder in sorted({*glob.glob(everybody), *converter.assignments})
        }
    _discard(converter, _must_be_graded_again)


def _known_notebooks(converter: Any) -> list[str]:
    """Names of the assignment's notebooks. Raises: Refused when one has no release version."""
    coursedir = converter.coursedir
    assignment = coursedir.assignment_id
    with Gradebook(coursedir.db_url, coursedir.course_id) as gradebook:
        try:
            names = [n.name for n in gradebook.find_assignment(assignment).notebooks]
        except MissingEntry:  # an assignment that was never generated: nbgrader says so itself
            return []
    release = Path(coursedir.format_path(coursedir.release_directory, ".", assignment))
    for name in names:
        if not (release / f"{name}.ipynb").is_file():
            raise Refused(
                f"There is no release version {release / f'{name}.ipynb'}, and submissions are "
                f"compared with it. Make it with `nbgrader generate_assignment {assignment} --force`."
            )
    return names


def _expected(folder: str, notebooks: list[str], known: list[str]) -> list[str]:
    """The notebooks of the assignment that are there; with none of them, all of them."""
    present = [n for n in notebooks if Path(n).stem in known]
    return present or [str(Path(folder) / f"{name}.ipynb") for name in known]


def _find(path: Path) -> tuple[Path, list[str]]:
    """The file that was handed in as this notebook: itself, or the only one under another name.

    Raises: ValueError, in words, when there is none or more than one.
    """
    if path.exists() or path.is_symlink():
        return path, []
    others = sorted(path.parent.glob("*.ipynb"))
    if len(others) == 1:
        return others[0], [f"handed in as {others[0].name!r}"]
    if others:
        names = ", ".join(repr(p.name) for p in others)
        raise ValueError(f"no notebook named {path.name!r} was handed in; there are {names[:300]}")
    raise ValueError("no notebook was handed in")


def _fingerprint(path: Path) -> str:
    """A hash of what was handed in as this notebook; empty when it is no file."""
    try:
        found, _ = _find(path)
        if found.is_symlink() or not found.is_file():
            return ""
        with found.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (ValueError, OSError):
        return ""


def _copy_only_what_is_fit(converter: Any) -> None:
    """nbgrader copies everything beside a notebook, and follows links wherever they lead."""
    copy = converter.init_assignment
    coursedir = converter.coursedir

    def copy_what_is_fit(assignment: str, student: str) -> None:
        usual = coursedir.ignore
        folder = Path(converter._format_source(assignment, student))
        unfit = _unfit(folder)
        coursedir.ignore = [*usual, *(["*"] if ALL_FILES in unfit else map(glob.escape, unfit))]
        try:
            copy(assignment, student)
        finally:
            coursedir.ignore = usual

    converter.init_assignment = copy_what_is_fit


def _unfit(folder: Path) -> dict[str, str]:
    """Names in a submission that must not be copied, and why."""
    unfit, count = {}, 0
    for place, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        if count > MAX_FILES:  # nbgrader compares every file with every other one
            return {ALL_FILES: f"more than {MAX_FILES} files and folders"}
        for name in [n for n in folders if glob.has_magic(n)]:
            # nbgrader takes it for a pattern and would not find what to ignore in it.
            unfit[name] = "a folder whose name holds * ? or ["
            folders.remove(name)
        for name in names:
            path = Path(place, name)
            if path.suffix == ".ipynb" and path.parent == folder:
                continue
            if path.is_symlink():
                unfit[name] = "a link to another file"
            elif not path.is_file():
                unfit[name] = "neither a file nor a folder"
            elif not os.access(path, os.R_OK):
                unfit[name] = "it cannot be read"
            elif path.stat().st_size > MAX_FILE_BYTES:
                unfit[name] = f"more than {MAX_FILE_BYTES >> 20} MB"
    return unfit


def release_version(coursedir: Any, resources: dict[str, Any]) -> NotebookNode:
    """The notebook as students got it."""
    info = resources["nbgrader"]
    release = coursedir.format_path(coursedir.release_directory, ".", info["assignment"])
    return nbformat.read(Path(release) / f"{info['notebook']}.ipynb", as_version=4)


def _discard(converter: Any, unwanted: Any) -> None:
    """Remove the autograded folders of which `unwanted(submitted, autograded)` holds for a notebook."""
    for folder, notebooks in converter.assignments.items():
        student, assignment = Path(folder).parts[-2:]
        graded = Path(converter.coursedir.format_path(
            converter.coursedir.autograded_directory, student, assignment))  # fmt: skip
        names = [Path(n).name for n in notebooks]
        if graded.is_dir() and any(unwanted(Path(folder) / n, graded / n) for n in names):
            converter.log.warning("Removing %s, it is graded again", graded)
            utils.rmtree(str(graded))


def _must_be_graded_again(submitted: Path, graded: Path) -> bool:
    """Whether it is unfinished, was spoilt by a fault of ours, or something else was handed in since."""
    notes = _notes(graded)
    return (
        not notes.get("graded")
        or bool(notes.get("again"))
        or ("handed_in" in notes and notes["handed_in"] != _fingerprint(submitted))
    )


def is_finished(path: Path) -> bool:
    """Whether an autograded notebook was written to its end, verdicts included."""
    return bool(_notes(path).get("graded"))


def _notes(path: Path) -> dict[str, Any]:
    """Our notes in an autograded notebook; none in one that cannot be read."""
    try:
        return dict(json.loads(path.read_text("utf-8"))["metadata"][KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class Repair(NbGraderPreprocessor):
    """Sanitizing, first step: one cell per grade_id, in the assignment's order, none with broken metadata.

    Of duplicated cells the first one counts; the others become plain cells. A cell that lost its marks
    is known by its text; deleted ones come back from the release version, in their place. Grading marks
    are the release version's, whatever was edited.
    """

    def preprocess(
        self, nb: NotebookNode, resources: dict[str, Any]
    ) -> tuple[NotebookNode, dict[str, Any]]:
        if not isinstance(self.parent, SubmissionExporter):
            raise Refused(
                "c.Autograde.exporter_class in nbgrader_config.py must be "
                f"'{SubmissionExporter.__module__}.SubmissionExporter', "
                f"but is {type(self.parent).__name__}: nobody would be graded safely."
            )
        assert self.parent.parent is not None
        ours = dict(nb.metadata.get(KEY, {}))
        notes = list(ours.get("intake", []))
        release = release_version(self.parent.parent.coursedir, resources)
        known = {c.metadata.nbgrader.grade_id: c for c in release.cells if "nbgrader" in c.metadata}
        seen: set[str] = set()
        for index, cell in enumerate(nb.cells):
            meta = cell.metadata.get("nbgrader")
            # Whatever else a student's file says about a cell, a page would put into its HTML.
            cell.metadata = nbformat.from_dict({} if meta is None else {"nbgrader": meta})
            if cell.cell_type == "code":  # nbgrader's own step can be switched off: --no-execute
                cell.outputs, cell.execution_count = [], None
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
                marks = dict(source.metadata.nbgrader)
                if {k: meta.get(k) for k in marks} != marks:
                    notes.append(f"the grading marks of cell {grade_id!r} were changed")
                nb.cells[index] = _marked(cell, source)
        _recognise(nb, {g: c for g, c in known.items() if g not in seen}, seen, notes)
        gone = [g for g in known if g not in seen]
        notes += [f"cell {g!r} was missing" for g in gone]
        if _put_in_order(nb, release):
            notes.append("the cells stood in another order than in the assignment")
        _put_back(nb, release, gone)
        if len(notes) > MAX_NOTES:
            notes = [*notes[:MAX_NOTES], f"and {len(notes) - MAX_NOTES} notes more"]
        nb.metadata = nbformat.from_dict({**release.metadata, KEY: {
            **ours, "intake": notes, "needs_look": _reasons(release, gone, ours.get("unreadable", ""))
        }})  # fmt: skip
        return nb, resources


def _marked(cell: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The cell with the grading marks and the type of the release version's."""
    cell.metadata["nbgrader"] = nbformat.from_dict(dict(source.metadata.nbgrader))
    return _of_type(cell, source.cell_type)


def _recognise(
    nb: NotebookNode, missing: dict[str, NotebookNode], seen: set[str], notes: list[str]
) -> None:
    """Give plain cells with exactly the text of a missing locked cell its marks back.

    Old formats and other editors drop the marks, and a new version of an assignment may rename them.
    """
    by_text = {
        (c.cell_type, c.source.strip()): g
        for g, c in missing.items()
        if not c.metadata.nbgrader.get("solution")
    }
    for index, cell in enumerate(nb.cells):
        grade_id = by_text.get((cell.cell_type, cell.source.strip()))
        if grade_id is not None and "nbgrader" not in cell.metadata and grade_id not in seen:
            nb.cells[index] = _marked(cell, missing[grade_id])
            seen.add(grade_id)
            if cell.cell_type == "code":
                notes.append(f"cell {grade_id!r} had lost its marks; it was known by its text")


def _put_in_order(nb: NotebookNode, release: NotebookNode) -> bool:
    """Sort the cells as in the release version if they are not, plain ones with the one before them."""
    place = {}
    for number, cell in enumerate(release.cells):
        place[cell.metadata.get("nbgrader", {}).get("grade_id") or f"plain {cell.id}"] = number
    marked, keys, last = [], [], -1
    for cell in nb.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        last = place.get(grade_id or f"plain {cell.id}", last)
        keys.append(last)
        if grade_id is not None:
            marked.append(last)
    if marked == sorted(marked):
        return False
    nb.cells = [cell for _, cell in sorted(zip(keys, nb.cells, strict=True), key=lambda x: x[0])]
    return True


def _reasons(release: NotebookNode, gone: list[str], unreadable: str) -> dict[str, str]:
    """Why graded cells need a look: nothing could be read, or the cell for the answer was missing."""
    reasons: dict[str, str] = {}
    missing = ""
    for cell in release.cells:
        marks = cell.metadata.get("nbgrader", {})
        if marks.get("solution") and marks["grade_id"] in gone:
            missing = f"the cell {marks['grade_id']!r} for the answer was missing"
        if marks.get("grade") and (cell.cell_type == "code" or not unreadable):
            if reason := unreadable or missing:
                reasons[marks["grade_id"]] = reason
            missing = ""
    return reasons


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
            if any(c.id == cell.id for c in nb.cells):
                cell["id"] = f"{cell.id[:50]}-put-back"
            nb.cells.insert(_index_after(nb, previous), cell)
        previous = grade_id


def _index_after(nb: NotebookNode, grade_id: str | None) -> int:
    for index, cell in enumerate(nb.cells):
        if grade_id is not None and cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return index + 1
    return 0 if grade_id is None else len(nb.cells)
