"""The class report: one static page that says what the class got right, and what it misunderstood.

Scores come from the gradebook (what an instructor changed by hand counts), diagnoses from the verdicts
in the autograded notebooks. The page depends on these alone: same data, same page.
"""

import functools
import json
import os
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape
from nbgrader.api import Gradebook, MissingEntry
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from llmr_ref.grading.autograde import checked_exercise
from llmr_ref.grading.card import inline_code, points
from llmr_ref.grading.intake import KEY
from llmr_ref.grading.links import CHAPTERS, section_title, section_url
from llmr_ref.grading.verdict import Misconception, Verdict

# In the order in which the bars stack them.
KINDS = ("full", "partial", "zero", "not attempted", "not graded yet")

TIERS = {
    0: "stock nbgrader. The score is decided inside the student’s own process: "
    "code that is written to cheat can set it.",
    1: "a process of its own. The score is decided outside the student’s process, but hostile code "
    "could read files, use the network or disturb other processes.",
    2: "a process of its own in a sandbox. The score is decided outside the student’s process, and "
    "that process sees no course file, no reference, no network and no other submission.",
}


class NothingToReport(FileNotFoundError):
    """There is no graded assignment to write about; the message says what is missing."""


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
    kind: str
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
    """One line of the class list."""

    id: str
    name: str = ""
    status: str = "nothing handed in"  # or "graded", or "handed in, not graded"
    answers: dict[Question, Answer] = field(default_factory=dict)
    penalty: float = 0.0
    feedback: dict[str, str] = field(default_factory=dict)  # notebook -> link
    reasons: list[Reason] = field(default_factory=list)
    tiers: set[int] = field(default_factory=set)

    @property
    def graded(self) -> bool:
        return self.status == "graded"

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
    def total(self) -> float:
        """As `nbgrader export` has it: never below 0."""
        return max(0.0, sum(a.score for a in self.answers.values()) - self.penalty)

    @property
    def waiting(self) -> int:
        return sum(a.kind == "not graded yet" for a in self.answers.values())

    @property
    def auto_waiting(self) -> bool:
        """Whether the grader could not judge an answer of theirs and nobody has since."""
        return any(a.kind == "not graded yet" for q, a in self.answers.items() if not q.manual)


@dataclass(frozen=True)
class Bin:
    """A column of the score distribution: students in it, of these how many can still gain points."""

    label: str
    count: int
    waiting: int


@dataclass(frozen=True)
class Distribution:
    """One histogram and what it is about."""

    title: str
    out_of: float
    bins: list[Bin]
    mean: float
    median: float
    waiting: int


@dataclass(frozen=True)
class Success:
    """How a question went. share: points earned of points possible, over the answers that are graded."""

    question: Question
    counts: dict[str, int]
    share: float | None


@dataclass(frozen=True)
class Held:
    """A misconception and who holds it."""

    exercise: str
    misconception: Misconception
    students: list[Student]


@dataclass(frozen=True)
class ClassReport:
    """Everything the page says, as numbers and names."""

    assignment: str
    questions: list[Question]
    students: list[Student]
    graded_at: datetime | None
    distributions: list[Distribution]
    successes: list[Success]
    held: list[Held]
    unnamed: list[tuple[str, list[Student]]]  # exercise, and who has it wrong in a way of their own

    @property
    def graded(self) -> list[Student]:
        return [s for s in self.students if s.graded]

    @property
    def handed_in(self) -> list[Student]:
        return [s for s in self.students if s.status != "nothing handed in"]

    @property
    def absent(self) -> list[Student]:
        return [s for s in self.students if s.status == "nothing handed in"]

    @property
    def look(self) -> list[Student]:
        """Students with something to look at, the settled ones last."""
        noted = [s for s in self.students if s.reasons]
        return sorted(noted, key=lambda s: not s.open_reasons)

    @property
    def tiers(self) -> dict[int, int]:
        """How many submissions were graded at which tier, the weakest first."""
        return dict(sorted(Counter(t for s in self.graded for t in s.tiers).items()))

    @property
    def auto_questions(self) -> list[Question]:
        return [q for q in self.questions if not q.manual]

    @property
    def manual_questions(self) -> list[Question]:
        return [q for q in self.questions if q.manual]

    @property
    def out_of(self) -> float:
        return sum(q.points for q in self.questions)

    @property
    def auto_out_of(self) -> float:
        return sum(q.points for q in self.auto_questions)

    @property
    def waiting(self) -> int:
        return sum(s.waiting for s in self.graded)

    @property
    def overridden(self) -> bool:
        """Whether an autograded score was set by hand anywhere."""
        return any(a.by_hand and not q.manual for s in self.graded for q, a in s.answers.items())


