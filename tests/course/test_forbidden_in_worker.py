"""The rule of an exercise holds in grading: what the worker saw called reaches the score."""

from collections.abc import Iterator

import pytest
from traitlets import TraitError
from traitlets.config import Config

from llmr_ref.grading.autograde import Grade
from llmr_ref.grading.engine import grade_exercise
from llmr_ref.grading.exercises import get_exercise
from llmr_ref.grading.sandbox import Worker
from llmr_ref.grading.verdict import Verdict

SOFTMAX = get_exercise("softmax")
IMPORTS = "import torch\nimport torch.nn.functional as F"


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker(tier=1) as started:  # the rule is the same in every tier
        yield started


def graded(worker: Worker, answer: str) -> Verdict:
    return grade_exercise(SOFTMAX, [IMPORTS, answer], 7, worker)


@pytest.mark.parametrize(
    "answer, name, line",
    [
        ("def softmax(x, dim=-1):\n    return F.softmax(x, dim)", "torch.nn.functional.softmax", 2),
        ("def softmax(x, dim=-1):\n    return x.softmax(dim)", "torch.Tensor.softmax", 2),
        (
            "def softmax(x, dim=-1):\n    return vars(torch)['soft' + 'max'](x, dim)",
            "torch.softmax",
            None,
        ),
    ],
)
def test_a_forbidden_call_is_seen_across_the_process_boundary(
    worker: Worker, answer: str, name: str, line: int | None
) -> None:
    verdict = graded(worker, answer)
    assert verdict.score == 0
    assert all(p.passed for p in verdict.properties)
    assert verdict.broken_rule is not None
    assert [(u.name, u.line) for u in verdict.broken_rule.uses] == [(name, line)]
    assert verdict.broken_rule.deserved == SOFTMAX.points


def test_an_answer_that_keeps_the_rule_keeps_its_points(worker: Worker) -> None:
    verdict = graded(worker, SOFTMAX.right_answers[0].source("softmax"))
    assert verdict.full and verdict.broken_rule is None


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_is_a_setting_of_the_course(share: float) -> None:
    assert Grade(config=Config({"Grade": {"forbidden_share": share}})).forbidden_share == share


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_0_and_1_is_refused(share: float) -> None:
    with pytest.raises(TraitError):
        Grade(config=Config({"Grade": {"forbidden_share": share}}))
