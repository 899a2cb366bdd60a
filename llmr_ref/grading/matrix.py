"""The kill matrix: does every check catch every wrong answer, by name, and spare every right one?"""

import ast
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from llmr_ref.grading import no_answers, runner
from llmr_ref.grading.exercise import Answer, Exercise
from llmr_ref.grading.exercises import ASSIGNMENTS, get_exercise
from llmr_ref.grading.survivors import Hunt, hunt
from llmr_ref.grading.verdict import Outcome, Trial, Verdict, judge, practice_trials, prepare

NAMED_AT_LEAST = 0.95
MUTANTS_CAUGHT_AT_LEAST = 0.98
SAMPLE = 60  # mutants of an exercise, unless all are asked for
MOST_PROCESSES = 8  # each holds torch
GRADED_SEEDS = (
    1,
    2,
)  # beside the practice inputs: a bank must hold on inputs that it was not tuned on


@dataclasses.dataclass
class Row:
    """One answer and what became of it: wrong, right or nothing. problem: empty when all is well."""

    exercise: str
    kind: str
    title: str
    score: float
    points: float
    named: str
    problem: str


@dataclasses.dataclass
class Result:
    """The matrix of one exercise."""

    rows: list[Row]
    mutants: Hunt
    faults: list[str]


@functools.cache
def trial_sets(exercise: Exercise) -> list[list[Trial]]:
    """The practice inputs alone, and graded inputs of several seeds together with them."""
    practice = practice_trials(exercise)
    return [practice] + [prepare(exercise, s, practice=False) + practice for s in GRADED_SEEDS]


def verdicts(exercise: Exercise, answer: Answer) -> list[Verdict]:
    """The verdict on an answer on every one of the trial sets."""
    known: dict[int, Outcome] = {}

    def outcome(trial: Trial) -> Outcome:
        if not exercise.forbids:
            return trial.outcome_of(answer)  # `judge` needs those of wrong answers as well
        if id(trial) not in known:  # practice inputs are in every set
            known[id(trial)] = runner.run_call(answer.target, trial.call)
        return known[id(trial)]

    practice, *others = trial_sets(exercise)
    first = judge(exercise, practice, [*map(outcome, practice)])
    return [first] + [
        judge(exercise, trials, [*map(outcome, trials)], on_practice=first) for trials in others
    ]


def rows(exercise: Exercise) -> list[Row]:
    """Every wrong answer, every right answer and all that is no answer, judged."""
    found = []
    for answer in exercise.bank():
        judged = [_row(exercise, answer, v) for v in verdicts(exercise, answer)]
        found.append(next((row for row in judged if row.problem), judged[0]))
    scores = {"the untouched stub": no_answers.score_of_stub(exercise)}
    for kind in no_answers.NO_ANSWERS:
        scores[kind] = no_answers.score_of(exercise, kind, trial_sets(exercise)[1])
    return found + [_nothing(exercise, kind, score) for kind, score in scores.items()]


def _row(exercise: Exercise, answer: Answer, v: Verdict) -> Row:
    named = v.misconception.key if v.misconception else ""
    kind = "wrong" if answer in exercise.wrong_answers else "right"
    problem = ""
    if kind == "right" and not v.full:
        reasons = "; ".join(p.message for p in v.properties if not p.passed)
        problem = f"loses points: {reasons}"
    elif kind == "wrong" and v.full:
        problem = "keeps full marks"
    elif kind == "wrong" and named and named != answer.key:
        problem = f"diagnosed as {named}"
    elif kind == "wrong" and not named:
        problem = "not named"
    return Row(exercise.name, kind, answer.title, v.score, v.points, named, problem)


def _nothing(exercise: Exercise, title: str, score: float) -> Row:
    problem = f"scores {score:g}, must be 0" if score else ""
    return Row(exercise.name, "nothing", title, score, exercise.points, "", problem)


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


def examine(name: str, at_most: int | None) -> Result:
    """The matrix of the exercise called `name`, with `at_most` mutants (None: all of them)."""
    exercise = get_exercise(name)
    mutants = hunt_mutants(name, at_most)
    found = [*rows(exercise), import_row(name)]
    return Result(found, mutants, bank_faults(exercise) + mutants.faults)


def hunt_mutants(name: str, at_most: int | None) -> Hunt:
    """Run mutants on practice and graded inputs, in forks of this process: it should have one thread."""
    exercise = get_exercise(name)
    trials = {id(t): t for trials in trial_sets(exercise) for t in trials}  # each once
    return hunt(exercise, list(trials.values()), at_most)


def import_row(name: str) -> Row:
    """What a submission scores that imports the reference."""
    exercise = get_exercise(name)
    score = no_answers.score_of_import(exercise)
    return _nothing(exercise, "an import of the reference", score)


