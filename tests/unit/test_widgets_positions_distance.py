"""Position and distance in Python: arguments, and what each method gives a score."""

from typing import Any

import pytest
import torch
import traitlets

from llmr_ref.positions import SCHEMES, alibi_slopes
from llmr_ref.widgets import PositionsDistance
from llmr_ref.widgets.positions_distance import NAMES, noise, position_score


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "shaw"}, traitlets.TraitError, "method"),
        ({"distance": 256}, ValueError, "distance must lie in 0..255, got 256"),
        ({"start": -1}, ValueError, "start must lie in 0..100000, got -1"),
        ({"d": 7}, ValueError, "d must be even and lie in 2..128, got 7"),
        ({"base": 1.0}, ValueError, "base must lie in 2..1000000000.0, got 1.0"),
        ({"head": 9}, ValueError, "head must lie in 1..8, got 9"),
    ],
)
def test_a_bad_argument_is_named(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PositionsDistance(**arguments)


def test_the_methods_are_those_of_the_reference() -> None:
    assert set(NAMES) == set(SCHEMES)


def test_what_only_the_distance_decides() -> None:
    """Shifting both positions changes learned vectors, and sines behind W_Q and W_K; nothing else."""
    for projected in (False, True):
        for method in NAMES:
            here, there = (
                position_score(method, m, n, projected=projected) for m, n in ((8, 0), (48, 40))
            )
            assert here is not None
            assert there is not None
            moves = abs(here - there) > 1e-9
            assert moves == (method == "learned" or (projected and method == "sinusoidal"))


def test_numbers_of_the_chapter() -> None:
    scores = [position_score("sinusoidal", m, 0) for m in range(40)]
    assert [round(float(s or 0), 2) for s in scores[:4]] == [1.0, 0.97, 0.88, 0.80]
    assert position_score("rope", 31, 0) == pytest.approx(scores[31])
    assert position_score("alibi", 10, 4, head=1) == pytest.approx(-6 * float(alibi_slopes(8)[0]))
    assert position_score("t5", 200, 0) == position_score("t5", 999, 0) == pytest.approx(-1.55)
    assert position_score("learned", 128, 100) is None
    assert position_score("none", 5, 0) == 1


def test_the_noise_has_mean_zero_and_variance_one() -> None:
    values = noise(torch.arange(128), 64, 1)
    assert abs(float(values.mean())) < 0.02
    assert float(values.var()) == pytest.approx(1, abs=0.02)


def test_words_and_picture_where_a_vector_is_missing() -> None:
    widget = PositionsDistance("learned", start=120, distance=8)
    assert "learned no vector" in widget.description()
    assert "<svg" in widget.picture()
    assert "<svg" in PositionsDistance(start=500, projected=True).picture()
