"""Grades for other systems: nbgrader's CSV, Canvas's gradebook import, Gradescope's results.json.

`llmr export` calls the functions; `nbgrader export --exporter=llmr_ref.grading.exporters.CanvasExport`
calls the same ones through nbgrader's own plugins.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin
from traitlets import Enum, Unicode

from llmr_ref.grading.card import card_text, points
from llmr_ref.grading.class_record import Answer, ClassRecord, Question, Student, read_class
from llmr_ref.grading.gradebook import open_gradebook
from llmr_ref.grading.safe_csv import Cell, csv_text, write_whole

NBGRADER_COLUMNS = (
    "assignment", "duedate", "timestamp", "student_id", "last_name", "first_name", "email",
    "raw_score", "late_submission_penalty", "score", "max_score",
)  # fmt: skip
CANVAS_COLUMNS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
VISIBILITIES = ("hidden", "after_due_date", "after_published", "visible")


class ExportError(RuntimeError):
    """The grades cannot be exported as asked; the message says what to do."""


# --- nbgrader ------------------------------------------------------------------------------------


def nbgrader_csv(gradebook: Gradebook, assignments: Sequence[str], students: Sequence[str]) -> str:
    """The columns and rows of nbgrader's own export, quoted, and safe to open in a spreadsheet.

    assignments, students: only these; all when empty. Whoever handed in nothing has 0.
    """
    rows: list[list[Cell]] = []
    for assignment in gradebook.assignments:
        if assignments and assignment.name not in assignments:
            continue
        for student in gradebook.students:
            if students and student.id not in students:
                continue
            try:
                found = gradebook.find_submission(assignment.name, student.id)
            except MissingEntry:
                raw, penalty, stamp = 0.0, 0.0, None
            else:
                raw = float(found.score or 0.0)
                penalty = float(found.late_submission_penalty or 0.0)
                stamp = found.timestamp
            rows.append([
                assignment.name, str(assignment.duedate or ""), str(stamp or ""), student.id,
                student.last_name, student.first_name, student.email,
                raw, penalty, max(0.0, raw - penalty), float(assignment.max_score),
            ])  # fmt: skip
    return csv_text(NBGRADER_COLUMNS, rows)


# --- Canvas --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CanvasRoster:
    """Who is in the Canvas course, from Canvas's own export of its gradebook.

    people: any of a student's ids -> the five cells that name them. headings: title -> "title (id)".
    """

    people: dict[str, tuple[str, ...]]
    headings: dict[str, str]


def read_roster(path: Path) -> CanvasRoster:
    """Read a gradebook that Canvas exported. Raises: ExportError for any other file."""
    text = path.read_text("utf-8-sig")
    first = text.partition("\n")[0]
    rows = list(csv.DictReader(
        text.splitlines(), delimiter=";" if first.count(";") > first.count(",") else ","
    ))  # fmt: skip
    if not rows or not {"Student", "ID", "SIS Login ID", "Section"} <= rows[0].keys():
        raise ExportError(
            f"{path} is not a gradebook that Canvas exported: its first line must have the columns "
            "Student, ID, SIS Login ID and Section. In Canvas: Grades, Export, Export Entire Gradebook."
        )
    people = {}
    for row in rows:
        cells = tuple((row.get(column) or "").strip() for column in CANVAS_COLUMNS)
        if cells[1]:
            people.update({key: cells for key in cells[1:4] if key})
    headings = {}
    for heading in rows[0]:
        if match := re.fullmatch(r"(.*)\s\(\d+\)", heading or ""):
            headings[match[1]] = heading
    return CanvasRoster(people, headings)


def canvas_csv(
    records: Sequence[ClassRecord], *, canvas_id: str = "", roster: CanvasRoster | None = None
) -> str:
    """A file for Canvas's Grades, Import: five columns that name a student, one for each assignment.

    Canvas finds a student by ID, else SIS User ID, else SIS Login ID, else name, and an assignment by
    the number in "title (number)", else by its title. What is not graded stays empty, so that the
    course's policy for missing work decides. With a roster, only its students, named as Canvas does.
    canvas_id: the assignment's number, if there is one record.
    Raises: ExportError for an id that is not a number, or when nobody is in the roster.
    """
    if canvas_id and not (canvas_id.isascii() and canvas_id.isdigit() and len(records) == 1):
        raise ExportError(
            f"the Canvas id is {canvas_id!r}; give the number at the end of the assignment's address "
            "in Canvas, and one assignment"
        )
    names = [r.assignment for r in records]
    if canvas_id:
        titles = [f"{names[0]} ({canvas_id})"]
    else:
        titles = [roster.headings.get(n, n) if roster else n for n in names]
    header = [*CANVAS_COLUMNS, *titles]
    possible: list[Cell] = ["    Points Possible", "", "", "", "", *(r.out_of for r in records)]
    everybody = {s.id: s for r in records for s in r.students}
    rows = [possible]
    for student in sorted(everybody.values(), key=lambda s: s.id):
        cells = _canvas_person(student, roster)
        if cells is not None:
            rows.append([*cells, *(_canvas_score(r, student.id) for r in records)])
    if len(rows) == 1:
        raise ExportError(
            "nobody in the gradebook is in the Canvas roster: nbgrader's student ids must be Canvas's "
            "SIS Login ID, SIS User ID or ID"
        )
    return csv_text(header, rows)


def not_in_roster(record: ClassRecord, roster: CanvasRoster) -> list[str]:
    """Whom the Canvas course does not know."""
    return [s.id for s in record.students if _canvas_person(s, roster) is None]


def _canvas_person(student: Student, roster: CanvasRoster | None) -> tuple[str, ...] | None:
    if roster is not None:
        keys = (student.id, student.lms_user_id, student.email)
        return next((roster.people[k] for k in keys if k in roster.people), None)
    name = ", ".join(filter(None, (student.last_name, student.first_name))) or student.id
    number = student.lms_user_id if student.lms_user_id.isdigit() else ""
    return (name, number, "", student.id, "")


def _canvas_score(record: ClassRecord, student: str) -> Cell:
    found = next((s for s in record.students if s.id == student), None)
    return round(found.total, 4) if found and found.graded else ""


# --- Gradescope ----------------------------------------------------------------------------------


def gradescope_results(
    record: ClassRecord, student: Student, visibility: str = "after_published"
) -> dict[str, Any]:
    """What Gradescope reads from an autograder's results.json, for one graded submission."""
    said = []
    if student.penalty:
        said.append(f"Late penalty: {points(student.penalty)} points.")
    if student.waiting:
        said.append(f"{student.waiting} of the answers wait for a grade and count 0 until then.")
    said += [r.sentence for r in student.open_reasons if not r.where]  # the others are on a card
    return {
        "score": round(student.total, 4),  # with the late penalty; overrides the sum of the tests
        "output": "\n".join(said),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "tests": [
            _gradescope_test(number, question, student.answers[question], visibility)
            for number, question in enumerate(record.questions, start=1)
            if question in student.answers
        ],
    }


