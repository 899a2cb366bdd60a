"""The plane of queries and keys, Python side: arguments, the lectures' numbers, the student's function."""

import math
from typing import Any

import pytest
import torch
import traitlets
from torch import Tensor

from llmr_ref.attention import attention_weights, scaled_dot_product_attention, softmax
from llmr_ref.widgets import AttentionPlane


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keys": [[1.0, 0.0]]}, "keys must number 2 to 5, got 1"),
        ({"keys": torch.zeros(6, 2)}, "got 6"),
        ({"keys": [[1.0, 0.0], [11.0, 0.0]]}, "keys must lie in -10.0..10.0, got 11.0"),
        ({"points": [[1.0, 0.0], "xyz"]}, "keys must hold pairs of numbers, got 'xyz'"),
        ({"query": [1.0, math.nan]}, "query must lie in"),
        ({"query": [1.0, 2.0, 3.0]}, "query must hold pairs"),
        ({"matrix": [[1.0, 0.0]]}, "matrix must have two rows, got 1"),
        ({"bandwidth": 0.0}, "bandwidth must lie in 0.05..10, got 0.0"),
        ({"values": [1e9, 0.0, 0.0, 0.0]}, "values must lie within"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionPlane(**arguments)


def test_wrong_kinds_are_named() -> None:
    with pytest.raises(traitlets.TraitError, match="score"):
        AttentionPlane(score="cosine")
    with pytest.raises(TypeError, match="attention must be callable, got int"):
        AttentionPlane(attention=3)  # type: ignore[arg-type]


def test_the_chapters_sentence() -> None:
    widget = AttentionPlane()
    assert [round(w, 2) for w in widget.weights().tolist()] == [0.09, 0.13, 0.11, 0.67]
    assert [round(x, 2) for x in widget.output().tolist()] == [0.28, 0.70]
    stretched = AttentionPlane(score="bilinear", matrix=[[4.0, 0.0], [0.0, 4.0]])
    assert [round(x, 2) for x in stretched.output().tolist()] == [0.20, 1.00]
    assert "great 0.666" in widget.description()
    assert "great 0.67" in widget.picture()


def test_keys_of_one_length_make_gaussian_scores_dot_products() -> None:
    angles = torch.tensor([0.3, 1.4, 4.0], dtype=torch.float64)
    keys = torch.stack((angles.cos(), angles.sin()), dim=-1)
    gaussian = AttentionPlane([0.4, -1.1], keys, score="gaussian", bandwidth=0.8)
    dot = AttentionPlane([0.4 / 0.8**2, -1.1 / 0.8**2], keys)
    torch.testing.assert_close(gaussian.weights(), dot.weights())


def test_values_may_be_numbers_and_may_lag_behind_the_keys() -> None:
    widget = AttentionPlane(values=[33.0, 18.0, 52.0, 20.0])
    expected = widget.weights() @ torch.tensor([33.0, 18.0, 52.0, 20.0]).double()
    assert widget.output().tolist() == [pytest.approx(float(expected))]
    widget.points = [*widget.points, [1.0, 1.0]]
    assert len(widget.weights()) == 5
    assert widget.output().shape == (1,)
    assert "k5" in widget.description()


# --- the student's function -------------------------------------------------------------------------


def test_the_reference_agrees_with_itself_for_every_state() -> None:
    widget = AttentionPlane(score="scaled", attention=scaled_dot_product_attention)
    for change in ({"query": [1.0, -3.0]}, {"points": [[2.0, 2.0], [-1.0, 0.5]]}):
        for name, value in change.items():
            setattr(widget, name, value)
        assert widget.student["agrees"], widget.student
        assert widget.student["state"]["query"] == widget.query
        assert widget.student["state"]["points"] == widget.points
    assert len(widget.student["weights"]) == 2


def test_a_wrong_function_is_measured() -> None:
    def forgets_the_root(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
        print("not on the page")
        return attention_weights(Q, K, scale=1.0) @ V

    widget = AttentionPlane(score="scaled", attention=forgets_the_root)
    assert not widget.student["agrees"]
    assert widget.student["worst"] == 3
    assert widget.student["weights"][3] == pytest.approx(0.666, abs=1e-3)
    widget.score = "dot"
    assert widget.student["agrees"]


def test_output_and_weights_may_come_together() -> None:
    def both(Q: Tensor, K: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
        weights = softmax(Q @ K.mT)
        return weights @ V, weights

    assert AttentionPlane(attention=both).student["agrees"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda Q, K, V: 1 / 0, "ZeroDivisionError"),
        (lambda Q, K, V: V, "it must return (1, 4), got (4, 4)"),
        (lambda Q, K, V: torch.full((1, 4), math.nan), "not finite"),
        (lambda Q, K: Q, "TypeError"),
    ],
)
def test_errors_stay_in_the_figure(answer: Any, error: str) -> None:
    widget = AttentionPlane(attention=answer)
    assert error in widget.student["error"]
    assert "weights" not in widget.student
