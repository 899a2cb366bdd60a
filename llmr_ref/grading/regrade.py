"""Judge one exercise again for everybody, after its bank or its reference was mended.

Nothing is written before somebody has seen who changes and by how much. Scores and comments given by hand
stay, and so does every other exercise. Notebooks with the new cards are put aside as they are judged; then
the gradebook is changed in one transaction and they are moved into place. A run that was stopped while it
wrote is brought to its end, or undone, by the next one.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook, MissingEntry
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from llmr_ref.grading.autograde import (
    OUR_FAULT,
    Grade,
    course_secret,
    exercise_of,
    is_check,
    write_verdict,
)
from llmr_ref.grading.cache import Cache
from llmr_ref.grading.card import points
from llmr_ref.grading.class_statistics import signed
from llmr_ref.grading.engine import Notebook
from llmr_ref.grading.gradebook import course_config, find_assignment, open_gradebook
from llmr_ref.grading.guard import machine_fault, one_run_at_a_time
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.sandbox import grading_tier, shared_worker

ASIDE = Path(".llmr") / "regrade"  # in the course: notebooks that wait to be moved into place
LISTED = 60  # students whose change is listed one by one


class RegradeError(RuntimeError):
    """The exercise cannot be graded again; the message says why and what to do."""


@dataclass(frozen=True)
class Change:
    """One student's answer, judged again. by_hand: the score that an instructor gave, which stays."""

    student: str
    notebook: Path
    grade_id: str
    before: float
    after: float
    by_hand: float | None
    out_of: float
    needs_look: str

    @property
    def changed(self) -> bool:
        return abs(self.after - self.before) > 0.005

    @property
    def difference(self) -> float:
        """What the student's score changes by; nothing where it was set by hand."""
        return 0.0 if self.by_hand is not None else self.after - self.before

    @property
    def newly_failing(self) -> bool:
        return self.by_hand is None and self.before >= self.out_of > self.after


@dataclass(frozen=True)
class Regrade:
    """Everybody judged again. left: student -> why their answer was not."""

    assignment: str
    exercise: str
    changes: list[Change]
    left: dict[str, str]

    @property
    def changed(self) -> list[Change]:
        """The largest losses first."""
        moved = [c for c in self.changes if c.changed]
        return sorted(moved, key=lambda c: (c.after - c.before, c.student))


def regrade(
    course: Path,
    assignment: str,
    exercise: str,
    confirm: Callable[[], bool],
    console: Console | None = None,
) -> bool:
    """Judge again, show what would change, ask, then write. Whether anything was written.

    Raises: NothingToReport without a gradebook or for an unknown assignment; RegradeError when nothing is
    graded or no notebook checks the exercise; Refused while another run holds the course.
    """
    console = console or Console()
    with one_run_at_a_time(course):
        finish_interrupted(course, assignment)
        found = judge_again(course, assignment, exercise, console)
        show(found, console)
        if not confirm():
            shutil.rmtree(course / ASIDE / assignment)
            console.print("Nothing was written.")
            return False
        write(course, found)
    changed = len(found.changed)
    console.print(
        f"Written: {len(found.changes)} cards, {changed} score{'' if changed == 1 else 's'}. "
        "Feedback and report are those of before; write them again:\n"
        f"  nbgrader generate_feedback {assignment} --force\n  llmr report {assignment}"
    )
    return True


# --- judging -------------------------------------------------------------------------------------


def judge_again(course: Path, assignment: str, exercise: str, console: Console) -> Regrade:
    """The verdicts of today on what was handed in, beside the scores in the gradebook."""
    tier, _ = grading_tier()
    grader = Grade(config=course_config(course))
    secret = course_secret(course)
    changes: list[Change] = []
    left: dict[str, str] = {}
    with open_gradebook(course, assignment) as gradebook:
        find_assignment(gradebook, course, assignment)
        students = sorted(s.student.id for s in gradebook.assignment_submissions(assignment))
        if not students:
            raise RegradeError(
                f"Nothing of {assignment!r} is graded yet in {course}. "
                f"Grade first: llmr grade {assignment}"
            )
        known: set[str] = set()
        for student in track(students, "judging again", console=Console(stderr=True)):
            try:
                for path, nb in _graded_notebooks(course, assignment, student):
                    known |= {exercise_of(c) for c in nb.cells if is_check(c)}
                    cell = _judge(nb, exercise, grader, secret, student, course, tier)
                    if cell is not None:
                        changes.append(_change(gradebook, assignment, student, path, cell))
                        _put_aside(course / ASIDE / assignment / student, path, nb)
            except (OSError, ValueError, MissingEntry) as error:
                if sentence := machine_fault(error):
                    raise RegradeError(sentence) from error
                left[student] = str(error).split("\n")[0]
    if not changes and exercise not in known and known:
        raise RegradeError(
            f"No notebook of {assignment!r} checks {exercise!r}; they check {', '.join(sorted(known))}."
        )
    if not changes:
        raise RegradeError(
            f"No submission of {assignment!r} could be read: {next(iter(left.values()), 'none')}. "
            f"Grade first: llmr grade {assignment}"
        )
    return Regrade(assignment, exercise, changes, left)


