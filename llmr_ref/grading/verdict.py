"""Decide the score from outcomes, name the misconception, pick the counterexample. Trusted side only."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from llmr_ref.grading import runner
from llmr_ref.grading.as_code import call_as_code, dtype_of, kind_of, show
from llmr_ref.grading.exercise import PRACTICE_SEED, Answer, Case, Exercise
from llmr_ref.grading.figures import Figure, choose_figure
from llmr_ref.grading.forbidden import Use, forbidden_uses
from llmr_ref.grading.foreign_text import clean

Outcome = dict[str, Any]
MAX_MESSAGE = 1_000  # characters of one property's message
OUR_ERRORS = ("ForeignValue", "Missing", "Limit")  # messages that runner.py and sandbox.py write
# Numbers, types and texts of a graded call tell its inputs, so the card says nothing else about it.
GRADED_FAULT = "right on the practice inputs, wrong on inputs that were drawn for grading"


class PropertyResult(BaseModel):
    """One property of the exercise: passed, or what was seen instead."""

    sentence: str
    passed: bool
    points: float
    message: str = ""


class Misconception(BaseModel):
    """A wrong answer of the bank that behaves as the student's does."""

    key: str
    title: str
    hint: str
    see: str


class Counterexample(BaseModel):
    """The smallest practice call that goes wrong, as code, with both results."""

    call: str
    expected: str
    received: str
    figure: Figure | None = None


class BrokenRule(BaseModel):
    """What the exercise asks to build, and the built-ins used instead.

    deserved: the points of its results. share: what of them is earned. settled: by the exercise, so the
    course cannot choose another share.
    """

    rule: str
    uses: list[Use]
    deserved: float
    share: float
    settled: bool


class Verdict(BaseModel):
    """What the trusted side says about one exercise of one submission."""

    exercise: str
    score: float
    points: float
    properties: list[PropertyResult] = []
    misconception: Misconception | None = None
    counterexample: Counterexample | None = None
    broken_rule: BrokenRule | None = None
    message: str = ""
    needs_look: str = ""
    attempted: bool = True
    stuck_cell: int | None = None
    tier: int = 0

    @property
    def full(self) -> bool:
        return self.score == self.points


def nothing_scored(
    name: str, points: float, message: str, *, needs_look: str = "", tier: int = 0
) -> Verdict:
    """0 points with the reason: what every fault, ours or the student's, ends in."""
    return Verdict(
        exercise=name,
        score=0.0,
        points=points,
        message=message,
        needs_look=needs_look[:300],
        tier=tier,
    )


@dataclass(frozen=True)
class Trial:
    """A case made ready to run: the call that crosses to the worker and the outcome that is right."""

    property_number: int
    case: Case
    call: dict[str, Any]
    expected: Outcome
    practice: bool
    bank: dict[str, Outcome] = field(default_factory=dict)

    def outcome_of(self, wrong: Answer) -> Outcome:
        """What this wrong answer of the bank does here; run once, then remembered."""
        if wrong.key not in self.bank:
            self.bank[wrong.key] = runner.run_call(wrong.target, self.call)
        return self.bank[wrong.key]


def prepare(exercise: Exercise, seed: int, *, practice: bool) -> list[Trial]:
    """Draw the cases of `seed` and run the reference on them."""
    trials: list[Trial] = []
    for number, case in exercise.cases(seed):
        call: dict[str, Any] = {
            "args": case.args, "kwargs": case.kwargs, "init": case.init, "state": case.state,
            "cotangent": None, "driver": exercise.driver_source,
        }  # fmt: skip
        expected = runner.run_call(exercise.reference, call)
        if expected["status"] != "ok":
            raise RuntimeError(f"the reference of {exercise.name} fails on {case}: {expected}")
        if case.accept and (fault := case.accept(expected["value"])):
            raise RuntimeError(f"the reference of {exercise.name} is refused: it {fault}")
        if case.gradients:
            shape = expected["value"].shape
            generator = torch.Generator().manual_seed(seed % 2**63 + len(trials))
            call["cotangent"] = torch.randn(shape, generator=generator).to(expected["value"].dtype)
            expected = runner.run_call(exercise.reference, call)
        if exercise.forbids:
            call["forbids"] = list(exercise.forbids)
        trials.append(Trial(number, case, call, expected, practice))
    return trials


@functools.lru_cache(maxsize=128)
def _practice_trials(name: str) -> tuple[Trial, ...]:
    from llmr_ref.grading.exercises import get_exercise

    return tuple(prepare(get_exercise(name), PRACTICE_SEED, practice=True))


def practice_trials(exercise: Exercise) -> list[Trial]:
    """The trials of `check` in JupyterLab: the same for everybody."""
    return list(_practice_trials(exercise.name))


