"""A small graded class, written with nbgrader's Gradebook: what a course folder holds after autograding."""

import os
import random
import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.api import Gradebook

from llmr_ref.grading import runner
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.verdict import PropertyResult, Verdict, judge, nothing_scored, practice_trials

ASSIGNMENT = "attention"
POINTS = {"softmax": 3.0, "causal_mask": 2.0, "apply_rope": 4.0}
MANUAL, MANUAL_POINTS = "cheating-model", 3.0
GRADED_AT = 1_764_000_000  # 24 November 2025, 16:00 UTC
DUE = datetime(2025, 11, 20, 12, 0)
STUB = "def {name}(x, y=None):\n    raise NotImplementedError  # YOUR CODE HERE"


def grade_id(exercise: str) -> str:
    return f"check-{exercise.replace('_', '-')}"


@cache
def verdict_on(exercise: str, answer: str) -> Verdict:
    """What the grader says about an answer of the bank, or about "stub", the untouched one."""
    known = get_exercise(exercise)
    trials = practice_trials(known)

    def stub(*arguments: object, **keywords: object) -> None:
        raise NotImplementedError

    target = next((a.target for a in known.bank() if a.key == answer), stub)
    assert (target is stub) == (answer == "stub"), f"no {answer} in the bank of {exercise}"
    return judge(known, trials, [runner.run_call(target, t.call) for t in trials], tier=2)


def rope_verdict(score: float) -> Verdict:
    """A verdict on apply_rope with no name for the mistake, if there is one."""
    results = [
        PropertyResult(sentence="turns each pair by its angle", passed=score >= 2, points=2),
        PropertyResult(sentence="keeps the dtype", passed=score >= 4, points=2),
    ]
    return Verdict(
        exercise="apply_rope", score=score, points=POINTS["apply_rope"], properties=results, tier=2
    )


@dataclass
class Pupil:
    """One student of the fixture. manual: points given, None while it waits, "blank" if untouched."""

    id: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    manual: float | str | None = None
    overridden: dict[str, float] = field(default_factory=dict)
    penalty: float = 0.0
    intake: list[str] = field(default_factory=list)
    tier: int = 2
    feedback: bool = True
    registered_only: bool = False
    ungraded: bool = False
    name: tuple[str, str] | None = None
    code: dict[str, str] = field(default_factory=dict)  # exercise -> answer cell
    hours_before: float | None = None  # the date due

    def score(self, exercise: str) -> float:
        return self.overridden.get(exercise, self.verdicts[exercise].score)


def answers(softmax: str, causal_mask: str, rope: float) -> dict[str, Verdict]:
    return {
        "softmax": verdict_on("softmax", softmax),
        "causal_mask": verdict_on("causal_mask", causal_mask),
        "apply_rope": rope_verdict(rope),
    }


def small_class() -> list[Pupil]:
    """Fourteen students and what became of each."""
    right = get_exercise("softmax").right_answers[0].key
    wrong = get_exercise("softmax").wrong_answers[0].key
    stubs = {
        "softmax": verdict_on("softmax", "stub"),
        "causal_mask": verdict_on("causal_mask", "stub"),
        "apply_rope": Verdict(
            exercise="apply_rope", score=0, points=4, attempted=False, tier=2,
            message="Not attempted yet: the answer still raises NotImplementedError.",
        ),
    }  # fmt: skip
    stopped = Verdict(
        exercise="causal_mask", score=0, points=2, tier=2,
        properties=[PropertyResult(sentence="hides the future", passed=False, points=2)],
        message="The cell that begins with 'while True:' never finished; it is left out.",
        needs_look="the code was stopped: it ran longer than 20 s",
    )  # fmt: skip
    failed = nothing_scored(
        "causal_mask", 2, "This exercise could not be graded.",
        needs_look="the grader failed with OSError: no space left", tier=2,
    )  # fmt: skip
    return [
        Pupil("ada", answers(right, "triangle", 4), manual=3.0, name=("Ada", "L.")),
        Pupil("ben", answers(right, "sees_next", 2), manual=1.5),
        Pupil("cleo", answers(wrong, "sees_next", 0)),
        Pupil("dov", answers(right, "sees_next", 4)),
        Pupil("eva", answers(right, "aligned_first", 4), penalty=1.0),
        Pupil("fay", answers(wrong, "broadcast", 2), manual=2.0),
        Pupil("gus", stubs, manual="blank"),
        Pupil("hana", {**answers(right, "loops", 4), "causal_mask": stopped}),
        Pupil(
            "ivo", {**answers(right, "loops", 4), "causal_mask": stopped},
            overridden={"causal_mask": 1.5},
        ),
        Pupil(
            "jan", answers(right, "last_rows", 0), feedback=False,
            intake=["cell 'check-softmax' occurs more than once; the first one counts"],
        ),
        Pupil("kim", registered_only=True),
        Pupil("leo", ungraded=True),
        Pupil("mia", answers(right, "inverted", 4)),
        Pupil("nia", {**answers(right, "loops", 4), "causal_mask": failed}, manual=3.0),
    ]  # fmt: skip


def large_class(students: int, seed: int = 0) -> list[Pupil]:
    """Students of every strength, with answers of the banks as their code; the same for one seed."""
    chance = random.Random(seed)
    pupils = []
    for number in range(students):
        strength = chance.random()
        verdicts, code = {}, {}
        for exercise in ("softmax", "causal_mask"):
            known = get_exercise(exercise)
            bank = known.right_answers if chance.random() < strength else known.wrong_answers
            answer = chance.choice(bank)
            verdicts[exercise] = verdict_on(exercise, answer.key)
            code[exercise] = answer.source(exercise)
        verdicts["apply_rope"] = rope_verdict(chance.choice((2, 4) if strength > 0.4 else (0, 2)))
        code["apply_rope"] = chance.choice(get_exercise("apply_rope").bank()).source("apply_rope")
        pupils.append(Pupil(
            f"s{number:04}", verdicts, manual=round(3 * strength * 2) / 2, code=code,
            hours_before=chance.choice((200, 90, 30, 12, 3, 0.5, 0.5, -5)),
            penalty=0.0, name=(f"First{number}", f"Last{number}"),
        ))  # fmt: skip
    return pupils