def _graded_notebooks(
    course: Path, assignment: str, student: str
) -> Iterator[tuple[Path, NotebookNode]]:
    """Raises: ValueError, OSError when one is missing or not whole."""
    paths = sorted((course / "autograded" / student / assignment).glob("*.ipynb"))
    if not paths:
        raise ValueError("not autograded")
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        if not nb.metadata.get(KEY, {}).get("graded"):
            raise ValueError(f"{path.name} was not graded to its end")
        yield path, nb


def _judge(
    nb: NotebookNode,
    exercise: str,
    grader: Grade,
    secret: bytes,
    student: str,
    course: Path,
    tier: int,
) -> NotebookNode | None:
    """Write today's verdict on the exercise into its check cell and return it; None without one."""
    notebook = Notebook(Cache(course), shared_worker(tier))
    for cell in (c for c in nb.cells if c.cell_type == "code"):
        if not is_check(cell):
            notebook.add(cell.source)
        elif exercise_of(cell) != exercise:
            stuck = cell.metadata.get(KEY, {}).get("stuck_cell")
            if isinstance(stuck, int) and stuck < len(notebook.cells):
                notebook.cells[stuck] = None  # as when the whole notebook was graded
        else:
            verdict = grader.verdict(cell, notebook, secret, {"student": student})
            notes = nb.metadata[KEY]
            if not verdict.full:
                reason = notes.get("needs_look", {}).get(cell.metadata.nbgrader.grade_id, "")
                verdict.needs_look = verdict.needs_look or reason
            write_verdict(cell, verdict)
            notes["tier"] = min(tier, int(notes.get("tier", 0)))
            looks = [c.metadata.get(KEY, {}).get("needs_look", "") for c in nb.cells if is_check(c)]
            notes["again"] = any(why.startswith(OUR_FAULT) for why in looks)
            return cell
    return None


def _put_aside(folder: Path, path: Path, nb: NotebookNode) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, folder / path.name)
    shutil.copymode(path, folder / path.name)


def _change(
    gradebook: Gradebook, assignment: str, student: str, path: Path, cell: NotebookNode
) -> Change:
    marks = cell.metadata.nbgrader
    grade = gradebook.find_grade(marks.grade_id, path.stem, assignment, student)
    return Change(
        student, path, marks.grade_id,
        before=float(grade.auto_score or 0.0), after=_score(cell),
        by_hand=None if grade.manual_score is None else float(grade.manual_score),
        out_of=float(marks.points), needs_look=cell.metadata[KEY]["needs_look"],
    )  # fmt: skip


def _score(cell: Mapping[str, Any]) -> float:
    """What nbgrader would save: the verdict's score within the cell's points."""
    given = float(cell["metadata"][KEY]["score"])
    return min(max(given, 0.0), float(cell["metadata"]["nbgrader"]["points"]))


# --- showing -------------------------------------------------------------------------------------


