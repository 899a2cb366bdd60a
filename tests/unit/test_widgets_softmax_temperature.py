"""The softmax figure's Python side: its draws, its measures, and what it says of the lectures' cases."""

from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.widgets import SoftmaxTemperature
from llmr_ref.widgets.softmax_temperature import WIDTHS, attend, averages, normals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_k": 0}, "d_k must lie in 1..512, got 0"),
        ({"d_k": 513}, "got 513"),
        ({"temperature": 0.0}, "temperature must lie in 0.01..100, got 0.0"),
        ({"temperature": float("nan")}, "got nan"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_numbers_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoftmaxTemperature(**arguments)


@pytest.mark.parametrize("arguments", [{"divide": "half"}, {"measure": "x"}, {"d_k": "wide"}])
def test_bad_choices_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(traitlets.TraitError, match=next(iter(arguments))):
        SoftmaxTemperature(**arguments)


def test_a_refused_value_leaves_the_old_one() -> None:
    widget = SoftmaxTemperature(d_k=8)
    with pytest.raises(ValueError, match="d_k"):
        widget.d_k = 1000
    assert widget.d_k == 8


def test_the_draws_are_normal_and_repeatable() -> None:
    z = normals(5, 200_000)
    assert torch.equal(z, normals(5, 200_000))
    assert not torch.equal(z, normals(6, 200_000))
    assert torch.equal(normals(5, 7), z[:7])
    assert abs(float(z.mean())) < 0.01
    assert float(z.var()) == pytest.approx(1, abs=0.01)
    assert float((z**4).mean()) == pytest.approx(3, abs=0.1)  # the tails are those of a normal
    assert abs(float((z[:-1] * z[1:]).mean())) < 0.01


def test_gradient_is_that_of_autograd() -> None:
    scores = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda s: (s / 2).softmax(-1), scores)
    one = attend(scores, 2.0)
    assert float(one.gradient) == pytest.approx(2 * float(jacobian.norm()))  # d / d (s / 2)
    assert float(one.looks) == pytest.approx(float(torch.special.entr(one.weights).sum().exp()))
    equal = attend(torch.zeros(8, dtype=torch.float64), 1.0)
    assert float(equal.looks) == pytest.approx(8)
    assert float(attend(scores, 1e-4).gradient) == pytest.approx(0, abs=1e-12)


def test_the_root_holds_what_width_takes_away() -> None:
    raw, root = averages("none", 1.0), averages("root", 1.0)
    at = WIDTHS.index
    assert raw["largest"][at(4)] < raw["largest"][at(64)] < raw["largest"][at(512)]
    assert raw["gradient"][at(512)] < 0.1
    assert all(0.3 < g < 0.4 for g in root["gradient"])
    assert averages("width", 1.0)["looks"][at(512)] > 7.9  # nearly equal weights


def test_the_root_is_a_temperature() -> None:
    by_root = SoftmaxTemperature(d_k=64).attended()
    by_temperature = SoftmaxTemperature(d_k=64, divide="none", temperature=8.0).attended()
    torch.testing.assert_close(by_root.weights, by_temperature.weights)


def test_words_and_picture_hold_the_numbers_on_screen() -> None:
    widget = SoftmaxTemperature(divide="none")
    largest = f"{float(widget.attended().largest):.3f}"
    assert largest in widget.description()
    assert largest in widget.picture()
