"""What a course folder knows about one assignment: gradebook, autograded notebooks, feedback pages.

Scores come from the gradebook (what an instructor changed by hand counts), diagnoses and code from the
autograded notebooks. Nothing here counts, compares or writes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from nbgrader.api import Gradebook
from pydantic import ValidationError

from llmr_ref.grading.autograde import checked_exercise
from llmr_ref.grading.card import points
from llmr_ref.grading.gradebook import NothingToReport, find_assignment, open_gradebook
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.verdict import Verdict

State = Literal["graded", "needs a look", "not submitted"]
Kind = Literal["full", "partial", "zero", "not attempted", "not graded yet"]


@dataclass(frozen=True)
class Question:
    """A cell that carries points. title: the exercise's name where a check decides, else the cell's."""

    notebook: str
    grade_id: str
    title: str
    points: float
    manual: bool


@dataclass(frozen=True)
class Answer:
    """What one student has for one question."""

    score: float
    kind: Kind
    by_hand: bool = False
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Reason:
    """Why somebody should look. where: an exercise, or empty for the whole submission."""

    sentence: str
    where: str = ""
    settled: bool = False


@dataclass
class Student:
    """One line of the class list. due: with the extension, if there is one."""

    id: str
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    lms_user_id: str = ""
    status: str = "nothing handed in"  # or "graded", or "handed in, not graded"
    handed_in_at: datetime | None = None
    due: datetime | None = None
    answers: dict[Question, Answer] = field(default_factory=dict)
    penalty: float = 0.0
    feedback: dict[str, str] = field(default_factory=dict)  # notebook -> link
    code: dict[str, str] = field(default_factory=dict)  # exercise -> what was written for it
    reasons: list[Reason] = field(default_factory=list)
    tiers: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.first_name, self.last_name)))

    @property
    def graded(self) -> bool:
        return self.status == "graded"

    @property
    def state(self) -> State:
        """Exactly one of three: nobody is without."""
        if self.status == "nothing handed in":
            return "not submitted"
        return "needs a look" if self.open_reasons or not self.graded else "graded"

    @property
    def link(self) -> str:
        return next(iter(self.feedback.values()), "")

    @property
    def open_reasons(self) -> list[Reason]:
        return [r for r in self.reasons if not r.settled]

    @property
    def auto_points(self) -> float:
        return sum(a.score for q, a in self.answers.items() if not q.manual)

    @property
    def raw_total(self) -> float:
        return sum(a.score for a in self.answers.values())

    @property
    def total(self) -> float:
        """As `nbgrader export` has it: never below 0."""
        return max(0.0, self.raw_total - self.penalty)

    @property
    def waiting(self) -> int:
        return sum(a.kind == "not graded yet" for a in self.answers.values())

    @property
    def auto_waiting(self) -> bool:
        """Whether the grader could not judge an answer of theirs and nobody has since."""
        return any(a.kind == "not graded yet" for q, a in self.answers.items() if not q.manual)

    @property
    def hours_before_due(self) -> float | None:
        """Negative when late; None without a timestamp or a date due."""
        if self.handed_in_at is None or self.due is None:
            return None
        return (self.due - self.handed_in_at).total_seconds() / 3600


@dataclass(frozen=True)
class ClassRecord:
    """Everybody and everything of one assignment. template: exercise -> code that students were given."""

    assignment: str
    questions: list[Question]
    students: list[Student]
    graded_at: datetime | None
    due: datetime | None
    template: dict[str, str]

    @property
    def graded(self) -> list[Student]:
        return [s for s in self.students if s.graded]

    @property
    def handed_in(self) -> list[Student]:
        return [s for s in self.students if s.state != "not submitted"]

    @property
    def out_of(self) -> float:
        return sum(q.points for q in self.questions)


def read_class(
    course: Path,
    assignment: str,
    *,
    base: Path | None = None,
    feedback_root: Path | None = None,
    gradebook: Gradebook | None = None,
) -> ClassRecord:
    """Gather what the gradebook and the autograded notebooks say.

    base: the folder that links to feedback start from; feedback_root: where it is, if not in the course.
    gradebook: an open one, if it is not the course's own.
    Raises: NothingToReport without a gradebook, without the assignment, or before anything is graded.
    """
    base, feedback_root = base or course, feedback_root or course / "feedback"
    opened = nullcontext(gradebook) if gradebook else open_gradebook(course, assignment)
    with opened as book:
        entry = find_assignment(book, course, assignment)
        due = _utc(entry.duedate)
        questions = _questions(entry, course / "release" / assignment)
        students = _students(book, assignment, questions)
    for folder in ("submitted", "autograded"):  # nobody is lost between folder and gradebook
        for found in course.glob(f"{folder}/*/{assignment}"):
            student = students.setdefault(found.parent.name, Student(found.parent.name))
            if not student.graded:
                student.status = "handed in, not graded"
    written = []
    for student in students.values():
        if student.status == "handed in, not graded":
            student.reasons.append(Reason("The submission was handed in but has not been graded."))
        if student.graded:
            for notebook in dict.fromkeys(q.notebook for q in questions):
                graded = course / "autograded" / student.id / assignment / f"{notebook}.ipynb"
                _read_notebook(graded, student, [q for q in questions if q.notebook == notebook])
                if graded.is_file():
                    written.append(graded.stat().st_mtime)
                page = feedback_root / student.id / assignment / f"{notebook}.html"
                if page.is_file():
                    student.feedback[notebook] = _relative_link(page, base)
    if not any(s.graded for s in students.values()):
        raise NothingToReport(
            f"Nothing of {assignment!r} is graded yet in {course}. "
            f"Grade first: llmr grade {assignment}"
        )
    release = sorted((course / "release" / assignment).glob("*.ipynb"))
    return ClassRecord(
        assignment=assignment,
        questions=questions,
        students=sorted(students.values(), key=lambda s: s.id),
        graded_at=datetime.fromtimestamp(max(written), UTC) if written else None,
        due=due,
        template={k: v for path in release for k, v in code_by_exercise(_cells(path)).items()},
    )


def _utc(moment: datetime | None) -> datetime | None:
    """nbgrader keeps times in UTC and does not say so."""
    return None if moment is None else moment.replace(tzinfo=UTC)


def _students(
    gradebook: Gradebook, assignment: str, questions: Sequence[Question]
) -> dict[str, Student]:
    students = {
        s.id: Student(
            s.id, s.first_name or "", s.last_name or "", s.email or "", s.lms_user_id or ""
        )
        for s in gradebook.students
    }
    by_cell = {(q.notebook, q.grade_id): q for q in questions}
    for submission in gradebook.assignment_submissions(assignment):
        student = students[submission.student.id]
        grades = [(n.name, g) for n in submission.notebooks for g in n.grades]
        started = any(g.auto_score is not None or g.manual_score is not None for _, g in grades)
        student.status = "graded" if started else "handed in, not graded"
        student.penalty = float(submission.late_submission_penalty or 0.0)
        student.handed_in_at = _utc(submission.timestamp)
        if submission.assignment.duedate is not None:
            student.due = _utc(submission.duedate)
        if started:
            found = {by_cell[n, g.name]: _answer(g, by_cell[n, g.name]) for n, g in grades}
            student.answers = {q: found[q] for q in questions if q in found}
    return students


def _questions(entry: Any, release: Path) -> list[Question]:
    """The assignment's questions in the order of the release notebooks."""
    questions = []
    for notebook in sorted(entry.notebooks, key=lambda n: n.name):
        titles = {
            meta["grade_id"]: checked_exercise("".join(cell["source"])) or ""
            for cell in _cells(release / f"{notebook.name}.ipynb")
            if "grade_id" in (meta := cell["metadata"].get("nbgrader", {}))
        }
        answered_by_hand = {c.name for c in [*notebook.solution_cells, *notebook.task_cells]}
        cells = [*notebook.grade_cells, *notebook.task_cells]
        places = {name: place for place, name in enumerate(titles)}
        for cell in sorted(cells, key=lambda c: (places.get(c.name, len(places)), c.name)):
            manual = cell.name in answered_by_hand or cell.cell_type == "markdown"
            questions.append(Question(
                notebook.name, cell.name, titles.get(cell.name) or cell.name,
                float(cell.max_score), manual,
            ))  # fmt: skip
    return questions