def show(found: Regrade, console: Console) -> None:
    """Who changes and by how much, the largest losses first, and the sums."""
    changed = found.changed
    if changed:
        table = Table(title=f"{found.exercise} in {found.assignment}: what changes")
        for column in ("student", "before", "after", "change", ""):
            numeric = column in ("before", "after", "change")
            table.add_column(column, justify="right" if numeric else "left")
        for c in changed[:LISTED]:
            sign = "+" if c.after > c.before else ""
            colour = "red" if c.after < c.before else "green"
            by = sign + signed(c.after - c.before)
            table.add_row(
                escape(c.student),
                points(c.before),
                points(c.after),
                f"[{colour}]{by}[/]",
                _remark(c),
            )
        console.print(table)
    if len(changed) > LISTED:
        console.print(f"and {len(changed) - LISTED} more.")
    up = sum(c.after > c.before for c in changed)
    kept = sum(c.by_hand is not None for c in found.changes)
    failing = sum(c.newly_failing for c in found.changes)
    total = sum(c.difference for c in found.changes) or 0.0  # not -0.0
    console.print(
        f"{len(found.changes)} judged again: {up} up, {len(changed) - up} down, "
        f"{len(found.changes) - len(changed)} as before; {signed(total)} points in all."
    )
    if failing:
        console.print(f"[bold red]{failing} had full marks and would not any more.[/]")
    if kept:
        console.print(f"{kept} scored by hand: that score and every comment stay.")
    for student, why in found.left.items():
        console.print(f"{student} is left as it is: {why}", markup=False)


def _remark(c: Change) -> str:
    said = []
    if c.by_hand is not None:
        said.append(f"stays at {points(c.by_hand)}, set by hand")
    if c.newly_failing:
        said.append("[bold red]newly failing[/]")
    if c.needs_look:
        said.append("needs a look")
    return ", ".join(said)


# --- writing -------------------------------------------------------------------------------------


def write(course: Path, found: Regrade) -> None:
    """Scores in one transaction, then the notebooks that were put aside into place.

    Raises: RegradeError, with nothing changed, when the gradebook cannot be written or was changed since.
    """
    aside = course / ASIDE / found.assignment
    (aside / "exercise.json").write_text(json.dumps(found.exercise), "utf-8")
    try:
        with _writing(course, found.assignment) as gradebook:
            for c in found.changes:
                _enter(gradebook, found.assignment, c)
            gradebook.db.commit()
    except RegradeError:
        shutil.rmtree(aside)
        raise
    _move_into_place(course, found.assignment)


@contextmanager
def _writing(course: Path, assignment: str) -> Iterator[Gradebook]:
    with open_gradebook(course, assignment, write=True) as gradebook:
        try:
            yield gradebook
        except SQLAlchemyError as error:
            gradebook.db.rollback()
            sentence = machine_fault(error) or f"The gradebook cannot be written: {error}"
            raise RegradeError(f"{sentence} Nothing was changed.") from error


def _enter(gradebook: Gradebook, assignment: str, c: Change) -> None:
    grade = gradebook.find_grade(c.grade_id, c.notebook.stem, assignment, c.student)
    by_hand = None if grade.manual_score is None else float(grade.manual_score)
    if abs(float(grade.auto_score or 0.0) - c.before) > 1e-9 or by_hand != c.by_hand:
        gradebook.db.rollback()
        raise RegradeError(
            f"The score of {c.student} was changed while this was open. Nothing was written; "
            "run the same command again."
        )
    grade.auto_score = c.after
    if by_hand is None:
        grade.needs_manual_grade = bool(c.needs_look)
    elif c.changed:
        grade.needs_manual_grade = True  # as nbgrader does: whoever set it may want to know


def finish_interrupted(course: Path, assignment: str) -> None:
    """Bring a run that was stopped while it wrote to its end, or undo it, by what the gradebook says."""
    aside = course / ASIDE / assignment
    if not aside.exists():
        return
    if (aside / "exercise.json").is_file() and _entered(course, assignment, aside):
        _move_into_place(course, assignment)
    else:
        shutil.rmtree(aside)


def _entered(course: Path, assignment: str, aside: Path) -> bool:
    """Whether the gradebook already has the scores of what was put aside."""
    exercise = json.loads((aside / "exercise.json").read_text("utf-8"))
    with open_gradebook(course, assignment) as gradebook:
        for draft in aside.glob("*/*.ipynb"):
            for cell in nbformat.read(draft, as_version=4).cells:
                if is_check(cell) and exercise_of(cell) == exercise:
                    grade = gradebook.find_grade(
                        cell.metadata.nbgrader.grade_id, draft.stem, assignment, draft.parent.name
                    )
                    if abs(float(grade.auto_score or 0.0) - _score(cell)) > 1e-9:
                        return False
    return True


def _move_into_place(course: Path, assignment: str) -> None:
    aside = course / ASIDE / assignment
    for draft in sorted(aside.glob("*/*.ipynb")):
        draft.replace(course / "autograded" / draft.parent.name / assignment / draft.name)
    shutil.rmtree(aside)
