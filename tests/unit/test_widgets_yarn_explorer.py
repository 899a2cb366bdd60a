"""The YaRN explorer in Python: arguments, the chapter's numbers, the student's frequencies."""

from typing import Any

import pytest
import torch
import traitlets
from torch import Tensor

from llmr_ref.grading.exercises import yarn_frequencies
from llmr_ref.rope import rope_frequencies
from llmr_ref.widgets import YarnExplorer
from llmr_ref.widgets.yarn_explorer import head_scores, method_frequencies, pairs_out_of_range


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "dynamic"}, traitlets.TraitError, "method"),
        ({"d": 2}, ValueError, "d must be even and lie in 4..128, got 2"),
        ({"base": 1.0}, ValueError, "base must lie in 2..1000000000.0, got 1.0"),
        ({"trained": 7}, ValueError, "trained must lie in 8..1000000, got 7"),
        ({"factor": 0.5}, ValueError, "factor must lie in 1..64, got 0.5"),
        ({"beta_fast": 2.0}, ValueError, "beta_fast must lie in 2.5..64, got 2.0"),
        ({"beta_slow": 3.0}, ValueError, "beta_slow must lie in 0.1..2, got 3.0"),
        ({"pair": -1}, ValueError, "pair must lie in 0..63, got -1"),
        ({"yarn": 4}, TypeError, "yarn must be callable, got int"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        YarnExplorer(**arguments)


def test_the_chapters_table() -> None:
    """Pairs out of range and where the head looks: as the chapter computes them its own way."""
    theta = rope_frequencies(128)
    found = {}
    for method in ("none", "linear", "ntk", "yarn", "swapped"):
        changed = method_frequencies(method, 128, 10_000.0, 2048, 4.0)
        looks = int(head_scores(theta, changed, torch.arange(64.0).double()).argmax())
        found[method] = (pairs_out_of_range(theta, changed, 2048, 4.0), looks)
    assert found["none"] == (23, 1)
    assert found["linear"] == (0, 4)
    assert found["ntk"] == (22, 1)
    assert found["yarn"] == (0, 1)
    assert found["swapped"][0] == 23
    assert "YaRN: 0 pairs out of range, the head looks 1 back" in YarnExplorer().description()


def test_the_example_by_hand() -> None:
    widget = YarnExplorer(
        d=6, base=1000.0, trained=100, ramp="turns", beta_fast=8.0, pair=1, span="far"
    )
    theta = rope_frequencies(6, 1000.0)
    kept = (widget.frequencies() - theta / 4) / (theta - theta / 4)
    torch.testing.assert_close(
        kept, torch.tensor([1, 0.0845, 0], dtype=torch.float64), atol=1e-3, rtol=0
    )
    assert "<svg" in widget.picture()
    assert "<svg" in YarnExplorer("swapped").picture()


def test_a_students_frequencies_are_asked_for_every_state() -> None:
    asked = []

    def yarn(*arguments: Any) -> Tensor:
        asked.append(arguments)
        print("this goes nowhere")
        return yarn_frequencies.reference(arguments[0], *arguments[1:])

    widget = YarnExplorer(yarn=yarn)
    assert asked == [(128, 4.0, 2048, 10_000.0, 32.0, 1.0)]
    assert not any(widget.student["differs"])
    widget.pair = 3
    widget.method = "ntk"
    assert len(asked) == 1
    widget.factor = 8.0
    assert asked[1][1] == 8.0
    assert widget.student["state"]["factor"] == 8.0


def test_wrong_and_failing_functions_are_told() -> None:
    def forgets_slow(d: int, factor: float, *rest: Any) -> Tensor:
        theta = yarn_frequencies.reference(d, factor, *rest)
        theta[-1] *= 2
        return theta

    wrong = YarnExplorer(yarn=forgets_slow).student
    assert (sum(wrong["differs"]), wrong["worst"]) == (1, 63)
    short = YarnExplorer(yarn=lambda *a: [1.0])
    assert "it must return 64 frequencies, one a pair, got (1,)" in short.student["error"]
    negative = YarnExplorer(yarn=lambda d, *a: -rope_frequencies(d))
    assert "not positive" in negative.student["error"]
    failing = YarnExplorer(yarn=lambda d: 1)
    assert failing.student["error"].startswith("TypeError")