def write_report(
    course: Path, assignment: str, out: Path, *, feedback_root: Path | None = None
) -> Path:
    """Write the class report of `assignment` as one self-contained HTML page and return its path.

    feedback_root: where the feedback pages are, if not in course/feedback; links are relative to `out`.
    Raises: NothingToReport without a gradebook, without the assignment, or before anything is graded.
    """
    report = read_class(course, assignment, out.parent, feedback_root or course / "feedback")
    page = (
        _environment().get_template("report.html.jinja").render(r=report, kinds=KINDS, tiers=TIERS)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


# --- reading -------------------------------------------------------------------------------------


def read_class(course: Path, assignment: str, base: Path, feedback_root: Path) -> ClassReport:
    """Gather what the gradebook and the autograded notebooks say. base: the folder links start from."""
    path = course / "gradebook.db"
    if not path.is_file():
        raise NothingToReport(f"{course} has no gradebook.db. Grade first: llmr grade {assignment}")
    url = (
        f"sqlite:///file:{quote(str(path.resolve()))}?mode=ro&uri=true"  # a report changes no grade
    )
    try:
        with Gradebook(url, course_id="") as gradebook:
            questions, students = _read_gradebook(gradebook, course, assignment)
    except SQLAlchemyError as error:
        raise NothingToReport(
            f"{path} cannot be read as a gradebook ({type(error).__name__}). "
            "Restore it from a copy, or remove it and grade again."
        ) from error
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
    ordered = sorted(students.values(), key=lambda s: s.id)
    graded_students = [s for s in ordered if s.graded]
    held, unnamed = misconceptions(graded_students)
    return ClassReport(
        assignment=assignment,
        questions=questions,
        students=ordered,
        graded_at=datetime.fromtimestamp(max(written), UTC) if written else None,
        distributions=distributions(graded_students, questions),
        successes=[success(q, graded_students) for q in questions],
        held=held,
        unnamed=unnamed,
    )


def _read_gradebook(
    gradebook: Gradebook, course: Path, assignment: str
) -> tuple[list[Question], dict[str, Student]]:
    try:
        entry = gradebook.find_assignment(assignment)
    except MissingEntry:
        known = ", ".join(sorted(a.name for a in gradebook.assignments)) or "none"
        raise NothingToReport(
            f"The gradebook of {course} has no assignment {assignment!r}; there are: {known}."
        ) from None
    questions = _questions(entry, course / "release" / assignment)
    students = {
        s.id: Student(s.id, " ".join(filter(None, (s.first_name, s.last_name))))
        for s in gradebook.students
    }
    by_cell = {(q.notebook, q.grade_id): q for q in questions}
    for submission in gradebook.assignment_submissions(assignment):
        student = students[submission.student.id]
        grades = [(n.name, g) for n in submission.notebooks for g in n.grades]
        started = any(g.auto_score is not None or g.manual_score is not None for _, g in grades)
        student.status = "graded" if started else "handed in, not graded"
        student.penalty = float(submission.late_submission_penalty or 0.0)
        if started:
            found = {by_cell[n, g.name]: _answer(g, by_cell[n, g.name]) for n, g in grades}
            student.answers = {q: found[q] for q in questions if q in found}
    return questions, students


def _questions(entry: Any, release: Path) -> list[Question]:
    """The assignment's questions in the order of the release notebooks."""
    questions = []
    for notebook in sorted(entry.notebooks, key=lambda n: n.name):
        titles = _titles_in_order(release / f"{notebook.name}.ipynb")
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


def _titles_in_order(path: Path) -> dict[str, str]:
    """grade_id -> exercise that the cell checks, or "", for the cells of a release notebook."""
    try:
        cells = json.loads(path.read_text("utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return {}
    return {
        meta["grade_id"]: checked_exercise("".join(cell["source"])) or ""
        for cell in cells
        if "grade_id" in (meta := cell["metadata"].get("nbgrader", {}))
    }


def _answer(grade: Any, question: Question) -> Answer:
    score = float(grade.score or 0.0)
    by_hand = grade.manual_score is not None
    if question.manual and grade.needs_manual_grade:
        kind = "not graded yet"
    elif question.manual and not by_hand and not score:
        kind = "not attempted"  # nbgrader gives an untouched answer 0 by itself
    else:
        kind = _kind(score, question.points)
    return Answer(score, kind, by_hand)


def _kind(score: float, out_of: float) -> str:
    if score >= out_of:
        return "full"
    return "partial" if score > 0 else "zero"


def _read_notebook(path: Path, student: Student, questions: Sequence[Question]) -> None:
    """Add verdicts, tier and notes of an autograded notebook to the student."""
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
    if notes is not None:
        student.reasons += [Reason(_sentence(str(note)), where) for note in notes.get("intake", [])]
        if not notes.get("graded"):
            student.reasons.append(Reason("Grading did not come to its end; grade again.", where))
    found = {
        cell["metadata"]["nbgrader"]["grade_id"]: cell["metadata"][KEY]
        for cell in cells
        if cell["metadata"].get("nbgrader", {}).get("grade") and KEY in cell["metadata"]
    }
    for question in questions:
        answer = student.answers.get(question)
        if answer is None or question.manual or question.grade_id not in found:
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


# --- counting ------------------------------------------------------------------------------------


def distributions(students: Sequence[Student], questions: Sequence[Question]) -> list[Distribution]:
    """The autograded part, and the whole where it differs: manual questions or late penalties."""
    auto = sum(q.points for q in questions if not q.manual)
    whole = sum(q.points for q in questions)
    found = []
    if auto:
        scores = [(s.auto_points, s.auto_waiting) for s in students]
        found.append(_distribution("Autograded questions", scores, auto))
    if whole > auto or any(s.penalty for s in students):
        scores = [(s.total, s.waiting > 0) for s in students]
        late = ", late penalties taken off" if any(s.penalty for s in students) else ""
        found.append(_distribution(f"All questions{late}", scores, whole))
    return found


def _distribution(title: str, scores: Sequence[tuple[float, bool]], out_of: float) -> Distribution:
    """Twelve columns: nothing, ten tenths of the points, everything."""
    labels = ["none", *(f"{10 * k} to {10 * k + 10} %" for k in range(10)), "all"]
    counts, waiting = Counter[int](), Counter[int]()
    for score, unfinished in scores:
        share = score / out_of
        column = 0 if share <= 0 else 11 if share >= 1 else 1 + int(share * 10)
        counts[column] += 1
        waiting[column] += unfinished
    values = [score for score, _ in scores]
    return Distribution(
        title=title,
        out_of=out_of,
        bins=[Bin(label, counts[k], waiting[k]) for k, label in enumerate(labels)],
        mean=statistics.fmean(values),
        median=statistics.median(values),
        waiting=waiting.total(),
    )


def success(question: Question, students: Iterable[Student]) -> Success:
    """Count the kinds of answers to a question."""
    answers = [s.answers[question] for s in students if question in s.answers]
    counts = Counter(a.kind for a in answers)
    graded = [a.score for a in answers if a.kind != "not graded yet"]
    possible = question.points * len(graded)
    return Success(
        question=question,
        counts={kind: counts[kind] for kind in KINDS},
        share=sum(graded) / possible if possible else None,
    )


def misconceptions(
    students: Iterable[Student],
) -> tuple[list[Held], list[tuple[str, list[Student]]]]:
    """What the class holds, the most frequent first; and the wrong answers that no name fits."""
    named: dict[tuple[str, str], tuple[Misconception, list[Student]]] = {}
    unnamed: dict[str, list[Student]] = defaultdict(list)
    for student in students:
        for verdict in (a.verdict for a in student.answers.values() if a.verdict):
            if verdict.misconception:
                key = (verdict.exercise, verdict.misconception.key)
                named.setdefault(key, (verdict.misconception, []))[1].append(student)
            elif verdict.attempted and not verdict.full and not verdict.needs_look:
                unnamed[verdict.exercise].append(student)
    held = [Held(exercise, m, who) for (exercise, _), (m, who) in named.items()]
    held.sort(key=lambda h: (-len(h.students), h.exercise, h.misconception.key))
    return held, sorted(unnamed.items())


# --- page ----------------------------------------------------------------------------------------


@functools.cache
def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    env.filters.update(
        points=points, percent=_percent, counted=_counted, breakable=_breakable,
        section_url=section_url, section_title=section_title, inline_code=inline_code,
    )  # fmt: skip
    env.tests["in_the_book"] = lambda see: see.partition("#")[0] in CHAPTERS
    return env


def _percent(share: float) -> str:
    """Whole percent, but neither 0 nor 100 unless it is exactly that."""
    whole = round(100 * share)
    if share not in (0.0, 1.0):
        whole = min(max(whole, 1), 99) if share < 1 else whole
    return f"{whole} %"


def _counted(number: int, one: str, many: str = "") -> str:
    """2, "student" -> "2 students"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _breakable(name: str) -> Markup:
    """A Python name that a narrow column may break after an underscore or before a capital."""
    parts = re.split(r"(?<=_)(?=.)|(?<=[a-z])(?=[A-Z])", name)
    return Markup("<wbr>").join(escape(part) for part in parts)
