"""Built-ins that an exercise asks to build: found in the code and at run time, and nothing else is."""

import textwrap
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from IPython.core.inputtransformer2 import TransformerManager

from llmr_ref.grading import check, runner
from llmr_ref.grading.card import card_html, card_text
from llmr_ref.grading.exercise import Exercise
from llmr_ref.grading.exercises import ASSIGNMENTS, exercise_names, get_exercise
from llmr_ref.grading.forbidden import forbidden_uses
from llmr_ref.grading.verdict import Verdict, judge, practice_trials, with_share

IMPORTS = textwrap.dedent(
    """
    import math

    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
    """
)
ROOT = Path(__file__).parents[2]
SOFTMAX = get_exercise("softmax")
guarded = pytest.mark.parametrize("name", [n for n in exercise_names() if get_exercise(n).forbids])


def space_of(*cells: str) -> dict:
    """What the cells define when they run in order, magics included."""
    space: dict = {}
    for cell in cells:
        exec(compile(TransformerManager().transform_cell(cell), "<cell>", "exec"), space)
    return space


def verdict_on(exercise: Exercise, *cells: str, read: bool = True) -> Verdict:
    """The verdict on what the cells define; without reading them, on what torch saw alone."""
    target = space_of(*cells)[exercise.name]
    trials = practice_trials(exercise)
    outcomes = [runner.run_call(target, t.call) for t in trials]
    return judge(exercise, trials, outcomes, cells=cells if read else ())


def names(verdict: Verdict) -> list[str]:
    return [u.name for u in verdict.broken_rule.uses] if verdict.broken_rule else []