def _gradescope_test(
    number: int, question: Question, answer: Answer, visibility: str
) -> dict[str, Any]:
    test: dict[str, Any] = {
        "name": question.title,
        "number": str(number),
        "score": round(answer.score, 4),
        "max_score": question.points,
        "output": card_text(answer.verdict) if answer.verdict else "",
        "output_format": "text",
        "visibility": visibility,
        "tags": ["manual" if question.manual else "autograded"],
    }
    if answer.kind == "not graded yet" and not test["output"]:
        test["output"] = "Not graded yet."
    if answer.by_hand:
        test["tags"].append("scored by hand")
    return test


def write_gradescope(
    record: ClassRecord, folder: Path, visibility: str = "after_published"
) -> list[Path]:
    """One results.json for each graded submission, in a folder named after the student."""
    written = []
    for student in record.graded:
        results = gradescope_results(record, student, visibility)
        text = json.dumps(results, ensure_ascii=False, indent=1, allow_nan=False)
        written.append(write_whole(folder / _folder_name(student.id) / "results.json", text + "\n"))
    return written


def _folder_name(student: str) -> str:
    """An id that cannot lead out of the folder: its slashes and a leading dot are escaped."""
    name = quote(student, safe=" @,+")
    return f"%2E{name[1:]}" if name.startswith(".") else name