def judge(
    exercise: Exercise,
    trials: Sequence[Trial],
    outcomes: Sequence[Outcome],
    *,
    tier: int = 0,
    cells: Iterable[str | None] = (),
    on_practice: Verdict | None = None,
) -> Verdict:
    """Compare outcomes with what the reference did on the same trials.

    cells: the code that was run, read for uses of what the exercise forbids.
    on_practice: the verdict on these outcomes of the practice trials alone, where there is one. It holds
    the name of the mistake and the counterexample, which nothing else decides.
    The first property gates: without it nothing is scored. Each other one adds its share.
    Raises: ValueError when outcomes and trials differ in number.
    """
    if len(trials) != len(outcomes):
        raise ValueError(f"{len(trials)} trials but {len(outcomes)} outcomes")
    faults = [
        (fault if t.practice else GRADED_FAULT) if fault else ""
        for t, fault in (
            (t, difference(t.expected, o, t.case)) for t, o in zip(trials, outcomes, strict=True)
        )
    ]
    total_weight = sum(p.weight for p in exercise.properties)
    results: list[PropertyResult] = []
    for number, prop in enumerate(exercise.properties):
        own = [(t, f) for t, f in zip(trials, faults, strict=True) if t.property_number == number]
        failed = [(t, f) for t, f in own if f]
        message = ""
        if failed:
            trial, fault = min(failed, key=lambda pair: (not pair[0].practice, _size(pair[0].call)))
            noted = trial.case.note and trial.practice
            message = clean(f"with {trial.case.note}: {fault}" if noted else fault, MAX_MESSAGE)
        share = exercise.points * prop.weight / total_weight
        # A property without a case proves nothing, so it earns nothing.
        passed = bool(own) and not failed
        results.append(PropertyResult(
            sentence=prop.sentence, passed=passed, points=round(share, 2), message=message,
        ))  # fmt: skip
    earned = sum(p.weight for p, r in zip(exercise.properties, results, strict=True) if r.passed)
    all_passed = all(r.passed for r in results)
    score = 0.0
    if results and results[0].passed:
        score = exercise.points if all_passed else round(exercise.points * earned / total_weight, 2)
        if not all_passed:  # rounding must never make a wrong answer whole
            score = min(score, round(exercise.points - 0.01, 2))
    verdict = Verdict(
        exercise=exercise.name, score=score, points=exercise.points, properties=results, tier=tier
    )
    verdict.broken_rule = _broken_rule(exercise, outcomes, cells, score)
    if verdict.broken_rule:
        verdict.score = round(score * verdict.broken_rule.share, 2)
    if all_passed:
        return verdict
    unattempted = {o.get("type") for o in outcomes} == {"NotImplementedError"}
    if unattempted:
        verdict.attempted, verdict.broken_rule = False, None
        verdict.message = "Not attempted yet: the answer still raises NotImplementedError."
        return verdict
    if on_practice is not None:
        verdict.misconception = on_practice.misconception
        verdict.counterexample = on_practice.counterexample
        return verdict
    shown = [i for i, trial in enumerate(trials) if trial.practice]
    found = [trials[i] for i in shown], [outcomes[i] for i in shown], [faults[i] for i in shown]
    verdict.misconception = diagnose(exercise, *found)
    verdict.counterexample = _counterexample(exercise, *found)
    return verdict


def _broken_rule(
    exercise: Exercise,
    outcomes: Sequence[Outcome],
    cells: Iterable[str | None],
    score: float,
) -> BrokenRule | None:
    if not exercise.forbids:
        return None
    called: list[str] = []
    for outcome in outcomes:
        said = outcome.get("forbidden")  # from the worker: anything may be in it
        called += [n for n in said if type(n) is str] if type(said) is list else []
    uses = forbidden_uses(cells, exercise.name, exercise.forbids, called)
    if not uses:
        return None
    own = exercise.forbidden_share
    return BrokenRule(
        rule=exercise.rule, uses=uses[:5], deserved=score, share=own or 0.0, settled=own is not None
    )


def with_share(verdict: Verdict, share: float) -> Verdict:
    """The verdict when an answer that breaks its rule earns this share, unless the exercise says another."""
    broken = verdict.broken_rule
    if broken is None or broken.settled:
        return verdict
    return verdict.model_copy(update={
        "score": round(broken.deserved * share, 2),
        "broken_rule": broken.model_copy(update={"share": share}),
    })  # fmt: skip


