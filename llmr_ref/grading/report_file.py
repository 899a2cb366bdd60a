"""The class report for programs: the JSON file, described field by field, and one CSV line per student.

`ReportFile.model_json_schema()` is the schema; `llmr report --schema` prints it.
"""

from collections import Counter
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from llmr_ref.grading.class_record import ClassRecord, Kind, State, Student
from llmr_ref.grading.class_statistics import Held, Item
from llmr_ref.grading.safe_csv import csv_text
from llmr_ref.grading.similarity import REFERENCE, Pair


class Part(BaseModel):
    """A part of the file; an unknown field is a mistake."""

    model_config = ConfigDict(extra="forbid")


class AnswerEntry(Part):
    """What one student has for one question."""

    question: str = Field(description="Title of the question, as in `items`.")
    score: float = Field(description="Points, as in the gradebook.")
    kind: Kind
    by_hand: bool = Field(description="An instructor set the score.")
    misconception: str | None = Field(description="Key of the named mistake, if there is one.")


class StudentEntry(Part):
    """One student, in exactly one state."""

    student: str = Field(description="Id, as nbgrader knows it.")
    first_name: str
    last_name: str
    state: State
    reasons: list[str] = Field(description="Why somebody should look; settled ones are left out.")
    handed_in_at: datetime | None = Field(description="UTC; null without a timestamp.")
    hours_before_due: float | None = Field(description="Negative when late, extensions included.")
    answers: list[AnswerEntry]
    late_penalty: float
    score: float | None = Field(description="All points less the penalty; null before grading.")
    waiting: int = Field(description="Answers that still wait for a grade and count 0 until then.")
    tiers: list[int] = Field(description="Tiers at which the notebooks were graded.")


class ItemEntry(Part):
    """How one question went over the class."""

    question: str
    notebook: str
    grade_id: str
    points: float
    manual: bool
    counts: dict[str, int] = Field(description="Answers of each kind.")
    share: float | None = Field(description="Difficulty: points earned of points possible, 0 to 1.")
    discrimination: float | None = Field(
        description="Corrected item-total correlation: Pearson's r between the points for this question "
        "and for all other autograded ones. Null when it cannot be computed."
    )
    discrimination_low: float | None = Field(description="Lower end of the 95 % interval.")
    discrimination_high: float | None = Field(description="Upper end of the 95 % interval.")
    discrimination_students: int = Field(description="n: students with a graded answer to all.")
    discrimination_note: str = Field(description="Why there is no coefficient; else empty.")
    concerns: list[str] = Field(description="Why the question itself may be broken.")


class MisconceptionEntry(Part):
    """A named mistake and who makes it."""

    exercise: str
    key: str
    title: str
    students: list[str]


class SimilarEntry(Part):
    """Two answers that share code. Something to look at, never a verdict."""

    students: list[str] = Field(description="Two ids, or one where the other is the reference.")
    shared_tokens: int
    share: float = Field(description="Of the tokens that tell answers apart, 0 to 1.")
    exercises: list[str]


class ReportFile(Part):
    """The class report of one assignment."""

    schema_version: Literal[1] = 1
    assignment: str
    out_of: float = Field(description="Points of the whole assignment.")
    graded_at: datetime | None = Field(description="UTC, when the last notebook was autograded.")
    due: datetime | None = Field(description="UTC, without extensions.")
    states: dict[State, int] = Field(description="How many students are in each state.")
    tiers: dict[int, int] = Field(description="How many submissions were graded at which tier.")
    items: list[ItemEntry]
    students: list[StudentEntry]
    misconceptions: list[MisconceptionEntry]
    similar: list[SimilarEntry]


def report_file(
    record: ClassRecord, items: list[Item], held: list[Held], pairs: list[Pair]
) -> ReportFile:
    """All of it as plain values."""
    states = Counter(s.state for s in record.students)
    return ReportFile(
        assignment=record.assignment,
        out_of=record.out_of,
        graded_at=record.graded_at,
        due=record.due,
        states={s: states[s] for s in ("graded", "needs a look", "not submitted")},
        tiers=dict(sorted(Counter(t for s in record.graded for t in s.tiers).items())),
        items=[_item(i) for i in items],
        students=[_student(s) for s in record.students],
        misconceptions=[
            MisconceptionEntry(
                exercise=h.exercise, key=h.misconception.key, title=h.misconception.title,
                students=[s.id for s in h.students],
            )
            for h in held
        ],
        similar=[
            SimilarEntry(
                students=[who for who in (p.left, p.right) if who != REFERENCE],
                shared_tokens=p.tokens, share=round(p.part, 4),
                exercises=[shared.exercise for shared in p.exercises],
            )
            for p in pairs
        ],
    )  # fmt: skip


def _item(i: Item) -> ItemEntry:
    d = i.discrimination
    return ItemEntry(
        question=i.question.title, notebook=i.question.notebook, grade_id=i.question.grade_id,
        points=i.question.points, manual=i.question.manual, counts=i.counts, share=i.share,
        discrimination=d.value, discrimination_low=d.low, discrimination_high=d.high,
        discrimination_students=d.students, discrimination_note=d.why_not, concerns=i.concerns,
    )  # fmt: skip


def _student(s: Student) -> StudentEntry:
    return StudentEntry(
        student=s.id, first_name=s.first_name, last_name=s.last_name, state=s.state,
        reasons=_reasons(s), handed_in_at=s.handed_in_at, hours_before_due=s.hours_before_due,
        answers=[
            AnswerEntry(
                question=q.title, score=a.score, kind=a.kind, by_hand=a.by_hand,
                misconception=a.verdict.misconception.key
                if a.verdict and a.verdict.misconception else None,
            )
            for q, a in s.answers.items()
        ],
        late_penalty=s.penalty, score=s.total if s.graded else None, waiting=s.waiting,
        tiers=sorted(s.tiers),
    )  # fmt: skip


def _reasons(s: Student) -> list[str]:
    return [f"{r.where}: {r.sentence}" if r.where else r.sentence for r in s.open_reasons]


def report_csv(record: ClassRecord) -> str:
    """One line per student: state, reasons, a column for each question, penalty and total."""
    questions = record.questions
    header = ["student", "last_name", "first_name", "state", "reasons", "handed_in_at"]
    header += ["hours_before_due", *(q.title for q in questions)]
    header += ["late_penalty", "score", "max_score", "waiting", "misconceptions", "tiers"]
    rows = []
    for s in record.students:
        hours = s.hours_before_due
        verdicts = [a.verdict for a in s.answers.values() if a.verdict and a.verdict.misconception]
        rows.append([
            s.id, s.last_name, s.first_name, s.state, " ".join(_reasons(s)),
            s.handed_in_at.isoformat() if s.handed_in_at else "",
            "" if hours is None else round(hours, 2),
            *(s.answers[q].score if q in s.answers else "" for q in questions),
            s.penalty if s.graded else "", s.total if s.graded else "", record.out_of,
            s.waiting if s.graded else "",
            " ".join(f"{v.exercise}:{v.misconception.key}" for v in verdicts if v.misconception),
            " ".join(map(str, sorted(s.tiers))),
        ])  # fmt: skip
    return csv_text(header, rows)
