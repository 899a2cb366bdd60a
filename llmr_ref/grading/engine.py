"""The work itself: a notebook's cells in, verdicts and pictures out. Trusted side; no nbgrader, no database.

The same functions run within nbgrader, in the processes of `llmr grade` and on a cluster. They see a seed
for each exercise, never the secret that it comes from.
"""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from llmr_ref.grading import pictures
from llmr_ref.grading.cache import (
    Found,
    Memory,
    Store,
    exercise_fingerprint,
    grader_fingerprint,
    key,
)
from llmr_ref.grading.exercise import Exercise
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.frames import read_frames
from llmr_ref.grading.pictures import Pictures, read_pictures, take_pictures
from llmr_ref.grading.sandbox import Check, Worker, shared_worker
from llmr_ref.grading.verdict import Trial, Verdict, judge, practice_trials, prepare

# How a run ends when the machine rather than the code may be the reason: tried again the next time.
NOT_KEPT = ("died: the sandbox could not be set up", "died: SIGKILL")


@dataclasses.dataclass(frozen=True)
class Work:
    """One notebook to grade: its code cells in order, each with the exercise that it checks, if any.

    seeds: of the graded inputs, by exercise. pictures: whether the notebook is run for what it shows.
    """

    cells: Sequence[tuple[str, str | None]]
    seeds: dict[str, int]
    tier: int
    pictures: bool = True

    @property
    def sources(self) -> list[str]:
        return [source for source, _ in self.cells]


class Notebook:
    """The cells of a notebook as far as they were read, and verdicts on what they define so far."""

    def __init__(self, store: Store, worker: Worker) -> None:
        self.store, self.worker = store, worker
        self.cells: list[str | None] = []

    def add(self, source: str) -> None:
        self.cells.append(source)

    def verdict(self, name: str, seed: int) -> Verdict:
        """On exercise `name` at this place, from the store or else from the worker.

        Raises: KeyError for a name that is no exercise; whatever is at fault in the grader itself.
        """
        exercise = get_exercise(name)
        result = _verdict_key(exercise, self.cells, seed, self.worker)
        found = self.store.get(result)
        if found is not None:
            verdict = Verdict.model_validate(found)
        else:
            verdict = grade_exercise(exercise, self.cells, seed, self.worker)
            if not verdict.needs_look.endswith(NOT_KEPT):
                self.store.put(result, verdict.model_dump(mode="json"))
        if verdict.stuck_cell is not None:  # it would only use up the next exercise's time too
            self.cells[verdict.stuck_cell] = None
        return verdict


@functools.lru_cache(maxsize=16)
def _graded_trials(name: str, seed: int) -> tuple[Trial, ...]:
    """Drawn for the notebook's run, and needed again when an exercise is run alone."""
    return tuple(prepare(get_exercise(name), seed, practice=False))


def _verdict_key(exercise: Exercise, cells: Sequence[str | None], seed: int, worker: Worker) -> str:
    limits = dataclasses.asdict(worker.limits)
    follows_from = (exercise.name, exercise_fingerprint(exercise), list(cells), seed)
    return key("verdict", *follows_from, worker.tier, limits)


def _pictures_key(sources: Sequence[str], worker: Worker) -> str:
    limits = dataclasses.asdict(pictures.LIMITS)
    return key("pictures", grader_fingerprint(), list(sources), worker.tier, limits)


def grade_exercise(
    exercise: Exercise, cells: Sequence[str | None], seed: int, worker: Worker
) -> Verdict:
    """Run the cells in the worker on practice and graded inputs, and judge what comes back."""
    practice, graded = practice_trials(exercise), _graded_trials(exercise.name, seed)
    trials = [*practice, *graded]
    ran = worker.run(cells, exercise.name, [t.call for t in practice], [t.call for t in graded])
    verdict = judge(exercise, trials, ran.outcomes, tier=worker.tier, cells=cells)
    if ran.ended != "done":
        verdict.needs_look = f"the code was stopped: {ran.ended}"
    if ran.stuck_cell is not None:
        verdict.stuck_cell = ran.stuck_cell
        first_line = (cells[ran.stuck_cell] or "").strip().split("\n")[0][:60]
        verdict.message = (
            f"The cell that begins with {first_line!r} never finished; it is left out."
        )
    elif ran.cell_errors and not verdict.full and not verdict.message:
        own = [e for e in ran.cell_errors if e["type"] in ("SyntaxError", "IndentationError")]
        said = (own or ran.cell_errors)[-1]
        verdict.message = f"A cell raised {said['type']}: {said['message']}"
    return verdict