def difference(expected: Outcome, received: Outcome, case: Case) -> str:
    """One sentence on how `received` falls short of `expected`; empty when it does not."""
    if received["status"] == "error":
        line = f" (line {received['line']} of the cell)" if received.get("line") else ""
        if received["type"] in OUR_ERRORS:
            return str(received["message"])
        return f"raised {received['type']}: {received['message'] or 'no message'}{line}"
    if case.accept:
        fault = _accepted(case, received["value"])
    else:
        fault = _tree_difference(expected["value"], received["value"], case, "the result")
    if fault:
        return fault
    if expected["state"] is not None and expected["state"] != received["state"]:
        return f"the weights are {_names(received['state'])}, expected {_names(expected['state'])}"
    before = {str(i): a for i, a in enumerate(case.args)} | case.kwargs
    for name, value in before.items():
        if _tree_difference(value, received["arguments"].get(name), Case(tolerance=0.0), ""):
            return f"argument {name} was changed by the call; work on a copy"
    for name, gradient in expected["gradients"].items():
        got = received["gradients"].get(name)
        if gradient is None:
            continue
        label = f"the gradient of {_gradient_name(name)}"
        if got is None:
            return f"{label} does not exist: the result is detached from it"
        fault = _tree_difference(gradient, got, case, label)
        if fault:
            return fault
    return ""


def _accepted(case: Case, value: Any) -> str:
    """What the case says against a value; a value of another kind than it expects is wrong as well."""
    assert case.accept is not None
    try:
        fault = case.accept(value)
    except Exception:  # written for the reference's result: a student's may be anything
        return f"the result is {kind_of(value)}, which is not what the exercise asks for"
    return f"the result {fault}" if fault else ""


def _names(state: Any) -> str:
    if not state:
        return "none"
    return ", ".join(f"{k} {tuple(v)}" for k, v in state.items())


def _gradient_name(name: str) -> str:
    return f"argument {name}" if name.isdigit() else name


def _tree_difference(expected: Any, received: Any, case: Case, what: str) -> str:
    if isinstance(expected, Tensor):
        if not isinstance(received, Tensor):
            return f"{what} is {kind_of(received)}, expected a tensor"
        if received.shape != expected.shape:
            return f"{what} has shape {tuple(received.shape)}, expected {tuple(expected.shape)}"
        both_float = received.is_floating_point() and expected.is_floating_point()
        if received.dtype != expected.dtype and not (case.any_float and both_float):
            return f"{what} has dtype {dtype_of(received)}, expected {dtype_of(expected)}"
        if not expected.is_floating_point():
            wrong = int((received != expected).sum())
            return f"{what} differs in {wrong} of {expected.numel()} places" if wrong else ""
        return _float_difference(expected, received, case, what)
    if isinstance(expected, dict):
        if not isinstance(received, dict):
            return f"{what} is {kind_of(received)}, expected a dict"
        for key in (*expected, *received):
            if key not in received:
                return f"{what} lacks the key {str(key)[:60]}"
            if key not in expected:
                return f"{what} has a key too many, {str(key)[:60]}"
        parts: Iterable[Any] = expected
    elif isinstance(expected, list | tuple):
        if not isinstance(received, list | tuple) or len(received) != len(expected):
            return f"{what} is {kind_of(received)}, expected {len(expected)} values"
        parts = range(len(expected))
    elif type(expected) is float and type(received) is float:
        a, b = (torch.tensor(x, dtype=torch.float64) for x in (expected, received))
        return "" if bool(_close(a, b, case)) else f"{what} is {received}, expected {expected}"
    else:
        kinds = (float, int) if type(expected) is float else (type(expected),)  # an empty sum is 0
        same = type(received) in kinds and (
            received == expected or (received != received and expected != expected)
        )
        return "" if same else f"{what} is {str(received)[:60]}, expected {expected}"
    for part in parts:
        fault = _tree_difference(expected[part], received[part], case, f"{what}[{part!r}]")
        if fault:
            return fault
    return ""


def _close(expected: Tensor, received: Tensor, case: Case) -> Tensor:
    """Where two tensors of floats agree, within the tolerance of the case."""
    coarser = max(torch.finfo(expected.dtype).eps, torch.finfo(received.dtype).eps)
    b = expected.double()
    finite = b[b.isfinite()]
    scale = max(1.0, float(finite.abs().max())) if finite.numel() else 1.0
    # 64 roundings of float32 or 8 of a 16-bit float, relative to the largest entry.
    tolerance = (64 if coarser < 1e-5 else 8) * coarser * scale
    if case.tolerance is not None:
        tolerance = case.tolerance * scale
    return torch.isclose(received.double(), b, rtol=0.0, atol=tolerance, equal_nan=True)


def _places(expected: Any, received: Any, case: Case) -> Tensor | None:
    """Where two tensors of one shape differ; None for anything else."""
    if not (isinstance(expected, Tensor) and isinstance(received, Tensor)):
        return None
    if expected.shape != received.shape:
        return None
    if expected.is_floating_point() and received.is_floating_point():
        return ~_close(expected, received, case)
    return expected != received