# --- nbgrader's plugins --------------------------------------------------------------------------


class _Export(ExportPlugin):
    """What the three have in common: the course, and which assignments of it."""

    def records(self, gradebook: Gradebook) -> list[ClassRecord]:
        course = Path(self.parent.coursedir.root)
        names = [str(n) for n in self.assignment] or [a.name for a in gradebook.assignments]
        return [read_class(course, name, gradebook=gradebook) for name in names]

    def write(self, default: str, text: str) -> None:
        out = write_whole(Path(self.to or default), text)
        self.log.info("Exported grades to %s", out)


class SafeCsvExport(_Export):
    """nbgrader's CSV, quoted, with nothing in it that a spreadsheet would run."""

    def export(self, gradebook: Gradebook) -> None:
        chosen = [[str(x) for x in names] for names in (self.assignment, self.student)]
        self.write("grades.csv", nbgrader_csv(gradebook, *chosen))


class CanvasExport(_Export):
    """A CSV for Canvas's gradebook import."""

    canvas_id = Unicode("", help="the assignment's number in Canvas").tag(config=True)
    roster = Unicode("", help="a gradebook that Canvas exported").tag(config=True)

    def export(self, gradebook: Gradebook) -> None:
        roster = read_roster(Path(self.roster)) if self.roster else None
        records = self.records(gradebook)
        self.write("canvas.csv", canvas_csv(records, canvas_id=self.canvas_id, roster=roster))


class GradescopeExport(_Export):
    """A folder with Gradescope's results.json for each submission."""

    visibility = Enum(
        VISIBILITIES,
        default_value="after_published", help="when students see the results",
    ).tag(config=True)  # fmt: skip

    def export(self, gradebook: Gradebook) -> None:
        for record in self.records(gradebook):
            folder = Path(self.to or "gradescope") / record.assignment
            written = write_gradescope(record, folder, self.visibility)
            self.log.info("Wrote %d results.json to %s", len(written), folder)


# --- llmr export ---------------------------------------------------------------------------------


def export_assignment(
    course: Path,
    assignment: str,
    target: str,
    out: Path | None = None,
    *,
    canvas_id: str = "",
    roster: Path | None = None,
    visibility: str = "after_published",
) -> str:
    """Write one assignment's grades to `out`, else into the course's exports; what to say about it.

    target: nbgrader, canvas or gradescope.
    Raises: NothingToReport without grades; ExportError for a roster or an id that does not fit.
    """
    record = read_class(course, assignment)
    names = {"nbgrader": ".csv", "canvas": "-canvas.csv", "gradescope": "-gradescope"}
    out = out or course / "exports" / f"{assignment}{names[target]}"
    if target == "gradescope":
        written = write_gradescope(record, out, visibility)
        said = f"Wrote results.json of {len(written)} submissions to {out}."
    elif target == "canvas":
        known = read_roster(roster) if roster else None
        write_whole(out, canvas_csv([record], canvas_id=canvas_id, roster=known))
        said = f"The grades are in {out}."
        if known and (strangers := not_in_roster(record, known)):
            said += f" Not in the Canvas course, so left out: {', '.join(strangers)}."
    else:
        with open_gradebook(course, assignment) as gradebook:
            write_whole(out, nbgrader_csv(gradebook, [assignment], []))
        said = f"The grades are in {out}."
    look = sum(s.state == "needs a look" for s in record.students)
    waiting = sum(s.waiting > 0 for s in record.graded)
    if look:
        said += f" Submissions that need a look: {look}."
    if waiting:
        said += f" Submissions with an answer that waits for a grade and counts 0: {waiting}."
    return said