def processes(at_most: int = MOST_PROCESSES) -> ProcessPoolExecutor:
    """Fresh processes for what runs mutants, one for every core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ProcessPoolExecutor(
        min(at_most, cores or 1),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=torch.set_num_threads,
        initargs=(1,),
    )


def main(assignments: Sequence[str], *, at_most: int | None = SAMPLE) -> int:
    """Print the kill matrix of the assignments; 0 if it holds, 1 if not."""
    console = Console()
    names = [name for assignment in assignments for name in ASSIGNMENTS[assignment]]
    results: dict[str, Result] = {}
    faults: list[str] = []
    columns = TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress, processes() as pool:
        task = progress.add_task("exercises", total=len(names))
        waiting = {pool.submit(examine, name, at_most): name for name in names}
        for future in as_completed(waiting):
            name, error = waiting[future], future.exception()
            if error is None:
                results[name] = future.result()
            else:
                faults.append(f"{name} cannot be examined: {type(error).__name__}: {error}")
            progress.advance(task)
    in_order = {name: results[name] for name in names if name in results}
    console.print(_table(assignments, in_order))
    _print_mutants(console, in_order, at_most)
    for result in in_order.values():
        _print_problems(console, result)
    faults += [f"{name}: {fault}" for name, result in in_order.items() for fault in result.faults]
    for fault in faults:
        console.print("[bold]bank[/]", end=" ")
        console.print(fault, markup=False, highlight=False)
    missed = bars_missed(in_order.values())
    for bar in missed:
        console.print(f"[bold]missed[/] {bar}", highlight=False)
    return 1 if missed or faults else 0


def bars_missed(results: Iterable[Result]) -> list[str]:
    """The bars that the results do not reach, in words."""
    results = list(results)
    own = [row for result in results for row in result.rows]
    bars = {
        "every wrong answer loses marks": not any(r.problem == "keeps full marks" for r in own),
        "no wrong answer is taken for another": not any(
            r.problem.startswith("diagnosed as") for r in own
        ),
        f"{NAMED_AT_LEAST:.0%} of the wrong answers are named": named_share(own) >= NAMED_AT_LEAST,
        "every right answer keeps full marks": not any(r.problem for r in own if r.kind == "right"),
        "what is no answer scores nothing": not any(r.problem for r in own if r.kind == "nothing"),
        f"{MUTANTS_CAUGHT_AT_LEAST:.0%} of the mutants are caught": (
            caught_share(r.mutants for r in results) >= MUTANTS_CAUGHT_AT_LEAST
        ),
    }
    return [bar for bar, reached in bars.items() if not reached]


def named_share(all_rows: Iterable[Row]) -> float:
    """Share of the wrong answers that are diagnosed as themselves."""
    wrong = [r for r in all_rows if r.kind == "wrong"]
    return sum(not r.problem for r in wrong) / max(len(wrong), 1)


def caught_share(hunts: Iterable[Hunt]) -> float:
    """Share of the mutants that lose marks, of those that are not listed as equivalent."""
    hunts = list(hunts)
    caught = sum(h.caught for h in hunts)
    return caught / max(caught + sum(len(h.survivors) for h in hunts), 1)


def _table(assignments: Sequence[str], results: dict[str, Result]) -> Table:
    table = Table(title="Kill matrix", box=box.SIMPLE_HEAD, collapse_padding=True)
    table.add_column("exercise", no_wrap=True)
    for column in ("wrong\ncaught", "\nnamed", "right\nfull", "mutants\ncaught", "nothing\nscores"):
        table.add_column(column, justify="right", no_wrap=True)
    for assignment in assignments:
        own = {n: results[n] for n in ASSIGNMENTS[assignment] if n in results}
        for name, result in own.items():
            table.add_row(name, *_counts([result]))
        table.add_section()
        if len(assignments) > 1 and own:
            table.add_row(f"[italic]{assignment}[/]", *_counts(own.values()))
            table.add_section()
    table.add_row("total", *_counts(results.values()))
    return table


def _counts(results: Iterable[Result]) -> list[str]:
    results = list(results)
    own = [row for result in results for row in result.rows]
    wrong = [r for r in own if r.kind == "wrong"]
    right = [r for r in own if r.kind == "right"]
    nothing = max((r.score for r in own if r.kind == "nothing"), default=0.0)
    caught = sum(r.mutants.caught for r in results)
    survivors = sum(len(r.mutants.survivors) for r in results)
    return [
        f"{sum(r.problem != 'keeps full marks' for r in wrong)}/{len(wrong)}",
        f"{sum(not r.problem for r in wrong)}",
        f"{sum(not r.problem for r in right)}/{len(right)}",
        f"{caught}/{caught + survivors}",
        f"{nothing:g}",
    ]


def _print_problems(console: Console, result: Result) -> None:
    for r in result.rows:
        if r.problem:
            answer = "" if r.kind == "nothing" else f"{r.kind} answer: "
            console.print(f"[bold]{r.exercise}[/] {answer}", end="", highlight=False)
            console.print(f"{r.title}: {r.problem}", markup=False, highlight=False)


def _print_mutants(console: Console, results: dict[str, Result], at_most: int | None) -> None:
    hunts = [r.mutants for r in results.values()]
    made, tried = sum(h.made for h in hunts), sum(h.tried for h in hunts)
    how = "all" if at_most is None else f"at most {at_most} an exercise, drawn from a fixed seed"
    console.print(
        f"{tried} of {made} mutants run ({how}); {sum(h.equivalent for h in hunts)} are listed as "
        f"equivalent; {caught_share(hunts):.1%} of the others are caught, "
        f"{MUTANTS_CAUGHT_AT_LEAST:.0%} wanted.",
        highlight=False,
    )
    for name, result in results.items():
        for mutant in result.mutants.survivors:
            console.print(f"[bold]{name}[/] lets a mutant pass:", highlight=False)
            console.print(f"  {mutant.change}", markup=False, highlight=False, soft_wrap=True)
            for line in mutant.difference.splitlines():
                console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
