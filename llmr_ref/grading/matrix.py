"""The kill matrix: does every check catch every wrong answer, by name, and spare every right one?"""

import ast
import dataclasses
import functools

from rich.console import Console
from rich.table import Table

from llmr_ref.grading import runner
from llmr_ref.grading.exercise import Answer, Exercise
from llmr_ref.grading.exercises import assignment_exercises
from llmr_ref.grading.verdict import Trial, Verdict, judge, practice_trials, prepare

NAMED_AT_LEAST = 0.95
GRADED_SEEDS = (
    1,
    2,
)  # beside the practice inputs: a bank must hold on inputs that it was not tuned on


@dataclasses.dataclass
class Row:
    """One answer of a bank and what became of it. problem is empty when all is as it should be."""

    exercise: str
    kind: str
    title: str
    score: float
    points: float
    named: str
    problem: str


def stub(exercise: Exercise) -> Answer:
    """The untouched answer cell of the release notebook."""

    def target(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    return Answer("the untouched stub", target)


@functools.cache
def trial_sets(exercise: Exercise) -> list[list[Trial]]:
    """The practice inputs alone, and graded inputs of several seeds together with them."""
    practice = practice_trials(exercise)
    return [practice] + [prepare(exercise, s, practice=False) + practice for s in GRADED_SEEDS]


def verdicts(exercise: Exercise, answer: Answer) -> list[Verdict]:
    """The verdict on an answer on every one of the trial sets."""
    return [
        judge(exercise, trials, [runner.run_call(answer.target, t.call) for t in trials])
        for trials in trial_sets(exercise)
    ]


def rows(exercise: Exercise) -> list[Row]:
    """Every wrong answer, every right answer and the stub, judged."""
    found = []
    for answer in [*exercise.wrong_answers, *exercise.right_answers, stub(exercise)]:
        worst = None
        for v in verdicts(exercise, answer):
            row = _row(exercise, answer, v)
            if worst is None or (row.problem and not worst.problem):
                worst = row
        assert worst is not None
        found.append(worst)
    return found


def _row(exercise: Exercise, answer: Answer, v: Verdict) -> Row:
    named = v.misconception.key if v.misconception else ""
    kind = "wrong" if answer in exercise.wrong_answers else "right"
    problem = ""
    if answer.title == "the untouched stub":
        kind = "stub"
        problem = f"scores {v.score}, must be 0" if v.score else ""
    elif kind == "right" and not v.full:
        reasons = "; ".join(p.message for p in v.properties if not p.passed)
        problem = f"loses points: {reasons}"
    elif kind == "wrong" and v.full:
        problem = "keeps full marks"
    elif kind == "wrong" and named and named != answer.key:
        problem = f"diagnosed as {named}"
    elif kind == "wrong" and not named:
        problem = "not named"
    return Row(exercise.name, kind, answer.title, v.score, v.points, named, problem)


def bank_faults(exercise: Exercise) -> list[str]:
    """What is wrong with the bank itself: too few answers, long hints, repeated names."""
    faults = []
    if len(exercise.wrong_answers) < 8:
        faults.append(f"{len(exercise.wrong_answers)} wrong answers, needs at least 8")
    if len(exercise.right_answers) < 3:
        faults.append(f"{len(exercise.right_answers)} right answers, needs at least 3")
    for answer in exercise.wrong_answers:
        if not 0 < len(answer.hint.split()) <= 60:
            faults.append(
                f"{answer.key}: the hint has {len(answer.hint.split())} words, allowed 60"
            )
    keys = [a.key for a in exercise.bank()]
    faults += [f"{k}: used twice" for k in sorted({k for k in keys if keys.count(k) > 1})]
    distinct = {ast.dump(ast.parse(a.source("answer"))) for a in exercise.right_answers}
    if len(distinct) < len(exercise.right_answers):
        faults.append("right answers repeat one another")
    return faults


def main(assignment: str) -> int:
    """Print the kill matrix of an assignment; 0 if it holds, 1 if not."""
    console = Console()
    all_rows: list[Row] = []
    faults: list[str] = []
    table = Table(title=f"Kill matrix of {assignment}")
    for column in ("exercise", "wrong", "caught", "named", "right", "full", "stub"):
        table.add_column(column, justify="left" if column == "exercise" else "right")
    for exercise in assignment_exercises(assignment):
        own = rows(exercise)
        all_rows += own
        faults += [f"{exercise.name}: {f}" for f in bank_faults(exercise)]
        table.add_row(exercise.name, *_counts(own))
    table.add_section()
    table.add_row("total", *_counts(all_rows))
    console.print(table)
    for r in all_rows:
        if r.problem:
            console.print(f"[bold]{r.exercise}[/]: {r.kind} answer “{r.title}” {r.problem}")
    for fault in faults:
        console.print(f"[bold]bank[/] {fault}")
    hard = [r for r in all_rows if r.problem and r.problem != "not named"]
    return 1 if hard or faults or named_share(all_rows) < NAMED_AT_LEAST else 0


def named_share(all_rows: list[Row]) -> float:
    """Share of the wrong answers that are diagnosed as themselves."""
    wrong = [r for r in all_rows if r.kind == "wrong"]
    return sum(not r.problem for r in wrong) / len(wrong)


def _counts(own: list[Row]) -> list[str]:
    wrong = [r for r in own if r.kind == "wrong"]
    right = [r for r in own if r.kind == "right"]
    caught = sum(r.problem != "keeps full marks" for r in wrong)
    named = sum(not r.problem for r in wrong)
    full = sum(not r.problem for r in right)
    untouched = max(r.score for r in own if r.kind == "stub")
    return [str(len(wrong)), str(caught), str(named), str(len(right)), str(full), f"{untouched:g}"]