# Cells that define softmax with torch's own; the name and the line of its use in its cell.
USES = {
    "direct": (
        ["def softmax(x, dim=-1):\n    return torch.softmax(x, dim)"],
        ("torch.softmax", 2),
    ),
    "module alias": (
        [
            "import torch.nn.functional as G",
            "def softmax(x, dim=-1):\n    y = x + 0\n    return G.softmax(y, dim)",
        ],
        ("torch.nn.functional.softmax", 3),
    ),
    "name alias": (
        ["from torch import softmax as s\ndef softmax(x, dim=-1):\n    return s(x, dim)"],
        ("torch.softmax", 3),
    ),
    "import inside": (
        ["def softmax(x, dim=-1):\n    from torch.nn.functional import softmax\n"
         "    return softmax(x, dim)"],
        ("torch.nn.functional.softmax", 3),
    ),
    "imported under its name": (["from torch import softmax"], ("torch.softmax", 1)),
    "star": (
        ["from torch.nn.functional import *", "def soft(x, d):\n    return log_softmax(x, d)",
         "def softmax(x, dim=-1):\n    return soft(x, dim).exp()"],
        ("torch.nn.functional.log_softmax", 2),
    ),
    "assigned": (
        ["mine = torch.softmax", "def softmax(x, dim=-1):\n    return mine(x, dim)"],
        ("torch.softmax", 2),
    ),
    "assigned itself": (["softmax = torch.softmax"], ("torch.softmax", 1)),
    "renamed module": (
        ["N = nn.functional\ndef softmax(x, dim=-1):\n    return N.softmax(x, dim)"],
        ("torch.nn.functional.softmax", 3),
    ),
    "method": (
        ["def softmax(x, dim=-1):\n    return x.softmax(dim)"],
        ("torch.Tensor.softmax", 2),
    ),
    "unbound method": (
        ["def softmax(x, dim=-1):\n    return torch.Tensor.softmax(x, dim)"],
        ("torch.Tensor.softmax", 2),
    ),
    "getattr": (
        ["def softmax(x, dim=-1):\n    return getattr(torch, 'softmax')(x, dim)"],
        ("torch.softmax", 2),
    ),
    "getattr of a tensor": (
        ["def softmax(x, dim=-1):\n    return getattr(x, 'softmax')(dim)"],
        ("torch.Tensor.softmax", 2),
    ),
    "imported by name": (
        ["import importlib\ndef softmax(x, dim=-1):\n"
         "    return importlib.import_module('torch').softmax(x, dim)"],
        ("torch.softmax", 3),
    ),
    "module class": (
        ["def softmax(x, dim=-1):\n    return nn.Softmax(dim=dim)(x)"],
        ("torch.nn.Softmax", 2),
    ),
    "through the logarithm": (
        ["def softmax(x, dim=-1):\n    return x.log_softmax(dim).exp()"],
        ("torch.Tensor.log_softmax", 2),
    ),
    "in a helper": (
        ["def helper(x, dim):\n    return F.softmax(x, dim=dim)",
         "def softmax(x, dim=-1):\n    return helper(x, dim)"],
        ("torch.nn.functional.softmax", 2),
    ),
    "in a class that helps": (
        ["class Soft:\n    def __call__(self, x, dim):\n        return F.softmax(x, dim)\nsoft = Soft()",
         "def softmax(x, dim=-1):\n    return soft(x, dim)"],
        ("torch.nn.functional.softmax", 3),
    ),
    "below if and try": (
        ["try:\n    if True:\n        from torch import softmax as s\nexcept ImportError:\n    s = None",
         "def softmax(x, dim=-1):\n    return s(x, dim)"],
        ("torch.softmax", 2),
    ),
    "in a cell with magics": (
        ["%matplotlib agg\ndef softmax(x, dim=-1):\n    return torch.softmax(x, dim)"],
        ("torch.softmax", 3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", USES)
def test_a_use_is_found_with_its_line_and_earns_nothing(kind: str) -> None:
    cells, (name, line) = USES[kind]
    verdict = verdict_on(
        SOFTMAX, IMPORTS, "get_ipython = lambda: __import__('unittest.mock').mock.Mock()", *cells
    )
    assert verdict.broken_rule is not None
    assert [(u.name, u.line) for u in verdict.broken_rule.uses] == [(name, line)]
    assert verdict.score == 0
    assert verdict.misconception is None


# What the reading does not see, torch does: the names differ where a module of torch stands between.
RUN_TIME = {
    "direct": "torch.softmax", "name alias": "torch.softmax", "method": "torch.Tensor.softmax",
    "getattr": "torch.softmax", "module class": "torch.nn.functional.softmax",
    "through the logarithm": "torch.Tensor.log_softmax",
    "in a helper": "torch.nn.functional.softmax",
}  # fmt: skip


@pytest.mark.parametrize("kind", RUN_TIME)
def test_a_use_is_found_while_it_runs(kind: str) -> None:
    verdict = verdict_on(SOFTMAX, IMPORTS, *USES[kind][0], read=False)
    assert names(verdict) == [RUN_TIME[kind]]
    assert verdict.score == 0


def test_what_no_reading_resolves_is_found_while_it_runs() -> None:
    cell = "def softmax(x, dim=-1):\n    return vars(torch)['soft' + 'max'](x, dim)"
    assert forbidden_uses([IMPORTS, cell], "softmax", SOFTMAX.forbids) == []
    assert names(verdict_on(SOFTMAX, IMPORTS, cell)) == ["torch.softmax"]


# Answers and notebooks that use nothing forbidden, however near they come.
INNOCENT = {
    "the word in a comment and a text": (
        'def softmax(x, dim=-1):\n    """As torch.softmax."""  # not F.softmax(x)\n'
        "    e = (x - x.amax(dim, keepdim=True)).exp()\n    return e / e.sum(dim, keepdim=True)"
    ),
    "a method of the student's own": (
        "class Mine:\n    def softmax(self, x, dim):\n"
        "        e = (x - x.amax(dim, keepdim=True)).exp()\n"
        "        return e / e.sum(dim, keepdim=True)\nmine = Mine()\n"
        "def softmax(x, dim=-1):\n    return mine.softmax(x, dim)"
    ),
    "logsumexp": "def softmax(x, dim=-1):\n    return (x - x.logsumexp(dim, keepdim=True)).exp()",
    "an import that is not used": (
        "from torch.nn.functional import softmax as theirs\ndef softmax(x, dim=-1):\n"
        "    e = (x - x.amax(dim, keepdim=True)).exp()\n    return e / e.sum(dim, keepdim=True)"
    ),
    "an import that is defined anew": (
        "from torch import softmax\ndef softmax(x, dim=-1):\n"
        "    e = (x - x.amax(dim, keepdim=True)).exp()\n    return e / e.sum(dim, keepdim=True)"
    ),
    "a comparison in a cell of its own": (
        "def softmax(x, dim=-1):\n    e = (x - x.amax(dim, keepdim=True)).exp()\n"
        "    return e / e.sum(dim, keepdim=True)\n"
        "assert torch.allclose(softmax(torch.ones(2)), torch.softmax(torch.ones(2), -1))"
    ),
    "a parameter with the name of an alias": (
        "def softmax(x, dim=-1):\n    def inner(F):\n        return F.softmax\n"
        "    e = (x - x.amax(dim, keepdim=True)).exp()\n    return e / e.sum(dim, keepdim=True)"
    ),
}


@pytest.mark.parametrize("kind", INNOCENT)
def test_what_only_looks_like_a_use_is_spared(kind: str) -> None:
    assert verdict_on(SOFTMAX, IMPORTS, INNOCENT[kind]).full


def test_what_torch_calls_inside_of_an_allowed_function_is_spared() -> None:
    def allowed(x: torch.Tensor) -> torch.Tensor:
        loss = F.cross_entropy(x, x.argmax(-1))  # a log-softmax inside
        attended, _ = torch.nn.MultiheadAttention(4, 2)(x, x, x)  # a softmax inside
        return loss + attended

    call = {"args": (torch.ones(2, 4),), "kwargs": {}, "init": None, "state": None,
            "forbids": list(SOFTMAX.forbids)}  # fmt: skip
    outcome = runner.run_call(allowed, call)
    assert outcome["status"] == "ok"
    assert outcome["forbidden"] == []


def test_another_exercise_of_the_notebook_may_use_what_this_one_forbids() -> None:
    mine = SOFTMAX.right_answers[0].source("softmax")
    attention = (
        "def scaled_dot_product_attention(Q, K, V, mask=None):\n"
        "    return torch.softmax(Q @ K.mT, -1) @ V"
    )
    cells = (IMPORTS, mine, attention)
    assert verdict_on(SOFTMAX, *cells).full
    assert verdict_on(get_exercise("scaled_dot_product_attention"), *cells).broken_rule is None


def test_check_reads_the_cells_that_the_notebook_ran(capsys: pytest.CaptureFixture[str]) -> None:
    space = space_of(IMPORTS, USES["module class"][0][0])
    space["In"] = ["", IMPORTS, USES["module class"][0][0], 'check("softmax")']
    space["check"] = check
    assert eval('check("softmax")', space) == 0
    assert "uses `torch.nn.Softmax` in line 2" in capsys.readouterr().out


def test_check_needs_no_notebook_to_find_a_use() -> None:
    assert check("softmax", SOFTMAX.shortcuts[0].target) == 0


@guarded
def test_the_assignment_states_the_rule(name: str) -> None:
    assignment = next(a for a, names in ASSIGNMENTS.items() if name in names)
    notebook = nbformat.read(
        ROOT / "assignments" / "source" / assignment / f"{assignment}.ipynb", as_version=4
    )
    place = next(i for i, c in enumerate(notebook.cells) if c.source == f'check("{name}")')
    told = notebook.cells[0].source + notebook.cells[place - 2].source  # of all, of this exercise
    assert get_exercise(name).rule.rstrip(".") in told
    assert "earns no points" in told


# --- the bank ------------------------------------------------------------------------------------


@guarded
def test_every_shortcut_is_right_forbidden_and_worth_nothing(name: str) -> None:
    exercise = get_exercise(name)
    alike = [e for e in map(get_exercise, exercise_names()) if e.forbids == exercise.forbids]
    assert any(e.shortcuts for e in alike)
    for answer in exercise.shortcuts:
        verdict = verdict_on(exercise, IMPORTS, answer.source(name))
        assert all(p.passed for p in verdict.properties), answer.key
        assert set(names(verdict)) <= set(exercise.forbids) and names(verdict)
        assert verdict.score == 0


@guarded
def test_no_right_answer_breaks_the_rule(name: str) -> None:
    exercise = get_exercise(name)
    for answer in exercise.right_answers:
        assert verdict_on(exercise, IMPORTS, answer.source(name)).full, answer.key


@guarded
def test_every_forbidden_name_is_one_of_torch_and_no_two_are_the_same(name: str) -> None:
    forbids = get_exercise(name).forbids
    functions = runner._functions(forbids)
    assert None not in functions
    assert sorted(functions.values()) == sorted(forbids)


@guarded
def test_recording_changes_no_result(name: str) -> None:
    exercise = get_exercise(name)
    for trial in practice_trials(exercise):
        plain = runner.run_call(exercise.reference, trial.call | {"forbids": ()})
        seen = runner.run_call(exercise.reference, trial.call)
        assert set(seen.pop("forbidden")) <= set(exercise.forbids)
        assert runner.encode(seen) == runner.encode(plain)


# --- the share that is still earned ----------------------------------------------------------------


def test_the_course_chooses_what_a_forbidden_answer_earns() -> None:
    verdict = verdict_on(SOFTMAX, IMPORTS, USES["direct"][0][0])
    assert with_share(verdict, 0.5).score == SOFTMAX.points / 2
    assert with_share(verdict, 0.0).score == 0
    assert with_share(verdict, 1.0).full
    half = with_share(verdict, 0.5)
    for card in (card_text(half), card_html(half)):
        assert "50% of the points" in card


def test_a_share_of_the_exercise_is_not_the_courses_to_change() -> None:
    exercise = Exercise(
        "softmax", points=3, difficulty=1, minutes=1, reference=SOFTMAX.reference,
        chapter="masking", forbids=SOFTMAX.forbids, rule=SOFTMAX.rule, forbidden_share=0.25,
    )  # fmt: skip
    exercise.properties = SOFTMAX.properties
    verdict = verdict_on(exercise, IMPORTS, USES["direct"][0][0])
    assert verdict.score == 0.75
    assert with_share(verdict, 1.0).score == 0.75


def test_a_wrong_answer_that_breaks_the_rule_earns_its_share_of_what_is_right() -> None:
    cell = "def softmax(x, dim=-1):\n    return torch.softmax(x, -1)"
    verdict = verdict_on(SOFTMAX, IMPORTS, cell)
    assert verdict.broken_rule is not None
    assert 0 < verdict.broken_rule.deserved < SOFTMAX.points
    assert verdict.score == 0
    assert verdict.misconception is not None and verdict.misconception.key == "last_only"


def test_a_rule_and_what_it_forbids_go_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        Exercise("x", points=1, difficulty=1, minutes=1, reference=len, chapter="masking",
                 forbids=("torch.softmax",))  # fmt: skip


# --- hostile values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [None, 7, "torch.softmax", {"a": 1}, [torch.ones(2), 3, None, "os.system", "<b>"], [["x"]]],
)
def test_what_a_worker_claims_was_called_is_taken_only_from_the_list(said: object) -> None:
    trials = practice_trials(SOFTMAX)
    outcomes = [runner.run_call(SOFTMAX.reference, t.call) | {"forbidden": said} for t in trials]
    assert judge(SOFTMAX, trials, outcomes).full


@pytest.mark.parametrize(
    "cell",
    ["(" * 5000, "x = " + "-" * 200_000 + "1", "a = b\nb = a", "\x00", "softmax = softmax", "lambda: " * 3000,
     "softmax = " + ".".join(["a"] * 50_000), "def softmax(x): return softmax(x)",
     "softmax = [" + (".".join(["a"] * 1000) + ",") * 49 + "]", "from a import *\n" * 6000 + "softmax = b",
     "\n".join(f"def a{n}(): a{n + 1}" for n in range(4500)) + "\nsoftmax = a0", "%magic\n" * 14_000],
)  # fmt: skip
def test_code_that_no_parser_likes_is_no_fault_of_the_grader(cell: str) -> None:
    assert forbidden_uses([cell, "import torch"], "softmax", SOFTMAX.forbids) == []