def _cells(path: Path) -> list[dict[str, Any]]:
    try:
        cells: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return []
    return cells


def code_by_exercise(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Exercise -> the code between the check before it and its own."""
    found: dict[str, str] = {}
    since: list[str] = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        marks = cell["metadata"].get("nbgrader", {})
        if marks.get("grade") and not marks.get("solution"):
            if exercise := checked_exercise(source):
                found[exercise] = "\n\n".join(since)
            since = []
        elif source.strip():
            since.append(source)
    return found


def _answer(grade: Any, question: Question) -> Answer:
    score = float(grade.score or 0.0)
    by_hand = grade.manual_score is not None
    kind: Kind
    if question.manual and grade.needs_manual_grade:
        kind = "not graded yet"
    elif question.manual and not by_hand and not score:
        kind = "not attempted"  # nbgrader gives an untouched answer 0 by itself
    elif score >= question.points:
        kind = "full"
    else:
        kind = "partial" if score > 0 else "zero"
    return Answer(score, kind, by_hand)


def _read_notebook(path: Path, student: Student, questions: Sequence[Question]) -> None:
    """Add verdicts, code, tier and notes of an autograded notebook to the student."""
    where = path.stem if len({q.notebook for q in student.answers}) > 1 else ""
    try:
        notebook = json.loads(path.read_text("utf-8"))
        metadata, cells = notebook["metadata"], notebook["cells"]
    except (OSError, ValueError, KeyError) as error:
        problem = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        student.reasons.append(Reason(f"The autograded notebook {problem}.", where))
        return
    notes = metadata.get(KEY)
    student.tiers.add(int((notes or {}).get("tier", 0)))
    student.code |= code_by_exercise(cells)
    if notes is not None:
        student.reasons += [Reason(_sentence(str(note)), where) for note in notes.get("intake", [])]
        if not notes.get("graded"):
            student.reasons.append(Reason("Grading did not come to its end; grade again.", where))
    found = {
        cell["metadata"]["nbgrader"]["grade_id"]: cell["metadata"][KEY]
        for cell in cells
        if cell["metadata"].get("nbgrader", {}).get("grade") and KEY in cell["metadata"]
    }
    reasons = (notes or {}).get("needs_look") or {}
    for question in questions:
        answer = student.answers.get(question)
        if answer is None:
            continue
        if question.manual and (why := reasons.get(question.grade_id)):
            student.reasons.append(Reason(_sentence(why), question.title, settled=answer.by_hand))
        if question.manual or question.grade_id not in found:
            continue
        try:
            verdict = Verdict.model_validate(found[question.grade_id])
        except ValidationError:
            student.reasons.append(
                Reason("The verdict cannot be read; autograde it again.", question.title)
            )
            continue
        kind = answer.kind
        if not verdict.attempted and not answer.score:
            kind = "not attempted"
        elif verdict.needs_look and not verdict.properties and not answer.by_hand:
            kind = "not graded yet"  # the grader failed: its 0 says nothing of the student
        student.answers[question] = Answer(answer.score, kind, answer.by_hand, verdict)
        if verdict.needs_look:
            said = [_sentence(s) for s in (verdict.needs_look, verdict.message) if s]
            student.reasons.append(Reason(" ".join(said), question.title, settled=answer.by_hand))
        given = min(max(verdict.score, 0.0), question.points)
        if not answer.by_hand and abs(given - answer.score) > 0.005:
            student.reasons.append(Reason(
                f"The gradebook has {points(answer.score)} points but the verdict says "
                f"{points(given)}; autograde it again.", question.title,
            ))  # fmt: skip


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _relative_link(target: Path, base: Path) -> str:
    return quote(Path(os.path.relpath(target, base)).as_posix())