def _float_difference(expected: Tensor, received: Tensor, case: Case, what: str) -> str:
    if received.dtype == expected.dtype and torch.equal(received, expected):
        return ""  # most right answers agree to the last bit
    a, b = received.double(), expected.double()
    close = _close(expected, received, case)
    if bool(close.all()):
        return ""
    if bool(a.isnan().any()) and not bool(b.isnan().any()):
        return f"{what} holds nan"
    if bool((a.isinf() & ~b.isinf()).any()):
        return f"{what} holds inf"
    gap = (a - b).abs()[~close].max()
    wrong = int((~close).sum())
    return f"{what} is off by up to {float(gap):.3g} in {wrong} of {b.numel()} places"


def diagnose(
    exercise: Exercise, trials: Sequence[Trial], outcomes: Sequence[Outcome], faults: Sequence[str]
) -> Misconception | None:
    """The wrong answer of the bank whose behaviour is nearest, if it is near enough to be named.

    Near enough: the same result on at least three quarters of the trials that failed and of all
    trials, and at least one shared failure that is more than an exception of the same type.
    """
    best: tuple[float, float, Answer] | None = None
    failed = [bool(fault) for fault in faults]
    if not any(failed):
        return None
    # Failed trials first: most wrong answers of the bank are told apart by them.
    order = sorted(range(len(trials)), key=lambda i: not failed[i])
    for wrong in exercise.wrong_answers:
        agree: dict[int, bool] = {}
        for i in order:
            agree[i] = _agrees(outcomes[i], trials[i].outcome_of(wrong), trials[i].case)
            apart = [j for j, same in agree.items() if not same]
            if len(apart) > len(trials) / 4 or sum(failed[j] for j in apart) > sum(failed) / 4:
                break
        else:
            shared = [i for i in order if failed[i]]
            telling = any(agree[i] and outcomes[i]["status"] == "ok" for i in shared)
            always_raises = all(trials[i].outcome_of(wrong)["status"] == "error" for i in shared)
            if not (telling or always_raises):
                continue
            closeness = (
                sum(agree.values()) / len(agree), sum(agree[i] for i in shared) / len(shared)
            )  # fmt: skip
            if best is None or closeness > best[:2]:
                best = (*closeness, wrong)
    if best is None:
        return None
    wrong = best[2]
    return Misconception(key=wrong.key, title=wrong.title, hint=wrong.hint, see=wrong.see)


def _agrees(a: Outcome, b: Outcome, case: Case) -> bool:
    if a["status"] != "ok" or b["status"] != "ok":
        return a["status"] == b["status"] and a.get("type") == b.get("type")
    return (
        _same_value(a["value"], b["value"], case)
        and a["state"] == b["state"]
        and not _tree_difference(a["arguments"], b["arguments"], Case(tolerance=0.0), "")
        and a["gradients"].keys() == b["gradients"].keys()
        and not _tree_difference(a["gradients"], b["gradients"], case, "")
    )


def _same_value(a: Any, b: Any, case: Case) -> bool:
    """Equal, or refused in the same words whatever the numbers in them."""
    if not _tree_difference(a, b, case, ""):
        return True
    if case.accept is None:
        return False
    faults = [re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", _accepted(case, value)) for value in (a, b)]
    return faults[0] == faults[1]


def _size(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.numel() + 1
    if isinstance(tree, dict):
        return sum(map(_size, tree.values()))
    if isinstance(tree, list | tuple):
        return sum(map(_size, tree))
    if isinstance(tree, str | bytes):
        return len(tree) + 1
    return abs(tree) if isinstance(tree, int) and not isinstance(tree, bool) else 1


def _counterexample(
    exercise: Exercise, trials: Sequence[Trial], outcomes: Sequence[Outcome], faults: Sequence[str]
) -> Counterexample | None:
    """The smallest failing trial."""
    numbered = enumerate(zip(trials, outcomes, faults, strict=True))
    failing = [(number, t, o, f) for number, (t, o, f) in numbered if f]
    if not failing:
        return None
    number, trial, outcome, fault = min(failing, key=lambda x: (_size(x[1].call), len(x[3])))
    expected = trial.case.wanted or show(trial.expected["value"])
    received = fault
    if outcome["status"] == "ok":
        received = show(outcome["value"])
        if not fault.startswith("the result") or received == expected:  # too close for four digits
            received += f"\n# {fault}"
    figure = None
    if outcome["status"] == "ok" and fault.startswith("the result") and not trial.case.accept:
        values = trial.expected["value"], outcome["value"]
        figure = choose_figure(*values, _places(*values, trial.case))
    return Counterexample(
        call=call_as_code(exercise, trial.case, number),
        expected=expected,
        received=received,
        figure=figure,
    )
