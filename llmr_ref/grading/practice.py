"""`check("softmax")` in JupyterLab: the same cases and the same card as in grading, in this process."""

import copy
import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from llmr_ref.grading import runner
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.exercise import Exercise
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.verdict import Verdict, judge, practice_trials


def check(name: str, answer: Any = None) -> float:
    """Test your answer to exercise `name`, show the card and return the points.

    answer: the function or class; by default what is called `name` in the notebook.
    Raises: ValueError for a name that is not an exercise.
    """
    cells: list[str] = []
    if answer is None:
        space = sys._getframe(1).f_globals
        answer = space.get(name)
        ran = space.get("In")  # what the notebook ran, in its order, as IPython keeps it
        cells = [c for c in ran if isinstance(c, str)] if isinstance(ran, list) else []
    verdict = verdict_for(name, answer, cells)
    _display(verdict)
    return float(verdict.score)


class PracticeCase(NamedTuple):
    """The inputs of one call of a check. init and state: of a layer, None for a function."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    init: dict[str, Any] | None
    state: dict[str, Any] | None


def practice_case(name: str, number: int) -> PracticeCase:
    """Case `number` of exercise `name`, as its card names it; a copy of your own.

    Raises: ValueError for a name that is not an exercise, or a number that it does not have.
    """
    trials = practice_trials(_exercise(name))
    if not 0 <= number < len(trials):
        raise ValueError(
            f"number is {number}; {name} has the practice cases 0 to {len(trials) - 1}"
        )
    case = copy.deepcopy(trials[number].case)
    return PracticeCase(tuple(case.args), dict(case.kwargs), case.init, case.state)


def verdict_for(name: str, answer: Any, cells: Sequence[str] = ()) -> Verdict:
    """The verdict on `answer` (None when it is not defined) on the practice inputs, in this process.

    cells: the code that defined it, read for what the exercise forbids.
    """
    exercise = _exercise(name)
    trials = practice_trials(exercise)
    for trial, wrong in itertools.product(trials, exercise.wrong_answers):
        trial.outcome_of(wrong)  # on the first call, so that no later one waits for the bank
    if answer is None:
        outcomes = [runner.missing(name) for _ in trials]
    else:
        outcomes = [runner.run_call(answer, trial.call) for trial in trials]
    return judge(exercise, trials, outcomes, cells=cells)


def _exercise(name: str) -> Exercise:
    try:
        return get_exercise(name)
    except KeyError as error:
        raise ValueError(error.args[0]) from None


def _display(verdict: Verdict) -> None:
    try:
        from IPython import get_ipython
        from IPython.display import display
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        print(card_text(verdict))
        return
    display({"text/html": card_html(verdict), "text/plain": card_text(verdict)}, raw=True)