def run_once(work: Work, store: Store, worker: Worker) -> None:
    """One run of the notebook for its pictures and its verdicts, as far as that is as good as many runs.

    Practice calls are made in their places, graded ones when all else is done and sent: what is shown
    cannot tell of them. But one exercise may spoil another here, so a verdict is kept only when it gives
    full marks, names the mistake or finds no attempt: what is spoilt by accident looks like none of these.
    The others are left to runs of their own, and everything is when anything fails: whoever needs it then
    meets the fault again.
    """
    with contextlib.suppress(Exception):
        _run_once(work, store, worker)


def _run_once(work: Work, store: Store, worker: Worker) -> None:
    shown_key = _pictures_key(work.sources, worker)
    if store.get(shown_key) is not None:
        return
    due = []
    for at, (_, name) in enumerate(work.cells):
        if name is not None and name in work.seeds:
            exercise, cells = get_exercise(name), [s for s, n in work.cells[:at] if n is None]
            result = _verdict_key(exercise, cells, work.seeds[name], worker)
            if store.get(result) is None:
                practice = practice_trials(exercise)
                graded = _graded_trials(name, work.seeds[name])
                due.append((at, exercise, cells, result, practice, graded))
    checks = [
        Check(at, exercise.name, [t.call for t in practice], [t.call for t in graded])
        for at, exercise, _, _, practice, graded in due
    ]
    ended, frames = worker.job(work.sources, checks, worker.limits, show=True)
    shown = read_pictures(ended, frames, len(work.cells))
    counts = sum(len(c.calls) for c in checks), sum(len(c.graded) for c in checks)
    ran = read_frames(frames, shown.ended, "", len(work.cells), *counts, worker.limits)
    if ran.ended != "done":
        return
    store.put(shown_key, shown.model_dump(mode="json"))
    first, graded_first = 0, counts[0]
    raised = [
        n for n, outputs in shown.outputs.items()
        if work.cells[n][1] is None and any(o["output_type"] == "error" for o in outputs)
    ]  # fmt: skip
    for at, exercise, cells, result, practice, graded in due:
        outcomes = ran.outcomes[first : first + len(practice)]
        outcomes += ran.outcomes[graded_first : graded_first + len(graded)]
        first, graded_first = first + len(practice), graded_first + len(graded)
        trials = [*practice, *graded]
        verdict = judge(exercise, trials, outcomes, tier=worker.tier, cells=cells)
        known = verdict.misconception is not None or not verdict.attempted
        if verdict.full or (known and not any(n < at for n in raised)):
            store.put(result, verdict.model_dump(mode="json"))


def show_notebook(sources: Sequence[str], store: Store, worker: Worker) -> Pictures:
    """What the notebook shows when it runs, from the store or else from the worker.

    Raises: SandboxError when the worker itself fails.
    """
    result = _pictures_key(sources, worker)
    found = store.get(result)
    if found is not None:
        return Pictures.model_validate(found)
    shown = take_pictures(sources, worker)
    if shown.ended not in NOT_KEPT:
        store.put(result, shown.model_dump(mode="json"))
    return shown


def do(work: Work, known: dict[str, Any]) -> dict[str, Any]:
    """Everything of this work that is not known, by key: a pure function of values.

    What fails is left out: nbgrader's own run meets the same fault and says so.
    """
    store, worker = Memory(known), shared_worker(work.tier)
    if work.pictures:
        run_once(work, store, worker)
    for step in _steps(work, store, worker):
        with contextlib.suppress(Exception):
            step()
    return store.new


def look_up(work: Work, store: Store) -> tuple[bool, dict[str, Any]]:
    """Whether the store has everything of this work, and what it has, by key."""
    found = Found(store)
    complete = True
    for step in _steps(work, found, Worker(tier=work.tier)):  # never started: for its keys only
        try:
            step()
        except Found.Nothing:
            complete = False
        except KeyError:  # no exercise of that name: nothing to have
            continue
    return complete, dict(found)


def _steps(work: Work, store: Store, worker: Worker) -> Iterator[Callable[[], object]]:
    if work.pictures:
        yield functools.partial(show_notebook, work.sources, store, worker)
    notebook = Notebook(store, worker)
    for source, name in work.cells:
        if name is None:
            notebook.add(source)
        elif name in work.seeds:
            yield functools.partial(notebook.verdict, name, work.seeds[name])


def do_text(text: str) -> str:
    """`do` for another process or machine: JSON in, JSON out."""
    torch.set_num_threads(1)  # whoever started this process started as many as there are cores
    sent = json.loads(text)
    return json.dumps(do(Work(**sent["work"]), sent["known"]))


def as_text(work: Work, known: dict[str, Any]) -> str:
    """What `do_text` reads."""
    return json.dumps({"work": dataclasses.asdict(work), "known": known})