def write_course(course: Path, pupils: list[Pupil]) -> Path:
    """Write gradebook, release and autograded notebooks and feedback pages as nbgrader leaves them."""
    course.mkdir(parents=True, exist_ok=True)
    release = course / "release" / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    _write(_notebook({}, {}, {e: STUB.format(name=e) for e in POINTS}), release)
    (course / "gradebook.db").write_bytes(_empty_gradebook())
    dated = any(p.hours_before is not None for p in pupils)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", "llmr") as gradebook:
        gradebook.add_assignment(ASSIGNMENT, **({"duedate": DUE.isoformat()} if dated else {}))
        gradebook.add_notebook(ASSIGNMENT, ASSIGNMENT)
        for exercise in sorted(POINTS):  # not the order of the notebook
            gradebook.add_grade_cell(
                grade_id(exercise), ASSIGNMENT, ASSIGNMENT,
                max_score=POINTS[exercise], cell_type="code",
            )  # fmt: skip
        gradebook.add_grade_cell(
            MANUAL, ASSIGNMENT, ASSIGNMENT, max_score=MANUAL_POINTS, cell_type="markdown"
        )
        gradebook.add_solution_cell(MANUAL, ASSIGNMENT, ASSIGNMENT)
        for pupil in pupils:
            _enter(gradebook, course, pupil)
        gradebook.db.commit()
    return course


@cache
def _empty_gradebook() -> bytes:
    """Made once: nbgrader starts a process, `alembic`, for every new gradebook."""
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with TemporaryDirectory() as folder, patch.dict(os.environ, PATH=tools):
        path = Path(folder) / "gradebook.db"
        Gradebook(f"sqlite:///{path}", "llmr").close()
        return path.read_bytes()


def _enter(gradebook: Gradebook, course: Path, pupil: Pupil) -> None:
    first, last = pupil.name or (None, None)
    gradebook.add_student(pupil.id, first_name=first, last_name=last)
    if pupil.registered_only:
        return
    handed_in = course / "submitted" / pupil.id / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    _write(_notebook({}, {}, pupil.code), handed_in)
    if pupil.ungraded:
        return
    submission = gradebook.add_submission(ASSIGNMENT, pupil.id)
    submission.notebooks[0].late_submission_penalty = pupil.penalty
    if pupil.hours_before is not None:
        submission.timestamp = DUE - timedelta(hours=pupil.hours_before)
    for exercise, verdict in pupil.verdicts.items():
        grade = gradebook.find_grade(grade_id(exercise), ASSIGNMENT, ASSIGNMENT, pupil.id)
        grade.auto_score = verdict.score
        grade.manual_score = pupil.overridden.get(exercise)
        grade.needs_manual_grade = bool(verdict.needs_look) and exercise not in pupil.overridden
    grade = gradebook.find_grade(MANUAL, ASSIGNMENT, ASSIGNMENT, pupil.id)
    grade.auto_score = 0.0 if pupil.manual == "blank" else None
    grade.manual_score = pupil.manual if isinstance(pupil.manual, float) else None
    grade.needs_manual_grade = pupil.manual is None
    notes = {"intake": pupil.intake, "graded": True, "tier": pupil.tier}
    graded = course / "autograded" / pupil.id / ASSIGNMENT / f"{ASSIGNMENT}.ipynb"
    _write(_notebook(pupil.verdicts, {"llmr": notes}, pupil.code), graded)
    if pupil.feedback:
        page = course / "feedback" / pupil.id / ASSIGNMENT / f"{ASSIGNMENT}.html"
        page.parent.mkdir(parents=True)
        page.write_text("<!doctype html><html lang='en'><title>Feedback</title><h1>Feedback</h1>")


def _notebook(
    verdicts: dict[str, Verdict], metadata: dict, code: dict[str, str]
) -> nbformat.NotebookNode:
    cells = []
    for number, exercise in enumerate(POINTS):
        if exercise in code:
            marks = {
                "grade": False, "grade_id": exercise, "locked": False, "solution": True,
                "task": False, "schema_version": 3, "cell_type": "code",
            }  # fmt: skip
            cells.append(
                new_code_cell(code[exercise], metadata={"nbgrader": marks}, id=f"code-{number}")
            )
        marks = {
            "grade": True, "grade_id": grade_id(exercise), "points": POINTS[exercise],
            "locked": True, "solution": False, "task": False, "schema_version": 3,
            "cell_type": "code",
        }  # fmt: skip
        extra = {"llmr": verdicts[exercise].model_dump()} if exercise in verdicts else {}
        source = f'from llmr_ref.grading import check\ncheck("{exercise}")'
        cell = new_code_cell(source, metadata={"nbgrader": marks, **extra}, id=f"check-{number}")
        cells.append(cell)
    marks = {
        "grade": True, "grade_id": MANUAL, "points": MANUAL_POINTS, "locked": False,
        "solution": True, "task": False, "schema_version": 3, "cell_type": "markdown",
    }  # fmt: skip
    cells.append(new_markdown_cell("Why?", metadata={"nbgrader": marks}, id="manual"))
    return new_notebook(cells=cells, metadata=metadata)


def _write(notebook: nbformat.NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    os.utime(path, (GRADED_AT, GRADED_AT))
